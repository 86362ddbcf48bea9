//! ICE and consent: the peer's checks are answered, its addresses are asked, and datagrams pass from and for the controlplane.
//!
//! Between edges both are full agents, and the roles mean nothing, because neither nominates ([`crate::paths`]). To others
//! we are ICE-lite (RFC 8445 §2.5): the peer gathers, checks and nominates. What a lite agent leaves out is done here all the
//! same, because the downlink of a call is worth an attack: an address is asked by a check of ours before anything but the
//! handshake goes there, and again for as long as media does (RFC 7675). Every full agent answers (RFC 8445 §7.3), in the
//! controlling role as well. What is believed of an address is in [`crate::paths`].

use proto::id::PeerId;
use proto::plane::{Counter, DATAGRAM_LEN_MAX, DatagramHeader, DatagramKind, PeerExpired, PeerPath};
use proto::stun;

use super::{Forwarder, IntoReport, arm_reports};
use crate::config::{CHECK_INTERVAL, CHECK_LEN_MAX, CONSENT_INTERVAL, Micros, PATH_HELD};
use crate::outbox::Outbox;
use crate::path::{Destination, Path};
use crate::paths::{Consent, Due};
use crate::punt::{is_application_data, is_dtls_record};
use crate::timer::Timer;
use crate::transport::Transport;

/// PRIORITY of our checks: that of a peer-reflexive candidate (RFC 8445 §7.1.1).
const CHECK_PRIORITY: u32 = 110 << 24 | 65_535 << 8 | 255;

impl Forwarder {
    /// An authentic packet of a peer is a sign of life if it came by the selected path; by its fate it was one.
    #[inline]
    pub(super) fn note_heard(
        &mut self,
        now: Micros,
        peer: u32,
        (path, len): (Path, usize),
        fate: Counter,
        out: &mut Outbox,
    ) {
        if matches!(fate, Counter::Forwarded | Counter::Consumed)
            && let Some(transport) = self.peers.at_mut(peer)
            && !transport.is_expired
            && transport.paths.heard(path, len, now)
        {
            self.peer_heard(peer, out);
        }
    }

    /// Sends a datagram of the controlplane to an address that the peer has checked from, as long as it consents.
    pub fn inject(&mut self, now: Micros, header: &DatagramHeader, payload: &[u8], out: &mut Outbox) {
        let PeerId { index, generation } = header.peer;
        let peer = self.peers.find_mut(index, generation).filter(|peer| !peer.is_expired);
        let path = peer.and_then(|peer| {
            let path = peer.paths.path_to(header.remote)?;
            peer.paths.may_send(path, payload.len(), now).then_some(path)
        });
        let Some(path) = path else {
            self.count(Counter::InjectRefused, 1);
            return;
        };
        let is_sent = out.push_public(Destination::new(index, path), |frame| {
            frame[..payload.len()].copy_from_slice(payload);
            payload.len()
        });
        // The outbox counts what it refuses.
        self.count(Counter::Injected, u64::from(is_sent));
    }

    /// Whether a peer's authenticated check has bound this path to it.
    pub fn is_owned(&self, path: Path) -> bool {
        self.demux.peer_at(path).is_some()
    }

    /// A connection has ended, and with it its path.
    pub fn path_closed(&mut self, now: Micros, path: Path, out: &mut Outbox) {
        let Some(index) = self.demux.peer_at(path) else { return };
        self.demux.unbind(path, index);
        if self.peers.at_mut(index).is_some_and(|transport| transport.paths.closed(path, now)) {
            self.report_path(index, out);
        }
        self.link_moved(now, index, out);
    }

    /// STUN of a peer: its checks, and its answers to ours.
    pub(super) fn receive_stun(&mut self, now: Micros, path: Path, bytes: &[u8], out: &mut Outbox) -> Counter {
        let Ok(message) = stun::Message::parse(bytes) else { return Counter::DroppedStunMalformed };
        match message.class() {
            stun::Class::Request if message.is_binding_request() => self.receive_check(now, path, bytes, &message, out),
            stun::Class::Success | stun::Class::Error if message.method() == stun::BINDING => {
                self.receive_answer(now, path, &message, out)
            }
            // Indications keep bindings alive (RFC 8445 §11) and prove nothing.
            _ => Counter::DroppedStunMalformed,
        }
    }

