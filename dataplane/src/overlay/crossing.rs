//! What the media that crosses shows of the paths, beside the probes: the transport-wide numbers that do not come, and what the other end
//! asks for again. Nothing is sent for it.
//!
//! Numbers of streams would not do: what a publisher's own network has lost is a gap in them on every path. What both directions lose
//! counts against a path, as it does for a probe and its answer.

use crate::config::{Micros, NACK_DELAY, OVERLAY_MEDIA_INTERVAL, OVERLAY_MEDIA_SETTLED};
use crate::path::Path;
use crate::twcc::Noted;

/// Packets of one direction.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Counted {
    pub(crate) arrived: u32,
    pub(crate) lost: u32,
}

impl Counted {
    fn add(&mut self, more: Counted) {
        self.arrived = self.arrived.saturating_add(more.arrived);
        self.lost = self.lost.saturating_add(more.lost);
    }
}

/// What one transport over a link has seen since it was last taken.
#[derive(Default)]
pub(crate) struct Crossed {
    sent: Counted,
    came: Counted,
    /// When a number was last left out.
    gap_at: Micros,
}

impl Crossed {
    /// The other end has so many packets that it had not told of before.
    pub(crate) fn sent_arrived(&mut self, packets: u32) {
        self.sent.arrived = self.sent.arrived.saturating_add(packets);
    }

    /// The other end lacks a packet that was sent. Feedback does not say so where a repair of audio came before it, under the same number.
    pub(crate) fn sent_is_lacked(&mut self) {
        self.sent.lost = self.sent.lost.saturating_add(1);
    }

    /// A transport-wide number came.
    pub(crate) fn came(&mut self, noted: Noted, at: Micros) {
        match noted {
            Noted::Next { left_out } => {
                self.came.add(Counted { arrived: 1, lost: left_out });
                if left_out > 0 {
                    self.gap_at = at;
                }
            }
            // It was overtaken. What is later than this may be a repair.
            Noted::Late if at.saturating_sub(self.gap_at) < NACK_DELAY => {
                self.came.arrived = self.came.arrived.saturating_add(1);
                self.came.lost = self.came.lost.saturating_sub(1);
            }
            Noted::Late | Noted::Known => {}
        }
    }

    /// What was sent, and what came.
    pub(crate) fn take(&mut self) -> [Counted; 2] {
        [std::mem::take(&mut self.sent), std::mem::take(&mut self.came)]
    }
}

/// One direction of a link: by which path it goes, since when, and what was counted since that was last told.
#[derive(Default)]
struct Direction {
    path: Option<Path>,
    since: Micros,
    counted: Counted,
}

/// What all transports over a link have seen: what we send, and what comes.
#[derive(Default)]
pub(crate) struct Crossing {
    directions: [Direction; 2],
    told_at: Micros,
}

impl Crossing {
    /// Something was counted while packets go by the one path and come by the other. What is told of a path that has just been taken is
    /// of the one before, and is left out; so are all that come by two paths in turn.
    pub(crate) fn counted(&mut self, now: Micros, paths: [Path; 2], counted: [Counted; 2]) {
        for ((direction, path), counted) in self.directions.iter_mut().zip(paths).zip(counted) {
            if direction.path != Some(path) {
                let is_first = direction.path.is_none();
                let since = if is_first { now } else { now + OVERLAY_MEDIA_SETTLED };
                *direction = Direction { path: Some(path), since, counted: Counted::default() };
            }
            if now >= direction.since {
                direction.counted.add(counted);
            }
        }
    }

    /// What is to be told of paths now.
    pub(crate) fn poll(&mut self, now: Micros) -> Option<[Option<(Path, Counted)>; 2]> {
        if now < self.told_at + OVERLAY_MEDIA_INTERVAL {
            return None;
        }
        self.told_at = now;
        let told = self.directions.each_mut().map(|direction| {
            let counted = std::mem::take(&mut direction.counted);
            Some((direction.path?, counted)).filter(|_| counted != Counted::default())
        });
        told.iter().any(Option::is_some).then_some(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MILLISECOND;

    fn path(port: u16) -> Path {
        Path::new(0, ([10, 0, 0, 1], port).into())
    }

    #[test]
    fn numbers_that_are_overtaken_are_not_lost_and_repairs_do_not_hide_a_loss() {
        let mut crossed = Crossed::default();
        crossed.came(Noted::Next { left_out: 0 }, 0);
        crossed.came(Noted::Next { left_out: 2 }, MILLISECOND);
        crossed.came(Noted::Late, 2 * MILLISECOND);
        crossed.came(Noted::Late, 60 * MILLISECOND);
        crossed.came(Noted::Known, 61 * MILLISECOND);
        crossed.sent_arrived(7);
        crossed.sent_is_lacked();
        assert_eq!(crossed.take(), [Counted { arrived: 7, lost: 1 }, Counted { arrived: 3, lost: 1 }]);
        assert_eq!(crossed.take(), [Counted::default(); 2]);
    }

    #[test]
    fn what_is_told_of_a_path_that_has_just_been_taken_is_of_the_one_before() {
        let mut crossing = Crossing::default();
        let some = Counted { arrived: 5, lost: 1 };
        let mut now = OVERLAY_MEDIA_INTERVAL;
        crossing.counted(now, [path(1); 2], [some; 2]);
        assert_eq!(crossing.poll(now), Some([Some((path(1), some)); 2]));
        crossing.counted(now + 1, [path(1); 2], [some; 2]);
        assert_eq!(crossing.poll(now + 1), None, "once in an interval");
        // We leave, and the other end has not yet.
        now += OVERLAY_MEDIA_INTERVAL;
        crossing.counted(now, [path(2), path(1)], [some; 2]);
        let twice = Counted { arrived: 10, lost: 2 };
        assert_eq!(crossing.poll(now), Some([None, Some((path(1), twice))]));
        now += OVERLAY_MEDIA_SETTLED;
        crossing.counted(now, [path(2), path(1)], [some; 2]);
        assert_eq!(crossing.poll(now), Some([Some((path(2), some)), Some((path(1), some))]));
        // What comes by two paths says nothing of either.
        for n in 0..20 {
            now += OVERLAY_MEDIA_INTERVAL;
            crossing.counted(now, [path(2), path(1 + n % 2)], [Counted::default(), some]);
            assert!(n == 0 || crossing.poll(now).is_none());
        }
    }
}
