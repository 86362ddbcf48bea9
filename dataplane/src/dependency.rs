//! The dependency descriptor: the RTP header extension that says of each frame which layer it is of, which decode targets it is for and which
//! frames it refers to (AV1 RTP payload format, Annex A). Libwebrtc sends it with every codec where it is negotiated.
//!
//! A descriptor names one of the templates that the stream's [`Structure`] has, which comes with keyframes, and says where its frame differs
//! from it. What is read is bounded: 64 templates, 32 decode targets, references that are at most 64 frames back. A descriptor that is cut short,
//! or that names a template that is not there, is a [`DescriptorError`].

/// Templates of one structure: an id has six bits.
pub const TEMPLATES_MAX: usize = 64;
/// Decode targets of one structure: `dt_cnt_minus_one` has five bits.
pub const TARGETS_MAX: usize = 32;
/// Spatial layers, and temporal ones, as libwebrtc has them (`DependencyDescriptor::kMaxSpatialIds`, `kMaxTemporalIds`).
pub const SPATIAL_MAX: usize = 4;
/// See [`SPATIAL_MAX`].
pub const TEMPORAL_MAX: usize = 8;
/// Bytes of a descriptor without flags: two bits, template id, frame number.
pub const SHORT_LEN: usize = 3;
/// Bits of the first byte: the first packet of its frame, and the last one.
pub const STARTS: u8 = 0x80;
/// See [`STARTS`].
pub const ENDS: u8 = 0x40;

/// Why bytes are no descriptor of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DescriptorError {
    /// It ends before what it announces.
    #[error("a dependency descriptor that is cut short")]
    CutShort,
    /// It names a template of a structure that has not come, or that the structure does not have.
    #[error("a dependency descriptor of an unknown template")]
    NoTemplate,
    /// More templates or layers than there can be.
    #[error("a dependency structure with more than it may have")]
    TooMuch,
}

/// What a frame is to a decode target (table A.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Indication {
    /// It is no part of it.
    NotPresent = 0,
    /// Nothing else of it refers to the frame.
    Discardable = 1,
    /// All of it that comes later can be decoded if the frame can be.
    Switch = 2,
    /// It is needed.
    Required = 3,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Template {
    /// Two bits for each decode target.
    dtis: u64,
    /// Bit n: it refers to the frame n + 1 before it, which is 16 before it at most.
    fdiffs: u16,
    spatial: u8,
    temporal: u8,
}

/// What the descriptors of a stream refer to (`template_dependency_structure`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Structure {
    id_offset: u8,
    /// Templates; 0: no structure has come.
    count: u8,
    targets: u8,
    chains: u8,
    /// The highest spatial and temporal layer of each decode target.
    layers: [(u8, u8); TARGETS_MAX],
    /// Bit n: the publisher sends decode target n now.
    active: u32,
    /// Width and height of the pictures of each spatial layer, 0 where it is not said.
    sizes: [(u32, u32); SPATIAL_MAX],
    templates: [Template; TEMPLATES_MAX],
}

impl Default for Structure {
    fn default() -> Self {
        Structure {
            id_offset: 0,
            count: 0,
            targets: 0,
            chains: 0,
            layers: [(0, 0); TARGETS_MAX],
            active: u32::MAX,
            sizes: [(0, 0); SPATIAL_MAX],
            templates: [Template::default(); TEMPLATES_MAX],
        }
    }
}

/// What a descriptor says of its packet and its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Frame {
    /// Its number: one more for each frame of each layer.
    pub number: u16,
    /// Whether the packet is the first of its frame.
    pub starts: bool,
    /// Whether it is the last.
    pub ends: bool,
    /// Spatial layer; 0 is the base.
    pub spatial: u8,
    /// Temporal layer; 0 is the base.
    pub temporal: u8,
    /// Whether a structure came with it.
    pub has_structure: bool,
    /// Which decode targets the publisher sends now, the lowest bit for the first, if it says so.
    pub active: Option<u32>,
    /// Two bits for each decode target: an [`Indication`].
    pub dtis: u64,
    /// Bit n: it refers to the frame n + 1 before it.
    pub fdiffs: u64,
}

