//! One load peer with keys: what it does when a datagram comes and when its time comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::rtcp::{self, Compound, Packet};
use client::rtp;
use client::srtp::{OVERHEAD_MAX, SrtpError};
use client::transport::{Kind, Transport};
use client::twcc::Arrivals;

use super::datagrams::{Datagram, Sender, Socket, wall_micros};
use super::encodings::Chosen;
use super::settings::Settings;
use super::source::{Checked, Source, check};
use super::tally::{Slot, Totals};

/// Between two looks at consent and congestion feedback, as libwebrtc's feedback.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two reports.
const REPORT_TICKS: u32 = 10;
/// Between two looks at missing packets.
pub(super) const NACK_TICK: Duration = Duration::from_millis(10);
/// Between two keyframe requests.
const PLI_INTERVAL: Duration = Duration::from_millis(300);

/// A peer that has joined and agreed on keys.
pub(super) struct Joined {
    pub(super) socket: Socket,
    pub(super) to: SocketAddr,
    pub(super) transport: Transport,
    /// What it sends: a microphone, and the encodings of a camera.
    pub(super) sources: Vec<Source>,
    pub(super) slots: Vec<Slot>,
    /// What its signals say of encodings.
    pub(super) chosen: Arc<Chosen>,
    /// When the join began.
    pub(super) begun: Instant,
}

/// When a peer wants to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Due {
    /// One of its sources.
    Media(usize),
    Tick,
    Nack,
}

/// What a thread has once for all its peers.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) sender: Sender,
    pub(super) compound: Compound,
}

/// A received stream, or its retransmissions, by SSRC.
struct SlotOf {
    ssrc: u32,
    slot: usize,
    is_rtx: bool,
}

/// A peer on a media thread.
pub(super) struct Peer {
    joined: Joined,
    /// In order of SSRC.
    slot_of: Vec<SlotOf>,
    transport_seq: u16,
    arrivals: Arrivals,
    ticks: u32,
    is_nack_due: bool,
    asked_keyframe: Option<Instant>,
    /// Counts down to the next packet that is verified.
    verify_in: u32,
    dice: u64,
    /// What it counted.
    pub(super) totals: Totals,
    is_expired: bool,
    has_media: bool,
    /// From the start of the join to the first packet of media, until it is reported.
    pub(super) first_media: Option<Duration>,
}

