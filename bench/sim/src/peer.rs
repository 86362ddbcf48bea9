//! A client: what a browser and its page do. It speaks to the server by datagrams and signals alone, protects and
//! unprotects by another implementation of SRTP, and holds what it is sent against the laws.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use controlplane::dtls::{Dtls, DtlsEvent, Identity as Certificate, fingerprint_matches};
use controlplane::engine::SocketId;
use dataplane::Micros;
use proto::signal::{ClientSignal, ErrorCode, ServerSignal, Source, TrackDescription};
use proto::stun;
use rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};
use rtp::packet::Packet;
use webrtc_srtp::context::Context;
use webrtc_util::marshal::{Marshal, Unmarshal};

use crate::laws::{Identity, MARK, Numbers, Seen};
use crate::random::Random;
use crate::wire::{self, FromClient, context, is_rtcp, is_rtp, ssrcs};

const MILLISECOND: Micros = 1000;
const SECOND: Micros = 1_000_000;
/// Between checks before the first answer, and after it (libwebrtc: 2.5 s on a stable path).
const CHECK_INTERVAL: Micros = 100 * MILLISECOND;
const CONSENT_INTERVAL: Micros = 2500 * MILLISECOND;
/// A client whose checks go unanswered for so long joins anew.
const GIVES_UP_AFTER: Micros = 9 * SECOND;
const AUDIO_INTERVAL: Micros = 20 * MILLISECOND;
const VIDEO_INTERVAL: Micros = 50 * MILLISECOND;
const NACK_INTERVAL: Micros = 60 * MILLISECOND;

const AUDIO: usize = 0;
const VIDEO: usize = 1;
/// Encodings of a camera, the worst first, by RID. The first is a track of [`VIDEO`], the others follow it.
const RIDS: [&str; 3] = ["l", "m", "h"];
/// Every so many peers send their camera in several encodings.
const SIMULCAST_EACH: u16 = 3;
/// As Chromium's offer numbers them.
const MID_EXTENSION: u8 = 4;
const RID_EXTENSION: u8 = 10;
const REPAIRED_RID_EXTENSION: u8 = 11;
const TRANSPORT_CC_EXTENSION: u8 = 3;

/// Peers of one room have numbers of one such range.
pub const ROOM_SIZE: u16 = 100;

/// First bytes of a keyframe's first packet (SPS), and of any other.
const SPS: [u8; 8] = [0x67, 0x42, 0xe0, 0x1f, 1, 2, 3, 4];
const DELTA: [u8; 8] = [0x41, 5, 6, 7, 8, 9, 10, 11];

/// A signalling socket, as the client sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Socket {
    /// None; the next is opened then.
    Closed {
        retry_at: Micros,
    },
    Opening,
    Open(SocketId),
}

/// One stream that it sends: a track, or one encoding of it.
struct Track {
    mid: &'static str,
    /// Of an encoding, its RID.
    rid: Option<&'static str>,
    ssrc: u32,
    rtx_ssrc: u32,
    pt: u8,
    rtx_pt: u8,
    next_index: u64,
    timestamp: u32,
    frame: u32,
    is_active: bool,
    wants_keyframe: bool,
    due_at: Micros,
    sent: HashMap<u16, Packet>,
    rtx_seq: u16,
}

/// What a connection is made of, from the answer on.
struct Transport {
    server: SocketAddr,
    /// Username fragments, ours and the server's, as a check has them; and its password.
    username: String,
    key: stun::IntegrityKey,
    /// Of our own password: the server's checks and our answers to them.
    own_key: stun::IntegrityKey,
    fingerprint: Vec<u8>,
    /// By SSRC: the slot's mid, and whether it is that of its repairs.
    slots: BTreeMap<u32, (String, bool)>,
    dtls: Option<Dtls>,
    srtp: Option<Srtp>,
    /// Datagrams of SRTP that left for us before we had its keys.
    early: Vec<Vec<u8>>,
    next_check: Micros,
    answered_at: Micros,
    is_answered: bool,
    next_nack: Micros,
    transport_cc_seq: u16,
    /// Transport-wide sequence numbers that left the server: none may come twice.
    transport_cc: Numbers,
    /// Every datagram of media that left the server. Audio is repaired by the same datagram again.
    left: HashSet<Vec<u8>>,
}

