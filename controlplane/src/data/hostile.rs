//! What reads strangers' bytes here, as a function of bytes for `fuzz/targets`. It panics if what it holds is not so.

use std::time::{Duration, Instant};

use dcsctp::api::{DcSctpSocket, Message, Options, PpId, SendOptions, SocketEvent, SocketTime, StreamId};
use proto::signal::{DataSent, MESSAGE_LEN_MAX, ServerSignal};

use super::association::{Association, ChannelEvent};
use super::dcep::Dcep;
use super::message::{Assembly, Framed, check_sent, parse_frame, parts, relayed};
use super::{CHANNELS_MAX, LABEL_LEN_MAX};
use crate::negotiated::DataChannels;
use crate::sdp::SCTP_PORT;

/// Steps of a run.
const STEPS_MAX: usize = 64;

/// Rounds in which packets are carried: enough for a handshake, or for a message with its acknowledgement.
const ROUNDS: usize = 8;

/// Packets and events that come of one step: an association sends no more than its window at once.
const ANSWERS_MAX: usize = 1024;

/// What a client does, one after the other: the first byte is what, the second the length of what follows. `c` sends chunks of its own
/// making on a connected association, `p` a packet, `m` a message (stream, payload protocol, bytes), `f` and `b` are frames of the client
/// module, text and bytes, and `d` a message of DCEP. What is read is bounded, and is written and read again alike.
pub fn data(bytes: &[u8]) {
    let mut ends = Ends::connected();
    let mut rest = bytes;
    for _ in 0..STEPS_MAX {
        let Some(([kind, len], after)) = rest.split_first_chunk() else { break };
        let (said, after) = after.split_at(usize::from(*len).min(after.len()));
        rest = after;
        match kind {
            b'c' => ends.chunks(said),
            b'p' => ends.server.handle(ends.now, said),
            b'm' => ends.message(said),
            b'f' | b'b' => frame(*kind == b'f', said),
            b'd' => dcep(said),
            _ => {}
        }
        ends.carry();
    }
}

/// A client of the same library, and our end.
struct Ends {
    client: Box<dyn DcSctpSocket>,
    server: Association,
    begun: Instant,
    now: Instant,
    /// What the server expects in packets of this association (RFC 9260 §3.1).
    tag: [u8; 4],
}

impl Ends {
    fn connected() -> Ends {
        let now = Instant::now();
        let mut client = dcsctp::new_socket("client", &Options::default());
        client.connect();
        let server = Association::new(now, DataChannels { port: SCTP_PORT, len_max: 0 }, false);
        let mut ends = Ends { client, server, begun: now, now, tag: [0; 4] };
        ends.carry();
        ends
    }

    fn carry(&mut self) {
        for _ in 0..ROUNDS {
            while let Some(event) = self.client.poll_event() {
                if let SocketEvent::SendPacket(packet) = event {
                    self.tag.copy_from_slice(&packet[4..8]);
                    self.server.handle(self.now, &packet);
                }
            }
            let mut count = 0;
            while let Some(packet) = self.server.poll_packet() {
                self.client.handle_input(&packet);
                count += 1;
            }
            while let Some(event) = self.server.poll_event(false) {
                count += 1;
                if let ChannelEvent::Message { bytes, .. } = event {
                    assert!(bytes.len() <= MESSAGE_LEN_MAX + 1024);
                }
            }
            assert!(count <= ANSWERS_MAX, "{count}");
            assert!(self.server.channels().count() <= CHANNELS_MAX);
            assert!(self.server.channels().all(|(_, channel)| channel.is_valid()));
            while self.client.get_next_message().is_some() {}
            self.now += Duration::from_millis(50);
            self.client.advance_time(SocketTime::zero() + (self.now - self.begun));
            self.server.handle_timeout(self.now);
        }
    }

    /// With our ports, the tag and a zero checksum, so that it is not dropped at the door.
    fn chunks(&mut self, chunks: &[u8]) {
        let ports = [SCTP_PORT.to_be_bytes(), SCTP_PORT.to_be_bytes()].concat();
        self.server.handle(self.now, &[&ports[..], &self.tag, &[0; 4], chunks].concat());
    }

    fn message(&mut self, said: &[u8]) {
        let Some(([stream, protocol], bytes)) = said.split_first_chunk() else { return };
        let message = Message::new(StreamId(u16::from(*stream)), PpId(u32::from(*protocol)), bytes.to_vec());
        let _ = self.client.send(message, &SendOptions::default()); // An empty one is refused, and one after the end.
    }
}

/// A frame of the client module. What is taken of it comes out of the parts of a socket, too.
fn frame(is_text: bool, bytes: &[u8]) {
    let Ok(Framed::Sent(sent, payload)) = parse_frame(is_text, bytes) else { return };
    assert!(check_sent(&sent).is_ok() && sent.label.len() <= LABEL_LEN_MAX && payload.len() <= MESSAGE_LEN_MAX);
    let mut assembly = Assembly::default();
    let message = relayed(Some("Ada".into()), &sent.label, Some(1), payload.clone());
    let whole = parts(&message).into_iter().find_map(|part| {
        let ServerSignal::Data(part) = part else { panic!("{part:?}") };
        let (label, text, binary, more) = (part.label, part.text, part.binary, part.more);
        let part = DataSent { label, to: None, reliable: true, id: Some(1), text, binary, more };
        assembly.take(part).expect("our own parts are taken")
    });
    assert_eq!(whole.map(|(_, payload)| payload), Some(payload));
}

fn dcep(bytes: &[u8]) {
    if let Some(read) = Dcep::parse(bytes) {
        assert_eq!(Dcep::parse(&read.write()), Some(read));
    }
}
