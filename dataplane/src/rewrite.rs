//! Continuity of a slot: whatever is routed into it, the receiver sees one stream with one SSRC, whose sequence
//! numbers, timestamps and numbers of pictures go on.
//!
//! A gap of the input stays a gap of the output: a receiver that is not told of a loss freezes, one that is told
//! asks for a repair. Only what a route withholds on purpose closes up, because the next segment starts right
//! after the last packet that left; and an outage that nobody could repair, which begins a segment too.

use crate::config::Micros;
use crate::left_out::{Behind, FrameKey, LeftOut};
use crate::picture::{Last, PictureNumbers, Renumber, Shift};
use crate::srtp::Window;
use crate::store::Source;

/// How many earlier segments are remembered for repairs of packets sent before a switch.
const SEGMENTS: usize = 4;

/// A run of output packets that came from one stream with constant offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Segment {
    source: Source,
    /// Output index of its first packet.
    out_first: u64,
    /// How many output indices behind the first the offsets hold from: in front of that packets were left out.
    known_after: u32,
    /// Index of the input packet that began it: older ones belong to what was withheld.
    in_first: u64,
    /// Added to the input index, wrapping.
    index_offset: u64,
    /// Added to the input timestamp, wrapping.
    timestamp_offset: u32,
    /// Added to the numbers of its pictures.
    pictures: Shift,
    /// Added to the frame numbers of its dependency descriptors, once there was one.
    frames: Option<u16>,
}

/// Parameter sets that a segment begins with: how many, and in which version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ahead {
    pub(crate) count: u8,
    pub(crate) version: u16,
}

/// Those of the newest segment that began with any.
#[derive(Clone, Copy, Debug, Default)]
struct SentAhead {
    /// Output index of the first.
    out_first: u64,
    timestamp: u32,
    what: Ahead,
}

impl Segment {
    /// What maps a packet of it: the first index, what is added to indices and timestamps, and the shifts of pictures and frames.
    #[inline]
    fn numbers(&self) -> (u64, u64, u32, Shift, Option<u16>) {
        (self.in_first, self.index_offset, self.timestamp_offset, self.pictures, self.frames)
    }
}

/// What a repair needs to know of a packet that left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    pub(crate) source: Source,
    /// The packet's index in its stream.
    pub(crate) index: u64,
    /// The packet's index as it left.
    pub(crate) out_index: u64,
    pub(crate) timestamp_offset: u32,
    /// Added to the numbers of its picture.
    pub(crate) pictures: Shift,
    /// Added to the frame number of its dependency descriptor.
    pub(crate) frames: u16,
    /// Whether parameter sets were sent ahead of it.
    pub(crate) is_behind_sets: bool,
    /// Index of the first packet of the run that it is of.
    pub(crate) first_index: u64,
    /// If it is no packet of the stream but a parameter set: which one, of which version, and its timestamp.
    pub(crate) set: Option<(u8, u16, u32)>,
}

/// A packet of a stream that is to leave through the slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    pub(crate) source: Source,
    pub(crate) index: u64,
    pub(crate) timestamp: u32,
    /// Of the timestamp, Hz.
    pub(crate) clock_rate: u32,
    /// What makes times on the clock that all streams share of the stream's timestamps, in ticks, if that is known.
    pub(crate) wall: Option<u32>,
    /// The numbers of its picture, if it carries any.
    pub(crate) pictures: Option<PictureNumbers>,
    /// Spatial layer and frame number, if a dependency descriptor says them.
    pub(crate) frame: Option<(u8, u16)>,
}

impl Input {
    pub(crate) fn frame_key(&self) -> FrameKey {
        FrameKey::new(self.timestamp, self.frame.map_or(0, |(spatial, _)| spatial))
    }
}

/// The numbers under which a packet may leave. The slot knows nothing of them until it has ([`Rewriter::sent`]), so a
/// packet that found no room leaves no trace: in the midst of a segment it is a gap, and a segment whose first packet
/// did not leave has not begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    /// The segment that begins with it, unless it goes on in the live one.
    begun: Option<Segment>,
    /// What the numbers of its picture become, if it carries any.
    pub(crate) renumber: Option<Renumber>,
    /// Frame number of its dependency descriptor, and what was added to make it.
    pub(crate) frame: Option<(u16, u16)>,
    /// Whether packets were left out behind it.
    is_late: bool,
    pub(crate) out_index: u64,
    pub(crate) timestamp: u32,
    wall: Option<u32>,
}

