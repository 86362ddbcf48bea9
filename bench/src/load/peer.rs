//! One load peer with keys: what it does when a datagram comes and when its time comes.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rtcp::packet::Packet as RtcpPacket;
use rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::receiver_report::ReceiverReport;
use rtcp::source_description::{SdesType, SourceDescription, SourceDescriptionChunk, SourceDescriptionItem};
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};
use rtp::packet::Packet;
use webrtc_util::marshal::Marshal;

use super::Settings;
use super::source::{Source, check};
use super::tally::{Head, Slot, Totals, extension_u16};
use super::wire::{Arrived, wall_micros};
use crate::arrivals::Arrivals;
use crate::ice::Agent;
use crate::secure::{Dtls, Session};
use crate::send::TransportSeq;

/// Between two looks at consent and congestion feedback, as libwebrtc's feedback.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Ticks between two reports.
const REPORT_TICKS: u32 = 10;
/// Between two looks at holes.
pub(crate) const NACK_TICK: Duration = Duration::from_millis(10);
/// Report blocks in one RTCP packet (RFC 3550 §6.4.1: five bits).
const REPORT_BLOCKS_MAX: usize = 31;
/// Between two keyframe requests.
const PLI_INTERVAL: Duration = Duration::from_millis(300);

/// A peer that has joined and agreed on keys.
pub struct Joined {
    pub(crate) udp: UdpSocket,
    pub(crate) to: SocketAddr,
    pub(crate) agent: Agent,
    pub(crate) session: Box<Session>,
    /// Kept, because dropping it ends its task.
    pub(crate) _dtls: Dtls,
    pub(crate) audio: Option<Source>,
    pub(crate) video: Option<Source>,
    pub(crate) slots: Vec<Slot>,
    /// When the join began.
    pub(crate) begun: Instant,
}

/// When a peer wants to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Due {
    Audio,
    Video,
    Tick,
    Nack,
}

/// A peer on a thread of the crew.
pub(crate) struct Peer {
    joined: Joined,
    /// SSRC to slot, and whether it is the one of retransmissions.
    slot_of: HashMap<u32, (usize, bool)>,
    transport: TransportSeq,
    arrivals: Arrivals,
    ticks: u32,
    is_nack_due: bool,
    asked_keyframe: Option<Instant>,
    /// Counts down to the next packet that is verified.
    verify_in: u32,
    dice: u64,
    /// What it counted.
    pub(crate) totals: Totals,
    is_expired: bool,
    has_media: bool,
    /// From the start of the join to the first packet of media, until it is told.
    pub(crate) first_media: Option<Duration>,
}

impl Peer {
    pub(crate) fn new(now: Instant, joined: Joined, number: u32) -> Peer {
        let mut slot_of = HashMap::new();
        for (at, slot) in joined.slots.iter().enumerate() {
            slot_of.insert(slot.ssrc, (at, false));
            slot_of.extend(slot.rtx_ssrc.map(|ssrc| (ssrc, (at, true))));
        }
        Peer {
            joined,
            slot_of,
            transport: TransportSeq::default(),
            arrivals: Arrivals::new(now),
            ticks: number % REPORT_TICKS,
            is_nack_due: false,
            asked_keyframe: None,
            verify_in: number % 8,
            dice: u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            totals: Totals::default(),
            is_expired: false,
            has_media: false,
            first_media: None,
        }
    }

    pub(crate) fn udp(&self) -> &UdpSocket {
        &self.joined.udp
    }

    /// What is to be looked at from the start.
    pub(crate) fn first_dues(&self, now: Instant) -> impl Iterator<Item = (Instant, Due)> + use<> {
        let audio = self.joined.audio.as_ref().map(|source| (source.due(), Due::Audio));
        let video = self.joined.video.as_ref().map(|source| (source.due(), Due::Video));
        [audio, video, Some((now, Due::Tick))].into_iter().flatten()
    }

    /// Does what is due. When it wants to be looked at for the same again.
    pub(crate) fn do_due(&mut self, now: Instant, due: Due, settings: &Settings) -> Option<Instant> {
        match due {
            Due::Audio => self.send(now, false, settings),
            Due::Video => self.send(now, true, settings),
            Due::Tick => Some(self.tick(now)),
            Due::Nack => self.ask_for_repairs(now),
        }
    }

    fn send(&mut self, now: Instant, is_video: bool, settings: &Settings) -> Option<Instant> {
        let mut source = if is_video { self.joined.video.take() } else { self.joined.audio.take() }?;
        let late = now.saturating_duration_since(source.due());
        self.totals.lateness.record(late.as_micros() as u64, 1);
        while let Some(packet) = source.poll(now, wall_micros(), &mut self.transport) {
            self.totals.sent += 1;
            if self.is_thrown(settings) {
                self.totals.thrown += 1;
            } else {
                self.send_rtp(&packet);
            }
        }
        let due = source.due();
        *(if is_video { &mut self.joined.video } else { &mut self.joined.audio }) = Some(source);
        Some(due)
    }

