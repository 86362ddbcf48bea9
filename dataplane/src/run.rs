//! A dataplane from start to end: bind the ports, start a worker for each core, serve the link socket, stop.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, iter};

use proto::link::{Addresses, LinkError, LinkServer, WorkerLink};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

use crate::config::{Config, MEDIA_IPS_MAX, WORKERS_MAX};
use crate::io::{BindError, Listener, Socket};
use crate::relay::Exchange;
use crate::worker::{self, Control, WorkerSetup};

/// Why a dataplane cannot start. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A media socket could not be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The link socket could not be served.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// There is nowhere to listen.
    #[error("no media address is configured: name one of this machine's addresses with --media-ip")]
    NoMediaIp,
    /// A wildcard or multicast address.
    #[error("{0} is not an address that peers can send to: name this machine's own addresses with --media-ip")]
    UnusableMediaIp(IpAddr),
    /// The same address twice.
    #[error("{0} is given twice: name each media address once with --media-ip")]
    DoubleMediaIp(IpAddr),
    /// More addresses than a path can tell apart.
    #[error("{0} media addresses are configured, and {MEDIA_IPS_MAX} is the most: leave out some --media-ip")]
    TooManyMediaIps(usize),
    /// No worker, or too many.
    #[error("{0} workers are configured: give --workers a number from 1 to {WORKERS_MAX}, best one for each core")]
    Workers(usize),
    /// The highest worker's port is no port.
    #[error("{workers} workers do not fit above UDP port {base}: lower --media-port or --workers")]
    Ports {
        /// Worker 0's port.
        base: u16,
        /// How many ports are needed.
        workers: usize,
    },
    /// The kernel refused something that a worker needs.
    #[error("cannot start a worker: {0}")]
    Worker(#[from] io::Error),
}

/// How long a taken port is tried again. The kernel takes a killed process's io_uring apart after its end (6 to 143 ms
/// later in five kills), and until then its sockets keep their ports: a successor must not give up on them.
const TAKEN_PORT_PATIENCE: Duration = Duration::from_secs(2);

/// Runs a dataplane until `wait` returns, which is where the caller waits for SIGTERM or SIGINT.
pub fn run(config: &Config, wait: impl FnOnce()) -> Result<(), Error> {
    let dataplane = Dataplane::start(config)?;
    wait();
    dataplane.stop();
    Ok(())
}

/// A running dataplane. Dropped, it stops.
pub struct Dataplane {
    workers: Vec<Running>,
    /// The thread that serves the link socket, and the eventfd that ends it.
    attacher: Option<JoinHandle<()>>,
    end: OwnedFd,
    addresses: Vec<Vec<SocketAddr>>,
    tcp_addresses: Vec<Vec<SocketAddr>>,
}

/// A worker's thread and how to reach it.
struct Running {
    handle: WorkerHandle,
    thread: Option<JoinHandle<()>>,
}

/// How to control a worker.
struct WorkerHandle {
    control: Sender<Control>,
    wake: OwnedFd,
}

impl WorkerHandle {
    fn send(&self, control: Control) {
        // A worker that has ended needs no control.
        if self.control.send(control).is_ok() {
            wake(&self.wake);
        }
    }

    fn try_clone(&self) -> io::Result<WorkerHandle> {
        Ok(WorkerHandle { control: self.control.clone(), wake: self.wake.try_clone()? })
    }
}

