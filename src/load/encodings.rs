//! A camera in several encodings (RFC 8853), as browsers with our client module send it: which there are, which of them each receiver
//! wants, and which its sender does not send because nobody does.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use proto::signal::{PausedEncodings, ShownVideo, SlotInfo, Source};

/// Most encodings of a camera.
pub(super) const ENCODINGS_MAX: usize = 3;

/// One encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Encoding {
    /// Its RID.
    pub(super) rid: &'static str,
    /// Lines of its pictures.
    pub(super) lines: u16,
    /// Bit/s of payload; 0 of the largest, whose rate is that of a camera in one encoding.
    pub(super) bps: u32,
    /// A STAP-A (RFC 6184 §5.7.1) of an SPS (Constrained Baseline, level 3.1) and a PPS, as its keyframes begin.
    pub(super) parameters: &'static [u8],
}

/// The smaller ones, with the rates of the client module.
const SMALL: [Encoding; 2] = [
    Encoding {
        rid: "l",
        lines: 180,
        bps: 100_000,
        parameters: &[
            0x78, 0, 11, 0x67, 0x42, 0xE0, 0x1F, 0x8C, 0x8D, 0x40, 0xA0, 0xCF, 0xCE, 0x80, 0, 4, 0x68, 0xCE, 0x3C, 0x80,
        ],
    },
    Encoding {
        rid: "m",
        lines: 360,
        bps: 350_000,
        parameters: &[
            0x78, 0, 11, 0x67, 0x42, 0xE0, 0x1F, 0x8C, 0x8D, 0x40, 0x50, 0x17, 0xFC, 0xA8, 0, 4, 0x68, 0xCE, 0x3C, 0x80,
        ],
    },
];
const LARGEST: Encoding = Encoding {
    rid: "h",
    lines: 720,
    bps: 0,
    parameters: &[
        0x78, 0, 11, 0x67, 0x42, 0xE0, 0x1F, 0x8C, 0x8D, 0x40, 0x28, 0x02, 0xDC, 0x80, 0, 4, 0x68, 0xCE, 0x3C, 0x80,
    ],
};
const ALL: [&[Encoding]; ENCODINGS_MAX] = [&[], &[SMALL[0], LARGEST], &[SMALL[0], SMALL[1], LARGEST]];

/// The encodings of a camera in so many, the smallest first; none if it is one, which has no RID.
pub(super) fn encodings(count: usize) -> &'static [Encoding] {
    ALL[count.clamp(1, ENCODINGS_MAX) - 1]
}

/// What a peer's signals say of encodings, for the thread that carries its media.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// How many a camera has.
    count: usize,
    /// Of our camera, those that nobody receives: a bit for each.
    paused: AtomicU8,
    /// Two bits for each of our slots of video, in the order of the offer: which encoding it wants, counted from the largest. Of more slots than
    /// there are bits the last ones want the largest.
    wanted: AtomicU32,
}

/// Slots that may want another one than the largest.
const SLOTS_MAX: usize = 16;

impl Chosen {
    /// Of a peer in a room whose cameras have so many encodings.
    pub(super) fn new(count: usize) -> Chosen {
        Chosen { count, ..Chosen::default() }
    }

    /// Whether nobody receives this encoding of our camera.
    pub(super) fn is_paused(&self, encoding: usize) -> bool {
        self.paused.load(Ordering::Relaxed) >> encoding & 1 == 1
    }

    /// Which encoding the slot wants.
    pub(super) fn wanted(&self, slot: usize) -> usize {
        let from_largest = if slot < SLOTS_MAX { self.wanted.load(Ordering::Relaxed) >> (2 * slot) & 3 } else { 0 };
        self.count.saturating_sub(1 + from_largest as usize)
    }

    /// The server says which encodings are not received.
    pub(super) fn pause(&self, paused: &[PausedEncodings]) {
        let is_named = |rid: &str| paused.iter().any(|track| track.rids.iter().any(|paused| paused == rid));
        let named = encodings(self.count).iter().enumerate().filter(|(_, encoding)| is_named(encoding.rid));
        self.paused.store(named.map(|(at, _)| 1 << at).sum(), Ordering::Relaxed);
    }

    /// The server says who is in our slots: how we show the cameras. All sizes are shown, in turn; the first one is another one for each peer,
    /// which `number` tells.
    pub(super) fn show(&self, slots: &[SlotInfo], mids: &[String], number: usize) -> Vec<ShownVideo> {
        let (all, mut wanted) = (encodings(self.count), 0);
        let mut shown = Vec::new();
        for (slot, mid) in mids.iter().enumerate().take(SLOTS_MAX) {
            let Some(peer) = slots.iter().find(|info| info.mid == *mid).and_then(|info| info.peer.clone()) else {
                continue;
            };
            let from_largest = (slot + number) % all.len();
            wanted |= (from_largest as u32) << (2 * slot);
            let lines = Some(all[all.len() - 1 - from_largest].lines);
            shown.push(ShownVideo { peer, source: Source::Camera, lines, pinned: false });
        }
        self.wanted.store(wanted, Ordering::Relaxed);
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_reads_the_sizes() {
        for encoding in ALL[2] {
            let [_, _, len, sps @ ..] = encoding.parameters else { panic!() };
            let lines = dataplane::size::h264(&sps[..usize::from(*len)]).unwrap().lines();
            // In whole macroblocks.
            assert_eq!(lines, u32::from(encoding.lines).next_multiple_of(16), "{}", encoding.rid);
        }
    }

    #[test]
    fn each_size_is_wanted_in_turn_and_what_is_paused_is_not_sent() {
        let mids = ["4", "5", "6", "7"].map(str::to_owned);
        let slot = |(n, mid): (usize, &String)| SlotInfo {
            mid: mid.clone(),
            kind: proto::signal::Kind::Video,
            peer: (n != 2).then(|| format!("peer-{n}")),
            track: None,
            source: None,
        };
        let slots: Vec<SlotInfo> = mids.iter().enumerate().map(slot).collect();
        let chosen = Chosen::new(3);
        assert_eq!([0, 1, 2, 40].map(|slot| chosen.wanted(slot)), [2; 4]);
        let lines = |number| chosen.show(&slots, &mids, number).iter().map(|shown| shown.lines).collect::<Vec<_>>();
        assert_eq!(lines(0), [Some(720), Some(360), Some(720)]);
        assert_eq!(lines(1), [Some(360), Some(180), Some(360)]);
        assert_eq!([0, 1, 3].map(|slot| chosen.wanted(slot)), [1, 0, 1]);
        chosen.pause(&[PausedEncodings { mid: "1".into(), rids: vec!["l".into(), "h".into()] }]);
        assert_eq!([0, 1, 2].map(|encoding| chosen.is_paused(encoding)), [true, false, true]);
        chosen.pause(&[]);
        assert!(!chosen.is_paused(0));
    }
}
