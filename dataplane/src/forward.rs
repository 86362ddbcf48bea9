//! The core of a worker: bytes, commands and the time go in; packets, reports and a deadline come out. It knows no
//! socket, no clock and no runtime, so a simulator can drive it as well as a kernel can.
//!
//! Every datagram has one fate, and each fate is a counter: [`Counter::Forwarded`], [`Counter::Consumed`],
//! [`Counter::Punted`], or a named drop. Their sum is [`Counter::Received`], always; packets that another worker received
//! and handed on have a fate here, too, and are counted in by [`Counter::RelayReceived`].

use proto::id::{PeerId, Ssrc, StreamId};
use proto::plane::{
    Command, Counter, DATAGRAM_LEN_MAX, DatagramHeader, DatagramKind, Event, Extension, ExtensionIds, PeerExpired,
    PeerPath, StreamStarted, TapOpen,
};
use proto::stun;

use crate::config::{
    MILLISECOND, Micros, PATH_HELD, PAYLOAD_LEN_MAX, PEERS_MAX, PUNT_BURST, PUNT_RATE, REPORT_INTERVAL, ROUTES_MAX,
    SECOND, SLOTS_MAX, STAGED_MAX, STREAMS_MAX, TAPS_MAX, TIMERS_PER_TURN_MAX, TRANSPORT_CC_INTERVAL,
};
use crate::demux::{self, Demux};
use crate::fanout::Burst;
use crate::outbox::{Destination, Outbox, Path};
use crate::packet::{RtpPacket, SrtpPacket, Staged, Unprotect};
use crate::punt::{Bucket, is_dtls_record};
use crate::relay::{Message, Packet as RelayedPacket};
use crate::remb;
use crate::repair::{History, Source};
use crate::route::{Format, Route, SenderClock, Slot, Stream};
use crate::rtp::Header;
use crate::srtp::Window;
use crate::table::Table;
use crate::timer::{Timer, Timers};
use crate::transport::Transport;

/// A datagram as the io backend hands it over.
pub struct Datagram<'a> {
    /// Which socket it came to, and from where.
    pub path: Path,
    /// When the kernel received it, on the worker's clock.
    pub at: Micros,
    /// Its bytes; they are decrypted in place.
    pub bytes: &'a mut [u8],
}

/// How much a worker remembers. Strangers must not be able to make any of it grow without bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sizes {
    /// Peers, streams, slots and routes that are open.
    pub objects: [usize; 4],
    /// Addresses from which a peer's packets are taken.
    pub paths: usize,
    /// Username fragments that are answered.
    pub ufrags: usize,
    /// SSRCs of peers' streams that are bound or remembered.
    pub ssrcs: usize,
    /// Holes of streams that are tracked.
    pub holes: usize,
    /// Timers that are pending.
    pub timers: usize,
    /// Commands that wait for their commit.
    pub staged: usize,
}

/// One worker's state and all it does with a packet.
pub struct Forwarder {
    pub(crate) peers: Table<Transport>,
    pub(crate) streams: Table<Stream>,
    pub(crate) slots: Table<Slot>,
    pub(crate) routes: Table<Route>,
    pub(crate) taps: Table<TapOpen>,
    /// Which worker of its dataplane this is, and of how many.
    pub(crate) place: (usize, usize),
    pub(crate) demux: Demux,
    pub(crate) history: History,
    /// What waits to be fanned out.
    pub(crate) burst: Burst,
    /// The payload of a repair.
    pub(crate) payload: Staged,
    pub(crate) timers: Timers,
    pub(crate) staged: Vec<Command>,
    /// Number of commits so far, for refusals that come before one.
    pub(crate) batch: u64,
    /// How far an answer to `Describe` is.
    pub(crate) describing: Option<crate::edit::Describing>,
    pub(crate) counters: Box<[u64; Counter::COUNT]>,
    punts: Bucket,
}