fn wake(fd: &OwnedFd) {
    // An eventfd refuses only when its count is full, and then it is readable anyway.
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

fn new_eventfd() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

impl Dataplane {
    /// Binds the ports, starts the workers and listens for a controlplane.
    pub fn start(config: &Config) -> Result<Dataplane, Error> {
        check(config)?;
        let sockets = bind_all(config)?;
        let addresses: Vec<Vec<SocketAddr>> =
            sockets.iter().map(|sockets| sockets.iter().map(Socket::local).collect()).collect();
        let listeners = listen_all(config, &addresses);
        let tcp_addresses: Vec<Vec<SocketAddr>> =
            listeners.iter().map(|listeners| listeners.iter().map(Listener::local).collect()).collect();
        let both = iter::zip(addresses.clone(), tcp_addresses.clone()).map(|(udp, tcp)| Addresses { udp, tcp });
        let server = LinkServer::bind(config.link.clone(), both)?;
        advise(&sockets);
        let end = new_eventfd()?;
        let mut dataplane = Dataplane { workers: Vec::new(), attacher: None, end, addresses, tcp_addresses };
        let cores = cores(config);
        let wakes = (0..config.workers).map(|_| new_eventfd()).collect::<io::Result<Vec<_>>>()?;
        let exchange = Exchange::new(wakes.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?);
        for (index, ((sockets, listeners), wake)) in sockets.into_iter().zip(listeners).zip(wakes).enumerate() {
            let core = cores.get(index % cores.len().max(1)).copied();
            let (control, received) = channel();
            let setup = WorkerSetup {
                index,
                core,
                driver: config.driver,
                backend: config.backend,
                spin_us: config.spin_us,
                sockets,
                listeners,
                seed: new_seed()?,
                control: received,
                wake: wake.try_clone()?,
                exchange: exchange.clone(),
            };
            let thread = start_worker(setup)?;
            dataplane.workers.push(Running { handle: WorkerHandle { control, wake }, thread: Some(thread) });
        }
        let handles = dataplane.workers.iter().map(|w| w.handle.try_clone()).collect::<io::Result<Vec<_>>>()?;
        let end = dataplane.end.try_clone()?;
        let attacher = thread::Builder::new().name("attach".into()).spawn(move || attach(server, &handles, &end))?;
        dataplane.attacher = Some(attacher);
        for (worker, (addresses, tcp)) in iter::zip(&dataplane.addresses, &dataplane.tcp_addresses).enumerate() {
            tracing::info!(worker, ?addresses, ?tcp, "listens for media");
        }
        Ok(dataplane)
    }

    /// The addresses of each worker, in the order of the configured media addresses.
    pub fn addresses(&self) -> &[Vec<SocketAddr>] {
        &self.addresses
    }

    /// Where each worker accepts connections; as many as it has addresses, unless some could not be had.
    pub fn tcp_addresses(&self) -> &[Vec<SocketAddr>] {
        &self.tcp_addresses
    }

    /// Stops serving and waits for the threads to end.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        wake(&self.end);
        for worker in &self.workers {
            worker.handle.send(Control::Stop);
        }
        let threads = self.workers.iter_mut().map(|worker| &mut worker.thread).chain([&mut self.attacher]);
        for thread in threads.filter_map(Option::take) {
            // A worker that panicked has ended the process; the attacher's panic was printed.
            let _ = thread.join();
        }
    }
}

/// What the command line could get wrong, checked before anything is opened.
fn check(config: &Config) -> Result<(), Error> {
    if config.media_ips.is_empty() {
        return Err(Error::NoMediaIp);
    }
    if config.media_ips.len() > MEDIA_IPS_MAX {
        return Err(Error::TooManyMediaIps(config.media_ips.len()));
    }
    let mut seen = HashSet::new();
    for &ip in &config.media_ips {
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(Error::UnusableMediaIp(ip));
        }
        if !seen.insert(ip) {
            return Err(Error::DoubleMediaIp(ip));
        }
    }
    if !(1..=WORKERS_MAX).contains(&config.workers) {
        return Err(Error::Workers(config.workers));
    }
    if usize::from(config.media_port) + config.workers - 1 > usize::from(u16::MAX) {
        return Err(Error::Ports { base: config.media_port, workers: config.workers });
    }
    Ok(())
}

/// The sockets of each worker.
fn bind_all(config: &Config) -> Result<Vec<Vec<Socket>>, BindError> {
    let deadline = Instant::now() + TAKEN_PORT_PATIENCE;
    let port = |worker: usize| if config.media_port == 0 { 0 } else { config.media_port + worker as u16 };
    (0..config.workers)
        .map(|worker| config.media_ips.iter().map(|&ip| bind((ip, port(worker)).into(), deadline)).collect())
        .collect()
}

/// Binds one socket, and waits a moment for a port that is still taken.
fn bind(address: SocketAddr, deadline: Instant) -> Result<Socket, BindError> {
    loop {
        match Socket::bind(address) {
            Err(BindError::PortTaken(_)) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            result => return result,
        }
    }
}

