//! Hostile bytes against a whole worker, while others talk: whatever comes from strangers, from addresses that are known,
//! from a peer with keys of its own, or from a controlplane that has lost its mind, nothing panics, each datagram has one
//! fate, what is remembered stays bounded, and a call that has no part in it hears every word, bit for bit.
//!
//! `corpus/worker` holds what must be survived again: one datagram in hex a line, each preceded by where it comes from.

use std::net::SocketAddr;

use proptest::prelude::*;
use proto::id::{PeerId, RelayId, RouteId, SlotId, StreamId};
use proto::plane::*;
use rtcp::transport_feedbacks::transport_layer_nack::{NackPair, TransportLayerNack};

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;

fn stranger() -> SocketAddr {
    "203.0.113.66:6666".parse().unwrap()
}

/// Mallory, who is in the room with credentials and keys; Victor, whose packets are played with; and Alice and Bob, who
/// only want to talk.
struct Siege {
    world: World,
    mallory: Peer,
    victor: Peer,
    alice: Peer,
    bob: Peer,
    mallory_ssrcs: [u32; 2],
    victor_ssrc: u32,
    alice_ssrc: u32,
    bob_slot_ssrc: u32,
    words: u16,
}

impl Siege {
    fn new() -> Siege {
        let mut world = World::new();
        let [mallory, victor, alice, bob] = [GCM, SrtpProfile::Aes128CmHmacSha1_80, GCM, GCM].map(|p| world.connect(p));
        let audio = world.publish(&mallory, Codec::Opus);
        let video = world.publish(&mallory, Codec::H264);
        let of_victor = world.publish(&victor, Codec::H264);
        let of_alice = world.publish(&alice, Codec::Opus);
        let mut bob_slot_ssrc = 0;
        for (stream, to) in [(audio, &victor), (video, &victor), (of_victor, &mallory), (of_alice, &bob)] {
            let slot = world.slot(to);
            world.route(stream, slot);
            bob_slot_ssrc = 0x2000_0000 + slot.index;
        }
        Siege {
            mallory_ssrcs: [audio, video].map(|s| world.ssrc_of(s)),
            victor_ssrc: world.ssrc_of(of_victor),
            alice_ssrc: world.ssrc_of(of_alice),
            bob_slot_ssrc,
            world,
            mallory,
            victor,
            alice,
            bob,
            words: 0,
        }
    }

    /// Alice speaks and Bob hears it.
    #[track_caller]
    fn talk(&mut self) {
        self.words += 1;
        let word = [&b"word "[..], &self.words.to_be_bytes()].concat();
        let packet = packet(self.alice_ssrc, OPUS_PT, self.words, u32::from(self.words) * 960, &word);
        let protected = self.alice.protect(&packet);
        self.world.receive(self.alice.remote, &protected);
        let datagrams = self.world.take_sent(self.bob.remote);
        let mut heard = self.bob.unprotect(&datagrams);
        heard.retain(|packet| packet.header.ssrc == self.bob_slot_ssrc);
        assert_eq!(heard.len(), 1, "word {} is heard once", self.words);
        assert_eq!(heard[0].payload, word);
        assert_eq!(heard[0].header.sequence_number, 999 + self.words, "and no other took its number");
    }

    /// Nothing that strangers or peers did made the worker remember without bound.
    fn check_bounds(&self) {
        use dataplane::config::*;
        let sizes = self.world.forwarder.sizes();
        let [peers, streams, ..] = sizes.objects;
        assert_eq!(sizes.objects, [4, 4, 4, 4]);
        assert_eq!(sizes.ufrags, peers);
        assert!(sizes.paths <= peers * PEER_PATHS_MAX, "{sizes:?}");
        assert!(sizes.ssrcs <= peers * PEER_SSRCS_MAX, "{sizes:?}");
        assert!(sizes.missing <= streams * MISSING_MAX, "{sizes:?}");
        assert!(sizes.timers <= 4 * peers + 8 * streams, "{sizes:?}");
        assert_eq!(sizes.staged, 0);
    }

