//! Leaf: frames of one stream that a receiver is not sent, because they are of a layer that it does not get. Their sequence numbers
//! close up, and so do the PictureIDs of pictures of which nothing is sent: the receiver sees a stream that never had them.
//!
//! What is left out behind a packet lowers the numbers of all that follow. A packet that comes late, and one that is to be repaired, has
//! the numbers of its place: so the last runs of what was left out are remembered.

use crate::dependency::SPATIAL_MAX;

/// Runs that are remembered, for each slot. Where the base layer alone is sent, they are the last half second.
const RUNS: usize = 4;

/// What tells a frame from all others of its stream that are not long ago: its timestamp, and its spatial layer on top. Pictures are further apart than
/// that many ticks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct FrameKey(u32);

impl FrameKey {
    pub(crate) fn new(timestamp: u32, spatial: u8) -> FrameKey {
        FrameKey(timestamp.wrapping_add(spatial.into()))
    }

    pub(crate) fn is_of_picture(self, other: FrameKey) -> bool {
        (self.0.wrapping_sub(other.0) as i32).unsigned_abs() < SPATIAL_MAX as u32
    }
}

/// Packets that follow each other and were left out.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Run {
    /// Index of the first.
    first: u64,
    packets: u16,
    frames: u16,
    /// Its first and its last frame: a packet of these that comes late is left out, too.
    ends: (FrameKey, FrameKey),
}

impl Run {
    fn end(&self) -> u64 {
        self.first + u64::from(self.packets)
    }
}

/// Packets, and frames whose PictureIDs close up, that were left out between a packet and the newest.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Behind {
    pub(crate) packets: u64,
    pub(crate) frames: u16,
}

/// The newest runs of one segment, newest first.
#[derive(Clone, Default, Debug)]
pub(crate) struct LeftOut {
    runs: [Run; RUNS],
    count: u8,
    /// Packets before this index have numbers that nobody knows any more.
    known_from: u64,
}

impl LeftOut {
    /// Leaves out the newest packet of the stream; `is_picture` if nothing of its picture is sent, and pictures are numbered in a row. What it
    /// takes from the sequence numbers and PictureIDs of all that follow.
    pub(crate) fn leave_out(&mut self, index: u64, frame: FrameKey, is_picture: bool) -> Behind {
        let newest = &mut self.runs[0];
        let gap = index.saturating_sub(newest.end());
        // What is missing within a frame is of that frame.
        let is_same_frame = self.count > 0 && newest.ends.1 == frame;
        let frames = u16::from(is_picture && !(self.count > 0 && newest.ends.1.is_of_picture(frame)));
        if self.count > 0 && index >= newest.end() && (gap == 0 || is_same_frame) {
            let packets = gap + 1;
            if let Ok(sum) = u16::try_from(u64::from(newest.packets) + packets) {
                newest.packets = sum;
                newest.frames += frames;
                newest.ends.1 = frame;
                return Behind { packets, frames };
            }
        }
        if usize::from(self.count) == RUNS {
            self.known_from = self.runs[RUNS - 1].end();
        }
        self.runs.rotate_right(1);
        self.runs[0] = Run { first: index, packets: 1, frames, ends: (frame, frame) };
        self.count = (self.count + 1).min(RUNS as u8);
        Behind { packets: 1, frames }
    }

    /// Whether nothing was left out behind a packet that has this index or a higher one.
    #[inline]
    pub(crate) fn is_behind_all(&self, index: u64) -> bool {
        self.count == 0 || index >= self.runs[0].end()
    }

    /// What was left out behind the packet with this index. `None`: it was left out itself, or nobody knows any more.
    pub(crate) fn behind(&self, index: u64, frame: FrameKey) -> Option<Behind> {
        let mut behind = Behind::default();
        for run in &self.runs[..usize::from(self.count)] {
            if frame == run.ends.0 || frame == run.ends.1 {
                return None;
            }
            if index >= run.end() {
                break;
            }
            if index >= run.first {
                return None;
            }
            behind.packets += u64::from(run.packets);
            behind.frames += run.frames;
        }
        (index >= self.known_from).then_some(behind)
    }

    /// The index of a packet that has left, and what was left out behind it. `index_if_none` is what its index would be if nothing had
    /// been left out since.
    pub(crate) fn origin(&self, index_if_none: u64) -> Option<(u64, Behind)> {
        let (mut index, mut behind) = (index_if_none, Behind::default());
        for run in &self.runs[..usize::from(self.count)] {
            if index >= run.end() {
                break;
            }
            index = index.checked_sub(run.packets.into())?;
            behind.packets += u64::from(run.packets);
            behind.frames += run.frames;
        }
        (index >= self.known_from).then_some((index, behind))
    }

