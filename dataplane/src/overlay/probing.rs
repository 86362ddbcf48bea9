//! What a link does with the paths to its other end: it probes each, and says which one to use.
//!
//! A probe is a Binding request as any check (RFC 8445 §7.2.2). Its transaction id is a secret of the path, and the probe's number:
//! who has not been sent one of them cannot answer for the path in another one's name. A path that has never answered is probed no
//! oftener than it would be asked.

use proto::id::PeerId;
use proto::plane::{PEER_CANDIDATES_MAX, PathMeasured, PathState};
use proto::stun::TransactionId;

use crate::config::{
    Micros, OVERLAY_DEAD_INTERVAL, OVERLAY_LEG_INTERVAL, OVERLAY_LEG_TOLD_INTERVAL, OVERLAY_PROBE_INTERVAL,
    OVERLAY_TOLD_INTERVAL,
};
use crate::overlay::crossing::{Counted, Crossing};
use crate::overlay::monitor::{Monitor, State};
use crate::overlay::selection::{Look, Selection};
use crate::path::Path;

/// One path, a candidate.
struct Probed {
    place: u8,
    path: Path,
    /// What its transaction ids are made of.
    secret: [u8; 12],
    monitor: Monitor,
    /// As long as it has never answered: when it is probed next.
    try_at: Micros,
    /// When it was told how the path is, and what was.
    told: Option<(Micros, State)>,
}

impl Probed {
    fn id(&self, number: u32) -> TransactionId {
        let mut id = self.secret;
        for (byte, of_number) in id[8..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= of_number;
        }
        TransactionId(id)
    }

