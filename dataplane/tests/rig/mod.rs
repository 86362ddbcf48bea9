//! A dataplane that runs in this process, a controlplane's end of its link, and clients with real sockets.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its part.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dataplane::config::{Backend, Driver};
use dataplane::io::{Io, Socket, block_on};
use dataplane::srtp::Crypto;
use dataplane::{Config, Dataplane};
use proto::id::{Mid, PeerId, RouteId, SlotId, StreamId};
use proto::link::{Attached, ControlLink, attach};
use proto::plane::{
    Codec, Command, Commit, Committed, Counter, Direction, Event, KEY_LEN_MAX, PWD_LEN, PeerKeys, PeerOpen, PeerRemote,
    Report, RouteOpen, SALT_LEN_MAX, SlotOpen, SrtpProfile, StreamOpen, UFRAG_LEN,
};
use proto::stun;

pub mod network;
#[path = "../../../tests/require/mod.rs"]
mod require;
pub mod tcp;

use network::{Network, in_network};

/// Nothing here takes longer than milliseconds; this only ends a test that has failed.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The drivers that work here; io_uring is left out where the kernel or a sandbox refuses it.
pub fn drivers() -> impl Iterator<Item = Driver> {
    let uring = monoio::utils::detect_uring().then_some(Driver::Uring);
    if uring.is_none() {
        require::left_out("uring", "the io_uring driver", "monoio finds no io_uring");
    }
    uring.into_iter().chain([Driver::Epoll])
}

/// Whether this kernel lets a worker have rings; without them it would be the `udp` backend that is tested.
pub fn has_uring() -> bool {
    let sockets = vec![Socket::bind((LOOPBACK[0], 0).into()).unwrap()];
    let opened = block_on(Driver::Auto, async { Io::new(sockets, Instant::now()).unwrap().open_uring().map(drop) });
    opened.unwrap().map_err(|error| require::left_out("uring", "the uring backend", error)).is_ok()
}

/// Where a test takes place: how the worker waits, and how packets leave it.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    pub driver: Driver,
    pub backend: Backend,
    /// Frames leave by a cable, which takes a network of its own; else all are on loopback.
    network: Option<&'a Network>,
}

impl Ground<'_> {
    /// Loopback, with the first driver that works.
    pub fn any() -> Ground<'static> {
        Ground::loopback(drivers().next().expect("epoll is everywhere"))
    }

    /// Loopback.
    pub fn loopback(driver: Driver) -> Ground<'static> {
        Ground { driver, backend: Backend::Udp, network: None }
    }

    /// Loopback, through io_urings.
    pub fn uring() -> Ground<'static> {
        Ground { driver: Driver::Auto, backend: Backend::Uring, network: None }
    }

    /// Frames over a cable.
    pub fn frames(network: &Network) -> Ground<'_> {
        Ground { driver: Driver::Auto, backend: Backend::Frames, network: Some(network) }
    }

    /// Where clients of an address family are.
    pub fn clients(&self, family: IpAddr) -> IpAddr {
        let [v4, v6] = if self.network.is_some() { network::CLIENTS } else { LOOPBACK };
        if family.is_ipv4() { v4 } else { v6 }
    }

    pub fn are_frames(&self) -> bool {
        self.network.is_some()
    }
}

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Runs a test with each driver and through io_urings on loopback, and with frames over a cable where this process may lay
/// one.
pub fn on_every_ground(test: impl Fn(Ground<'_>) + Sync) {
    for driver in drivers() {
        test(Ground::loopback(driver));
    }
    if has_uring() {
        test(Ground::uring());
    }
    in_network(|network| test(Ground::frames(&network)));
}

/// A folder of its own for the link socket, removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("uprtc-dataplane-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn config(folder: &Folder, driver: Driver) -> Config {
    Config {
        media_ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
        media_port: 0,
        ice_tcp: true,
        workers: 1,
        link: (&folder.0.join("dataplane.sock")).into(),
        // The machines that run tests have few cores and many tests.
        is_pinned: false,
        driver,
        backend: Backend::Udp,
        spin_us: 0,
    }
}

/// A running dataplane with one worker or more, and the controlplane's ends of their links. What is done is done with
/// the first worker unless another was chosen.
pub struct Rig {
    pub attached: Attached,
    pub dataplane: Dataplane,
    pub config: Config,
    clients: [IpAddr; 2],
    /// Which worker is meant.
    pub worker: usize,
    batch: u64,
    _folder: Folder,
}

impl Rig {
    pub fn start(ground: Ground<'_>) -> Self {
        Self::start_workers(ground, 1)
    }

