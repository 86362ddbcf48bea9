//! A client of a case: it joins by signalling, ICE and DTLS as a browser does, and then sends, receives, or both. SRTP is another
//! implementation's (`webrtc-srtp`).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use controlplane::dtls::{Dtls, DtlsEvent, Identity as Certificate};
use controlplane::engine::SocketId;
use dataplane::Micros;
use proto::signal::{ClientSignal, ServerSignal, Source, TrackDescription};
use proto::stun;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::sender_report::SenderReport;
use rtcp::transport_feedbacks::transport_layer_cc::TransportLayerCc;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};
use rtp::packet::Packet;
use webrtc_srtp::context::Context;
use webrtc_util::marshal::{Marshal, Unmarshal};

use super::receive::{Kind, Nacks, Receiver};
use super::send::{Encoding, Line, Sender};
use crate::random::Random;
use crate::wire::{self, FromClient};

const MILLISECOND: Micros = 1000;
const SECOND: Micros = 1_000_000;
const CHECK_INTERVAL: Micros = 100 * MILLISECOND;
/// libwebrtc, on a stable path.
const CONSENT_INTERVAL: Micros = 2500 * MILLISECOND;
const FEEDBACK_INTERVAL: Micros = 100 * MILLISECOND;
const NACK_INTERVAL: Micros = 20 * MILLISECOND;
const REPORT_INTERVAL: Micros = SECOND;
const TRANSPORT_CC_EXTENSION: u8 = 3;
const PLAYOUT_DELAY_EXTENSION: u8 = 5;
/// Seconds from 1900 to the begin of the simulation, roughly.
const NTP_SECONDS: u64 = 3_900_000_000;

/// What a client is there for.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its number: addresses, SSRCs.
    pub number: u16,
    /// Its room.
    pub room: String,
    /// The encodings of its camera, the lowest first; none if it does not send.
    pub encodings: Vec<Encoding>,
    /// Whether its camera has temporal layers.
    pub has_layers: bool,
    /// Whether it receives.
    pub receives: bool,
    /// Round trip of its path without a queue.
    pub rtt: Micros,
    /// When it comes.
    pub joins_at: Micros,
}

struct Transport {
    server: SocketAddr,
    username: String,
    key: stun::IntegrityKey,
    own_key: stun::IntegrityKey,
    dtls: Option<Dtls>,
    tx: Option<Context>,
    rx: Option<Context>,
    next_check: Micros,
    is_answered: bool,
}

/// See the module.
pub struct Client {
    /// What it is there for.
    pub role: Role,
    /// From where it sends.
    pub address: SocketAddr,
    certificate: Certificate,
    random: Random,
    offer: String,
    socket: Option<SocketId>,
    has_asked: bool,
    transport: Option<Transport>,
    /// When it had its keys.
    pub connected_at: Option<Micros>,
    /// What it sends.
    pub sender: Option<Sender>,
    /// What it receives.
    pub receiver: Receiver,
    due: [Micros; 3],
    out: VecDeque<FromClient>,
}

impl Client {
    /// A client that is not in yet.
    pub fn new(role: Role, certificate: Certificate, random: Random) -> Client {
        let rids: Vec<&str> = role.encodings.iter().map(|encoding| encoding.rid).collect();
        Client {
            // Without RED: what is not played here is counted by the packets' numbers.
            offer: wire::offer(&certificate, role.number, &rids).replace("a=fmtp:63 111/111", "a=fmtp:63 0/0"),
            address: SocketAddr::from(([10, 0, (role.number >> 8) as u8, role.number as u8], 50_000)),
            role,
            certificate,
            random,
            socket: None,
            has_asked: false,
            transport: None,
            connected_at: None,
            sender: None,
            receiver: Receiver::default(),
            due: [0; 3],
            out: VecDeque::new(),
        }
    }

    /// What it wants carried.
    pub fn poll(&mut self) -> Option<FromClient> {
        self.out.pop_front()
    }

    /// Its socket.
    pub fn socket(&self) -> Option<SocketId> {
        self.socket
    }

    /// Its socket is open.
    pub fn opened(&mut self, socket: SocketId) {
        self.socket = Some(socket);
    }

    /// Its camera is switched.
    pub fn switch(&mut self, is_on: bool) {
        if let Some(sender) = self.sender.as_mut().filter(|sender| sender.is_on != is_on) {
            sender.is_on = is_on;
            self.out.push_back(FromClient::Signal(ClientSignal::Track { mid: "1".into(), active: is_on }));
        }
    }

