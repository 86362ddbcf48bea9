//! Candidates: addresses of another edge that the controlplane knows (RFC 8445 §5.1).
//!
//! Nobody need check from there first: they are asked as long as no address of the peer answers, again and again. The first that
//! answers is selected. Neither end nominates, so each may send by another path than the other one.
//!
//! What is sent to a candidate that does not answer is one check a second, and nothing else: the limit of three times the bytes
//! that came from there holds for all but the checks.

use std::net::SocketAddr;

use proto::plane::PEER_CANDIDATES_MAX;
use proto::stun::TransactionId;

use super::{Check, Due, Known, Paths};
use crate::config::{CANDIDATE_INTERVAL_MAX, CHECK_INTERVAL, CONSENT_TIMEOUT, Micros, PEER_PATHS_MAX};
use crate::path::Path;

const _: () = assert!(PEER_CANDIDATES_MAX + 1 < PEER_PATHS_MAX, "there is room for addresses that check, too");

/// What a known address is as a candidate.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    place: u8,
    /// Rounds of checks that it has not answered since it last did.
    rounds: u8,
}

impl Candidate {
    /// How long an answer to a check is waited for before it is sent again.
    pub(super) fn pause(self, tries: u8) -> Micros {
        let pause = if self.rounds == 0 { CHECK_INTERVAL << tries } else { CANDIDATE_INTERVAL_MAX };
        pause.min(CANDIDATE_INTERVAL_MAX)
    }

    /// It has answered none of the checks of a round.
    pub(super) fn unanswered(&mut self) -> Due {
        self.rounds = self.rounds.saturating_add(1);
        Due::Silent { place: self.place, rounds: self.rounds }
    }

    pub(super) fn answered(&mut self) {
        self.rounds = 0;
    }
}

impl Paths {
    /// Whether the peer is another edge.
    #[inline]
    pub(crate) fn has_candidates(&self) -> bool {
        self.candidates > 0
    }

    /// These are the candidates from now on, by their numbers. What is known of those that were it before stays; addresses that are
    /// known no more are to be unbound.
    pub(crate) fn set_candidates(&mut self, told: &[(u8, Path)], now: Micros) -> [Option<Path>; PEER_PATHS_MAX] {
        let mut gone = [None; PEER_PATHS_MAX];
        let mut places = gone.iter_mut();
        let mut at = 0;
        while let Some(known) = self.known.get_mut(at) {
            let place = told.iter().find(|(_, path)| *path == known.path).map(|(place, _)| *place);
            if let (None, Some(_)) = (place, known.candidate) {
                let before = self.known.swap_remove(at).path;
                if self.selected == Some(before) {
                    self.selected = None;
                    self.has_answered = false;
                }
                places.next().into_iter().for_each(|place| *place = Some(before));
                continue;
            }
            if let Some(place) = place {
                known.candidate.get_or_insert(Candidate { place, rounds: 0 }).place = place;
            }
            at += 1;
        }
        for &(place, path) in told {
            if self.known(path).is_none() {
                let evicted = self.make_room();
                places.next().into_iter().for_each(|place| *place = evicted);
                let candidate = Some(Candidate { place, rounds: 0 });
                self.known.push(Known { candidate, ..Known::new(path, now) });
            }
        }
        self.candidates = told.len() as u8;
        if self.has_candidates() {
            self.has_lapsed = false;
            self.began.get_or_insert(now);
        }
        gone
    }

    /// The candidate of this number has not answered in so many rounds of checks.
    pub(crate) fn set_rounds(&mut self, place: u8, rounds: u8) {
        let candidates = self.known.iter_mut().filter_map(|known| known.candidate.as_mut());
        candidates.filter(|of| of.place == place).for_each(|of| of.rounds = rounds);
    }

    /// The candidate with this address, by whichever socket, in this flow of another edge.
    pub(crate) fn candidate_to(&self, remote: SocketAddr, relay: u64) -> Option<Path> {
        let is_there = |known: &&Known| known.path.remote == remote && known.path.relay() == relay;
        self.known.iter().filter(|known| known.candidate.is_some()).find(is_there).map(|known| known.path)
    }

    /// Packets go to this candidate from now on, which has answered lately. False if it is none, or they do already.
    pub(crate) fn use_candidate(&mut self, path: Path) -> bool {
        if !self.is_candidate(path) || self.selected() == Some(path) {
            return false;
        }
        let before = self.selected.replace(path);
        if let Some(before) = before.and_then(|before| self.known_mut(before)) {
            before.check = None;
        }
        self.has_answered = true;
        self.stop_asking_candidates();
        true
    }

    /// Begins to ask a candidate, under this id: in the first round those of higher numbers a little later, so that the preferred one
    /// is used where all answer.
    pub(crate) fn begin_asking(&mut self, path: Path, id: TransactionId, now: Micros) {
        let Some(Candidate { place, rounds }) = self.known(path).and_then(|known| known.candidate) else { return };
        let before = self.known.iter().filter_map(|known| known.candidate).filter(|of| of.place < place).count();
        let wait = if rounds == 0 { before as Micros * CHECK_INTERVAL } else { 0 };
        if let Some(known) = self.known_mut(path) {
            known.check = Some(Check { id, tries: 0, next_at: now + wait });
        }
    }

    /// A candidate that is to be asked: [`Paths::begin_check`].
    pub(crate) fn candidate_to_ask(&self) -> Option<Path> {
        let is_idle = |known: &&Known| known.candidate.is_some() && known.check.is_none();
        let is_wanted = !(self.selected.is_some() && self.has_answered);
        self.known.iter().find(is_idle).filter(|_| is_wanted).map(|known| known.path)
    }

    pub(super) fn stop_asking_candidates(&mut self) {
        let selected = self.selected;
        let others = self.known.iter_mut().filter(|known| known.candidate.is_some() && Some(known.path) != selected);
        others.for_each(|known| known.check = None);
    }

    /// The selected path does not answer any more. Nothing is sent there, and all candidates are asked, until one answers; when
    /// that is looked at again.
    pub(super) fn ask_anew(&mut self, now: Micros) -> Micros {
        self.selected = None;
        self.has_answered = false;
        self.began = Some(now);
        self.known.iter_mut().filter(|known| known.candidate.is_some()).for_each(|known| known.check = None);
        now + CONSENT_TIMEOUT
    }

    /// Whether a check of ours may be sent to `path` without an answer or bytes from there.
    pub(crate) fn is_candidate(&self, path: Path) -> bool {
        self.known(path).is_some_and(|known| known.candidate.is_some())
    }
}
