//! `uprtc live`: a peer that sends a room on as low-latency HLS (the crate `live`). It joins by the server's public doors, with a token that
//! allows it to receive and nothing else.

use std::process::{Command, Stdio};

use client::room;
use live::{End, Hub, Server, Settings, Target};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Common, Live, Sound};
use crate::record::{REJOIN_FOR, token};
use crate::running::{self, Running};
use crate::{Failure, process, remote};

/// Sends it on until it is told to end, or cannot go on.
pub(crate) fn run(common: &Common, request: &Live) -> Result<(), Failure> {
    let server = match &request.remote.server {
        Some(text) => remote::Server::named(text, request.remote.ca.as_deref(), || Ok(Default::default()))?,
        None => remote::Server::running(&Running::find(&running::state(common)?)?),
    };
    let peer = room::Settings::new(server.resolve()?, &request.room, &token(common, &request.name, &request.room)?);
    let hub = Hub::default();
    let settings = Settings {
        room: room::Settings { rejoin_for: REJOIN_FOR, ..peer },
        video: request.video.clone(),
        hub: hub.clone(),
        folder: request.to.clone(),
        ffmpeg: encoder(request),
        push: request.rtmp.as_deref().map(target).transpose()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = match request.listen {
            Some(address) => {
                Some(Server::bind(address, hub).await.map_err(|error| format!("--listen {address}: {error}"))?)
            }
            None => None,
        };
        let place = match (&server, &request.to) {
            (Some(server), _) => format!("http://{}/{}/index.m3u8", server.address()?, request.room),
            (None, Some(folder)) => folder.join("index.m3u8").display().to_string(),
            // It is pushed, and the key is not to be seen.
            (None, None) => settings.push.as_ref().map(|target| target.url().to_owned()).unwrap_or_default(),
        };
        on(request, settings, server, &place).await
    })
}

/// Joins, says where players find it, and goes on until it ends.
async fn on(request: &Live, settings: Settings, server: Option<Server>, place: &str) -> Result<(), Failure> {
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let room = &request.room;
    let sound = if settings.ffmpeg.is_some() { "aac" } else { "opus" };
    let live = live::Live::start(settings).await.map_err(|error| format!("{room}: {error}"))?;
    tracing::info!(event = "live_begins", room, place, sound, "sends a room on");
    let _ = process::print(&format!("{place}\n")); // Who does not read it has it all the same.
    let serving = server.map(|server| tokio::spawn(server.run()));
    let stop = async move {
        tokio::select! {
            _ = interrupted.recv() => (),
            _ = terminated.recv() => (),
        }
    };
    let end = live.run(stop).await;
    serving.into_iter().for_each(|serving| serving.abort());
    tracing::info!(event = "live_ended", room, reason = end.name(), "it ended: {end}");
    if end == End::Stopped { Ok(()) } else { Err(format!("{room}: {end}").into()) }
}

/// Where it is pushed to.
fn target(url: &str) -> Result<Target, Failure> {
    let key = std::env::var("UPRTC_RTMP_KEY").ok().filter(|key| !key.is_empty());
    let target = Target::parse(url, key.as_deref());
    // The address may have the key: it is not said again.
    target.ok_or_else(|| "--rtmp: it is not rtmp://HOST[:PORT]/APP/KEY, or UPRTC_RTMP_KEY has a space in it".into())
}

/// What encodes AAC, if it is to be AAC.
fn encoder(request: &Live) -> Option<String> {
    let is_there = || {
        let mut command = Command::new(&request.ffmpeg);
        let command = command.arg("-version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let is_aac = match request.sound {
        Some(sound) => sound == Sound::Aac,
        None => is_there(),
    };
    is_aac.then(|| request.ffmpeg.clone())
}
