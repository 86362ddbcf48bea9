//! A dataplane from outside: real sockets, the real link, both drivers of the runtime.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use dataplane::{Config, Dataplane, Error};
use proto::id::{Mid, RouteId, SlotId, StreamId, TapId};
use proto::link::{Lost, attach};
use proto::plane::{
    Codec, Counter, DatagramHeader, DatagramKind, Describe, Event, MirrorOpen, PeerOpen, Report, RouteOpen, SlotOpen,
    StreamOpen, TapOpen,
};

use crate::rig::{Client, Folder, Ground, Rig, config, drivers, on_every_ground, wait_for, write_packet};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A DTLS record that could be one: a handshake of two bytes.
const DTLS: &[u8] = &[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 9, 9];

#[test]
fn every_datagram_is_counted_with_its_fate() {
    on_every_ground(|ground| {
        let mut rig = Rig::start(ground);
        for (address, local) in rig.addresses().into_iter().zip([V4, V6]) {
            let stranger = UdpSocket::bind((ground.clients(local), 0)).unwrap();
            for junk in [&b""[..], &[0xff; 9], &[0x80; 40], &[0; 20], DTLS, &[0xaa; 60_000]] {
                stranger.send_to(junk, address).unwrap();
            }
        }
        rig.wait_for_counter(Counter::Received, 12);
        rig.check_conservation();
        assert_eq!(rig.counter(Counter::ReceivedBytes), 2 * (9 + 40 + 20 + DTLS.len() as u64 + 60_000));
        assert_eq!(rig.counter(Counter::Forwarded) + rig.counter(Counter::Punted), 0);
    });
}

#[test]
fn packets_go_from_one_peer_to_another_on_both_families() {
    on_every_ground(|ground| {
        let mut rig = Rig::start(ground);
        let (alice, bob) = (rig.connect(1, V4), rig.connect(2, V6));
        let (ssrc, slot_ssrc) = rig.carry(&alice, &bob);
        let (sender, receiver) = (alice.sender(), bob.receiver());
        let mut buffer = [0; 1500];
        for seq in 1..=50u16 {
            let payload = vec![seq as u8; 20 + usize::from(seq)];
            let len = write_packet(&mut buffer, &sender, ssrc, seq, &payload);
            alice.socket.send(&buffer[..len]).unwrap();
            let len = bob.receive_rtp(&mut buffer);
            let header = dataplane::rtp::Header::parse(&buffer[..len]).unwrap();
            assert_eq!(header.ssrc, slot_ssrc);
            let len = receiver
                .unprotect_rtp(slot_ssrc, u64::from(header.seq), header.header_len, &mut buffer[..len])
                .expect("it is protected for bob");
            assert_eq!(&buffer[header.header_len..len], payload);
        }
        rig.wait_for_counter(Counter::Forwarded, 50);
        assert_eq!(rig.counter(Counter::Sent), 50);
        assert_eq!(rig.counter(Counter::SendFailed), 0);
        rig.check_conservation();
    });
}

