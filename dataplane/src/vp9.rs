//! Layers of VP9 as its payload descriptor says them (RFC 9628 §4.2), in the terms of a dependency descriptor ([`crate::dependency`]): so a slot is sent the
//! layers of a stream without that extension by the same rules.
//!
//! A descriptor has the layers of its frame (TID, SID), whether it refers to the spatial layer below (D) and to earlier pictures (P), whether
//! layers above may refer to it (Z), and whether higher temporal layers may begin behind it (U). To which pictures it refers stands in the flexible mode
//! alone (P_DIFF). Otherwise it is the last one of the same spatial layer in a lower temporal layer, and of a base layer the last base layer.

use crate::dependency::{Frame, Indication, Structure};

/// Spatial layers that are told apart: libwebrtc sends three at most.
const SPATIAL: u8 = 3;
/// Temporal layers that are told apart.
const TEMPORAL: u8 = 3;
/// Frame numbers of one picture.
const PICTURE: u16 = 4;
/// Pictures in a row without the highest spatial layer, after which it is not sent any more: an encoder leaves out a frame or two.
const ABSENT_MAX: u8 = 8;
/// Bits of the first byte.
mod bit {
    pub(super) const ID: u8 = 0x80;
    pub(super) const PREDICTED: u8 = 0x40;
    pub(super) const LAYERS: u8 = 0x20;
    pub(super) const FLEXIBLE: u8 = 0x10;
    pub(super) const BEGINS: u8 = 0x08;
    pub(super) const ENDS: u8 = 0x04;
    pub(super) const STRUCTURE: u8 = 0x02;
    pub(super) const NO_REFERENCE: u8 = 0x01;
}

/// What a payload descriptor says of layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Descriptor {
    flags: u8,
    picture: u16,
    temporal: u8,
    spatial: u8,
    is_switch: bool,
    is_inter: bool,
    /// P_DIFF, 0 for none.
    differences: [u8; 3],
    /// Spatial layers, and width and height of the pictures of each, if the descriptor has a scalability structure.
    sizes: Option<(u8, [(u32, u32); SPATIAL as usize])>,
}

impl Descriptor {
    /// Reads what stands before the frame. `None`: it is cut short, or the stream has no layers, or PictureIDs of 7 bits, which say too little.
    pub fn read(payload: &[u8]) -> Option<Descriptor> {
        let (&flags, rest) = payload.split_first()?;
        let has = |bit: u8| flags & bit != 0;
        if !has(bit::LAYERS) || !has(bit::ID) {
            return None;
        }
        let (&[high, low, layers], mut rest) = rest.split_first_chunk()?;
        if high & 0x80 == 0 {
            return None;
        }
        let mut descriptor = Descriptor {
            flags,
            picture: u16::from_be_bytes([high & 0x7f, low]),
            temporal: layers >> 5,
            is_switch: layers & 0x10 != 0,
            spatial: layers >> 1 & 0x07,
            is_inter: layers & 1 != 0,
            ..Descriptor::default()
        };
        if !has(bit::FLEXIBLE) {
            rest = rest.split_first()?.1; // TL0PICIDX
        } else if has(bit::PREDICTED) {
            for difference in &mut descriptor.differences {
                let (&byte, after) = rest.split_first()?;
                (*difference, rest) = (byte >> 1, after);
                if byte & 1 == 0 {
                    break;
                }
            }
        }
        if has(bit::STRUCTURE) {
            descriptor.sizes = Some(sizes(rest)?);
        }
        (descriptor.spatial < SPATIAL && descriptor.temporal < TEMPORAL).then_some(descriptor)
    }

    /// Whether PictureIDs name each other by their difference, so that they may not close up.
    pub fn is_flexible(&self) -> bool {
        self.flags & bit::FLEXIBLE != 0
    }

    fn has(&self, bit: u8) -> bool {
        self.flags & bit != 0
    }
}

/// The scalability structure: how many spatial layers there are, and how large their pictures are, 0 where it is not said.
fn sizes(bytes: &[u8]) -> Option<(u8, [(u32, u32); SPATIAL as usize])> {
    let (&first, mut rest) = bytes.split_first()?;
    let (count, mut sizes) = ((first >> 5) + 1, [(0, 0); SPATIAL as usize]);
    for at in 0..if first & 0x10 != 0 { usize::from(count) } else { 0 } {
        let (&[w0, w1, h0, h1], after) = rest.split_first_chunk()?;
        if let Some(size) = sizes.get_mut(at) {
            *size = (u16::from_be_bytes([w0, w1]).into(), u16::from_be_bytes([h0, h1]).into());
        }
        rest = after;
    }
    Some((count.min(SPATIAL), sizes))
}

/// What is known of the layers of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Layers {
    /// Spatial and temporal layers that there are.
    spatial: u8,
    temporal: u8,
    sizes: [(u32, u32); SPATIAL as usize],
    /// Whether frames of a lower spatial layer are not referred to by those above, but in keyframes (K-SVC).
    is_k_svc: bool,
    /// The last picture of each temporal layer before the newest, and that one with its temporal layer.
    last: [Option<u16>; TEMPORAL as usize],
    newest: Option<(u16, u8)>,
    /// The highest spatial layer of the newest picture, and how many pictures in a row lacked the highest of all.
    top: u8,
    absent: u8,
    /// Whether the newest picture is a keyframe.
    is_key: bool,
}