impl Frame {
    fn indication(&self, target: u8) -> u64 {
        self.dtis >> (2 * u32::from(target)) & 3
    }

    /// Whether it is part of a decode target.
    #[inline]
    pub fn is_in(&self, target: u8) -> bool {
        self.indication(target) != Indication::NotPresent as u64
    }

    /// Whether everything of a decode target that comes after it can be decoded if it can be.
    #[inline]
    pub fn may_switch_to(&self, target: u8) -> bool {
        self.indication(target) == Indication::Switch as u64
    }

    /// Says what it is to a decode target, where its stream has no descriptors.
    pub(crate) fn indicate(&mut self, target: u8, indication: Indication) {
        let at = 2 * u32::from(target) % u64::BITS;
        self.dtis = self.dtis & !(3 << at) | (indication as u64) << at;
    }

    /// Whether it refers to one of these frames: bit n is the one n + 1 before it.
    #[inline]
    pub fn refers_to(&self, before: u64) -> bool {
        self.fdiffs & before != 0
    }
}

impl Structure {
    /// Whether one has come.
    #[inline]
    pub fn is_known(&self) -> bool {
        self.count > 0
    }

    /// How many decode targets there are.
    #[inline]
    pub fn targets(&self) -> u8 {
        self.targets
    }

    /// Highest spatial and temporal layer of a decode target.
    #[inline]
    pub fn layers(&self, target: u8) -> (u8, u8) {
        self.layers[usize::from(target) % TARGETS_MAX]
    }

    /// The decode targets that are sent now; all, if none is.
    #[inline]
    fn active(&self) -> impl Iterator<Item = u8> + Clone {
        let all = u32::MAX >> (u32::BITS - u32::from(self.targets.clamp(1, TARGETS_MAX as u8)));
        let active = if self.active & all == 0 { all } else { self.active & all };
        (0..self.targets).filter(move |target| active >> target & 1 != 0)
    }

    /// The highest spatial layer that is sent now.
    pub fn spatial_max(&self) -> u8 {
        self.active().map(|target| self.layers(target).0).max().unwrap_or(0)
    }

    /// The highest temporal layer that is sent now.
    pub fn temporal_max(&self) -> u8 {
        self.active().map(|target| self.layers(target).1).max().unwrap_or(0)
    }

    /// Width and height of the pictures of a spatial layer, 0 where it is not said.
    pub fn size(&self, spatial: u8) -> (u32, u32) {
        self.sizes[usize::from(spatial) % SPATIAL_MAX]
    }

    /// The best decode target that is sent now and has no layer above these: that with the highest spatial layer, and of those the one
    /// with the highest temporal layer. The lowest, if each has more.
    #[inline]
    pub fn target(&self, spatial: u8, temporal: u8) -> u8 {
        let fits = |target: &u8| {
            let (s, t) = self.layers(*target);
            s <= spatial && t <= temporal
        };
        let best = self.active().filter(fits).max_by_key(|target| self.layers(*target));
        best.or_else(|| self.active().min_by_key(|target| self.layers(*target))).unwrap_or(0)
    }