impl Forwarder {
    /// A worker without peers. `seed` keys the hash tables that strangers' bytes index.
    pub fn new(seed: [u8; 16], now: Micros) -> Self {
        Forwarder {
            peers: Table::new(PEERS_MAX),
            streams: Table::new(STREAMS_MAX),
            slots: Table::new(SLOTS_MAX),
            routes: Table::new(ROUTES_MAX),
            taps: Table::new(TAPS_MAX),
            place: (0, 1),
            demux: Demux::new(seed),
            history: History::new(),
            burst: Burst::new(),
            payload: Staged::new(),
            timers: Timers::new(now),
            staged: Vec::with_capacity(STAGED_MAX),
            batch: 0,
            describing: None,
            counters: Box::new([0; Counter::COUNT]),
            punts: Bucket::new(PUNT_BURST, PUNT_RATE, now),
        }
    }

    /// The same as worker `index` of so many, to which it may hand streams on.
    pub fn among(self, index: usize, workers: usize) -> Self {
        Forwarder { place: (index, workers), ..self }
    }

    /// The worker's counters; the io backend adds its own.
    pub fn counters(&mut self) -> &mut [u64; Counter::COUNT] {
        &mut self.counters
    }

    /// How much is remembered now. Walks all tables: for tests and diagnosis, not for the turn.
    pub fn sizes(&self) -> Sizes {
        let (paths, ufrags) = self.demux.sizes();
        Sizes {
            objects: [self.peers.occupied(), self.streams.occupied(), self.slots.occupied(), self.routes.occupied()],
            paths,
            ufrags,
            ssrcs: (0..self.peers.len() as u32).filter_map(|i| self.peers.at(i)).map(Transport::ssrc_count).sum(),
            holes: (0..self.streams.len() as u32)
                .filter_map(|i| self.streams.at(i)?.holes.as_ref())
                .map(crate::repair::Holes::len)
                .sum(),
            timers: self.timers.len(),
            staged: self.staged.len(),
        }
    }

    #[inline]
    pub(crate) fn count(&mut self, counter: Counter, n: u64) {
        self.counters[counter as usize] += n;
    }

    /// Takes one datagram to its fate, and writes all that comes of it into the outbox, which must not be nearly full.
    pub fn receive(&mut self, now: Micros, mut datagram: Datagram<'_>, out: &mut Outbox) {
        let is_taken = self.take_in(now, &mut datagram, out);
        debug_assert!(is_taken, "nothing waits");
        debug_assert!(self.burst.is_empty() || !out.is_nearly_full(), "there is room for the widest fan-out");
        let is_done = self.fan_out_until(now, out, |_| false, |_, _| ());
        debug_assert!(is_done, "nothing holds it up");
    }

    /// Takes one datagram to its fate; what is to be fanned out waits for [`fan_out`](Self::fan_out). False: nothing was done
    /// yet, because what waits has to be fanned out first.
    pub fn take_in(&mut self, now: Micros, datagram: &mut Datagram<'_>, out: &mut Outbox) -> bool {
        let fate = match demux::kind(datagram.bytes) {
            Some(demux::Kind::Stun) => self.receive_stun(now, datagram.path, datagram.bytes, out),
            Some(kind) => match self.demux.peer_at(datagram.path) {
                None => Counter::DroppedUnknownAddress,
                Some(peer) => match kind {
                    demux::Kind::Rtp => {
                        let fate = self.receive_rtp(now, peer, datagram.at, datagram.bytes, out);
                        let Some(fate) = fate else { return false };
                        self.tell_less(peer, out);
                        self.heard(now, peer, datagram.path, fate, out)
                    }
                    demux::Kind::Rtcp => {
                        let fate = self.receive_rtcp(now, peer, datagram.at, datagram.bytes, out);
                        self.heard(now, peer, datagram.path, fate, out)
                    }
                    _ => self.receive_dtls(now, peer, datagram.path, datagram.bytes, out),
                },
            },
            None => Counter::DroppedUnknownProtocol,
        };
        self.count(Counter::Received, 1);
        self.count(Counter::ReceivedBytes, datagram.bytes.len() as u64);
        self.count(fate, 1);
        true
    }