    /// A datagram of this kind, as its sender would send it, and where from.
    fn valid(&mut self, kind: u8, n: u16) -> (SocketAddr, Vec<u8>) {
        let Siege { mallory, victor, mallory_ssrcs: [audio, video], victor_ssrc, .. } = self;
        let body = [SPS, &n.to_be_bytes(), &[7; 400]].concat();
        let nack = TransportLayerNack {
            sender_ssrc: 1,
            media_ssrc: 0x2000_0000 + u32::from(n % 16),
            nacks: vec![NackPair { packet_id: 1000 + n % 64, lost_packets: n }],
        };
        match kind % 9 {
            0 => (mallory.remote, mallory.check(n & 1 == 0)),
            1 => (SocketAddr::from(([10, 0, 0, 9], n.max(1))), mallory.check(n & 1 == 0)),
            2 => (mallory.remote, mallory.protect(&packet(*audio, OPUS_PT, n, u32::from(n), &body))),
            3 => (mallory.remote, mallory.protect(&packet(*video, H264_PT, n, u32::from(n), &body))),
            4 => (mallory.remote, mallory.protect(&packet(*video + 0x1_0000, RTX_PT, n, 0, &body))),
            5 => (mallory.remote, mallory.protect_rtcp(&nack)),
            6 => (victor.remote, victor.protect(&packet(*victor_ssrc, H264_PT, n, u32::from(n), &body))),
            7 => (victor.remote, victor.protect_rtcp(&nack)),
            _ => {
                let mut hello = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0];
                hello.resize(13 + 256, n as u8);
                (mallory.remote, hello)
            }
        }
    }

    /// A header of Mallory's own making, protected with her own keys: authentic nonsense.
    fn authentic_nonsense(&mut self, header: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut packet = packet(self.mallory_ssrcs[usize::from(header[0] & 1)], H264_PT, 0, 0, payload);
        let h = &mut packet.header;
        h.sequence_number = u16::from_be_bytes([header[1], header[2]]);
        h.timestamp = u32::from_be_bytes([header[3], header[4], header[5], header[6]]);
        h.payload_type = [H264_PT, OPUS_PT, RTX_PT, header[7] & 127][usize::from(header[8] & 3)];
        h.marker = header[8] & 4 != 0;
        h.ssrc = [h.ssrc, h.ssrc + 0x1_0000, self.alice_ssrc, u32::from(header[9])][usize::from(header[9] & 3)];
        if header[10] & 1 != 0 {
            let value = payload[..payload.len().min(1 + usize::from(header[11] % 16))].to_vec();
            for id in [1 + header[10] % 14, 4, 3] {
                let _ = h.set_extension(id, value.clone().into());
            }
        }
        self.mallory.protect(&packet)
    }
}

/// Something that happens to the worker.
#[derive(Clone, Debug)]
enum Attack {
    Bytes { from: u8, bytes: Vec<u8> },
    Mutated { kind: u8, n: u16, from: u8, flips: Vec<(u16, u8)>, len: Option<u16> },
    Authentic { header: [u8; 12], payload: Vec<u8> },
    AuthenticRtcp { bytes: Vec<u8> },
    Wait { ms: u16 },
}

fn attack() -> impl Strategy<Value = Attack> {
    let first = prop_oneof![0..=3u8, 20..=63u8, 128..=191u8, any::<u8>()];
    let bytes = (first, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(first, mut bytes)| {
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        bytes
    });
    let flips = prop::collection::vec((any::<u16>(), 1..=255u8), 0..4);
    prop_oneof![
        2 => (any::<u8>(), bytes).prop_map(|(from, bytes)| Attack::Bytes { from, bytes }),
        4 => (any::<u8>(), any::<u16>(), any::<u8>(), flips, prop::option::weighted(0.2, any::<u16>()))
            .prop_map(|(kind, n, from, flips, len)| Attack::Mutated { kind, n, from, flips, len }),
        3 => (any::<[u8; 12]>(), prop::collection::vec(any::<u8>(), 1..1500))
            .prop_map(|(header, payload)| Attack::Authentic { header, payload }),
        2 => prop::collection::vec(any::<u8>(), 8..120).prop_map(|bytes| Attack::AuthenticRtcp { bytes }),
        1 => (0..1000u16).prop_map(|ms| Attack::Wait { ms }),
    ]
}

