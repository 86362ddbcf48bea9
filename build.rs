//! Names the revision of the sources for `uprtc --version`: what `UPRTC_REVISION` says, or the commit of the git work tree
//! that this is, or nothing. It never fails: sources without git are built all the same.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=UPRTC_REVISION");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let given = env::var("UPRTC_REVISION").ok().filter(|revision| !revision.trim().is_empty());
    let version = match given.or_else(revision) {
        Some(revision) => format!("{version} ({})", revision.trim()),
        None => version,
    };
    println!("cargo:rustc-env=UPRTC_VERSION={version}");
}

/// The commit, if these sources are a git work tree and not merely inside of somebody else's.
fn revision() -> Option<String> {
    let sources = env::var("CARGO_MANIFEST_DIR").ok()?;
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(&sources).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&sources).canonicalize().ok()? {
        return None;
    }
    // What a commit or a change of branch writes to builds this anew. A path that is not there would do so each time.
    let of_branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for path in ["HEAD", "logs/HEAD"].into_iter().chain(of_branch.as_deref()).chain(["packed-refs"]) {
        let Some(path) = git(&["rev-parse", "--git-path", path]) else { continue };
        let path = Path::new(&sources).join(path);
        if path.exists() {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}
