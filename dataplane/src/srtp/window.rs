//! The replay window of one stream (RFC 3711 §3.3.2), which is also its memory of the roll-over counter (§3.3.1).
//!
//! A ring of bits over packet indices, one word longer than the window is wide, so that words are cleared as the
//! window enters them and nothing is ever shifted (RFC 6479). Only authenticated indices come in: the caller checks,
//! authenticates, then updates.

/// The index was seen before, or is too old to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("packet index replayed or older than the window")]
pub struct Replayed;

const WORD_BITS: u64 = u64::BITS as u64;
const WORDS: u64 = Window::WIDTH / WORD_BITS + 1;

/// Replay window of one SSRC, over 48-bit SRTP indices or 31-bit SRTCP indices. 152 bytes, no heap.
#[derive(Clone, Debug)]
pub struct Window {
    highest: Option<u64>,
    bits: [u64; WORDS as usize],
}

impl Window {
    /// Indices remembered, the highest included. RFC 3711 asks for at least 64; at 1,000 packets a second in one
    /// stream this is a second of reordering, more than any jitter buffer waits.
    pub const WIDTH: u64 = 1024;

    /// A window that has seen nothing.
    pub const fn new() -> Window {
        Window { highest: None, bits: [0; WORDS as usize] }
    }

    /// The index that `seq` most likely has: the one nearest to the highest authenticated so far (RFC 3711 §3.3.1).
    ///
    /// A stream begins with ROC 0, so there is nothing below it to go back to: where the RFC's `ROC - 1` would be
    /// negative the guess stays 0, the only one that can authenticate. The result may pass
    /// [`INDEX_MAX`](super::INDEX_MAX) after 2^48 packets; unprotect refuses it then.
    pub fn estimate(&self, seq: u16) -> u64 {
        nearest(self.highest, seq)
    }

    /// Whether a packet with this index may be taken, if it authenticates. Changes nothing.
    #[inline]
    pub fn check(&self, index: u64) -> Result<(), Replayed> {
        let Some(highest) = self.highest else {
            return Ok(());
        };
        if index > highest {
            return Ok(());
        }
        let is_too_old = highest - index >= Window::WIDTH;
        let (word, bit) = place(index);
        if is_too_old || self.bits[word] & bit != 0 { Err(Replayed) } else { Ok(()) }
    }

    /// Remembers an index that was checked and has authenticated since. One that is too old leaves no trace.
    #[inline]
    pub fn update(&mut self, index: u64) {
        match self.highest {
            Some(highest) if index <= highest => {
                if highest - index >= Window::WIDTH {
                    return;
                }
            }
            Some(highest) => {
                self.clear_words(highest / WORD_BITS + 1, index / WORD_BITS);
                self.highest = Some(index);
            }
            None => self.highest = Some(index),
        }
        let (word, bit) = place(index);
        self.bits[word] |= bit;
    }

    /// The highest index authenticated so far.
    #[inline]
    pub fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// Forgets what the ring held where the window now enters; a jump beyond the ring clears each word once.
    #[inline]
    fn clear_words(&mut self, first: u64, last: u64) {
        for word in first..=last.min(first + WORDS - 1) {
            self.bits[(word % WORDS) as usize] = 0;
        }
    }
}

impl Default for Window {
    fn default() -> Window {
        Window::new()
    }
}

/// A replay window for what is slow or over: narrower, and a fifth of the size. SRTCP, of which a sender has a few dozen
/// packets a second, counts in one; and what is left of an SSRC that nobody sends from any more is one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Narrow {
    highest: u64,
    /// Bit n: `highest - n` was seen. The lowest is clear only in a window that has seen nothing. In two words, which are
    /// aligned as the rest is.
    seen: [u64; 2],
}
const _: () = assert!(size_of::<(u32, Narrow)>() == 32, "there is memory for a hundred of them in each peer");

impl Narrow {
    /// Indices remembered: as many as libsrtp has for SRTCP, and twice what RFC 3711 §3.3.2 asks for.
    pub(crate) const WIDTH: u64 = u128::BITS as u64;

