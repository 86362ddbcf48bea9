// This build has no meeting page.
