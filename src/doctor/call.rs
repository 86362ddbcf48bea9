//! A real call on this machine: both planes of this process's own on ports of the kernel's choice, and two peers whose
//! packets go through sockets, ICE, DTLS and SRTP as a browser's do. Signals are handed to the engine without HTTP.

use std::cell::OnceCell;
use std::fs::{self, DirBuilder, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use client::dtls::Version;
use client::srtp::Profile;
use controlplane::driver::{self, Driver, SOCKET_FILE};
use controlplane::dtls::Identity;
use controlplane::engine::Engine;
use controlplane::stun_server;
use dataplane::Dataplane;
use dataplane::config::Backend;
use tokio::time::{sleep, timeout};

use super::Finding;
use super::peer::{Peer, Role};
use crate::Failure;
use crate::options::Options;

/// How long all of it may take. Without trouble it takes a quarter of a second.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Packets that must arrive, and how often one is sent: Opus sends one in 20 ms.
const PACKETS: usize = 20;
const INTERVAL: Duration = Duration::from_millis(5);

/// What the call showed.
struct Outcome {
    join: Duration,
    version: Version,
    profile: Option<Profile>,
    /// Each packet's way from peer to peer, in order of length.
    delays: Vec<Duration>,
}

pub(super) fn look(options: &Options) -> Finding {
    const CHECK: &str = "call";
    // The first media address that is ours, because there the machine's own packet filter stands.
    let usable = |ip: &&IpAddr| UdpSocket::bind((**ip, 0)).is_ok();
    let ip = options.media_ips.iter().find(usable).copied().unwrap_or(Ipv4Addr::LOCALHOST.into());
    match try_call(options, ip) {
        Ok(outcome) => Finding::ok(
            CHECK,
            format!(
                "{} packets between two peers on {ip}: {}, {}, joined in {} ms, {} µs from peer to peer",
                outcome.delays.len(),
                outcome.version,
                outcome.profile.map_or("no SRTP".to_owned(), |profile| format!("{profile:?}")),
                outcome.join.as_millis(),
                outcome.delays[outcome.delays.len() / 2].as_micros(),
            ),
        ),
        Err(failure) => Finding::fail(
            CHECK,
            format!("two peers on {ip} cannot talk: {failure}"),
            format!("let UDP pass on {ip} itself (nft list ruleset), and mend what fails above"),
        ),
    }
}

fn try_call(options: &Options, ip: IpAddr) -> Result<Outcome, Failure> {
    let folder = Folder::new()?;
    let config = dataplane::Config {
        media_ips: vec![ip],
        media_port: 0,
        // Its peers use UDP.
        ice_tcp: false,
        workers: 1,
        link: (&folder.0.join(SOCKET_FILE)).into(),
        is_pinned: false,
        driver: options.driver,
        // The peers of this call are on loopback, where there are no frames.
        backend: Backend::Udp,
        spin_us: 0,
    };
    let dataplane = Dataplane::start(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        match timeout(TIMEOUT, converse(options, ip, &folder.0)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("it took longer than {} s", TIMEOUT.as_secs()).into()),
        }
    });
    runtime.shutdown_background();
    dataplane.stop();
    outcome
}

/// Runs an engine for as long as the call takes.
async fn converse(options: &Options, ip: IpAddr, state: &Path) -> Result<Outcome, Failure> {
    let (handle, inbox) = driver::channel();
    let mut settings = options.rooms.clone();
    settings.peers_max = settings.peers_max.max(2);
    let engine = Engine::new(settings, Identity::generate()?, seed()?);
    let driver = Driver::new(engine, inbox, (&state.join(SOCKET_FILE)).into()).run();
    let stun = tokio::net::UdpSocket::bind((ip, 0)).await?;
    let stun_address = stun.local_addr()?;
    let counts = stun_server::Counts::default();
    let call = async {
        while !handle.is_ready() {
            sleep(Duration::from_millis(1)).await;
        }
        let result = talk(&handle, ip, stun_address).await;
        handle.stop(true).await;
        result
    };
    tokio::select! {
        outcome = call => outcome,
        ended = driver => Err(format!("the controlplane ended: {ended:?}").into()),
        () = stun_server::serve(stun, options.stun_rates, &counts) => Err("the STUN server ended".into()),
    }
}

/// Two peers join; one sends until the other has received enough.
async fn talk(handle: &driver::Handle, ip: IpAddr, stun: SocketAddr) -> Result<Outcome, Failure> {
    let begun = Instant::now();
    let mut ada = Peer::join(handle, "Ada", Role::Sends, ip, stun).await?;
    let mut bob = Peer::join(handle, "Bob", Role::Receives, ip, stun).await?;
    let join = begun.elapsed();
    let origin = Instant::now();
    let mut delays = Vec::with_capacity(PACKETS);
    let first_failure = OnceCell::new();
    while delays.len() < PACKETS {
        ada.send(origin.elapsed()).await?;
        let until = tokio::time::Instant::now() + INTERVAL;
        while let Ok(received) = tokio::time::timeout_at(until, bob.receive()).await {
            match received {
                Ok(sent_at) => delays.push(origin.elapsed().saturating_sub(sent_at)),
                Err(failure) => drop(first_failure.set(failure)),
            }
        }
        if let Some(failure) = first_failure.get() {
            return Err(failure.to_string().into());
        }
    }
    delays.sort_unstable();
    Ok(Outcome { join, version: bob.version(), profile: bob.profile(), delays })
}

/// Randomness for the engine's passwords and sessions.
fn seed() -> Result<[u8; 32], Failure> {
    let mut seed = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}

/// A state folder for the call, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder, Failure> {
        let name: String = seed()?[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let path = std::env::temp_dir().join(format!("uprtc-doctor-{name}"));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // What stays is empty and in the folder for such things.
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn two_peers_talk_through_both_planes() {
        let outcome = try_call(&Options::default(), Ipv4Addr::LOCALHOST.into()).unwrap();
        assert!(outcome.delays.len() >= PACKETS);
        assert_eq!(outcome.version, Version::V1_3);
        let finding = look(&Options { media_ips: vec!["192.0.2.77".parse().unwrap()], ..Options::default() });
        assert_eq!(finding.level, Level::Ok, "an address of another machine is not tried: {finding}");
    }

    #[test]
    fn a_call_that_cannot_be_made_is_a_finding() {
        let failure = try_call(&Options::default(), "192.0.2.77".parse().unwrap()).err().unwrap().to_string();
        assert!(failure.contains("192.0.2.77"), "{failure}");
    }
}