impl Mapping {
    /// Whether it is of the live segment.
    pub(crate) fn goes_on(&self) -> bool {
        self.begun.is_none()
    }
}

/// Maps one stream after another onto a slot's numbers.
pub(crate) struct Rewriter {
    /// Newest first; the first is live while `is_live`.
    segments: [Option<Segment>; SEGMENTS],
    is_live: bool,
    /// Packets of the newest segment that did not leave.
    layers: LeftOut,
    /// Timestamp of the packet with the highest index, when it left, and its picture.
    timestamp_last: u32,
    sent_last: Option<Micros>,
    picture_last: Last,
    /// The highest frame number of a dependency descriptor that left.
    frame_last: Option<u16>,
    ahead: SentAhead,
    /// As [`Input::wall`] of the packet that left last.
    wall_last: Option<u32>,
    /// The same, and the timestamp offset, of the encoding that the slot took before, whose track goes on with another one.
    aligned: Option<(u32, u32)>,
    /// A stream of which packets were left out, and its timestamp offset.
    left_out: Option<(Source, u32)>,
}

impl Rewriter {
    /// A slot whose first timestamp is `timestamp_first`.
    pub(crate) fn new(timestamp_first: u32) -> Self {
        Rewriter {
            segments: [None; SEGMENTS],
            is_live: false,
            layers: LeftOut::default(),
            timestamp_last: timestamp_first,
            sent_last: None,
            picture_last: Last::default(),
            frame_last: None,
            ahead: SentAhead::default(),
            wall_last: None,
            aligned: None,
            left_out: None,
        }
    }

    /// The next packet begins a segment: another stream, or the same one after a pause.
    pub(crate) fn cut(&mut self) {
        (self.is_live, self.aligned, self.left_out) = (false, None, None);
    }

    /// The next packet begins a segment with another encoding of the same track: a frame has the time at which it was captured,
    /// whichever of them it comes by.
    pub(crate) fn switch(&mut self) {
        self.aligned = self.wall_last.zip(self.timestamp_offset());
        self.is_live = false;
    }

    /// The next packet begins a segment of the same stream, of which packets were left out: their numbers close up, and the
    /// timestamps go on.
    pub(crate) fn leave_out(&mut self) {
        self.left_out = self.live().map(|segment| (segment.source, segment.timestamp_offset)).or(self.left_out);
        self.is_live = false;
    }

    /// The newest packet of the live segment does not leave: the numbers of what follows close up, and those of pictures if nothing of its
    /// picture leaves. Frame numbers of dependency descriptors do not: frames refer to each other by their difference.
    pub(crate) fn leave_out_frame(&mut self, input: &Input, is_picture: bool) {
        let Some(live) = self.segments[0].as_mut().filter(|_| self.is_live) else { return };
        let Behind { packets, frames } = self.layers.leave_out(input.index, input.frame_key(), is_picture);
        live.index_offset = live.index_offset.wrapping_sub(packets);
        live.pictures = live.pictures.after(frames);
    }

    /// Whether this frame was left out of the newest segment, not long ago.
    pub(crate) fn has_left_out(&self, frame: FrameKey) -> bool {
        self.layers.has_frame(frame)
    }

    /// Whether an input packet is further ahead of the live segment than any loss that could still be repaired. Its gap
    /// closes up: a receiver's SRTP loses count where sequence numbers jump by half their range, and the slot would be
    /// deaf for the rest of the call, whoever is routed into it. `next` is the slot's next output index.
    #[inline]
    pub(crate) fn is_jump(&self, index: u64, next: u64) -> bool {
        let highest = self.live().map(|segment| (next - 1).wrapping_sub(segment.index_offset));
        highest.is_some_and(|highest| index > highest + Window::WIDTH)
    }

    #[inline]
    fn live(&self) -> Option<&Segment> {
        self.segments[0].as_ref().filter(|_| self.is_live)
    }

