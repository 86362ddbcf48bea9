//! A worker's core in virtual time, and peers around it that speak SRTP by another implementation (`webrtc-srtp`)
//! and RTP and RTCP by the `rtp` and `rtcp` crates.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

mod egress;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use dataplane::Micros;
use dataplane::forward::Forwarder;
use dataplane::path::{Datagram, Path};
use dataplane::relay::Message;
use dataplane::twcc::ArrivalLog;
use proto::id::{Mid, PeerId, RouteId, SlotId, StreamId, TapId};
use proto::plane::*;
use proto::stun;
use rtcp::transport_feedbacks::transport_layer_cc::TransportLayerCc;
use webrtc_srtp::context::Context;
use webrtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use webrtc_srtp::protection_profile::ProtectionProfile;
use webrtc_util::marshal::{Marshal, Unmarshal};

pub use self::egress::Collector;

/// Ids under which the peers of these tests negotiate header extensions: mid 4, transport-cc 3, abs-send-time 2,
/// audio level 1, video orientation 13.
pub const IDS: ExtensionIds = [4, 0, 0, 2, 3, 1, 0, 0, 13, 0, 0, 0, 0, 0, 0, 0];

pub const OPUS_PT: u8 = 111;
pub const H264_PT: u8 = 102;
pub const RTX_PT: u8 = 103;

/// One worker's core, and what left it.
pub struct World {
    pub now: Micros,
    pub forwarder: Forwarder,
    pub egress: Collector,
    /// Addresses where nobody answers the worker's checks. Everywhere else somebody does, at once.
    pub mute: BTreeSet<SocketAddr>,
    batch: u64,
    next_index: u32,
}

impl Deref for World {
    type Target = Collector;