struct Srtp {
    tx: Context,
    rx: Context,
    /// Unprotects all that leaves the server, also what the network loses.
    observer: Context,
}

/// A client.
pub struct Peer {
    /// Which of the simulation's.
    pub number: u16,
    /// Its room.
    pub room: String,
    /// From where it sends.
    pub address: SocketAddr,
    /// The first port of this connection; the later ones were given by its NAT.
    first_port: u16,
    /// Whether its person wants to be in the call.
    pub wants_in: bool,
    /// How often it began anew.
    pub incarnation: u16,
    certificate: Certificate,
    socket: Socket,
    /// Whether the server knows which peer this socket belongs to. Until then it takes no `track` signals.
    is_joined: bool,
    session: Option<String>,
    /// Its id in the room.
    pub id: Option<String>,
    offer: String,
    transport: Option<Transport>,
    /// Microphone, camera, and further encodings of the camera.
    tracks: Vec<Track>,
    /// By slot mid: what is in it, as it was told: peer and kind.
    pub told: BTreeMap<String, (String, Source)>,
    /// By slot mid: what left for it.
    pub seen: BTreeMap<String, Seen>,
    /// Laws of connections that are over were checked; packets of them.
    pub packets_seen: usize,
    /// Datagrams that left the server again as they were.
    pub left_again: usize,
    out: VecDeque<FromClient>,
    random: Random,
}

