//! What a test says when this machine cannot run it. A test that needs root or a kernel feature passes where it is missing,
//! but not silently: it writes one line past the test harness's capture, and it fails where `REQUIRE`, a list with commas,
//! names the feature. `.ci/run` names all of them.

use std::io::Write;

/// Says that `what` is not tested here, for this reason.
///
/// # Panics
/// If the environment's `REQUIRE` names `feature`.
pub(crate) fn left_out(feature: &str, what: &str, reason: impl std::fmt::Display) {
    let line = format!("left out, for want of {feature}: {what}: {reason}\n");
    // `eprintln!` would be captured with the output of a test that passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let required = std::env::var("REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name.trim() == feature), "REQUIRE names {feature}: {reason}");
}
