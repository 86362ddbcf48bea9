//! The controlplane as a process: binds its sockets, starts its tasks on one thread, and ends them in order.
//!
//! One thread is enough: a DTLS handshake costs 0.15 ms, everything else less, and the cores belong to the dataplane.

use std::fs::{File, OpenOptions, TryLockError};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use proto::link::Endpoint;

use crate::administering::Administering;
use crate::auth::{KeyError, TokenKeys};
use crate::driver::{self, Driver, DriverError};
use crate::dtls::{DtlsError, Identity};
use crate::engine::{Engine, Settings};
use crate::nodes::{self, ClusterError, Member};
use crate::registry::{Registry, RegistryError};
use crate::tls::{self, PairError, Tls};
use crate::{http, stun_server};

/// Name of the file that a controlplane locks, so that there is one for each state folder.
pub const LOCK_FILE: &str = "controlplane.lock";

/// Name of the file in which a supervisor of a controlplane may write where it listens. One that an earlier controlplane left
/// is removed at the start, so what is in it is of the one that holds [`LOCK_FILE`].
pub const RUNNING_FILE: &str = "controlplane.json";

/// How long the sockets may take to say goodbye. The supervisor waits longer than this.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long what is taken is tried again, and how often. A process that was killed lets go within milliseconds.
const TAKEN_PATIENCE: Duration = Duration::from_millis(500);
const TAKEN_RETRY: Duration = Duration::from_millis(20);

/// What a controlplane needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The state folder: signing key, lock, and the dataplane's socket. It exists.
    pub state: PathBuf,
    /// Where the dataplane listens for a controlplane.
    pub link: Endpoint,
    /// Where HTTP is served. Port 0 takes any.
    pub listen: SocketAddr,
    /// Where STUN is served. Port 0 takes any.
    pub stun: SocketAddr,
    /// Where clients reach a STUN server that is bound to every address. Unused if it is bound to one.
    pub stun_ip: Option<IpAddr>,
    /// What the rooms allow. `stun` is filled in here.
    pub settings: Settings,
    /// Origins of pages, `*` for any; see [`http::SiteSettings`].
    pub cors_origins: Vec<String>,
    /// Origins of pages that may frame the meeting page; see [`http::SiteSettings`].
    pub frame_origins: Vec<String>,
    /// Networks of proxies that are believed; see [`http::SiteSettings`].
    pub trusted_proxies: Vec<http::Network>,
    /// Certificate and key, if the HTTP server has TLS.
    pub tls: Option<tls::Files>,
    /// Who may read `/metrics`.
    pub metrics: http::Audience,
    /// Where clients reach the HTTP server, if it is not what they send as `Host`.
    pub public_url: Option<http::PublicUrl>,
    /// Addresses of this machine under which `listen` takes ICE over TCP, too; none: it does not.
    pub ice_tcp: Vec<IpAddr>,
    /// The cluster that this edge is a node of, if it is of one.
    pub cluster: Option<nodes::Settings>,
    /// Limits of the HTTP server.
    pub limits: http::Limits,
    /// Limits of the STUN server.
    pub stun_rates: stun_server::Rates,
}

impl Config {
    /// Default limits on these addresses.
    pub fn new(state: PathBuf, listen: SocketAddr, stun: SocketAddr) -> Config {
        Config {
            link: (&state.join(driver::SOCKET_FILE)).into(),
            state,
            listen,
            stun,
            stun_ip: None,
            settings: Settings::default(),
            cors_origins: Vec::new(),
            frame_origins: Vec::new(),
            trusted_proxies: http::Network::LOOPBACK.into(),
            tls: None,
            metrics: http::Audience::default(),
            public_url: None,
            ice_tcp: Vec::new(),
            cluster: None,
            limits: http::Limits::default(),
            stun_rates: stun_server::Rates::default(),
        }
    }
}

/// The addresses that were bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listening {
    /// HTTP.
    pub http: SocketAddr,
    /// STUN.
    pub stun: SocketAddr,
}