impl Layers {
    /// The frame of a packet. `None` as long as there is one spatial layer.
    pub(crate) fn frame(&self, descriptor: &Descriptor, structure: &Structure) -> Option<Frame> {
        if self.spatial < 2 {
            return None;
        }
        let Descriptor { picture, temporal, spatial, is_switch, is_inter, .. } = *descriptor;
        let number = picture.wrapping_mul(PICTURE).wrapping_add(spatial.into());
        let mut fdiffs = u64::from(is_inter);
        if descriptor.has(bit::PREDICTED) {
            let back = |pictures: u16| 1u64.checked_shl(u32::from(pictures) * u32::from(PICTURE) - 1).unwrap_or(0);
            let before = self.last[..usize::from(temporal.max(1))].iter().flatten();
            let nearest = before.map(|last| picture.wrapping_sub(*last) & 0x7fff).filter(|back| *back > 0).min();
            fdiffs |= match descriptor.is_flexible() {
                true => descriptor.differences.iter().filter(|back| **back > 0).map(|of| back((*of).into())).sum(),
                false => nearest.filter(|back| *back < 16).map_or(0, back),
            };
        }
        let starts_all = !descriptor.has(bit::PREDICTED);
        let alone = descriptor.has(bit::NO_REFERENCE);
        let mut frame = Frame {
            number,
            starts: descriptor.has(bit::BEGINS),
            ends: descriptor.has(bit::ENDS),
            spatial,
            temporal,
            has_structure: starts_all && spatial == 0,
            fdiffs,
            ..Frame::default()
        };
        for target in 0..structure.targets() {
            let (s, t) = structure.layers(target);
            let is_in = spatial <= s && temporal <= t && !(alone && spatial < s);
            let may_switch = starts_all || is_switch || temporal == 0 && t == 0;
            frame.indicate(
                target,
                match (is_in, may_switch) {
                    (false, _) => Indication::NotPresent,
                    (true, true) => Indication::Switch,
                    (true, false) => Indication::Required,
                },
            );
        }
        Some(frame)
    }

    /// Takes up what the newest packet says of the stream's layers, and has `structure` say it.
    pub(crate) fn note(&mut self, descriptor: &Descriptor, structure: &mut Structure) {
        let before = *self;
        let Descriptor { picture, temporal, spatial, .. } = *descriptor;
        let is_predicted = descriptor.has(bit::PREDICTED);
        if self.newest.is_some_and(|(newest, _)| newest != picture) {
            self.absent = if self.top + 1 < self.spatial { self.absent.saturating_add(1) } else { 0 };
            if self.absent >= ABSENT_MAX {
                (self.spatial, self.absent) = (self.top + 1, 0);
            }
            self.top = 0;
        }
        self.top = self.top.max(spatial);
        if descriptor.has(bit::BEGINS) && spatial == 0 {
            self.is_key = !is_predicted;
        }
        if let Some((count, sizes)) = descriptor.sizes {
            (self.spatial, self.sizes) = (count, sizes);
        }
        self.spatial = self.spatial.max(spatial + 1);
        self.temporal = self.temporal.max(temporal + 1);
        if is_predicted && !self.is_key && spatial + 1 < self.spatial {
            self.is_k_svc = descriptor.has(bit::NO_REFERENCE);
        }
        let shape = |of: &Layers| (of.spatial, of.temporal, of.sizes, of.is_k_svc);
        if self.spatial > 1 && (shape(&before) != shape(self) || !structure.is_known()) {
            structure.lay_out((SPATIAL, TEMPORAL), (self.spatial, self.temporal), &self.sizes, self.is_k_svc);
        }
        if let Some((before, of)) = self.newest.replace((picture, temporal)).filter(|(before, _)| *before != picture) {
            self.last[usize::from(of)] = Some(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_descriptor_says_its_layers_in_both_modes() {
        let read = Descriptor::read(&[0xae, 0x92, 0x34, 0x13, 9, 0x30, 1, 64, 0, 180, 2, 128, 1, 104, 0x49]).unwrap();
        assert_eq!(
            (read.picture, read.temporal, read.spatial, read.is_switch, read.is_inter),
            (0x1234, 0, 1, true, true)
        );
        assert_eq!(read.sizes, Some((2, [(320, 180), (640, 360), (0, 0)])));
        assert!(!read.is_flexible());
        let flexible = Descriptor::read(&[0xf8, 0x92, 0x34, 0x40, 0x05, 0x0a, 0x49]).unwrap();
        assert_eq!((flexible.temporal, flexible.differences, flexible.is_flexible()), (2, [2, 5, 0], true));
        assert_eq!(Descriptor::read(&[0x8c, 0x92, 0x34, 0x49]), None, "no layers");
        assert_eq!(Descriptor::read(&[0xac, 0x12, 0x20, 9, 0x49]), None, "a PictureID of 7 bits");
        assert_eq!(Descriptor::read(&[0xac, 0x92, 0x34, 0x07, 9, 0x49]), None, "more layers than there are");
        for cut in [
            &[0xae, 0x92, 0x34, 0x13, 9][..],
            &[0xae, 0x92, 0x34, 0x13, 9, 0x30, 1, 64],
            &[0xf8, 0x92, 0x34, 0x40, 0x05],
            &[0xa0, 0x92],
        ] {
            assert_eq!(Descriptor::read(cut), None, "{cut:02x?}");
        }
    }

    proptest! {
        #[test]
        fn any_payloads_have_frames_within_the_structure(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..24), 0..40)) {
            let (mut layers, mut structure) = (Layers::default(), Structure::default());
            for descriptor in payloads.iter().filter_map(|payload| Descriptor::read(payload)) {
                layers.note(&descriptor, &mut structure);
                let Some(frame) = layers.frame(&descriptor, &structure) else { continue };
                prop_assert!(structure.is_known() && structure.targets() <= SPATIAL * TEMPORAL);
                prop_assert!(frame.spatial <= structure.spatial_max() && frame.temporal <= structure.temporal_max());
                prop_assert!(frame.is_in(structure.target(frame.spatial, frame.temporal)));
            }
        }
    }
}
