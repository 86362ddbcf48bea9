//! Candidates: addresses of another edge that the controlplane knows (RFC 8445 §5.1).
//!
//! Nobody need check from there first: they are asked as long as no address of the peer answers, again and again. The first that
//! answers is selected. Neither end nominates, so each may send by another path than the other one.
//!
//! What is sent to a candidate that does not answer is one check a second, and nothing else: the limit of three times the bytes
//! that came from there holds for all but the checks.

use proto::plane::PEER_CANDIDATES_MAX;

use super::{Due, Known, Paths};
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

/// What a candidate's change means for others.
#[derive(Default)]
pub(crate) struct Placed {
    /// Addresses that are known no more: unbind them.
    pub(crate) gone: [Option<Path>; 2],
}

impl Paths {
    /// Whether the peer is another edge.
    #[inline]
    pub(crate) fn has_candidates(&self) -> bool {
        self.candidates > 0
    }

    /// `path` is the candidate of this number from now on, or there is none. The number has not answered in so many rounds.
    pub(crate) fn place_candidate(&mut self, place: u8, path: Option<Path>, rounds: u8, now: Micros) -> Placed {
        let mut placed = Placed::default();
        let is_there = |known: &Known| known.candidate.is_some_and(|of| of.place == place);
        if let Some(at) = self.known.iter().position(|known| is_there(known) && Some(known.path) != path) {
            let before = self.known.swap_remove(at).path;
            if self.selected == Some(before) {
                self.selected = None;
                self.has_answered = false;
            }
            placed.gone[0] = Some(before);
        }
        if let Some(path) = path {
            if self.known(path).is_none() {
                placed.gone[1] = self.make_room();
                self.known.push(Known::new(path, now));
            }
            let known = self.known_mut(path).expect("it is known from here on");
            known.candidate = Some(Candidate { place, rounds });
        }
        self.candidates = self.known.iter().filter(|known| known.candidate.is_some()).count() as u8;
        if self.has_candidates() {
            self.has_lapsed = false;
            self.began.get_or_insert(now);
        }
        placed
    }

    /// The candidate of this number.
    #[inline]
    pub(crate) fn candidate(&self, place: u8) -> Option<Path> {
        let is_there = |known: &&Known| known.candidate.is_some_and(|of| of.place == place);
        self.known.iter().find(is_there).map(|known| known.path)
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
