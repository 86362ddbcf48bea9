//! `uprtc doctor`: whether this machine can carry calls with these settings, each finding with the line that mends it.
//!
//! [`machine`] asks the kernel, [`settings`] looks at what this edge's settings name (folder, addresses, ports, a running
//! instance), [`reachability`] judges what browsers elsewhere would get, and [`call`] has two peers of its own talk through both planes. Nothing is changed: what it opens it closes.

mod call;
mod machine;
mod peer;
mod reachability;
mod settings;

use std::fmt;

use serde::Serialize;

use crate::cli::{Common, Doctor};
use crate::options::{self, Sources};
use crate::process::LogFormat;
use crate::running::{self, Planes};
use crate::{Failure, process, supervisor};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Calls work, but worse than they could.
    Warn,
    /// Something will not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Finding {
    level: Level,
    /// What was looked at; stable, for scripts.
    check: &'static str,
    finding: String,
    /// The line that mends it.
    mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, finding: impl Into<String>) -> Finding {
        Finding { level: Level::Ok, check, finding: finding.into(), mend: None }
    }

    fn warn(check: &'static str, finding: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { level: Level::Warn, check, finding: finding.into(), mend: Some(mend.into()) }
    }

    fn fail(check: &'static str, finding: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { level: Level::Fail, check, finding: finding.into(), mend: Some(mend.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        write!(f, "{level:<4}  {:<14}  {}", self.check, self.finding)?;
        match &self.mend {
            Some(mend) => write!(f, "  →  {mend}"),
            None => Ok(()),
        }
    }
}

/// Everything, as JSON.
#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    is_well: bool,
    findings: &'a [Finding],
}

/// Looks at everything and prints what it finds; true if nothing fails.
pub(crate) fn run(common: &Common, request: &Doctor) -> Result<bool, Failure> {
    let (common, settings) = of_running_server(common);
    let options = Sources { common, ..Sources::default() }.read()?;
    process::set_log("error", LogFormat::Text); // The planes of the call would log every step.
    let planes = Planes::find(&options.state);
    let mut findings = vec![settings];
    findings.extend(machine::look(&options));
    findings.extend(settings::look(&options, planes));
    findings.extend(reachability::look(&options, planes.controlplane));
    if !request.no_call {
        findings.push(call::look(&options));
    }
    let is_well = findings.iter().all(|finding| finding.level != Level::Fail);
    if request.json {
        let report = Report { version: env!("CARGO_PKG_VERSION"), is_well, findings: &findings };
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for finding in &findings {
            println!("{finding}");
        }
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        println!("{} ok, {} to look at, {} failed", count(Level::Ok), count(Level::Warn), count(Level::Fail));
    }
    Ok(is_well)
}

/// Where no settings file is named, those of the `uprtc run` that runs with the state folder, because that is what people ask
/// about; what the command line sets still wins.
fn of_running_server(common: &Common) -> (Common, Finding) {
    const CHECK: &str = "settings";
    let named = common.config.clone().or_else(options::config_in_environment);
    if let Some(config) = named {
        return (common.clone(), Finding::ok(CHECK, format!("those of {}", config.display())));
    }
    let running = running::state(common).ok().filter(|state| Planes::find(state).controlplane);
    let handed_down = running.map(|state| (state.join(supervisor::SETTINGS_FILE), state));
    match handed_down.filter(|(config, state)| config.is_file() && supervisor::is_running(state)) {
        Some((config, state)) => {
            let finding = Finding::ok(CHECK, format!("those of the server that runs: {}", config.display()));
            (Common { config: Some(config), state: Some(state), ..common.clone() }, finding)
        }
        None => (
            common.clone(),
            Finding::ok(CHECK, "the defaults; --config names a file, and a `uprtc run` brings its own"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_with_what_mends_it() {
        let finding = Finding::warn("kernel", "old", "apt install linux-image-amd64");
        assert_eq!(finding.to_string(), "warn  kernel          old  →  apt install linux-image-amd64");
        assert_eq!(Finding::ok("kernel", "new").to_string(), "ok    kernel          new");
        let json = serde_json::to_string(&Finding::ok("kernel", "new")).unwrap();
        assert_eq!(json, r#"{"level":"ok","check":"kernel","finding":"new","mend":null}"#);
    }
}