    fn seen(&self) -> u128 {
        u128::from(self.seen[0]) << 64 | u128::from(self.seen[1])
    }

    /// As [`Window::highest`].
    pub(crate) fn highest(&self) -> Option<u64> {
        (self.seen() != 0).then_some(self.highest)
    }

    fn set_seen(&mut self, seen: u128) {
        self.seen = [(seen >> 64) as u64, seen as u64];
    }

    /// As [`Window::check`].
    pub(crate) fn check(&self, index: u64) -> Result<(), Replayed> {
        let seen = self.seen();
        if seen == 0 || index > self.highest {
            return Ok(());
        }
        let behind = self.highest - index;
        if behind >= Narrow::WIDTH || seen >> behind & 1 != 0 { Err(Replayed) } else { Ok(()) }
    }

    /// As [`Window::update`].
    pub(crate) fn update(&mut self, index: u64) {
        let seen = self.seen();
        if seen == 0 || index > self.highest {
            let ahead = u32::try_from(index.saturating_sub(self.highest)).unwrap_or(u32::MAX);
            self.set_seen(seen.checked_shl(ahead).unwrap_or(0) | 1);
            self.highest = index;
        } else if self.highest - index < Narrow::WIDTH {
            self.set_seen(seen | 1 << (self.highest - index));
        }
    }
}

impl From<Window> for Narrow {
    /// The same with less memory: what only the wide one would still take counts as seen.
    fn from(window: Window) -> Narrow {
        let mut narrow = Narrow::default();
        if let Some(highest) = window.highest {
            for index in highest.saturating_sub(Narrow::WIDTH - 1)..=highest {
                if window.check(index).is_err() {
                    narrow.update(index);
                }
            }
        }
        narrow
    }
}

impl From<Narrow> for Window {
    fn from(narrow: Narrow) -> Window {
        let mut window = Window::new();
        if narrow.seen() != 0 {
            let highest = narrow.highest;
            window.update(highest);
            for index in highest.saturating_sub(Window::WIDTH - 1)..highest {
                if narrow.check(index).is_err() {
                    window.update(index);
                }
            }
        }
        window
    }
}

/// The SRTCP replay windows of one peer, one for each SSRC that its reports come from.
///
/// The SRTCP index belongs to the sender's SSRC (RFC 3711 §3.2.1, §3.2.3): a browser that sends audio and video counts
/// twice from 1 under the same key, and a single window would take the second for a replay of the first.
#[derive(Debug)]
pub struct RtcpWindows {
    senders: Vec<(u32, Narrow)>,
    senders_max: usize,
}

impl RtcpWindows {
    /// No sender yet. Takes the memory for `senders_max` of them now, so that no packet has to.
    pub fn new(senders_max: usize) -> RtcpWindows {
        RtcpWindows { senders: Vec::with_capacity(senders_max), senders_max }
    }

    /// As [`Window::check`]. A sender beyond the limit is refused: to forget another for it would let that one's
    /// packets be replayed.
    pub fn check(&self, ssrc: u32, index: u32) -> Result<(), Replayed> {
        match self.senders.iter().find(|(sender, _)| *sender == ssrc) {
            Some((_, window)) => window.check(index.into()),
            None if self.senders.len() < self.senders_max => Ok(()),
            None => Err(Replayed),
        }
    }

    /// As [`Window::update`]. Only an authentic packet makes a sender known.
    pub fn update(&mut self, ssrc: u32, index: u32) {
        if let Some((_, window)) = self.senders.iter_mut().find(|(sender, _)| *sender == ssrc) {
            return window.update(index.into());
        }
        if self.senders.len() < self.senders_max {
            let mut window = Narrow::default();
            window.update(index.into());
            self.senders.push((ssrc, window));
        }
    }
}

/// A window in which a sender may begin anywhere.
pub(crate) trait SentWindow: ReplayWindow + Default {
    /// A window that has seen `highest` and everything before it.
    fn up_to(highest: u64) -> Self;
}

