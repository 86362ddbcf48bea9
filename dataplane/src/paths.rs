//! The addresses of one peer: from which of them its checks came, which of them answer, and where its packets go.
//!
//! A check proves who wrote it, and not where from: whoever has seen one can send it again under any source address, and the
//! peer itself can write what it likes there. So an address is believed when it has answered a check of ours, whose
//! transaction id nobody else knows (RFC 8445 §7.3.1.4 triggered checks; RFC 7675):
//!
//! - The first check selects its path, a later one with USE-CANDIDATE wants another one selected (RFC 8445 §7.3.1.5). Either
//!   is asked at once. Media goes there after its answer, one round trip later; until then it goes where it went before.
//! - Of several that answer, the one that was nominated last is selected. But a TCP connection (RFC 6544) does not take over from
//!   a UDP address that works: agents that nominate every pair (RFC 5245 §8.1.1.2) mean the one of the highest priority, and a
//!   lost packet of TCP delays all that follow.
//! - A connection that has ended is forgotten at once.
//! - An address that has not answered is sent at most three times the bytes that came from it (RFC 9000 §8.1): answers to its
//!   checks, our own check, and the flights of DTLS.
//! - The selected path is asked again each five seconds or so. What keeps consent is its answer, and nothing else: checks and
//!   media from there do not say that anything arrives there, and checks from another address say nothing of this one.
//! - Of another edge the controlplane knows addresses beforehand ([`candidates`]). They are asked as long as no address answers.
//! - Without consent no media goes there any more, until other credentials are in use (RFC 7675 §5.1). If media still comes from
//!   there (authentic and fresh, so it is nobody's repetition), the peer stays, and is sent reports within three times of what
//!   comes: ffmpeg's WHIP muxer publishes for hours, and answers no check once it has connected.

mod candidates;

use std::net::SocketAddr;

use proto::stun::TransactionId;

use self::candidates::Candidate;
use crate::config::{
    CHECK_INTERVAL, CHECK_TRIES_MAX, CONSENT_TIMEOUT, HEARD_INTERVAL, Micros, PEER_PATHS_MAX, UDP_QUIET,
    UDP_UNANSWERED, UNANSWERED_FACTOR,
};
use crate::path::Path;

/// A check of ours that is under way.
#[derive(Clone, Copy)]
struct Check {
    id: TransactionId,
    tries: u8,
    /// When it is sent again, or given up.
    next_at: Micros,
}

/// An address from which an authenticated check came, or that is a candidate.
struct Known {
    path: Path,
    /// When a check, or on the selected path an authentic packet, last came from it.
    heard_at: Micros,
    /// When it last answered a check of ours.
    answered_at: Option<Micros>,
    /// Number of the newest check from it with USE-CANDIDATE, among all of the peer; 0 for none.
    nomination: u32,
    /// Bytes that may be sent to it while it has not answered.
    credit: u32,
    check: Option<Check>,
    /// A check of the peer's came from it.
    has_checked: bool,
    candidate: Option<Candidate>,
}

impl Known {
    fn new(path: Path, now: Micros) -> Known {
        Known {
            path,
            heard_at: now,
            answered_at: None,
            nomination: 0,
            credit: 0,
            check: None,
            has_checked: false,
            candidate: None,
        }
    }

    fn is_answering(&self, now: Micros) -> bool {
        self.answered_at.is_some_and(|at| now < at + CONSENT_TIMEOUT)
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Paths {
    known: Vec<Known>,
    /// Where packets go, once it has answered.
    selected: Option<Path>,
    has_answered: bool,
    /// It has answered once and does no more.
    has_lapsed: bool,
    is_nominated: bool,
    nominations: u32,
    /// How many of the known are candidates.
    candidates: u8,
    /// It is a transport over a link, whose path it has. No others are known.
    is_of_link: bool,
    /// When the clock of consent began: with the first check, and again when the connection that was selected ended.
    began: Option<Micros>,
    /// Where a datagram for the controlplane last came from.
    punted: Option<Path>,
    /// When a check last came from any of them, or an answer or an authentic packet from the selected one.
    heard_at: Option<Micros>,
    /// When an authentic packet last came from the selected one.
    packet_at: Option<Micros>,
}

/// What an authenticated check of the peer changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Checked {
    /// An older address made room: unbind it.
    pub(crate) evicted: Option<Path>,
    /// The selected path was nominated, which it was not before.
    pub(crate) is_nominated: bool,
    /// The address is to be asked: [`Paths::begin_check`].
    pub(crate) is_to_be_asked: bool,
}

/// How consent stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Consent {
    /// The next look at it is due by then.
    Until(Micros),
    /// Nothing was answered and nothing came for too long.
    Expired,
}

