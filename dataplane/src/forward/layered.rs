//! A packet that is to be fanned out, by what it says of its layers: whether a receiver gets it, and with which dependency descriptor.

use super::fanout::PendingPacket;
use crate::dependency::{Frame, Structure};
use crate::layer::Layers;
use crate::layering::Layering;
use crate::packet::{Descriptor, Role};
use crate::rewrite::Mapping;

impl PendingPacket {
    /// Its frame, and what that refers to, if it says its layers.
    #[inline]
    pub(super) fn described_in<'a>(&'a self, layering: Option<&'a Layering>) -> Option<(&'a Frame, &'a Structure)> {
        Some((&self.described.as_ref()?.frame, layering?))
    }

    /// See [`Layers::place`].
    #[inline]
    pub(super) fn place(&self, layers: &mut Layers, layering: Option<&Layering>, is_keyframe: bool) -> Option<bool> {
        let temporal = self.input.pictures.and_then(|pictures| pictures.temporal);
        layers.place(self.input.frame_key(), temporal, self.described_in(layering), is_keyframe)
    }

    /// The dependency descriptor that it leaves with.
    #[inline]
    pub(super) fn descriptor(&self, mapping: &Mapping, role: Role) -> Option<Descriptor> {
        let (described, (number, _)) = self.described.zip(mapping.frame)?;
        Some(Descriptor { place: described.place?, number, role })
    }
}