    /// Whether the next packet is lost on purpose.
    fn is_thrown(&mut self, settings: &Settings) -> bool {
        if settings.loss_percent <= 0.0 {
            return false;
        }
        self.roll() * 100.0 < settings.loss_percent
    }

    /// A number from 0 to 1 by xorshift64*, the same ones for the same peer in every run.
    fn roll(&mut self) -> f64 {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        (self.dice.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Takes a datagram. Whether holes were seen that are not being asked for yet.
    pub(crate) fn receive(&mut self, now: Instant, arrived: &Arrived<'_>, settings: &Settings) -> bool {
        // RFC 7983 §7; RTCP among RTP by its packet type (RFC 5761 §4).
        match arrived.bytes {
            [0..=3, ..] => {
                if let Some(answer) = self.joined.agent.handle(now, self.joined.to, arrived.bytes) {
                    self.transmit(&answer);
                }
                false
            }
            [128..=191, second, ..] if (192..=223).contains(second) => {
                self.receive_rtcp(now, arrived.bytes);
                false
            }
            [128..=191, ..] if self.is_thrown(settings) => {
                self.totals.thrown += 1;
                false
            }
            [128..=191, ..] => self.receive_rtp(now, arrived, settings),
            _ => false,
        }
    }

    fn receive_rtp(&mut self, now: Instant, arrived: &Arrived<'_>, settings: &Settings) -> bool {
        let Some(head) = Head::parse(arrived.bytes) else { return false };
        let Some(&(at, is_rtx)) = self.slot_of.get(&head.ssrc) else {
            self.totals.wrong += 1;
            return false;
        };
        self.totals.received += 1;
        self.totals.bytes += arrived.bytes.len() as u64;
        if !std::mem::replace(&mut self.has_media, true) {
            self.first_media = Some(now.duration_since(self.joined.begun));
        }
        let slot = &mut self.joined.slots[at];
        if let Some(seq) = slot.transport_extension.and_then(|id| extension_u16(arrived.bytes, id)) {
            self.arrivals.push(now, seq);
        }
        if is_rtx {
            self.receive_repair(at, arrived.bytes);
            return false;
        }
        let has_holes = slot.receive(now, head.seq, &mut self.totals);
        if self.verify_in == 0 {
            self.verify_in = settings.verify_every.max(1);
            self.verify(arrived);
        }
        self.verify_in -= 1;
        has_holes && !std::mem::replace(&mut self.is_nack_due, true)
    }

    /// Authenticates a packet, compares it with what was sent, and reads when that was.
    fn verify(&mut self, arrived: &Arrived<'_>) {
        self.totals.verified += 1;
        match self.unprotect(arrived.bytes).and_then(|packet| check(&packet.payload)) {
            Some(sent_at) => {
                self.totals.latency.record(arrived.at.saturating_sub(sent_at), 1);
            }
            None => self.totals.wrong += 1,
        }
    }

    fn receive_repair(&mut self, at: usize, bytes: &[u8]) {
        self.totals.rtx += 1;
        self.totals.verified += 1;
        // The original sequence number stands before the payload (RFC 4588 §4).
        let packet = self.unprotect(bytes);
        match packet.as_ref().and_then(|packet| Some((packet.payload.first_chunk()?, check(packet.payload.get(2..)?)?)))
        {
            Some((original, _)) => self.joined.slots[at].repair(u16::from_be_bytes(*original), &mut self.totals),
            None => self.totals.wrong += 1,
        }
    }

    fn unprotect(&mut self, bytes: &[u8]) -> Option<Packet> {
        let mut plain = self.joined.session.unprotect_rtp(bytes).ok()?;
        webrtc_util::marshal::Unmarshal::unmarshal(&mut plain).ok()
    }

    fn receive_rtcp(&mut self, now: Instant, bytes: &[u8]) {
        let Ok(mut plain) = self.joined.session.unprotect_rtcp(bytes) else {
            self.totals.wrong += 1;
            return;
        };
        let Ok(packets) = rtcp::packet::unmarshal(&mut plain) else { return };
        for packet in packets {
            let packet = packet.as_any();
            if let Some(nack) = packet.downcast_ref::<TransportLayerNack>() {
                self.answer_nack(now, nack);
            } else if packet.is::<PictureLossIndication>() || packet.is::<FullIntraRequest>() {
                self.joined.video.iter_mut().for_each(Source::request_keyframe);
            }
        }
    }

    fn answer_nack(&mut self, now: Instant, nack: &TransportLayerNack) {
        let Some(video) = self.joined.video.as_mut().filter(|video| video.stream.ssrc == nack.media_ssrc) else {
            return;
        };
        let asked = nack.nacks.iter().flat_map(|pair| pair.packet_list());
        let repairs: Vec<Packet> = asked.filter_map(|seq| video.stream.repair(now, seq, &mut self.transport)).collect();
        repairs.iter().for_each(|packet| self.send_rtp(packet));
    }

    fn tick(&mut self, now: Instant) -> Instant {
        while let Some((_, check)) = self.joined.agent.poll_transmit(now) {
            self.transmit(&check);
        }
        if self.joined.agent.is_expired(now) && !std::mem::replace(&mut self.is_expired, true) {
            self.totals.expired += 1;
        }
        let ssrc = self.rtcp_ssrc();
        if let Some(feedback) = self.joined.slots.first().and_then(|slot| self.arrivals.poll(ssrc, slot.ssrc)) {
            self.send_rtcp(&[Box::new(feedback)]);
        }
        self.ticks += 1;
        if self.ticks.is_multiple_of(REPORT_TICKS) {
            self.send_reports(now);
        }
        // A quarter more or less, at random: peers are not in step, and those that were looked at together part.
        now + TICK * 3 / 4 + (TICK / 2).mul_f64(self.roll())
    }

    fn ask_for_repairs(&mut self, now: Instant) -> Option<Instant> {
        let sender_ssrc = self.rtcp_ssrc();
        let mut feedback: Vec<Box<dyn RtcpPacket + Send + Sync>> = Vec::new();
        let mut is_waiting = false;
        for slot in &mut self.joined.slots {
            let (wanted, is_given_up) = slot.poll_missing(now);
            let media_ssrc = slot.ssrc;
            self.totals.nacked += wanted.len() as u64;
            if !wanted.is_empty() {
                let nacks = nack_pairs_from_sequence_numbers(&wanted);
                feedback.push(Box::new(TransportLayerNack { sender_ssrc, media_ssrc, nacks }));
            }
            let may_ask = self.asked_keyframe.is_none_or(|asked| now.duration_since(asked) >= PLI_INTERVAL);
            if is_given_up && may_ask {
                self.asked_keyframe = Some(now);
                feedback.push(Box::new(PictureLossIndication { sender_ssrc, media_ssrc }));
            }
            is_waiting |= slot.is_waiting();
        }
        if !feedback.is_empty() {
            self.send_rtcp(&feedback);
        }
        self.is_nack_due = is_waiting;
        is_waiting.then(|| now + NACK_TICK)
    }

    /// A compound of sender reports, a receiver report and our CNAME (RFC 3550 §6.1).
    fn send_reports(&mut self, now: Instant) {
        let ssrc = self.rtcp_ssrc();
        let mut compound: Vec<Box<dyn RtcpPacket + Send + Sync>> = Vec::new();
        let sources = [&self.joined.audio, &self.joined.video];
        for report in sources.into_iter().flatten().filter_map(|source| source.stream.sender_report(now)) {
            compound.push(Box::new(report));
        }
        let reports = self.joined.slots.iter_mut().filter_map(Slot::reception_report).take(REPORT_BLOCKS_MAX).collect();
        compound.push(Box::new(ReceiverReport { ssrc, reports, ..ReceiverReport::default() }));
        let cname = SourceDescriptionItem { sdes_type: SdesType::SdesCname, text: Bytes::from_static(b"load") };
        compound.push(Box::new(SourceDescription {
            chunks: vec![SourceDescriptionChunk { source: ssrc, items: vec![cname] }],
        }));
        self.send_rtcp(&compound);
    }

    /// The SSRC that speaks RTCP for us: one that we send with, or 1 as libwebrtc.
    fn rtcp_ssrc(&self) -> u32 {
        let source = self.joined.audio.as_ref().or(self.joined.video.as_ref());
        source.map_or(1, |source| source.stream.ssrc)
    }

    fn send_rtp(&mut self, packet: &Packet) {
        let plain = packet.marshal().expect("our own packet has a form");
        let protected = self.joined.session.protect_rtp(&plain).expect("our own packet can be protected");
        self.transmit(&protected);
    }

    fn send_rtcp(&mut self, packets: &[Box<dyn RtcpPacket + Send + Sync>]) {
        let plain = rtcp::packet::marshal(packets).expect("our own RTCP has a form");
        let protected = self.joined.session.protect_rtcp(&plain).expect("our own RTCP can be protected");
        self.transmit(&protected);
    }

    fn transmit(&self, datagram: &[u8]) {
        // A network may lose what it is given.
        let _ = self.joined.udp.send_to(datagram, self.joined.to);
    }
}