    /// Where a packet goes: on in the live segment, or else at the start of a new one, which begins with the output index
    /// `next`. `None` if it is older than the live segment.
    #[inline]
    pub(crate) fn map(&self, input: &Input, next: u64, now: Micros) -> Option<Mapping> {
        let (mut begun, mut numbers) = (None, self.live().map(Segment::numbers));
        let mut behind = Behind::default();
        if numbers.is_some() && !self.layers.is_behind_all(input.index) {
            behind = self.layers.behind(input.index, input.frame_key())?;
        }
        if numbers.is_none() {
            begun = Some(self.segment_from(input, Ahead::default(), next, now));
            numbers = begun.as_ref().map(Segment::numbers);
        }
        let (in_first, index_offset, timestamp_offset, shift, frames) = numbers?;
        if input.index < in_first {
            return None;
        }
        let covering = |pictures| {
            let shift = shift.covering(&pictures, &self.picture_last).before(behind.frames);
            Renumber { pictures, shift }
        };
        Some(Mapping {
            begun,
            renumber: input.pictures.map(covering),
            frame: input.frame.map(|(_, number)| self.frame_number(number, frames)),
            is_late: behind != Behind::default(),
            out_index: input.index.wrapping_add(index_offset).wrapping_add(behind.packets),
            timestamp: input.timestamp.wrapping_add(timestamp_offset),
            wall: input.wall,
        })
    }

    /// Begins a segment with parameter sets, from the output index `next` on, and this packet behind them.
    pub(crate) fn map_behind(&mut self, ahead: Ahead, input: &Input, next: u64, now: Micros) -> Mapping {
        self.is_live = false;
        let segment = self.segment_from(input, ahead, next, now);
        let timestamp = input.timestamp.wrapping_add(segment.timestamp_offset);
        self.ahead = SentAhead { out_first: segment.out_first, timestamp, what: ahead };
        Mapping {
            begun: Some(segment),
            renumber: input.pictures.map(|pictures| Renumber { pictures, shift: segment.pictures }),
            frame: input.frame.map(|(_, number)| self.frame_number(number, None)),
            is_late: false,
            out_index: input.index.wrapping_add(segment.index_offset),
            timestamp,
            wall: input.wall,
        }
    }

    /// A frame number as it leaves, and what is added to make it: in a segment that has had none, the next after the last.
    #[inline]
    fn frame_number(&self, number: u16, shift: Option<u16>) -> (u16, u16) {
        let next = || self.frame_last.map_or(0, |last| last.wrapping_add(1).wrapping_sub(number));
        let shift = shift.unwrap_or_else(next);
        (number.wrapping_add(shift), shift)
    }

    /// A segment that begins with this packet, and with what is sent ahead of it.
    fn segment_from(&self, input: &Input, ahead: Ahead, out_first: u64, now: Micros) -> Segment {
        let left_out = self.left_out.filter(|(source, _)| *source == input.source);
        let timestamp_out = match self.sent_last {
            _ if left_out.is_some() => input.timestamp.wrapping_add(left_out.map_or(0, |(_, offset)| offset)),
            None => self.timestamp_last,
            Some(sent) => {
                let elapsed = (u128::from(now.saturating_sub(sent)) * u128::from(input.clock_rate) / 1_000_000) as u32;
                let ahead = self.captured_since(input).filter(|ticks| {
                    ticks.wrapping_sub(elapsed as i32).unsigned_abs() < input.clock_rate // Else one clock is wrong.
                });
                // At least one tick, so that two frames never share a timestamp.
                self.timestamp_last.wrapping_add(ahead.map_or(elapsed, |ticks| ticks.max(0) as u32).max(1))
            }
        };
        Segment {
            source: input.source,
            out_first,
            known_after: 0,
            in_first: input.index,
            index_offset: (out_first + u64::from(ahead.count)).wrapping_sub(input.index),
            timestamp_offset: timestamp_out.wrapping_sub(input.timestamp),
            pictures: Shift::default(),
            frames: None,
        }
    }

    /// How much later a frame of another encoding of the same track was captured than the last one that left, in ticks, if both
    /// have a common clock.
    fn captured_since(&self, input: &Input) -> Option<i32> {
        let ((wall_before, offset_before), wall) = self.aligned.zip(input.wall)?;
        let as_before = input.timestamp.wrapping_add(wall).wrapping_sub(wall_before).wrapping_add(offset_before);
        Some(as_before.wrapping_sub(self.timestamp_last) as i32)
    }