/// Each word wakes two parked workers: the publisher's by its socket, the receiver's by the other worker.
#[test]
fn packets_go_from_a_peer_on_one_core_to_a_peer_on_another() {
    on_every_ground(|ground| {
        let mut rig = Rig::start_workers(ground, 2);
        let alice = rig.connect(1, V4);
        let (stream, ssrc) = (StreamId::new(5, 1), 0x1001);
        let (mirror, slot, slot_ssrc) = (StreamId::new(7, 1), SlotId::new(2, 1), 0x2002);
        let (peer, pt, codec) = (alice.id, 111, Codec::Opus);
        let (rtx_ssrc, rtx_pt, mid, feedback) = (0, 0, Mid::NONE, 0);
        let open = StreamOpen { stream, peer, ssrc, rtx_ssrc, mid, pt, rtx_pt, codec, feedback, red_pt: 0 };
        rig.commit(&[open.into(), TapOpen { tap: TapId::new(0, 1), stream, worker: 1, mirror }.into()]);
        rig.worker = 1;
        let bob = rig.connect(2, V4);
        let (seq_first, rtx_seq_first, timestamp_first) = (100, 100, 1);
        let in_slot =
            SlotOpen { slot, peer: bob.id, ssrc: slot_ssrc, rtx_ssrc, mid, seq_first, rtx_seq_first, timestamp_first };
        let route = RouteOpen { route: RouteId::new(2, 1), stream: mirror, slot, pt, rtx_pt, red_pt: 0 };
        let origin = MirrorOpen { stream: mirror, worker: 0, origin: stream, publisher: peer, pt, rtx_pt, codec };
        rig.commit(&[in_slot.into(), origin.into(), route.into()]);
        let (sender, receiver) = (alice.sender(), bob.receiver());
        let mut buffer = [0; 1500];
        let begun = Instant::now();
        for seq in 1..=200u16 {
            let payload = vec![seq as u8; 20 + usize::from(seq)];
            let len = write_packet(&mut buffer, &sender, ssrc, seq, &payload);
            alice.socket.send(&buffer[..len]).unwrap();
            let len = bob.receive_rtp(&mut buffer);
            let header = dataplane::rtp::Header::parse(&buffer[..len]).unwrap();
            let len = receiver
                .unprotect_rtp(slot_ssrc, u64::from(header.seq), header.header_len, &mut buffer[..len])
                .expect("it is protected for bob");
            assert_eq!(&buffer[header.header_len..len], payload);
        }
        rig.wait_for_counter(Counter::RelayReceived, 200);
        rig.check_conservation();
        // From the kernel's stamp on the one worker to the sending on the other. Each was sent when the one before had come,
        // so no more than two are under way at any moment: one that has left and is not counted yet, and the next.
        let latencies = rig.link().latencies();
        assert_eq!(latencies.count(), 200);
        let together = 2 * begun.elapsed().as_micros() as u64;
        assert!((200..=together).contains(&latencies.sum), "{} of {together} µs", latencies.sum);
        rig.worker = 0;
        assert_eq!(rig.link().latencies().count(), 0, "they count where they leave");
        rig.wait_for_counter(Counter::Relayed, 200);
        rig.check_conservation();
        assert_eq!((rig.counter(Counter::Sent), rig.counter(Counter::RelayFull)), (0, 0));
    });
}

#[test]
fn dtls_goes_up_and_down_over_a_link_that_sleeps() {
    on_every_ground(|ground| {
        let mut rig = Rig::start(ground);
        let client = rig.connect(1, V4);
        let mut buffer = [0; 200];
        for round in 0..20u8 {
            // The worker is parked by now, and the controlplane says that it sleeps: both must be woken.
            rig.link().sleep().then_some(()).or_else(|| {
                while rig.link().pop_report().is_some() {}
                rig.link().sleep().then_some(())
            });
            client.socket.send(DTLS).unwrap();
            wait_until_readable(&rig);
            rig.link().awake();
            rig.link().clear_wake();
            let header = wait_for("a punt", || {
                rig.link().pop_punt().map(|punt| {
                    let (header, payload) = punt.unwrap();
                    assert_eq!(payload, DTLS);
                    header
                })
            });
            assert_eq!((header.peer, header.remote), (client.id, client.socket.local_addr().unwrap()));
            assert!(rig.link().push_inject(&header, &[round; 90]));
            rig.link().notify();
            let len = client.receive(&mut buffer, |bytes| bytes[0] < 64);
            assert_eq!(buffer[..len], [round; 90]);
        }
        // Nothing goes to an address that the peer has not proved.
        let elsewhere = UdpSocket::bind((ground.clients(V4), 0)).unwrap().local_addr().unwrap();
        let header = DatagramHeader { kind: DatagramKind::Dtls, peer: client.id, remote: elsewhere, len: 3 };
        assert!(rig.link().push_inject(&header, b"no!"));
        rig.link().notify();
        rig.wait_for_counter(Counter::InjectRefused, 1);
    });
}

fn wait_until_readable(rig: &Rig) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
    let fd = rig.attached.workers[0].0.wake_fd();
    assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience)).unwrap(), 1, "no wake came");
}

