//! A small ICE agent: full, controlling, one local address at a time (RFC 8445). Sans-IO.
//!
//! It behaves as Chromium toward an ICE-lite server: a first check without USE-CANDIDATE, one with it after the first
//! success, then a check every 2.5 s, which is also its consent (RFC 7675).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::stun::{Class, IntegrityKey, Message, TransactionId, Writer};

use crate::random::Random;

/// Between two checks while no pair is nominated (Ta of RFC 8445 §14.2).
const PACE: Duration = Duration::from_millis(50);
/// Between two checks of the nominated pair.
const CONSENT_INTERVAL: Duration = Duration::from_millis(2500);
/// Without an answer for this long, consent is lost (RFC 7675 §5.1).
const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Checks that wait for an answer; older ones are forgotten.
const PENDING_MAX: usize = 64;

/// User name fragment and password of one end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// `a=ice-ufrag`
    pub ufrag: String,
    /// `a=ice-pwd`
    pub pwd: String,
}

impl Credentials {
    /// Fresh ones, of Chromium's lengths.
    pub fn generate(random: &mut Random) -> Credentials {
        const CHARACTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let characters = |bytes: &[u8]| bytes.iter().map(|b| char::from(CHARACTERS[usize::from(b & 63)])).collect();
        Credentials { ufrag: characters(&random.bytes::<4>()), pwd: characters(&random.bytes::<24>()) }
    }
}

struct Remote {
    username: Vec<u8>,
    key: IntegrityKey,
}

struct Check {
    to: SocketAddr,
    sent_at: Instant,
    is_nominating: bool,
}

/// One end's checks and consent. The caller owns the socket and the clock.
pub struct Agent {
    local: Credentials,
    remote: Option<Remote>,
    candidates: Vec<SocketAddr>,
    tie_breaker: u64,
    random: Random,
    pending: HashMap<TransactionId, Check>,
    next_check: Instant,
    turn: usize,
    selected: Option<SocketAddr>,
    is_nominated: bool,
    answered_at: Option<Instant>,
    mapped: Option<SocketAddr>,
    checks: u64,
    answers: u64,
}

impl Agent {
    /// An agent that waits for the answer.
    pub fn new(now: Instant, local: Credentials, mut random: Random) -> Agent {
        Agent {
            local,
            remote: None,
            candidates: Vec::new(),
            tie_breaker: random.u64(),
            random,
            pending: HashMap::new(),
            next_check: now,
            turn: 0,
            selected: None,
            is_nominated: false,
            answered_at: None,
            mapped: None,
            checks: 0,
            answers: 0,
        }
    }

    /// Takes the other end's credentials from the answer; checks begin with the first candidate.
    pub fn set_remote(&mut self, remote: &Credentials) {
        let username = format!("{}:{}", remote.ufrag, self.local.ufrag).into_bytes();
        self.remote = Some(Remote { username, key: IntegrityKey::new(remote.pwd.as_bytes()) });
    }

    /// Adds a candidate, from the answer or trickled; a known one is not doubled.
    pub fn add_candidate(&mut self, address: SocketAddr) {
        if !self.candidates.contains(&address) {
            self.candidates.push(address);
        }
    }

    /// The local address changed: what was asked from the old one counts no more, and a check goes out at once.
    pub fn moved(&mut self, now: Instant) {
        self.pending.clear();
        self.is_nominated = false;
        self.mapped = None;
        self.next_check = now;
    }

    /// The check that is due, if any. Call again until None.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        let remote = self.remote.as_ref()?;
        if now < self.next_check || self.candidates.is_empty() {
            return None;
        }
        let to = self.selected.unwrap_or_else(|| self.candidates[self.turn % self.candidates.len()]);
        self.turn += 1;
        self.next_check = now + if self.is_nominated { CONSENT_INTERVAL } else { PACE };

        let id = TransactionId(self.random.bytes());
        let mut bytes = vec![0; 256];
        let is_nominating = self.selected.is_some();
        let mut writer = Writer::binding_request(&mut bytes, id).username(&remote.username);
        if is_nominating {
            writer = writer.use_candidate();
        }
        // Type preference 110: what a check would make known is a peer-reflexive candidate (RFC 8445 §7.1.1).
        let priority = (110 << 24) | (65_535 << 8) | 255;
        let writer = writer.ice_controlling(self.tie_breaker).priority(priority);
        let len = writer.integrity(&remote.key).fingerprint().finish().expect("a check fits into 256 bytes");
        bytes.truncate(len);