/// Why a controlplane cannot start or go on. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket cannot be bound.
    #[error("cannot serve {what} on {address}: {source}; {option} IP:PORT moves it")]
    Bind {
        /// HTTP or STUN.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
        /// The option that moves it.
        option: &'static str,
    },
    /// The signing key cannot be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What operators decided cannot be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// TLS is asked for and cannot be had.
    #[error(transparent)]
    Tls(#[from] PairError),
    /// The state folder is in use.
    #[error("another controlplane uses the state folder {}: stop it, or choose another with --state", .0.display())]
    Locked(PathBuf),
    /// The state folder cannot be used.
    #[error("cannot use the state folder {}: {source}", .path.display())]
    State {
        /// Which file in it.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The link failed.
    #[error(transparent)]
    Link(#[from] DriverError),
    /// The cluster does not let this node in.
    #[error("{0}; nothing was started. Without `cluster` this edge serves alone")]
    Cluster(#[from] ClusterError),
    /// The DTLS certificate cannot be made.
    #[error("cannot make a DTLS certificate: {0}")]
    Identity(DtlsError),
    /// The runtime cannot be made.
    #[error("cannot start: {0}")]
    Start(io::Error),
}

impl Error {
    /// Whether somebody else has what was wanted.
    fn is_taken(&self) -> bool {
        match self {
            Error::Locked(_) => true,
            Error::Bind { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            _ => false,
        }
    }
}

/// What may change while a controlplane runs, for those who come from then on.
#[derive(Clone, Debug)]
pub struct Reload {
    /// What the rooms allow.
    pub settings: Settings,
    /// As in [`Config`].
    pub cors_origins: Vec<String>,
    /// As in [`Config`].
    pub frame_origins: Vec<String>,
}

/// Runs a controlplane until SIGINT or SIGTERM. `announce` is called once its sockets are bound.
///
/// SIGINT ends the rooms: every client is told that the server stops. SIGTERM ends this process only: sockets are
/// closed, media goes on, and the clients resume at the successor. At each SIGHUP the certificate is read again, and
/// `reload` is asked for other settings, which hold for those who come from then on; `None` changes nothing.
pub fn run(
    config: Config,
    mut reload: impl FnMut() -> Option<Reload>,
    announce: impl FnOnce(&Listening),
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
    let result = runtime.block_on(async {
        let stop = stop_signal().map_err(Error::Start)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(Error::Start)?;
        let reloads = async |handle: driver::Handle, site: Arc<http::Site>| {
            while hangup.recv().await.is_some() {
                site.refresh_certificate(true);
                if let Some(Reload { settings, cors_origins, frame_origins }) = reload() {
                    site.set_cors_origins(cors_origins);
                    site.set_frame_origins(frame_origins);
                    handle.reload(settings).await;
                }
            }
        };
        serve_reloading(config, stop, reloads, announce).await
    });
    runtime.shutdown_background(); // A try to attach may still be waiting for its answer.
    result
}

/// The same on the caller's runtime, until `stop` says whether it is for good, and without reloads.
pub async fn serve(
    config: Config,
    stop: impl Future<Output = bool>,
    announce: impl FnOnce(&Listening),
) -> Result<(), Error> {
    serve_reloading(config, stop, async |_, _| {}, announce).await
}

async fn serve_reloading(
    mut config: Config,
    stop: impl Future<Output = bool>,
    reloads: impl AsyncFnOnce(driver::Handle, Arc<http::Site>),
    announce: impl FnOnce(&Listening),
) -> Result<(), Error> {
    let _lock = patiently(async || lock(&config.state)).await?;
    // A fresh certificate for each start: its key is never written down, and only peers to come ever see it.
    let identity = Identity::generate().map_err(Error::Identity)?;
    let keys = Arc::new(TokenKeys::load_or_create(&config.state)?);
    let mut member = match config.cluster.take() {
        Some(cluster) => Some(Member::join(cluster, &config.state, identity.fingerprint_sha256(), keys.clone()).await?),
        None => None,
    };
    let served = serve_as(config, identity, keys, &mut member, stop, reloads, announce).await;
    if let Some(member) = &mut member {
        member.leave().await; // It was let in, and then something else failed.
    }
    served
}

async fn serve_as(
    mut config: Config,
    identity: Identity,
    keys: Arc<TokenKeys>,
    member: &mut Option<Member>,
    stop: impl Future<Output = bool>,
    reloads: impl AsyncFnOnce(driver::Handle, Arc<http::Site>),
    announce: impl FnOnce(&Listening),
) -> Result<(), Error> {
    forget_predecessor(&config.state)?;
    let registry = Arc::new(Registry::load(&config.state, jsonwebtoken::get_current_timestamp())?);
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let tls = config.tls.map(Tls::load).transpose()?;
    let refused = |what, address, option| move |source| Error::Bind { what, address, source, option };
    let listen = async || http::listen(config.listen).map_err(refused("HTTP", config.listen, "--listen"));
    let listener = patiently(listen).await?;
    let stun = async || UdpSocket::bind(config.stun).await.map_err(refused("STUN", config.stun, "--stun"));
    let stun = patiently(stun).await?;
    let listening = Listening {
        http: listener.local_addr().map_err(Error::Start)?,
        stun: stun.local_addr().map_err(Error::Start)?,
    };
    // The engine hears of a displaced socket's end a moment after its successor has come.
    config.settings.sockets_max += config.settings.sockets_max / 4 + 16;
    config.settings.ice_tcp = config.ice_tcp.iter().map(|&ip| SocketAddr::new(ip, listening.http.port())).collect();
    config.settings.stun = stun_uri(config.settings.announced(listening.stun), config.stun_ip);

    let mut engine = Engine::new(config.settings, identity, seed()?);
    engine.restore(registry.rooms());
    if let Some(member) = member.as_ref() {
        let (node, carrier, region) = member.place();
        engine.join_cluster(node.to_owned(), carrier.to_owned(), region.to_owned());
    }
    let (handle, mut inbox) = driver::channel();
    let orders = member.as_ref().map(|_| {
        let (orders, outlet) = driver::orders();
        inbox.orders = Some(orders);
        outlet
    });
    let counts = Arc::new(stun_server::Counts::default());
    let administering: Arc<Administering> = Arc::default();
    let decisions = nodes::Decisions { registry: registry.clone(), administering: administering.clone() };
    let settings = http::SiteSettings {
        registry,
        administering,
        cors_origins: config.cors_origins,
        frame_origins: config.frame_origins,
        trusted_proxies: config.trusted_proxies,
        public_url: config.public_url,
        tls,
        metrics: config.metrics,
        takes_ice_tcp: !config.ice_tcp.is_empty(),
        nodes: member.as_ref().map(Member::nodes),
    };
    let site = http::Site::with(handle.clone(), keys, counts.clone(), config.limits, settings);
    let (asked, questions) = nodes::questions();
    let answering = tokio::spawn(http::answer_nodes(site.clone(), questions));
    let (stopping, is_stopping) = watch::channel(false);
    let serving = tokio::spawn(http::serve(listener, site.clone(), is_stopping));
    let stun = tokio::spawn(async move { stun_server::serve(stun, config.stun_rates, &counts).await });
    let (ending, leaving) = watch::channel(None);
    let bound = format!("{scheme}://{}", listening.http);
    let membership = member
        .take()
        .map(|member| tokio::spawn(member.run(handle.clone(), orders, Some(decisions), Some(asked), bound, leaving)));
    announce(&listening);

    let reloads = async {
        let looks = async {
            loop {
                sleep(tls::RELOAD_INTERVAL).await;
                site.refresh_certificate(false);
            }
        };
        let saves = async {
            loop {
                sleep(http::SAVE_INTERVAL).await;
                site.save_again().await;
            }
        };
        tokio::join!(reloads(handle.clone(), site.clone()), saves, looks).2
    };
    let mut is_for_good = false;
    let mut driver = pin!(Driver::new(engine, inbox, config.link.clone()).run());
    let result = tokio::select! {
        ended = &mut driver => ended,
        never = reloads => never,
        for_good = stop => {
            tracing::info!(for_good, "stopping");
            is_for_good = for_good;
            tokio::join!(handle.stop(for_good), &mut driver).1
        }
    };
    stopping.send_replace(true);
    ending.send_replace(Some(is_for_good));
    stun.abort();
    answering.abort();
    if timeout(GOODBYE_TIMEOUT, serving).await.is_err() {
        tracing::warn!("some sockets did not close in time");
    }
    if let Some(membership) = membership {
        let _ = timeout(GOODBYE_TIMEOUT, membership).await; // The others see its lease end.
    }
    Ok(result?)
}

/// What clients are told to ask for their address (RFC 7064), if they can reach it.
fn stun_uri(bound: SocketAddr, reached: Option<IpAddr>) -> Option<String> {
    let ip = if bound.ip().is_unspecified() { reached? } else { bound.ip() };
    Some(format!("stun:{}", SocketAddr::new(ip, bound.port())))
}

/// Tries again for a moment what a predecessor that was just killed may still hold.
async fn patiently<T>(attempt: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
    let begun = Instant::now();
    loop {
        match attempt().await {
            Err(error) if error.is_taken() && begun.elapsed() < TAKEN_PATIENCE => sleep(TAKEN_RETRY).await,
            result => return result,
        }
    }
}

fn seed() -> Result<[u8; 32], Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Error::Start(io::Error::other(error)))?;
    Ok(seed)
}

/// Holds the folder for this process; the kernel lets go when the process ends, however it ends.
fn lock(state: &Path) -> Result<File, Error> {
    let path = state.join(LOCK_FILE);
    let unusable = |source| Error::State { path: path.clone(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(state.to_owned())),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

fn forget_predecessor(state: &Path) -> Result<(), Error> {
    let path = state.join(RUNNING_FILE);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::State { path, source }),
        _ => Ok(()),
    }
}

/// Ends with true on SIGINT, false on SIGTERM.
fn stop_signal() -> io::Result<impl Future<Output = bool>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => true,
            _ = terminate.recv() => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_a_stun_server_that_they_can_reach() {
        let uri = |bound: &str, reached: Option<&str>| {
            stun_uri(bound.parse().unwrap(), reached.map(|ip| ip.parse().unwrap())).unwrap_or_default()
        };
        assert_eq!(uri("192.0.2.7:3478", Some("192.0.2.1")), "stun:192.0.2.7:3478");
        assert_eq!(uri("0.0.0.0:3479", Some("192.0.2.1")), "stun:192.0.2.1:3479");
        assert_eq!(uri("[::]:3478", Some("2001:db8::1")), "stun:[2001:db8::1]:3478");
        assert_eq!(uri("0.0.0.0:3478", None), "");
    }
}