    /// Makes it that of a stream without descriptors: a decode target for each of so many spatial and temporal layers, of which those below `sent`
    /// are sent. In K-SVC a target has nothing of the spatial layers below its own, but in keyframes.
    pub(crate) fn lay_out(
        &mut self,
        (spatial, temporal): (u8, u8),
        sent: (u8, u8),
        sizes: &[(u32, u32)],
        is_k_svc: bool,
    ) {
        *self = Structure { active: 0, ..Structure::default() };
        self.targets = (spatial * temporal).clamp(1, TARGETS_MAX as u8);
        self.count = self.targets;
        let cells = (0..spatial).flat_map(|s| (0..temporal).map(move |t| (s, t)));
        for (target, (s, t)) in (0..self.targets).zip(cells) {
            self.layers[usize::from(target)] = (s, t);
            let template = &mut self.templates[usize::from(target)];
            (template.spatial, template.temporal) = (s, t);
            self.active |= u32::from(s < sent.0 && t < sent.1) << target;
        }
        for template in &mut self.templates[..usize::from(self.count)] {
            for (target, (s, t)) in (0..self.targets).zip(self.layers) {
                let is_below = if is_k_svc { template.spatial == s } else { template.spatial <= s };
                if is_below && template.temporal <= t {
                    template.dtis |= (Indication::Required as u64) << (2 * u32::from(target));
                }
            }
        }
        for (size, told) in self.sizes.iter_mut().zip(sizes) {
            *size = *told;
        }
    }

    /// Whether all that a decode target has is in another one, too.
    #[inline]
    pub fn is_within(&self, target: u8, other: u8) -> bool {
        let present = |template: &Template, target: u8| template.dtis >> (2 * u32::from(target)) & 3 != 0;
        self.templates[..usize::from(self.count)]
            .iter()
            .all(|template| !present(template, target) || present(template, other))
    }

    /// Reads a descriptor. If a structure comes with it, that is the stream's from now on, where `is_newest` says that the packet is no
    /// late one.
    #[inline]
    pub fn read(&mut self, bytes: &[u8], is_newest: bool) -> Result<Frame, DescriptorError> {
        if has_structure(bytes) {
            return self.read_structure(bytes, is_newest);
        }
        let frame = self.frame(bytes)?;
        if let Some(active) = frame.active.filter(|_| is_newest) {
            self.active = active;
        }
        Ok(frame)
    }

    /// The same of a descriptor of which the structure is known already.
    #[inline]
    pub fn frame(&self, bytes: &[u8]) -> Result<Frame, DescriptorError> {
        if has_structure(bytes) {
            return Structure::default().read_structure(bytes, true);
        }
        let mut bits = Bits { bytes, at: 8 * SHORT_LEN };
        let flags = if bytes.len() > SHORT_LEN { Flags::read(&mut bits)? } else { Flags::default() };
        self.definition(bytes, flags, &mut bits)
    }

    #[cold]
    fn read_structure(&mut self, bytes: &[u8], is_newest: bool) -> Result<Frame, DescriptorError> {
        let mut bits = Bits { bytes, at: 8 * SHORT_LEN };
        let flags = Flags::read(&mut bits)?;
        let structure = Structure::parse(&mut bits)?;
        let frame = structure.definition(bytes, flags, &mut bits)?;
        if is_newest {
            *self = Structure { active: frame.active.unwrap_or(u32::MAX), ..structure };
        }
        Ok(frame)
    }

    /// `template_dependency_structure()`.
    fn parse(bits: &mut Bits<'_>) -> Result<Structure, DescriptorError> {
        let mut structure = Structure { id_offset: bits.take(6)? as u8, ..Structure::default() };
        structure.targets = bits.take(5)? as u8 + 1;
        structure.parse_layers(bits)?;
        let Structure { targets, count, .. } = structure;
        for template in &mut structure.templates[..usize::from(count)] {
            for target in 0..targets {
                template.dtis |= u64::from(bits.take(2)?) << (2 * u32::from(target));
            }
        }
        for template in &mut structure.templates[..usize::from(count)] {
            while bits.take(1)? == 1 {
                template.fdiffs |= 1 << bits.take(4)?;
            }
        }
        structure.chains = bits.number(u32::from(targets) + 1)? as u8;
        if structure.chains > 0 {
            for _ in 0..targets {
                bits.number(structure.chains.into())?; // decode_target_protected_by
            }
            bits.skip(usize::from(count) * usize::from(structure.chains) * 4)?; // template_chain_fdiff
        }
        for (target, layers) in (0..targets).zip(&mut structure.layers) {
            let of_target = |template: &&Template| template.dtis >> (2 * u32::from(target)) & 3 != 0;
            let all = || structure.templates[..usize::from(count)].iter().filter(of_target);
            let (spatial, temporal) = (all().map(|t| t.spatial).max(), all().map(|t| t.temporal).max());
            *layers = (spatial.unwrap_or(0), temporal.unwrap_or(0));
        }
        if bits.take(1)? == 1 {
            let layers = structure.templates[..usize::from(count)].last().map_or(1, |last| last.spatial + 1);
            for size in &mut structure.sizes[..usize::from(layers)] {
                *size = (bits.take(16)? + 1, bits.take(16)? + 1);
            }
        }
        Ok(structure)
    }

