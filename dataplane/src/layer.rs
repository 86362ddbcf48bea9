//! Which layers of a video a slot is sent. A frame names only frames of its own and of lower layers, so those of the highest can be left out: a
//! receiver whose path does not carry the whole video sees fewer frames a second of it, or smaller ones, and does not have to be paused.
//!
//! Where the stream says its layers in its payload descriptors alone, they are temporal ones. Leaving out begins with any frame. More layers
//! begin where the stream says that it is possible: a VP8 frame with the Y bit names the base layer alone (RFC 7741 §4.2), and after a VP9
//! frame with the U bit no higher layer names anything from before it (RFC 9628 §4.2). A keyframe begins all.
//!
//! Where it has dependency descriptors ([`crate::dependency`]), a slot is sent one of the stream's decode targets, which may be of a lower spatial
//! layer, too. It changes to one of which it has been sent everything at once, and to any other with a frame that permits it and that refers to
//! nothing that was left out.

use proto::plane::TRACK_ENCODINGS_MAX;

use crate::dependency::{Frame, Structure};
use crate::left_out::FrameKey;

/// Where a frame stands, as its payload descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Temporal {
    /// Temporal layer; 0 is the base.
    pub(crate) id: u8,
    /// VP8: it names frames of the base layer alone.
    pub(crate) is_sync: bool,
    /// VP9: what comes after it names nothing above its layer from before it.
    pub(crate) is_switch: bool,
}

/// All layers: descriptors have two or three bits for them.
pub(crate) const ALL: u8 = 7;

/// The layers of one slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layers {
    /// The highest temporal layer that it may be sent.
    pub(crate) want: u8,
    /// The highest spatial layer that it may be sent.
    pub(crate) want_spatial: u8,
    /// The highest temporal layer that it is sent, of a stream without dependency descriptors.
    live: u8,
    /// The newest frame, whether it is left out, and whether nothing of its picture is sent.
    frame: Option<(FrameKey, bool, bool)>,
    /// The decode target that it is sent, of a stream with dependency descriptors.
    target: Option<u8>,
    /// Number of the newest frame of such a stream, and which of those before it were left out: bit n is the one n + 1 before it.
    newest: u16,
    left_out: u64,
}

impl Layers {
    pub(crate) const fn new() -> Layers {
        Layers { want: ALL, want_spatial: ALL, live: ALL, frame: None, target: None, newest: 0, left_out: 0 }
    }

    /// Whether a packet, which is newer than all that left, is left out; and if so, whether nothing of its picture is sent. `temporal` is what
    /// its payload descriptor says.
    #[inline]
    pub(crate) fn place(
        &mut self,
        key: FrameKey,
        temporal: Option<Temporal>,
        described: Option<(&Frame, &Structure)>,
        is_keyframe: bool,
    ) -> Option<bool> {
        let Some((frame, structure)) = described else {
            return self.leaves_out(key, temporal, is_keyframe).then_some(true);
        };
        let is_left_out = self.leaves_out_described(key, frame, structure, is_keyframe);
        is_left_out.then(|| self.leaves_out_picture(frame, structure))
    }

    /// The same of a packet whose frame is described by a dependency descriptor.
    fn leaves_out_described(&mut self, key: FrameKey, frame: &Frame, structure: &Structure, is_keyframe: bool) -> bool {
        if let Some((_, is_left_out, _)) = self.frame.filter(|(of, ..)| *of == key) {
            return is_left_out;
        }
        let begins = is_keyframe || frame.has_structure;
        let is_of_none = self.frame.is_some_and(|(of, _, is_picture)| is_picture && of.is_of_picture(key)) && !begins;
        if begins {
            (self.newest, self.left_out) = (frame.number, 0); // Of another stream, perhaps, whose numbers are lower.
        } else {
            self.advance(frame.number);
        }
        let wanted = structure.target(self.want_spatial, self.want);
        let lacks = frame.refers_to(self.left_out);
        let may_change = |from: u8| {
            // What is within what it has had so far needs nothing else.
            structure.is_within(wanted, from) || (frame.may_switch_to(wanted) && !lacks)
        };
        let target = match self.target {
            _ if begins => wanted,
            None => wanted,
            // Nothing of the picture is sent, and its number was given to the next one.
            Some(target) if is_of_none => target,
            Some(target) if target != wanted && may_change(target) => wanted,
            Some(target) => target,
        };
        self.target = Some(target);
        let is_left_out = is_of_none || !frame.is_in(target) || frame.refers_to(self.left_out);
        let is_picture = is_left_out && self.leaves_out_picture(frame, structure);
        self.frame = Some((key, is_left_out, is_picture));
        is_left_out
    }

