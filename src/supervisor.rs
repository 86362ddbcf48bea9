//! `uprtc run`: a dataplane and a controlplane as two processes, kept alive, and the link of a room.
//!
//! Either may die alone and is started again; the other carries its rooms over. Both end with this process, however
//! it ends: the kernel kills them with their parent.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use controlplane::auth::{Claims, TokenKey};
use dataplane::config::Backend;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::options::{self, Options, Role, Sources};
use crate::remote::Server;
use crate::{Failure, confine, process, reach};

/// Waits before a plane is started again: first and longest.
const RESTART_MIN: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(5);

/// A plane that lived this long did not fail to start: the next wait is the first one again.
const LIVED: Duration = Duration::from_secs(10);

/// How long a plane may take to end when asked, before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How often readiness is asked for until it is there.
const READY_INTERVAL: Duration = Duration::from_millis(50);

/// How long it may take to say so.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// The room of the printed link, the name in its token, and how long it is good.
const ROOM: &str = "demo";
const NAME: &str = "Guest";
const TTL: Duration = Duration::from_secs(12 * 3600);

/// File in the state folder that a supervisor locks.
const LOCK_FILE: &str = "run.lock";

/// File in the state folder with the settings that the planes run with. They read this one and not the operator's, so
/// that a mistake made there later does not keep a plane that died from being started again.
pub(crate) const SETTINGS_FILE: &str = "run.toml";

/// Runs both planes until SIGINT or SIGTERM, or until one of them cannot start at all. SIGHUP reloads the settings.
pub(crate) fn run(sources: Sources) -> Result<(), Failure> {
    let options = sources.resolve()?;
    reach::check_media_ips(&options)?;
    let _lock = lock(&options.state)?;
    // Here and once, so that a dataplane that is started again neither takes that time nor chooses otherwise.
    let backend = process::backend(options.backend, options.driver);
    // One thread: the kernel kills the children when the *thread* that started them ends, so it must be this one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise(options, backend, &sources))
}

async fn supervise(options: Options, backend: Backend, sources: &Sources) -> Result<(), Failure> {
    confine::hide_memory()?;
    write_settings(&options)?;
    let key = TokenKey::load_or_create(&options.state)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let had_terminal = std::io::stdin().is_terminal();
    let shared = Shared::default();
    // The controlplane ends first, so that it can signal the clients while their media still flows.
    let (stop_controlplane, controlplane_stops) = watch::channel(false);
    let (stop_dataplane, dataplane_stops) = watch::channel(false);
    let arguments = dataplane_arguments(&options, backend);
    let dataplane = keep("dataplane", Signal::TERM, arguments, &shared, dataplane_stops);
    let controlplane = async {
        let arguments = controlplane_arguments(&options, &shared);
        let result = keep("controlplane", Signal::INT, arguments, &shared, controlplane_stops).await;
        stop_dataplane.send_replace(true);
        result
    };
    let signals = async {
        let mut current = options.clone();
        loop {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                // The terminal that we were started in was closed: that is an end, and no wish to reload.
                _ = hangup.recv() => match had_terminal && !std::io::stdin().is_terminal() {
                    true => break,
                    false => reload(sources, &mut current, &shared),
                },
            }
        }
        tracing::info!("stopping both planes");
        stop_controlplane.send_replace(true);
        std::future::pending::<()>().await;
    };
    let link = async {
        print_link(&options, &key, &shared).await;
        std::future::pending::<()>().await;
    };
    // A dataplane that cannot start stops the controlplane too.
    let dataplane = async {
        let result = dataplane.await;
        stop_controlplane.send_replace(true);
        result
    };
    let planes = async { tokio::join!(dataplane, controlplane) };
    tokio::select! {
        (dataplane, controlplane) = planes => dataplane.and(controlplane),
        () = signals => Ok(()),
        () = link => Ok(()),
    }
}

/// What the tasks of the supervisor know of each other.
struct Shared {
    /// Where the controlplane listens, once it has reported it: it keeps these addresses when it is started again.
    listening: watch::Sender<Option<controlplane::Listening>>,
    /// Whether a join could once be served. Until then a plane that gives up ends the run.
    was_ready: watch::Sender<bool>,
    /// The planes that run now.
    planes: RefCell<BTreeMap<String, Pid>>,
}

impl Default for Shared {
    fn default() -> Self {
        Shared { listening: watch::channel(None).0, was_ready: watch::channel(false).0, planes: RefCell::default() }
    }
}

/// Has the planes take over what changed in the settings.
fn reload(sources: &Sources, current: &mut Options, shared: &Shared) {
    if !sources.reload(current, Role::Supervisor) {
        return;
    }
    if let Err(failure) = sources.resolve().and_then(|next| write_settings(&next)) {
        tracing::error!("the planes keep their settings: {failure}");
        return;
    }
    for &pid in shared.planes.borrow().values() {
        let _ = kill_process(pid, Signal::HUP); // It may be ending.
    }
}

/// Writes the file that the planes read, whole or not at all, for its owner alone: it says where keys are.
fn write_settings(options: &Options) -> Result<(), Failure> {
    let path = options.state.join(SETTINGS_FILE);
    let draft = path.with_extension("toml.new");
    let write = || {
        // One that was left behind may be readable by others.
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(options::write(options).as_bytes())?;
        std::fs::rename(&draft, &path)
    };
    write().map_err(|error| format!("cannot write {}: {error}", path.display()).into())
}

fn dataplane_arguments(options: &Options, backend: Backend) -> impl Fn() -> Vec<OsString> {
    let mut arguments = common_arguments(options);
    arguments.extend(["--media-port".into(), options.media_port.to_string().into()]);
    arguments.extend(["--workers".into(), options.workers.to_string().into()]);
    arguments.extend(["--io".into(), backend.name().into()]);
    move || arguments.clone()
}

