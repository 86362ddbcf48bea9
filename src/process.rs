//! What a process of uprtc does with its surroundings: the log, limits of the kernel, and its supervisor.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use dataplane::config::{Backend, Driver};
use dataplane::io::probe::Probe;
use rustix::process::{Resource, Rlimit, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

use crate::Failure;
use crate::cli::Supervised;
use crate::confine;

/// How a line of the log looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

impl LogFormat {
    /// As the settings name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }

    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<LogFormat> {
        [LogFormat::Text, LogFormat::Json].into_iter().find(|format| format.name() == name)
    }
}

/// Changes what the running log lets through, and how it looks.
static LOG: OnceLock<Box<dyn Fn(EnvFilter, LogFormat) + Send + Sync>> = OnceLock::new();

/// What is logged, of these directives. The client of NATS has a log of its own, of each try to connect; what matters of it, the
/// controlplane says once. Who wants it names it: `info,async_nats=debug`.
fn filter(directives: &str) -> Option<EnvFilter> {
    let whole =
        if directives.contains("async_nats") { directives.to_owned() } else { format!("{directives},async_nats=off") };
    EnvFilter::try_new(whole).ok()
}

/// Whether the log is one JSON object a line.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Log to standard error, at `info` until the settings are known.
pub(crate) fn start_log() {
    let (filter, filters) = reload::Layer::new(EnvFilter::new("info"));
    let (lines, formats) = reload::Layer::new(lines(LogFormat::Text));
    tracing_subscriber::registry().with(lines).with(filter).init();
    // The log lives as long as the process, so neither of the two fails.
    let change = move |filter, format| drop((filters.reload(filter), formats.reload(self::lines(format))));
    let _ = LOG.set(Box::new(change));
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    match format {
        LogFormat::Text => fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).boxed(),
        // All keys on one level, so that those of an event are found without knowing how it came about.
        LogFormat::Json => {
            let json = fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false);
            json.with_writer(io::stderr).boxed()
        }
    }
}

/// Logs what these directives (of `tracing_subscriber::EnvFilter`) say, in that format, from now on.
pub(crate) fn set_log(directives: &str, format: LogFormat) {
    if let (Some(change), Some(filter)) = (LOG.get(), filter(directives)) {
        change(filter, format);
        IS_JSON.store(format == LogFormat::Json, Ordering::Relaxed);
    }
}

/// Says why this process ends: one line on standard error, as every other line there.
pub(crate) fn print_failure(failure: &Failure) {
    match IS_JSON.load(Ordering::Relaxed) {
        true => tracing::error!(event = "failed", "uprtc: {failure}"),
        // In one write: the planes share this stream.
        false => drop(io::stderr().write_all(format!("uprtc: {failure}\n").as_bytes())),
    }
}

/// Prints a command's result.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    Ok(io::stdout().write_all(text.as_bytes())?)
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
    confine::hide_memory()?;
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, ?limit, "the limit of open files stays low: raise LimitNOFILE or ulimit -n");
    }
    Ok(())
}

/// How packets shall come and leave: as it is set, or as a probe finds cheaper on this machine, which is logged.
pub(crate) fn backend(set: Option<Backend>, driver: Driver) -> Backend {
    set.unwrap_or_else(|| {
        let probe = Probe::run(driver);
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