    /// `template_layers()`: the templates in the order of their layers.
    fn parse_layers(&mut self, bits: &mut Bits<'_>) -> Result<(), DescriptorError> {
        let (mut spatial, mut temporal) = (0, 0);
        loop {
            let place = self.templates.get_mut(usize::from(self.count)).ok_or(DescriptorError::TooMuch)?;
            (place.spatial, place.temporal) = (spatial, temporal);
            self.count += 1;
            match bits.take(2)? {
                0 => {}
                1 => temporal += 1,
                2 => (spatial, temporal) = (spatial + 1, 0),
                _ => return Ok(()),
            }
            if usize::from(spatial) >= SPATIAL_MAX || usize::from(temporal) >= TEMPORAL_MAX {
                return Err(DescriptorError::TooMuch);
            }
        }
    }

    /// `frame_dependency_definition()`, and the fields before it.
    #[inline]
    fn definition(&self, bytes: &[u8], flags: Flags, bits: &mut Bits<'_>) -> Result<Frame, DescriptorError> {
        let &[first, high, low, ..] = bytes else { return Err(DescriptorError::CutShort) };
        let active = match flags.has_active {
            // f(DtCnt): the first decode target's bit is the lowest.
            true => Some(bits.take(self.targets.into())?),
            false => None,
        };
        let place = (first & 0x3f).wrapping_sub(self.id_offset) & 0x3f;
        let templates = &self.templates[..usize::from(self.count)];
        let template = templates.get(usize::from(place)).ok_or(DescriptorError::NoTemplate)?;
        let mut frame = Frame {
            number: u16::from_be_bytes([high, low]),
            starts: first & STARTS != 0,
            ends: first & ENDS != 0,
            spatial: template.spatial,
            temporal: template.temporal,
            has_structure: flags.has_structure,
            active,
            dtis: template.dtis,
            fdiffs: template.fdiffs.into(),
        };
        if flags.has_dtis {
            frame.dtis = 0;
            for target in 0..self.targets {
                frame.dtis |= u64::from(bits.take(2)?) << (2 * u32::from(target));
            }
        }
        if flags.has_fdiffs {
            frame.fdiffs = 0;
            loop {
                match bits.take(2)? {
                    0 => break,
                    size => {
                        let back = bits.take(4 * size)?;
                        frame.fdiffs |= 1u64.checked_shl(back).unwrap_or(0);
                    }
                }
            }
        }
        if flags.has_chains {
            bits.skip(8 * usize::from(self.chains))?;
        }
        Ok(frame)
    }
}

/// Whether a structure is in a descriptor.
#[inline]
pub fn has_structure(bytes: &[u8]) -> bool {
    bytes.get(SHORT_LEN).is_some_and(|flags| flags & 0x80 != 0)
}

/// The five flags of `extended_descriptor_fields()`.
#[derive(Clone, Copy, Default)]
struct Flags {
    has_structure: bool,
    has_active: bool,
    has_dtis: bool,
    has_fdiffs: bool,
    has_chains: bool,
}

impl Flags {
    #[inline]
    fn read(bits: &mut Bits<'_>) -> Result<Flags, DescriptorError> {
        let flags = bits.take(5)?;
        let has = |bit: u32| flags >> bit & 1 != 0;
        Ok(Flags {
            has_structure: has(4),
            has_active: has(3),
            has_dtis: has(2),
            has_fdiffs: has(1),
            has_chains: has(0),
        })
    }
}