fn common_arguments(options: &Options) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["--state".into(), options.state.clone().into()];
    arguments.extend(["--config".into(), options.state.join(SETTINGS_FILE).into()]);
    for ip in &options.media_ips {
        arguments.extend(["--media-ip".into(), ip.to_string().into()]);
    }
    arguments
}

fn controlplane_arguments(options: &Options, shared: &Shared) -> impl Fn() -> Vec<OsString> {
    let listening = shared.listening.subscribe();
    let common = common_arguments(options);
    let asked = (options.listen, options.stun());
    move || {
        let (http, stun) = match *listening.borrow() {
            Some(listening) => (listening.http, listening.stun),
            None => asked,
        };
        let mut arguments = common.clone();
        arguments.extend(["--listen".into(), http.to_string().into(), "--stun".into(), stun.to_string().into()]);
        arguments
    }
}

/// Keeps one plane alive until `stops`, then ends it with `stop_signal`.
async fn keep(
    plane: &str,
    stop_signal: Signal,
    arguments: impl Fn() -> Vec<OsString>,
    shared: &Shared,
    mut stops: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let mut wait = RESTART_MIN;
    loop {
        let begun = Instant::now();
        let mut child = start(plane, arguments())?;
        let announcement = listen(child.stdout.take(), shared);
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        shared.planes.borrow_mut().extend(pid.map(|pid| (plane.to_owned(), pid)));
        let status = tokio::select! {
            status = async { tokio::join!(child.wait(), announcement).0 } => status?,
            _ = stops.wait_for(|stop| *stop) => return end(plane, child, stop_signal).await,
        };
        shared.planes.borrow_mut().remove(plane);
        if status.code().is_some_and(|code| code != 0) && !*shared.was_ready.borrow() {
            return Err(format!("the {plane} cannot start; its own message is above").into());
        }
        if begun.elapsed() >= LIVED {
            wait = RESTART_MIN;
        }
        report(plane, status, wait);
        tokio::select! {
            () = sleep(wait) => {}
            _ = stops.wait_for(|stop| *stop) => return Ok(()),
        }
        wait = (wait * 2).min(RESTART_MAX);
    }
}

fn report(plane: &str, status: ExitStatus, wait: Duration) {
    tracing::error!("the {plane} ended ({status}); starting another one in {} ms", wait.as_millis());
}

fn start(plane: &str, arguments: Vec<OsString>) -> Result<Child, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    // They are in the settings file by now, and there our own command line has won over them.
    for variable in options::variables() {
        command.env_remove(variable);
    }
    command
        .arg(plane)
        .args(arguments)
        .args(["--supervisor".to_owned(), std::process::id().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // A group of its own, so that an interrupt from the terminal comes to us alone and the order of ending is ours.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start the {plane}: {error}").into())
}

/// Notes where a controlplane says that it listens, and reads on until it ends, so that it never waits for us.
async fn listen(stdout: Option<tokio::process::ChildStdout>, shared: &Shared) {
    let Some(stdout) = stdout else { return };
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(listening) = process::parse_announcement(&line) {
            shared.listening.send_replace(Some(listening));
        }
    }
}

async fn end(plane: &str, mut child: Child, stop_signal: Signal) -> Result<(), Failure> {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        let _ = kill_process(pid, stop_signal); // It may have ended by itself.
    }
    if timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        tracing::warn!("the {plane} did not end within {} s and is killed", STOP_TIMEOUT.as_secs());
        child.kill().await?;
    }
    Ok(())
}

/// Waits until a room can be joined, then prints one line: on a terminal the link of a room, else only where the server is. A link
/// lets in whoever reads it, and output that goes elsewhere is kept: in a journal, by a container's runtime, in a file.
async fn print_link(options: &Options, key: &TokenKey, shared: &Shared) {
    let mut listening = shared.listening.subscribe();
    let Ok(Some(first)) = listening.wait_for(Option::is_some).await.map(|listening| *listening) else { return };
    let server = Server::own(options, first.http);
    while !is_ready(&server).await {
        sleep(READY_INTERVAL).await;
    }
    shared.was_ready.send_replace(true);
    let base = reach::link_base(options, first.http);
    if !std::io::stdout().is_terminal() {
        println!("{base}/");
        return tracing::info!("`uprtc link --room {ROOM} --name NAME` prints a link that opens a call");
    }
    let rights =
        Claims { publish: true, subscribe: true, invite: true, record: true, ..Claims::new(ROOM, NAME, TTL.as_secs()) };
    match key.sign(&rights) {
        Ok(token) => println!("{base}/r/{ROOM}?token={token}"),
        Err(error) => tracing::error!(%error, "no link can be made"),
    }
}

/// Whether `/readyz` says yes.
async fn is_ready(server: &Server) -> bool {
    let server = server.clone();
    let asked = tokio::task::spawn_blocking(move || server.ask("GET", "/readyz", None, None, READY_TIMEOUT)).await;
    matches!(asked, Ok(Ok(answer)) if answer.status == 200)
}

/// Whether a supervisor has this state folder now.
pub(crate) fn is_running(state: &Path) -> bool {
    File::open(state.join(LOCK_FILE)).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Holds the state folder for this supervisor.
fn lock(state: &Path) -> Result<File, Failure> {
    let path = state.join(LOCK_FILE);
    let unusable = |error| format!("cannot use {}: {error}", path.display());
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let advice = "stop it, or choose another folder with --state";
            Err(format!("another uprtc runs with the state folder {}: {advice}", state.display()).into())
        }
        Err(TryLockError::Error(error)) => Err(unusable(error).into()),
    }
}