    pub fn start_workers(ground: Ground<'_>, workers: usize) -> Self {
        let folder = Folder::new();
        let mut config = Config { workers, backend: ground.backend, ..config(&folder, ground.driver) };
        let dataplane = match ground.network {
            None => Dataplane::start(&config).unwrap(),
            Some(network) => {
                config = Config { media_ips: network::EDGE.to_vec(), ..config };
                let config = config.clone();
                network.at_edge(move || Dataplane::start(&config).unwrap())
            }
        };
        let attached = attach(config.link.clone()).unwrap();
        let clients = LOOPBACK.map(|family| ground.clients(family));
        Rig { attached, dataplane, config, clients, worker: 0, batch: 0, _folder: folder }
    }

    pub fn link(&mut self) -> &mut ControlLink {
        &mut self.attached.workers[self.worker].0
    }

    /// The worker's addresses: IPv4, IPv6.
    pub fn addresses(&self) -> [SocketAddr; 2] {
        self.dataplane.addresses()[self.worker].as_slice().try_into().unwrap()
    }

    /// Commits commands and waits until the worker says so; the other reports that came by then.
    pub fn commit(&mut self, commands: &[Command]) -> Vec<Report> {
        self.batch += 1;
        let batch = self.batch;
        for command in commands.iter().copied().chain([Commit { batch }.into()]) {
            assert!(self.link().push_command(&command), "the ring has room");
        }
        self.link().notify();
        let committed = Report::Event(Event::Committed(Committed { batch }));
        let mut before = self.reports_until(|report| *report == committed);
        before.pop();
        before
    }

    /// Reports up to and with the first that is as wanted.
    pub fn reports_until(&mut self, is_wanted: impl Fn(&Report) -> bool) -> Vec<Report> {
        let mut reports = Vec::new();
        wait_for("a report", || match self.link().pop_report() {
            Some(report) => {
                reports.push(report.expect("the worker writes valid reports"));
                is_wanted(reports.last().unwrap()).then_some(())
            }
            None => None,
        });
        reports
    }

    pub fn counter(&mut self, counter: Counter) -> u64 {
        self.link().counters().expect("nobody died while publishing")[counter as usize]
    }

    /// Waits until the published counter has reached a value.
    pub fn wait_for_counter(&mut self, counter: Counter, at_least: u64) {
        wait_for(counter.name(), || (self.counter(counter) >= at_least).then_some(()));
    }

    /// Every datagram has one fate.
    pub fn check_conservation(&mut self) {
        let counters = self.link().counters().unwrap();
        let of = |counter: Counter| counters[counter as usize];
        let dropped: u64 = Counter::ALL.iter().filter(|c| c.name().starts_with("dropped_")).map(|&c| of(c)).sum();
        let fates = of(Counter::Forwarded) + of(Counter::Consumed) + of(Counter::Punted) + dropped;
        assert_eq!(of(Counter::Received) + of(Counter::RelayReceived), fates);
    }

    /// Opens a peer of an address family, keys it, and lets it prove its address.
    pub fn connect(&mut self, index: u32, family: IpAddr) -> Client {
        let place = usize::from(family.is_ipv6());
        let client = Client::new(index, self.clients[place], self.addresses()[place]);
        self.commit(&client.commands());
        client.check();
        let answered = self.counter(Counter::ChecksAnswered);
        client.consent();
        self.wait_for_counter(Counter::ChecksAnswered, answered + 1);
        client
    }

    /// A microphone of `from` in a slot of `to`; the stream's SSRC and the slot's.
    pub fn carry(&mut self, from: &Client, to: &Client) -> (u32, u32) {
        let (ssrc, stream) = (0x1000 + from.id.index, StreamId::new(from.id.index, 1));
        let (rtx_ssrc, rtx_pt, mid, feedback) = (0, 0, Mid::NONE, 0);
        let (peer, pt, codec) = (from.id, 111, Codec::Opus);
        self.commit(&[StreamOpen { stream, peer, ssrc, rtx_ssrc, mid, pt, rtx_pt, codec, feedback, red_pt: 0 }.into()]);
        (ssrc, self.route(from, to))
    }

    /// The microphone of `from`, which was carried to another peer, in a slot of `to`, too; the slot's SSRC.
    pub fn route(&mut self, from: &Client, to: &Client) -> u32 {
        let slot_ssrc = 0x2000 + to.id.index;
        let stream = StreamId::new(from.id.index, 1);
        let slot = SlotId::new(to.id.index, 1);
        self.commit(&[
            SlotOpen {
                slot,
                peer: to.id,
                ssrc: slot_ssrc,
                rtx_ssrc: 0,
                mid: Mid::NONE,
                seq_first: 100,
                rtx_seq_first: 100,
                timestamp_first: 1,
            }
            .into(),
            RouteOpen { route: RouteId::new(to.id.index, 1), stream, slot, pt: 111, rtx_pt: 0, red_pt: 0 }.into(),
        ]);
        slot_ssrc
    }
}

/// Polls until there is something, and fails with a sentence if there never is.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A peer with a socket and keys.
pub struct Client {
    pub id: PeerId,
    pub socket: UdpSocket,
    ufrag: [u8; UFRAG_LEN],
    pwd: [u8; PWD_LEN],
}