    /// Passes on the fate of a packet of media; one that was of use was authentic, and its peer is there.
    #[inline]
    fn heard(&mut self, now: Micros, peer: u32, path: Path, fate: Counter, out: &mut Outbox) -> Counter {
        if matches!(fate, Counter::Forwarded | Counter::Consumed)
            && let Some(transport) = self.peers.at_mut(peer)
            && transport.heard(path, now)
        {
            self.peer_renewed(peer, out);
        }
        fate
    }

    /// Takes a message of another worker. A packet has its fate here as if it had been received here, at the moment when it
    /// was received there. False as in [`take_in`](Self::take_in).
    pub fn hear(&mut self, now: Micros, message: Message<'_>, out: &mut Outbox) -> bool {
        match message {
            Message::Packet(packet) => {
                let Some(fate) = self.receive_relayed(&packet, out) else { return false };
                self.count(Counter::RelayReceived, 1);
                self.count(fate, 1);
            }
            Message::Clock { mirror, ssrc, ntp, rtp, at } => {
                let stream = self.streams.find_mut(mirror.index, mirror.generation);
                if let Some(stream) = stream.filter(|stream| stream.mirror.is_some()) {
                    if stream.ssrc == 0 {
                        stream.ssrc = ssrc; // It may come before the first packet.
                    }
                    stream.sender_report = (stream.ssrc == ssrc).then_some(SenderClock { ntp, rtp, at });
                }
            }
            Message::Sets { mirror, sets } => {
                let stream = self.streams.find_mut(mirror.index, mirror.generation);
                if let Some(known) = stream.filter(|stream| stream.mirror.is_some()).and_then(|s| s.sets.as_mut()) {
                    known.told(sets);
                }
            }
            Message::KeyframeWanted { stream } if self.has_stream(stream) => {
                self.tell_mirrors_sets(stream.index, out);
                self.want_keyframe(now, stream.index, out);
            }
            Message::KeyframeWanted { .. } => {}
        }
        true
    }

    /// Sends a datagram of the controlplane to an address that the peer has validated, as long as it consents.
    pub fn inject(&mut self, header: &DatagramHeader, payload: &[u8], out: &mut Outbox) {
        let PeerId { index, generation } = header.peer;
        let peer = self.peers.find(index, generation).filter(|peer| !peer.is_expired);
        let path = peer.and_then(|peer| peer.path_to(header.remote));
        let Some(path) = path else {
            self.count(Counter::InjectRefused, 1);
            return;
        };
        let is_sent = out.push_public(Destination { peer: index, path }, |frame| {
            frame[..payload.len()].copy_from_slice(payload);
            payload.len()
        });
        // The outbox counts what it refuses.
        self.count(Counter::Injected, u64::from(is_sent));
    }

    /// When [`tick`](Self::tick) is due, if ever.
    pub fn deadline(&self) -> Option<Micros> {
        self.timers.deadline()
    }

    /// Runs what is due at `now`, as much as a turn may: reports of many peers at once would hold up their media.
    pub fn tick(&mut self, now: Micros, out: &mut Outbox) {
        for _ in 0..TIMERS_PER_TURN_MAX {
            let Some(timer) = self.timers.pop(now) else { break };
            match timer {
                Timer::Report { peer } if self.has_peer(peer) => {
                    self.tally(now, peer.index, out);
                    self.review_silence(peer.index, out);
                    self.send_reports(now, peer.index, out);
                }
                Timer::TransportCc { peer } if self.has_peer(peer) => self.send_transport_cc(now, peer.index, out),
                Timer::Consent { peer } if self.has_peer(peer) => self.check_consent(now, peer.index, out),
                Timer::Nack { stream } if self.has_stream(stream) => self.send_nack(now, stream.index, out),
                Timer::Keyframe { stream } if self.has_stream(stream) => self.keyframe_due(now, stream.index, out),
                _ => {} // Its object is gone.
            }
            if out.is_nearly_full() {
                break;
            }
        }
        self.counters[Counter::SendFailed as usize] += out.take_refused();
    }

