//! What leaves as frames, seen from the other end of a cable: the bytes on the wire, and that they follow the kernel's
//! knowledge of neighbours, routes and devices. Without root there is no cable, and one line says so.

#![allow(unsafe_code)] // A device's offloads are switched by an ioctl, which has no safe form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use dataplane::config::Backend;
use dataplane::{Config, Dataplane};
use proto::link::{ControlLink, attach};
use proto::plane::{Commit, Counter};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::rig::network::{CLIENT_DEVICE, CLIENTS, DEVICE, EDGE, Network, in_network, ip};
use crate::rig::{Client, Folder, Ground, PATIENCE, Rig, config, drivers, wait_for, write_packet};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A microphone and who hears it.
struct Call {
    rig: Rig,
    alice: Client,
    bob: Client,
    ssrc: u32,
    seq: u16,
}

impl Call {
    fn start(network: &Network, bob: IpAddr) -> Call {
        let mut rig = Rig::start(Ground::frames(network));
        let (alice, bob) = (rig.connect(1, V4), rig.connect(2, bob));
        let (ssrc, _) = rig.carry(&alice, &bob);
        Call { rig, alice, bob, ssrc, seq: 0 }
    }

    /// One packet of so many bytes of payload, from end to end.
    fn carry(&mut self, len: usize) {
        self.send(len);
        let mut buffer = [0; 2000];
        self.bob.receive_rtp(&mut buffer);
    }

    fn send(&mut self, len: usize) {
        let packet = self.packet(len);
        self.alice.socket.send(&packet).unwrap();
    }

    fn packet(&mut self, len: usize) -> Vec<u8> {
        self.seq += 1;
        let mut buffer = vec![0; 2000];
        let len = write_packet(&mut buffer, &self.alice.sender(), self.ssrc, self.seq, &vec![7; len]);
        buffer.truncate(len);
        buffer
    }

    /// Carries packets until they leave as frames: a neighbour may have to be asked for first.
    fn warm_up(&mut self) {
        self.carry_until("packets leave as frames", Counter::SentFrames, 5);
    }

    /// Carries packets until a counter has grown so far.
    fn carry_until(&mut self, what: &str, counter: Counter, growth: u64) {
        let before = self.counter(counter);
        let deadline = Instant::now() + PATIENCE;
        while self.counter(counter) - before < growth {
            assert!(Instant::now() < deadline, "in vain: {what}");
            self.carry(100);
        }
    }

    /// A counter, once the worker has parked and with it published them.
    fn counter(&mut self, counter: Counter) -> u64 {
        let parks = self.rig.counter(Counter::Parks);
        self.rig.link().notify();
        self.rig.wait_for_counter(Counter::Parks, parks + 1);
        self.rig.counter(counter)
    }
}

/// A socket that sees every frame that comes in at the clients' end.
struct Capture(OwnedFd);

impl Capture {
    fn start() -> Capture {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        // ETH_P_ALL, in network order.
        let all = rustix::net::Protocol::from_raw(std::num::NonZeroU32::new(0x0300).unwrap());
        Capture(rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(all)).unwrap())
    }

    /// The first UDP datagram of at least so many bytes from the edge: its frame.
    fn frame(&self, len_min: usize) -> Vec<u8> {
        wait_for("a frame", || {
            let mut buffer = [0; 2048];
            let (len, _) = rustix::net::recv(&self.0, &mut buffer, RecvFlags::empty()).ok()?;
            let frame = &buffer[..len];
            let from_edge = match frame[14] >> 4 {
                4 => frame[23] == 17 && IpAddr::from(<[u8; 4]>::try_from(&frame[26..30]).unwrap()) == EDGE[0],
                6 => frame[20] == 17 && IpAddr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap()) == EDGE[1],
                _ => false,
            };
            (from_edge && len >= len_min).then(|| frame.to_vec())
        })
    }
}