    /// A STUN Binding request for a known transport is answered here. It binds its address to the peer (RFC 8445 §7.3), and may
    /// want it selected; whether it is, its answer decides.
    fn receive_check(
        &mut self,
        now: Micros,
        path: Path,
        bytes: &[u8],
        message: &stun::Message<'_>,
        out: &mut Outbox,
    ) -> Counter {
        let ours = message.username().and_then(|name| name.split(|&b| b == b':').next());
        let Some(index) = ours.and_then(|ufrag| self.demux.peer_named(ufrag)) else {
            return Counter::DroppedStunUnknownUfrag;
        };
        let transport = self.peers.at_mut(index).filter(|transport| transport.edge_open().is_none());
        let Some(transport) = transport else { return Counter::DroppedStunUnknownUfrag };
        if (message.has_fingerprint() && !message.check_fingerprint()) || !message.check_integrity(&transport.integrity)
        {
            return Counter::DroppedStunIntegrity;
        }
        let id = message.transaction_id();
        let error = match () {
            () if !message.unknown_attributes().is_empty() => Some(stun::ErrorCode::UnknownAttribute),
            // We are ICE-lite and always controlled (RFC 8445 §6.1.1, §7.3.1.1). Another edge says the same of itself.
            () if message.ice_controlled().is_some() && !transport.paths.has_candidates() => {
                Some(stun::ErrorCode::RoleConflict)
            }
            () => None,
        };
        if let Some(code) = error {
            // It is shorter than three times any request with MESSAGE-INTEGRITY, so it needs no credit.
            let (key, unknown) = (&transport.integrity, message.unknown_attributes());
            out.push_public(Destination::new(index, path), |frame| {
                let writer = stun::Writer::binding_error(frame, id, code);
                let writer = if unknown.is_empty() { writer } else { writer.unknown_attributes(unknown) };
                writer.integrity(key).fingerprint().finish().unwrap_or(0)
            });
            return Counter::Consumed;
        }
        if transport.is_expired {
            // Consent that was lost is not taken back by a check with the same credentials (RFC 7675 §5.1).
            return Counter::DroppedStunUnknownUfrag;
        }
        let holder = self.demux.peer_at(path).filter(|holder| *holder != index);
        let held = holder.and_then(|holder| self.peers.at(holder)).and_then(|holder| holder.paths.path_heard_at(path));
        if held.is_some_and(|at| now < at + PATH_HELD) {
            return Counter::DroppedStunPathTaken;
        }
        let Some(transport) = self.peers.at_mut(index) else { return Counter::DroppedStunUnknownUfrag };
        let checked = transport.paths.checked(path, bytes.len(), message.use_candidate(), now);
        if checked.is_to_be_asked {
            transport.paths.begin_check(path, self.transaction_ids.next(), now);
        }
        if !std::mem::replace(&mut transport.is_consent_timer_set, true) {
            self.timers.set(now + CONSENT_INTERVAL, Timer::Consent { peer: transport.id });
        }
        if let Some(old) = checked.evicted {
            self.demux.unbind(old, index);
        }
        self.demux.bind(path, index);
        let is_sent = self.send_stun(now, index, path, out, |transport, out| {
            let writer = stun::Writer::binding_success(out, id, path.remote);
            writer.integrity(&transport.integrity).fingerprint().finish()
        });
        self.count(Counter::BindingAnswered, u64::from(is_sent));
        if checked.is_nominated {
            self.report_path(index, out);
        }
        self.peer_heard(index, out);
        match self.assumes_consent {
            true => self.address_answered(now, index, path, out),
            false => self.send_due_checks(now, index, out),
        }
        Counter::Consumed
    }

