//! The task that carries a peer: datagrams, timers, signals and commands, until the room ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::signal::{Kind, LeaveReason, ServerSignal};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::join::{Joined, Joiner};
use super::resume::{BACKOFF_MAX, Signalled, Signalling, jittered};
use super::slot::Slot;
use super::track::Track;
use super::{Clock, Command, EVENTS_RESERVED, EndReason, Event, JoinError, Outgoing, Packet, SlotContent, is_final};
use crate::random::Random;
use crate::rtcp::{self, Compound};
use crate::rtp;
use crate::srtp::OVERHEAD_MAX;
use crate::transport::{Event as TransportEvent, Received, Transport};
use crate::twcc::Arrivals;

/// Longer than any datagram of a path that WebRTC uses.
const DATAGRAM_MAX: usize = 2048;
/// Room for headers before the longest payload, and for SRTP behind it.
const PACKET_MAX: usize = 1500;
/// Datagrams that are taken before timers are looked at again.
const BATCH_MAX: usize = 64;
/// Between two looks at congestion feedback (libwebrtc: 50 to 250 ms).
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two reports.
const REPORT_TICKS: u32 = 10;
/// Between two looks at missing packets, while there are any.
const NACK_TICK: Duration = Duration::from_millis(10);
/// Until the first attempt to join anew.
const REJOIN_BACKOFF_MIN: Duration = Duration::from_millis(200);

/// Where events go.
pub(super) struct Outlet {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) overflowed: Arc<AtomicU64>,
}

