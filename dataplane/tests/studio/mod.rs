//! Alice in her studio: she sends a camera in three encodings by RID (RFC 8853), in virtual time, to receivers on one worker or several.

#![allow(dead_code, unreachable_pub, missing_docs)] // each test file uses a part of it

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::id::{Mid, Rid, RouteId, SlotId, StreamId};
use proto::plane::*;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack;

use crate::world::*;

pub const FRAME: u64 = 33_333;
/// Ids of `rtp-stream-id` and `repaired-rtp-stream-id`.
pub const RID: u8 = 10;
pub const REPAIRED_RID: u8 = 11;
pub const RIDS: [&str; 3] = ["l", "m", "h"];
/// Sides of the encodings' pictures.
pub const SIZES: [(u16, u16); 3] = [(320, 180), (640, 360), (1280, 720)];

pub fn ssrc(encoding: usize) -> u32 {
    0xa000 + encoding as u32
}

/// Alice sends a camera in three encodings.
pub struct Studio {
    /// Workers. Alice is on the first.
    pub worlds: Vec<World>,
    pub alice: Peer,
    pub streams: [StreamOpen; 3],
    pub seqs: BTreeMap<u32, u16>,
    /// Frames so far.
    pub frame: u32,
    /// Encodings that were asked for a keyframe, and how often.
    pub asked: Vec<usize>,
    pub asked_count: usize,
    /// Whether Alice makes no keyframes.
    pub is_deaf: bool,
    /// Sequence numbers that Alice was asked for, by SSRC.
    pub nacked: Vec<(u32, u16)>,
}

/// Who receives it.
pub struct Receiver {
    pub world: usize,
    pub peer: Peer,
    pub slot: SlotId,
    pub ssrc: u32,
    pub routes: Vec<RouteId>,
    pub heard: Vec<rtp::packet::Packet>,
    pub repaired: Vec<rtp::packet::Packet>,
}

/// The payload of a packet: a VP8 descriptor with a PictureID, the frame's first bytes, and what says which it is.
pub fn payload(encoding: usize, frame: u32, is_key: bool, is_first: bool) -> Vec<u8> {
    let (width, height) = SIZES[encoding];
    let mut bytes = vec![if is_first { 0x90 } else { 0x80 }, 0x80, 0x80 | (frame >> 8) as u8 & 0x7f, frame as u8];
    bytes.extend([u8::from(!is_key) | 0x10, 0, 0, 0x9d, 0x01, 0x2a]);
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.push(encoding as u8);
    bytes.extend(frame.to_be_bytes());
    bytes
}

/// Encoding and frame of a payload.
pub fn identity(payload: &[u8]) -> (usize, u32) {
    (usize::from(payload[14]), u32::from_be_bytes(payload[15..19].try_into().unwrap()))
}

impl Studio {
    pub fn new() -> Studio {
        Studio::among(1, RIDS)
    }

    /// With so many workers, and the encodings in this order of `a=simulcast`.
    pub fn among(workers: usize, order: [&str; 3]) -> Studio {
        let mut worlds: Vec<World> = (0..workers).map(|index| World::among(index, workers)).collect();
        let world = &mut worlds[0];
        let alice = world.connect(SrtpProfile::AeadAes128Gcm);
        let mut ids = IDS;
        (ids[Extension::Rid as usize], ids[Extension::RepairedRid as usize]) = (RID, REPAIRED_RID);
        world.commit(&[PeerExtensions { peer: alice.id, ids }.into()]);
        let mid = Mid::parse(b"cam").unwrap();
        let streams = RIDS.map(|_| {
            let open = world.stream_open(&alice, Codec::Vp8);
            StreamOpen { ssrc: 0, rtx_ssrc: 0, mid, ..open }
        });
        let place_of = |rid: &str| order.iter().position(|other| *other == rid).unwrap();
        let first = streams[RIDS.iter().position(|rid| *rid == order[0]).unwrap()].stream;
        let parts =
            std::array::from_fn::<_, 3, _>(|i| encoding_of(streams[i].stream, first, place_of(RIDS[i]), RIDS[i]));
        world.commit(&streams.map(Command::from));
        world.commit(&parts.map(Command::from));
        let (seqs, frame, asked, asked_count, is_deaf, nacked) = Default::default();
        let mut studio = Studio { worlds, alice, streams, seqs, frame, asked, asked_count, is_deaf, nacked };
        studio.no_refusals();
        studio
    }

