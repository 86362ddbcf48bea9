//! `uprtc record`: peers that write what rooms send to files (the crate `record`). Each joins by the server's public doors, with a token
//! that allows it to receive and nothing else.

use std::fs;
use std::time::Duration;

use client::room;
use controlplane::auth::Claims;
use record::disk::Quota;
use record::{End, Recorder, Settings};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::{Common, Record};
use crate::running::{self, Running};
use crate::{Failure, process, remote};

/// How long the token is good: for as long a recording comes back by itself after its server was replaced.
const TTL: Duration = Duration::from_secs(30 * 86_400);
/// For how long it tries to come back.
const REJOIN_FOR: Duration = Duration::from_secs(300);

/// Records until it is told to end, or nothing is left to record.
pub(crate) fn run(common: &Common, request: &Record) -> Result<(), Failure> {
    let server = match &request.remote.server {
        Some(text) => remote::Server::named(text, request.remote.ca.as_deref(), || Ok(Default::default()))?,
        None => remote::Server::running(&Running::find(&running::state(common)?)?),
    };
    let failed = |error| format!("--to {}: {error}", request.to.display());
    fs::create_dir_all(&request.to).map_err(failed)?;
    let quota = Quota::measure(&request.to, request.quota_mb.map(|megabytes| megabytes * 1_000_000)).map_err(failed)?;
    let server = server.resolve()?;
    let settings = |room: &String| -> Result<Settings, Failure> {
        let peer = room::Settings::new(server.clone(), room, &token(common, request, room)?);
        let room = room::Settings { rejoin_for: REJOIN_FOR, ..peer };
        Ok(Settings { room, folder: request.to.clone(), quota: quota.clone() })
    };
    let settings = request.rooms.iter().map(settings).collect::<Result<Vec<_>, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(record_all(settings))
}

/// `UPRTC_TOKEN`, or one of the key in the state folder.
fn token(common: &Common, request: &Record, room: &str) -> Result<String, Failure> {
    if let Ok(token) = std::env::var("UPRTC_TOKEN") {
        return Ok(token);
    }
    let keys = running::keys(&running::state(common)?)?;
    Ok(keys.sign(&Claims { subscribe: true, ..Claims::new(room, &request.name, TTL.as_secs()) })?)
}

async fn record_all(settings: Vec<Settings>) -> Result<(), Failure> {
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (stop, stopped) = watch::channel(false);
    let mut recordings = tokio::task::JoinSet::new();
    for settings in settings {
        let room = settings.room.room.clone();
        let recorder = Recorder::start(settings).await.map_err(|error| format!("{room}: {error}"))?;
        tracing::info!(event = "records", room, folder = %recorder.folder().display(), "records a room");
        // The folder alone on standard output, for a script; who does not read it is recorded all the same.
        let _ = process::print(&format!("{}\n", recorder.folder().display()));
        let mut stopped = stopped.clone();
        recordings.spawn(async move {
            let end = recorder.run(async move { drop(stopped.wait_for(|&is_stopped| is_stopped).await) }).await;
            (room, end)
        });
    }
    let mut failures = Vec::new();
    loop {
        tokio::select! {
            ended = recordings.join_next() => match ended {
                Some(Ok((room, end))) => {
                    tracing::info!(event = "recorded", room, reason = end.name(), "a recording ended: {end}");
                    failures.extend((end != End::Stopped).then(|| format!("{room}: {end}")));
                }
                Some(Err(error)) => return Err(error.into()),
                None => break,
            },
            _ = interrupted.recv() => drop(stop.send(true)),
            _ = terminated.recv() => drop(stop.send(true)),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ").into()) }
}
