//! How good the connection of a person is, as everybody in the room is shown it: good, weak or lost ([`Quality`]). This is where it is
//! decided, for every client alike, because the server sees both ends of each link.
//!
//! A worker tells about once a second what each stream and slot has carried (`proto::plane` tallies). From that comes a [`Link`]: what was lost
//! on the way from the peer and on the way to it, before anything was repaired, and the round trip.
//!
//! What a receiver reports as lost has gaps in it that were there before, because a gap of the input stays a gap: a publisher's losses
//! are not to be counted to those who receive it. What its stream lost is known, and taken off; where that was repaired in part, as video is,
//! nobody knows how much, and a slot with such a stream says nothing.
//!
//! - **lost**: nothing comes from the peer any more, or nothing of all the microphones and cameras that it says are on. The workers
//!   report that after 2 to 10 s of silence.
//! - **weak**: two reports in a row say that 5 % or more are lost one way or the other, that the round trip takes 400 ms or more, or
//!   that a video to the peer is paused because its path does not carry it.
//! - **good**: everything else. Who was weak is good again after five reports in a row below 2 % and 300 ms; who was lost is weak first.
//!
//! Of the limits, 2 % is where libwebrtc's loss-based estimation begins to take loss for a sign of congestion
//! (`kDefaultLowLossThreshold`); at 5 % the loss of a frame of twenty packets is likelier than not, and each needs a retransmission. ITU-T
//! G.114 has conversation suffer beyond 150 ms one way and no network planned beyond 400 ms: two people at 400 ms from the server have that.

use std::ops::RangeInclusive;
use std::time::Duration;

use proto::plane::{SlotTally, StreamTally};
use proto::signal::{Kind, Quality};

/// Loss at which a link is weak, and below which it is good again.
const LOSS_WEAK: f64 = 0.05;
const LOSS_GOOD: f64 = 0.02;

/// Round trip at which a link is weak, and below which it is good again.
const RTT_WEAK: Duration = Duration::from_millis(400);
const RTT_GOOD: Duration = Duration::from_millis(300);

/// Reports in a row that make a good link weak. One may be an accident: each is of two to four seconds.
const WEAK_REPORTS: u8 = 2;

/// Reports in a row that make it good again, so that a sign does not flicker.
const GOOD_REPORTS: u8 = 5;

/// Packets of which a share says something: half a second of audio.
const PACKETS_MIN: f64 = 25.0;

/// A worker's window is two to four seconds long, and shorter only at a beginning; one outside of this is none.
pub(crate) const WINDOW_US: RangeInclusive<u64> = 200_000..=60_000_000;

/// No round trip that is worth the name takes longer, microseconds.
const RTT_US_MAX: u64 = 60_000_000;

/// What the last seconds of a peer's link were like.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Link {
    /// From the peer.
    pub up: Loss,
    /// To the peer.
    pub down: Loss,
    /// Between server and peer, if it is known.
    pub rtt: Option<Duration>,
    /// Whether a video to the peer is paused because the path does not carry it.
    pub is_paused: bool,
}

/// Packets that should have come, and those that did not.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Loss {
    /// Those that did not.
    pub lost: f64,
    /// All.
    pub of: f64,
}

/// A slot, and the stream that it carries.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Carried {
    /// What went through the slot.
    pub slot: SlotTally,
    /// What came of the stream from its publisher.
    pub stream: Option<StreamTally>,
    /// Audio or video.
    pub kind: Kind,
}

impl Carried {
    /// Share of the packets that was lost between server and receiver; `None` if nobody knows.
    fn loss(&self) -> Option<f64> {
        let reported = loss_of(&self.slot)?;
        let before = self.stream.as_ref().and_then(lost_of).map_or(0.0, |(lost, of)| lost / of);
        let is_informative = before < LOSS_GOOD || (self.kind == Kind::Audio && before < 1.0);
        is_informative.then(|| ((reported - before) / (1.0 - before)).max(0.0))
    }
}