    #[track_caller]
    pub fn no_refusals(&mut self) {
        for world in &mut self.worlds {
            let reports = world.take_reports();
            assert!(!reports.iter().any(|report| matches!(report, Report::Event(Event::Refused(_)))), "{reports:?}");
        }
    }

    /// A receiver on a worker, whose slot has a route from each encoding.
    pub fn receiver(&mut self, world: usize) -> Receiver {
        let mut streams = self.streams.map(|open| open.stream);
        if world > 0 {
            let first = self.streams[0].stream;
            for (i, stream) in streams.iter_mut().enumerate() {
                let (mirror, tap) = self.worlds[world].mirror_open(&self.streams[i], world as u16);
                let part = encoding_of(mirror.stream, first, i, RIDS[i]);
                self.worlds[world].commit(&[mirror.into(), part.into()]);
                self.worlds[0].commit(&[tap.into()]);
                *stream = mirror.stream;
            }
        }
        let of_world = &mut self.worlds[world];
        let peer = of_world.connect_unlimited(SrtpProfile::AeadAes128Gcm);
        let open = of_world.slot_open(&peer);
        let routes = streams.map(|stream| of_world.route_open(stream, open.slot));
        of_world.commit(&[&[open.into()][..], &routes.map(Command::from)].concat());
        self.no_refusals();
        let routes = routes.iter().map(|open| open.route).collect();
        let (heard, repaired) = Default::default();
        Receiver { world, peer, slot: open.slot, ssrc: open.ssrc, routes, heard, repaired }
    }

    /// A packet of an encoding, as it leaves Alice.
    pub fn packet(&mut self, encoding: usize, is_key: bool, is_first: bool, is_last: bool) -> Vec<u8> {
        let bytes = payload(encoding, self.frame, is_key, is_first);
        self.packet_of(ssrc(encoding), Some(RIDS[encoding]), &bytes, is_last)
    }

    pub fn packet_of(&mut self, ssrc: u32, rid: Option<&str>, payload: &[u8], marker: bool) -> Vec<u8> {
        let seq = self.seqs.entry(ssrc).or_insert(100 + ssrc as u16);
        *seq = seq.wrapping_add(1);
        // Each encoding has a clock of its own.
        let timestamp = (3000 * self.frame).wrapping_add(ssrc.wrapping_mul(0x0123_4567));
        let mut packet = packet(ssrc, H264_PT, *seq, timestamp, payload);
        packet.header.marker = marker;
        packet.header.set_extension(4, Bytes::from_static(b"cam")).unwrap();
        if let Some(rid) = rid {
            packet.header.set_extension(RID, Bytes::copy_from_slice(rid.as_bytes())).unwrap();
        }
        self.alice.protect(&packet)
    }

    pub fn arrives(&mut self, datagram: &[u8]) {
        self.worlds[0].receive_in_turn(self.alice.remote, datagram);
    }

    /// A frame of each of these encodings in so many packets each; a keyframe of those that were asked, and of new ones.
    pub fn frame(&mut self, encodings: &[usize], packets: usize) {
        let all: Vec<(usize, usize)> = encodings.iter().map(|&encoding| (encoding, packets)).collect();
        self.frame_in(&all);
    }

    /// The same of each in as many packets as it says.
    pub fn frame_in(&mut self, encodings: &[(usize, usize)]) {
        self.frame += 1;
        self.worlds.iter_mut().for_each(|world| world.advance(FRAME));
        self.listen();
        for &(encoding, packets) in encodings {
            let is_key = !self.seqs.contains_key(&ssrc(encoding)) || self.asked.contains(&encoding);
            self.asked.retain(|asked| *asked != encoding);
            for n in 0..packets {
                let datagram = self.packet(encoding, is_key, n == 0, n + 1 == packets);
                self.arrives(&datagram);
            }
        }
        self.settle();
    }

    /// Packets of the frame that is under way, one a turn: of which encoding, and whether it is of a keyframe, the frame's first,
    /// and its last.
    pub fn packets(&mut self, packets: &[(usize, bool, bool, bool)]) {
        for &(encoding, is_key, is_first, is_last) in packets {
            let datagram = self.packet(encoding, is_key, is_first, is_last);
            self.arrives(&datagram);
            self.settle();
        }
    }