    fn deref(&self) -> &Collector {
        &self.egress
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Collector {
        &mut self.egress
    }
}

/// A counter of all workers together.
pub fn total(worlds: &mut [World], counter: Counter) -> u64 {
    worlds.iter_mut().map(|world| world.counter(counter)).sum()
}

/// What workers relayed to each other arrives.
pub fn exchange(worlds: &mut [World]) {
    for from in 0..worlds.len() {
        for (to, relayed) in std::mem::take(&mut worlds[from].relayed) {
            worlds[to].receive_relayed(&relayed.message());
        }
    }
    for world in worlds {
        world.fan_out();
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    pub fn new() -> Self {
        let now = 1_000_000;
        World {
            now,
            forwarder: Forwarder::new([9; 16], now),
            egress: Collector::default(),
            mute: BTreeSet::new(),
            batch: 0,
            next_index: 0,
        }
    }

    /// Worker `index` of so many. Their ids and addresses differ.
    pub fn among(index: usize, workers: usize) -> Self {
        let world = World::new();
        let forwarder = world.forwarder.among(index, workers);
        World { forwarder, next_index: index as u32 * 400, ..world }
    }

    /// A message of another worker arrives in the midst of a turn, which [`fan_out`](Self::fan_out) ends.
    pub fn receive_relayed(&mut self, message: &Message<'_>) {
        self.forwarder.receive_relayed(self.now, *message, &mut self.egress);
        self.collect();
    }

    /// Stages commands and no more.
    pub fn stage(&mut self, commands: &[Command]) {
        self.fan_out();
        for command in commands {
            self.forwarder.apply(self.now, &command.write(), &mut self.egress);
        }
        self.collect();
    }

    /// Stages commands and commits them; the number of the batch.
    pub fn commit(&mut self, commands: &[Command]) -> u64 {
        self.stage(commands);
        let batch = self.batch;
        self.stage(&[Commit { batch }.into()]);
        self.batch += 1;
        batch
    }

    /// What the worker reported since the last call.
    pub fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// The commands among the reports since it was last asked, with which a worker describes itself.
    pub fn take_echoes(&mut self) -> Vec<Command> {
        let echo = |report| match report {
            Report::Echo(command) => Some(command),
            Report::Event(_) => None,
        };
        self.take_reports().into_iter().filter_map(echo).collect()
    }

    /// A turn of one datagram from `remote`.
    pub fn receive(&mut self, remote: SocketAddr, bytes: &[u8]) {
        self.fan_out();
        self.receive_in_turn(remote, bytes);
        self.fan_out();
    }

    /// A datagram from `remote` arrives in the midst of a turn, which [`fan_out`](Self::fan_out) ends.
    pub fn receive_in_turn(&mut self, remote: SocketAddr, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let datagram = Datagram { path: Path::new(0, remote), at: self.now, bytes: &mut bytes };
        self.forwarder.receive(self.now, datagram, &mut self.egress);
        self.collect();
    }

    /// Fans out what is pending; how often the outbox had to be flushed before the end.
    pub fn fan_out(&mut self) -> usize {
        let before = self.flushes;
        self.forwarder.fan_out(self.now, &mut self.egress);
        let flushes = self.flushes - before;
        self.collect();
        flushes
    }

    /// Time passes, timers fire.
    pub fn advance(&mut self, by: Micros) {
        self.fan_out();
        let end = self.now + by;
        while let Some(deadline) = self.forwarder.deadline().filter(|d| *d <= end) {
            self.now = self.now.max(deadline);
            self.forwarder.tick(self.now, &mut self.egress);
            self.collect();
        }
        self.now = end;
        self.forwarder.tick(self.now, &mut self.egress);
        self.collect();
    }

    /// Lets leave what was written.
    pub fn collect(&mut self) {
        self.forwarder.flush(self.now, &mut self.egress);
        self.check_conservation();
        self.answer_checks();
    }

    /// Peers answer the worker's checks, which tests otherwise do not see.
    fn answer_checks(&mut self) {
        let is_asked = |(to, bytes): &(SocketAddr, Vec<u8>)| !self.mute.contains(to) && is_check(bytes);
        let (asked, others) = self.egress.sent.drain(..).partition::<Vec<_>, _>(is_asked);
        self.egress.sent = others.into();
        for (to, check) in asked {
            self.receive_in_turn(to, &answer(&check, to, PEERS_PWD));
        }
    }

    pub fn counter(&mut self, counter: Counter) -> u64 {
        self.forwarder.counters()[counter as usize]
    }

    /// Each datagram has one fate, and the fates add up to what was received.
    pub fn check_conservation(&mut self) {
        let counters = *self.forwarder.counters();
        let is_fate = |c: &&Counter| {
            matches!(c, Counter::Forwarded | Counter::Consumed | Counter::Punted) || c.name().starts_with("dropped_")
        };
        let fates: u64 = Counter::ALL.iter().filter(is_fate).map(|c| counters[*c as usize]).sum();
        let came = counters[Counter::Received as usize] + counters[Counter::RelayReceived as usize];
        assert_eq!(fates, came, "a datagram has no fate, or two");
    }

    /// What was sent to a peer since the last call.
    pub fn take_sent(&mut self, remote: SocketAddr) -> Vec<Vec<u8>> {
        let (mine, others) = self.sent.drain(..).partition::<Vec<_>, _>(|(to, _)| *to == remote);
        self.sent = others.into();
        mine.into_iter().map(|(_, bytes)| bytes).collect()
    }

    /// A connected peer: opened, keyed, its address proved by a nominating check.
    pub fn connect(&mut self, profile: SrtpProfile) -> Peer {
        let peer = self.open(profile);
        self.commit(&peer.keys());
        let check = peer.check(true);
        self.receive(peer.remote, &check);
        assert_eq!(self.take_sent(peer.remote).len(), 1, "the check is answered");
        peer
    }

    /// The same without transport-wide sequence numbers: nothing is known of its path, and nothing limits what it is sent.
    pub fn connect_unlimited(&mut self, profile: SrtpProfile) -> Peer {
        let peer = self.connect(profile);
        let mut ids = IDS;
        ids[Extension::TransportCc as usize] = 0;
        self.commit(&[PeerExtensions { peer: peer.id, ids }.into()]);
        peer
    }

    /// A peer that is opened and no more.
    pub fn open(&mut self, profile: SrtpProfile) -> Peer {
        self.next_index += 1;
        let peer = Peer::new(self.next_index, profile);
        self.commit(&[
            PeerOpen { peer: peer.id, ufrag: peer.ufrag, pwd: peer.pwd }.into(),
            remote_of(peer.id),
            PeerExtensions { peer: peer.id, ids: IDS }.into(),
        ]);
        peer
    }

    /// A track of `peer`: microphone with Opus or camera with H.264 and RTX.
    pub fn publish(&mut self, peer: &Peer, codec: Codec) -> StreamId {
        let open = self.stream_open(peer, codec);
        self.commit(&[open.into()]);
        open.stream
    }

    /// The command that opens a track.
    pub fn stream_open(&mut self, peer: &Peer, codec: Codec) -> StreamOpen {
        self.next_index += 1;
        let stream = StreamId::new(self.next_index, 1);
        let (pt, rtx_pt) = if codec.is_video() { (H264_PT, RTX_PT) } else { (OPUS_PT, 0) };
        let ssrc = 0x1000 + self.next_index;
        StreamOpen {
            stream,
            peer: peer.id,
            ssrc,
            rtx_ssrc: if codec.is_video() { ssrc + 0x1_0000 } else { 0 },
            mid: Mid::parse(self.next_index.to_string().as_bytes()).unwrap(),
            pt,
            rtx_pt,
            codec,
            feedback: feedback::NACK | feedback::PLI | feedback::FIR | feedback::TRANSPORT_CC,
            red_pt: 0,
        }
    }

    /// The commands that carry a stream of worker 0 to this one, as `worker`: the mirror here, and the tap there.
    pub fn mirror_open(&mut self, open: &StreamOpen, worker: u16) -> (MirrorOpen, TapOpen) {
        self.next_index += 1;
        let StreamOpen { stream: origin, peer: publisher, pt, rtx_pt, codec, .. } = *open;
        let stream = StreamId::new(self.next_index, 1);
        let mirror = MirrorOpen { stream, worker: 0, origin, publisher, pt, rtx_pt, codec };
        (mirror, TapOpen { tap: TapId::new(self.next_index, 1), stream: origin, worker, mirror: stream })
    }

    pub fn ssrc_of(&self, stream: StreamId) -> u32 {
        0x1000 + stream.index
    }

    /// A slot of `peer`.
    pub fn slot(&mut self, peer: &Peer) -> SlotId {
        let open = self.slot_open(peer);
        self.commit(&[open.into()]);
        open.slot
    }

    /// The command that opens a slot.
    pub fn slot_open(&mut self, peer: &Peer) -> SlotOpen {
        self.next_index += 1;
        let slot = SlotId::new(self.next_index, 1);
        SlotOpen {
            slot,
            peer: peer.id,
            ssrc: 0x2000_0000 + self.next_index,
            rtx_ssrc: 0x3000_0000 + self.next_index,
            mid: Mid::parse(b"9").unwrap(),
            seq_first: 1000,
            rtx_seq_first: 2000,
            timestamp_first: 90_000,
        }
    }

    /// The stream goes into the slot, with the receiver's own payload types.
    pub fn route(&mut self, stream: StreamId, slot: SlotId) -> RouteId {
        let open = self.route_open(stream, slot);
        self.commit(&[open.into()]);
        open.route
    }

    /// The command that opens a route.
    pub fn route_open(&mut self, stream: StreamId, slot: SlotId) -> RouteOpen {
        self.next_index += 1;
        let route = RouteId::new(self.next_index, 1);
        RouteOpen { route, stream, slot, pt: 120, rtx_pt: 121, red_pt: 0 }
    }
}

/// The credentials that every peer of these tests gives for itself.
pub const PEERS_UFRAG: &[u8] = b"them";
pub const PEERS_PWD: &[u8] = b"the-password-of-the-peer";

/// The command that tells them.
pub fn remote_of(peer: PeerId) -> Command {
    let parts = PeerRemote::parts(peer, PEERS_UFRAG, PEERS_PWD).expect("they are credentials");
    assert_eq!(parts.len(), 1, "they are one part");
    parts[0].into()
}

/// Whether a datagram that left is a check of the worker's own.
pub fn is_check(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0) && stun::Message::parse(bytes).is_ok_and(|message| message.is_binding_request())
}

/// What a peer at an address answers to a check, with this password.
pub fn answer(check: &[u8], at: SocketAddr, pwd: &[u8]) -> Vec<u8> {
    let id = stun::Message::parse(check).expect("a check").transaction_id();
    let mut out = [0; 128];
    let writer = stun::Writer::binding_success(&mut out, id, at);
    let len = writer.integrity(&stun::IntegrityKey::new(pwd)).fingerprint().finish().expect("an answer is short");
    out[..len].to_vec()
}

/// A client of another implementation.
pub struct Peer {
    pub id: PeerId,
    pub remote: SocketAddr,
    pub ufrag: [u8; UFRAG_LEN],
    pub pwd: [u8; PWD_LEN],
    /// The fragment that it gave for itself.
    pub own_ufrag: Vec<u8>,
    profile: SrtpProfile,
    tx: Context,
    rx: Context,
}

impl Peer {
    fn new(index: u32, profile: SrtpProfile) -> Self {
        let mut ufrag = *b"ufrag000";
        ufrag[5..].copy_from_slice(format!("{index:03}").as_bytes());
        Peer {
            id: PeerId::new(index, 1),
            remote: SocketAddr::from(([127, 0, 0, 1], 10_000 + index as u16)),
            ufrag,
            pwd: *b"password-of-24-character",
            own_ufrag: PEERS_UFRAG.to_vec(),
            profile,
            tx: context(profile, Self::key(profile, index, 1)),
            rx: context(profile, Self::key(profile, index, 2)),
        }
    }