impl SentWindow for Window {
    fn up_to(highest: u64) -> Window {
        let mut window = Window { highest: Some(highest), bits: [u64::MAX; WORDS as usize] };
        // Words are cleared as the window enters them, but for the one that it ends in.
        let (word, bit) = place(highest);
        window.bits[word] = bit | (bit - 1);
        window
    }
}

/// What [`Window`] and [`Narrow`] have in common: enough to unprotect a packet by either.
pub(crate) trait ReplayWindow {
    /// Indices remembered, the highest included.
    const WIDTH: u64;
    /// As [`Window::highest`].
    fn highest(&self) -> Option<u64>;
    /// As [`Window::check`].
    fn check(&self, index: u64) -> Result<(), Replayed>;
    /// As [`Window::update`].
    fn update(&mut self, index: u64);

    /// As [`Window::estimate`].
    #[inline]
    fn estimate(&self, seq: u16) -> u64 {
        nearest(self.highest(), seq)
    }

    /// Whether an index is too old to tell whether it was seen.
    #[inline]
    fn is_too_old(&self, index: u64) -> bool {
        self.highest().is_some_and(|highest| index <= highest && highest - index >= Self::WIDTH)
    }
}

impl ReplayWindow for Window {
    const WIDTH: u64 = Window::WIDTH;
    #[inline]
    fn highest(&self) -> Option<u64> {
        Window::highest(self)
    }
    #[inline]
    fn check(&self, index: u64) -> Result<(), Replayed> {
        Window::check(self, index)
    }
    #[inline]
    fn update(&mut self, index: u64) {
        Window::update(self, index);
    }
}

impl ReplayWindow for Narrow {
    const WIDTH: u64 = Narrow::WIDTH;
    fn highest(&self) -> Option<u64> {
        Narrow::highest(self)
    }
    fn check(&self, index: u64) -> Result<(), Replayed> {
        Narrow::check(self, index)
    }
    fn update(&mut self, index: u64) {
        Narrow::update(self, index);
    }
}

/// The index with this sequence number that is nearest to the highest so far (RFC 3711 §3.3.1); see [`Window::estimate`].
#[inline]
fn nearest(highest: Option<u64>, seq: u16) -> u64 {
    let Some(highest) = highest else {
        return seq.into();
    };
    let (roc, seq_highest) = (highest >> 16, highest as u16);
    let ahead = i32::from(seq) - i32::from(seq_highest);
    let roc = if ahead > 0x8000 {
        roc.saturating_sub(1)
    } else if ahead < -0x8000 {
        roc + 1
    } else {
        roc
    };
    roc << 16 | u64::from(seq)
}

