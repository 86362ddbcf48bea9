//! What a stream says of its layers, and with what: the dependency descriptor where its packets have one ([`crate::dependency`]), else the payload descriptor
//! of VP9 if there are spatial layers ([`crate::vp9`]). Temporal layers alone are read with the numbers of pictures ([`crate::picture`]).

use std::ops::Deref;

use proto::plane::Codec;

use crate::dependency::{DescriptorError, Frame, Structure};
use crate::packet::{Descriptor, Place, Role, RtpPacket};
use crate::vp9;

/// What is known of the layers of a stream.
#[derive(Default)]
pub(crate) struct Layering {
    structure: Structure,
    /// Whether the structure came in a dependency descriptor.
    is_told: bool,
    vp9: vp9::Layers,
}

impl Deref for Layering {
    type Target = Structure;

    fn deref(&self) -> &Structure {
        &self.structure
    }
}

/// What is known of a packet's frame.
#[derive(Clone, Copy)]
pub(crate) struct Described {
    pub(crate) frame: Frame,
    /// Where the dependency descriptor stands in the packet's head, if that says it.
    pub(crate) place: Option<Place>,
    /// Whether PictureIDs name each other by their difference.
    pub(crate) is_flexible: bool,
}

impl Described {
    /// Its dependency descriptor as it leaves where so much is added to frame numbers.
    pub(crate) fn sent(&self, shift: u16, role: Role) -> Option<Descriptor> {
        Some(Descriptor { place: self.place?, number: self.frame.number.wrapping_add(shift), role })
    }
}

impl Layering {
    /// Reads what a packet says of its frame; `id` is that of the header extension, and `is_newest` says that it is no late one.
    #[inline]
    pub(crate) fn read(
        &mut self,
        codec: Codec,
        packet: &RtpPacket<'_>,
        id: u8,
        is_newest: bool,
    ) -> Result<Option<Described>, DescriptorError> {
        if let Some((place, bytes)) = packet.descriptor(id) {
            let is_told = std::mem::replace(&mut self.is_told, true);
            let frame = match is_told {
                true => self.structure.read(bytes, is_newest),
                false => self.begin(bytes),
            }?;
            return Ok(Some(Described { frame, place: Some(place), is_flexible: false }));
        }
        if codec != Codec::Vp9 || self.is_told {
            return Ok(None);
        }
        let Some(descriptor) = vp9::Descriptor::read(packet.payload) else { return Ok(None) };
        if is_newest {
            self.vp9.note(&descriptor, &mut self.structure);
        }
        Ok(self.of_vp9(&descriptor))
    }

    /// The first dependency descriptor of a stream: what was laid out of payload descriptors is no structure of its.
    #[cold]
    fn begin(&mut self, bytes: &[u8]) -> Result<Frame, DescriptorError> {
        self.structure = Structure::default();
        self.structure.read(bytes, true)
    }

    /// The same of a packet that came before.
    pub(crate) fn again(&self, codec: Codec, packet: &RtpPacket<'_>, id: u8) -> Option<Described> {
        if let Some((place, bytes)) = packet.descriptor(id).filter(|_| self.is_told) {
            let frame = self.structure.frame(bytes).ok()?;
            return Some(Described { frame, place: Some(place), is_flexible: false });
        }
        let is_its = codec == Codec::Vp9 && !self.is_told;
        self.of_vp9(&vp9::Descriptor::read(packet.payload).filter(|_| is_its)?)
    }

    fn of_vp9(&self, descriptor: &vp9::Descriptor) -> Option<Described> {
        let frame = self.vp9.frame(descriptor, &self.structure)?;
        Some(Described { frame, place: None, is_flexible: descriptor.is_flexible() })
    }
}