    /// A response, which counts if it answers a check of ours from that very address, and is the peer's: both sides key it with
    /// the peer's password (RFC 8445 §7.2.5). An error says no.
    fn receive_answer(&mut self, now: Micros, path: Path, message: &stun::Message<'_>, out: &mut Outbox) -> Counter {
        let Some(index) = self.demux.peer_at(path) else { return Counter::DroppedUnknownAddress };
        let Some(transport) = self.peers.at_mut(index) else { return Counter::DroppedUnknownAddress };
        let id = message.transaction_id();
        let is_probe = transport.edge.as_ref().is_some_and(|edge| edge.probing.expects(path, id));
        let is_expected = is_probe || transport.paths.expects(path, id);
        let Some(remote) = transport.remote.as_ref().filter(|_| is_expected && !transport.is_expired) else {
            return Counter::DroppedStunUnexpected;
        };
        if (message.has_fingerprint() && !message.check_fingerprint()) || !message.check_integrity(&remote.key) {
            return Counter::DroppedStunIntegrity;
        }
        if message.class() == stun::Class::Error {
            return Counter::Consumed;
        }
        if is_probe {
            let is_answer = self.probe_answered(now, index, path, id, out);
            return if is_answer { Counter::Consumed } else { Counter::DroppedStunUnexpected };
        }
        self.count(Counter::ChecksAnswered, 1);
        self.peer_heard(index, out);
        self.address_answered(now, index, path, out);
        Counter::Consumed
    }

    /// Media may go to an address of a peer, and does if it is selected now.
    pub(super) fn address_answered(&mut self, now: Micros, index: u32, path: Path, out: &mut Outbox) {
        let Some(transport) = self.peers.at_mut(index) else { return };
        if transport.paths.answered(path, now) {
            self.report_path(index, out);
            self.became_ready(now, index, out);
            self.candidates_changed(now, index, out);
        }
    }

    pub(super) fn report_path(&mut self, index: u32, out: &mut Outbox) {
        let Some(transport) = self.peers.at(index) else { return };
        let Some(path) = transport.paths.selected() else { return };
        let nominated = u8::from(transport.paths.is_nominated());
        out.report(PeerPath { peer: transport.id, remote: path.remote, nominated }.into_report());
    }

    /// The time has come to ask again.
    pub(super) fn checks_due(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        if let Some(transport) = self.peers.at_mut(index) {
            transport.is_check_timer_set = false;
            self.send_due_checks(now, index, out);
        }
    }

    /// Asks the addresses of a peer that are to be asked, for the first time or again.
    pub(super) fn send_due_checks(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        if self.peers.at(index).is_some_and(|transport| transport.remote.is_some()) {
            self.ask_candidates(now, index);
        }
        while let Some(due) = self.peers.at_mut(index).and_then(|transport| transport.paths.poll_due(now)) {
            match due {
                Due::Send(path, id) => self.send_check(now, index, path, id, out),
                Due::Unanswered => self.count(Counter::PathsUnanswered, 1),
                Due::Silent { place, rounds } => {
                    self.set_candidates(now, index, Some((place, rounds)));
                    self.ask_candidates(now, index);
                }
            }
        }
        let probe_at = self.probe_link(now, index, out);
        let Some(transport) = self.peers.at_mut(index) else { return };
        let is_wanted = (transport.paths.is_asking() || probe_at.is_some()) && !transport.is_expired;
        if is_wanted && !std::mem::replace(&mut transport.is_check_timer_set, true) {
            self.timers.set(probe_at.unwrap_or(now + CHECK_INTERVAL), Timer::Check { peer: transport.id });
        }
    }

    /// A Binding request of ours (RFC 8445 §7.2.2).
    fn send_check(&mut self, now: Micros, index: u32, path: Path, id: stun::TransactionId, out: &mut Outbox) {
        let is_sent = self.send_binding(now, index, path, id, out);
        self.count(Counter::ChecksSent, u64::from(is_sent));
    }

    /// The same, or a probe. False if nothing was sent.
    pub(super) fn send_binding(
        &mut self,
        now: Micros,
        index: u32,
        path: Path,
        id: stun::TransactionId,
        out: &mut Outbox,
    ) -> bool {
        let tie_breaker = self.tie_breaker;
        self.send_stun(now, index, path, out, |transport, out| {
            let remote = transport.remote.as_ref()?;
            let writer = stun::Writer::binding_request(out, id).username(&remote.username);
            let writer = writer.priority(CHECK_PRIORITY).ice_controlled(tie_breaker);
            writer.integrity(&remote.key).fingerprint().finish()
        })
    }