/// What became of the checks of ours that were due.
pub(crate) enum Due {
    /// To be sent, for the first time or again.
    Send(Path, TransactionId),
    /// Given up.
    Unanswered,
    /// The candidate of this number has not answered, in so many rounds of checks. It is asked again.
    Silent { place: u8, rounds: u8 },
}

impl Paths {
    pub(crate) fn new() -> Paths {
        Paths { known: Vec::with_capacity(PEER_PATHS_MAX), ..Paths::default() }
    }

    /// An authenticated check of `len` bytes came from `path`.
    pub(crate) fn checked(&mut self, path: Path, len: usize, use_candidate: bool, now: Micros) -> Checked {
        let mut result = Checked::default();
        self.began.get_or_insert(now);
        self.heard_at = Some(now);
        if self.known(path).is_none() {
            result.evicted = self.make_room();
            self.known.push(Known::new(path, now));
        }
        if use_candidate {
            self.nominations = self.nominations.wrapping_add(1);
        }
        let selected = *self.selected.get_or_insert(path);
        let (has_answered, has_lapsed, nominations) = (self.has_answered, self.has_lapsed, self.nominations);
        let (may_take_over, nominated) = (self.may_take_over(path, now), self.nomination_of(selected));
        if selected == path && use_candidate {
            result.is_nominated = !std::mem::replace(&mut self.is_nominated, true) && has_answered;
        }
        self.received(path, len);
        let known = self.known.iter_mut().find(|known| known.path == path).expect("it is known from here on");
        known.heard_at = now;
        known.has_checked = true;
        if use_candidate {
            known.nomination = nominations;
        }
        // A connection that was nominated while UDP worked is asked when UDP works no more: it is not nominated twice.
        let is_nominated = use_candidate || (path.is_tcp() && known.nomination > nominated);
        let is_wanted = if selected == path { !has_answered && !has_lapsed } else { is_nominated && may_take_over };
        let is_under_way = known.check.is_some_and(|check| check.tries < CHECK_TRIES_MAX || now < check.next_at);
        result.is_to_be_asked = is_wanted && !is_under_way;
        result
    }

    /// Makes room for one more address.
    fn make_room(&mut self) -> Option<Path> {
        if self.known.len() < PEER_PATHS_MAX {
            return None;
        }
        let selected = self.selected;
        let may_go = |known: &Known| Some(known.path) != selected && known.candidate.is_none();
        let others = (0..self.known.len()).filter(|&i| may_go(&self.known[i]));
        let oldest = others.min_by_key(|&i| self.known[i].heard_at);
        Some(self.known.swap_remove(oldest.expect("more are kept than candidates and the one that is selected")).path)
    }

    /// Begins to ask an address, under this id. It is due at once.
    pub(crate) fn begin_check(&mut self, path: Path, id: TransactionId, now: Micros) {
        if let Some(known) = self.known_mut(path) {
            known.check = Some(Check { id, tries: 0, next_at: now });
        }
    }

    /// Asks the selected path for its consent, under this id: once, because the next request follows (RFC 7675 §5.1). `None` if
    /// it was not selected by an answer yet, or is a candidate, whose probes ask.
    pub(crate) fn begin_consent(&mut self, id: TransactionId, now: Micros) -> Option<Path> {
        let path = self.selected().filter(|path| !self.is_candidate(*path))?;
        self.known_mut(path)?.check = Some(Check { id, tries: CHECK_TRIES_MAX, next_at: now });
        Some(path)
    }