    /// The number of the probe that has this id, if the path has one.
    fn number(&self, id: TransactionId) -> Option<u32> {
        let (first, last) = id.0.split_first_chunk::<8>()?;
        let number = std::array::from_fn(|at| last[at] ^ self.secret[8 + at]);
        (first[..] == self.secret[..8]).then(|| u32::from_be_bytes(number))
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Probing {
    /// At most [`PEER_CANDIDATES_MAX`].
    paths: Vec<Probed>,
    selection: Selection<u8>,
    crossing: Crossing,
}

impl Probing {
    /// The candidates are these from now on, of which the first in order of their numbers is preferred. What is known of a path stays.
    /// `secret` makes secrets.
    pub(crate) fn set(&mut self, told: &[(u8, Path)], now: Micros, mut secret: impl FnMut() -> [u8; 12]) {
        self.paths.retain(|of| told.iter().any(|(_, path)| *path == of.path));
        for &(place, path) in told {
            match self.paths.iter_mut().find(|of| of.path == path) {
                Some(of) => of.place = place,
                None => {
                    let monitor = Monitor::new(now, OVERLAY_LEG_INTERVAL);
                    self.paths.push(Probed { place, path, secret: secret(), monitor, try_at: now, told: None });
                }
            }
        }
        self.paths.sort_by_key(|of| of.place);
        let order: Vec<u8> = self.paths.iter().map(|of| of.place).collect();
        self.selection.prefer(&order);
    }

    /// The next probe that is due, while `selected` is used, or nothing is sent yet and only the legs are measured.
    pub(crate) fn poll(&mut self, now: Micros, is_used: bool, selected: Path) -> Option<(Path, TransactionId)> {
        for of in &mut self.paths {
            let is_dead = of.monitor.state(now) == State::Dead && of.path != selected;
            of.monitor.set_interval(match (is_used, is_dead) {
                (true, false) => OVERLAY_PROBE_INTERVAL,
                (true, true) => OVERLAY_DEAD_INTERVAL,
                (false, _) => OVERLAY_LEG_INTERVAL,
            });
            if !of.monitor.has_answered() && now < of.try_at {
                continue;
            }
            if let Some(number) = of.monitor.poll_probe(now) {
                of.try_at = now + if is_used { OVERLAY_DEAD_INTERVAL } else { OVERLAY_LEG_INTERVAL };
                return Some((of.path, of.id(number)));
            }
        }
        None
    }

    /// When [`poll`](Self::poll) has something next.
    pub(crate) fn poll_timeout(&self) -> Option<Micros> {
        let due = |of: &Probed| match of.monitor.has_answered() {
            true => of.monitor.poll_timeout(),
            false => of.monitor.poll_timeout().max(of.try_at),
        };
        self.paths.iter().map(due).min()
    }

    /// Whether this is the id of a probe of the path. Whether it was sent, and not answered before, has yet to be asked.
    pub(crate) fn expects(&self, path: Path, id: TransactionId) -> bool {
        self.paths.iter().any(|of| of.path == path && of.number(id).is_some())
    }

    /// A probe of the path was answered. False if it was not sent, or was answered before.
    pub(crate) fn answered(&mut self, path: Path, id: TransactionId, now: Micros) -> bool {
        let of = self.paths.iter_mut().find(|of| of.path == path);
        of.is_some_and(|of| of.number(id).is_some_and(|number| of.monitor.answered(now, number)))
    }

    /// What media has shown of the path by which we send, and of that by which it comes; whether the paths are to be looked at.
    pub(crate) fn crossed(&mut self, now: Micros, paths: [Path; 2], counted: [Counted; 2]) -> bool {
        self.crossing.counted(now, paths, counted);
        let Some(told) = self.crossing.poll(now) else { return false };
        for (path, Counted { arrived, lost }) in told.into_iter().flatten() {
            if let Some(of) = self.paths.iter_mut().find(|of| of.path == path) {
                of.monitor.carried(now, arrived, lost);
            }
        }
        true
    }

    /// Where to go from the path that is in use, if it is to be left.
    pub(crate) fn look(&mut self, now: Micros, selected: Path) -> Option<Path> {
        let current = self.paths.iter().find(|of| of.path == selected)?.place;
        self.selection.is_at(current);
        let none = Look { via: current, state: State::Unknown, is_clean: false, is_lossy: false, measured: None };
        let mut looks = [none; PEER_CANDIDATES_MAX];
        let count = looks.len().min(self.paths.len());
        for (look, of) in looks.iter_mut().zip(&self.paths) {
            let monitor = &of.monitor;
            *look = Look {
                via: of.place,
                state: monitor.state(now),
                is_clean: monitor.is_clean(),
                is_lossy: monitor.is_lossy(),
                measured: monitor.measured(),
            };
        }
        let place = self.selection.look(now, &looks[..count])?;
        self.paths.iter().find(|of| of.place == place).map(|of| of.path)
    }

    /// By which path audio goes as well.
    pub(crate) fn second(&self) -> Option<Path> {
        let place = self.selection.second()?;
        self.paths.iter().find(|of| of.place == place).map(|of| of.path)
    }

    /// The first path that is good, where the one that was in use is gone.
    pub(crate) fn first_good(&self, now: Micros) -> Option<Path> {
        self.paths.iter().find(|of| of.monitor.state(now) == State::Good).map(|of| of.path)
    }

    /// What is to be told next of a path of this peer: now and then, and when its state has changed.
    pub(crate) fn poll_measured(&mut self, now: Micros, is_used: bool, peer: PeerId) -> Option<PathMeasured> {
        let interval = if is_used { OVERLAY_TOLD_INTERVAL } else { OVERLAY_LEG_TOLD_INTERVAL };
        let is_due = |of: &Probed| {
            let state = of.monitor.state(now);
            of.told.map_or(state != State::Unknown, |(at, told)| {
                now >= at + interval || (state != told && now >= at + OVERLAY_PROBE_INTERVAL)
            })
        };
        let of = self.paths.iter_mut().find(|of| is_due(of))?;
        let state = of.monitor.state(now);
        of.told = Some((now, state));
        let measured = of.monitor.measured();
        let us = |micros: Micros| u32::try_from(micros).unwrap_or(u32::MAX);
        Some(PathMeasured {
            peer,
            place: of.place,
            rtt_us: measured.map_or(0, |measured| us(measured.rtt)),
            loss_ppm: measured.map_or(0, |measured| measured.loss_ppm),
            jitter_us: measured.map_or(0, |measured| us(measured.jitter)),
            state: match state {
                State::Good => PathState::Good,
                State::Unknown => PathState::Unknown,
                State::Bad => PathState::Bad,
                State::Dead => PathState::Dead,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_of_one_path_and_one_probe() {
        let path = |port: u16| Path::new(0, ([10, 0, 0, 1], port).into());
        let mut probing = Probing::default();
        let mut secrets = 1..;
        probing.set(&[(0, path(1)), (1, path(2))], 0, || [secrets.next().expect("it has no end"); 12]);
        let first = probing.poll(0, true, path(1)).expect("one is due at once");
        let second = probing.poll(0, true, path(1)).expect("and of the other path");
        assert_eq!(probing.poll(0, true, path(1)), None);
        assert_eq!([first.0, second.0], [path(1), path(2)]);
        assert!(probing.expects(path(1), first.1) && !probing.expects(path(2), first.1));
        assert!(!probing.answered(path(2), first.1, 10), "it is not of that path");
        let mut other = first.1;
        other.0[11] ^= 1;
        assert!(!probing.answered(path(1), other, 10), "it was not sent");
        assert!(probing.answered(path(1), first.1, 10) && !probing.answered(path(1), first.1, 20));
        // What is known of a path goes with it to another number.
        probing.set(&[(0, path(2)), (1, path(1))], 30, || [9; 12]);
        assert!(probing.answered(path(2), second.1, 40));
        probing.set(&[(0, path(2))], 50, || [9; 12]);
        assert!(!probing.expects(path(1), first.1));
    }
}
