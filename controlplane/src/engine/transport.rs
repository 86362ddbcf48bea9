//! What workers tell the engine: paths, punted DTLS, expiry; and the clock of each transport.

use std::time::{Duration, Instant};

use proto::plane::{Command, DatagramHeader, DatagramKind, Event, Report};
use proto::signal::LeaveReason;

use super::{Engine, Handle, Output, TIMER_MIN, Timer};
use crate::dtls::Connected;
use crate::gate::PassedOver;
use crate::happening::Happening;
use crate::peer::{Peer, Progress, keys_of};

/// How often the log is told at most of a room that has its part of the handshakes: its clients repeat their hellos all the while.
const OVER_SHARE_INTERVAL: Duration = Duration::from_secs(10);

impl Engine {
    /// A record of a worker's event ring.
    pub(super) fn report(&mut self, now: Instant, index: usize, report: Report) {
        let Some(worker) = self.workers.get_mut(&index) else { return };
        let handle = |peer| Handle { worker: index, peer };
        match report {
            Report::Echo(command) => worker.plan.echo(command),
            Report::Event(event) => match event {
                Event::Described(described) => {
                    if worker.plan.described(described.count) {
                        self.described(now, index);
                    }
                }
                Event::PeerPath(path) => self.path(now, handle(path.peer), path.remote),
                Event::PeerExpired(expired) => {
                    worker.expire(expired.peer);
                    self.end_peer(handle(expired.peer), LeaveReason::TimedOut, true);
                }
                Event::Refused(refused) => {
                    self.totals.commands_refused += 1;
                    // We and the worker disagree, or its table is full: better told than hidden.
                    if let Some(peer) = worker.plan.owner_of_refused(refused.tag, refused.index) {
                        let refusal = refused.refusal;
                        self.happened(Happening::CommandRefused { worker: index, peer, refusal });
                        // Of a mirror it is the publisher, on another worker.
                        self.end_peer(Handle::of(peer), LeaveReason::TransportFailed, true);
                    }
                }
                Event::StreamSilent(_) | Event::StreamResumed(_) | Event::PeerSilent(_) | Event::PeerResumed(_) => {
                    if let Some(peer) = worker.plan.silence_changed(&event) {
                        self.silence_changed(now, handle(peer), &event);
                    }
                }
                Event::StreamSpeaks(_) | Event::StreamQuiet(_) => {
                    if let Some(peer) = worker.plan.silence_changed(&event) {
                        self.spoken(now, handle(peer), &event);
                    }
                }
                Event::EncodingIdle(_) | Event::EncodingWanted(_) | Event::EncodingRate(_) => {
                    if let Some(peer) = worker.plan.silence_changed(&event) {
                        self.peer_changed(handle(peer));
                    }
                }
                Event::PeerLosing(losing) => self.loses(handle(losing.peer)),
                Event::PathMeasured(measured) => self.path_measured(now, index, &measured),
                Event::Committed(committed) => worker.plan.committed(committed.batch),
            },
        }
    }

    /// An address of a peer was validated.
    fn path(&mut self, now: Instant, handle: Handle, remote: std::net::SocketAddr) {
        if let Some(key) = self.link_at(handle) {
            return self.link_path(now, &key, remote);
        }
        let Some(peer) = self.peers.get_mut(&handle) else { return };
        peer.transport.validated(remote);
        self.peer_changed(handle);
        self.begin_handshake(now, handle, false);
        self.advance(now, handle);
    }

    /// A punted datagram.
    pub(super) fn datagram(&mut self, now: Instant, worker: usize, header: &DatagramHeader, payload: &[u8]) {
        let handle = Handle { worker, peer: header.peer };
        if let Some(key) = self.link_at(handle) {
            return self.link_datagram(now, &key, header.remote, payload);
        }
        if header.kind == DatagramKind::Data && !self.admits_data(now, handle, payload.len()) {
            return;
        }
        if !self.peers.get(&handle).is_some_and(|peer| peer.transport.is_at(header.remote)) {
            self.path(now, handle, header.remote);
            self.begin_handshake(now, handle, true);
        }
        let Some(peer) = self.peers.get_mut(&handle) else { return };
        let received = peer.transport.handle(now, payload);
        self.advance(now, handle);
        if !received.is_empty() {
            self.data_received(now, handle, &received);
        }
    }