    /// A frame of this number is the newest.
    fn advance(&mut self, number: u16) {
        let ahead = number.wrapping_sub(self.newest) as i16;
        if ahead <= 0 && self.frame.is_some() {
            return;
        }
        let was_left_out = self.frame.is_some_and(|(_, is_left_out, _)| is_left_out);
        self.left_out = match u32::try_from(ahead) {
            Ok(ahead @ 1..64) => self.left_out << ahead | u64::from(was_left_out) << (ahead - 1),
            _ => 0,
        };
        self.newest = number;
    }

    /// Whether a packet of a described frame is the last that its receiver gets of the picture.
    #[inline]
    pub(crate) fn ends_picture(&self, frame: &Frame, structure: &Structure) -> bool {
        frame.ends && self.target.is_some_and(|target| structure.layers(target).0 == frame.spatial)
    }

    /// Whether nothing of the picture of a described frame that was left out is sent: it is of a temporal layer that is not.
    fn leaves_out_picture(&self, frame: &Frame, structure: &Structure) -> bool {
        self.target.is_some_and(|target| structure.layers(target).1 < frame.temporal)
    }

    /// Whether it waits for a keyframe to be sent what it may be: no other frame permits that.
    pub(crate) fn awaits_keyframe(&self, structure: &Structure) -> bool {
        let wanted = structure.target(self.want_spatial, self.want);
        self.target.is_some_and(|target| {
            structure.layers(target).0 != structure.layers(wanted).0 && !structure.is_within(wanted, target)
        })
    }

    /// Whether a packet, which is newer than all that left, is left out.
    #[inline]
    fn leaves_out(&mut self, key: FrameKey, temporal: Option<Temporal>, is_keyframe: bool) -> bool {
        let Some(Temporal { id, is_sync, is_switch }) = temporal else { return false };
        if let Some((_, is_left_out, _)) = self.frame.filter(|(of, ..)| *of == key) {
            return is_left_out;
        }
        self.live = if is_keyframe { self.want } else { self.live.min(self.want) };
        if is_sync && id == self.live + 1 && id <= self.want {
            self.live = id;
        }
        let is_left_out = id > self.live;
        if is_switch && !is_left_out {
            self.live = self.want;
        }
        self.frame = Some((key, is_left_out, is_left_out));
        is_left_out
    }
}

/// Lower temporal layers of which it is known what they cost: those of three.
pub(crate) const LOWER: usize = 2;

/// Which part of a stream's bytes its base layer is, and that and the next one; and which part each spatial layer is, with what it needs
/// of those below.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Parts {
    temporal: [f32; LOWER],
    spatial: [f32; TRACK_ENCODINGS_MAX],
    highest: u8,
    is_known: bool,
}

/// Bytes over which the parts are a mean.
const MEAN_OF: f32 = 65_536.0;

impl Parts {
    /// A packet of so many bytes came.
    #[inline]
    pub(crate) fn note(&mut self, temporal: Option<Temporal>, len: usize) {
        let Some(temporal) = temporal else { return };
        self.highest = self.highest.max(temporal.id);
        let is_in = |layer: usize| usize::from(temporal.id) <= layer;
        self.add(len, std::array::from_fn(is_in), [true; TRACK_ENCODINGS_MAX]);
    }

    /// The same of a packet of a described frame.
    pub(crate) fn note_described(&mut self, frame: &Frame, structure: &Structure, len: usize) {
        self.highest = structure.temporal_max();
        let is_in = |spatial: usize, temporal: usize| frame.is_in(structure.target(spatial as u8, temporal as u8));
        let (temporal, spatial) = (|layer| is_in(0, layer), |layer| is_in(layer, ALL.into()));
        self.add(len, std::array::from_fn(temporal), std::array::from_fn(spatial));
    }

    #[inline]
    fn add(&mut self, len: usize, temporal: [bool; LOWER], spatial: [bool; TRACK_ENCODINGS_MAX]) {
        if !std::mem::replace(&mut self.is_known, true) {
            (self.temporal, self.spatial) = ([0.5, 0.75], [0.1, 0.3, 1.0]); // Until it was seen.
        }
        let weight = (len as f32 / MEAN_OF).min(1.0);
        let parts = self.temporal.iter_mut().chain(&mut self.spatial);
        for (part, is_in) in parts.zip(temporal.into_iter().chain(spatial)) {
            *part += (if is_in { 1.0 } else { 0.0 } - *part) * weight;
        }
    }

    /// What the temporal layers up to this one cost of so many bit/s of the whole stream, in the lowest spatial layer; 0 if there is none
    /// above it.
    pub(crate) fn bps(&self, layer: usize, all: u32) -> u32 {
        if layer < usize::from(self.highest) { (all as f32 * self.temporal[layer]) as u32 } else { 0 }
    }

