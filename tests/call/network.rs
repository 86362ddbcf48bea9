//! Tests that take a network of their own, and with it root: each starts itself again in one.

use std::process::Command;

use super::require;

/// Runs an ignored test in a network, and with mounts, of its own, and prints its lines that begin with `figure: `. Where that cannot be, it is
/// left out with a message; `what` says what then was not tested.
pub(crate) fn run_within(test: &str, what: &str) {
    let outcome = Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .output();
    match outcome {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            said.lines().filter(|line| line.starts_with("figure: ")).for_each(|line| println!("{line}"));
        }
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("unshare failed") => {
            require::left_out("namespaces", what, "unshare failed");
        }
        Ok(output) => panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        Err(error) => require::left_out("namespaces", what, error),
    }
}

/// `ip` of iproute2.
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip (iproute2)");
    assert!(status.success(), "ip {arguments}");
}