    /// Sends a message to an address of a peer if it may be sent so much, as a candidate always may, by the pace of its checks and of
    /// those that are answered. False if nothing was sent.
    fn send_stun(
        &mut self,
        now: Micros,
        index: u32,
        path: Path,
        out: &mut Outbox,
        write: impl FnOnce(&Transport, &mut [u8]) -> Option<usize>,
    ) -> bool {
        let mut bytes = [0; CHECK_LEN_MAX];
        let Some(transport) = self.peers.at_mut(index) else { return false };
        let Some(len) = write(transport, &mut bytes) else { return false };
        (transport.paths.may_send(path, len, now) || transport.paths.is_candidate(path))
            && out.push_public(Destination::new(index, path), |frame| {
                frame[..len].copy_from_slice(&bytes[..len]);
                len
            })
    }

    /// Asks the selected path for its consent, and ends what has not been answered for too long.
    pub(super) fn check_consent(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        let transport = self.peers.at_mut(index).filter(|transport| transport.edge_open().is_none());
        let Some(transport) = transport else { return };
        let was_selected = transport.paths.selected().is_some();
        let consent = transport.paths.review_consent(now);
        let has_lapsed = was_selected && transport.paths.selected().is_none();
        let Consent::Until(ends) = consent else {
            transport.is_consent_timer_set = false;
            if !transport.is_expired {
                transport.is_expired = true;
                out.report(PeerExpired { peer: transport.id }.into_report());
            }
            return;
        };
        // 0.8 to 1.2 of the interval, so that those of many peers spread (RFC 7675 §5.1).
        let wait = CONSENT_INTERVAL * 4 / 5 + self.transaction_ids.number() % (CONSENT_INTERVAL * 2 / 5);
        self.timers.set(ends.min(now + wait), Timer::Consent { peer: transport.id });
        let id = self.transaction_ids.next();
        if let Some(path) = transport.paths.begin_consent(id, now) {
            self.send_check(now, index, path, id, out);
        }
        self.count(Counter::ConsentsLapsed, u64::from(has_lapsed));
        if has_lapsed {
            self.link_moved(now, index, out);
            self.candidates_changed(now, index, out);
        }
    }

    /// DTLS goes up to the controlplane, rate-limited: only from addresses that an authentic check came from.
    pub(super) fn receive_dtls(
        &mut self,
        now: Micros,
        peer: u32,
        path: Path,
        bytes: &[u8],
        out: &mut Outbox,
    ) -> Counter {
        if !is_dtls_record(bytes) || bytes.len() > DATAGRAM_LEN_MAX {
            return Counter::DroppedDtlsMalformed;
        }
        let Some(transport) = self.peers.at_mut(peer) else { return Counter::DroppedUnknownAddress };
        transport.paths.received(path, bytes.len());
        transport.paths.punted(path);
        // Data is policed apart, so that a flood of it keeps nobody's handshake waiting.
        let is_data = is_application_data(bytes) && transport.has_keys();
        let (kind, its, all) = match is_data {
            true => (DatagramKind::Data, &mut transport.data_punts, &mut self.data_punts),
            false => (DatagramKind::Dtls, &mut transport.punts, &mut self.punts),
        };
        if !its.take(now) || !all.take(now) {
            return Counter::DroppedPuntRate;
        }
        let header = DatagramHeader { kind, peer: transport.id, remote: path.remote, len: bytes.len() as u16 };
        if out.punt(header, bytes) { Counter::Punted } else { Counter::DroppedPuntFull }
    }

    /// A peer got its keys or its path: what waits for a keyframe on its behalf is asked for now, and its reports
    /// begin.
    pub(super) fn became_ready(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        let Some(transport) = self.peers.at_mut(peer) else { return };
        // A link has no keys, and may fall silent all the same.
        let is_link = transport.paths.has_candidates() && transport.paths.selected().is_some();
        if transport.outgoing().is_none() && !is_link {
            return;
        }
        arm_reports(transport, &mut self.timers, now);
        for at in 0..transport.slots.len() {
            let Some((_, slot)) = self.peers.at(peer).and_then(|t| t.slots.get(at)).copied() else { return };
            let live = self.slots.at(slot).and_then(|slot| slot.choice.live);
            let route = live.and_then(|route| self.routes.at(route));
            let Some(stream) = route.map(|r| r.open.stream.index) else { continue };
            if self.streams.at(stream).is_some_and(|stream| stream.awaits_keyframe(slot)) {
                self.want_keyframe(now, stream, out);
            }
        }
    }
}