    /// What a spatial layer costs of so many bit/s, with what it needs of those below.
    pub(crate) fn spatial_bps(&self, layer: usize, all: u32) -> u32 {
        (all as f32 * self.spatial[layer]) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of a pattern from the n-th on; which of them leave.
    fn pass(layers: &mut Layers, from: u32, pattern: &[Temporal]) -> Vec<bool> {
        let frames = (from..).zip(pattern);
        frames.map(|(n, temporal)| !layers.leaves_out(FrameKey::new(n * 3000, 0), Some(*temporal), n == 0)).collect()
    }

    fn vp8(id: u8, is_sync: bool) -> Temporal {
        Temporal { id, is_sync, is_switch: false }
    }

    #[test]
    fn vp8_layers_begin_where_they_name_the_base_alone_one_after_the_other() {
        let mut layers = Layers::new();
        let pattern = [vp8(0, false), vp8(2, true), vp8(1, true), vp8(2, false)];
        assert_eq!(pass(&mut layers, 0, &pattern), [true; 4]);
        layers.want = 0;
        assert_eq!(pass(&mut layers, 4, &pattern), [true, false, false, false]);
        layers.want = ALL;
        assert_eq!(pass(&mut layers, 8, &pattern), [true, false, true, false]);
        assert_eq!(pass(&mut layers, 12, &pattern), [true; 4]);
        // Nothing says that it can begin.
        layers.want = 1;
        pass(&mut layers, 16, &pattern);
        layers.want = ALL;
        assert_eq!(pass(&mut layers, 20, &[vp8(2, false), vp8(1, false)]), [false, true]);
    }

    #[test]
    fn vp9_layers_begin_behind_a_switching_point_and_frames_are_whole() {
        let mut layers = Layers::new();
        let vp9 = |id, is_switch| Temporal { id, is_sync: false, is_switch };
        layers.want = 0;
        assert_eq!(pass(&mut layers, 0, &[vp9(0, false), vp9(1, true)]), [true, false]);
        layers.want = ALL;
        assert_eq!(
            pass(&mut layers, 2, &[vp9(0, false), vp9(1, true), vp9(0, true), vp9(1, false)]),
            [true, false, true, true]
        );
        // What was decided for a frame's first packet holds for the others.
        layers.want = 0;
        assert!(!layers.leaves_out(FrameKey::new(5 * 3000, 0), Some(vp9(1, false)), false));
        assert!(layers.leaves_out(FrameKey::new(6 * 3000, 0), Some(vp9(1, false)), false));
        assert!(!layers.leaves_out(FrameKey::new(7 * 3000, 0), None, false), "a stream without layers");
    }

    /// A stream in L1T3 with the structure that Chromium sends: whether the n-th picture since a keyframe leaves.
    fn l1t3(layers: &mut Layers, structure: &mut Structure, number: u16, place: u16) -> bool {
        const KEY: [u8; 16] = [0xc0, 0, 0, 0x80, 2, 0x14, 0xea, 0xa8, 0x60, 0x41, 0x4d, 0x14, 0x10, 0x20, 0x84, 0x26];
        let mut bytes = KEY;
        let template = if place == 0 { 0 } else { [1, 3, 2, 4][usize::from(place) % 4] };
        bytes[0] |= template;
        bytes[1..3].copy_from_slice(&number.to_be_bytes());
        let len = if place == 0 { bytes.len() } else { 3 };
        let frame = structure.read(&bytes[..len], true).unwrap();
        let key = FrameKey::new(u32::from(number) * 3000, 0);
        !layers.leaves_out_described(key, &frame, structure, place == 0)
    }

    #[test]
    fn a_described_layer_begins_where_nothing_that_was_left_out_is_referred_to() {
        let (mut layers, mut structure) = (Layers::new(), Structure::default());
        // At first with high numbers, then another stream with lower ones.
        for first in [60_000, 100] {
            let mut pass = |layers: &mut Layers, places: std::ops::Range<u16>| -> Vec<bool> {
                places.map(|place| l1t3(layers, &mut structure, first + place, place)).collect()
            };
            layers.want = ALL;
            assert_eq!(pass(&mut layers, 0..8), [true; 8]);
            layers.want = 0;
            assert_eq!(pass(&mut layers, 8..15), [true, false, false, false, true, false, false]);
            layers.want = ALL;
            assert_eq!(
                pass(&mut layers, 15..21),
                [false, true, true, true, true, true],
                "the second T2 refers to a T1"
            );
            layers.want = 1;
            assert_eq!(pass(&mut layers, 21..25), [false, true, false, true]);
        }
    }

    #[test]
    fn lower_layers_cost_a_part() {
        let mut parts = Parts::default();
        parts.note(None, 1000);
        assert_eq!(parts.bps(0, 100_000), 0, "a stream without layers");
        for n in 0..2000 {
            parts.note(Some(vp8([0, 2, 1, 2][n % 4], false)), 500);
        }
        let [base, two] = [0, 1].map(|layer| parts.bps(layer, 400_000));
        assert!((90_000..110_000).contains(&base) && (190_000..210_000).contains(&two), "{base} {two}");
        assert!(Parts { highest: 1, ..parts }.bps(1, 400_000) == 0, "the second of two is all");
    }
}
