//! Packets of a frame wait for the rest of it, where many receive them: over real sockets and the production turn, which
//! the test steps itself.

mod rig;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use dataplane::Stepped;
use dataplane::config::{Backend, Driver, FRAME_PATIENCE, PATIENT_ROUTES_MIN};
use dataplane::io::{Socket, block_on};
use dataplane::rtp::HeaderWriter;
use dataplane::srtp::Crypto;
use proto::id::{Mid, RouteId, SlotId, StreamId};
use proto::link::{self, ControlLink};
use proto::plane::{Codec, Command, Commit, Counter, RouteOpen, SlotOpen, StreamOpen};
use rig::Client;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const VIDEO: u32 = 0x1001;
const AUDIO: u32 = 0x1002;
const VIDEO_PT: u8 = 102;
const AUDIO_PT: u8 = 111;
/// IDR slice with its parameter sets before it would be a keyframe; an SPS alone lets receivers in.
const SPS: u8 = 0x67;

/// A worker, somebody with a camera and a microphone, and those who receive both.
struct Broadcast {
    worker: Stepped,
    control: ControlLink,
    publisher: Client,
    receivers: Vec<Client>,
    sender: Crypto,
    seq: u16,
}

impl Broadcast {
    fn new(receivers: usize) -> Broadcast {
        let socket = Socket::bind((LOCALHOST, 0).into()).unwrap();
        let address = socket.local();
        let (link, control) = link::pair().unwrap();
        let worker = Stepped::new(vec![socket], link, Backend::Udp, [3; 16]).unwrap();
        let publisher = Client::new(0, LOCALHOST, address);
        let receivers = (1..=receivers as u32).map(|index| Client::new(index, LOCALHOST, address)).collect();
        let sender = publisher.sender();
        let mut broadcast = Broadcast { worker, control, publisher, receivers, sender, seq: 0 };
        broadcast.open();
        // It lets everybody in, and is a frame of one packet.
        broadcast.send(VIDEO, true, SPS);
        broadcast
    }

    fn open(&mut self) {
        let mut commands: Vec<Command> = self.publisher.commands().to_vec();
        let (rtx_ssrc, rtx_pt, mid, feedback, peer) = (0, 0, Mid::NONE, 0, self.publisher.id);
        let media = [(Codec::H264, VIDEO, VIDEO_PT), (Codec::Opus, AUDIO, AUDIO_PT)];
        for (n, (codec, ssrc, pt)) in media.into_iter().enumerate() {
            let stream = StreamId::new(n as u32, 1);
            commands.push(StreamOpen { stream, peer, ssrc, rtx_ssrc, mid, pt, rtx_pt, codec, feedback }.into());
        }
        let (seq_first, rtx_seq_first, timestamp_first) = (100, 100, 1);
        for receiver in &self.receivers {
            commands.extend(receiver.commands());
            for (n, (_, _, pt)) in media.into_iter().enumerate() {
                let index = 2 * receiver.id.index + n as u32;
                let (slot, ssrc, peer) = (SlotId::new(index, 1), 0x2000 + index, receiver.id);
                let open = SlotOpen { slot, peer, ssrc, rtx_ssrc, mid, seq_first, rtx_seq_first, timestamp_first };
                let (route, stream) = (RouteId::new(index, 1), StreamId::new(n as u32, 1));
                commands.extend([Command::from(open), RouteOpen { route, stream, slot, pt, rtx_pt, feedback }.into()]);
            }
        }
        commands.push(Commit { batch: 1 }.into());
        for command in commands {
            while !self.control.push_command(&command) {
                self.worker.turn();
            }
        }
        while self.worker.turn() {}
        let mut check = [0; 512];
        let checked = self.receivers.len() as u64 + 1;
        for client in self.receivers.iter().chain([&self.publisher]) {
            let len = client.write_check(&mut check);
            client.socket.send(&check[..len]).unwrap();
        }
        self.turn_until(|worker| worker.counters()[Counter::BindingAnswered as usize] == checked);
    }

    fn turn_until(&mut self, is_so: impl Fn(&mut Stepped) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so(&mut self.worker) {
            self.worker.turn();
            assert!(Instant::now() < deadline, "waited in vain");
        }
    }

    /// Sends a packet, and turns until it was received, in one turn whole.
    fn send(&mut self, ssrc: u32, marker: bool, nal: u8) {
        self.seq += 1;
        let mut packet = [0; 300];
        let pt = if ssrc == VIDEO { VIDEO_PT } else { AUDIO_PT };
        let header = HeaderWriter::new(&mut packet, marker, pt, self.seq, u32::from(self.seq), ssrc).finish();
        packet[header] = nal;
        let len = self.sender.protect_rtp(ssrc, u64::from(self.seq), header, &mut packet, header + 200).unwrap();
        let received = self.counter(Counter::Received);
        self.publisher.socket.send(&packet[..len]).unwrap();
        self.turn_until(|worker| worker.counters()[Counter::Received as usize] > received);
    }

    fn counter(&mut self, counter: Counter) -> u64 {
        self.worker.counters()[counter as usize]
    }

    /// Messages that the kernel was given while something was done.
    fn messages(&mut self, act: impl FnOnce(&mut Self)) -> usize {
        let before = self.counter(Counter::SentTrains);
        act(self);
        (self.counter(Counter::SentTrains) - before) as usize
    }
}

fn with(receivers: usize, test: impl FnOnce(&mut Broadcast)) {
    block_on(Driver::Auto, async { test(&mut Broadcast::new(receivers)) }).unwrap();
}

#[test]
fn a_frame_leaves_as_one_train_for_each_of_many() {
    const MANY: usize = PATIENT_ROUTES_MIN;
    with(MANY, |broadcast| {
        assert_eq!(broadcast.messages(|b| b.send(VIDEO, false, 1)), 0, "the frame goes on");
        assert_eq!(broadcast.messages(|b| b.send(VIDEO, true, 1)), MANY, "two packets for each, as one message");

        assert_eq!(broadcast.messages(|b| b.send(VIDEO, false, 1)), 0);
        assert_eq!(broadcast.messages(|b| b.send(AUDIO, false, 1)), MANY, "a voice does not wait, and takes it along");

        assert_eq!(broadcast.messages(|b| b.send(VIDEO, false, 1)), 0);
        std::thread::sleep(Duration::from_micros(FRAME_PATIENCE));
        assert_eq!(broadcast.messages(|b| assert!(!b.worker.turn())), MANY, "its end may be lost");
        assert_eq!(broadcast.counter(Counter::SendFailed), 0);
    });
}

#[test]
fn where_few_receive_nothing_waits() {
    with(PATIENT_ROUTES_MIN - 1, |broadcast| {
        assert_eq!(broadcast.messages(|b| b.send(VIDEO, false, 1)), PATIENT_ROUTES_MIN - 1);
    });
}
