use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use proto::plane::SrtpProfile;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::config::{Driver, SECOND, TCP_FRAME_LEN_MAX};
use crate::io::block_on;
use crate::packet::Begun;
use crate::path::Destination;
use crate::rtp::HeaderWriter;
use crate::srtp::{Crypto, Sender};

/// Connections of one worker, in virtual time.
struct Rig {
    tcp: Tcp,
    inbox: Inbox,
    now: Micros,
    counts: Counts,
    _parking: Parking,
}

impl Rig {
    fn run(test: impl FnOnce(Rig)) {
        // Both ends of all connections are of this process.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        let body = async {
            let mut parking = Parking::new();
            let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            let tcp = Tcp::open(vec![listener], &mut parking, [7; 16]).unwrap();
            test(Rig { tcp, inbox: Inbox::new(), now: SECOND, counts: Counts::default(), _parking: parking });
        };
        block_on(Driver::Epoll, body).unwrap();
    }

    fn dial(&self) -> TcpStream {
        TcpStream::connect(self.tcp.listeners[0].local()).unwrap()
    }

    /// The same from another source.
    fn dial_from(&self, source: u8) -> TcpStream {
        let family = rustix::net::AddressFamily::INET;
        let socket = rustix::net::socket(family, rustix::net::SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 1, source], 0))).unwrap();
        rustix::net::connect(&socket, &self.tcp.listeners[0].local()).unwrap();
        socket.into()
    }

    /// Looks until something is as wanted; what came meanwhile.
    fn look_until(&mut self, is_owned: impl Fn(Path) -> bool, is_met: impl Fn(&Rig) -> bool) -> Vec<(Path, Vec<u8>)> {
        let (mut got, begun) = (Vec::new(), Instant::now());
        loop {
            self.now += TCP_LOOK_INTERVAL;
            self.tcp.look(self.now, &mut self.inbox, &is_owned);
            got.extend(self.inbox.datagrams().map(|datagram| (datagram.path, datagram.bytes.to_vec())));
            let more = self.tcp.take_counts();
            let all = &mut self.counts;
            all.open = more.open;
            for (sum, more) in [
                (&mut all.accepted, more.accepted),
                (&mut all.refused, more.refused),
                (&mut all.unowned, more.unowned),
                (&mut all.malformed, more.malformed),
                (&mut all.sent, more.sent),
                (&mut all.video_dropped, more.video_dropped),
                (&mut all.dropped, more.dropped),
            ] {
                *sum += more;
            }
            if is_met(self) {
                return got;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain: {:?}", self.counts);
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn accept(&mut self, count: u64, is_owned: impl Fn(Path) -> bool) {
        self.look_until(is_owned, |rig| rig.counts.accepted == count);
    }

    /// Where a connection of ours comes from.
    fn path(stream: &TcpStream) -> Path {
        Path::tcp(0, stream.local_addr().unwrap())
    }
}

/// Makes packets for connections.
struct Writer {
    outbox: Outbox,
    crypto: Crypto,
    senders: [Sender; 2],
    next: u64,
}

impl Writer {
    fn new() -> Writer {
        let mut senders = [Sender::new(1, 1), Sender::new(2, 1)];
        senders[0].set_video(false);
        let crypto = Crypto::new(SrtpProfile::AeadAes128Gcm, &[7; 32], &[7; 14]);
        Writer { outbox: Outbox::new(), crypto, senders, next: 1 }
    }

    /// One packet to each of these.
    fn write(&mut self, paths: &[Path], is_video: bool, payload: &[u8]) {
        for (&path, peer) in paths.iter().zip(0..) {
            let (ssrc, seq) = (1 + u32::from(is_video), self.next as u16);
            let sender = &mut self.senders[usize::from(is_video)];
            self.outbox.push_rtp(Destination::new(peer, path), &self.crypto, sender, self.next, |frame| {
                let len = HeaderWriter::new(frame, false, 100, seq, 0, ssrc).finish();
                Begun { header_len: len, len, rest: payload }
            });
            self.next += 1;
        }
    }

    fn flush(&mut self, tcp: &mut Tcp) {
        tcp.send(&self.outbox);
        self.outbox.clear();
    }
}

/// Reads whole frames until the connection has no more for a moment.
fn read_frames(stream: &mut TcpStream) -> Vec<Vec<u8>> {
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..len]);
    }
    let whole = frame::whole(&bytes).expect("they are frames");
    frame::Packets::new(&mut bytes[..whole]).map(|packet| packet.to_vec()).collect()
}

