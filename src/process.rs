//! What a process of uprtc does with its surroundings: the log, limits of the kernel, and its supervisor.

use std::io::{IsTerminal, Write};

use rustix::process::{Resource, Rlimit, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::Failure;
use crate::cli::Supervised;

/// Log to standard error; `UPRTC_LOG` says what (the directives of `tracing_subscriber::EnvFilter`), by default `info`.
pub(crate) fn start_log() {
    let filter = EnvFilter::try_from_env("UPRTC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(is_terminal).with_writer(std::io::stderr).init();
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

/// SIGINT and SIGTERM, noticed from the moment that this is made.
pub(crate) struct StopSignal {
    runtime: tokio::runtime::Runtime,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl StopSignal {
    pub(crate) fn new() -> Result<StopSignal, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let context = runtime.enter();
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        drop(context);
        Ok(StopSignal { runtime, interrupt, terminate })
    }

    /// Blocks until either comes.
    pub(crate) fn wait(self) {
        let StopSignal { runtime, mut interrupt, mut terminate } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
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