    fn has_peer(&self, id: PeerId) -> bool {
        self.peers.find(id.index, id.generation).is_some()
    }

    fn has_stream(&self, id: StreamId) -> bool {
        self.streams.find(id.index, id.generation).is_some()
    }

    /// A STUN Binding request for a known transport is answered here: it proves the address (RFC 8445 §7.3), keeps
    /// consent (RFC 7675), and selects the path.
    fn receive_stun(&mut self, now: Micros, path: Path, bytes: &[u8], out: &mut Outbox) -> Counter {
        let Ok(message) = stun::Message::parse(bytes) else { return Counter::DroppedStunMalformed };
        if !message.is_binding_request() {
            // Indications keep bindings alive (RFC 8445 §11) and prove nothing; responses answer nothing of ours.
            return Counter::DroppedStunMalformed;
        }
        let ours = message.username().and_then(|name| name.split(|&b| b == b':').next());
        let Some(index) = ours.and_then(|ufrag| self.demux.peer_named(ufrag)) else {
            return Counter::DroppedStunUnknownUfrag;
        };
        let Some(transport) = self.peers.at_mut(index) else { return Counter::DroppedStunUnknownUfrag };
        if (message.has_fingerprint() && !message.check_fingerprint()) || !message.check_integrity(&transport.integrity)
        {
            return Counter::DroppedStunIntegrity;
        }
        let to = Destination { peer: index, path };
        if !message.unknown_attributes().is_empty() {
            let key = &transport.integrity;
            out.push_public(to, |frame| {
                let code = stun::ErrorCode::UnknownAttribute;
                stun::Writer::binding_error(frame, message.transaction_id(), code)
                    .unknown_attributes(message.unknown_attributes())
                    .integrity(key)
                    .fingerprint()
                    .finish()
                    .unwrap_or(0)
            });
            return Counter::Consumed;
        }
        if message.ice_controlled().is_some() {
            // We are ICE-lite and always controlled (RFC 8445 §6.1.1, §7.3.1.1).
            let key = &transport.integrity;
            out.push_public(to, |frame| {
                let writer =
                    stun::Writer::binding_error(frame, message.transaction_id(), stun::ErrorCode::RoleConflict);
                writer.integrity(key).fingerprint().finish().unwrap_or(0)
            });
            return Counter::Consumed;
        }
        if transport.is_expired {
            // Consent that was lost is not taken back by a check with the same credentials (RFC 7675 §5.1).
            return Counter::DroppedStunUnknownUfrag;
        }
        let holder = self.demux.peer_at(path).filter(|holder| *holder != index);
        let held = holder.and_then(|holder| self.peers.at(holder)).and_then(|holder| holder.checked_at(path));
        if held.is_some_and(|at| now < at + PATH_HELD) {
            return Counter::DroppedStunPathTaken;
        }
        let Some(transport) = self.peers.at_mut(index) else { return Counter::DroppedStunUnknownUfrag };
        let checked = transport.checked(path, message.use_candidate(), now);
        let key = &transport.integrity;
        out.push_public(to, |frame| {
            let writer = stun::Writer::binding_success(frame, message.transaction_id(), path.remote);
            writer.integrity(key).fingerprint().finish().unwrap_or(0)
        });
        if checked.is_moved {
            let nominated = u8::from(transport.is_nominated);
            out.report(PeerPath { peer: transport.id, remote: path.remote, nominated }.into_report());
        }
        if !transport.is_consent_timer_set {
            transport.is_consent_timer_set = true;
            let ends = transport.consent_ends().expect("a check was just recorded");
            self.timers.set(ends, Timer::Consent { peer: transport.id });
        }
        if let Some(old) = checked.evicted {
            self.demux.unbind(old, index);
        }
        self.demux.bind(path, index);
        self.peer_renewed(index, out);
        self.count(Counter::BindingAnswered, 1);
        if checked.is_moved {
            self.became_ready(now, index, out);
        }
        Counter::Consumed
    }