    /// What is pending is fanned out, and crosses.
    pub fn settle(&mut self) {
        for world in &mut self.worlds {
            world.fan_out();
        }
        for _ in 0..2 {
            exchange(&mut self.worlds);
        }
    }

    /// What Alice is told.
    pub fn listen(&mut self) {
        self.settle();
        let datagrams = self.worlds[0].take_sent(self.alice.remote);
        for packet in self.alice.unprotect_rtcp(&datagrams) {
            if let Some(pli) = packet.as_any().downcast_ref::<PictureLossIndication>() {
                self.asked_count += 1;
                self.asked.extend((0..3).find(|encoding| !self.is_deaf && ssrc(*encoding) == pli.media_ssrc));
            } else if let Some(nack) = packet.as_any().downcast_ref::<TransportLayerNack>() {
                let seqs = nack.nacks.iter().flat_map(|pair| pair.packet_list());
                self.nacked.extend(seqs.map(|seq| (nack.media_ssrc, seq)));
            }
        }
    }

    /// Which encodings and frames a receiver got since the last call.
    pub fn hear(&mut self, receiver: &mut Receiver) -> Vec<(usize, u32)> {
        let datagrams = self.worlds[receiver.world].take_sent(receiver.peer.remote);
        receiver.peer.unprotect_rtcp(&datagrams);
        let packets = receiver.peer.unprotect(&datagrams);
        let (media, repairs): (Vec<_>, Vec<_>) = packets.into_iter().partition(|p| p.header.ssrc == receiver.ssrc);
        receiver.repaired.extend(repairs);
        let got = media.iter().map(|packet| identity(&packet.payload)).collect();
        receiver.heard.extend(media);
        got
    }

    /// Which encodings a receiver got in the next so many frames, each once in their order.
    pub fn watch(&mut self, receiver: &mut Receiver, encodings: &[usize], frames: usize) -> Vec<usize> {
        let mut seen: Vec<usize> = Vec::new();
        for _ in 0..frames {
            self.frame(encodings, 2);
            seen.extend(self.hear(receiver).iter().map(|(encoding, _)| *encoding));
        }
        seen.dedup();
        seen
    }

    /// A slot is to take no better encoding than this.
    pub fn want(&mut self, receiver: &Receiver, want: Option<u8>) {
        let world = &mut self.worlds[receiver.world];
        world.forwarder.want_encoding(world.now, receiver.slot.index, want, &mut world.egress.outbox);
        world.collect();
    }

    pub fn counter(&mut self, counter: Counter) -> u64 {
        total(&mut self.worlds, counter)
    }

    /// The command's refusal, if any.
    pub fn refusal(&mut self, command: Command) -> Option<Refusal> {
        self.worlds[0].commit(&[command]);
        self.worlds[0].take_reports().into_iter().find_map(|report| match report {
            Report::Event(Event::Refused(refused)) => Some(refused.refusal),
            _ => None,
        })
    }
}

pub fn encoding_of(stream: StreamId, track: StreamId, place: usize, rid: &str) -> StreamEncoding {
    StreamEncoding { stream, track, place: place as u8, rid: Rid::parse(rid.as_bytes()).unwrap() }
}

impl Receiver {
    /// What left is one stream: numbers without a gap, timestamps forward and of one frame each, one encoding in each frame,
    /// and pictures that are numbered on.
    #[track_caller]
    pub fn is_one_stream(&self) {
        for pair in self.heard.windows(2) {
            let [a, b] = pair else { unreachable!() };
            assert_eq!(b.header.sequence_number, a.header.sequence_number.wrapping_add(1), "no gap");
            let (before, after) = (identity(&a.payload), identity(&b.payload));
            let ticks = b.header.timestamp.wrapping_sub(a.header.timestamp) as i32;
            assert_eq!(before == after, ticks == 0, "a timestamp is of one frame: {before:?} {after:?}");
            assert!(ticks >= 0, "timestamps go forward: {before:?} {after:?} {ticks}");
            assert!(before == after || a.header.marker, "the frame before is complete: {before:?} {after:?}");
            let number = |payload: &[u8]| u16::from_be_bytes([payload[2] & 0x7f, payload[3]]);
            let pictures = number(&b.payload).wrapping_sub(number(&a.payload)) & 0x7fff;
            assert!(if before == after { pictures == 0 } else { (1..1000).contains(&pictures) }, "{pictures}");
        }
    }
}