/// Sum as RFC 1071 §4.1 writes it.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn mac_of(device: &str) -> [u8; 6] {
    let text = std::process::Command::new("ip").args(["-o", "link", "show", device]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    let mac = text.split("link/ether ").nth(1).and_then(|rest| rest.get(..17)).unwrap();
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// Takes checksums for what is sent from a device, so that frames are on the wire as a plain one would send them.
fn switch_checksums_off(device: &str) {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    const ETHTOOL_STXCSUM: u32 = 0x17;
    let socket = std::net::UdpSocket::bind((V4, 0)).unwrap();
    let mut value = Value { command: ETHTOOL_STXCSUM, data: 0 };
    // SAFETY: zeros are a request; the name is shorter than its field; the kernel reads the value during the call.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Opens a peer, and waits until it is open.
fn open(link: &mut ControlLink, client: &Client) {
    for command in client.commands().into_iter().chain([Commit { batch: 1 }.into()]) {
        assert!(link.push_command(&command));
    }
    link.notify();
    wait_for("the commit", || link.pop_report()).expect("the worker writes valid reports");
}

#[test]
fn frames_on_the_wire_are_right_to_the_last_checksum() {
    for (family, eth_type, ip_len) in [(V4, [8, 0], 20), (V6, [0x86, 0xdd], 40)] {
        in_network(|network| {
            network.at_edge(|| switch_checksums_off(DEVICE));
            let mut call = Call::start(&network, family);
            call.warm_up();
            let capture = Capture::start();
            let before = call.counter(Counter::SentFrames);
            call.carry(801);
            let frame = capture.frame(801);
            assert!(call.counter(Counter::SentFrames) > before, "it left as a frame");

            let edge_mac = network.at_edge(|| mac_of(DEVICE));
            assert_eq!(frame[..6], mac_of(CLIENT_DEVICE));
            assert_eq!(frame[6..12], edge_mac);
            assert_eq!(frame[12..14], eth_type);
            let (ip, udp) = frame[14..].split_at(ip_len);
            let place = usize::from(family.is_ipv6());
            let addresses = if family.is_ipv4() {
                assert_eq!((ip[0], ip[8], ip[9]), (0x45, 64, 17), "as a socket's: TTL 64");
                assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), frame.len() - 14);
                assert_eq!(ip[6..8], [0x40, 0], "don't fragment");
                assert_eq!(sum(ip), 0xffff, "the header's checksum");
                &ip[12..20]
            } else {
                assert_eq!((ip[0] >> 4, ip[6], ip[7]), (6, 17, 64));
                assert_eq!(usize::from(u16::from_be_bytes([ip[4], ip[5]])), udp.len());
                &ip[8..40]
            };
            assert_eq!(addresses.len(), 2 * if family.is_ipv4() { 4 } else { 16 });
            let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
            assert_eq!(port(0), call.rig.addresses()[place].port());
            assert_eq!(port(2), call.bob.socket.local_addr().unwrap().port());
            assert_eq!(usize::from(port(4)), udp.len());
            assert_ne!(port(6), 0, "it has a checksum");
            let pseudo = [addresses, &[0, 17], &udp[4..6], udp].concat();
            assert_eq!(sum(&pseudo), 0xffff, "and a right one");
        });
    }
}