    fn check_consent(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        let Some(transport) = self.peers.at_mut(peer) else { return };
        match transport.consent_ends() {
            Some(ends) if ends > now => self.timers.set(ends, Timer::Consent { peer: transport.id }),
            _ => {
                transport.is_consent_timer_set = false;
                if !transport.is_expired {
                    transport.is_expired = true;
                    out.report(PeerExpired { peer: transport.id }.into_report());
                }
            }
        }
    }

    /// DTLS goes up to the controlplane, rate-limited: only from addresses that a check has proved, so nobody can
    /// make it keep state for a forged source.
    fn receive_dtls(&mut self, now: Micros, peer: u32, path: Path, bytes: &[u8], out: &mut Outbox) -> Counter {
        if !is_dtls_record(bytes) || bytes.len() > DATAGRAM_LEN_MAX {
            return Counter::DroppedDtlsMalformed;
        }
        let Some(transport) = self.peers.at_mut(peer) else { return Counter::DroppedUnknownAddress };
        if !transport.punts.take(now) || !self.punts.take(now) {
            return Counter::DroppedPuntRate;
        }
        let header = DatagramHeader {
            kind: DatagramKind::Dtls,
            peer: transport.id,
            remote: path.remote,
            len: bytes.len() as u16,
        };
        if out.punt(header, bytes) { Counter::Punted } else { Counter::DroppedPuntFull }
    }

    /// SRTP: find the stream, unprotect, account, repair, and have it wait for its receivers. `None` as in
    /// [`take_in`](Self::take_in).
    fn receive_rtp(
        &mut self,
        now: Micros,
        peer: u32,
        at: Micros,
        bytes: &mut [u8],
        out: &mut Outbox,
    ) -> Option<Counter> {
        let Some(transport) = self.peers.at_mut(peer) else { return Some(Counter::DroppedUnknownAddress) };
        let Some(rx) = &transport.rx else { return Some(Counter::DroppedNoKeys) };
        let Some(packet) = SrtpPacket::parse(&mut *bytes) else { return Some(Counter::DroppedRtpMalformed) };
        let Header { ssrc, seq, .. } = *packet.header();
        let Some(owner) = transport.owner(ssrc) else { return self.receive_other_ssrc(now, peer, at, packet, out) };
        let Some(stream) = self.streams.at_mut(owner.stream) else { return Some(Counter::DroppedUnknownStream) };
        if !self.burst.is_empty() {
            // Packets of before a new codec have their receivers' numbers of before.
            let is_new = stream.format_of(packet.header().pt).is_some_and(|f| f != stream.format);
            if is_new || self.burst.is_full() {
                return None;
            }
        }

        let highest = stream.window.highest();
        let window = if owner.is_rtx { &mut stream.rtx_window } else { &mut stream.window };
        let packet = match packet.unprotect(rx, window, &mut transport.second_tries, now) {
            Ok(packet) => packet,
            Err(error) => {
                self.counters[Counter::SrtpSecondTries as usize] += transport.second_tries.take_count();
                let mut is_repaired = || stream.holes.as_mut().is_some_and(|holes| holes.take_repaired(seq));
                if error == Unprotect::Replayed && !owner.is_rtx && is_repaired() {
                    // It was late, and the repair was faster. It arrived all the same, and its sender is told so.
                    let late = SrtpPacket::parse(bytes).and_then(|late| late.unprotect_again(rx, &stream.window));
                    if let Some(late) = late {
                        note_arrival(transport, &mut self.timers, &late, at, now);
                    }
                }
                return Some(error.counter());
            }
        };
        note_arrival(transport, &mut self.timers, &packet, at, now);
        remb::arrived(transport, stream, &packet, owner.is_rtx, at);
        if packet.is_malformed {
            return Some(Counter::DroppedRtpMalformed);
        }
        if owner.is_rtx {
            return Some(self.receive_rtx(now, at, owner.stream, packet, out));
        }
        Some(self.receive_media(now, at, peer, owner.stream, packet, highest, out))
    }