    /// A packet left as it was mapped; `is_newest` if none with a higher index had.
    #[inline]
    pub(crate) fn sent(&mut self, mapping: &Mapping, is_newest: bool, now: Micros) {
        if let Some(segment) = mapping.begun {
            let layers = std::mem::take(&mut self.layers);
            if let Some(before) = self.segments[0].as_mut().filter(|_| layers.end() > 0) {
                let after = layers.end().wrapping_add(before.index_offset).saturating_sub(before.out_first);
                before.known_after = before.known_after.max(u32::try_from(after).unwrap_or(u32::MAX));
            }
            self.segments.rotate_right(1);
            self.segments[0] = Some(segment);
            (self.is_live, self.aligned, self.left_out) = (true, None, None);
        }
        if is_newest {
            self.wall_last = mapping.wall;
            self.timestamp_last = mapping.timestamp;
            self.sent_last = Some(now);
        }
        if let Some((number, shift)) = mapping.frame {
            if let Some(live) = &mut self.segments[0] {
                live.frames = Some(shift);
            }
            if self.frame_last.is_none_or(|last| (number.wrapping_sub(last) as i16) > 0) {
                self.frame_last = Some(number);
            }
        }
        if let Some(Renumber { pictures, shift }) = mapping.renumber {
            if let Some(live) = self.segments[0].as_mut().filter(|_| !mapping.is_late) {
                live.pictures = shift;
            }
            if is_newest {
                self.picture_last.sent(&pictures, &shift);
            }
        }
    }

    /// Timestamp of the packet with the highest index, or the first one.
    pub(crate) fn timestamp_last(&self) -> u32 {
        self.timestamp_last
    }

    /// Timestamp offset of the live segment, for sender reports.
    pub(crate) fn timestamp_offset(&self) -> Option<u32> {
        self.live().map(|segment| segment.timestamp_offset)
    }

    /// Where the packet with this output sequence number came from; `next` is the slot's next output index.
    pub(crate) fn origin(&self, seq: u16, next: u64) -> Option<Origin> {
        // The latest index with this sequence number that is not in the future.
        let highest = next.checked_sub(1)?;
        let behind = (highest as u16).wrapping_sub(seq);
        let out_index = highest.checked_sub(u64::from(behind))?;
        let of = |segment: &Option<Segment>| segment.is_some_and(|segment| out_index >= segment.out_first);
        let place = self.segments.iter().position(of)?;
        let segment = self.segments[place].as_ref()?;
        let mut index = out_index.wrapping_sub(segment.index_offset);
        let mut behind = Behind::default();
        if place == 0 {
            (index, behind) = self.layers.origin(index)?;
        } else if out_index - segment.out_first < segment.known_after.into() {
            return None;
        }
        let mut set = None;
        if (index.wrapping_sub(segment.in_first) as i64) < 0 {
            // Before the first packet are the sets; only the newest are known.
            let SentAhead { out_first, timestamp, what } = self.ahead;
            let place = out_index.checked_sub(out_first).filter(|place| *place < what.count.into())?;
            set = Some((place as u8, what.version, timestamp));
        }
        Some(Origin {
            source: segment.source,
            index,
            out_index,
            timestamp_offset: segment.timestamp_offset,
            pictures: segment.pictures.before(behind.frames),
            frames: segment.frames.unwrap_or(0),
            is_behind_sets: self.ahead.what.count > 0
                && self.ahead.out_first == segment.out_first
                && index == segment.in_first,
            first_index: segment.in_first,
            set,
        })
    }
}

#[cfg(test)]
mod tests {
    use proto::id::StreamId;

    use super::*;

    const A: Source = Source { stream: StreamId::new(0, 1), ssrc: 7 };
    const B: Source = Source { stream: StreamId::new(1, 1), ssrc: 8 };

    fn input(source: Source, index: u64, timestamp: u32) -> Input {
        Input { source, index, timestamp, clock_rate: 90_000, wall: None, pictures: None, frame: None }
    }

    /// A rewriter, and the next output index of its slot.
    struct Slot(Rewriter, u64);

    impl Slot {
        fn new(next: u64, timestamp_first: u32) -> Slot {
            Slot(Rewriter::new(timestamp_first), next)
        }

        fn map(&self, input: &Input, now: Micros) -> Option<Mapping> {
            self.0.map(input, self.1, now)
        }

        fn sent(&mut self, mapping: &Mapping, now: Micros) {
            self.0.sent(mapping, mapping.out_index >= self.1, now);
            self.1 = self.1.max(mapping.out_index + 1);
        }