/// The listeners of each worker, at the ports of its UDP sockets. What cannot be had is left out: UDP is the rule, and no reason
/// not to start.
fn listen_all(config: &Config, addresses: &[Vec<SocketAddr>]) -> Vec<Vec<Listener>> {
    let deadline = Instant::now() + TAKEN_PORT_PATIENCE;
    let of = |addresses: &Vec<SocketAddr>| match config.ice_tcp {
        true => addresses.iter().filter_map(|&address| listen(address, deadline)).collect(),
        false => Vec::new(),
    };
    addresses.iter().map(of).collect()
}

/// Listens at one address, or at another port of it if that one stays taken.
fn listen(address: SocketAddr, deadline: Instant) -> Option<Listener> {
    let taken = loop {
        match Listener::bind(address) {
            Ok(listener) => return Some(listener),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => break error,
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            Err(error) => break error,
        }
    };
    let other = SocketAddr::new(address.ip(), 0);
    match Listener::bind(other).map(|listener| (listener.local().port(), listener)) {
        Ok((port, listener)) => {
            tracing::warn!("cannot listen on TCP {address} ({taken}): ICE over TCP is at port {port} instead");
            Some(listener)
        }
        Err(_) => {
            tracing::warn!(
                "cannot listen on TCP {address} ({taken}): peers whose network blocks UDP cannot join there"
            );
            None
        }
    }
}

/// Says once what would make this machine carry more.
fn advise(sockets: &[Vec<Socket>]) {
    let Some(socket) = sockets.iter().flatten().next() else { return };
    if let Some(advice) = socket.granted().advice() {
        tracing::warn!("{advice}");
    }
    for (has, option, since) in [(socket.has_gro(), "UDP_GRO", "5.0"), (socket.has_gso(), "UDP_SEGMENT", "4.18")] {
        if !has {
            tracing::warn!("this kernel has no {option}: packets cost more here than on Linux {since} or later");
        }
    }
}

/// The cores that workers go to, in turn; none if they are not to be pinned.
fn cores(config: &Config) -> Vec<core_affinity::CoreId> {
    if !config.is_pinned {
        return Vec::new();
    }
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if config.workers > cores.len() {
        tracing::warn!(
            "{} workers share {} cores: lower --workers, or give this process more cores",
            config.workers,
            cores.len()
        );
    }
    cores
}

fn new_seed() -> io::Result<[u8; 16]> {
    let mut seed = [0; 16];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    Ok(seed)
}

/// Starts a worker's thread and waits until it has begun.
fn start_worker(setup: WorkerSetup) -> io::Result<JoinHandle<()>> {
    let name = format!("worker-{}", setup.index);
    let (started, outcome) = channel();
    let body = move || worker::run(setup, |result| drop(started.send(result)));
    let thread = thread::Builder::new().name(name).spawn(body)?;
    match outcome.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("its thread ended before it began")),
    }
}

/// The body of the thread that serves the link socket: attaches one controlplane after the other, and passes on the connections
/// that it hands over.
fn attach(mut server: LinkServer, handles: &[WorkerHandle], end: &OwnedFd) {
    loop {
        let mut polled = vec![PollFd::new(end, PollFlags::IN), PollFd::new(&server, PollFlags::IN)];
        let attached = server.attached();
        polled.extend(attached.as_ref().map(|socket| PollFd::new(socket, PollFlags::IN)));
        match rustix::event::poll(&mut polled, None) {
            Ok(_) if !polled[0].revents().is_empty() => return,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                tracing::error!("cannot wait for a controlplane: {errno}");
                return;
            }
        }
        let is_waiting = !polled[1].revents().is_empty();
        let is_said_more = polled.get(2).is_some_and(|socket| !socket.revents().is_empty());
        if is_said_more {
            match server.take_connection() {
                Ok(Some((worker, connection))) => handles[worker].send(Control::Connection(connection)),
                Ok(None) => {}
                // Its end is no news: the workers go on, and it comes again.
                Err(error) => tracing::debug!("the controlplane is not attached any more: {error}"),
            }
        }
        if is_waiting {
            match server.accept() {
                Ok(links) => hand_out(links, handles),
                Err(error) => tracing::warn!("a controlplane could not attach: {error}"),
            }
        }
    }
}

fn hand_out(links: Vec<WorkerLink>, handles: &[WorkerHandle]) {
    for (link, handle) in iter::zip(links, handles) {
        handle.send(Control::Attach(Box::new(link)));
    }
}