    /// A packet of the SSRC that a stream is carried from; `highest` is the highest index of it before.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "a packet with all that its receipt has found out")]
    pub(crate) fn receive_media(
        &mut self,
        now: Micros,
        at: Micros,
        peer: u32,
        index: u32,
        packet: RtpPacket<'_>,
        highest: Option<u64>,
        out: &mut Outbox,
    ) -> Counter {
        let Some(transport) = self.peers.at_mut(peer) else { return Counter::DroppedUnknownAddress };
        let Some(stream) = self.streams.at_mut(index) else { return Counter::DroppedUnknownStream };
        stream.encodings.heard(at);
        let Some(format) = stream.format_of(packet.header.pt) else { return Counter::DroppedPayloadType };
        if packet.payload.len() > PAYLOAD_LEN_MAX {
            return Counter::DroppedTooLarge;
        }
        // A packet that was overtaken does not change the codec back.
        if format != stream.format && highest.is_none_or(|highest| packet.index > highest) {
            change_codec(stream, format, &mut self.slots);
        }
        stream.reception.received(packet.index, packet.header.timestamp, stream.open.codec.clock_rate(), at);
        stream.counts.bytes += packet.payload.len() as u64;
        let mut lost = 0;
        if let Some(holes) = &mut stream.holes {
            let arrival = holes.arrived(packet.index, highest, now);
            lost = arrival.lost;
            self.counters[Counter::Recovered as usize] += u64::from(arrival.recovered);
            self.counters[Counter::Lost as usize] += u64::from(lost);
            if !holes.is_empty() && !holes.is_timer_set {
                holes.is_timer_set = true;
                let due = holes.deadline().expect("there are holes");
                self.timers.set(due, Timer::Nack { stream: stream.open.stream });
            }
        }
        if !std::mem::replace(&mut stream.is_flowing, true) {
            begin(stream, packet.header.ssrc, out);
            arm_reports(transport, &mut self.timers, now);
        }
        self.enqueue(index, format, packet, at, out);
        if lost > 0 {
            self.want_keyframe(now, index, out);
        }
        Counter::Forwarded
    }

    /// RTX (RFC 4588 §4): if the packet inside is still missing, it arrives now.
    pub(crate) fn receive_rtx(
        &mut self,
        now: Micros,
        at: Micros,
        index: u32,
        rtx: RtpPacket<'_>,
        out: &mut Outbox,
    ) -> Counter {
        let Some(stream) = self.streams.at_mut(index) else { return Counter::DroppedUnknownStream };
        let Some(format) = stream.format_of_rtx(rtx.header.pt) else { return Counter::DroppedPayloadType };
        let Some((original_seq, payload)) = rtx.payload.split_first_chunk::<2>() else {
            return Counter::DroppedRtxUseless; // Padding: a probe of the publisher's bandwidth estimator.
        };
        if payload.len() > PAYLOAD_LEN_MAX {
            return Counter::DroppedTooLarge;
        }
        let original = stream.window.estimate(u16::from_be_bytes(*original_seq));
        let is_past = stream.window.highest().is_some_and(|highest| original < highest);
        if !is_past || stream.window.check(original).is_err() {
            return Counter::DroppedRtxUseless;
        }
        stream.window.update(original);
        stream.counts.repaired += 1;
        if let Some(holes) = &mut stream.holes {
            holes.repaired(original);
            let arrival = holes.arrived(original, stream.window.highest(), now);
            self.counters[Counter::Recovered as usize] += u64::from(arrival.recovered);
        }
        self.enqueue(index, format, RtpPacket { index: original, payload, ..rtx }, at, out);
        Counter::Forwarded
    }

