//! A broadcast as a worker is told of it: one publisher whose streams go to the first so many of its receivers, and
//! the protected packets that the publisher sends. The benchmarks drive the forwarder and whole workers with it.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::net::SocketAddr;

use dataplane::rtp::{HeaderWriter, WRITTEN_LEN_MAX};
use dataplane::srtp::Crypto;
use proto::id::{Mid, PeerId, Rid, RouteId, SlotId, StreamId};
use proto::plane::{
    Codec, Command, Commit, Direction, ExtensionIds, KEY_LEN_MAX, PWD_LEN, PeerExtensions, PeerKeys, PeerOpen,
    RouteOpen, SALT_LEN_MAX, SlotOpen, SrtpProfile, StreamEncoding, StreamOpen, UFRAG_LEN, feedback,
};
use proto::stun;

/// Header extensions as Chrome negotiates them: mid 4, abs-send-time 2, transport-cc 3, audio level 1.
const IDS: ExtensionIds = [4, 0, 0, 2, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const PT: u8 = 102;
const RTX_PT: u8 = 103;
const SSRC: u32 = 0x1000;

/// First byte of an H.264 payload: a sequence parameter set, which starts a keyframe, and a slice of another frame.
const NAL_SPS: u8 = 0x67;
const NAL_SLICE: u8 = 0x41;

/// The peers of one worker and what the publisher has sent so far.
pub(crate) struct Broadcast {
    profile: SrtpProfile,
    publisher: SocketAddr,
    receivers: Vec<SocketAddr>,
    /// How many receivers each stream is routed to, and the index of its next packet.
    streams: Vec<(usize, u64)>,
    /// Whether the streams are encodings of one track: then each receiver has one slot, with a route from each.
    is_one_track: bool,
    tx: Crypto,
}

impl Broadcast {
    /// One H.264 stream for each of `fan_outs`, in that order.
    pub(crate) fn new(
        profile: SrtpProfile,
        publisher: SocketAddr,
        receivers: &[SocketAddr],
        fan_outs: &[usize],
    ) -> Self {
        assert!(fan_outs.iter().all(|&n| n <= receivers.len()));
        let (key, salt) = keys(profile, 0, Direction::Rx);
        Self {
            profile,
            publisher,
            receivers: receivers.to_vec(),
            streams: fan_outs.iter().map(|&n| (n, 1)).collect(),
            is_one_track: false,
            tx: Crypto::new(profile, &key, &salt),
        }
    }

    /// One track in so many encodings, for all of the receivers.
    pub(crate) fn in_encodings(
        profile: SrtpProfile,
        publisher: SocketAddr,
        receivers: &[SocketAddr],
        encodings: usize,
    ) -> Self {
        let fan_outs = vec![receivers.len(); encodings];
        Self { is_one_track: true, ..Self::new(profile, publisher, receivers, &fan_outs) }
    }

    /// Everything that a controlplane would say, a commit at the end.
    pub(crate) fn commands(&self) -> Vec<Command> {
        let mut commands = Vec::new();
        for index in 0..=self.receivers.len() as u32 {
            let peer = PeerId::new(index, 1);
            let (ufrag, pwd) = credentials(index);
            commands.push(PeerOpen { peer, ufrag, pwd }.into());
            commands.push(PeerExtensions { peer, ids: IDS }.into());
            for direction in [Direction::Rx, Direction::Tx] {
                let (key, salt) = keys(self.profile, index, direction);
                commands.push(PeerKeys { peer, direction, profile: self.profile, key, salt }.into());
            }
        }
        let mut place = 0;
        for (index, &(fan_out, _)) in self.streams.iter().enumerate() {
            let stream = StreamId::new(index as u32, 1);
            commands.push(open_stream(stream));
            if self.is_one_track {
                let (track, rid) = (StreamId::new(0, 1), Rid::parse(&[b'a' + index as u8]).expect("a short name"));
                commands.push(StreamEncoding { stream, track, place: index as u8, rid }.into());
            }
            for receiver in 1..=fan_out as u32 {
                let slot = SlotId::new(if self.is_one_track { receiver - 1 } else { place }, 1);
                let route = RouteId::new(place, 1);
                if slot.index == place {
                    commands.push(open_slot(slot, PeerId::new(receiver, 1)));
                }
                commands.push(RouteOpen { route, stream, slot, pt: 120, rtx_pt: 121, red_pt: 0 }.into());
                place += 1;
            }
        }
        commands.push(Commit { batch: 0 }.into());
        commands
    }

    /// A nominating connectivity check of each peer, with the address that it must come from; the publisher's first.
    pub(crate) fn checks(&self) -> impl Iterator<Item = (SocketAddr, Vec<u8>)> + '_ {
        let all = std::iter::once(&self.publisher).chain(&self.receivers);
        all.enumerate().map(|(index, &from)| (from, check(index as u32)))
    }

    /// The next packet of a stream, protected by the publisher.
    pub(crate) fn packet(&mut self, stream: usize, payload_len: usize) -> Vec<u8> {
        let (_, next) = &mut self.streams[stream];
        let (index, ssrc) = (*next, SSRC + stream as u32);
        *next += 1;
        let mut packet = vec![0x5a; WRITTEN_LEN_MAX + payload_len + Crypto::OVERHEAD_MAX];
        let mut writer = HeaderWriter::new(&mut packet, false, PT, index as u16, (index * 300) as u32, ssrc);
        for (id, value) in [(2, &[1, 2, 3][..]), (3, &(index as u16).to_be_bytes()), (4, b"0")] {
            assert!(writer.extension(id, value));
        }
        let header_len = writer.finish();
        packet[header_len] = if index == 1 { NAL_SPS } else { NAL_SLICE };
        let len = header_len + payload_len;
        let len = self.tx.protect_rtp(ssrc, index, header_len, &mut packet, len, &[]).expect("indices are left");
        packet.truncate(len);
        packet
    }
}