/// Bits from the highest of the first byte on.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// f(count), 32 bits at most.
    fn take(&mut self, count: u32) -> Result<u32, DescriptorError> {
        let mut value = 0u32;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or(DescriptorError::CutShort)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Ok(value)
    }

    fn skip(&mut self, count: usize) -> Result<(), DescriptorError> {
        self.at += count;
        if self.at > 8 * self.bytes.len() { Err(DescriptorError::CutShort) } else { Ok(()) }
    }

    /// ns(n): a number below `n` (AV1 specification §4.10.7).
    fn number(&mut self, n: u32) -> Result<u32, DescriptorError> {
        let width = u32::BITS - n.leading_zeros();
        let short = (1u32 << width) - n;
        let value = self.take(width - 1)?;
        if value < short {
            return Ok(value);
        }
        Ok((value << 1) - short + self.take(1)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// Descriptors of Chromium 156: of keyframes of H.264 in L1T3, VP8 in L1T3, VP9 in L3T3_KEY and L3T3, AV1 in L1T3.
    const H264: &str = "c00001800214eaa860414d1410208426";
    const VP8: &str = "c000018002044eaaaf2860414d34538a0940404fc02cc0";
    const KEY: &str = "c0000480081485214eaaaaa8000600004000100002aa80a8000600004000100002a000a800060000400016d549241b5524906d54\
                       923157e001974ca864330e222396eca8655304224390eca87753013f00b3027f016704ff02cf";
    const FULL: &str = "c10001c0081485214eafffaaaa863cf0430c10c302afc0aaa0063c00430010c002a000a80006000040001d954926e082b04a09\
                        41b820ac1282503157f974000ca864330e222222eca8655304224230eca87753013f00b3027f016704ff02cf0380";
    const AV1: &str = "800001800214eaa860414d1410208427013f00b3";

    fn layers(structure: &Structure) -> Vec<(u8, u8)> {
        (0..structure.targets()).map(|target| structure.layers(target)).collect()
    }

    #[test]
    fn structures_of_chromium_are_read() {
        let grid = |spatial: u8, temporal: u8| (0..spatial).flat_map(move |s| (0..temporal).map(move |t| (s, t)));
        for (hex, spatial, temporal) in [(H264, 1, 3), (VP8, 1, 3), (KEY, 3, 3), (FULL, 3, 3), (AV1, 1, 3)] {
            let mut structure = Structure::default();
            let frame = structure.read(&bytes(hex), true).unwrap();
            assert!(frame.starts && frame.has_structure && (frame.spatial, frame.temporal) == (0, 0), "{frame:?}");
            assert!((0..structure.targets()).all(|target| frame.may_switch_to(target)), "a keyframe: {frame:?}");
            assert_eq!(frame.ends, hex != AV1);
            assert_eq!(layers(&structure), grid(spatial, temporal).collect::<Vec<_>>());
            assert!(!frame.refers_to(u64::MAX) || hex == FULL);
        }
        let mut structure = Structure::default();
        structure.read(&bytes(KEY), true).unwrap();
        assert_eq!([0, 1, 2].map(|layer| structure.size(layer)), [(320, 180), (640, 360), (1280, 720)]);
        structure.read(&bytes(AV1), true).unwrap();
        assert_eq!((structure.size(0), structure.spatial_max()), ((320, 180), 0));
        structure.read(&bytes(FULL), true).unwrap();
        assert_eq!((structure.spatial_max(), structure.temporal_max()), (0, 2), "two spatial layers are not sent yet");
        assert_eq!(structure.target(2, 2), structure.target(0, 2));
    }

    #[test]
    fn frames_are_of_the_layers_of_their_template() {
        let mut structure = Structure::default();
        structure.read(&bytes(H264), true).unwrap();
        // T2, T1, T2, T0: as they came.
        let frames = ["c30002", "c20003", "c40004", "c10005"].map(|hex| structure.frame(&bytes(hex)).unwrap());
        assert_eq!(frames.map(|frame| frame.temporal), [2, 1, 2, 0]);
        assert_eq!(frames.map(|frame| frame.is_in(0)), [false, false, false, true]);
        assert_eq!(frames.map(|frame| frame.is_in(1)), [false, true, false, true]);
        assert!(frames[3].refers_to(1 << 3) && !frames[3].refers_to(!(1 << 3)), "the base refers to the base");
        assert!(frames[1].may_switch_to(2) && !frames[0].may_switch_to(2) && frames[3].may_switch_to(1));
        assert_eq!(structure.target(0, 1), 1);
        assert_eq!(structure.target(3, 7), 2);
        assert!(structure.is_within(0, 2) && !structure.is_within(2, 0));
    }

    #[test]
    fn a_frame_says_where_it_differs_from_its_template() {
        let mut structure = Structure::default();
        structure.read(&bytes(KEY), true).unwrap();
        // Of AV1, whose structure is the same: other decode targets, other references, other chains.
        let frame = structure.frame(&bytes("c2000858fd40141000")).unwrap();
        assert_eq!((frame.number, frame.spatial, frame.temporal, frame.active), (8, 0, 1, Some(0x03f)));
        assert!(frame.refers_to(1 << 4) && !frame.refers_to(!(1 << 4)));
        // In K-SVC the delta frames of a lower spatial layer are not of a higher one.
        let delta = structure.frame(&bytes("c10010")).unwrap();
        assert!(delta.is_in(2) && !delta.is_in(structure.target(1, 2)));
        assert!(!structure.is_within(structure.target(0, 2), structure.target(1, 2)));
    }

    #[test]
    fn what_is_cut_short_or_unknown_is_refused_by_name() {
        let known = {
            let mut structure = Structure::default();
            structure.read(&bytes(KEY), true).unwrap();
            structure
        };
        for hex in [H264, VP8, KEY, FULL, AV1] {
            let whole = bytes(hex);
            // The last byte may be filled up with zeros alone.
            for len in 0..whole.len() - 1 {
                let mut structure = known;
                let read = structure.read(&whole[..len], true);
                assert!(len == SHORT_LEN || read == Err(DescriptorError::CutShort), "{hex} cut to {len}: {read:?}");
                assert_eq!(structure, known, "nothing of it is taken");
            }
        }
        assert_eq!(known.frame(&bytes("c2000858fd4014")), Err(DescriptorError::CutShort));
        assert_eq!(known.frame(&bytes("ff0008")), Err(DescriptorError::NoTemplate));
        assert_eq!(Structure::default().frame(&bytes("c00001")), Err(DescriptorError::NoTemplate));
        // 65 templates of one layer.
        let endless = [&bytes("c000018000")[..], &[0; 64]].concat();
        assert_eq!(Structure::default().read(&endless, true), Err(DescriptorError::TooMuch));
        let mut structure = known;
        assert!(structure.read(&bytes(H264), false).is_ok());
        assert_eq!(structure, known, "a structure that comes late is not the stream's");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_refused(
            first in prop::collection::vec(any::<u8>(), 0..80),
            rest in prop::collection::vec(any::<u8>(), 0..12),
        ) {
            let mut structure = Structure::default();
            let forced: Vec<u8> = first.iter().enumerate().map(|(at, byte)| if at == 3 { byte | 0x80 } else { *byte }).collect();
            let _ = structure.read(&forced, true);
            for bytes in [&first, &rest] {
                if let Ok(frame) = structure.read(bytes, true) {
                    prop_assert!(usize::from(frame.spatial) < SPATIAL_MAX && usize::from(frame.temporal) < TEMPORAL_MAX);
                    prop_assert_eq!(structure.frame(bytes).map(|frame| frame.number), Ok(frame.number));
                    let target = structure.target(frame.spatial, frame.temporal);
                    prop_assert!(target < structure.targets());
                    prop_assert!(structure.is_within(target, target));
                }
            }
        }
    }
}