#[test]
fn an_idle_worker_parks_and_stays_parked() {
    on_every_ground(|ground| {
        let mut rig = Rig::start(ground);
        rig.commit(&[]);
        rig.wait_for_counter(Counter::Parks, 1);
        // When it comes to rest depends on the machine; that it does, and then does next to nothing, is its own doing.
        wait_for("a worker at rest", || {
            let turns = rig.counter(Counter::Turns);
            std::thread::sleep(Duration::from_millis(300));
            (rig.counter(Counter::Turns) - turns <= 2).then_some(())
        });
    });
}

#[test]
fn a_second_controlplane_finds_the_peers_and_fences_the_first() {
    on_every_ground(|ground| {
        let mut rig = Rig::start(ground);
        let client = rig.connect(1, V4);
        // Staged by the first one, and never committed.
        let ghost = PeerOpen { peer: proto::id::PeerId::new(7, 1), ufrag: *b"ghost000", pwd: [b'x'; 24] };
        assert!(rig.link().push_command(&ghost.into()));

        let next = attach(rig.config.link.clone()).unwrap();
        assert!(next.workers[0].1.epoch > rig.attached.workers[0].1.epoch);
        assert_eq!(next.workers[0].1.addresses, rig.addresses());
        let mut first = std::mem::replace(&mut rig.attached, next);
        wait_for("the news that it was replaced", || first.socket.lost().filter(|lost| *lost == Lost::Replaced));

        // Once the worker has answered the second one, the first one's late words are heard by nobody.
        rig.commit(&[]);
        assert!(first.workers[0].0.push_command(&proto::plane::Reset {}.into()));
        assert!(first.workers[0].0.push_command(&proto::plane::Commit { batch: 99 }.into()));
        first.workers[0].0.notify();

        let told = rig.commit(&[Describe {}.into()]);
        let rest = rig.reports_until(|report| matches!(report, Report::Event(Event::Described(_))));
        let peers: Vec<_> = told
            .iter()
            .chain(&rest)
            .filter_map(|report| match report {
                Report::Echo(proto::plane::Command::PeerOpen(open)) => Some(open.peer),
                _ => None,
            })
            .collect();
        assert_eq!(peers, [client.id], "what was staged is gone, what was committed is there");
        client.check();
    });
}

#[test]
fn peers_are_served_while_no_controlplane_is_there() {
    let mut rig = Rig::start(Ground::any());
    let (alice, bob) = (rig.connect(1, V4), rig.connect(2, V4));
    let (ssrc, _) = rig.carry(&alice, &bob);
    rig.attached.workers.clear();
    let sender = alice.sender();
    let mut buffer = [0; 200];
    for seq in 1..=20 {
        alice.check();
        let len = write_packet(&mut buffer, &sender, ssrc, seq, b"on and on");
        alice.socket.send(&buffer[..len]).unwrap();
        bob.receive_rtp(&mut buffer);
    }
}

#[test]
fn a_burst_of_strangers_keeps_nobody_out() {
    on_every_ground(|ground| {
        let mut rig = Rig::start(ground);
        let client = rig.connect(1, V6);
        let [v4, _] = rig.addresses();
        // Dropping the sender ends the burst, also when a check fails.
        let (goes_on, is_over) = std::sync::mpsc::channel::<()>();
        let client_ip = ground.clients(V4);
        let burst = std::thread::spawn(move || {
            let stranger = UdpSocket::bind((client_ip, 0)).unwrap();
            while is_over.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
                stranger.send_to(&[0x90; 300], v4).unwrap();
            }
        });
        for _ in 0..50 {
            client.check();
        }
        drop(goes_on);
        burst.join().unwrap();
        let before = rig.counter(Counter::Parks);
        rig.wait_for_counter(Counter::Parks, before + 1);
        rig.check_conservation();
    });
}

#[test]
fn a_stopped_dataplane_frees_its_ports_and_its_socket() {
    for driver in drivers() {
        let rig = Rig::start(Ground::loopback(driver));
        let port = rig.addresses()[0].port();
        let config = Config { media_ips: vec![V4], media_port: port, ..rig.config.clone() };
        let Rig { dataplane, attached, .. } = rig;
        dataplane.stop();
        assert_eq!(wait_for("the end of the link", || attached.socket.lost()), Lost::Died);
        std::fs::create_dir_all(config.link.path.parent().unwrap()).unwrap();
        let again = Dataplane::start(&config).unwrap();
        assert_eq!(again.addresses(), [[SocketAddr::new(V4, port)]]);
        std::fs::remove_dir_all(config.link.path.parent().unwrap()).unwrap();
    }
}