    /// A packet that another worker received. What it lost is lost here, too: a gap of the mirror is a gap of the stream.
    /// `None` as in [`take_in`](Self::take_in).
    fn receive_relayed(&mut self, packet: &RelayedPacket<'_>, out: &mut Outbox) -> Option<Counter> {
        let RelayedPacket { mirror: id, ssrc, index, highest: highest_there, at, ids, head, payload } = *packet;
        let Some(stream) = self.streams.find_mut(id.index, id.generation) else {
            return Some(Counter::DroppedRelayStale);
        };
        let Some(packet) = RtpPacket::from_parts(head, payload, index) else {
            return Some(Counter::DroppedRtpMalformed);
        };
        let pt = packet.header.pt;
        let format = stream.format_of(pt).or_else(|| stream.format_of_rtx(pt));
        let is_new = ssrc != stream.ssrc || format.is_some_and(|f| f != stream.format);
        if !self.burst.is_empty() && (is_new || self.burst.is_full()) {
            return None;
        }
        let Some(mirror) = &mut stream.mirror else { return Some(Counter::DroppedRelayStale) };
        mirror.ids = ids;
        let is_first = !std::mem::replace(&mut mirror.has_begun, true);
        if ssrc != stream.ssrc {
            stream.rename(ssrc, Window::new());
            for hop in &stream.hops {
                if let Some(slot) = self.slots.at_mut(hop.slot) {
                    slot.rewriter.cut();
                }
            }
        }
        if is_first {
            // What came there before this was not handed on, or found no mirror here.
            stream.kept_from = if highest_there > index { highest_there + 1 } else { index };
        }
        let Some(format) = format else { return Some(Counter::DroppedPayloadType) };
        let highest = stream.window.highest();
        if stream.window.check(index).is_err() {
            return Some(Counter::DroppedSrtpReplay);
        }
        stream.window.update(index);
        if format != stream.format && highest.is_none_or(|highest| index > highest) {
            change_codec(stream, format, &mut self.slots);
        }
        self.enqueue(id.index, format, packet, at, out);
        Some(Counter::Forwarded)
    }

    /// A receiver may have begun to wait for a keyframe with the packet that was just fanned out, and then nobody else
    /// asks.
    pub(crate) fn ask_for_who_began_to_wait(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        let is_unasked = |s: &Stream| s.keyframe.is_wanted && s.keyframe.timer.is_none();
        if self.streams.at(index).is_some_and(is_unasked) {
            self.want_keyframe(now, index, out);
        }
    }

    /// Keeps a packet for repair, hands it to each worker that has a mirror of its stream, and has it wait to be fanned out.
    fn enqueue(&mut self, index: u32, format: Format, packet: RtpPacket<'_>, at: Micros, out: &mut Outbox) {
        let Forwarder { streams, peers, history, counters, burst, .. } = self;
        let Some(stream) = streams.at_mut(index) else { return };
        let source = Source { stream: stream.open.stream, ssrc: stream.ssrc };
        if let Some(places) = &mut stream.places
            && !stream.hops.is_empty()
        {
            history.store(source, places, packet.index, [packet.head, packet.payload]);
        }
        let Some(ids) = extension_ids(stream, peers) else { return };
        if !stream.taps.is_empty() {
            relay(stream, &packet, ids, at, counters, out);
        }
        burst.push(stream, &ids, format, &packet, at);
    }

    /// A peer got its keys or its path: what waits for a keyframe on its behalf is asked for now, and its reports
    /// begin.
    pub(crate) fn became_ready(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        let Some(transport) = self.peers.at_mut(peer) else { return };
        if transport.outgoing().is_none() {
            return;
        }
        arm_reports(transport, &mut self.timers, now);
        for at in 0..transport.slots.len() {
            let Some((_, slot)) = self.peers.at(peer).and_then(|t| t.slots.get(at)).copied() else { return };
            let route = self.slots.at(slot).and_then(|s| s.route).and_then(|r| self.routes.at(r));
            let Some(stream) = route.map(|r| r.open.stream.index) else { continue };
            if self.streams.at(stream).is_some_and(|stream| stream.awaits_keyframe(slot)) {
                self.want_keyframe(now, stream, out);
            }
        }
    }
}