impl Outlet {
    /// Media: dropped and counted while the user is behind.
    fn media(&self, event: Event) {
        let may = self.events.capacity() > EVENTS_RESERVED;
        if !may || self.events.try_send(event).is_err() {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Everything else. False: the user is gone or takes nothing.
    fn say(&self, event: Event) -> bool {
        self.events.try_send(event).is_ok()
    }

    /// The last word.
    fn end(self, reason: EndReason) {
        let _ = self.events.try_send(Event::Ended(reason));
    }
}

/// What became of a peer.
enum Outcome {
    /// For good.
    Ended(EndReason),
    /// Another one may take its place.
    Gone(String),
}

/// Carries peers, one after the other, until the room ends.
pub(super) async fn drive(joiner: Joiner, joined: Joined, mut commands: mpsc::Receiver<Command>, outlet: Outlet) {
    let mut joined = Some(joined);
    loop {
        let peer = match joined.take() {
            Some(joined) => Peer::new(joined, &joiner),
            None => return outlet.end(EndReason::Left),
        };
        match peer.carry(&mut commands, &outlet).await {
            Outcome::Ended(reason) => return outlet.end(reason),
            Outcome::Gone(why) => {
                tokio::select! {
                    again = rejoin(&joiner, why) => match again {
                        Ok(again) => joined = Some(*again),
                        Err(reason) => return outlet.end(reason),
                    },
                    () = leaving(&mut commands) => return outlet.end(EndReason::Left),
                }
            }
        }
    }
}

/// Until the user leaves. Whatever else it wants, there is nobody to do it.
async fn leaving(commands: &mut mpsc::Receiver<Command>) {
    while let Some(command) = commands.recv().await {
        if let Command::Leave(done) = command {
            let _ = done.send(());
            return;
        }
    }
}

async fn rejoin(joiner: &Joiner, why: String) -> Result<Box<Joined>, EndReason> {
    let (begun, mut random, mut backoff) = (Instant::now(), Random::from_system(), REJOIN_BACKOFF_MIN);
    loop {
        sleep(jittered(backoff, &mut random)).await;
        let error = match joiner.join().await {
            Ok(joined) => return Ok(Box::new(joined)),
            Err(error) => error,
        };
        let is_over = is_final(&error) || begun.elapsed() >= joiner.settings.rejoin_for;
        match error {
            JoinError::Bye(reason) if is_over => return Err(EndReason::Bye(reason)),
            error if is_over => return Err(EndReason::Gone(format!("{why}; then {error}"))),
            _ => backoff = (backoff * 2).min(BACKOFF_MAX),
        }
    }
}

/// Which slot a received SSRC is of.
struct SlotOf {
    ssrc: u32,
    slot: usize,
    is_rtx: bool,
}

struct Peer {
    udp: UdpSocket,
    to: std::net::SocketAddr,
    transport: Transport,
    signalling: Signalling,
    signals: Vec<ServerSignal>,
    id: String,
    room: String,
    slots: Vec<Option<Slot>>,
    /// In order of SSRC.
    slot_of: Vec<SlotOf>,
    audio: Option<Track>,
    video: Option<Track>,
    arrivals: Arrivals,
    transport_seq: u16,
    tick_at: Instant,
    ticks: u32,
    nack_at: Option<Instant>,
    compound: Compound,
    out: Box<[u8; PACKET_MAX]>,
}

impl Peer {
    fn new(joined: Joined, joiner: &Joiner) -> Peer {
        let mut slot_of = Vec::new();
        for (index, slot) in joined.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            slot_of.push(SlotOf { ssrc: slot.ssrc, slot: index, is_rtx: false });
            slot_of.extend(slot.rtx_ssrc.map(|ssrc| SlotOf { ssrc, slot: index, is_rtx: true }));
        }
        slot_of.sort_unstable_by_key(|known| known.ssrc);
        let now = Instant::now();
        Peer {
            udp: joined.udp,
            to: joined.to,
            transport: joined.transport,
            signalling: Signalling::new(joiner.settings.clone(), joined.session, joined.socket),
            signals: joined.signals,
            id: joined.peer,
            room: joined.room,
            slots: joined.slots,
            slot_of,
            audio: joined.audio,
            video: joined.video,
            arrivals: Arrivals::new(now),
            transport_seq: 0,
            tick_at: now + TICK,
            ticks: 0,
            nack_at: None,
            compound: Compound::default(),
            out: Box::new([0; PACKET_MAX]),
        }
    }

    async fn carry(mut self, commands: &mut mpsc::Receiver<Command>, outlet: &Outlet) -> Outcome {
        if !outlet.say(Event::Joined { peer: self.id.clone(), room: self.room.clone() }) {
            return self.leave(EndReason::TooSlow).await;
        }
        for signal in std::mem::take(&mut self.signals) {
            if let Some(outcome) = self.signalled(signal, outlet) {
                return outcome;
            }
        }
        let mut datagram = Box::new([0; DATAGRAM_MAX]);
        loop {
            let outcome = tokio::select! {
                ready = self.udp.readable() => match ready {
                    Ok(()) => self.receive(&mut datagram[..], outlet),
                    Err(error) => Some(Outcome::Gone(format!("UDP: {error}"))),
                },
                () = tokio::time::sleep_until(self.due().into()) => self.handle_timeout(),
                signalled = self.signalling.next() => match signalled {
                    Signalled::Signal(signal) => self.signalled(*signal, outlet),
                    Signalled::Lost => self.say(Event::Interrupted, outlet),
                    Signalled::Resumed => self.say(Event::Resumed, outlet),
                    Signalled::Unknown => Some(Outcome::Gone("the server does not know the session".to_owned())),
                    Signalled::Refused(JoinError::Bye(reason)) => Some(Outcome::Ended(EndReason::Bye(reason))),
                    Signalled::Refused(error) => Some(Outcome::Ended(EndReason::Gone(error.to_string()))),
                },
                command = commands.recv() => match command {
                    Some(Command::Send(packet)) => {
                        self.send(&packet);
                        None
                    }
                    Some(Command::Keyframe(slot)) => {
                        self.slots.get_mut(slot).and_then(Option::as_mut).into_iter().for_each(Slot::request_keyframe);
                        self.nack_at.get_or_insert_with(Instant::now);
                        None
                    }
                    Some(Command::Leave(done)) => {
                        let outcome = self.leave(EndReason::Left).await;
                        let _ = done.send(());
                        return outcome;
                    }
                    None => return self.leave(EndReason::Left).await,
                },
            };
            if let Some(outcome) = outcome {
                return match outcome {
                    Outcome::Ended(reason @ EndReason::TooSlow) => self.leave(reason).await,
                    outcome => outcome,
                };
            }
        }
    }

    async fn leave(self, reason: EndReason) -> Outcome {
        self.signalling.leave().await;
        Outcome::Ended(reason)
    }

    fn say(&self, event: Event, outlet: &Outlet) -> Option<Outcome> {
        (!outlet.say(event)).then_some(Outcome::Ended(EndReason::TooSlow))
    }

    fn signalled(&self, signal: ServerSignal, outlet: &Outlet) -> Option<Outcome> {
        let event = match signal {
            ServerSignal::Peers { peers } => Event::Peers(peers),
            ServerSignal::PeerJoined { peer } => Event::PeerJoined(peer),
            ServerSignal::PeerChanged { peer } => Event::PeerChanged(peer),
            ServerSignal::PeerLeft { peer, reason } => Event::PeerLeft { peer, reason },
            ServerSignal::TrackChanged { peer, track } => Event::TrackChanged { peer, track },
            ServerSignal::Moved { room, .. } => Event::Moved { room },
            ServerSignal::Codec { video } => Event::Codec(video),
            ServerSignal::Limits { send_bps_max, video_bps_max, audio_bps_max } => {
                Event::Limits { send_bps_max, video_bps_max, audio_bps_max }
            }
            ServerSignal::Slots { slots } => {
                let number = |mid: &str| self.slots.iter().position(|slot| slot.as_ref().is_some_and(|s| s.mid == mid));
                let contents = slots.into_iter().filter_map(|info| {
                    let slot = number(&info.mid)?;
                    Some(SlotContent { slot, kind: info.kind, peer: info.peer, track: info.track, source: info.source })
                });
                Event::Slots(contents.collect())
            }
            ServerSignal::Bye { reason, rejoin } => {
                return Some(match rejoin && reason != LeaveReason::Left {
                    true => Outcome::Gone(format!("the server said bye: {reason:?}")),
                    false => Outcome::Ended(EndReason::Bye(reason)),
                });
            }
            _ => return None,
        };
        self.say(event, outlet)
    }

    /// When [`Peer::handle_timeout`] has something to do.
    fn due(&self) -> Instant {
        [Some(self.tick_at), self.nack_at, self.transport.poll_timeout()].into_iter().flatten().min().expect("a tick")
    }

    fn handle_timeout(&mut self) -> Option<Outcome> {
        let now = Instant::now();
        self.transport.handle_timeout(now);
        self.flush_control(now);
        while let Some(event) = self.transport.poll_event() {
            match event {
                TransportEvent::Connected(_) => (),
                TransportEvent::Failed(error) => return Some(Outcome::Gone(error.to_string())),
                TransportEvent::Closed => return Some(Outcome::Gone("the server closed DTLS".to_owned())),
            }
        }
        if self.transport.ice().is_expired(now) {
            return Some(Outcome::Gone("the server's consent has ended (RFC 7675)".to_owned()));
        }
        if self.nack_at.is_some_and(|at| at <= now) {
            self.request(now);
        }
        if self.tick_at <= now {
            self.tick_at = now + TICK;
            self.tick(now);
        }
        None
    }

    fn tick(&mut self, now: Instant) {
        self.ticks += 1;
        self.compound.clear();
        let ssrc = self.rtcp_ssrc();
        if self.ticks.is_multiple_of(REPORT_TICKS) {
            let micros = wall_micros();
            for info in [&self.audio, &self.video].into_iter().flatten().filter_map(|track| track.sender_info(micros)) {
                self.compound.sender_report(&info);
            }
            let blocks = self.slots.iter_mut().flatten().filter_map(|slot| slot.report_block(now));
            self.compound.receiver_report(ssrc, blocks);
            self.compound.cname(ssrc, "client");
        }
        if let Some(first) = self.slot_of.first() {
            self.arrivals.write(ssrc, first.ssrc, &mut self.compound);
        }
        self.flush_rtcp();
    }

    /// Asks for what is missing and for keyframes.
    fn request(&mut self, now: Instant) {
        let (ssrc, mut is_waiting) = (self.rtcp_ssrc(), false);
        self.compound.clear();
        for slot in self.slots.iter_mut().flatten() {
            let missing = slot.poll_missing(now);
            if !missing.is_empty() {
                self.compound.nack(ssrc, slot.ssrc, &missing);
            }
            if slot.poll_keyframe(now) {
                self.compound.pli(ssrc, slot.ssrc);
            }
            is_waiting |= slot.is_waiting();
        }
        self.nack_at = is_waiting.then(|| now + NACK_TICK);
        self.flush_rtcp();
    }

    fn receive(&mut self, datagram: &mut [u8], outlet: &Outlet) -> Option<Outcome> {
        let now = Instant::now();
        let mut is_control = false;
        for _ in 0..BATCH_MAX {
            // An error is of the socket's past, an ICMP for example; consent tells whether the path lives.
            let Ok((len, from)) = self.udp.try_recv_from(datagram) else { break };
            match self.transport.receive(now, from, &mut datagram[..len]) {
                Received::Consumed => is_control = true,
                Received::Rtp(packet) => {
                    let (slots, arrivals) = (&mut self.slots, &mut self.arrivals);
                    if let Some(packet) = take_rtp(now, packet, slots, &self.slot_of, arrivals) {
                        outlet.media(Event::Packet(packet));
                    }
                }
                Received::Rtcp(compound) => {
                    let compound = compound.to_vec();
                    self.receive_rtcp(now, &compound, outlet);
                }
                Received::Dropped(_) => (),
            }
        }
        if self.nack_at.is_none() && self.slots.iter().flatten().any(Slot::is_waiting) {
            self.nack_at = Some(now + NACK_TICK);
        }
        if is_control { self.handle_timeout() } else { None }
    }

    fn receive_rtcp(&mut self, now: Instant, compound: &[u8], outlet: &Outlet) {
        for packet in rtcp::packets(compound) {
            match packet {
                rtcp::Packet::SenderReport { ssrc, ntp_time, rtp_time, .. } => {
                    let Ok(known) = self.slot_of.binary_search_by_key(&ssrc, |known| known.ssrc) else { continue };
                    let slot = self.slot_of[known].slot;
                    self.slots[slot].iter_mut().for_each(|slot| slot.reported(now, ntp_time));
                    outlet.media(Event::Clock(Clock { slot, ntp_time, rtp_time, arrival: now }));
                }
                rtcp::Packet::Nack { media_ssrc, pairs } => self.repair(media_ssrc, pairs),
                rtcp::Packet::Pli { .. } | rtcp::Packet::Fir { .. } => outlet.media(Event::KeyframeWanted),
                rtcp::Packet::ReceiverReport { .. } | rtcp::Packet::Other(_) => (),
            }
        }
    }

    fn repair(&mut self, media_ssrc: u32, pairs: &[u8]) {
        let micros = wall_micros();
        for seq in rtcp::missing(pairs) {
            let tracks = [&mut self.audio, &mut self.video].map(Option::as_mut);
            let Some(track) = tracks.into_iter().flatten().find(|track| track.ssrc == media_ssrc) else { return };
            if let Some(len) = track.repair(micros, seq, &mut self.transport_seq, &mut self.out[..]) {
                self.flush_rtp(len);
            }
        }
    }

    fn send(&mut self, packet: &Outgoing) {
        let track = if packet.kind == Kind::Audio { &mut self.audio } else { &mut self.video };
        let Some(track) = track else { return };
        let len = track.write(wall_micros(), packet, &mut self.transport_seq, &mut self.out[..]);
        self.flush_rtp(len);
    }

    /// The SSRC of our RTCP: one that we send with, or 1 as libwebrtc.
    fn rtcp_ssrc(&self) -> u32 {
        self.audio.as_ref().or(self.video.as_ref()).map_or(1, |track| track.ssrc)
    }

    fn flush_rtp(&mut self, len: usize) {
        let Some(session) = self.transport.session() else { return };
        let len = session.protect_rtp(&mut self.out[..], len);
        // A full socket loses a packet as any network does.
        let _ = self.udp.try_send_to(&self.out[..len], self.to);
    }

    fn flush_rtcp(&mut self) {
        let (bytes, Some(session)) = (self.compound.bytes(), self.transport.session()) else { return };
        // More than a datagram is only asked for after an outage; then the next tick asks again.
        if bytes.is_empty() || bytes.len() + OVERHEAD_MAX > self.out.len() {
            return;
        }
        self.out[..bytes.len()].copy_from_slice(bytes);
        let len = session.protect_rtcp(&mut self.out[..], bytes.len());
        let _ = self.udp.try_send_to(&self.out[..len], self.to);
    }

    /// Checks, and what DTLS repeats.
    fn flush_control(&mut self, now: Instant) {
        while let Some((to, bytes)) = self.transport.poll_transmit(now) {
            let _ = self.udp.try_send_to(&bytes, to);
        }
    }
}

/// Which packet this is, for the user; None if it came before, or is of nobody.
fn take_rtp(
    now: Instant,
    packet: &[u8],
    slots: &mut [Option<Slot>],
    slot_of: &[SlotOf],
    arrivals: &mut Arrivals,
) -> Option<Packet> {
    let mut header = rtp::Header::parse(packet)?;
    let known = slot_of.binary_search_by_key(&header.ssrc, |known| known.ssrc).ok()?;
    let SlotOf { slot: index, is_rtx, .. } = slot_of[known];
    let slot = slots[index].as_mut()?;
    if let Some(id) = slot.transport_extension
        && let Some(&number) = rtp::extension(packet, id).and_then(|value| value.first_chunk())
    {
        arrivals.push(now, u16::from_be_bytes(number));
    }
    let mut payload = rtp::payload(packet, &header)?;
    if is_rtx {
        // RFC 4588 §4: the original sequence number, then the original payload. Probes are retransmissions of nothing.
        let (seq, original) = payload.split_first_chunk()?;
        header.pt = slot.original_pt(header.pt)?;
        header.seq = u16::from_be_bytes(*seq);
        header.ssrc = slot.ssrc;
        payload = original;
    }
    let codec = slot.codec(header.pt)?;
    let number = slot.receive(now, header.seq)?;
    Some(Packet { slot: index, codec, number, header, payload: payload.to_vec(), arrival: now })
}

/// Microseconds since 1970.
fn wall_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