impl Peer {
    /// A client that is not in yet.
    pub fn new(number: u16, room: &str, certificate: Certificate, mut random: Random) -> Peer {
        let offer = wire::offer(&certificate, number, if is_simulcast(number) { &RIDS } else { &[] });
        let track = |mid, rid, [ssrc, rtx_ssrc]: [u32; 2], due_at| Track {
            mid,
            rid,
            ssrc,
            rtx_ssrc,
            pt: 0,
            rtx_pt: 0,
            next_index: 0,
            timestamp: 0,
            frame: 0,
            is_active: true,
            wants_keyframe: true,
            due_at,
            sent: HashMap::new(),
            rtx_seq: 0,
        };
        let [audio, video, rtx] = ssrcs(number);
        let mut tracks = vec![track("0", None, [audio, 0], random.below(VIDEO_INTERVAL))];
        let due_at = random.below(VIDEO_INTERVAL);
        match is_simulcast(number) {
            false => tracks.push(track("1", None, [video, rtx], due_at)),
            true => tracks.extend((1..).zip(RIDS).map(|(n, rid)| track("1", Some(rid), [video | n, rtx | n], due_at))),
        }
        Peer {
            number,
            room: room.to_owned(),
            address: SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 50_000)),
            first_port: 50_000,
            wants_in: false,
            incarnation: 0,
            certificate,
            socket: Socket::Closed { retry_at: 0 },
            is_joined: false,
            session: None,
            id: None,
            offer,
            transport: None,
            tracks,
            told: BTreeMap::new(),
            seen: BTreeMap::new(),
            packets_seen: 0,
            left_again: 0,
            out: VecDeque::new(),
            random,
        }
    }

    /// What it wants carried.
    pub fn poll(&mut self) -> Option<FromClient> {
        self.out.pop_front()
    }

    /// Its socket, while it has one.
    pub fn socket(&self) -> Option<SocketId> {
        match self.socket {
            Socket::Open(socket) => Some(socket),
            _ => None,
        }
    }

    /// Whether media flows both ways.
    pub fn is_connected(&self) -> bool {
        self.transport.as_ref().is_some_and(|transport| transport.srtp.is_some())
    }

    /// Whether it sends this kind of track.
    pub fn is_active(&self, kind: u8) -> bool {
        self.tracks[usize::from(kind)].is_active
    }

    /// The kind of the best encoding that it sends of a track, as payloads have it.
    pub fn best_kind(&self, kind: u8) -> u8 {
        if usize::from(kind) == VIDEO { self.tracks.len() as u8 - 1 } else { kind }
    }

    /// The frame that it sends next.
    pub fn next_frame(&self, kind: u8) -> u32 {
        self.tracks[usize::from(kind)].frame
    }

    /// Its person comes.
    pub fn enter(&mut self, now: Micros) {
        self.wants_in = true;
        self.socket = Socket::Closed { retry_at: now };
    }

    /// Its person goes, in order or by closing the lid.
    pub fn leave(&mut self, says_so: bool) {
        self.wants_in = false;
        if self.socket().is_some() {
            if says_so {
                self.out.push_back(FromClient::Signal(ClientSignal::Leave {}));
            } else {
                self.out.push_back(FromClient::Close);
            }
        }
        self.begin_anew();
        self.socket = Socket::Closed { retry_at: Micros::MAX };
    }

    /// Switches microphone or camera.
    pub fn switch(&mut self, kind: u8) {
        let last = if usize::from(kind) == VIDEO { self.tracks.len() } else { VIDEO };
        for track in &mut self.tracks[usize::from(kind)..last] {
            track.is_active = !track.is_active;
            track.wants_keyframe = true;
        }
        let track = &self.tracks[usize::from(kind)];
        let signal = ClientSignal::Track { mid: track.mid.to_owned(), active: track.is_active };
        if self.is_joined {
            self.out.push_back(FromClient::Signal(signal));
        }
    }

    /// A NAT gives it another port.
    pub fn rebind(&mut self) {
        self.address.set_port(self.address.port() + 1);
        if let Some(transport) = &mut self.transport {
            transport.next_check = 0; // It notices by missing answers; here it notices at once.
        }
    }

    /// Whether a datagram to this address is one for its connection, or was before its NAT changed.
    pub fn has_had(&self, address: SocketAddr) -> bool {
        address.ip() == self.address.ip() && (self.first_port..=self.address.port()).contains(&address.port())
    }

    /// Its socket is open.
    pub fn opened(&mut self, socket: SocketId) {
        self.socket = Socket::Open(socket);
        self.is_joined = false;
    }

    /// Its socket is gone, not by its own doing.
    pub fn lost_socket(&mut self, now: Micros) {
        let pause = self.random.between(200, 1000) * MILLISECOND;
        self.is_joined = false;
        self.socket = Socket::Closed { retry_at: if self.wants_in { now + pause } else { Micros::MAX } };
    }

    /// A connection is over; the laws of what left for it are checked.
    fn begin_anew(&mut self) {
        self.is_joined = false;
        self.check_laws();
        self.packets_seen += self.seen.values().map(Seen::len).sum::<usize>();
        self.seen.clear();
        self.told.clear();
        self.transport = None;
        self.session = None;
        self.id = None;
        self.incarnation += 1;
        // A new connection has a socket of its own.
        self.address.set_port(self.address.port() + 1);
        self.first_port = self.address.port();
        for track in &mut self.tracks {
            track.sent.clear();
            track.frame = 0;
            track.wants_keyframe = true;
        }
    }

    /// Laws 2 and 3 of everything that left for this connection.
    pub fn check_laws(&self) {
        self.seen.values().for_each(Seen::check_order);
    }

    fn join_anew(&mut self, now: Micros) {
        self.begin_anew();
        if self.socket().is_some() {
            self.out.push_back(FromClient::Close);
        }
        let pause = self.random.between(100, 1000) * MILLISECOND;
        self.socket = Socket::Closed { retry_at: now + pause };
    }

    fn say_offer(&mut self) {
        // Where a stream begins is random in a browser; here some begin just before their sequence numbers wrap.
        for track in &mut self.tracks {
            track.next_index = (1 << 16) + *self.random.pick(&[0, 100, 30_000, 65_400, 65_530]);
            track.timestamp = *self.random.pick(&[0, 5, 0x7fff_0000, u32::MAX - 90_000]);
            track.rtx_seq = *self.random.pick(&[9, 65_500]);
        }
        let description = |mid: &str, source, active| TrackDescription { mid: mid.into(), source, active };
        let tracks = vec![
            description("0", Source::Microphone, self.tracks[AUDIO].is_active),
            description("1", Source::Camera, self.tracks[VIDEO].is_active),
            description("2", Source::Screen, false),
        ];
        self.out.push_back(FromClient::Signal(ClientSignal::Offer { sdp: self.offer.clone(), tracks }));
    }

    /// A signal of the server.
    pub fn hear(&mut self, now: Micros, signal: ServerSignal) {
        match signal {
            ServerSignal::Welcome { session, peer, resumed, .. } => {
                let resumes = self.session.clone().filter(|_| self.transport.is_some());
                match resumes {
                    Some(_) if resumed => {
                        assert_eq!(self.id.as_ref(), Some(&peer), "a session is one peer");
                        self.is_joined = true;
                        for Track { mid, is_active, .. } in &self.tracks[..=VIDEO] {
                            let signal = ClientSignal::Track { mid: (*mid).to_owned(), active: *is_active };
                            self.out.push_back(FromClient::Signal(signal));
                        }
                    }
                    Some(former) => self.out.push_back(FromClient::Signal(ClientSignal::Resume { session: former })),
                    None => {
                        (self.session, self.id) = (Some(session), Some(peer));
                        self.say_offer();
                    }
                }
            }
            ServerSignal::Answer { sdp } => self.answered(now, &sdp),
            ServerSignal::Slots { slots } => {
                self.told = slots.into_iter().filter_map(|slot| Some((slot.mid, (slot.peer?, slot.source?)))).collect();
            }
            ServerSignal::Error { code: ErrorCode::UnknownSession | ErrorCode::NoDataplane, .. }
            | ServerSignal::Error { fatal: true, .. }
            | ServerSignal::Bye { .. } => self.join_anew(now),
            ServerSignal::Error { code, message, .. } => panic!("peer {}: {code:?}: {message}", self.number),
            _ => {}
        }
    }

    fn answered(&mut self, now: Micros, sdp: &str) {
        self.is_joined = true;
        let answer = wire::Answer::parse(sdp);
        for track in &mut self.tracks {
            (track.pt, track.rtx_pt) = answer.formats.get(track.mid).copied().unwrap_or_default();
        }
        let (username, own_key) = wire::credentials(&self.offer, &answer);
        self.transport = Some(Transport {
            server: answer.server,
            username,
            key: answer.key,
            own_key,
            fingerprint: answer.fingerprint,
            slots: answer.sections,
            dtls: None,
            srtp: None,
            early: Vec::new(),
            next_check: now,
            answered_at: now,
            is_answered: false,
            next_nack: now,
            transport_cc_seq: 0,
            transport_cc: Default::default(),
            left: HashSet::new(),
        });
    }

    /// Time passes.
    pub fn step(&mut self, now: Micros, instant: Instant) {
        if matches!(self.socket, Socket::Closed { retry_at } if retry_at <= now) && self.wants_in {
            self.socket = Socket::Opening;
            self.out.push_back(FromClient::Open);
        }
        let Some(transport) = &mut self.transport else { return };
        if now > transport.answered_at + GIVES_UP_AFTER {
            return self.join_anew(now);
        }
        if transport.next_check <= now {
            let id = stun::TransactionId(self.random.bytes());
            transport.next_check = now + if transport.is_answered { CONSENT_INTERVAL } else { CHECK_INTERVAL };
            let bytes = wire::check(&transport.username, &transport.key, id);
            self.out.push_back(FromClient::Datagram(transport.server, bytes));
        }
        self.drive_dtls(instant, |dtls| {
            if dtls.poll_timeout().is_some_and(|due| due <= instant) {
                dtls.handle_timeout(instant);
            }
        });
        for kind in [AUDIO, VIDEO] {
            self.send_frame(now, kind);
        }
        self.ask_for_repair(now);
    }

    fn drive_dtls(&mut self, instant: Instant, with: impl FnOnce(&mut Dtls)) {
        let Some(transport) = &mut self.transport else { return };
        let Some(dtls) = &mut transport.dtls else { return };
        with(dtls);
        let _ = instant;
        while let Some(bytes) = dtls.poll_transmit() {
            self.out.push_back(FromClient::Datagram(transport.server, bytes));
        }
        while let Some(event) = dtls.poll_event() {
            if let DtlsEvent::Connected(connected) = event {
                let is_servers =
                    fingerprint_matches(&connected.peer_certificate_der, "sha-256", &transport.fingerprint);
                assert_eq!(is_servers, Ok(true), "the certificate is the answer's");
                transport.srtp = Some(Srtp {
                    tx: context(connected.profile, &connected.tx),
                    rx: context(connected.profile, &connected.rx),
                    observer: context(connected.profile, &connected.rx),
                });
            }
        }
        if transport.srtp.is_some() && !transport.early.is_empty() {
            for bytes in std::mem::take(&mut transport.early) {
                self.leaves(&bytes);
            }
        }
    }

    /// A datagram leaves the server for this client, and may yet be lost.
    pub fn leaves(&mut self, bytes: &[u8]) {
        assert!(!bytes.windows(MARK.len()).any(|window| window == MARK), "plaintext on the wire");
        if !is_rtp(bytes) && !is_rtcp(bytes) {
            return;
        }
        let Some(transport) = &mut self.transport else { return };
        let Some(srtp) = &mut transport.srtp else {
            transport.early.push(bytes.to_vec());
            return;
        };
        if is_rtcp(bytes) {
            srtp.observer.decrypt_rtcp(bytes).expect("what leaves is authentic, and no index is used twice");
            return;
        }
        if !transport.left.insert(bytes.to_vec()) {
            self.left_again += 1;
            return;
        }
        let plain = srtp.observer.decrypt_rtp(bytes).expect("what leaves is authentic, and no index is used twice");
        let packet = Packet::unmarshal(&mut plain.clone()).expect("RTP");
        let extension = packet.header.get_extension(TRANSPORT_CC_EXTENSION).expect("transport-cc was negotiated");
        transport.transport_cc.leave(u16::from_be_bytes([extension[0], extension[1]]));
        let (mid, is_rtx) = transport.slots.get(&packet.header.ssrc).expect("an SSRC of the answer");
        let identity = self.seen.entry(mid.clone()).or_default().leave(&packet, *is_rtx);
        assert_ne!(identity.publisher, self.number, "nobody gets their own media");
        assert_eq!(identity.publisher / ROOM_SIZE, self.number / ROOM_SIZE, "nobody gets media of another room");
    }

    /// A datagram arrives.
    pub fn receive(&mut self, now: Micros, instant: Instant, bytes: &[u8]) {
        let Some(transport) = &mut self.transport else { return };
        if bytes[0] < 4 {
            let message = stun::Message::parse(bytes).expect("STUN");
            if message.is_binding_request() {
                assert!(message.check_integrity(&transport.own_key), "a check is the server's");
                let answer = wire::answer(&transport.own_key, transport.server, message.transaction_id());
                self.out.push_back(FromClient::Datagram(transport.server, answer));
                return;
            }
            assert!(message.check_integrity(&transport.key), "an answer is the server's");
            transport.answered_at = now;
            transport.is_answered = true;
            if transport.dtls.is_none() {
                transport.dtls = Some(Dtls::connect(&self.certificate, instant).expect("BoringSSL works"));
            }
            self.drive_dtls(instant, |_| ());
        } else if !is_rtp(bytes) && !is_rtcp(bytes) {
            self.drive_dtls(instant, |dtls| drop(dtls.handle(instant, bytes)));
        } else if let Some(srtp) = &mut transport.srtp {
            if is_rtcp(bytes) {
                // Duplicates are refused.
                let Ok(plain) = srtp.rx.decrypt_rtcp(bytes) else { return };
                let packets = rtcp::packet::unmarshal(&mut plain.clone()).expect("RTCP");
                packets.iter().for_each(|packet| self.follow_feedback(packet.as_ref()));
            } else if let Ok(plain) = srtp.rx.decrypt_rtp(bytes) {
                let packet = Packet::unmarshal(&mut plain.clone()).expect("RTP");
                let (mid, is_rtx) = transport.slots.get(&packet.header.ssrc).expect("an SSRC of the answer");
                self.seen.get_mut(mid).expect("it left").arrive(&packet, *is_rtx);
            }
        }
    }

    /// Does what the server asks of a publisher: keyframes and repairs.
    fn follow_feedback(&mut self, packet: &(dyn rtcp::packet::Packet + Send + Sync)) {
        let any = packet.as_any();
        if let Some(nack) = any.downcast_ref::<TransportLayerNack>().filter(|n| n.media_ssrc == self.tracks[AUDIO].ssrc)
        {
            // As libwebrtc does: the same packet, under another transport-wide number.
            let sent = &self.tracks[AUDIO].sent;
            let asked = nack.nacks.iter().flat_map(|pair| pair.packet_list());
            let again = asked.map(|seq| sent.get(&seq).expect("nothing is asked for that was not sent").clone());
            let again: Vec<Packet> = again.collect();
            return again.into_iter().for_each(|packet| self.send(packet));
        }
        let videos = &mut self.tracks[VIDEO..];
        if let Some(pli) = any.downcast_ref::<PictureLossIndication>() {
            videos.iter_mut().for_each(|track| track.wants_keyframe |= track.ssrc == pli.media_ssrc);
        } else if any.downcast_ref::<FullIntraRequest>().is_some() {
            videos.iter_mut().for_each(|track| track.wants_keyframe = true);
        } else if let Some(nack) = any.downcast_ref::<TransportLayerNack>() {
            let track = videos.iter_mut().find(|track| track.ssrc == nack.media_ssrc);
            let track = track.expect("nothing is asked for that is not sent");
            let mut repairs = Vec::new();
            for seq in nack.nacks.iter().flat_map(|pair| pair.packet_list()) {
                let original = track.sent.get(&seq).expect("nothing is asked for that was not sent");
                let mut repair = original.clone();
                repair.payload = Bytes::from([&seq.to_be_bytes()[..], &original.payload].concat());
                (repair.header.ssrc, repair.header.payload_type) = (track.rtx_ssrc, track.rtx_pt);
                repair.header.sequence_number = track.rtx_seq;
                track.rtx_seq = track.rtx_seq.wrapping_add(1);
                if let Some(rid) = track.rid {
                    let _ = repair.header.del_extension(RID_EXTENSION);
                    let rid = Bytes::from_static(rid.as_bytes());
                    repair.header.set_extension(REPAIRED_RID_EXTENSION, rid).expect("a one-byte extension");
                }
                repairs.push(repair);
            }
            repairs.into_iter().for_each(|repair| self.send(repair));
        }
    }

    /// Sends a frame of a track if it is due, in each of its encodings.
    fn send_frame(&mut self, now: Micros, kind: usize) {
        let (is_connected, is_active) = (self.is_connected(), self.tracks[kind].is_active);
        if self.tracks[kind].due_at > now {
            return;
        }
        let (interval, ticks) = if kind == VIDEO { (VIDEO_INTERVAL, 4500) } else { (AUDIO_INTERVAL, 960) };
        let encodings = if kind == VIDEO { VIDEO..self.tracks.len() } else { kind..kind + 1 };
        for at in encodings {
            let track = &mut self.tracks[at];
            track.due_at = now + interval;
            track.timestamp = track.timestamp.wrapping_add(ticks);
            if is_active && is_connected {
                self.send_encoding(at);
            }
        }
    }

    fn send_encoding(&mut self, at: usize) {
        let track = &mut self.tracks[at];
        let is_keyframe = at >= VIDEO && std::mem::take(&mut track.wants_keyframe);
        let count = if at >= VIDEO { 1 + self.random.below(4) } else { 1 };
        for n in 0..count {
            let track = &mut self.tracks[at];
            let identity = Identity {
                publisher: self.number,
                incarnation: self.incarnation,
                kind: at as u8,
                frame: track.frame,
                index: track.next_index,
            };
            let mut packet = Packet::default();
            packet.header.version = 2;
            packet.header.marker = n + 1 == count;
            packet.header.payload_type = track.pt;
            packet.header.sequence_number = track.next_index as u16;
            packet.header.timestamp = track.timestamp;
            packet.header.ssrc = track.ssrc;
            let mid = Bytes::from_static(track.mid.as_bytes());
            packet.header.set_extension(MID_EXTENSION, mid).expect("a one-byte extension");
            if let Some(rid) = track.rid {
                let rid = Bytes::from_static(rid.as_bytes());
                packet.header.set_extension(RID_EXTENSION, rid).expect("a one-byte extension");
            }
            packet.payload = identity.write(if is_keyframe && n == 0 { SPS } else { DELTA }).into();
            track.next_index += 1;
            track.sent.insert(packet.header.sequence_number, packet.clone());
            self.send(packet);
        }
        self.tracks[at].frame += 1;
    }

    /// A packet goes out under the transport's next number.
    fn send(&mut self, mut packet: Packet) {
        let Some(transport) = &mut self.transport else { return };
        let Some(srtp) = &mut transport.srtp else { return };
        transport.transport_cc_seq = transport.transport_cc_seq.wrapping_add(1);
        let number = Bytes::copy_from_slice(&transport.transport_cc_seq.to_be_bytes());
        packet.header.set_extension(TRANSPORT_CC_EXTENSION, number).expect("a one-byte extension");
        let plain = packet.marshal().expect("it fits");
        let bytes = srtp.tx.encrypt_rtp(&plain).expect("SRTP protects").to_vec();
        self.out.push_back(FromClient::Datagram(transport.server, bytes));
    }

    /// NACKs of all slots.
    fn ask_for_repair(&mut self, now: Micros) {
        let Some(transport) = &mut self.transport else { return };
        let Some(srtp) = &mut transport.srtp else { return };
        if now < transport.next_nack {
            return;
        }
        transport.next_nack = now + NACK_INTERVAL;
        for (ssrc, (mid, is_rtx)) in &transport.slots {
            let Some(seen) = self.seen.get(mid).filter(|_| !is_rtx) else { continue };
            let lacking = seen.lacking();
            if lacking.is_empty() {
                continue;
            }
            let nacks = nack_pairs_from_sequence_numbers(&lacking);
            let nack = TransportLayerNack { sender_ssrc: 1, media_ssrc: *ssrc, nacks };
            let bytes = srtp.tx.encrypt_rtcp(&nack.marshal().expect("it fits")).expect("SRTCP protects").to_vec();
            self.out.push_back(FromClient::Datagram(transport.server, bytes));
        }
    }
}

/// Whether a peer sends its camera in several encodings.
fn is_simulcast(number: u16) -> bool {
    number.is_multiple_of(SIMULCAST_EACH)
}
