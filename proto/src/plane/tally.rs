//! Tallies: what one stream or one slot has carried, or the path of a peer carries, as its worker counts it. A worker writes each about once a second
//! into the link's memory, and readers look there; nothing is sent, so no number can push out an event.
//!
//! A tally is a row of words. Its first word is the id of whom it is about, so a reader with the id of the next
//! occupant of a place finds nothing rather than the numbers of the one before.

use crate::id::{PeerId, SlotId, StreamId};

/// Words of a tally at most. With the sequence that guards them they are a row of two cache lines.
pub const TALLY_WORDS_MAX: usize = 15;

/// A tally's words, zeros behind the last.
pub type TallyWords = [u64; TALLY_WORDS_MAX];

/// Something that is one word of a tally.
trait Word: Sized {
    fn to_word(self) -> u64;
    fn from_word(word: u64) -> Self;
}

impl Word for u64 {
    fn to_word(self) -> u64 {
        self
    }
    fn from_word(word: u64) -> Self {
        word
    }
}

/// All ones: not known.
impl Word for Option<u64> {
    fn to_word(self) -> u64 {
        self.unwrap_or(u64::MAX)
    }
    fn from_word(word: u64) -> Self {
        (word != u64::MAX).then_some(word)
    }
}

/// Declares a tally: its struct, its words, and its part of the layout text.
macro_rules! tally {
    ($(#[$doc:meta])* $name:ident, $layout:ident of $(#[$idoc:meta])* $id:ident: $id_type:ident {
        $($(#[$fdoc:meta])* $field:ident: $ty:ty),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name { $(#[$idoc])* pub $id: $id_type, $($(#[$fdoc])* pub $field: $ty),* }

        const _: () = assert!(1 $(+ { stringify!($field); 1 })* <= TALLY_WORDS_MAX, "the row is too short");

        impl $name {
            /// The words as they lie in the row: id, fields in order, zeros.
            pub fn write(&self) -> TallyWords {
                let mut words = [0; TALLY_WORDS_MAX];
                let values = [id_word(self.$id.index, self.$id.generation), $(self.$field.to_word()),*];
                words[..values.len()].copy_from_slice(&values);
                words
            }

            /// Reads the row of `id`; `None` if it is not about it, or was never written.
            pub fn read(id: $id_type, words: &TallyWords) -> Option<Self> {
                let mut words = words.iter().copied();
                let is_it = id.generation != 0 && words.next() == Some(id_word(id.index, id.generation));
                is_it.then_some($name { $id: id, $($field: <$ty as Word>::from_word(words.next()?)),* })
            }
        }

        const $layout: &str = concat!(stringify!($name), "{", $(stringify!($field), ":", stringify!($ty), ",",)* "}");
    };
}

const fn id_word(index: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | index as u64
}

tally! {
    /// What came from a peer in one stream. Counts begin with the stream; retransmissions are not in them, as in RFC 4588
    /// §4.
    StreamTally, STREAM_LAYOUT of
    /// Which stream.
    stream: StreamId {
        /// Authentic packets, each once.
        packets: u64,
        /// Bytes of their payloads.
        bytes: u64,
        /// Packets that would have come without any loss (RFC 3550 App. A.3).
        expected: u64,
        /// Packets that came as a retransmission alone.
        repaired: u64,
        /// Sequence numbers that were asked for by NACK.
        nacks: u64,
        /// Keyframes that were asked for.
        keyframe_requests: u64,
        /// Packets dropped because more came than the room allows.
        policed: u64,
        /// How long the window was in which the rest was counted, microseconds: the last two to four seconds. 0: too new.
        window_us: u64,
        /// Packets in the window.
        window_packets: u64,
        /// Bytes in the window.
        window_bytes: u64,
        /// Packets expected in the window.
        window_expected: u64,
    }
}

tally! {
    /// What went to a peer through one slot. Counts begin with the slot; retransmissions are counted apart.
    SlotTally, SLOT_LAYOUT of
    /// Which slot.
    slot: SlotId {
        /// Packets that left.
        packets: u64,
        /// Bytes of their payloads.
        bytes: u64,
        /// Retransmissions that left.
        retransmitted: u64,
        /// Sequence numbers that the receiver asked for by NACK.
        nacks: u64,
        /// Keyframes that the receiver asked for.
        keyframe_requests: u64,
        /// Fraction lost of its last report, in 256ths (RFC 3550 §6.4.1), unless that is long ago.
        loss_256: Option<u64>,
        /// Round trip by its last report that tells it, microseconds, unless that is long ago.
        rtt_us: Option<u64>,
        /// As in [`StreamTally`].
        window_us: u64,
        /// Packets in the window.
        window_packets: u64,
        /// Bytes in the window.
        window_bytes: u64,
        /// Which encoding of the video the receiver's path allows: 0 is none, it is paused; 1 is the lowest. Not known of sound.
        allocation: Option<u64>,
    }
}

tally! {
    /// What a peer's path carries towards it, as far as its transport-cc feedback tells.
    PeerTally, PEER_LAYOUT of
    /// Which peer.
    peer: PeerId {
        /// The estimate, bit/s, of all that leaves: media, repairs, padding and headers. None without feedback.
        estimate_bps: Option<u64>,
        /// What arrives, bit/s.
        acknowledged_bps: Option<u64>,
        /// What its videos would take if there were no limit, with sound and repairs, bit/s.
        wanted_bps: u64,
        /// Lost of the last seconds, in 65536ths.
        loss_65536: u64,
        /// Videos that are paused because its path does not carry them.
        paused: u64,
        /// Probes so far.
        probes: u64,
    }
}

/// A tally of any kind, on its way to its row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tally {
    /// Of a stream.
    Stream(StreamTally),
    /// Of a slot.
    Slot(SlotTally),
    /// Of a peer's path.
    Peer(PeerTally),
}

/// The declarations above, for the layout hash.
pub(super) const LAYOUTS: [&str; 3] = [STREAM_LAYOUT, SLOT_LAYOUT, PEER_LAYOUT];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot_tally(slot: SlotId, n: [u64; 8], loss_256: Option<u64>, rtt_us: Option<u64>) -> SlotTally {
        let [packets, bytes, retransmitted, nacks, keyframe_requests, window_us, window_packets, window_bytes] = n;
        SlotTally {
            slot,
            packets,
            bytes,
            retransmitted,
            nacks,
            keyframe_requests,
            loss_256,
            rtt_us,
            window_us,
            window_packets,
            window_bytes,
            allocation: loss_256,
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(n: [u64; 8], index: u32, generation in 1..u32::MAX, loss in 0..256u64, rtt in 0..u64::MAX) {
            let slot = SlotId::new(index, generation);
            let tally = slot_tally(slot, n, Some(loss), Some(rtt));
            prop_assert_eq!(SlotTally::read(slot, &tally.write()), Some(tally));
            let tally = slot_tally(slot, n, None, None);
            prop_assert_eq!(SlotTally::read(slot, &tally.write()), Some(tally));
            let next = SlotId::new(index, generation + 1);
            prop_assert_eq!(SlotTally::read(next, &tally.write()), None);
        }

        #[test]
        fn any_words_read_as_numbers_or_not_at_all(words: [u64; TALLY_WORDS_MAX], index: u32, generation: u32) {
            let stream = StreamId::new(index, generation);
            if let Some(tally) = StreamTally::read(stream, &words) {
                prop_assert_eq!(tally.stream, stream);
            }
            prop_assert_eq!(StreamTally::read(StreamId::new(index, 0), &[0; TALLY_WORDS_MAX]), None);
        }
    }
}
