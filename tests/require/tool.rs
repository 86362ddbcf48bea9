//! A program that a script of `tools/` installs, or finds, and names on its standard output.

use std::process::Command;
use std::sync::OnceLock;

use crate::require;

/// What became of installing it; once in a process.
pub(crate) type Found = OnceLock<Result<String, String>>;

/// The program of `tools/NAME`, if this machine has it; else says that `what` is not tested, for want of `feature`.
pub(crate) fn find(found: &'static Found, name: &str, feature: &str, what: &str) -> Option<&'static str> {
    let found = found.get_or_init(|| {
        let script = format!("{}/tools/{name}", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new(script).output().map_err(|error| error.to_string())?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr).replace('\n', " ")) }
    });
    match found {
        Ok(program) => Some(program),
        Err(reason) => {
            require::left_out(feature, what, reason);
            None
        }
    }
}