impl Siege {
    fn source(&self, from: u8, usual: SocketAddr) -> SocketAddr {
        match from % 8 {
            0 => stranger(),
            1 => self.victor.remote,
            2 => self.alice.remote,
            3 => self.bob.remote,
            _ => usual,
        }
    }

    fn suffer(&mut self, attack: &Attack) {
        match attack {
            Attack::Bytes { from, bytes } => {
                let from = self.source(*from, self.mallory.remote);
                self.world.receive_in_turn(from, bytes);
            }
            Attack::Mutated { kind, n, from, flips, len } => {
                let (usual, mut bytes) = self.valid(*kind, *n);
                for (at, flip) in flips {
                    let at = usize::from(*at) % bytes.len();
                    bytes[at] ^= flip;
                }
                if let Some(len) = len {
                    bytes.truncate(usize::from(*len) % (bytes.len() + 1));
                }
                let from = self.source(*from, usual);
                self.world.receive_in_turn(from, &bytes);
            }
            Attack::Authentic { header, payload } => {
                let bytes = self.authentic_nonsense(header, payload);
                self.world.receive_in_turn(self.mallory.remote, &bytes);
            }
            Attack::AuthenticRtcp { bytes } => {
                let mut bytes = bytes.clone();
                bytes[0] = 0x80 | bytes[0] & 0x3f;
                bytes[1] = 200 + bytes[1] % 8;
                let words = (bytes.len() / 4 - 1) as u16;
                bytes[2..4].copy_from_slice(&words.to_be_bytes());
                let protected = self.mallory.protect_rtcp(&Raw(bytes));
                self.world.receive_in_turn(self.mallory.remote, &protected);
            }
            Attack::Wait { ms } => {
                self.world.advance(u64::from(*ms) * 1000);
                // As clients do, they go on consenting; that also keeps their addresses theirs.
                for (remote, check) in
                    [(self.alice.remote, self.alice.check(true)), (self.bob.remote, self.bob.check(true))]
                {
                    self.world.receive(remote, &check);
                }
            }
        }
    }
}

/// RTCP that is only bytes.
#[derive(Debug, Clone)]
struct Raw(Vec<u8>);

impl std::fmt::Display for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl webrtc_util::marshal::MarshalSize for Raw {
    fn marshal_size(&self) -> usize {
        self.0.len()
    }
}

impl webrtc_util::marshal::Marshal for Raw {
    fn marshal_to(&self, buffer: &mut [u8]) -> Result<usize, webrtc_util::Error> {
        buffer[..self.0.len()].copy_from_slice(&self.0);
        Ok(self.0.len())
    }
}