/// The password that each gives for itself.
const PEERS_PWD: &[u8] = b"the-password-of-the-peer";

const PROFILE: SrtpProfile = SrtpProfile::AeadAes128Gcm;

impl Client {
    pub fn new(index: u32, local: IpAddr, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((local, 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let ufrag = format!("peer{index:04}").into_bytes().try_into().unwrap();
        Client { id: PeerId::new(index, 1), socket, ufrag, pwd: *b"password-of-24-character" }
    }

    fn keys(&self, direction: Direction) -> ([u8; KEY_LEN_MAX], [u8; SALT_LEN_MAX]) {
        ([self.id.index as u8 ^ (direction as u8) << 6; KEY_LEN_MAX], [direction as u8; SALT_LEN_MAX])
    }

    /// What opens it and gives it keys.
    pub fn commands(&self) -> [Command; 4] {
        let keys = |direction| {
            let (key, salt) = self.keys(direction);
            PeerKeys { peer: self.id, direction, profile: PROFILE, key, salt }.into()
        };
        let open = PeerOpen { peer: self.id, ufrag: self.ufrag, pwd: self.pwd };
        let remote = PeerRemote::parts(self.id, b"them", PEERS_PWD).expect("they are credentials")[0];
        [open.into(), remote.into(), keys(Direction::Rx), keys(Direction::Tx)]
    }

    /// A nominating connectivity check into `out`; its length.
    pub fn write_check(&self, out: &mut [u8]) -> usize {
        let mut name = [0; UFRAG_LEN + 5];
        name[..UFRAG_LEN].copy_from_slice(&self.ufrag);
        name[UFRAG_LEN..].copy_from_slice(b":them");
        stun::Writer::binding_request(out, stun::TransactionId([7; 12]))
            .username(&name)
            .priority(1)
            .ice_controlling(1)
            .use_candidate()
            .integrity(&stun::IntegrityKey::new(&self.pwd))
            .fingerprint()
            .finish()
            .unwrap()
    }

    /// Waits for a datagram that is as wanted and passes over others, such as the reports that every peer gets.
    pub fn receive(&self, buffer: &mut [u8], is_wanted: impl Fn(&[u8]) -> bool) -> usize {
        loop {
            match self.socket.recv(buffer) {
                Ok(len) if is_wanted(&buffer[..len]) => return len,
                Ok(_) => {}
                // This thread probed for io_uring, whose end is told to it by an interruption.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("no datagram in time: {error}"),
            }
        }
    }

    /// Waits for a media packet.
    pub fn receive_rtp(&self, buffer: &mut [u8]) -> usize {
        self.receive(buffer, |bytes| bytes[0] >> 6 == 2 && !(192..=223).contains(&bytes[1]))
    }

    /// Sends a check and waits for its answer.
    pub fn check(&self) {
        let mut buffer = [0; 512];
        let len = self.write_check(&mut buffer);
        self.socket.send(&buffer[..len]).unwrap();
        let len = self.receive(&mut buffer, |bytes| bytes[..2] == [1, 1]);
        let answer = stun::Message::parse(&buffer[..len]).unwrap();
        assert_eq!(answer.transaction_id(), stun::TransactionId([7; 12]));
        assert!(answer.check_integrity(&stun::IntegrityKey::new(&self.pwd)));
    }

    /// Waits until the worker asks its address, and answers.
    pub fn consent(&self) {
        let mut buffer = [0; 512];
        let len = self.receive(&mut buffer, |bytes| bytes[..2] == [0, 1]);
        let len = self.write_answer(&mut buffer, len);
        self.socket.send(&buffer[..len]).unwrap();
    }

    /// Replaces a check of the worker's by its answer; the length of that.
    pub fn write_answer(&self, buffer: &mut [u8], len: usize) -> usize {
        let id = stun::Message::parse(&buffer[..len]).unwrap().transaction_id();
        let writer = stun::Writer::binding_success(buffer, id, self.socket.local_addr().unwrap());
        writer.integrity(&stun::IntegrityKey::new(PEERS_PWD)).fingerprint().finish().unwrap()
    }

    /// What protects the packets that it sends.
    pub fn sender(&self) -> Crypto {
        let (key, salt) = self.keys(Direction::Rx);
        Crypto::new(PROFILE, &key, &salt)
    }

    /// What unprotects the packets that it receives.
    pub fn receiver(&self) -> Crypto {
        let (key, salt) = self.keys(Direction::Tx);
        Crypto::new(PROFILE, &key, &salt)
    }
}

/// Writes a protected audio packet; its length.
pub fn write_packet(out: &mut [u8], crypto: &Crypto, ssrc: u32, seq: u16, payload: &[u8]) -> usize {
    let header_len = dataplane::rtp::HeaderWriter::new(out, false, 111, seq, u32::from(seq) * 960, ssrc).finish();
    crypto.protect_rtp(ssrc, u64::from(seq), header_len, out, header_len, payload).unwrap()
}