        if self.pending.len() >= PENDING_MAX {
            self.pending.clear();
        }
        self.pending.insert(id, Check { to, sent_at: now, is_nominating });
        self.checks += 1;
        Some((to, bytes))
    }

    /// Takes a STUN datagram. A request is answered (RFC 8445 §7.3), for a full agent must; the bytes go back to `from`.
    pub fn handle(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        let message = Message::parse(datagram).ok()?;
        match message.class() {
            Class::Request => return self.answer(from, &message),
            Class::Success => self.handle_success(now, from, &message),
            Class::Error | Class::Indication => (),
        }
        None
    }

    fn handle_success(&mut self, now: Instant, from: SocketAddr, message: &Message<'_>) {
        let Some(remote) = &self.remote else { return };
        if !message.check_integrity(&remote.key) || !message.check_fingerprint() {
            return;
        }
        // Symmetric addresses are required (RFC 8445 §7.2.5.2.1).
        let Some(check) = self.pending.remove(&message.transaction_id()).filter(|check| check.to == from) else {
            return;
        };
        self.answers += 1;
        self.answered_at = self.answered_at.max(Some(check.sent_at));
        self.mapped = message.mapped_address();
        self.is_nominated |= check.is_nominating;
        if self.selected.is_none() {
            self.selected = Some(from);
            self.next_check = now;
        } else if self.is_nominated {
            self.next_check = now + CONSENT_INTERVAL;
        }
    }

    fn answer(&self, from: SocketAddr, request: &Message<'_>) -> Option<Vec<u8>> {
        let key = IntegrityKey::new(self.local.pwd.as_bytes());
        if !request.is_binding_request() || !request.check_integrity(&key) {
            return None;
        }
        let mut bytes = vec![0; 128];
        let writer = Writer::binding_success(&mut bytes, request.transaction_id(), from);
        let len = writer.integrity(&key).fingerprint().finish().expect("an answer fits into 128 bytes");
        bytes.truncate(len);
        Some(bytes)
    }

    /// When [`Agent::poll_transmit`] has something again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (self.remote.is_some() && !self.candidates.is_empty()).then_some(self.next_check)
    }

    /// The other end's address, once a check was answered: DTLS and media go there.
    pub fn selected(&self) -> Option<SocketAddr> {
        self.selected
    }

    /// How the other end sees our present address; None until it answered a check from there.
    pub fn mapped(&self) -> Option<SocketAddr> {
        self.mapped
    }

    /// Whether the other end had consented once and does no more.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.answered_at.is_some_and(|at| now.duration_since(at) > CONSENT_TIMEOUT)
    }

    /// Checks sent and checks answered.
    pub fn counts(&self) -> (u64, u64) {
        (self.checks, self.answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs two agents against each other over a perfect network until nothing is due before `end`.
    fn run(now: &mut Instant, end: Instant, ours: &mut Agent, from: SocketAddr, theirs: &mut Agent, at: SocketAddr) {
        while *now < end {
            while let Some((to, check)) = ours.poll_transmit(*now) {
                assert_eq!(to, at);
                if let Some(answer) = theirs.handle(*now, from, &check) {
                    ours.handle(*now, at, &answer);
                }
            }
            *now = ours.poll_timeout().unwrap();
        }
    }

    fn pair(now: Instant) -> (Agent, SocketAddr, Agent, SocketAddr) {
        let mut random = Random::from_seed(1);
        let (local, remote) = (Credentials::generate(&mut random), Credentials::generate(&mut random));
        let (from, at) = ("127.0.0.1:1000".parse().unwrap(), "127.0.0.1:2000".parse().unwrap());
        let mut ours = Agent::new(now, local.clone(), random.fork());
        ours.set_remote(&remote);
        ours.add_candidate(at);
        ours.add_candidate(at);
        let mut theirs = Agent::new(now, remote, random.fork());
        theirs.set_remote(&local);
        (ours, from, theirs, at)
    }

    #[test]
    fn nominates_after_the_first_answer_and_then_keeps_consent() {
        let mut now = Instant::now();
        let (mut ours, from, mut theirs, at) = pair(now);
        let (_, first) = ours.poll_transmit(now).unwrap();
        assert!(!Message::parse(&first).unwrap().use_candidate());
        let answer = theirs.handle(now, from, &first).unwrap();
        ours.handle(now, at, &answer);
        assert_eq!((ours.selected(), ours.mapped()), (Some(at), Some(from)));
        let (_, second) = ours.poll_transmit(now).unwrap();
        assert!(Message::parse(&second).unwrap().use_candidate());
        let end = now + Duration::from_secs(10);
        run(&mut now, end, &mut ours, from, &mut theirs, at);
        let (checks, answers) = ours.counts();
        assert!((5..=8).contains(&checks), "{checks} checks in ten seconds");
        // The second was never answered here.
        assert_eq!(answers, checks - 1);
        assert!(!ours.is_expired(now));
        assert!(ours.is_expired(now + CONSENT_TIMEOUT * 2));
    }

    #[test]
    fn asks_at_once_from_a_new_address() {
        let mut now = Instant::now();
        let (mut ours, from, mut theirs, at) = pair(now);
        let end = now + Duration::from_secs(3);
        run(&mut now, end, &mut ours, from, &mut theirs, at);
        ours.moved(now);
        assert_eq!((ours.selected(), ours.mapped()), (Some(at), None));
        let moved = "127.0.0.1:1001".parse().unwrap();
        let (_, check) = ours.poll_transmit(now).unwrap();
        let answer = theirs.handle(now, moved, &check).unwrap();
        ours.handle(now, at, &answer);
        assert_eq!(ours.mapped(), Some(moved));
    }

    #[test]
    fn an_answer_with_a_wrong_key_or_from_elsewhere_is_none() {
        let now = Instant::now();
        let (mut ours, from, mut theirs, at) = pair(now);
        let (_, check) = ours.poll_transmit(now).unwrap();
        let answer = theirs.handle(now, from, &check).unwrap();
        let mut forged = answer.clone();
        forged[30] ^= 1;
        ours.handle(now, at, &forged);
        ours.handle(now, "127.0.0.1:9".parse().unwrap(), &answer);
        assert_eq!(ours.selected(), None);
    }
}
