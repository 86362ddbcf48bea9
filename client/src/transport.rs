//! The core: ICE, DTLS and SRTP of one peer on one UDP path (BUNDLE, rtcp-mux). Sans-IO.
//!
//! ```text
//! set_answer ─▶ checks (RFC 8445) ─▶ DTLS ─▶ Event::Connected ─▶ protect_rtp, receive ─▶ …
//! ```
//! The owner calls [`Transport::receive`] for each datagram and [`Transport::handle_timeout`] at
//! [`Transport::poll_timeout`], then sends all of [`Transport::poll_transmit`] and takes all of
//! [`Transport::poll_event`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use crate::dtls::{Dtls, DtlsError, DtlsEvent, Identity, Version};
use crate::ice::{Agent, Credentials};
use crate::random::Random;
use crate::sdp::Answer;
use crate::srtp::{Session, SrtpError};

/// What a datagram is, by its first bytes (RFC 7983 §7); RTCP among RTP by its packet type (RFC 5761 §4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A check, or the answer to one.
    Stun,
    /// A record of DTLS.
    Dtls,
    /// SRTP
    Rtp,
    /// SRTCP
    Rtcp,
    /// None of these.
    Unknown,
}

impl Kind {
    /// Of a datagram.
    pub fn of(datagram: &[u8]) -> Kind {
        match datagram {
            [0..=3, ..] => Kind::Stun,
            [20..=63, ..] => Kind::Dtls,
            [128..=191, 192..=223, ..] => Kind::Rtcp,
            [128..=191, _, ..] => Kind::Rtp,
            _ => Kind::Unknown,
        }
    }
}

/// What became of a datagram.
#[derive(PartialEq, Eq, Debug)]
pub enum Received<'a> {
    /// ICE or DTLS took it.
    Consumed,
    /// An RTP packet.
    Rtp(&'a mut [u8]),
    /// An RTCP compound.
    Rtcp(&'a mut [u8]),
    /// It is not used.
    Dropped(DropReason),
}

/// Why a datagram is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// Neither STUN, DTLS, RTP nor RTCP.
    Unknown,
    /// RTP or RTCP before there were keys.
    Early,
    /// RTP or RTCP that SRTP refuses.
    Srtp(SrtpError),
}

/// What the owner is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Keys are there: media may flow.
    Connected(Version),
    /// They will never be.
    Failed(DtlsError),
    /// The other end closed DTLS.
    Closed,
}

/// One peer's transport.
pub struct Transport {
    agent: Agent,
    identity: Identity,
    random: Random,
    is_seeded: bool,
    fingerprint: Option<[u8; 32]>,
    dtls: Option<Dtls>,
    session: Option<Box<Session>>,
    answers: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<Event>,
}

impl Transport {
    /// One that waits for the answer to an offer with these credentials and this identity.
    pub fn new(now: Instant, local: Credentials, identity: &Identity, mut random: Random) -> Transport {
        Transport {
            agent: Agent::new(now, local, random.fork()),
            identity: identity.clone(),
            random,
            is_seeded: false,
            fingerprint: None,
            dtls: None,
            session: None,
            answers: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// What DTLS draws for itself follows from `random`, too: for simulations and tests alone.
    pub fn seed_dtls(&mut self) {
        self.is_seeded = true;
    }

    /// Takes what the answer says of the path; checks begin.
    pub fn set_answer(&mut self, answer: &Answer) {
        self.agent.set_remote(&answer.ice);
        answer.candidates.iter().for_each(|&address| self.agent.add_candidate(address));
        self.fingerprint = Some(answer.fingerprint);
    }

    /// Takes a candidate that was trickled.
    pub fn add_candidate(&mut self, address: SocketAddr) {
        self.agent.add_candidate(address);
    }

    /// Checks and consent.
    pub fn ice(&self) -> &Agent {
        &self.agent
    }

    /// The local address changed: a check goes out from the new one at once, and SRTP and DTLS stay.
    pub fn change_address(&mut self, now: Instant) {
        self.agent.moved(now);
    }

    /// SRTP, once it has keys.
    pub fn session(&mut self) -> Option<&mut Session> {
        self.session.as_deref_mut()
    }

    /// Takes a datagram; RTP and RTCP are unprotected in place.
    pub fn receive<'a>(&mut self, now: Instant, from: SocketAddr, datagram: &'a mut [u8]) -> Received<'a> {
        let kind = Kind::of(datagram);
        if matches!(kind, Kind::Stun | Kind::Dtls) {
            self.receive_control(now, from, datagram);
            return Received::Consumed;
        }
        let Some(session) = &mut self.session else {
            return Received::Dropped(if kind == Kind::Unknown { DropReason::Unknown } else { DropReason::Early });
        };
        let unprotected = match kind {
            Kind::Rtp => session.unprotect_rtp(datagram).map(|len| Received::Rtp(&mut datagram[..len])),
            Kind::Rtcp => session.unprotect_rtcp(datagram).map(|len| Received::Rtcp(&mut datagram[..len])),
            _ => return Received::Dropped(DropReason::Unknown),
        };
        unprotected.unwrap_or_else(|error| Received::Dropped(DropReason::Srtp(error)))
    }