impl Link {
    /// By the tallies of a peer's streams and slots.
    pub fn of(streams: impl IntoIterator<Item = StreamTally>, slots: impl IntoIterator<Item = Carried>) -> Link {
        let mut link = Link::default();
        for (lost, of) in streams.into_iter().filter_map(|tally| lost_of(&tally)) {
            link.up.add(lost, of);
        }
        for carried in slots {
            let packets = carried.slot.window_packets as f64;
            if let Some(loss) = carried.loss() {
                link.down.add(loss * packets, packets);
            }
            link.is_paused |= carried.slot.allocation == Some(0);
            // All slots have the same path. The shortest is the one that waited least for a report.
            link.rtt = link.rtt.into_iter().chain(rtt_of(&carried.slot)).min();
        }
        link
    }

    fn is_weak(&self) -> bool {
        [self.up, self.down].iter().any(|loss| loss.share() >= LOSS_WEAK)
            || self.rtt.is_some_and(|rtt| rtt >= RTT_WEAK)
            || self.is_paused
    }

    fn is_good(&self) -> bool {
        [self.up, self.down].iter().all(|loss| loss.share() < LOSS_GOOD)
            && self.rtt.is_none_or(|rtt| rtt < RTT_GOOD)
            && !self.is_paused
    }
}

impl Loss {
    fn add(&mut self, lost: f64, of: f64) {
        self.lost += lost;
        self.of += of;
    }

    /// 0 while there is too little to say.
    fn share(&self) -> f64 {
        if self.of < PACKETS_MIN { 0.0 } else { self.lost / self.of }
    }
}

/// Lost and expected packets of a stream's window.
pub(crate) fn lost_of(tally: &StreamTally) -> Option<(f64, f64)> {
    let expected = tally.window_expected;
    let is_known = WINDOW_US.contains(&tally.window_us) && expected > 0;
    is_known.then(|| (expected.saturating_sub(tally.window_packets) as f64, expected as f64))
}

/// Share that the receiver of a slot has lost, by its last report.
pub(crate) fn loss_of(tally: &SlotTally) -> Option<f64> {
    tally.loss_256.filter(|&loss| loss < 256).map(|loss| loss as f64 / 256.0)
}

/// Round trip by the last report of the receiver.
pub(crate) fn rtt_of(tally: &SlotTally) -> Option<Duration> {
    tally.rtt_us.filter(|&rtt| rtt <= RTT_US_MAX).map(Duration::from_micros)
}

/// The quality of one peer, from report to report.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Judge {
    quality: Quality,
    /// Reports in a row that say otherwise.
    otherwise: u8,
}

impl Judge {
    /// As another edge has judged it.
    pub(crate) fn told(quality: Quality) -> Judge {
        Judge { quality, otherwise: 0 }
    }

    /// As it is shown.
    pub(crate) fn quality(self) -> Quality {
        self.quality
    }

    /// Takes a report.
    pub(crate) fn report(&mut self, link: &Link, is_lost: bool) {
        if is_lost {
            *self = Judge { quality: Quality::Lost, otherwise: 0 };
            return;
        }
        let (is_otherwise, reports, other) = match self.quality {
            Quality::Good => (link.is_weak(), WEAK_REPORTS, Quality::Weak),
            Quality::Weak => (link.is_good(), GOOD_REPORTS, Quality::Good),
            Quality::Lost => (true, 1, Quality::Weak),
        };
        self.otherwise = if is_otherwise { self.otherwise + 1 } else { 0 };
        if self.otherwise >= reports {
            *self = Judge { quality: other, otherwise: 0 };
        }
    }
}

/// Loss from a publisher at which it sends its audio with redundancy: 1 % is what NACK alone does not hide of it (docs/decisions/0055).
const REDUNDANT_FROM: f64 = 0.03;

/// Loss below which it does so no more, and reports in a row that say it.
const REDUNDANT_UNTIL: f64 = 0.01;
const REDUNDANT_REPORTS: u8 = 10;

/// … and at least for so many reports, seconds: each change is an answer that is given anew.
const REDUNDANT_KEPT: u8 = 30;

/// Whether a publisher sends its audio with redundancy, from report to report. It costs as much again as the audio itself, on a link
/// that loses anyway, so it is asked for while it helps.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Redundancy {
    is_on: bool,
    /// Reports in a row that say it is not needed.
    unneeded: u8,
    /// Reports until it may end.
    kept: u8,
}

impl Redundancy {
    /// Whether it should.
    pub(crate) fn is_on(self) -> bool {
        self.is_on
    }