    /// The next check that is due; call again until `None`.
    pub(crate) fn poll_due(&mut self, now: Micros) -> Option<Due> {
        let (selected, has_answered) = (self.selected, self.has_answered);
        let is_asking = |known: &Known| !(has_answered && selected == Some(known.path));
        let is_due = |known: &&mut Known| is_asking(known) && known.check.is_some_and(|check| check.next_at <= now);
        let known = self.known.iter_mut().find(is_due)?;
        let check = known.check.as_mut()?;
        if check.tries == CHECK_TRIES_MAX {
            known.check = None;
            return Some(known.candidate.as_mut().map_or(Due::Unanswered, Candidate::unanswered));
        }
        check.next_at = now + known.candidate.map_or(CHECK_INTERVAL << check.tries, |of| of.pause(check.tries));
        check.tries += 1;
        Some(Due::Send(known.path, check.id))
    }

    /// Whether an address is being asked: [`Paths::poll_due`] has something before long.
    pub(crate) fn is_asking(&self) -> bool {
        let is_settled = |known: &Known| self.has_answered && self.selected == Some(known.path);
        self.known.iter().any(|known| known.check.is_some() && !is_settled(known))
    }

    /// Whether an answer under this id from `path` is expected. Whose it is has yet to be proved.
    pub(crate) fn expects(&self, path: Path, id: TransactionId) -> bool {
        self.known(path).and_then(|known| known.check).is_some_and(|check| check.id == id)
    }

    /// `path` has answered. True if packets go there from now on, and went nowhere or elsewhere before.
    pub(crate) fn answered(&mut self, path: Path, now: Micros) -> bool {
        let nominated = self.selected.map_or(0, |selected| self.nomination_of(selected));
        let is_newer = self.nomination_of(path) > nominated && self.may_take_over(path, now);
        let Some(known) = self.known_mut(path) else { return false };
        known.check = None;
        known.answered_at = Some(now);
        known.heard_at = now;
        known.candidate.iter_mut().for_each(Candidate::answered);
        let is_candidate = known.candidate.is_some();
        let nomination = known.nomination;
        self.heard_at = Some(now);
        let is_selected = if self.selected == Some(path) {
            !self.has_answered && !self.has_lapsed
        } else {
            // What the controlplane knows comes before what has checked from elsewhere.
            is_newer
                || !self.has_answered
                || (is_candidate && !self.selected.is_some_and(|path| self.is_candidate(path)))
        };
        if is_selected {
            let before = self.selected.replace(path).filter(|before| *before != path);
            if let Some(before) = before.and_then(|before| self.known_mut(before)) {
                before.check = None; // Its consent is not needed any more.
            }
            self.stop_asking_candidates();
            self.has_answered = true;
            self.has_lapsed = false;
            self.is_nominated |= nomination > 0;
        }
        is_selected
    }

    fn nomination_of(&self, path: Path) -> u32 {
        self.known(path).map_or(0, |known| known.nomination)
    }

    /// Whether a path may be selected in place of the one that is: TCP only if that is no UDP which works.
    fn may_take_over(&self, path: Path, now: Micros) -> bool {
        let works = |known: &Known| {
            let has_answered = known.answered_at.is_some_and(|at| now < at + UDP_UNANSWERED);
            !known.path.is_tcp() && has_answered && now < known.heard_at + UDP_QUIET
        };
        !path.is_tcp() || !self.selected().and_then(|path| self.known(path)).is_some_and(works)
    }

    /// The connection has ended: it is forgotten. True if packets went there and go elsewhere from now on, to the address that
    /// was nominated last of those that answer.
    pub(crate) fn closed(&mut self, path: Path, now: Micros) -> bool {
        self.known.retain(|known| known.path != path);
        self.punted = self.punted.filter(|punted| *punted != path);
        if self.selected != Some(path) {
            return false;
        }
        let answering = self.known.iter().filter(|known| known.is_answering(now));
        let next = answering.max_by_key(|known| known.nomination);
        self.is_nominated = next.is_some_and(|known| known.nomination > 0);
        self.selected = next.map(|known| known.path);
        self.has_answered &= self.selected.is_some();
        self.began = Some(now);
        self.has_answered
    }