    /// Takes a datagram of STUN or DTLS alone: for an owner that does with media what it likes.
    pub fn receive_control(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        match Kind::of(datagram) {
            Kind::Stun => {
                let answer = self.agent.handle(now, from, datagram);
                self.answers.extend(answer.map(|answer| (from, answer)));
                self.start_dtls(now);
            }
            Kind::Dtls => {
                if let Some(dtls) = &mut self.dtls {
                    dtls.handle(now, datagram);
                    self.collect();
                }
            }
            _ => (),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(dtls) = &mut self.dtls
            && dtls.poll_timeout().is_some_and(|at| at <= now)
        {
            dtls.handle_timeout(now);
            self.collect();
        }
    }

    /// The next datagram and where it goes. Call again until None.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        if let (Some(dtls), Some(to)) = (&mut self.dtls, self.agent.selected())
            && let Some(datagram) = dtls.poll_transmit()
        {
            return Some((to, datagram));
        }
        self.agent.poll_transmit(now)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Transport::handle_timeout`] or [`Transport::poll_transmit`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let dtls = self.dtls.as_ref().and_then(Dtls::poll_timeout);
        [self.agent.poll_timeout(), dtls].into_iter().flatten().min()
    }

    /// As Chromium: with the first answered check, before nomination.
    fn start_dtls(&mut self, now: Instant) {
        if self.dtls.is_none()
            && let (Some(_), Some(fingerprint)) = (self.agent.selected(), self.fingerprint)
        {
            let seed = self.is_seeded.then(|| self.random.u64());
            self.dtls = Some(Dtls::connect(now, &self.identity, fingerprint, seed));
        }
    }

    fn collect(&mut self) {
        while let Some(event) = self.dtls.as_mut().and_then(Dtls::poll_event) {
            self.events.push_back(match event {
                DtlsEvent::Connected(version, session) => {
                    self.session = Some(session);
                    Event::Connected(version)
                }
                DtlsEvent::Failed(error) => Event::Failed(error),
                DtlsEvent::Closed => Event::Closed,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_kind() {
        let kinds = [
            (&[0, 1][..], Kind::Stun),
            (&[22, 254], Kind::Dtls),
            (&[128, 96], Kind::Rtp),
            (&[0x90, 0x80 | 111], Kind::Rtp),
            (&[128, 200], Kind::Rtcp),
            (&[128], Kind::Unknown),
            (&[77, 1], Kind::Unknown),
            (&[], Kind::Unknown),
        ];
        for (bytes, kind) in kinds {
            assert_eq!(Kind::of(bytes), kind, "{bytes:?}");
        }
    }

    #[test]
    fn media_before_keys_is_dropped_by_name() {
        let now = Instant::now();
        let mut random = Random::from_seed(1);
        let local = Credentials::generate(&mut random);
        let mut transport = Transport::new(now, local, &Identity::generate().unwrap(), random);
        let from = "127.0.0.1:1".parse().unwrap();
        assert_eq!(transport.receive(now, from, &mut [128, 96, 0, 0]), Received::Dropped(DropReason::Early));
        assert_eq!(transport.receive(now, from, &mut [77, 96]), Received::Dropped(DropReason::Unknown));
        assert_eq!((transport.poll_transmit(now), transport.poll_timeout()), (None, None));
    }
}