    /// A signal of the server.
    pub fn hear(&mut self, now: Micros, signal: ServerSignal) {
        match signal {
            ServerSignal::Welcome { .. } => {
                let sends = !self.role.encodings.is_empty();
                let description = |mid: &str, source, active| TrackDescription { mid: mid.into(), source, active };
                let tracks = vec![
                    description("0", Source::Microphone, sends),
                    description("1", Source::Camera, sends),
                    description("2", Source::Screen, false),
                ];
                self.out.push_back(FromClient::Signal(ClientSignal::Offer { sdp: self.offer.clone(), tracks }));
            }
            ServerSignal::Answer { sdp } => self.answered(now, &sdp),
            ServerSignal::Encodings { paused, rates } => {
                let paused = paused.into_iter().find(|paused| paused.mid == "1");
                let rids = paused.map(|paused| paused.rids).unwrap_or_default();
                let rates: Vec<_> = rates.into_iter().filter(|of| of.mid == "1").map(|of| (of.rid, of.bps)).collect();
                self.sender.iter_mut().for_each(|sender| sender.follow(now, &rids, &rates));
            }
            ServerSignal::Error { code, message, .. } => panic!("client {}: {code:?}: {message}", self.role.number),
            ServerSignal::Bye { reason, .. } => panic!("client {} is told to go: {reason:?}", self.role.number),
            _ => {}
        }
    }

    fn answered(&mut self, now: Micros, sdp: &str) {
        let answer = wire::Answer::parse(sdp);
        let (username, own_key) = wire::credentials(&self.offer, &answer);
        let [audio, video, rtx] = wire::ssrcs(self.role.number);
        let line = |mid, rid, ssrc, rtx_ssrc| {
            let (pt, rtx_pt) = answer.formats.get(mid).copied().unwrap_or_default();
            Line { mid, rid, ssrc, rtx_ssrc, pt, rtx_pt }
        };
        if !self.role.encodings.is_empty() {
            let of = |(n, encoding): (u32, &Encoding)| (line("1", Some(encoding.rid), video | n, rtx | n), *encoding);
            let video: Vec<_> = (1..).zip(&self.role.encodings).map(of).collect();
            let random = Random::new(self.random.below(u64::MAX), 0);
            let mut sender = Sender::new(self.role.number, line("0", None, audio, 0), &video, now, random);
            sender.has_layers = self.role.has_layers;
            self.sender = Some(sender);
        }
        if self.role.receives {
            self.receiver = Receiver::new(self.role.rtt, answer.slots.iter().copied());
        }
        self.transport = Some(Transport {
            server: answer.server,
            username,
            key: answer.key,
            own_key,
            dtls: None,
            tx: None,
            rx: None,
            next_check: now,
            is_answered: false,
        });
    }

    /// Time passes.
    pub fn step(&mut self, now: Micros, instant: Instant) {
        if !self.has_asked && self.role.joins_at <= now {
            self.has_asked = true;
            self.out.push_back(FromClient::Open);
        }
        let Some(transport) = &mut self.transport else { return };
        if transport.next_check <= now {
            let id = stun::TransactionId(self.random.bytes());
            transport.next_check = now + if transport.is_answered { CONSENT_INTERVAL } else { CHECK_INTERVAL };
            let bytes = wire::check(&transport.username, &transport.key, id);
            self.out.push_back(FromClient::Datagram(transport.server, bytes));
        }
        if transport.dtls.as_mut().is_some_and(|dtls| dtls.poll_timeout().is_some_and(|due| due <= instant)) {
            self.drive_dtls(now, |dtls| dtls.handle_timeout(instant));
        }
        if self.connected_at.is_some() {
            self.receiver.step(now);
            self.send(now);
            self.feed_back(now);
        }
    }

    fn drive_dtls(&mut self, now: Micros, with: impl FnOnce(&mut Dtls)) {
        let Some(transport) = &mut self.transport else { return };
        let Some(dtls) = &mut transport.dtls else { return };
        with(dtls);
        while let Some(bytes) = dtls.poll_transmit() {
            self.out.push_back(FromClient::Datagram(transport.server, bytes));
        }
        while let Some(event) = dtls.poll_event() {
            if let DtlsEvent::Connected(connected) = event {
                transport.tx = Some(wire::context(connected.profile, &connected.tx));
                transport.rx = Some(wire::context(connected.profile, &connected.rx));
                self.connected_at = Some(now);
                // As browsers do, not all at the same moment.
                self.due =
                    [FEEDBACK_INTERVAL, NACK_INTERVAL, REPORT_INTERVAL].map(|each| now + self.random.below(each));
            }
        }
    }

    fn send(&mut self, now: Micros) {
        let Some(sender) = &mut self.sender else { return };
        sender.step(now);
        self.send_out();
    }

    /// Protects and sends what the sender has let go.
    fn send_out(&mut self) {
        let (Some(sender), Some(transport)) = (&mut self.sender, &mut self.transport) else { return };
        let Some(tx) = &mut transport.tx else { return };
        for packet in sender.out.drain(..) {
            let plain = packet.marshal().expect("it fits");
            let bytes = tx.encrypt_rtp(&plain).expect("SRTP protects").to_vec();
            self.out.push_back(FromClient::Datagram(transport.server, bytes));
        }
    }

    fn send_rtcp(&mut self, plain: &[u8]) {
        let Some(transport) = &mut self.transport else { return };
        let Some(tx) = &mut transport.tx else { return };
        let bytes = tx.encrypt_rtcp(plain).expect("SRTCP protects").to_vec();
        self.out.push_back(FromClient::Datagram(transport.server, bytes));
    }