    /// Takes a report; `has_room`: its share of the room's bandwidth holds its audio several times. Whether that changes anything.
    pub(crate) fn report(&mut self, link: &Link, has_room: bool) -> bool {
        let (was_on, loss) = (self.is_on, link.up.share());
        self.unneeded = if loss < REDUNDANT_UNTIL { self.unneeded.saturating_add(1) } else { 0 };
        self.kept = self.kept.saturating_sub(1);
        let is_kept = was_on && (self.unneeded < REDUNDANT_REPORTS || self.kept > 0);
        self.set(has_room && (loss >= REDUNDANT_FROM || is_kept))
    }

    /// Packets are being lost, which no report says yet. Whether that changes anything.
    pub(crate) fn loses(&mut self, has_room: bool) -> bool {
        self.unneeded = 0;
        self.set(has_room)
    }

    fn set(&mut self, is_on: bool) -> bool {
        let was_on = std::mem::replace(&mut self.is_on, is_on);
        if is_on && !was_on {
            self.kept = REDUNDANT_KEPT;
        }
        is_on != was_on
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::id::{SlotId, StreamId};

    use super::*;

    fn losing(share: f64) -> Link {
        Link { up: Loss { lost: share * 1000.0, of: 1000.0 }, ..Link::default() }
    }

    fn distant(millis: u64) -> Link {
        Link { rtt: Some(Duration::from_millis(millis)), ..Link::default() }
    }

    /// What is shown after each of these reports.
    fn shown(reports: &[(Link, bool)]) -> Vec<Quality> {
        let mut judge = Judge::default();
        let report = |(link, is_lost): &(Link, bool)| {
            judge.report(link, *is_lost);
            judge.quality()
        };
        reports.iter().map(report).collect()
    }

    #[test]
    fn whose_video_is_paused_has_a_weak_connection() {
        let paused = Link { is_paused: true, ..Link::default() };
        let good = Link::default();
        assert_eq!(shown(&[(paused, false), (paused, false)]), [Quality::Good, Quality::Weak]);
        let after =
            shown(&[(paused, false), (paused, false), (good, false), (good, false), (paused, false), (good, false)]);
        assert_eq!(after.last(), Some(&Quality::Weak));
        let words = [1 << 32 | 3, 1, 1, 0, 0, 0, u64::MAX, u64::MAX, 2_000_000, 1, 1, 0, 0, 0, 0];
        let tally = SlotTally::read(SlotId::new(3, 1), &words).unwrap();
        let carried = |slot| [Carried { slot, stream: None, kind: Kind::Video }];
        assert!(Link::of([], carried(tally)).is_paused);
        assert!(!Link::of([], carried(SlotTally { allocation: None, ..tally })).is_paused);
    }

    #[test]
    fn loss_and_long_round_trips_make_a_link_weak_and_only_a_good_one_is_good_again() {
        use Quality::{Good, Weak};
        for (bad, between, fine) in
            [(losing(0.06), losing(0.03), losing(0.01)), (distant(500), distant(350), distant(40))]
        {
            let down = |link: Link| Link { up: link.down, down: link.up, ..link };
            for turn in [|link| link, down] {
                let reports =
                    [bad, between, bad, bad, between, fine, fine, fine, fine, between, fine, fine, fine, fine, fine];
                let expected =
                    [Good, Good, Good, Weak, Weak, Weak, Weak, Weak, Weak, Weak, Weak, Weak, Weak, Weak, Good];
                assert_eq!(shown(&reports.map(|link| (turn(link), false))), expected);
            }
        }
    }

    #[test]
    fn who_was_lost_is_weak_first() {
        use Quality::{Good, Lost, Weak};
        let reports = [true, true, false, false, false, false, false, false].map(|is_lost| (Link::default(), is_lost));
        assert_eq!(shown(&reports), [Lost, Lost, Weak, Weak, Weak, Weak, Weak, Good]);
    }

    #[test]
    fn who_loses_much_on_the_way_to_us_sends_redundancy_until_it_loses_little_for_a_while() {
        let mut redundancy = Redundancy::default();
        let mut report = |share: f64, has_room| {
            redundancy.report(&losing(share), has_room);
            redundancy.is_on()
        };
        assert_eq!([report(0.02, true), report(0.04, true), report(0.02, true)], [false, true, true]);
        assert!((0..27).all(|_| report(0.0, true)), "half a minute at the least");
        assert_eq!([report(0.02, true), report(0.0, true)], [true, true], "it loses some all the same");
        assert!((0..8).all(|_| report(0.0, true)), "ten reports in a row");
        assert!(!report(0.0, true));
        assert_eq!([report(0.5, false), report(0.5, true), report(0.5, false)], [false, true, false], "no room for it");
        let down = Link { up: Loss::default(), down: losing(0.5).up, ..Link::default() };
        assert!(!redundancy.report(&down, true), "of what comes to it others see");
        assert_eq!([redundancy.loses(false), redundancy.loses(true), redundancy.loses(true)], [false, true, false]);
        assert!((0..29).all(|_| !redundancy.report(&losing(0.0), true)), "reports of the last seconds say it later");
        assert!(redundancy.report(&losing(0.0), true) && !redundancy.is_on());
    }

    #[test]
    fn a_few_packets_say_nothing() {
        let link = Link { up: Loss { lost: 5.0, of: 20.0 }, ..Link::default() };
        assert_eq!(shown(&[(link, false); 9]), [Quality::Good; 9]);
    }

    fn stream(window: [u64; 3]) -> StreamTally {
        let [window_us, window_packets, window_expected] = window;
        StreamTally {
            stream: StreamId::new(1, 1),
            packets: 0,
            bytes: 0,
            expected: 0,
            repaired: 0,
            nacks: 0,
            keyframe_requests: 0,
            policed: 0,
            window_us,
            window_packets,
            window_bytes: 0,
            window_expected,
        }
    }

    fn slot(window_packets: u64, loss_256: Option<u64>, rtt_us: Option<u64>) -> SlotTally {
        SlotTally {
            slot: SlotId::new(1, 1),
            packets: 0,
            bytes: 0,
            retransmitted: 0,
            nacks: 0,
            keyframe_requests: 0,
            loss_256,
            rtt_us,
            window_us: 2_000_000,
            window_packets,
            window_bytes: 0,
            allocation: None,
        }
    }

    #[test]
    fn a_link_is_the_sum_of_its_tallies() {
        let streams = [stream([2_000_000, 90, 100]), stream([2_000_000, 300, 300]), stream([0, 0, 9])];
        let slots = [slot(100, Some(64), Some(30_000)), slot(300, Some(0), None), slot(9, None, Some(20_000))];
        let link = Link::of(streams, slots.map(|slot| Carried { slot, stream: None, kind: Kind::Video }));
        assert_eq!(link.up, Loss { lost: 10.0, of: 400.0 });
        assert_eq!(link.down, Loss { lost: 25.0, of: 400.0 });
        assert_eq!(link.rtt, Some(Duration::from_millis(20)));
    }

    #[test]
    fn what_a_publisher_loses_is_not_lost_by_its_receivers() {
        let down = |kind, lost_of_400: u64, loss_256| {
            let stream = Some(stream([2_000_000, 400 - lost_of_400, 400]));
            let link = Link::of([], [Carried { slot: slot(400, Some(loss_256), None), stream, kind }]);
            (link.down.share() * 100.0).round()
        };
        assert_eq!(down(Kind::Audio, 80, 51), 0.0, "all of 20 % was lost before");
        assert_eq!(down(Kind::Audio, 80, 72), 10.0, "of what was left a tenth");
        assert_eq!(down(Kind::Audio, 400, 255), 0.0);
        assert_eq!(down(Kind::Video, 80, 26), 0.0, "how much of it was repaired nobody knows");
        assert_eq!(down(Kind::Video, 4, 28), 10.0);
    }

    proptest! {
        #[test]
        fn any_numbers_make_a_share(
            windows in prop::collection::vec(any::<[u64; 3]>(), 0..4),
            slots in prop::collection::vec((any::<u64>(), any::<Option<u64>>(), any::<Option<u64>>()), 0..4),
        ) {
            let stream_of = |n: usize| windows.get(n).copied().map(stream);
            let carried = |(n, (packets, loss, rtt))| {
                let kind = if n % 2 == 0 { Kind::Audio } else { Kind::Video };
                Carried { slot: slot(packets, loss, rtt), stream: stream_of(n), kind }
            };
            let link = Link::of(windows.iter().copied().map(stream), slots.into_iter().enumerate().map(carried));
            for loss in [link.up, link.down] {
                prop_assert!((0.0..=1.0).contains(&loss.share()), "{:?}", loss);
            }
        }
    }
}