/// The header extension ids in a stream's packets: its publisher's.
pub(crate) fn extension_ids(stream: &Stream, peers: &Table<Transport>) -> Option<ExtensionIds> {
    match &stream.mirror {
        Some(mirror) => Some(mirror.ids),
        None => peers.find(stream.open.peer.index, stream.open.peer.generation).map(|peer| peer.extension_ids),
    }
}

/// Hands a packet of a stream to each worker that has a mirror of it.
fn relay(
    stream: &Stream,
    packet: &RtpPacket<'_>,
    ids: ExtensionIds,
    at: Micros,
    counters: &mut [u64; Counter::COUNT],
    out: &mut Outbox,
) {
    let RtpPacket { index, head, payload, .. } = *packet;
    let highest = stream.window.highest().unwrap_or(index);
    let (mirror, ssrc) = (stream.open.stream, stream.ssrc);
    let relayed = RelayedPacket { mirror, ssrc, index, highest, at, ids, head, payload };
    let count = out.relay(&relayed, stream.taps.iter().map(|tap| (tap.worker, tap.mirror)));
    counters[Counter::Relayed as usize] += count as u64;
    counters[Counter::RelayFull as usize] += (stream.taps.len() - count) as u64;
}

/// Packets of a stream come, for the first time or again.
fn begin(stream: &mut Stream, ssrc: Ssrc, out: &mut Outbox) {
    if !std::mem::replace(&mut stream.is_started, true) {
        out.report(StreamStarted { stream: stream.open.stream, ssrc }.into_report());
    }
    stream.resume(out);
}

/// Arms the report timer of a peer that sends or receives.
fn arm_reports(transport: &mut Transport, timers: &mut Timers, now: Micros) {
    if !transport.is_report_timer_set {
        transport.is_report_timer_set = true;
        // The first report soon, so that lip sync and the round trip do not wait; peers spread over 250 ms.
        let spread = Micros::from(transport.id.index % 25) * 10 * MILLISECOND;
        timers.set(now + REPORT_INTERVAL / 4 + spread, Timer::Report { peer: transport.id });
    }
}

/// A stream goes on in another of its codecs: each receiver begins anew at the next keyframe, and its numbers go on.
fn change_codec(stream: &mut Stream, format: Format, slots: &mut Table<Slot>) {
    stream.format = format;
    for hop in &mut stream.hops {
        hop.awaits_keyframe = true;
        if let Some(slot) = slots.at_mut(hop.slot) {
            slot.rewriter.cut();
        }
    }
}

/// Records the arrival of a transport-wide sequence number, for the feedback to the publisher.
pub(crate) fn note_arrival(
    transport: &mut Transport,
    timers: &mut Timers,
    packet: &RtpPacket<'_>,
    at: Micros,
    now: Micros,
) {
    let id = transport.extension_ids[Extension::TransportCc as usize];
    let (Some(&[high, low]), Some(arrivals)) = (packet.extension(id), &mut transport.arrivals) else { return };
    arrivals.push(u16::from_be_bytes([high, low]), at);
    transport.transport_cc_ssrc = packet.header.ssrc;
    if !transport.is_transport_cc_timer_set {
        transport.is_transport_cc_timer_set = true;
        timers.set(now + TRANSPORT_CC_INTERVAL, Timer::TransportCc { peer: transport.id });
    }
}

/// An event as a report.
pub(crate) trait IntoReport {
    /// See [`proto::plane::Report`].
    fn into_report(self) -> proto::plane::Report;
}

impl<T: Into<Event>> IntoReport for T {
    fn into_report(self) -> proto::plane::Report {
        proto::plane::Report::Event(self.into())
    }
}

/// NTP timestamp (RFC 5905 §6, 32.32) of a moment on the worker's clock. The epoch is arbitrary, as RFC 3550 §6.4.1
/// permits; a day keeps it from zero, which means "none".
pub(crate) fn ntp(now: Micros) -> u64 {
    let seconds = now / SECOND + 86_400;
    let fraction = ((now % SECOND) << 32) / SECOND;
    seconds << 32 | fraction
}
