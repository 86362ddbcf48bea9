//! Leaf: what the paths of an encoding's receivers have room for, and the rate that its publisher is told for it.
//!
//! What a path carries falls between two encodings most of the time. A publisher whose encoding is taken by receivers that cannot take the
//! next better one may send it at a higher rate: as much as the least of its receivers has room for. What an encoding costs in a
//! choice between it and another one is the rate that its publisher gives it of its own: the rest is room that the better one would have.

use crate::config::{Micros, SECOND};

/// What receivers of an encoding have room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headroom {
    /// Bit/s of RTP; [`u32::MAX`] where nothing is known to limit it.
    pub bps: u32,
    /// Whether one of them would take a better encoding, if its path carried that.
    pub is_needed: bool,
}

impl Headroom {
    /// Nothing limits it, and nobody needs it.
    pub const NONE: Headroom = Headroom { bps: u32::MAX, is_needed: false };

    /// That of these and of other receivers.
    pub(crate) fn and(self, other: Headroom) -> Headroom {
        Headroom { bps: self.bps.min(other.bps), is_needed: self.is_needed || other.is_needed }
    }

    /// Whether it is so much less than before that it is told at once.
    pub(crate) fn is_less_than(self, before: Headroom) -> bool {
        let limit = |of: Headroom| if of.is_needed { of.bps } else { 0 };
        f64::from(limit(self)) < LESS * f64::from(limit(before))
    }
}

impl Default for Headroom {
    fn default() -> Self {
        Headroom::NONE
    }
}

/// A rate that is less than this fraction of the one before is told at once, and one that is more than this multiple after the time: libwebrtc
/// makes its encoders anew for each, and sends 1/1.2 of the rate for the next 30 frames (`EncoderBitrateAdjuster`).
const LESS: f64 = 0.95;
const MORE: f64 = 1.2;
const MORE_AFTER: Micros = 1_800_000;
/// A rate that was told is seen in what comes after this: a round trip, an encoder, and the time over which rates are measured.
const FOLLOWED_AFTER: Micros = 3 * SECOND;
/// What a publisher may exceed a rate by that it was told.
const FOLLOWED: f64 = 1.5;
/// What it sends of its own falls by this factor in each report, if it sends less: a still picture costs little, and not for long.
const USUAL_FALLS: f64 = 0.9;
/// An encoding that has begun has its rate after this.
const BEGUN_AFTER: Micros = 2 * SECOND;
/// Payload, of RTP packets of 800 bytes with their headers.
const PAYLOAD: f64 = 0.96;

/// The rate of one encoding: what its publisher was told, and what it sends of its own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    /// Bit/s of payload; 0: what the publisher sees fit.
    told: u32,
    told_at: Option<Micros>,
    /// The highest that was told in the last seconds.
    highest: u32,
    /// Until when what comes may be what was told.
    raised_until: Micros,
    /// Bit/s of RTP that it sends of its own.
    usual: u32,
    began_at: Micros,
}

impl Rates {
    /// What its publisher was told, bit/s; 0 for nothing.
    pub(crate) fn told(&self) -> u32 {
        self.told
    }

    /// Its first packet since a silence comes.
    pub(crate) fn begins(&mut self, now: Micros) {
        self.began_at = now;
    }

    /// A report is due: so much of it comes, bit/s of RTP, if any does.
    pub(crate) fn measured(&mut self, now: Micros, bps: u32) {
        if self.told == 0 && now >= self.raised_until && bps > 0 {
            self.usual = bps.max((f64::from(self.usual) * USUAL_FALLS) as u32);
            self.highest = 0;
        }
    }

    /// What it costs beside another encoding, bit/s of RTP, if so much of it comes; 0 is not known.
    pub(crate) fn expected(&self, now: Micros, bps: u32, is_flowing: bool) -> u32 {
        let is_raised = self.told > 0 || now < self.raised_until;
        let is_followed = f64::from(bps) * PAYLOAD <= FOLLOWED * f64::from(self.highest);
        match () {
            () if !is_flowing => self.usual,
            () if is_raised && is_followed => bps.min(self.usual),
            () if now < self.began_at + BEGUN_AFTER => bps.max(self.usual),
            () => bps,
        }
    }

    /// What its publisher is to be told now, bit/s of payload, if that is another rate than before. Between two reports only less is.
    pub(crate) fn update(&mut self, now: Micros, room: Headroom, is_report: bool) -> Option<u32> {
        let wanted = if room.is_needed { (f64::from(room.bps) * PAYLOAD) as u32 } else { 0 };
        let usual = (f64::from(self.usual) * PAYLOAD) as u32;
        let wanted = if self.usual == 0 || f64::from(wanted) < MORE * f64::from(usual) { 0 } else { wanted };
        let (told, is_late) = (f64::from(self.told), self.told_at.is_none_or(|at| now >= at + MORE_AFTER));
        let is_less = f64::from(wanted) < LESS * told;
        let is_more = f64::from(wanted) > MORE * told && is_report && is_late;
        if !is_less && !is_more {
            return None;
        }
        if is_less && self.told > 0 {
            self.raised_until = now + FOLLOWED_AFTER;
        }
        self.highest = self.highest.max(wanted);
        (self.told, self.told_at) = (wanted, Some(now));
        Some(wanted)
    }
}

