//! `uprtc load`: peers of another stack (`bench::load`) against a server, its own or one that runs, and what it cost.

mod progress;
mod server;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bench::load::door::{Door, Tokens};
use bench::load::process::{self, Process};
use bench::load::report::Report;
use bench::load::run::{self, Scenario, Server};
use bench::load::source::Media;
use bench::load::{LoadError, Settings};
use controlplane::auth::Claims;
use serde_json::{Value, json};

use self::progress::Line;
use self::server::OwnServer;
use crate::Failure;
use crate::cli::{Common, Load, LoadScenario};
use crate::client::nearest;
use crate::running::{self, Running};

/// How long the tokens are good.
const TTL: Duration = Duration::from_secs(3600);

/// Runs a scenario, or a ramp of it, and says what was measured.
pub(crate) fn run(common: &Common, request: &Load) -> Result<(), Failure> {
    let (scenario, settings) = plan(request)?;
    // One thread for joins and signalling; media has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let own = match (&request.server, &common.state) {
        (None, None) => Some(OwnServer::start(common, request.workers)?),
        _ => None,
    };
    let server = server(common, request, own.as_ref())?;
    let line = Line::new();
    let show = |progress: &run::Progress| line.show(progress);
    // A step of a ramp, or what is said beside JSON.
    let is_aside = request.ramp || request.json;
    let mut told = |report: &Report| {
        line.clear();
        if is_aside {
            eprint!("{report}");
        }
    };
    let measured = runtime.block_on(async {
        tokio::select! {
            measured = measure(request.ramp, server, scenario, settings, &show, &mut told) => measured,
            _ = tokio::signal::ctrl_c() => Err(LoadError::Door("interrupted".to_owned())),
        }
    });
    line.clear();
    drop(own);
    tell(request, &measured?)
}

async fn measure(
    is_ramp: bool,
    server: Server,
    scenario: Scenario,
    settings: Settings,
    show: &dyn Fn(&run::Progress),
    told: &mut dyn FnMut(&Report),
) -> Result<Vec<Report>, LoadError> {
    if is_ramp {
        return run::ramp(server, scenario, settings, show, told).await;
    }
    let report = run::run(server, scenario, settings, show).await?;
    told(&report);
    Ok(vec![report])
}

/// Results go to standard output, for people or as JSON; progress and steps went to standard error.
fn tell(request: &Load, reports: &[Report]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let knee = reports.iter().rev().find(|report| !report.is_beyond_knee() && !report.is_generator_limit());
    if request.json {
        let value: Value = match (request.ramp, reports) {
            (false, [report]) => report.json(),
            _ => json!({
                "knee": knee.map(Report::json),
                "steps": reports.iter().map(Report::json).collect::<Vec<_>>(),
            }),
        };
        writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
    } else if request.ramp {
        writeln!(out, "{}", knee_line(reports, knee))?;
    } else {
        reports.iter().try_for_each(|report| write!(out, "{report}"))?;
    }
    Ok(())
}

/// Where the ramp ended, and whose end it was.
fn knee_line(reports: &[Report], knee: Option<&Report>) -> String {
    let last = reports.last();
    let whose = if last.is_some_and(Report::is_generator_limit) { ", where the generator was at its end" } else { "" };
    match knee {
        None => format!("no knee: the first step was beyond it already{whose}"),
        Some(report) => {
            let (size, of) = report.scenario.size();
            let next = last.map_or(0.0, |last| last.scenario.size().0);
            format!(
                "knee: {size:.0} {of}, {:.0} packets a second; {next:.0} were too many{whose}",
                report.packets_per_second()
            )
        }
    }
}

fn plan(request: &Load) -> Result<(Scenario, Settings), Failure> {
    let mut settings =
        Settings { threads: request.threads, window: Duration::from_secs_f64(request.seconds), ..Settings::default() };
    let scenario = match request.scenario {
        LoadScenario::Broadcast { viewers } => {
            settings.media.frame_packets = 10;
            Scenario::Broadcast { viewers }
        }
        LoadScenario::Meetings { rooms, peers } => Scenario::Meetings { rooms, peers },
        LoadScenario::Churn { joins_per_second, stay } => Scenario::Churn { rate: joins_per_second, stay },
        LoadScenario::Loss { percent, rooms, peers } => {
            settings.loss_percent = percent;
            Scenario::Meetings { rooms, peers }
        }
        LoadScenario::Idle { peers } => Scenario::Idle { peers },
    };
    let (media, asked) = (settings.media, &request.media);
    settings.media = Media {
        fps: asked.fps.unwrap_or(media.fps),
        frame_packets: asked.frame_packets.unwrap_or(media.frame_packets),
        video_len: asked.video_bytes.unwrap_or(media.video_len),
        spread: asked.spread_ms.map_or(media.spread, |millis| Duration::from_secs_f64(millis / 1000.0)),
        audio_rate: asked.audio_rate.unwrap_or(media.audio_rate),
        audio_len: asked.audio_bytes.unwrap_or(media.audio_len),
    };
    if settings.media.spread * settings.media.fps > Duration::from_secs(1) {
        return Err("--spread-ms: a frame cannot be spread over more than the time until the next".into());
    }
    Ok((scenario, settings))
}

/// The server that is measured, and its processes: our own, or those of the state folder, or those that were named.
fn server(common: &Common, request: &Load, own: Option<&OwnServer>) -> Result<Server, Failure> {
    let named = || running::state(common);
    let (authority, state) = match (own, &request.server) {
        (Some(own), _) => (own.authority.clone(), Ok(own.state.clone())),
        // Tokens and processes may both be given, and then there need be no folder.
        (None, Some(authority)) => (authority.clone(), named()),
        (None, None) => {
            let state = named()?;
            (plain(&Running::find(&state)?)?, Ok(state))
        }
    };
    let pid = |&pid: &u32| Process { name: format!("pid {pid}"), pid };
    let processes = match (request.pid.is_empty(), &state) {
        (true, Ok(state)) => process::find(&["dataplane", "controlplane"], state),
        (true, Err(_)) => Vec::new(),
        (false, _) => request.pid.iter().map(pid).collect(),
    };
    Ok(Server { door: Door::new(authority, tokens(state)?), processes })
}

/// Where a server that runs is reached without TLS, which the peers of a load do not speak.
fn plain(running: &Running) -> Result<String, Failure> {
    match running.certificate {
        None => Ok(nearest(running.listen).to_string()),
        Some(_) => Err("this server speaks TLS, and a load does not: run it without a certificate meanwhile".into()),
    }
}

/// Tokens of `UPRTC_TOKEN`, or made with the key in the state folder.
fn tokens(state: Result<PathBuf, Failure>) -> Result<Tokens, Failure> {
    if let Ok(token) = std::env::var("UPRTC_TOKEN") {
        return Ok(Arc::new(move |_, _| Ok(token.clone())));
    }
    let keys = running::keys(&state?)?;
    Ok(Arc::new(move |room, name| {
        let claims = Claims { publish: true, subscribe: true, admin: true, ..Claims::new(room, name, TTL.as_secs()) };
        keys.sign(&claims).map_err(|error| error.to_string())
    }))
}
