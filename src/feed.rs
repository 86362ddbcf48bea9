//! `uprtc feed`: a feed by RTMP or SRT, of OBS for example, as a peer of a room (the crate `feed`, docs/FEEDS.md). It joins by the
//! server's public doors, with a token that allows it to send and nothing else.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::service::Task;
use client::{http, room};
use controlplane::auth::Claims;
use feed::{Key, Launcher, Report, Settings};
use proto::work::Role;
use rustix::process::{Resource, Rlimit, Signal};
use serde_json::Map;
use tokio::sync::mpsc;

use crate::cli::{Common, Feed, FeedChild};
use crate::running;
use crate::{Failure, confine, reach, service};

/// For how long the peer tries to come back when its server was replaced.
const REJOIN_FOR: Duration = Duration::from_secs(300);
/// What a child may have: of memory, of open files.
const MEMORY_MAX: u64 = 2 << 30;
const FILES_MAX: u64 = 64;
/// How much a child gives way to others.
const NICE: i32 = 5;

/// Feeds until it is told to end, or the room wants no feed.
pub(crate) fn run(common: &Common, request: &Feed) -> Result<(), Failure> {
    if request.rtmp.is_none() && request.srt.is_none() {
        return Err("nothing to listen to: give --rtmp ADDRESS:PORT (0.0.0.0:1935), --srt ADDRESS:PORT, or both".into());
    }
    let server = service::server(common, &request.remote)?;
    let Some(room) = request.room.as_deref() else { return wait(common, request, server) };
    let (key, is_given) = match std::env::var("UPRTC_FEED_KEY") {
        Ok(text) => (Key::new(&text).map_err(|error| format!("UPRTC_FEED_KEY: {error}"))?, true),
        Err(_) => (Key::random().ok_or("the system gives no random numbers")?, false),
    };
    let role = Some(Role::Feed);
    let claims = Claims { publish: true, role, ..Claims::new(room, &request.name, service::TTL.as_secs()) };
    let peer = room::Settings::new(server, room, &service::token(common, &claims)?);
    let settings = Settings {
        peer: room::Settings { rejoin_for: REJOIN_FOR, ..peer },
        rtmp: request.rtmp,
        srt: request.srt,
        key: key.clone(),
        wait: Duration::from_secs_f64(request.wait),
        ffmpeg: request.ffmpeg.clone(),
        launcher: launcher()?,
    };
    let report = |report| {
        if let Report::Listening { rtmp, srt } = report {
            announce(rtmp, srt, if is_given { "UPRTC_FEED_KEY" } else { key.reveal() });
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Ok(feed::run(settings, report, service::told_to_end()?).await?) })
}