        fn cut(&mut self) {
            self.0.cut();
        }

        fn origin(&self, seq: u16) -> Option<Origin> {
            self.0.origin(seq, self.1)
        }
    }

    /// A packet that leaves: its index and timestamp.
    fn pass(r: &mut Slot, source: Source, index: u64, timestamp: u32, now: Micros) -> Option<(u64, u32)> {
        let mapping = r.map(&input(source, index, timestamp), now)?;
        r.sent(&mapping, now);
        Some((mapping.out_index, mapping.timestamp))
    }

    #[test]
    fn gaps_stay_and_switches_close_up() {
        let mut r = Slot::new(100, 5000);
        assert_eq!(pass(&mut r, A, 70_000, 1_000_000, 0), Some((100, 5000)));
        assert_eq!(pass(&mut r, A, 70_003, 1_003_000, 33_000), Some((103, 8000)), "the gap of two stays");
        assert_eq!(pass(&mut r, A, 70_001, 1_000_000, 34_000), Some((101, 5000)), "a late packet fills it");
        assert_eq!(pass(&mut r, A, 69_999, 1, 0), None, "older than the segment");
        r.cut();
        assert_eq!(r.0.timestamp_offset(), None, "no segment runs");
        assert_eq!(pass(&mut r, B, 9, 77, 133_000), Some((104, 8000 + 9000)), "next number, 100 ms later");
        assert_eq!(pass(&mut r, B, 8, 0, 133_000), None, "nothing of before the switch passes");
    }

    #[test]
    fn a_switch_without_time_still_moves_the_timestamp() {
        let mut r = Slot::new(1, u32::MAX);
        assert_eq!(pass(&mut r, A, 5, 10, 50), Some((1, u32::MAX)));
        r.cut();
        assert_eq!(pass(&mut r, B, 5, 10, 50), Some((2, 0)));
    }

    #[test]
    fn another_encoding_goes_on_at_the_time_of_its_capture() {
        let mut r = Slot::new(100, 5000);
        let at = |source, index, timestamp, wall| Input { wall, ..input(source, index, timestamp) };
        let pass = |r: &mut Slot, input: Input, now| {
            let mapping = r.map(&input, now).unwrap();
            r.sent(&mapping, now);
            (mapping.out_index, mapping.timestamp)
        };
        assert_eq!(pass(&mut r, at(A, 7, 1000, Some(90_000)), 0), (100, 5000));
        // Captured 50 ms later, as both clocks say, and sent 10 ms later.
        r.0.switch();
        assert_eq!(pass(&mut r, at(B, 9, 500, Some(95_000)), 10_000), (101, 5000 + 4500));
        // The same frame again: no two share a timestamp.
        r.0.switch();
        assert_eq!(pass(&mut r, at(A, 8, 5500, Some(90_000)), 20_000), (102, 9501));
        // Clocks that are apart by more than a second are not believed, nor is one that is not known.
        r.0.switch();
        assert_eq!(pass(&mut r, at(B, 10, 500, Some(500_000)), 30_000), (103, 9501 + 900));
        r.0.switch();
        assert_eq!(pass(&mut r, at(A, 9, 500, None), 40_000), (104, 9501 + 1800));
    }

    #[test]
    fn what_is_sent_ahead_has_numbers_of_its_own() {
        let mut r = Slot::new(100, 5000);
        pass(&mut r, B, 9, 77, 0);
        let mapping = r.0.map_behind(Ahead { count: 2, version: 7 }, &input(A, 70_000, 1_000_000), r.1, 10_000);
        assert_eq!((mapping.out_index, mapping.timestamp), (103, 5900));
        r.sent(&mapping, 10_000);
        let of = |r: &Slot, seq| r.origin(seq).map(|o| (o.source, o.set, o.index));
        assert_eq!(of(&r, 100), Some((B, None, 9)));
        assert_eq!([101, 102].map(|seq| r.origin(seq).and_then(|o| o.set)), [Some((0, 7, 5900)), Some((1, 7, 5900))]);
        assert_eq!(of(&r, 103), Some((A, None, 70_000)));
        assert_eq!(pass(&mut r, A, 69_999, 0, 0), None, "older than the segment");
        assert_eq!(pass(&mut r, A, 70_001, 1_000_000, 20_000), Some((104, 5900)));
    }