    /// Whether this frame was left out.
    pub(crate) fn has_frame(&self, frame: FrameKey) -> bool {
        self.runs[..usize::from(self.count)].iter().any(|run| run.ends.0 == frame || run.ends.1 == frame)
    }

    /// The first index of which all that follow have the numbers of the newest.
    pub(crate) fn end(&self) -> u64 {
        if self.count == 0 { self.known_from } else { self.runs[0].end() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(timestamp: u32) -> FrameKey {
        FrameKey::new(timestamp, 0)
    }

    #[test]
    fn what_is_left_out_closes_up_and_what_is_late_has_its_place() {
        let mut left_out = LeftOut::default();
        // 10 is sent, 11 and 12 are a frame that is left out, 13 is sent, 14 is left out.
        assert_eq!(left_out.leave_out(11, key(100), true), Behind { packets: 1, frames: 1 });
        assert_eq!(left_out.leave_out(12, key(100), true), Behind { packets: 1, frames: 0 });
        assert_eq!(left_out.leave_out(14, key(300), true), Behind { packets: 1, frames: 1 });
        assert!(left_out.is_behind_all(15) && !left_out.is_behind_all(13));
        assert_eq!(left_out.behind(15, key(400)), Some(Behind::default()));
        assert_eq!(left_out.behind(13, key(200)), Some(Behind { packets: 1, frames: 1 }));
        assert_eq!(left_out.behind(10, key(50)), Some(Behind { packets: 3, frames: 2 }));
        assert_eq!(left_out.behind(12, key(100)), None);
        assert_eq!(left_out.behind(10, key(100)), None, "the first packet of what was left out, late");
    }

    #[test]
    fn a_layer_of_a_picture_is_no_picture() {
        let mut left_out = LeftOut::default();
        let frame = |timestamp, layer| FrameKey::new(timestamp, layer);
        // 10 is the base of a picture that is sent, 11 the layer above it that is not.
        assert_eq!(left_out.leave_out(11, frame(100, 1), false), Behind { packets: 1, frames: 0 });
        assert_eq!(left_out.behind(10, frame(100, 0)), Some(Behind { packets: 1, frames: 0 }), "late, and sent");
        assert_eq!(left_out.behind(11, frame(100, 1)), None);
        assert!(left_out.has_frame(frame(100, 1)) && !left_out.has_frame(frame(100, 0)));
        // Both layers of a picture that is not sent are one picture.
        assert_eq!(left_out.leave_out(12, frame(200, 0), true), Behind { packets: 1, frames: 1 });
        assert_eq!(left_out.leave_out(13, frame(200, 1), true), Behind { packets: 1, frames: 0 });
    }

    #[test]
    fn what_is_missing_within_a_frame_that_is_left_out_is_left_out() {
        let mut left_out = LeftOut::default();
        left_out.leave_out(11, key(100), true);
        assert_eq!(left_out.leave_out(13, key(100), true), Behind { packets: 2, frames: 0 });
        assert_eq!(left_out.behind(12, key(100)), None);
        assert_eq!(left_out.behind(14, key(200)), Some(Behind::default()));
    }

    proptest! {
        /// Against a list of all packets.
        #[test]
        fn numbers_are_those_of_a_stream_that_never_had_it(frames in prop::collection::vec((1u64..4, any::<bool>()), 1..60)) {
            let (mut left_out, mut index, mut offset, mut pictures) = (LeftOut::default(), 100u64, 0u64, 0u16);
            // Index, timestamp, sequence number and picture of what is sent.
            let mut sent = Vec::new();
            for (n, (packets, is_left_out)) in frames.iter().enumerate() {
                for _ in 0..*packets {
                    let timestamp = n as u32 * 3000;
                    if *is_left_out {
                        let behind = left_out.leave_out(index, key(timestamp), true);
                        offset += behind.packets;
                        pictures += behind.frames;
                    } else {
                        sent.push((index, timestamp, index - offset, n as u16 - pictures));
                    }
                    index += 1;
                }
            }
            prop_assert!(sent.windows(2).all(|pair| pair[0].2 + 1 == pair[1].2));
            for (place, (index, timestamp, seq, picture)) in sent.iter().enumerate() {
                let n = (*timestamp / 3000) as u16;
                if let Some(behind) = left_out.behind(*index, key(*timestamp)) {
                    prop_assert_eq!((index + behind.packets - offset, n + behind.frames - pictures), (*seq, *picture));
                }
                match left_out.origin(seq + offset) {
                    Some((of, behind)) => {
                        prop_assert_eq!((of, n + behind.frames - pictures), (*index, *picture));
                    }
                    None => prop_assert!(sent.len() - place > RUNS, "the last ones are known"),
                }
            }
        }
    }
}