#[test]
fn run_serves_until_it_is_told_to_stop() {
    let folder = Folder::new();
    let config = config(&folder, Default::default());
    dataplane::run(&config, || {
        let mut attached = attach(config.link.clone()).unwrap();
        let address = attached.workers[0].1.addresses[0];
        UdpSocket::bind((V4, 0)).unwrap().send_to(b"hello?", address).unwrap();
        let link = &mut attached.workers[0].0;
        wait_for("the datagram", || link.counters().filter(|counters| counters[Counter::Received as usize] == 1));
    })
    .unwrap();
    assert!(attach(config.link.clone()).is_err());
}

#[test]
fn workers_have_ports_in_a_row() {
    let folder = Folder::new();
    // Somewhere, three ports in a row are free.
    let dataplane = (0..20).find_map(|_| {
        let port = UdpSocket::bind((V4, 0)).unwrap().local_addr().unwrap().port();
        let config = Config { media_port: port, workers: 3, ..config(&folder, Default::default()) };
        Dataplane::start(&config).ok().map(|dataplane| (port, dataplane))
    });
    let (port, dataplane) = dataplane.expect("twenty tries");
    let ports: Vec<_> = dataplane.addresses().iter().map(|a| (a[0].port(), a[1].port())).collect();
    assert_eq!(ports, [0, 1, 2].map(|i| (port + i, port + i)));
}

#[test]
fn what_the_operator_got_wrong_is_one_line_with_advice() {
    let folder = Folder::new();
    let good = config(&folder, Default::default());
    let holder = UdpSocket::bind((V4, 0)).unwrap();
    let taken = holder.local_addr().unwrap().port();
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let wrong = [
        (Config { media_ips: vec![], ..good.clone() }, "--media-ip"),
        (Config { media_ips: vec![ip("0.0.0.0")], ..good.clone() }, "--media-ip"),
        (Config { media_ips: vec![ip("224.0.0.1")], ..good.clone() }, "--media-ip"),
        (Config { media_ips: vec![V4, V4], ..good.clone() }, "--media-ip"),
        (Config { media_ips: vec![ip("192.0.2.1")], ..good.clone() }, "--media-ip"),
        (Config { media_ips: (0..17).map(|i| ip(&format!("127.0.0.{i}"))).collect(), ..good.clone() }, "--media-ip"),
        (Config { media_port: taken, ..good.clone() }, "--media-port"),
        (Config { media_port: 65_535, workers: 2, ..good.clone() }, "--media-port"),
        (Config { workers: 0, ..good.clone() }, "--workers"),
        (Config { workers: 1025, ..good.clone() }, "--workers"),
    ];
    for (config, option) in wrong {
        let error = Dataplane::start(&config).err().unwrap_or_else(|| panic!("{config:?} must not start"));
        let line = error.to_string();
        assert!(line.contains(option) && !line.contains('\n'), "{line}");
    }
    let _running = Dataplane::start(&good).expect("nothing is left behind by those");
    assert!(matches!(Dataplane::start(&good).err(), Some(Error::Link(_))), "one dataplane for one state folder");
}

#[test]
fn a_port_that_is_let_go_within_a_moment_is_waited_for() {
    let folder = Folder::new();
    let holder = UdpSocket::bind((V4, 0)).unwrap();
    let port = holder.local_addr().unwrap().port();
    let config = Config { media_ips: vec![V4], media_port: port, ..config(&folder, Default::default()) };
    let started = Instant::now();
    let releaser = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(holder);
    });
    let dataplane = Dataplane::start(&config).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(90));
    assert_eq!(dataplane.addresses()[0][0].port(), port);
    releaser.join().unwrap();
}

#[test]
fn clients_behind_one_address_are_told_apart() {
    let mut rig = Rig::start(Ground::any());
    let clients: Vec<Client> = (1..=40).map(|index| rig.connect(index, V4)).collect();
    for client in clients.iter().rev() {
        client.check();
    }
    rig.wait_for_counter(Counter::BindingAnswered, 80);
}