#[test]
fn a_connection_that_another_process_has_accepted_is_like_the_others() {
    Rig::run(|mut rig| {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let packet = [7; 40];
        stream.write_all(&[&frame::prefix(&packet)[..], &packet].concat()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        rig.tcp.hand_over(accepted.into());
        let path = Path::handed(stream.local_addr().unwrap());
        let got = rig.look_until(|_| true, |rig| !rig.inbox.is_empty());
        assert_eq!(got, [(path, packet.to_vec())]);
        let mut writer = Writer::new();
        writer.write(&[path], true, b"an answer");
        writer.flush(&mut rig.tcp);
        assert_eq!(read_frames(&mut stream).len(), 1);
        drop(stream);
        rig.look_until(|_| true, |rig| rig.inbox.closed().eq([path]));

        // More than there is room for between two looks, and what is no connection.
        for _ in 0..TCP_HANDED_MAX + 1 {
            let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
            rig.tcp.hand_over(socket.into());
        }
        rig.look_until(|_| true, |rig| rig.counts.refused == TCP_HANDED_MAX as u64 + 1);
        assert_eq!((rig.counts.accepted, rig.counts.open), (1, 0));
    });
}

#[test]
fn packets_come_as_they_were_framed() {
    Rig::run(|mut rig| {
        let mut stream = rig.dial();
        rig.accept(1, |_| true);
        let packets: Vec<Vec<u8>> =
            (12..400).map(|len| vec![len as u8; len]).chain([vec![9; TCP_FRAME_LEN_MAX]]).collect();
        for packet in &packets {
            stream.write_all(&[&frame::prefix(packet)[..], packet].concat()).unwrap();
        }
        let (mut got, path) = (Vec::new(), Rig::path(&stream));
        while got.len() < packets.len() {
            let more = rig.look_until(|_| true, |rig| !rig.inbox.is_empty());
            got.extend(more.into_iter().map(|(from, packet)| {
                assert_eq!(from, path);
                packet
            }));
        }
        assert!(got == packets);
        drop(stream);
        rig.look_until(|_| true, |rig| rig.inbox.closed().any(|closed| closed == path));
        assert_eq!(rig.counts.open, 0);
    });
}

#[test]
fn who_is_nobody_has_five_seconds() {
    Rig::run(|mut rig| {
        let (known, stranger) = (rig.dial(), rig.dial());
        let owned = Rig::path(&known);
        rig.accept(2, |path| path == owned);
        let begun = rig.now;
        rig.now = begun + TCP_UNOWNED_MAX - 2 * TCP_LOOK_INTERVAL;
        rig.look_until(|path| path == owned, |_| true);
        assert_eq!((rig.counts.unowned, rig.counts.open), (0, 2));
        rig.now = begun + TCP_UNOWNED_MAX + TCP_REVIEW_INTERVAL;
        rig.look_until(|path| path == owned, |rig| rig.counts.unowned == 1);
        assert!(rig.inbox.closed().eq([Rig::path(&stranger)]));
        // From the time on at which the peer of the other one is gone, that one has as long.
        rig.now += TCP_REVIEW_INTERVAL;
        rig.look_until(|_| false, |_| true);
        assert_eq!(rig.counts.open, 1);
        rig.now += TCP_UNOWNED_MAX;
        rig.look_until(|_| false, |rig| rig.counts.unowned == 2);
        assert_eq!(rig.counts.open, 0);
    });
}

#[test]
fn one_source_has_its_share_and_a_full_worker_takes_peers_all_the_same() {
    Rig::run(|mut rig| {
        let mut streams: Vec<TcpStream> = (0..TCP_SOURCE_UNOWNED_MAX + 3).map(|_| rig.dial()).collect();
        let unowned = TCP_SOURCE_UNOWNED_MAX as u64;
        rig.look_until(|_| false, |rig| rig.counts.refused == 3);
        assert_eq!((rig.counts.accepted, rig.counts.open), (unowned, unowned));
        // When they are peers, their source may have more.
        streams.extend((streams.len()..TCP_SOURCE_MAX + 6).map(|_| rig.dial()));
        rig.look_until(|_| true, |rig| rig.counts.refused == 6);
        assert_eq!(rig.counts.open, TCP_SOURCE_MAX as u64);
        // Others fill the worker, and are nobody.
        let source_of = |path: Path| path.remote.ip() == Ipv4Addr::LOCALHOST;
        let mut source = 0;
        while rig.counts.open < TCP_CONNECTIONS_MAX as u64 {
            source += 1;
            let all = rig.counts.accepted + unowned;
            streams.extend((0..unowned).map(|_| rig.dial_from(source)));
            rig.accept(all, source_of);
        }
        let before = rig.counts.accepted;
        streams.push(rig.dial_from(200));
        rig.accept(before + 1, source_of);
        assert_eq!((rig.counts.open, rig.counts.unowned), (TCP_CONNECTIONS_MAX as u64, 1), "the oldest makes room");
        // Where all are peers, nobody makes room.
        streams.push(rig.dial_from(200));
        rig.look_until(|_| true, |rig| rig.counts.refused == 7);
        assert_eq!(rig.counts.unowned, 1);
    });
}

/// A hundred receivers that read nothing: what is kept for each is bounded, and it is video that is dropped.
#[test]
fn a_receiver_that_reads_nothing_loses_video_and_then_all_else() {
    const DEAF: usize = 100;
    Rig::run(|mut rig| {
        let mut streams: Vec<TcpStream> = Vec::new();
        for wave in 1..=DEAF / 20 {
            streams.extend((0..20).map(|_| rig.dial()));
            rig.accept(20 * wave as u64, |_| true);
        }
        let paths: Vec<Path> = streams.iter().map(Rig::path).collect();
        let mut writer = Writer::new();
        for turn in 0..1000u32 {
            writer.write(&paths, true, &[turn as u8; 1100]);
            writer.flush(&mut rig.tcp);
            if turn % 20 == 0 {
                writer.write(&paths, false, &[turn as u8; 100]);
                writer.flush(&mut rig.tcp);
                rig.look_until(|_| true, |_| true);
            }
        }
        rig.look_until(|_| true, |_| true);
        let Counts { sent, video_dropped, dropped, open, .. } = rig.counts;
        assert_eq!((sent + video_dropped + dropped, open), (DEAF as u64 * 1050, DEAF as u64));
        assert!(video_dropped > DEAF as u64 * 100, "{:?}", rig.counts);
        assert_eq!(dropped, 0, "no packet of audio");
        let frames = read_frames(&mut streams[0]);
        let audio = frames.iter().filter(|frame| frame.len() < 200).count();
        assert!(audio > 0 && frames.len() > audio);
        // Nothing but audio any more, until even that finds no room.
        while rig.counts.dropped == 0 {
            writer.write(&paths[1..2], false, &[1; 100]);
            writer.flush(&mut rig.tcp);
            rig.look_until(|_| true, |_| true);
        }
        assert_eq!(rig.counts.open, DEAF as u64);
    });
}

#[test]
fn a_receiver_that_reads_again_gets_all_that_waits_and_then_video_again() {
    Rig::run(|mut rig| {
        let mut stream = rig.dial();
        rig.accept(1, |_| true);
        let (path, mut writer) = ([Rig::path(&stream)], Writer::new());
        while rig.counts.video_dropped == 0 {
            writer.write(&path, true, &[1; 1100]);
            writer.flush(&mut rig.tcp);
            rig.look_until(|_| true, |_| true);
        }
        let reader = std::thread::spawn(move || (read_frames(&mut stream), stream));
        rig.look_until(|_| true, |rig| rig.tcp.connections.iter().flatten().all(|connection| !connection.is_waiting()));
        let (frames, mut stream) = reader.join().unwrap();
        assert_eq!(frames.len() as u64, rig.counts.sent, "all that was not dropped, in whole frames");
        writer.write(&path, true, &[2; 1100]);
        writer.flush(&mut rig.tcp);
        assert_eq!(read_frames(&mut stream).len(), 1);
    });
}

#[test]
fn a_connection_that_ends_while_it_is_written_to_is_closed_at_the_next_look() {
    Rig::run(|mut rig| {
        let stream = rig.dial();
        rig.accept(1, |_| true);
        let (path, mut writer) = ([Rig::path(&stream)], Writer::new());
        drop(stream);
        for _ in 0..20 {
            writer.write(&path, true, &[1; 1100]);
            writer.flush(&mut rig.tcp);
        }
        rig.look_until(|_| true, |rig| rig.inbox.closed().eq(path));
        writer.write(&path, true, &[1; 1100]);
        writer.flush(&mut rig.tcp);
        assert_eq!(rig.tcp.by_path.len() + rig.tcp.over.len(), 0);
    });
}

#[test]
fn without_descriptors_nothing_is_accepted_until_the_next_review() {
    Rig::run(|mut rig| {
        rig.tcp.pause();
        let _stream = rig.dial();
        rig.tcp.review_at = rig.now + SECOND;
        for _ in 0..100 {
            rig.look_until(|_| true, |_| true);
        }
        assert_eq!((rig.counts.accepted, rig.tcp.deadline()), (0, Some(rig.tcp.review_at)));
        rig.now += SECOND;
        rig.accept(1, |_| true);
    });
}

#[test]
fn a_source_is_an_address_or_a_network_of_64_bits() {
    let source = |text: &str| super::source(text.parse().unwrap());
    assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
    assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
    assert_ne!(source("0.0.0.0"), source("::"));
}