/// Word of the ring and bit in it.
fn place(index: u64) -> (usize, u64) {
    ((index / WORD_BITS % WORDS) as usize, 1 << (index % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What the window should be: everything ever taken, and a rule for what is too old.
    #[derive(Default)]
    struct Oracle(BTreeSet<u64>);

    impl Oracle {
        fn may_take(&self, index: u64) -> bool {
            let is_young = self.0.last().is_none_or(|&highest| index + Window::WIDTH > highest);
            is_young && !self.0.contains(&index)
        }
    }

    /// A step from the highest index: mostly near, sometimes around the window's edge or far beyond.
    fn step() -> impl Strategy<Value = i64> {
        let edge = Window::WIDTH as i64;
        prop_oneof![
            6 => -70..70i64,
            2 => -edge - 3..-edge + 3,
            1 => edge - 70..edge + 140,
            1 => -3 * edge..70_000i64,
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(start in 0..1u64 << 47, steps in prop::collection::vec((step(), any::<bool>()), 1..400)) {
            let (mut window, mut oracle) = (Window::new(), Oracle::default());
            for (step, authenticates) in steps {
                let index = window.highest().unwrap_or(start).saturating_add_signed(step);
                prop_assert_eq!(window.check(index).is_ok(), oracle.may_take(index));
                if oracle.may_take(index) && authenticates {
                    window.update(index);
                    oracle.0.insert(index);
                }
                prop_assert_eq!(window.highest(), oracle.0.last().copied());
            }
            let highest = window.highest().unwrap_or(start);
            for index in highest.saturating_sub(Window::WIDTH + 70)..highest + 70 {
                prop_assert_eq!(window.check(index).is_ok(), oracle.may_take(index), "index {} of {}", index, highest);
            }
        }

        /// The narrow window is the wide one as far as it reaches, and refuses what is older; so is what it grows into.
        #[test]
        fn the_narrow_one_takes_no_more(
            start in prop_oneof![0..3u64, 0..1u64 << 47],
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let (mut wide, mut narrow) = (Window::new(), Narrow::default());
            for step in steps {
                let highest = wide.highest();
                let index = highest.unwrap_or(start).saturating_add_signed(step);
                let is_near = highest.is_none_or(|highest| index + Narrow::WIDTH > highest);
                prop_assert_eq!(narrow.check(index).is_ok(), is_near && wide.check(index).is_ok());
                wide.update(index);
                narrow.update(index);
            }
            let highest = wide.highest().unwrap_or(start);
            let grown = Window::from(Narrow::from(wide.clone()));
            prop_assert_eq!(grown.highest(), wide.highest());
            for index in highest.saturating_sub(Window::WIDTH + 70)..highest + 1200 {
                let is_near = wide.highest().is_none() || index + Narrow::WIDTH > highest;
                prop_assert_eq!(grown.check(index).is_ok(), is_near && wide.check(index).is_ok(), "index {}", index);
                prop_assert_eq!(narrow.check(index).is_ok(), grown.check(index).is_ok());
            }
        }

        #[test]
        fn estimates_the_nearest_index(highest in prop_oneof![0..1u64 << 18, 0..1u64 << 47], seq in any::<u16>()) {
            let mut window = Window::new();
            window.update(highest);
            let roc = highest >> 16;
            let nearest = [Some(roc), roc.checked_sub(1), Some(roc + 1)]
                .into_iter()
                .flatten()
                .map(|roc| roc << 16 | u64::from(seq))
                .min_by_key(|index| index.abs_diff(highest))
                .expect("the same ROC is always a candidate");
            prop_assert_eq!(window.estimate(seq), nearest);
        }
    }

    #[test]
    fn estimate_at_the_edges() {
        let mut window = Window::new();
        assert_eq!(window.estimate(65_535), 65_535, "the first packet has ROC 0");
        window.update(65_530);
        assert_eq!(window.estimate(65_531), 65_531);
        assert_eq!(window.estimate(2), 0x1_0002);
        window.update(0x1_0002);
        assert_eq!(window.estimate(65_535), 65_535, "a late one from before the wrap");
        // RFC 3711 §3.3.1 has strict comparisons: exactly half way stays with the ROC.
        assert_eq!(window.estimate(0x8002), 0x1_8002);
        assert_eq!(window.estimate(0x8003), 0x8003);

        let mut window = Window::new();
        window.update(5);
        assert_eq!(window.estimate(65_535), 65_535, "there is no ROC below 0");
    }

    #[test]
    fn each_rtcp_sender_counts_for_itself() {
        let mut windows = RtcpWindows::new(2);
        windows.update(7, 1);
        assert_eq!(windows.check(7, 1), Err(Replayed));
        assert_eq!(windows.check(8, 1), Ok(()));
        windows.update(8, 1);
        windows.update(8, 2);
        assert_eq!((windows.check(7, 2), windows.check(8, 2)), (Ok(()), Err(Replayed)));
        // The limit: the third is refused, and the two stay known.
        assert_eq!(windows.check(9, 1), Err(Replayed));
        windows.update(9, 1);
        assert_eq!((windows.check(9, 2), windows.check(7, 1)), (Err(Replayed), Err(Replayed)));
    }

    #[test]
    fn an_index_too_old_leaves_no_trace() {
        let mut window = Window::new();
        window.update(5000);
        // In the ring this one shares a bit with 4871, which is in the window.
        window.update(5000 - 129 - 1088);
        assert_eq!(window.check(5000 - 129), Ok(()));
        assert_eq!(window.check(5000 - 1023), Ok(()));
        assert_eq!(window.check(5000 - 1024), Err(Replayed));
        assert_eq!(window.check(5000), Err(Replayed));
    }
}