    /// Other credentials are in use: what was asked with those before is not answered any more.
    pub(crate) fn restart(&mut self) {
        self.known.iter_mut().for_each(|known| known.check = None);
        self.has_lapsed = false;
    }

    /// So many bytes came from `path`.
    pub(crate) fn received(&mut self, path: Path, len: usize) {
        if let Some(known) = self.known_mut(path) {
            known.credit = known.credit.saturating_add(UNANSWERED_FACTOR * len as u32);
        }
    }

    /// Whether so many bytes may be sent to `path`, which then are.
    pub(crate) fn may_send(&mut self, path: Path, len: usize, now: Micros) -> bool {
        let Some(known) = self.known_mut(path) else { return false };
        if known.is_answering(now) {
            return true;
        }
        let credit = known.credit.checked_sub(len as u32);
        known.credit = credit.unwrap_or(known.credit);
        credit.is_some()
    }

    /// Where packets go, if it has answered.
    #[inline]
    pub(crate) fn selected(&self) -> Option<Path> {
        self.selected.filter(|_| self.has_answered)
    }

    /// Whether the selected path was ever nominated.
    pub(crate) fn is_nominated(&self) -> bool {
        self.is_nominated
    }

    /// A datagram from `path` is for the controlplane.
    pub(crate) fn punted(&mut self, path: Path) {
        self.punted = Some(path);
    }

    /// The known path with this remote address, on whichever socket: if there are several, the one that the controlplane's
    /// last datagram came by, or else the selected one.
    pub(crate) fn path_to(&self, remote: SocketAddr) -> Option<Path> {
        let is_there = |path: &Path| path.remote == remote;
        let punted = self.punted.filter(is_there).filter(|path| self.known(*path).is_some());
        punted.or_else(|| self.selected().filter(is_there)).or_else(|| self.iter().find(is_there))
    }

    /// Where reports go, which are short: without an answer, within the credit for so many bytes.
    pub(crate) fn reports_to(&self, len: usize) -> Option<Path> {
        if self.has_answered {
            return self.selected;
        }
        let selected = self.selected.and_then(|path| self.known(path))?;
        (selected.credit >= len as u32).then_some(selected.path)
    }

    /// The same, and so many bytes are sent there.
    #[inline]
    pub(crate) fn report(&mut self, len: usize) -> Option<Path> {
        if self.has_answered {
            return self.selected;
        }
        let path = self.reports_to(len)?;
        self.known_mut(path)?.credit -= len as u32;
        Some(path)
    }

    /// An authentic packet of `len` bytes came by this path. If it is the selected one, the peer is still there (of another edge
    /// any: each end chooses where it sends): agents before
    /// RFC 7675 check no more once they have nominated, and keep the path by indications (RFC 8445 §11), which prove nothing.
    /// True if it is worth noting.
    #[inline]
    pub(crate) fn heard(&mut self, path: Path, len: usize, now: Micros) -> bool {
        if self.selected != Some(path) && !self.has_candidates() && !self.is_of_link {
            return false;
        }
        if !self.has_answered {
            self.received(path, len);
        }
        if self.packet_at.is_some_and(|at| now < at + HEARD_INTERVAL) {
            return false;
        }
        self.packet_at = Some(now);
        self.heard_at = Some(now);
        if let Some(known) = self.known_mut(path) {
            known.heard_at = now;
        }
        true
    }

    /// The last check, answer, or authentic packet on the selected path, to within [`HEARD_INTERVAL`].
    pub(crate) fn heard_at(&self) -> Option<Micros> {
        self.heard_at
    }

    /// The paths of a transport over a link.
    pub(crate) fn of_link() -> Paths {
        Paths { is_of_link: true, ..Paths::default() }
    }

    /// The link's path is this now. True if it had none before.
    pub(crate) fn follow(&mut self, path: Option<Path>) -> bool {
        debug_assert!(self.is_of_link, "others have paths of their own");
        let had_none = !std::mem::replace(&mut self.has_answered, path.is_some());
        self.selected = path;
        had_none && path.is_some()
    }