impl Peer {
    pub(super) fn new(now: Instant, joined: Joined, number: u32) -> Peer {
        let mut slot_of = Vec::new();
        for (slot, answered) in joined.slots.iter().enumerate() {
            slot_of.push(SlotOf { ssrc: answered.ssrc, slot, is_rtx: false });
            slot_of.extend(answered.rtx_ssrc.map(|ssrc| SlotOf { ssrc, slot, is_rtx: true }));
        }
        slot_of.sort_unstable_by_key(|known| known.ssrc);
        Peer {
            joined,
            slot_of,
            transport_seq: 0,
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

    pub(super) fn socket(&self) -> &Socket {
        &self.joined.socket
    }

    /// What is to be looked at from the start.
    pub(super) fn first_dues(&self, now: Instant) -> impl Iterator<Item = (Instant, Due)> + use<> {
        let sources = self.joined.sources.iter().enumerate();
        let dues: Vec<_> = sources.map(|(at, source)| (source.due(), Due::Media(at))).collect();
        dues.into_iter().chain([(now, Due::Tick)])
    }

    /// Does what is due. When it wants to be looked at for the same again.
    pub(super) fn handle_due(&mut self, now: Instant, due: Due, shared: &mut Shared) -> Option<Instant> {
        let next = match due {
            Due::Media(at) => self.send_media(now, at, shared),
            Due::Tick => Some(self.tick(now, shared)),
            Due::Nack => self.request_missing(now, shared),
        };
        self.flush(shared);
        next
    }

    fn send_media(&mut self, now: Instant, at: usize, shared: &mut Shared) -> Option<Instant> {
        let mut sources = std::mem::take(&mut self.joined.sources);
        let due = sources.get_mut(at).map(|source| self.send_source(now, source, shared));
        self.joined.sources = sources;
        due
    }

    fn send_source(&mut self, now: Instant, source: &mut Source, shared: &mut Shared) -> Instant {
        let late = now.saturating_duration_since(source.due());
        self.totals.lateness.record(late.as_micros() as u64, 1);
        let stamp = wall_micros();
        while let Some(len) = source.poll(now, stamp, &mut self.transport_seq, shared.sender.room()) {
            self.totals.sent += 1;
            // Numbered and counted, but lost on purpose.
            if self.is_dropped(shared.settings.loss_percent) {
                self.totals.thrown += 1;
            } else {
                self.push_rtp(len, shared);
            }
        }
        source.due()
    }

    /// Whether the next packet is lost on purpose.
    fn is_dropped(&mut self, percent: f64) -> bool {
        percent > 0.0 && self.roll() * 100.0 < percent
    }

    /// A number from 0 to 1 by xorshift64*, the same ones for the same peer in every run.
    fn roll(&mut self) -> f64 {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        (self.dice.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Takes a datagram. Whether missing packets were seen that are not being asked for yet.
    pub(super) fn receive(&mut self, now: Instant, mut datagram: Datagram<'_>, shared: &mut Shared) -> bool {
        match Kind::of(datagram.bytes) {
            Kind::Stun | Kind::Dtls => {
                self.joined.transport.receive_control(now, self.joined.to, datagram.bytes);
                self.push_control(now, shared);
                self.flush(shared);
                false
            }
            Kind::Rtcp => {
                self.receive_rtcp(datagram.bytes, shared);
                self.flush(shared);
                false
            }
            Kind::Rtp if self.is_dropped(shared.settings.loss_percent) => {
                self.totals.thrown += 1;
                false
            }
            Kind::Rtp => self.receive_rtp(now, &mut datagram, &shared.settings),
            Kind::Unknown => false,
        }
    }

    fn receive_rtp(&mut self, now: Instant, datagram: &mut Datagram<'_>, settings: &Settings) -> bool {
        let Some(header) = rtp::Header::parse(datagram.bytes) else { return false };
        let Ok(known) = self.slot_of.binary_search_by_key(&header.ssrc, |known| known.ssrc) else {
            self.totals.wrong += 1;
            return false;
        };
        let SlotOf { slot, is_rtx, .. } = self.slot_of[known];
        self.totals.received += 1;
        self.totals.bytes += datagram.bytes.len() as u64;
        if !std::mem::replace(&mut self.has_media, true) {
            self.first_media = Some(now.duration_since(self.joined.begun));
        }
        let answered = &mut self.joined.slots[slot];
        if let Some(id) = answered.transport_extension
            && let Some(&number) = rtp::extension(datagram.bytes, id).and_then(|value| value.first_chunk())
        {
            self.arrivals.push(now, u16::from_be_bytes(number));
        }
        if is_rtx {
            self.receive_repair(slot, datagram.bytes);
            return false;
        }
        let is_missing = answered.receive(now, header.seq, &mut self.totals);
        if self.verify_in == 0 {
            self.verify_in = settings.verify_every.max(1);
            self.verify(slot, datagram);
        }
        self.verify_in -= 1;
        is_missing && !std::mem::replace(&mut self.is_nack_due, true)
    }

    /// Authenticates a packet, compares it with what was sent, and reads when that was.
    fn verify(&mut self, slot: usize, datagram: &mut Datagram<'_>) {
        match self.unprotect(datagram.bytes) {
            // A network may bring a packet twice.
            Err(SrtpError::Replay) => return,
            Ok(payload) => match check(payload) {
                Some(Checked { sent_at, encoding }) => {
                    self.totals.latency.record(datagram.at.saturating_sub(sent_at), 1);
                    if let Some(video) = self.joined.slots[slot].video {
                        self.totals.came_as(self.joined.chosen.wanted(video), encoding);
                    }
                }
                None => self.totals.wrong += 1,
            },
            Err(_) => self.totals.wrong += 1,
        }
        self.totals.verified += 1;
    }

    fn receive_repair(&mut self, slot: usize, bytes: &mut [u8]) {
        self.totals.rtx += 1;
        // The original sequence number stands before the payload (RFC 4588 §4).
        let original = match self.unprotect(bytes) {
            // A probe is padding and nothing else.
            Err(SrtpError::Replay) | Ok([]) => return,
            Ok([high, low, payload @ ..]) if check(payload).is_some() => Some(u16::from_be_bytes([*high, *low])),
            _ => None,
        };
        self.totals.verified += 1;
        match original {
            Some(seq) => self.joined.slots[slot].repair(seq, &mut self.totals),
            None => self.totals.wrong += 1,
        }
    }

    /// The payload of an SRTP packet, without the padding by which a server may make the packets of a train equally long.
    fn unprotect<'a>(&mut self, bytes: &'a mut [u8]) -> Result<&'a [u8], SrtpError> {
        let session = self.joined.transport.session().expect("a peer that has joined has keys");
        let len = session.unprotect_rtp(bytes)?;
        let header = rtp::Header::parse(&bytes[..len]).ok_or(SrtpError::Malformed)?;
        rtp::payload(&bytes[..len], &header).ok_or(SrtpError::Malformed)
    }

    fn receive_rtcp(&mut self, bytes: &mut [u8], shared: &mut Shared) {
        let session = self.joined.transport.session().expect("a peer that has joined has keys");
        let len = match session.unprotect_rtcp(bytes) {
            Ok(len) => len,
            Err(SrtpError::Replay) => return,
            Err(_) => return self.totals.wrong += 1,
        };
        for packet in rtcp::packets(&bytes[..len]) {
            match packet {
                Packet::Nack { media_ssrc, pairs } => self.push_repairs(media_ssrc, pairs, shared),
                Packet::Pli { media_ssrc } => self.request_keyframe(|ssrc| ssrc == media_ssrc),
                Packet::Fir { entries } => {
                    self.request_keyframe(|ssrc| rtcp::fir_ssrcs(entries).any(|asked| asked == ssrc));
                }
                Packet::SenderReport { .. } | Packet::ReceiverReport { .. } | Packet::Other(_) => (),
            }
        }
    }

    fn push_repairs(&mut self, media_ssrc: u32, pairs: &[u8], shared: &mut Shared) {
        let mut sources = std::mem::take(&mut self.joined.sources);
        let stamp = wall_micros();
        for source in sources.iter_mut().filter(|source| source.ssrc == media_ssrc) {
            for seq in rtcp::missing(pairs) {
                if let Some(len) = source.repair(stamp, seq, &mut self.transport_seq, shared.sender.room()) {
                    self.push_rtp(len, shared);
                }
            }
        }
        self.joined.sources = sources;
    }

    fn request_keyframe(&mut self, is_asked: impl Fn(u32) -> bool) {
        self.joined.sources.iter_mut().filter(|source| is_asked(source.ssrc)).for_each(Source::request_keyframe);
    }

    fn tick(&mut self, now: Instant, shared: &mut Shared) -> Instant {
        self.push_control(now, shared);
        if self.joined.transport.ice().is_expired(now) && !std::mem::replace(&mut self.is_expired, true) {
            self.totals.expired += 1;
        }
        shared.compound.clear();
        let ssrc = self.rtcp_ssrc();
        self.ticks += 1;
        if self.ticks.is_multiple_of(REPORT_TICKS) {
            self.write_reports(&mut shared.compound);
        }
        if let Some(media_ssrc) = self.joined.slots.first().map(|slot| slot.ssrc) {
            self.arrivals.write(ssrc, media_ssrc, &mut shared.compound);
        }
        self.push_rtcp(shared);
        // A quarter more or less, at random: peers are not in step, and those that were looked at together part.
        now + TICK * 3 / 4 + (TICK / 2).mul_f64(self.roll())
    }

    fn request_missing(&mut self, now: Instant, shared: &mut Shared) -> Option<Instant> {
        let sender_ssrc = self.rtcp_ssrc();
        let mut is_waiting = false;
        shared.compound.clear();
        for slot in &mut self.joined.slots {
            let (missing, is_given_up) = slot.poll_missing(now);
            self.totals.nacked += missing.len() as u64;
            if !missing.is_empty() {
                shared.compound.nack(sender_ssrc, slot.ssrc, &missing);
            }
            let may_ask = self.asked_keyframe.is_none_or(|asked| now.duration_since(asked) >= PLI_INTERVAL);
            if is_given_up && may_ask {
                self.asked_keyframe = Some(now);
                shared.compound.pli(sender_ssrc, slot.ssrc);
            }
            is_waiting |= slot.is_waiting();
        }
        self.push_rtcp(shared);
        self.is_nack_due = is_waiting;
        is_waiting.then(|| now + NACK_TICK)
    }

    /// Sender reports, a receiver report and our CNAME (RFC 3550 §6.1).
    fn write_reports(&mut self, compound: &mut Compound) {
        let (ssrc, stamp) = (self.rtcp_ssrc(), wall_micros());
        for info in self.joined.sources.iter().filter_map(|source| source.sender_info(stamp)) {
            compound.sender_report(&info);
        }
        compound.receiver_report(ssrc, self.joined.slots.iter_mut().filter_map(Slot::report_block));
        compound.cname(ssrc, "load");
    }

    /// The SSRC of our RTCP: one that we send with, or 1 as libwebrtc.
    fn rtcp_ssrc(&self) -> u32 {
        self.joined.sources.first().map_or(1, |source| source.ssrc)
    }

    /// Protects the RTP packet of this length in the sender's room.
    fn push_rtp(&mut self, len: usize, shared: &mut Shared) {
        let session = self.joined.transport.session().expect("a peer that has joined has keys");
        let len = session.protect_rtp(shared.sender.room(), len);
        shared.sender.push(len);
        self.flush_full(shared);
    }

    /// Protects what is in the compound, if anything.
    fn push_rtcp(&mut self, shared: &mut Shared) {
        let (room, bytes) = (shared.sender.room(), shared.compound.bytes());
        // More than a datagram is only asked for after an outage; then the next tick asks again.
        if bytes.is_empty() || bytes.len() + OVERHEAD_MAX > room.len() {
            return;
        }
        room[..bytes.len()].copy_from_slice(bytes);
        let session = self.joined.transport.session().expect("a peer that has joined has keys");
        let len = session.protect_rtcp(room, bytes.len());
        shared.sender.push(len);
        self.flush_full(shared);
    }

    /// Checks, and what DTLS repeats.
    fn push_control(&mut self, now: Instant, shared: &mut Shared) {
        self.joined.transport.handle_timeout(now);
        while let Some((_, bytes)) = self.joined.transport.poll_transmit(now) {
            let len = bytes.len().min(shared.sender.room().len());
            shared.sender.room()[..len].copy_from_slice(&bytes[..len]);
            shared.sender.push(len);
            self.flush_full(shared);
        }
    }

    fn flush_full(&self, shared: &mut Shared) {
        if shared.sender.is_full() {
            self.flush(shared);
        }
    }

    fn flush(&self, shared: &mut Shared) {
        shared.sender.send(&self.joined.socket, self.joined.to);
    }
}