    #[test]
    fn frames_that_are_left_out_close_up_and_repairs_find_their_place() {
        let mut r = Slot::new(100, 5000);
        assert_eq!(pass(&mut r, A, 10, 0, 0), Some((100, 5000)));
        r.0.leave_out_frame(&input(A, 11, 3000), true);
        r.0.leave_out_frame(&input(A, 12, 3000), true);
        assert_eq!(
            pass(&mut r, A, 14, 6000, 0),
            Some((102, 11_000)),
            "13 is missing, which is no layer that is left out"
        );
        r.0.leave_out_frame(&input(A, 15, 9000), true);
        assert_eq!(pass(&mut r, A, 16, 12_000, 0), Some((103, 17_000)));
        assert_eq!(pass(&mut r, A, 13, 6000, 0), Some((101, 11_000)), "it comes late, and has its place");
        assert_eq!(pass(&mut r, A, 12, 3000, 0), None);
        let origins = [100, 101, 102, 103].map(|seq| r.origin(seq).map(|origin| origin.index));
        assert_eq!(origins, [Some(10), Some(13), Some(14), Some(16)]);
        r.cut();
        pass(&mut r, B, 500, 77, 0);
        assert_eq!([103, 104].map(|seq| r.origin(seq).map(|o| o.index)), [Some(16), Some(500)]);
        assert_eq!(r.origin(101), None, "nobody knows any more what was left out before the change");
    }

    #[test]
    fn frame_numbers_keep_their_differences_and_go_on_at_a_change() {
        let mut r = Slot::new(100, 5000);
        let at =
            |source, index, frame| Input { frame: Some((0, frame)), ..input(source, index, u32::from(frame) * 3000) };
        let pass = |r: &mut Slot, input: Input| {
            let mapping = r.map(&input, 0)?;
            r.sent(&mapping, 0);
            Some((mapping.out_index, mapping.frame?.0))
        };
        assert_eq!(pass(&mut r, at(A, 10, 65_534)), Some((100, 65_534)), "the first source keeps its numbers");
        r.0.leave_out_frame(&at(A, 11, 65_535), true);
        assert_eq!(pass(&mut r, at(A, 12, 0)), Some((101, 0)), "what refers two back still does");
        r.cut();
        assert_eq!(pass(&mut r, at(B, 500, 77)), Some((102, 1)));
        assert_eq!(pass(&mut r, at(B, 502, 79)), Some((104, 3)));
        assert_eq!(pass(&mut r, at(B, 501, 78)), Some((103, 2)), "late");
        assert_eq!([102, 103].map(|seq| r.origin(seq).map(|o| o.frames)), [Some(1u16.wrapping_sub(77)); 2]);
        assert_eq!(pass(&mut r, at(B, 503, 80)), Some((105, 4)));
    }

    #[test]
    fn what_did_not_leave_leaves_no_trace() {
        let mut r = Slot::new(100, 5000);
        assert!(r.map(&input(A, 7, 70), 0).is_some(), "and found no room");
        assert_eq!((r.0.timestamp_offset(), r.origin(100)), (None, None));
        assert_eq!(pass(&mut r, A, 9, 90, 0), Some((100, 5000)), "the segment begins with what left first");
        assert!(r.map(&input(A, 10, 120), 1).is_some(), "no room again");
        assert_eq!(pass(&mut r, A, 11, 150, 2), Some((102, 5060)), "a gap that a repair can fill");
    }

    #[test]
    fn repairs_find_the_origin_across_a_switch_and_a_wrap() {
        let mut r = Slot::new(32_000, 0);
        for i in 10..10 + 40_000u64 {
            pass(&mut r, A, i, 0, 0);
        }
        let highest = 32_000 + 40_000 - 1;
        assert_eq!(r.origin(highest as u16).map(|o| (o.source, o.index, o.out_index)), Some((A, 40_009, highest)));
        r.cut();
        pass(&mut r, B, 500, 0, 0);
        assert_eq!(r.origin(highest as u16).map(|o| (o.source, o.index)), Some((A, 40_009)));
        assert_eq!(r.origin((highest + 1) as u16).map(|o| (o.source, o.index)), Some((B, 500)));
        assert_eq!(Slot::new(10, 0).origin(9), None, "nothing left yet");
        assert_eq!(Slot::new(10, 0).origin(60_000), None, "nothing left yet");
    }
}