#[test]
fn a_neighbour_that_moves_is_followed() {
    in_network(|network| {
        let mut call = Call::start(&network, V4);
        call.warm_up();
        let moved = [2, 0, 0, 0, 0x77, 1];
        // As when another machine takes an address over: its new place is announced.
        ip(&format!("link set {CLIENT_DEVICE} address 02:00:00:00:77:01")).unwrap();
        let client = CLIENTS[0];
        network.at_edge(move || {
            ip(&format!("neigh replace {client} lladdr 02:00:00:00:77:01 nud reachable dev {DEVICE}")).unwrap();
        });
        std::thread::sleep(Duration::from_millis(20)); // News are read every 10 ms.
        let capture = Capture::start();
        let before = call.counter(Counter::SentFrames);
        call.carry(700);
        assert_eq!(capture.frame(700)[..6], moved);
        assert!(call.counter(Counter::SentFrames) > before);

        // Nobody knows it any more: the socket has it asked for, and then frames go on.
        let before = call.counter(Counter::FramesToSockets);
        network.at_edge(move || ip(&format!("neigh del {client} dev {DEVICE}")).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        call.carry(100);
        assert!(call.counter(Counter::FramesToSockets) > before);
        call.warm_up();
    });
}

#[test]
fn what_is_longer_than_the_path_goes_by_the_socket() {
    in_network(|network| {
        let mut call = Call::start(&network, V4);
        call.warm_up();
        network.at_edge(|| ip(&format!("route replace 10.77.0.0/24 dev {DEVICE} mtu 600")).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        let before = call.counter(Counter::FramesToSockets);
        call.carry(900);
        assert!(call.counter(Counter::FramesToSockets) > before, "the kernel cuts it into fragments");
        call.warm_up();
    });
}

#[test]
fn long_trains_go_by_the_socket() {
    in_network(|network| {
        let mut call = Call::start(&network, V4);
        call.warm_up();
        // Whether they come in one turn is the worker's affair. They are made before, because it is about as quick to send one
        // as this test to make one.
        const BURST: usize = 32;
        let mut buffer = [0; 2000];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (sent, trains) = (call.counter(Counter::Sent), call.counter(Counter::SentTrains));
            let packets: Vec<_> = (0..BURST).map(|_| call.packet(500)).collect();
            for packet in &packets {
                call.alice.socket.send(packet).unwrap();
            }
            for _ in &packets {
                call.bob.receive_rtp(&mut buffer);
            }
            let sent = call.counter(Counter::Sent) - sent;
            if call.counter(Counter::SentTrains) - trains < sent {
                break;
            }
            assert!(Instant::now() < deadline, "no burst leaves as trains");
        }
        assert_eq!(call.counter(Counter::SendFailed), 0);
    });
}

#[test]
fn a_device_that_goes_down_comes_back() {
    in_network(|network| {
        let mut call = Call::start(&network, V4);
        call.warm_up();
        network.at_edge(|| ip(&format!("link set {DEVICE} down")).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        // Consent is kept by the clock, so this may take its time.
        call.rig.commit(&[]);
        network.at_edge(|| ip(&format!("link set {DEVICE} up")).unwrap());
        wait_for("the cable", || {
            call.send(100);
            call.bob.socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let mut buffer = [0; 2000];
            call.bob.socket.recv(&mut buffer).ok().filter(|_| buffer[0] >> 6 == 2)
        });
        call.bob.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        call.warm_up();
    });
}

#[test]
fn two_workers_have_a_queue_each_and_a_third_the_socket() {
    in_network(|network| {
        let folder = Folder::new();
        let config = Config {
            media_ips: vec![EDGE[0]],
            workers: 3,
            backend: Backend::Frames,
            ..config(&folder, drivers().next().unwrap())
        };
        let link = config.link.clone();
        let running = network.at_edge(move || Dataplane::start(&Config { media_port: 40_000, ..config }).unwrap());
        let mut attached = attach(link.clone()).unwrap();
        let mut by_frames = Vec::new();
        for (link, hello) in &mut attached.workers {
            let client = Client::new(1, CLIENTS[0], hello.addresses[0]);
            open(link, &client);
            for _ in 0..20 {
                client.check();
            }
            let answered = || link.counters().filter(|c| c[Counter::BindingAnswered as usize] >= 20);
            let counters = wait_for("the checks", answered);
            by_frames.push(counters[Counter::SentFrames as usize] > 0);
        }
        by_frames.sort_unstable();
        assert_eq!(by_frames, [false, true, true]);
        drop(running);
    });
}

#[test]
fn on_loopback_the_sockets_serve() {
    let folder = Folder::new();
    let config = Config { backend: Backend::Frames, ..config(&folder, drivers().next().unwrap()) };
    let running = Dataplane::start(&config).expect("frames are no condition");
    let mut attached = attach(config.link.clone()).unwrap();
    let link = &mut attached.workers[0].0;
    let client = Client::new(1, V4, running.addresses()[0][0]);
    open(link, &client);
    client.check();
    let counters = wait_for("the check", || link.counters().filter(|c| c[Counter::BindingAnswered as usize] == 1));
    assert_eq!(counters[Counter::SentFrames as usize] + counters[Counter::FramesToSockets as usize], 0);
}
