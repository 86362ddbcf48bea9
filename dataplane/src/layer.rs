//! Which temporal layers of a video a slot is sent. A frame of a layer names only frames of its own and of lower ones, so those of the
//! highest layers can be left out: a receiver whose path does not carry the whole video sees fewer frames a second of it, and does
//! not have to be paused.
//!
//! Leaving out begins with any frame. More layers begin where the stream says that it is possible: a VP8 frame with the Y bit names the
//! base layer alone (RFC 7741 §4.2), and after a VP9 frame with the U bit no higher layer names anything from before it (RFC 9628
//! §4.2). A keyframe begins all.

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
    /// The highest layer that it may be sent.
    pub(crate) want: u8,
    /// The highest layer that it is sent.
    live: u8,
    /// Timestamp of the newest frame, and whether it is left out.
    frame: Option<(u32, bool)>,
}

impl Layers {
    pub(crate) const fn new() -> Layers {
        Layers { want: ALL, live: ALL, frame: None }
    }

    /// Whether a packet, which is newer than all that left, is left out.
    #[inline]
    pub(crate) fn leaves_out(&mut self, timestamp: u32, temporal: Option<Temporal>, is_keyframe: bool) -> bool {
        let Some(Temporal { id, is_sync, is_switch }) = temporal else { return false };
        if let Some((_, is_left_out)) = self.frame.filter(|(of, _)| *of == timestamp) {
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
        self.frame = Some((timestamp, is_left_out));
        is_left_out
    }
}

/// Lower layers of which it is known what they cost: those of three.
pub(crate) const LOWER: usize = 2;

/// Which part of a stream's bytes its base layer is, and that and the next one.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Parts {
    parts: [f32; LOWER],
    highest: u8,
}

/// Bytes over which the parts are a mean.
const MEAN_OF: f32 = 65_536.0;

impl Parts {
    /// A packet of so many bytes came.
    #[inline]
    pub(crate) fn note(&mut self, temporal: Option<Temporal>, len: usize) {
        let Some(temporal) = temporal else { return };
        if self.highest == 0 {
            self.parts = [0.5, 0.75]; // Until it was seen.
        }
        self.highest = self.highest.max(temporal.id);
        for (layer, part) in (0..).zip(&mut self.parts) {
            let is_in = if temporal.id <= layer { 1.0 } else { 0.0 };
            *part += (is_in - *part) * (len as f32 / MEAN_OF).min(1.0);
        }
    }

    /// What the layers up to this one cost of so many bit/s; 0 if there is none above it.
    pub(crate) fn bps(&self, layer: usize, all: u32) -> u32 {
        if layer < usize::from(self.highest) { (all as f32 * self.parts[layer]) as u32 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of a pattern from the n-th on; which of them leave.
    fn pass(layers: &mut Layers, from: u32, pattern: &[Temporal]) -> Vec<bool> {
        let frames = (from..).zip(pattern);
        frames.map(|(n, temporal)| !layers.leaves_out(n * 3000, Some(*temporal), n == 0)).collect()
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
        assert!(!layers.leaves_out(5 * 3000, Some(vp9(1, false)), false));
        assert!(layers.leaves_out(6 * 3000, Some(vp9(1, false)), false));
        assert!(!layers.leaves_out(7 * 3000, None, false), "a stream without layers");
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
