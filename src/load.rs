//! `uprtc load`, the load generator: hundreds of WebRTC peers for each core against a server, its own or one that runs,
//! and what it cost.
//!
//! A peer joins like any client, through the server's public interfaces: the signalling socket, WHIP or WHEP, then ICE,
//! DTLS and SRTP, all by the crate `client`. What it saves is what a server cannot see. It does not decode; it counts
//! packets by their headers, which are in the clear, and authenticates one of `Settings::verify_every`, compares that one
//! to the byte, and reads from it when it was sent.
//!
//! In the order in which it happens: `server` (one of our own), `api` (HTTP, rooms, tokens), `scenario` (who joins where),
//! `join` (from an offer to keys), `source` (what is sent), `datagrams` (the sockets), `peer` (one peer with keys), `tally`
//! (what it received), `encodings` (of a camera, and who wants which), `threads` (each carries many peers), `process` (CPU and memory of the server, from outside), `run`
//! (all of it), `report` (the results) and `progress` (a line meanwhile).

mod api;
mod datagrams;
mod encodings;
mod join;
mod peer;
mod process;
mod progress;
mod report;
mod run;
mod scenario;
mod server;
mod settings;
mod source;
mod tally;
mod threads;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use controlplane::auth::Claims;
use serde_json::{Value, json};

use self::api::{Api, Tokens};
use self::process::Process;
use self::progress::Line;
use self::report::Report;
use self::run::Server;
use self::scenario::Scenario;
use self::server::OwnServer;
use self::settings::{LoadError, Settings};
use self::source::Media;
use crate::Failure;
use crate::cli::{Common, Load, LoadScenario};
use crate::remote;
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
    // A step of a ramp, or the text beside JSON.
    let is_aside = request.ramp || request.json;
    let mut report_step = |report: &Report| {
        line.clear();
        if is_aside {
            eprint!("{report}");
        }
    };
    let measured = runtime.block_on(async {
        tokio::select! {
            measured = measure(request.ramp, server, scenario, settings, &show, &mut report_step) => measured,
            _ = tokio::signal::ctrl_c() => Err(LoadError::Interrupted),
        }
    });
    line.clear();
    drop(own);
    print(request, &measured?)
}

async fn measure(
    is_ramp: bool,
    server: Server,
    scenario: Scenario,
    settings: Settings,
    show: &dyn Fn(&run::Progress),
    report_step: &mut dyn FnMut(&Report),
) -> Result<Vec<Report>, LoadError> {
    if is_ramp {
        return run::ramp(server, scenario, settings, show, report_step).await;
    }
    let report = run::run(server, scenario, settings, show).await?;
    report_step(&report);
    Ok(vec![report])
}

/// Results go to standard output, for people or as JSON; progress and steps went to standard error.
fn print(request: &Load, reports: &[Report]) -> Result<(), Failure> {
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
    let asked = &request.media;
    if asked.encodings > 1 {
        // The largest is a camera of 720 lines: about 1 Mb/s.
        settings.media.frame_packets = settings.media.frame_packets.max(4);
    }
    let media = settings.media;
    settings.media = Media {
        encodings: asked.encodings,
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
    let (remote, state) = match (own, &request.server) {
        (Some(own), _) => (remote::Server::plain(&own.authority), Ok(own.state.clone())),
        // Tokens and processes may both be given, and then there need be no folder.
        (None, Some(text)) => (remote::Server::plain_or_url(text)?, named()),
        (None, None) => {
            let state = named()?;
            (remote::Server::running(&Running::find(&state)?), Ok(state))
        }
    };
    let pid = |&pid: &u32| Process { name: format!("pid {pid}"), pid };
    let processes = match (request.pid.is_empty(), &state) {
        (true, Ok(state)) => process::find(&["dataplane", "controlplane"], state),
        (true, Err(_)) => Vec::new(),
        (false, _) => request.pid.iter().map(pid).collect(),
    };
    Ok(Server { api: Api::new(remote.resolve()?, tokens(state)?), processes })
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