    /// Whether this path is proved to be the peer's: it has answered, or a check of the peer's came from there.
    pub(crate) fn is_proved(&self, path: Path) -> bool {
        self.known(path).is_some_and(|known| known.answered_at.is_some() || known.has_checked)
    }

    /// When something that proves the peer last came by this path.
    pub(crate) fn path_heard_at(&self, path: Path) -> Option<Micros> {
        self.known(path).map(|known| known.heard_at)
    }

    /// All that are known.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Path> + '_ {
        self.known.iter().map(|known| known.path)
    }

    /// How consent stands now: it may have lapsed. Its clock starts with the first check.
    pub(crate) fn review_consent(&mut self, now: Micros) -> Consent {
        let answered = self.selected().and_then(|path| self.known(path)).and_then(|known| known.answered_at);
        let ends = answered.or(self.began).map_or(0, |at| at + CONSENT_TIMEOUT);
        if now < ends && !self.has_lapsed {
            return Consent::Until(ends);
        }
        if self.has_candidates() {
            return Consent::Until(self.ask_anew(now));
        }
        self.has_lapsed |= std::mem::take(&mut self.has_answered);
        match self.packet_at.map(|at| at + CONSENT_TIMEOUT).filter(|ends| now < *ends) {
            Some(ends) => Consent::Until(ends),
            None => Consent::Expired,
        }
    }

    fn known(&self, path: Path) -> Option<&Known> {
        self.known.iter().find(|known| known.path == path)
    }

    fn known_mut(&mut self, path: Path) -> Option<&mut Known> {
        self.known.iter_mut().find(|known| known.path == path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 100;

    fn path(port: u16) -> Path {
        Path::new(0, SocketAddr::from(([10, 0, 0, 1], port)))
    }

    fn id(n: u8) -> TransactionId {
        TransactionId([n; 12])
    }

    /// A check that is to be asked about is.
    fn check(paths: &mut Paths, port: u16, nominates: bool, now: Micros) -> bool {
        let checked = paths.checked(path(port), LEN, nominates, now);
        if checked.is_to_be_asked {
            paths.begin_check(path(port), id(port as u8), now);
        }
        checked.is_to_be_asked
    }

    fn sent(paths: &mut Paths, now: Micros) -> Vec<Path> {
        let due = std::iter::from_fn(|| paths.poll_due(now));
        due.filter_map(|due| if let Due::Send(path, _) = due { Some(path) } else { None }).collect()
    }

    #[test]
    fn packets_go_where_a_check_was_answered_and_the_last_nominated_is_selected() {
        let mut paths = Paths::new();
        assert!(check(&mut paths, 1, false, 0));
        assert_eq!(paths.selected(), None, "it has not answered");
        assert!(!paths.expects(path(1), id(9)) && !paths.expects(path(2), id(1)) && paths.expects(path(1), id(1)));
        assert!(paths.answered(path(1), 1));
        assert_eq!(paths.selected(), Some(path(1)));
        assert!(!check(&mut paths, 2, false, 2), "without USE-CANDIDATE nothing is asked");
        assert!(check(&mut paths, 2, true, 3) && !check(&mut paths, 2, true, 3), "it is asked once");
        assert!(check(&mut paths, 3, true, 4));
        assert_eq!(paths.selected(), Some(path(1)));
        assert!(paths.answered(path(3), 5));
        assert!(!paths.answered(path(2), 6), "another one was nominated after it");
        assert_eq!(paths.selected(), Some(path(3)));
        assert!(check(&mut paths, 2, true, 7) && paths.answered(path(2), 8), "and back, by a new answer");
    }

    #[test]
    fn a_first_path_that_does_not_answer_gives_way_to_one_that_does() {
        let mut paths = Paths::new();
        check(&mut paths, 1, true, 0);
        check(&mut paths, 2, true, 1);
        check(&mut paths, 1, true, 2);
        assert!(paths.answered(path(2), 3));
        assert_eq!(paths.selected(), Some(path(2)));
    }

    #[test]
    fn a_check_is_sent_so_often_with_longer_and_longer_waits_and_then_given_up() {
        let mut paths = Paths::new();
        check(&mut paths, 1, true, 0);
        let times: Vec<Micros> =
            (0..20_000_000).step_by(10_000).filter(|now| !sent(&mut paths, *now).is_empty()).collect();
        assert_eq!(times, [0, 100_000, 300_000, 700_000, 1_500_000, 3_100_000]);
        assert!(!paths.is_asking());
        assert!(check(&mut paths, 1, true, 20_000_000), "another check of the peer begins anew");
    }

    #[test]
    fn consent_is_the_answer_of_the_selected_path_alone() {
        let mut paths = Paths::new();
        check(&mut paths, 1, true, 5);
        assert_eq!(
            paths.review_consent(6),
            Consent::Until(5 + CONSENT_TIMEOUT),
            "the clock starts with the first check"
        );
        paths.answered(path(1), 10);
        check(&mut paths, 1, true, 1000);
        check(&mut paths, 2, false, 2000);
        assert_eq!(paths.review_consent(2000), Consent::Until(10 + CONSENT_TIMEOUT));
        assert_eq!(paths.begin_consent(id(7), 3000), Some(path(1)));
        assert!(!paths.is_asking() && sent(&mut paths, 9_000_000).is_empty(), "it is sent once");
        assert!(paths.expects(path(1), id(7)) && !paths.answered(path(1), 6000));
        assert_eq!(paths.review_consent(7000), Consent::Until(6000 + CONSENT_TIMEOUT));
        check(&mut paths, 1, true, 6000 + CONSENT_TIMEOUT);
        assert_eq!(paths.review_consent(6000 + CONSENT_TIMEOUT), Consent::Expired);
    }

    #[test]
    fn who_still_sends_stays_without_consent_and_is_sent_reports_alone() {
        let mut paths = Paths::new();
        check(&mut paths, 1, true, 0);
        paths.answered(path(1), 0);
        let mut now = CONSENT_TIMEOUT - 1;
        assert!(
            paths.heard(path(1), LEN, now) && !paths.heard(path(1), LEN, now + 1) && !paths.heard(path(2), LEN, now)
        );
        now += 1;
        assert_eq!(paths.review_consent(now), Consent::Until(now - 1 + CONSENT_TIMEOUT));
        assert!(paths.has_lapsed && paths.selected().is_none());
        assert!(!check(&mut paths, 1, true, now), "it is not asked again with the same credentials");
        assert!(!paths.answered(path(1), now));
        while paths.report(LEN).is_some() {}
        paths.heard(path(1), LEN, now);
        assert_eq!([paths.report(2 * LEN), paths.report(LEN), paths.report(1)], [Some(path(1)), Some(path(1)), None]);
        paths.restart();
        assert!(check(&mut paths, 1, true, now) && paths.answered(path(1), now + 1), "but with others it is");
        assert_eq!((paths.selected(), paths.report(100 * LEN)), (Some(path(1)), Some(path(1))));
    }

    #[test]
    fn what_has_not_answered_is_sent_three_times_what_came_and_no_more() {
        let mut paths = Paths::new();
        assert!(!paths.may_send(path(1), 1, 0), "from there nothing came");
        check(&mut paths, 1, true, 0);
        assert!(paths.may_send(path(1), 2 * LEN, 0) && paths.may_send(path(1), LEN, 0));
        assert!(!paths.may_send(path(1), 1, 0));
        paths.received(path(1), 10);
        assert!(!paths.may_send(path(1), 31, 0) && paths.may_send(path(1), 30, 0));
        paths.answered(path(1), 1);
        assert!(paths.may_send(path(1), 1_000_000, CONSENT_TIMEOUT));
        assert!(!paths.may_send(path(1), 1, CONSENT_TIMEOUT + 1), "an answer holds for the time of consent");
    }

    fn tcp(port: u16) -> Path {
        Path::tcp(0, path(port).remote)
    }

    /// A check with USE-CANDIDATE came, and if it is asked about, it is answered at once.
    fn nominate(paths: &mut Paths, path: Path, now: Micros) {
        if paths.checked(path, LEN, true, now).is_to_be_asked {
            paths.begin_check(path, id(1), now);
            paths.answered(path, now);
        }
    }

    #[test]
    fn udp_that_works_is_kept_over_tcp_and_takes_over_from_it() {
        let mut paths = Paths::new();
        nominate(&mut paths, tcp(1), 0);
        assert_eq!(paths.selected(), Some(tcp(1)));
        nominate(&mut paths, path(1), 1);
        assert_eq!(paths.selected(), Some(path(1)), "UDP answers");
        nominate(&mut paths, tcp(1), 2);
        assert_eq!(paths.selected(), Some(path(1)), "and stays");
        // Nothing comes by UDP any more. The peer nominates once, and then only checks.
        let mut now = UDP_QUIET;
        paths.checked(tcp(1), LEN, false, now);
        assert!(!paths.is_asking(), "it was heard of a moment ago");
        now += 2;
        assert!(paths.checked(tcp(1), LEN, false, now).is_to_be_asked);
        paths.begin_check(tcp(1), id(2), now);
        assert!(paths.answered(tcp(1), now));
        nominate(&mut paths, path(1), now + 1);
        assert_eq!(paths.selected(), Some(path(1)), "and back");
        // The peer's packets still come, but it gets none of ours.
        for second in 1..=UDP_UNANSWERED / 1_000_000 + 1 {
            now += 1_000_000;
            paths.heard(path(1), LEN, now);
            nominate(&mut paths, tcp(1), now);
            let selected = if second * 1_000_000 <= UDP_UNANSWERED { path(1) } else { tcp(1) };
            assert_eq!(paths.selected(), Some(selected), "{second}");
        }
    }

    #[test]
    fn a_connection_that_ends_gives_way_to_what_answers() {
        let mut paths = Paths::new();
        nominate(&mut paths, path(1), 0);
        nominate(&mut paths, tcp(2), UDP_QUIET);
        assert_eq!(paths.selected(), Some(tcp(2)));
        assert!(!paths.closed(tcp(3), UDP_QUIET), "it was not in use");
        assert!(paths.closed(tcp(2), UDP_QUIET));
        assert_eq!(paths.selected(), Some(path(1)));
        assert!(!paths.may_send(tcp(2), 1, UDP_QUIET), "nothing of it is remembered");

        let mut paths = Paths::new();
        nominate(&mut paths, tcp(1), 0);
        let now = CONSENT_TIMEOUT - 1;
        assert!(!paths.closed(tcp(1), now), "there is no other");
        assert_eq!((paths.selected(), paths.iter().count()), (None, 0));
        assert_eq!(paths.review_consent(now + 1), Consent::Until(now + CONSENT_TIMEOUT), "it has time to come back");
        nominate(&mut paths, tcp(1), now + 2);
        assert_eq!(paths.selected(), Some(tcp(1)), "by a check that was answered anew");
    }

    #[test]
    fn the_controlplane_answers_by_the_way_that_it_was_asked() {
        let mut paths = Paths::new();
        paths.checked(path(1), LEN, true, 0);
        paths.checked(tcp(1), LEN, true, 0);
        assert_eq!(paths.path_to(path(1).remote), Some(path(1)));
        paths.punted(tcp(1));
        assert_eq!(paths.path_to(path(1).remote), Some(tcp(1)));
        paths.closed(tcp(1), 1);
        assert_eq!(paths.path_to(path(1).remote), Some(path(1)));
    }

    #[test]
    fn addresses_are_bounded_and_the_selected_one_stays() {
        let mut paths = Paths::new();
        check(&mut paths, 0, true, 0);
        for port in 1..100u16 {
            let checked = paths.checked(path(port), LEN, false, Micros::from(port));
            assert_eq!(checked.evicted.is_some(), usize::from(port) >= PEER_PATHS_MAX, "{port}");
            assert_ne!(checked.evicted, Some(path(0)));
        }
        let kept = |port| paths.path_to(path(port).remote).is_some();
        assert!(kept(0) && kept(99) && !kept(1));
    }
}
