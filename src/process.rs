//! What a process of uprtc does with its surroundings: the log, limits of the kernel, and its supervisor.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

use dataplane::config::Backend;
use dataplane::io::probe::Probe;
use rustix::process::{Resource, Rlimit, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::Failure;
use crate::cli::Supervised;
use crate::options::Options;

/// Changes what the running log lets through.
static LOG_FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Log to standard error, at `info` until the settings are known.
pub(crate) fn start_log() {
    let is_terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_ansi(is_terminal)
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::new("info"))
        .with_filter_reloading();
    let filter = log.reload_handle();
    log.init();
    let _ = LOG_FILTER.set(Box::new(move |new| drop(filter.reload(new)))); // The log lives as long as the process.
}

/// Logs what these directives (of `tracing_subscriber::EnvFilter`) say, from now on.
pub(crate) fn set_log(directives: &str) {
    if let (Some(change), Ok(filter)) = (LOG_FILTER.get(), EnvFilter::try_new(directives)) {
        change(filter);
    }
}

/// Ties this process to the supervisor that started it, if one did, and takes the descriptors that the kernel allows.
pub(crate) fn become_plane(supervised: &Supervised) -> Result<(), Failure> {
    if let Some(supervisor) = supervised.supervisor {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have died before the line above.
        if rustix::process::getppid().is_none_or(|parent| parent.as_raw_nonzero().get() != supervisor) {
            return Err("the supervisor is gone".into());
        }
    }
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, ?limit, "the limit of open files stays low: raise LimitNOFILE or ulimit -n");
    }
    Ok(())
}

/// How packets shall come and leave: as it is set, or as a probe finds cheaper on this machine, which the log is told.
pub(crate) fn backend(options: &Options) -> Backend {
    options.backend.unwrap_or_else(|| {
        let probe = Probe::run(options.driver);
        tracing::info!("io: {probe}; frames only where they are asked for");
        probe.backend()
    })
}

/// SIGINT, SIGTERM and SIGHUP, noticed from the moment that this is made.
pub(crate) struct StopSignal {
    runtime: tokio::runtime::Runtime,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl StopSignal {
    pub(crate) fn new() -> Result<StopSignal, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let context = runtime.enter();
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        let hangup = signal(SignalKind::hangup())?;
        drop(context);
        Ok(StopSignal { runtime, interrupt, terminate, hangup })
    }

    /// Blocks until SIGINT or SIGTERM comes; reloads at each SIGHUP.
    pub(crate) fn wait(self, mut reload: impl FnMut()) {
        let StopSignal { runtime, mut interrupt, mut terminate, mut hangup } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => return,
                    _ = terminate.recv() => return,
                    _ = hangup.recv() => reload(),
                }
            }
        });
    }
}

/// Tells whoever started this controlplane where it is: one line on standard output.
pub(crate) fn announce(listening: &controlplane::Listening) {
    let mut out = std::io::stdout().lock();
    // Nobody may be listening, and that is fine.
    let _ = writeln!(out, "http={} stun={}", listening.http, listening.stun).and_then(|()| out.flush());
    tracing::info!(http = %listening.http, stun = %listening.stun, "the controlplane listens");
}

/// Reads the line of [`announce`].
pub(crate) fn parse_announcement(line: &str) -> Option<controlplane::Listening> {
    let (http, stun) = line.trim().strip_prefix("http=")?.split_once(" stun=")?;
    Some(controlplane::Listening { http: http.parse().ok()?, stun: stun.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_understood() {
        let listening = parse_announcement("http=127.0.0.1:8080 stun=[::1]:3478\n").unwrap();
        assert_eq!((listening.http.port(), listening.stun.to_string().as_str()), (8080, "[::1]:3478"));
        assert_eq!(parse_announcement("http=x stun=y"), None);
        assert_eq!(parse_announcement(""), None);
    }
}
