//! `uprtc live`: a peer that sends a room on as low-latency HLS (the crate `live`). It joins by the server's public doors, with a token that
//! allows it to receive and nothing else.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use client::service::Task;
use client::{http, room};
use controlplane::auth::Claims;
use live::{End, Hub, Server, Settings, Target};
use proto::work::Role;
use serde_json::Value;

use crate::cli::{Common, Live, Sound};
use crate::record::REJOIN_FOR;
use crate::running;
use crate::{Failure, process, service};

/// Sends it on until it is told to end, or cannot go on.
pub(crate) fn run(common: &Common, request: &Live) -> Result<(), Failure> {
    let server = service::server(common, &request.remote)?;
    let Some(name) = request.room.as_deref() else { return wait(common, request, server) };
    let role = Some(Role::Streamer);
    let claims = Claims { subscribe: true, role, ..Claims::new(name, &request.name, service::TTL.as_secs()) };
    let peer = room::Settings::new(server, name, &service::token(common, &claims)?);
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
        let server = listen(request, hub).await?;
        let place = match (&server, &request.to) {
            (Some(server), _) => playlist(server, name)?,
            (None, Some(folder)) => folder.join("index.m3u8").display().to_string(),
            // It is pushed, and the key is not to be seen.
            (None, None) => settings.push.as_ref().map(|target| target.url().to_owned()).unwrap_or_default(),
        };
        on(settings, server, &place).await
    })
}

/// Sends on the rooms that the server says.
fn wait(common: &Common, request: &Live, server: http::Server) -> Result<(), Failure> {
    let (state, token) = (|| running::state(common), std::env::var("UPRTC_TOKEN").ok());
    let service = service::settings(server.clone(), state, token, Role::Streamer, request.tasks_max.into())?;
    let (hub, ffmpeg) = (Hub::default(), encoder(request));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let players = listen(request, hub.clone()).await?;
        let address = players.as_ref().map(Server::address).transpose()?;
        let serving = players.map(|players| tokio::spawn(players.run()));
        let run = |task: Task| {
            let peer = room::Settings::new(server.clone(), &task.order.room, &task.token);
            let room = room::Settings { rejoin_for: REJOIN_FOR, ..peer };
            let (hub, ffmpeg) = (hub.clone(), ffmpeg.clone());
            let settings = Settings { room, video: None, hub, folder: None, ffmpeg, push: None };
            send_one(settings, address, task)
        };
        let ended = service::wait(service, run).await;
        serving.into_iter().for_each(|serving| serving.abort());
        ended
    })
}

/// Why it ended.
async fn send_one(mut settings: Settings, address: Option<SocketAddr>, task: Task) -> String {
    let order = &task.order;
    if let Err(reason) = order.has_only(&["video", "rtmp"]) {
        return reason;
    }
    settings.video = order.text("video").map(str::to_owned);
    settings.push = match order.text("rtmp").map(|url| Target::parse(url, None)) {
        Some(None) => return "bad_parameters: rtmp is not rtmp://HOST[:PORT]/APP/KEY".to_owned(),
        Some(target) => target,
        None if address.is_none() => {
            return "bad_parameters: rtmp is missing, and this service has no --listen".to_owned();
        }
        None => None,
    };
    let live = match live::Live::start(settings).await {
        Ok(live) => live,
        Err(error) => return format!("not_started: {error}"),
    };
    let hls = address.map(|address| ("hls".to_owned(), Value::from(address_of(address, &task.order.room))));
    task.running(hls.into_iter().collect()).await;
    match live.run(task.stopped()).await {
        End::Stopped => End::Stopped.name().to_owned(),
        end => format!("{}: {end}", end.name()),
    }
}

/// The server for players, if there is to be one.
async fn listen(request: &Live, hub: Hub) -> Result<Option<Server>, Failure> {
    let Some(address) = request.listen else { return Ok(None) };
    Ok(Some(Server::bind(address, hub).await.map_err(|error| format!("--listen {address}: {error}"))?))
}

/// Where players find a room.
fn playlist(server: &Server, room: &str) -> Result<String, Failure> {
    Ok(address_of(server.address()?, room))
}

fn address_of(address: SocketAddr, room: &str) -> String {
    format!("http://{address}/{room}/index.m3u8")
}

/// Joins, says where players find it, and goes on until it ends.
async fn on(settings: Settings, server: Option<Server>, place: &str) -> Result<(), Failure> {
    let stop = service::told_to_end()?;
    let room = settings.room.room.clone();
    let sound = if settings.ffmpeg.is_some() { "aac" } else { "opus" };
    let live = live::Live::start(settings).await.map_err(|error| format!("{room}: {error}"))?;
    tracing::info!(event = "live_begins", room, place, sound, "sends a room on");
    let _ = process::print(&format!("{place}\n")); // Who does not read it has it all the same.
    let serving = server.map(|server| tokio::spawn(server.run()));
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