    /// What the receiving side has to say, and the sender's reports.
    fn feed_back(&mut self, now: Micros) {
        let mut is_due =
            [FEEDBACK_INTERVAL, NACK_INTERVAL, REPORT_INTERVAL].into_iter().zip(&mut self.due).map(|(each, due)| {
                let is_due = *due <= now;
                *due += if is_due { each } else { 0 };
                is_due
            });
        let [feeds_back, asks, reports] = [(); 3].map(|()| is_due.next().expect("three"));
        if feeds_back {
            while self.receiver.has_unreported() {
                let Some(feedback) = self.receiver.feedback() else { break };
                self.send_rtcp(&feedback);
            }
        }
        if asks {
            self.ask(now, Nacks::All);
            for media_ssrc in self.receiver.keyframes_wanted(now) {
                let pli = PictureLossIndication { sender_ssrc: 1, media_ssrc };
                self.send_rtcp(&pli.marshal().expect("it fits"));
            }
        }
        if reports {
            let report = self.receiver.report(now);
            if !report.reports.is_empty() {
                self.send_rtcp(&report.marshal().expect("it fits"));
            }
            let ntp = (NTP_SECONDS + now / SECOND) << 32 | (((now % SECOND) << 32) / SECOND);
            let reports = self.sender.as_ref().map(|sender| sender.reports(ntp)).unwrap_or_default();
            for report in reports {
                self.send_rtcp(&report.marshal().expect("it fits"));
            }
        }
    }

    /// Asks for what is missing.
    fn ask(&mut self, now: Micros, of: Nacks) {
        for (media_ssrc, seqs) in self.receiver.nacks(now, of) {
            let nack =
                TransportLayerNack { sender_ssrc: 1, media_ssrc, nacks: nack_pairs_from_sequence_numbers(&seqs) };
            self.send_rtcp(&nack.marshal().expect("it fits"));
        }
    }

    /// A datagram leaves the server for this client, and may be lost. What it is, if it is media.
    pub fn leaves(&mut self, now: Micros, bytes: &[u8]) -> Option<Kind> {
        let u32_at = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let is_rtp = wire::is_rtp(bytes) && bytes.len() >= 12;
        is_rtp.then(|| self.receiver.leaves(now, u32_at(8), u16::from_be_bytes([bytes[2], bytes[3]]), u32_at(4)))
    }

    /// A datagram arrives.
    pub fn receive(&mut self, now: Micros, instant: Instant, bytes: &[u8]) {
        let Some(transport) = &mut self.transport else { return };
        if bytes[0] < 4 {
            let message = stun::Message::parse(bytes).expect("STUN");
            if message.is_binding_request() {
                let answer = wire::answer(&transport.own_key, transport.server, message.transaction_id());
                self.out.push_back(FromClient::Datagram(transport.server, answer));
                return;
            }
            transport.is_answered = true;
            if transport.dtls.is_none() {
                transport.dtls = Some(Dtls::connect(&self.certificate, instant).expect("BoringSSL works"));
            }
            self.drive_dtls(now, |_| ());
        } else if !wire::is_rtp(bytes) && !wire::is_rtcp(bytes) {
            self.drive_dtls(now, |dtls| drop(dtls.handle(instant, bytes)));
        } else if let Some(rx) = &mut transport.rx {
            if wire::is_rtcp(bytes) {
                let Ok(plain) = rx.decrypt_rtcp(bytes) else { return };
                let packets = rtcp::packet::unmarshal(&mut plain.clone()).expect("RTCP");
                packets.iter().for_each(|packet| self.follow(now, packet.as_ref()));
                self.send_out();
            } else if let Ok(plain) = rx.decrypt_rtp(bytes) {
                let packet = Packet::unmarshal(&mut plain.clone()).expect("RTP");
                let extension =
                    packet.header.get_extension(TRANSPORT_CC_EXTENSION).expect("transport-cc was negotiated");
                if let Some(value) = packet.header.get_extension(PLAYOUT_DELAY_EXTENSION) {
                    self.receiver.holds(packet.header.ssrc, [value[0], value[1], value[2]]);
                }
                self.receiver.arrives(now, &packet, u16::from_be_bytes([extension[0], extension[1]]));
                self.ask(now, Nacks::New);
            }
        }
    }

    /// RTCP of the server.
    fn follow(&mut self, now: Micros, packet: &(dyn rtcp::packet::Packet + Send + Sync)) {
        let any = packet.as_any();
        if let Some(report) = any.downcast_ref::<SenderReport>() {
            self.receiver.reported(now, report.ssrc, report.ntp_time);
        }
        let Some(sender) = &mut self.sender else { return };
        if let Some(feedback) = any.downcast_ref::<TransportLayerCc>() {
            sender.feedback(now, feedback);
        } else if let Some(nack) = any.downcast_ref::<TransportLayerNack>() {
            sender.nacked(now, nack.media_ssrc, nack.nacks.iter().flat_map(|pair| pair.packet_list()));
        } else if let Some(pli) = any.downcast_ref::<PictureLossIndication>() {
            sender.keyframe_wanted(pli.media_ssrc);
        }
    }
}