/// What a video is given room for, at most: this multiple of what it sends, and that much more, bit/s. It sends less than it was told (see above),
/// and would not grow with a multiple of 1.3. One that does not use its room leaves
/// it to the others.
const GROWN: f64 = 2.0;
const GROWN_MORE: f64 = 10_000.0;

/// A video among which room is divided, bit/s on the path.
#[derive(Clone, Copy, Default)]
pub(crate) struct Share {
    /// What its encoding costs of its own.
    pub(crate) own: f64,
    /// What it sends.
    pub(crate) sends: f64,
    /// What it is given.
    pub(crate) given: Option<f64>,
}

impl Share {
    fn usable(&self) -> f64 {
        (GROWN * self.sends + GROWN_MORE).max(self.own)
    }
}

/// Divides so much among them: the same to each, but for those that cost more of their own, and those that do not use it.
pub(crate) fn divide(mut left: f64, shares: &mut [Share]) {
    for count in (1..=shares.len()).rev() {
        let even = left.max(0.0) / count as f64;
        let own = shares.iter().position(|share| share.given.is_none() && share.own > even);
        let other = own.or_else(|| shares.iter().position(|share| share.given.is_none() && share.usable() < even));
        let Some(share) = other.map(|at| &mut shares[at]) else {
            return shares.iter_mut().filter(|share| share.given.is_none()).for_each(|share| share.given = Some(even));
        };
        let given = if own.is_some() { share.own } else { share.usable() };
        share.given = Some(given);
        left -= given;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(bps: u32) -> Headroom {
        Headroom { bps, is_needed: true }
    }

    #[test]
    fn a_rate_follows_the_least_of_those_who_take_it() {
        let of = [needed(300_000), Headroom { bps: 250_000, is_needed: false }, Headroom::NONE];
        let all = of.into_iter().fold(Headroom::NONE, Headroom::and);
        assert_eq!(all, needed(250_000));
        assert!(needed(200_000).is_less_than(all) && !needed(249_000).is_less_than(all));
        assert!(Headroom::NONE.is_less_than(all), "nobody needs it any more");
        assert!(!all.is_less_than(Headroom::NONE));
    }

    #[test]
    fn less_is_told_at_once_and_more_after_a_while() {
        let mut rates = Rates::default();
        assert_eq!(rates.update(0, needed(200_000), true), None, "nobody knows what is usual");
        rates.measured(0, 100_000);
        assert_eq!(rates.update(SECOND, needed(102_000), true), None, "no more than it has");
        assert_eq!(rates.update(SECOND, needed(200_000), false), None, "more is for the report");
        assert_eq!(rates.update(SECOND, needed(200_000), true), Some(192_000));
        assert_eq!(rates.update(SECOND + 1, needed(300_000), true), None, "too soon");
        assert_eq!(rates.update(SECOND + 2, needed(150_000), false), Some(144_000));
        assert_eq!(rates.update(SECOND + 3, needed(149_000), false), None, "about the same");
        assert_eq!(rates.update(3 * SECOND, needed(180_000), true), None, "not for so little");
        assert_eq!(rates.update(3 * SECOND, needed(190_000), true), Some(182_400));
        assert_eq!(rates.update(4 * SECOND, needed(90_000), false), Some(0), "its own rate again");
        assert_eq!(rates.update(5 * SECOND, Headroom::NONE, true), None);
    }

    #[test]
    fn a_raised_encoding_costs_what_it_would_cost_of_its_own() {
        let mut rates = Rates::default();
        rates.measured(0, 100_000);
        assert_eq!(rates.expected(3 * SECOND, 110_000, true), 110_000);
        rates.update(3 * SECOND, needed(200_000), true);
        rates.measured(4 * SECOND, 190_000);
        assert_eq!(rates.expected(4 * SECOND, 190_000, true), 100_000);
        assert_eq!(rates.expected(4 * SECOND, 80_000, true), 80_000, "a picture that stands still");
        assert_eq!(rates.expected(4 * SECOND, 400_000, true), 400_000, "its publisher does as it likes");
        rates.update(5 * SECOND, Headroom::NONE, true);
        rates.measured(5 * SECOND, 190_000);
        assert_eq!(rates.expected(6 * SECOND, 190_000, true), 100_000, "it is about to fall");
        rates.measured(9 * SECOND, 130_000);
        assert_eq!(rates.expected(9 * SECOND, 130_000, true), 130_000);
        assert_eq!(rates.expected(9 * SECOND, 0, false), 130_000, "while it is paused");
        rates.begins(10 * SECOND);
        assert_eq!(rates.expected(11 * SECOND, 20_000, true), 130_000, "it has just begun");
        rates.measured(13 * SECOND, 50_000);
        assert_eq!(rates.expected(13 * SECOND, 50_000, true), 50_000);
    }
}