    fn key(profile: SrtpProfile, index: u32, way: u8) -> ([u8; KEY_LEN_MAX], [u8; SALT_LEN_MAX]) {
        let mut salt = [way; SALT_LEN_MAX];
        if profile != SrtpProfile::Aes128CmHmacSha1_80 {
            salt[12..].fill(0);
        }
        ([index as u8 ^ way << 6; KEY_LEN_MAX], salt)
    }

    /// The commands that install its keys.
    pub fn keys(&self) -> [Command; 2] {
        [(Direction::Rx, 1), (Direction::Tx, 2)].map(|(direction, way)| {
            let (key, salt) = Self::key(self.profile, self.id.index, way);
            PeerKeys { peer: self.id, direction, profile: self.profile, key, salt }.into()
        })
    }

    /// A connectivity check with its credentials.
    pub fn check(&self, nominate: bool) -> Vec<u8> {
        let mut out = [0; 512];
        let name = [&self.ufrag, &b":"[..], &self.own_ufrag].concat();
        let mut writer = stun::Writer::binding_request(&mut out, stun::TransactionId([7; 12]))
            .username(&name)
            .priority(1)
            .ice_controlling(1);
        if nominate {
            writer = writer.use_candidate();
        }
        let len = writer.integrity(&stun::IntegrityKey::new(&self.pwd)).fingerprint().finish().unwrap();
        out[..len].to_vec()
    }