fn open_stream(stream: StreamId) -> Command {
    let ssrc = SSRC + stream.index;
    let feedback = feedback::NACK | feedback::PLI | feedback::TRANSPORT_CC;
    let (rtx_ssrc, peer) = (ssrc + 0x1_0000, PeerId::new(0, 1));
    let mid = Mid::parse(b"0").expect("a short name");
    StreamOpen { stream, peer, ssrc, rtx_ssrc, mid, pt: PT, rtx_pt: RTX_PT, codec: Codec::H264, feedback, red_pt: 0 }
        .into()
}

fn open_slot(slot: SlotId, peer: PeerId) -> Command {
    SlotOpen {
        slot,
        peer,
        ssrc: 0x2000_0000 + slot.index,
        rtx_ssrc: 0x3000_0000 + slot.index,
        mid: Mid::parse(b"9").expect("a short name"),
        seq_first: 1000,
        rtx_seq_first: 2000,
        timestamp_first: 90_000,
    }
    .into()
}

fn credentials(index: u32) -> ([u8; UFRAG_LEN], [u8; PWD_LEN]) {
    let mut ufrag = *b"peer0000";
    ufrag[4..].copy_from_slice(format!("{index:04}").as_bytes());
    (ufrag, *b"password-of-24-character")
}

/// Master key and salt of one direction of a peer.
pub(crate) fn keys(profile: SrtpProfile, index: u32, direction: Direction) -> ([u8; KEY_LEN_MAX], [u8; SALT_LEN_MAX]) {
    let mut key = [0x11 + direction as u8; KEY_LEN_MAX];
    key[..4].copy_from_slice(&index.to_le_bytes());
    let mut salt = [0x77; SALT_LEN_MAX];
    if profile != SrtpProfile::Aes128CmHmacSha1_80 {
        salt[12..].fill(0);
    }
    (key, salt)
}

fn check(index: u32) -> Vec<u8> {
    let mut out = [0; 256];
    let (ufrag, pwd) = credentials(index);
    let name = [&ufrag[..], b":them"].concat();
    let len = stun::Writer::binding_request(&mut out, stun::TransactionId([7; 12]))
        .username(&name)
        .priority(1)
        .ice_controlling(1)
        .use_candidate()
        .integrity(&stun::IntegrityKey::new(&pwd))
        .fingerprint()
        .finish()
        .expect("a check is short");
    out[..len].to_vec()
}