/// Feeds the rooms that the server says, each at ports of its own.
fn wait(common: &Common, request: &Feed, server: http::Server) -> Result<(), Failure> {
    let (state, token) = (|| running::state(common), std::env::var("UPRTC_TOKEN").ok());
    let service = service::settings(server.clone(), state, token, Role::Feed, request.tasks_max.into())?;
    let launcher = launcher()?;
    let free = Arc::new(Mutex::new((0..request.tasks_max).collect::<BTreeSet<u16>>()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = |task: Task| {
        let peer = room::Settings::new(server.clone(), &task.order.room, &task.token);
        let peer = room::Settings { rejoin_for: REJOIN_FOR, ..peer };
        let (wait, ffmpeg) = (Duration::from_secs_f64(request.wait), request.ffmpeg.clone());
        let (rtmp, srt, launcher, free) = (request.rtmp, request.srt, launcher.clone(), Arc::clone(&free));
        async move {
            let Some(key) = Key::random() else { return "failed: the system gives no random numbers".to_owned() };
            let Some(place) = Place::take(&free) else { return "busy: no port is free".to_owned() };
            let [rtmp, srt] = [rtmp, srt].map(|address| address.and_then(|address| place.of(address)));
            feed_one(Settings { peer, rtmp, srt, key, wait, ffmpeg, launcher }, &task).await
        }
    };
    runtime.block_on(service::wait(service, run))
}

/// Which of the ports a feed has. It is free again when this is dropped.
struct Place {
    number: u16,
    free: Arc<Mutex<BTreeSet<u16>>>,
}

impl Place {
    fn take(free: &Arc<Mutex<BTreeSet<u16>>>) -> Option<Place> {
        let number = free.lock().unwrap_or_else(PoisonError::into_inner).pop_first()?;
        Some(Place { number, free: Arc::clone(free) })
    }

    fn of(&self, first: SocketAddr) -> Option<SocketAddr> {
        Some(SocketAddr::new(first.ip(), if first.port() == 0 { 0 } else { first.port().checked_add(self.number)? }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).insert(self.number);
    }
}

/// Why it ended.
async fn feed_one(settings: Settings, task: &Task) -> String {
    if let Err(reason) = task.order.has_only(&[]) {
        return reason;
    }
    let key = settings.key.clone();
    let (tell, mut told) = mpsc::channel(1);
    let report = move |report| {
        if let Report::Listening { rtmp, srt } = report {
            let [rtmp, srt] = addresses(rtmp, srt, key.reveal());
            let all = [("rtmp", rtmp), ("srt", srt), ("key", Some(key.reveal().to_owned()))];
            let detail = all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into())));
            let _ = tell.try_send(detail.collect::<Map<_, _>>()); // It listens once.
        }
    };
    let mut work = std::pin::pin!(feed::run(settings, report, task.stopped()));
    loop {
        tokio::select! {
            ended = &mut work => return ended.map_or_else(|error| format!("failed: {error}"), |()| "stopped".to_owned()),
            Some(detail) = told.recv() => task.running(detail).await,
        }
    }
}

/// This executable, as a child of this process.
fn launcher() -> Result<Launcher, Failure> {
    let parent = std::process::id().to_string();
    let arguments = ["feed-child", "--parent", &parent].map(OsString::from).to_vec();
    Ok(Launcher { program: std::env::current_exe()?, arguments, with_network: "--network".into() })
}

/// What is to be entered in an encoder: one line for each way, on standard output.
fn announce(rtmp: Option<SocketAddr>, srt: Option<SocketAddr>, key: &str) {
    let [rtmp, srt] = addresses(rtmp, srt, key);
    let rtmp = rtmp.map(|address| format!("server={address} key={key}\n"));
    let srt = srt.map(|address| format!("server={address}\n"));
    let mut out = std::io::stdout().lock();
    // Nobody may be listening, and that is fine.
    let text = [rtmp, srt].into_iter().flatten().collect::<String>();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The addresses for an encoder, by RTMP and by SRT; that of SRT has the key in it.
fn addresses(rtmp: Option<SocketAddr>, srt: Option<SocketAddr>, key: &str) -> [Option<String>; 2] {
    let rtmp = rtmp.map(|address| format!("rtmp://{}/live", reached(address)));
    [rtmp, srt.map(|address| format!("srt://{}?mode=caller&passphrase={key}", reached(address)))]
}

/// Where everything is listened at, this machine's address towards the rest of the world.
fn reached(address: SocketAddr) -> SocketAddr {
    let elsewhere: IpAddr =
        if address.is_ipv4() { [192, 0, 2, 1].into() } else { [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into() };
    match reach::source_towards(elsewhere) {
        Some(ip) if address.ip().is_unspecified() => SocketAddr::new(ip, address.port()),
        _ => address,
    }
}

/// Becomes ffmpeg, with little left to it: what it parses was made by strangers.
pub(crate) fn become_child(request: &FeedChild) -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before the line above.
    if rustix::process::getppid().is_none_or(|parent| parent.as_raw_nonzero().get().unsigned_abs() != request.parent) {
        return Err("the process that feeds is gone".into());
    }
    for (resource, most) in
        [(Resource::As, MEMORY_MAX), (Resource::Nofile, FILES_MAX), (Resource::Core, 0), (Resource::Fsize, 0)]
    {
        let most = rustix::process::getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    rustix::process::nice(NICE)?;
    confine::confine_child(request.network)?;
    let [program, arguments @ ..] = &request.command[..] else { return Err("no program".into()) };
    // Back only if it did not become it.
    Err(format!("{}: {}", program.display(), Command::new(program).args(arguments).exec()).into())
}