    pub fn protect(&mut self, packet: &rtp::packet::Packet) -> Vec<u8> {
        self.tx.encrypt_rtp(&packet.marshal().unwrap()).unwrap().to_vec()
    }

    pub fn protect_rtcp(&mut self, packet: &dyn rtcp::packet::Packet) -> Vec<u8> {
        self.protect_rtcp_bytes(&packet.marshal().unwrap())
    }

    /// The same of bytes that are written by hand.
    pub fn protect_rtcp_bytes(&mut self, packet: &[u8]) -> Vec<u8> {
        self.tx.encrypt_rtcp(packet).unwrap().to_vec()
    }

    /// Unprotects and parses what it was sent: RTP packets.
    pub fn unprotect(&mut self, datagrams: &[Vec<u8>]) -> Vec<rtp::packet::Packet> {
        let is_rtp = |d: &&Vec<u8>| d[0] & 0xc0 == 0x80 && !(192..=223).contains(&d[1]);
        datagrams
            .iter()
            .filter(is_rtp)
            .map(|d| {
                let plain = self.rx.decrypt_rtp(d).expect("what we are sent is authentic, and not replayed");
                rtp::packet::Packet::unmarshal(&mut plain.clone()).expect("RTP")
            })
            .collect()
    }

    /// Unprotects and parses what it was sent: RTCP packets.
    pub fn unprotect_rtcp(&mut self, datagrams: &[Vec<u8>]) -> Vec<Box<dyn rtcp::packet::Packet + Send + Sync>> {
        let is_rtcp = |d: &&Vec<u8>| d[0] & 0xc0 == 0x80 && (192..=223).contains(&d[1]);
        datagrams
            .iter()
            .filter(is_rtcp)
            .flat_map(|d| {
                let plain = self.rx.decrypt_rtcp(d).expect("authentic");
                rtcp::packet::unmarshal(&mut plain.clone()).expect("RTCP")
            })
            .collect()
    }
}

fn context(profile: SrtpProfile, (key, salt): ([u8; KEY_LEN_MAX], [u8; SALT_LEN_MAX])) -> Context {
    let profile = match profile {
        SrtpProfile::Aes128CmHmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        SrtpProfile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
    };
    Context::new(
        &key[..profile.key_len()],
        &salt[..profile.salt_len()],
        profile,
        Some(srtp_replay_protection(256)),
        Some(srtcp_replay_protection(256)),
    )
    .unwrap()
}

/// A packet of a stream. Video payloads that begin with an SPS (type 7) start a keyframe.
pub fn packet(ssrc: u32, pt: u8, seq: u16, timestamp: u32, payload: &[u8]) -> rtp::packet::Packet {
    rtp::packet::Packet {
        header: rtp::header::Header {
            version: 2,
            payload_type: pt,
            sequence_number: seq,
            timestamp,
            ssrc,
            ..Default::default()
        },
        payload: Bytes::copy_from_slice(payload),
    }
}

/// First packet of a keyframe, and one that is not.
pub const SPS: &[u8] = &[0x67, 0x42, 0xe0, 0x1f, 1, 2, 3, 4];
pub const DELTA: &[u8] = &[0x41, 5, 6, 7, 8, 9, 10, 11, 12];

/// The transport-cc feedback that a receiver sends now. The other crate's form, so that it can be protected by it.
pub fn feedback_of(arrivals: &mut ArrivalLog) -> TransportLayerCc {
    let mut body = [0; 1200];
    let whole = (arrivals.write_feedback(&mut body[8..]) + 8).next_multiple_of(4);
    let head = [0x8f, 205, 0, (whole / 4) as u8];
    TransportLayerCc::unmarshal(&mut [&head[..], &body[..whole]].concat().as_slice()).expect("feedback")
}