impl webrtc_util::marshal::Unmarshal for Raw {
    fn unmarshal<B: bytes::Buf>(buffer: &mut B) -> Result<Self, webrtc_util::Error> {
        Ok(Raw(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

impl rtcp::packet::Packet for Raw {
    fn header(&self) -> rtcp::header::Header {
        rtcp::header::Header::default()
    }
    fn destination_ssrc(&self) -> Vec<u32> {
        Vec::new()
    }
    fn raw_size(&self) -> usize {
        self.0.len()
    }
    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
        self
    }
    fn equal(&self, other: &(dyn rtcp::packet::Packet + Send + Sync)) -> bool {
        other.as_any().downcast_ref::<Raw>().is_some_and(|other| other.0 == self.0)
    }
    fn cloned(&self) -> Box<dyn rtcp::packet::Packet + Send + Sync> {
        Box::new(self.clone())
    }
}

/// A command with ids of a small space, so that they often meet what is there.
fn command() -> impl Strategy<Value = Command> {
    let id = || (0..24u32, 1..3u32);
    let ssrc = || prop_oneof![0..40u32, 0x2000_0000..0x2000_0018u32];
    prop_oneof![
        (id(), 0..40u8).prop_map(|((i, g), u)| PeerOpen {
            peer: PeerId::new(i, g),
            ufrag: [u; UFRAG_LEN],
            pwd: [1; PWD_LEN]
        }
        .into()),
        (id(), 0..40u8).prop_map(|((i, g), u)| PeerIce {
            peer: PeerId::new(i, g),
            ufrag: [u; UFRAG_LEN],
            pwd: [2; PWD_LEN]
        }
        .into()),
        (id(), any::<[u8; 3]>(), any::<[u8; 11]>()).prop_map(|((i, g), [part, count, len], bytes)| {
            let bytes = [bytes; 4].concat().try_into().expect("four of them");
            let (part, count) = (part % 10, count % 10);
            PeerRemote { peer: PeerId::new(i, g), part, count, len: len % 50, bytes }.into()
        }),
        (id(), 0..6u8, 0..5u8, 0..3u16, 0..5u64, 0..5u64).prop_map(
            |((i, g), place, n, port, send_flow, receive_flow)| {
                let remote = ([10, 0, 0, n], port).into();
                PeerCandidate { peer: PeerId::new(i, g), place, remote, send_flow, receive_flow }.into()
            }
        ),
        (id(), id(), 0..5u64, 0..5u64).prop_map(|((i, g), (j, h), send_flow, receive_flow)| {
            PeerEdge { peer: PeerId::new(i, g), edge: PeerId::new(j, h), send_flow, receive_flow }.into()
        }),
        (id(), 0..5u64, 0..5u8, 0..3u16, 0..5u64).prop_map(|((i, g), flow, n, port, to_flow)| {
            let address = ([10, 0, 0, n], port).into();
            RelayOpen { relay: RelayId::new(i, g), flow, from: address, to: address, to_flow }.into()
        }),
        (id(), any::<u32>()).prop_map(|((i, g), bps_max)| RelayRate { relay: RelayId::new(i, g), bps_max }.into()),
        id().prop_map(|(i, g)| RelayClose { relay: RelayId::new(i, g) }.into()),
        (id(), any::<ExtensionIds>()).prop_map(|((i, g), ids)| PeerExtensions { peer: PeerId::new(i, g), ids }.into()),
        (id(), any::<u32>(), any::<u32>()).prop_map(|((i, g), bps_max, packets_max)| PeerRate {
            peer: PeerId::new(i, g),
            bps_max,
            packets_max
        }
        .into()),
        (id(), any::<u32>(), any::<u32>()).prop_map(|((i, g), bps_max, packets_max)| StreamRate {
            stream: StreamId::new(i, g),
            bps_max,
            packets_max
        }
        .into()),
        (id(), prop::sample::select(vec![Gate::Open, Gate::Speech, Gate::Closed]))
            .prop_map(|((i, g), gate)| StreamGate { stream: StreamId::new(i, g), gate }.into()),
        (id(), any::<u32>()).prop_map(|((i, g), bps_max)| PeerLimit { peer: PeerId::new(i, g), bps_max }.into()),
        (id(), any::<bool>(), any::<[u8; 32]>()).prop_map(|((i, g), is_rx, key)| PeerKeys {
            peer: PeerId::new(i, g),
            direction: if is_rx { Direction::Rx } else { Direction::Tx },
            profile: GCM,
            key,
            salt: [0; SALT_LEN_MAX]
        }
        .into()),
        (id()).prop_map(|(i, g)| PeerClose { peer: PeerId::new(i, g) }.into()),
        (id(), id(), ssrc(), ssrc(), any::<[u8; 3]>()).prop_map(|(s, p, ssrc, rtx_ssrc, [pt, rtx_pt, bits])| {
            StreamOpen {
                stream: StreamId::new(s.0, s.1),
                peer: PeerId::new(p.0, p.1),
                ssrc,
                rtx_ssrc,
                mid: proto::id::Mid::parse(b"7").unwrap(),
                pt,
                rtx_pt,
                codec: [Codec::Opus, Codec::H264, Codec::Vp8, Codec::H264][usize::from(bits & 3)],
                feedback: bits,
                red_pt: if bits & 0x40 == 0 { 0 } else { rtx_pt },
            }
            .into()
        }),
        (id(), any::<[u8; 3]>()).prop_map(|((i, g), [pt, rtx_pt, bits])| StreamCodec {
            stream: StreamId::new(i, g),
            codec: if bits & 1 == 0 { Codec::Vp8 } else { Codec::H264 },
            pt,
            rtx_pt
        }
        .into()),
        (id(), any::<[u8; 3]>()).prop_map(|((i, g), [pt, rtx_pt, bits])| RouteCodec {
            route: RouteId::new(i, g),
            codec: if bits & 1 == 0 { Codec::Vp8 } else { Codec::H264 },
            pt,
            rtx_pt
        }
        .into()),
        (id(), prop::array::uniform3(ssrc()), prop::array::uniform3(ssrc())).prop_map(|((i, g), ssrcs, rtx_ssrcs)| {
            StreamEncodings { stream: StreamId::new(i, g), ssrcs, rtx_ssrcs }.into()
        }),
        (id(), 0..5u8, 0..60u8, prop::collection::vec(any::<u8>(), STREAM_SETS_PART_LEN)).prop_map(
            |((i, g), part, len, bytes)| {
                let bytes = bytes.try_into().unwrap();
                StreamSets { stream: StreamId::new(i, g), part, len, bytes }.into()
            }
        ),
        (id()).prop_map(|(i, g)| StreamClose { stream: StreamId::new(i, g) }.into()),
        (id(), id(), ssrc(), ssrc(), any::<[u16; 2]>()).prop_map(
            |(s, p, ssrc, rtx_ssrc, [seq_first, rtx_seq_first])| {
                SlotOpen {
                    slot: SlotId::new(s.0, s.1),
                    peer: PeerId::new(p.0, p.1),
                    ssrc,
                    rtx_ssrc,
                    mid: proto::id::Mid::NONE,
                    seq_first,
                    rtx_seq_first,
                    timestamp_first: 0,
                }
                .into()
            }
        ),
        (id()).prop_map(|(i, g)| SlotClose { slot: SlotId::new(i, g) }.into()),
        (id(), id(), id(), any::<[u8; 3]>()).prop_map(|(r, s, t, [pt, rtx_pt, red_pt])| RouteOpen {
            route: RouteId::new(r.0, r.1),
            stream: StreamId::new(s.0, s.1),
            slot: SlotId::new(t.0, t.1),
            pt,
            rtx_pt: if rtx_pt & 1 == 0 { rtx_pt } else { pt },
            red_pt: if red_pt & 1 == 0 { red_pt } else { 0 },
        }
        .into()),
        (id()).prop_map(|(i, g)| RouteClose { route: RouteId::new(i, g) }.into()),
        Just(Describe {}.into()),
        Just(Commit { batch: 3 }.into()),
    ]
}

/// Whether a command may touch the call of Alice and Bob, which the property wants left alone.
fn is_about(command: &Command, alice: &Peer, bob: &Peer) -> bool {
    let is_theirs = |peer: PeerId| [alice.id, bob.id].iter().any(|id| id.index == peer.index);
    match command {
        Command::PeerExtensions(c) => is_theirs(c.peer),
        Command::PeerIce(c) => is_theirs(c.peer),
        Command::PeerRemote(c) => is_theirs(c.peer),
        Command::PeerCandidate(c) => is_theirs(c.peer),
        Command::PeerEdge(c) => is_theirs(c.peer),
        Command::PeerRate(c) => is_theirs(c.peer),
        Command::StreamRate(c) => c.stream.index == 8,
        Command::StreamGate(c) => c.stream.index == 8,
        Command::PeerClose(c) => is_theirs(c.peer),
        // The streams, slots and routes of the siege, in order of their indices: 5 to 8, then slot and route by turns.
        Command::StreamClose(c) => c.stream.index == 8,
        Command::SlotClose(c) => c.slot.index == 15,
        Command::RouteClose(c) => c.route.index == 16,
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_call_goes_on_under_attack(attacks in prop::collection::vec(attack(), 1..120)) {
        let mut siege = Siege::new();
        for attack in &attacks {
            siege.suffer(attack);
            siege.talk();
            siege.check_bounds();
        }
        siege.world.sent.clear();
        siege.world.advance(1_500_000);
        siege.world.take_sent(siege.bob.remote);
        siege.talk();
        siege.check_bounds();
    }

    /// What the controlplane says is input too: records of any bytes, and commands of any meaning.
    #[test]
    fn a_call_goes_on_whatever_the_controlplane_says(
        commands in prop::collection::vec(command(), 1..200),
        noise in prop::collection::vec((0..16u16, prop::collection::vec(any::<u8>(), RECORD_LEN)), 0..40),
        attacks in prop::collection::vec(attack(), 0..20),
    ) {
        let mut siege = Siege::new();
        let (mut noise, mut attacks) = (noise.iter().cycle(), attacks.iter().cycle());
        for command in &commands {
            if is_about(command, &siege.alice, &siege.bob) {
                continue;
            }
            siege.world.stage(&[*command]);
            if let Some((tag, bytes)) = noise.next() {
                let mut record: Record = bytes[..].try_into().unwrap();
                record[..2].copy_from_slice(&tag.to_le_bytes());
                let is_harmless = Command::read(&record)
                    .is_none_or(|c| !is_about(&c, &siege.alice, &siege.bob) && !matches!(c, Command::Reset(_)));
                if is_harmless {
                    siege.world.forwarder.apply(siege.world.now, &record, &mut siege.world.egress);
                    siege.world.collect();
                }
            }
            if let Some(attack) = attacks.next() {
                siege.suffer(attack);
            }
            siege.world.forwarder.describe(7, &mut siege.world.egress.outbox);
            siege.world.collect();
            siege.talk();
        }
        siege.world.commit(&[]);
        siege.talk();
        let sizes = siege.world.forwarder.sizes();
        prop_assert_eq!(sizes.ufrags, sizes.objects[0]);
        prop_assert!(sizes.paths <= sizes.objects[0] * dataplane::config::PEER_PATHS_MAX);
        siege.world.commit(&[Reset {}.into()]);
        prop_assert_eq!(siege.world.forwarder.sizes(), Default::default());
    }
}

/// The largest payload with the largest extensions, and its repair, fit their frames to the byte.
#[test]
fn the_largest_packet_and_its_repair_fit() {
    let mut siege = Siege::new();
    let ids: ExtensionIds = [4, 0, 0, 2, 3, 1, 5, 6, 13, 0, 0, 0, 0, 0, 0, 0];
    let mut slot = siege.world.slot_open(&siege.victor);
    slot.mid = proto::id::Mid::parse(b"sixteen-letters-").unwrap();
    let stream = siege.world.stream_open(&siege.mallory, Codec::H264);
    let route = siege.world.route_open(stream.stream, slot.slot);
    let (mallory, victor) = (siege.mallory.id, siege.victor.id);
    siege.world.commit(&[
        PeerExtensions { peer: mallory, ids }.into(),
        PeerExtensions { peer: victor, ids }.into(),
        stream.into(),
        slot.into(),
        route.into(),
    ]);
    let too_large = dataplane::config::PAYLOAD_LEN_MAX + 1;
    for (n, len) in (too_large - 40..=too_large).enumerate() {
        let mut payload = SPS.to_vec();
        payload.resize(len, 9);
        let mut packet = packet(stream.ssrc, H264_PT, n as u16 + 1, 0, &payload);
        for id in [1, 5, 6, 13] {
            packet.header.set_extension(id, vec![3; 16].into()).unwrap();
        }
        let protected = siege.mallory.protect(&packet);
        siege.world.receive(siege.mallory.remote, &protected);
        let nack = TransportLayerNack {
            sender_ssrc: 1,
            media_ssrc: slot.ssrc,
            nacks: vec![NackPair { packet_id: 1000 + n as u16, lost_packets: 0 }],
        };
        let protected = siege.victor.protect_rtcp(&nack);
        siege.world.receive(siege.victor.remote, &protected);
        siege.talk();
    }
    assert_eq!(siege.world.counter(Counter::DroppedTooLarge), 1);
    let datagrams = siege.world.take_sent(siege.victor.remote);
    let got = siege.victor.unprotect(&datagrams);
    assert!(got.iter().filter(|p| p.header.ssrc == slot.ssrc).count() >= 40);
    assert!(got.iter().filter(|p| p.header.ssrc == slot.rtx_ssrc).count() >= 30, "the longest were repaired too");
}

/// A publisher that jumps through its sequence space leaves the slot as good as it was for the next.
#[test]
fn a_publisher_that_jumps_does_not_deafen_the_slot() {
    let mut siege = Siege::new();
    let slot = siege.world.slot(&siege.bob);
    let stream = siege.world.publish(&siege.mallory, Codec::Opus);
    let route = siege.world.route(stream, slot);
    let ssrc = siege.world.ssrc_of(stream);
    let mut received = 0;
    for n in 0..40u16 {
        let protected = siege.mallory.protect(&packet(ssrc, OPUS_PT, n.wrapping_mul(32_000), 0, b"jump"));
        siege.world.receive(siege.mallory.remote, &protected);
        let datagrams = siege.world.take_sent(siege.bob.remote);
        // Two of three are lost on their way to Bob, so that what he sees jumps further still.
        if n % 3 == 0 {
            received += siege.bob.unprotect(&datagrams).len();
        }
    }
    assert_eq!(received, 14);
    let next = siege.world.publish(&siege.victor, Codec::Opus);
    let open = siege.world.route_open(next, slot);
    siege.world.commit(&[RouteClose { route }.into(), open.into()]);
    let ssrc = siege.world.ssrc_of(next);
    let protected = siege.victor.protect(&packet(ssrc, OPUS_PT, 5, 0, b"after"));
    siege.world.receive(siege.victor.remote, &protected);
    let datagrams = siege.world.take_sent(siege.bob.remote);
    assert_eq!(siege.bob.unprotect(&datagrams)[0].payload[..], *b"after");
}

/// `known` stands for an address that a check has proved, `stranger` for another.
#[test]
fn corpus_is_survived() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/worker");
    let mut siege = Siege::new();
    let mut datagrams = 0;
    let mut files: Vec<_> = std::fs::read_dir(corpus).expect("the corpus is in the repository").collect();
    files.sort_by_key(|entry| entry.as_ref().expect("a readable folder").path());
    for entry in files {
        let path = entry.expect("a readable folder").path();
        let text = std::fs::read_to_string(&path).expect("a readable file");
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (from, hex) = line.split_once(' ').unwrap_or((line, ""));
            let bytes: Vec<u8> = (0..hex.len() / 2)
                .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hexadecimal"))
                .collect();
            let from = match from {
                "known" => siege.mallory.remote,
                "stranger" => stranger(),
                other => panic!("{other} in {}", path.display()),
            };
            let before = siege.world.sent.len();
            siege.world.receive(from, &bytes);
            assert_eq!(siege.world.sent.len(), before, "{} is not answered", path.display());
            siege.talk();
            datagrams += 1;
        }
    }
    siege.check_bounds();
    assert!(datagrams >= 20, "only {datagrams} datagrams in {corpus}");
}