    /// Begins a peer's handshake if it is time for it and the gate admits it.
    fn begin_handshake(&mut self, now: Instant, handle: Handle, has_datagram: bool) {
        let Some(peer) = self.peers.get_mut(&handle) else { return };
        if !peer.transport.wants_handshake(has_datagram) {
            return;
        }
        if let Err(why) = self.gate.admit(now, handle, &peer.room) {
            let room = peer.room.clone();
            return self.passed_over(now, room, why);
        }
        self.totals.handshakes_begun += 1;
        if let Err(reason) = peer.transport.begin(&self.identity, now) {
            self.transport_failed(handle, &reason);
        }
    }

    fn passed_over(&mut self, now: Instant, room: String, why: PassedOver) {
        match why {
            PassedOver::Full => self.totals.handshakes_passed_over += 1,
            PassedOver::Share => {
                self.totals.handshakes_over_share += 1;
                if self.over_share_told.is_none_or(|told| now >= told + OVER_SHARE_INTERVAL) {
                    self.over_share_told = Some(now);
                    let count = self.totals.handshakes_over_share;
                    self.happened(Happening::HandshakesOverShare { room, count });
                }
            }
        }
    }

    /// Injects what DTLS has to send, takes what became of it, and sets the clock anew.
    fn advance(&mut self, now: Instant, handle: Handle) {
        let Some(peer) = self.peers.get_mut(&handle) else { return };
        while let Some((remote, payload)) = peer.transport.poll_transmit() {
            let len = u16::try_from(payload.len()).expect("DTLS datagrams are at most 1200 bytes");
            let header = DatagramHeader { kind: DatagramKind::Dtls, peer: handle.peer, remote, len };
            self.outputs.push_back(Output::Inject { worker: handle.worker, header, payload });
        }
        while let Some(progress) = self.peers.get_mut(&handle).and_then(|peer| peer.transport.poll_progress()) {
            match progress {
                Progress::Connected(connected) => self.connected(handle, &connected),
                Progress::Failed(reason) => self.transport_failed(handle, &reason),
                Progress::Closed => self.end_peer(handle, LeaveReason::Left, false),
            }
        }
        if let Some(peer) = self.peers.get(&handle) {
            let deadline = peer.poll_timeout().map(|deadline| deadline.max(now + TIMER_MIN));
            self.timers.set(Timer::Peer(handle), deadline);
        }
    }

    /// Keys are agreed: they go down, and media may flow both ways.
    fn connected(&mut self, handle: Handle, connected: &Connected) {
        self.gate.ended(handle);
        self.totals.handshakes_completed += 1;
        let (Some(peer), Some(worker)) = (self.peers.get(&handle), self.workers.get_mut(&handle.worker)) else {
            return;
        };
        for keys in keys_of(handle.peer, connected) {
            worker.plan.want(Command::PeerKeys(keys));
        }
        let (room, since) = (peer.room.clone(), peer.since);
        if let Some(who) = self.who(handle) {
            let (after, dtls) = (self.time_since(since), connected.version.to_string());
            self.happened(Happening::Connected { who, after, dtls });
        }
        self.slots_changed(&room);
        self.journal(handle);
    }

    fn transport_failed(&mut self, handle: Handle, reason: &str) {
        self.totals.handshakes_failed += 1;
        self.end_peer_because(handle, LeaveReason::TransportFailed, true, Some(reason.to_owned()));
    }

    /// A peer's clock has come: its deadline, or a flight of DTLS to send again.
    pub(super) fn peer_due(&mut self, now: Instant, handle: Handle) {
        if let Some(key) = self.link_at(handle) {
            return self.link_due(now, &key);
        }
        let Some(peer) = self.peers.get_mut(&handle) else { return };
        if !peer.transport.is_overdue(now) {
            peer.transport.handle_timeout(now);
            self.data_due(now, handle);
            return self.advance(now, handle);
        }
        if peer.transport.is_connected() {
            self.end_peer(handle, LeaveReason::TimedOut, true);
        } else {
            self.transport_failed(handle, "ICE and DTLS did not complete in time");
        }
    }

    /// Sets a peer's clock after its transport was made or changed elsewhere.
    pub(super) fn set_clock(&mut self, handle: Handle) {
        let deadline = self.peers.get(&handle).and_then(Peer::poll_timeout);
        let earliest = self.now.map(|now| now + TIMER_MIN);
        self.timers.set(Timer::Peer(handle), deadline.map(|deadline| earliest.map_or(deadline, |at| deadline.max(at))));
    }
}
