//! The running numbers of pictures that stand inside payloads: PictureID, TL0PICIDX and KEYIDX of a VP8 payload descriptor
//! (RFC 7741 §4.2), PictureID and TL0PICIDX of a VP9 one (RFC 9628 §4.2).
//!
//! Decoders order frames and find lost ones by them, so in a slot they go on like sequence numbers do: where the slot's
//! source changes, the next picture has the next number. Within one source the numbers are shifted by a constant, so what
//! the publisher's network lost stays missing, and every packet of a frame, also a repaired one, has the frame's number.
//! They are written into the copy that leaves ([`Renumber`]); the payload that arrived is shared by all receivers and stays as
//! it is.

use proto::plane::Codec;

use crate::layer::Temporal;

/// PictureID with its M bit set.
const ID_MASK: u16 = 0x7fff;
/// Without it.
const SHORT_ID_MASK: u16 = 0x7f;
/// KEYIDX, the low bits of its byte.
const KEY_MASK: u8 = 0x1f;

/// One number in a payload: where it lies, and what the publisher wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Field<T> {
    at: u8,
    value: T,
}

/// The running numbers of one payload; none for codecs that have no such things.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PictureNumbers {
    id: Option<Field<u16>>,
    /// Whether the id has 15 bits, not 7. A sender chooses, and keeps to its choice.
    is_long: bool,
    /// TL0PICIDX: counts the frames of the base layer.
    base: Option<Field<u8>>,
    /// KEYIDX: counts keyframes.
    key: Option<Field<u8>>,
    /// The temporal layer, if the stream has any.
    pub(crate) temporal: Option<Temporal>,
}

impl PictureNumbers {
    /// Reads what a payload has of them. A descriptor that ends early has none: its receiver will not read it either.
    #[inline]
    pub fn read(codec: Codec, payload: &[u8]) -> PictureNumbers {
        match codec {
            Codec::Vp8 => vp8(payload).map(|(pictures, _)| pictures),
            Codec::Vp9 => vp9(payload).map(|(pictures, _)| pictures),
            Codec::Opus | Codec::H264 | Codec::Av1 => None,
        }
        .unwrap_or_default()
    }

    /// The same, if there are any.
    #[inline]
    pub(crate) fn of(codec: Codec, payload: &[u8]) -> Option<PictureNumbers> {
        Some(PictureNumbers::read(codec, payload)).filter(|pictures| !pictures.is_empty())
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.id.is_none() && self.base.is_none() && self.key.is_none()
    }

    /// PictureID as the publisher wrote it.
    pub fn id(&self) -> Option<u16> {
        self.id.map(|id| id.value)
    }

    /// TL0PICIDX as the publisher wrote it.
    pub fn base(&self) -> Option<u8> {
        self.base.map(|base| base.value)
    }

    /// KEYIDX as the publisher wrote it.
    pub fn key(&self) -> Option<u8> {
        self.key.map(|key| key.value)
    }
}

/// PictureID at the front of `bytes`, which lies at `at` in the payload; the bytes after it.
fn picture_id(bytes: &[u8], at: u8) -> Option<(Field<u16>, bool, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first & 0x80 == 0 {
        return Some((Field { at, value: u16::from(first) }, false, rest));
    }
    let (&second, rest) = rest.split_first()?;
    Some((Field { at, value: u16::from_be_bytes([first & 0x7f, second]) }, true, rest))
}

/// The numbers of a VP8 payload descriptor (RFC 7741 §4.2: `X`, then `I L T K` and what they announce), and what follows it.
pub(crate) fn vp8(payload: &[u8]) -> Option<(PictureNumbers, &[u8])> {
    let (&required, rest) = payload.split_first()?;
    let mut pictures = PictureNumbers::default();
    if required & 0x80 == 0 {
        return Some((pictures, rest));
    }
    let (&extended, mut rest) = rest.split_first()?;
    let at = |rest: &[u8]| (payload.len() - rest.len()) as u8;
    if extended & 0x80 != 0 {
        let (id, is_long, after) = picture_id(rest, at(rest))?;
        (pictures.id, pictures.is_long, rest) = (Some(id), is_long, after);
    }
    if extended & 0x40 != 0 {
        let (&value, after) = rest.split_first()?;
        pictures.base = Some(Field { at: at(rest), value });
        rest = after;
    }
    // T and K share a byte; KEYIDX is meant by K alone.
    if extended & 0x30 != 0 {
        let (&byte, after) = rest.split_first()?;
        pictures.key = (extended & 0x10 != 0).then_some(Field { at: at(rest), value: byte & KEY_MASK });
        let temporal = Temporal { id: byte >> 6, is_sync: byte & 0x20 != 0, is_switch: false };
        pictures.temporal = (extended & 0x20 != 0).then_some(temporal);
        rest = after;
    }
    Some((pictures, rest))
}

/// The numbers of a VP9 payload descriptor (RFC 9628 §4.2), and the spatial layer of the frame: 0 where none is given.
/// What follows them (references of the flexible mode, the scalability structure) counts from the picture itself.
pub(crate) fn vp9(payload: &[u8]) -> Option<(PictureNumbers, u8)> {
    let (&flags, mut rest) = payload.split_first()?;
    let mut pictures = PictureNumbers::default();
    let mut layer = 0;
    let at = |rest: &[u8]| (payload.len() - rest.len()) as u8;
    if flags & 0x80 != 0 {
        let (id, is_long, after) = picture_id(rest, at(rest))?;
        (pictures.id, pictures.is_long, rest) = (Some(id), is_long, after);
    }
    if flags & 0x20 != 0 {
        let (&layers, after) = rest.split_first()?;
        layer = layers >> 1 & 0x07;
        pictures.temporal = Some(Temporal { id: layers >> 5, is_sync: false, is_switch: layers & 0x10 != 0 });
        rest = after;
        // TL0PICIDX is there unless the mode is flexible.
        if flags & 0x10 == 0 {
            let (&value, after) = rest.split_first()?;
            pictures.base = Some(Field { at: at(rest), value });
            rest = after;
        }
    }
    (!rest.is_empty()).then_some((pictures, layer))
}

/// What is added to each number of one source so that the slot's numbers go on. A number that the source has not shown yet
/// is settled when it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shift {
    id: Option<u16>,
    base: Option<u8>,
    key: Option<u8>,
}

impl Shift {
    /// The shift that also covers `pictures`: a number that comes for the first time goes on after `last`.
    #[inline]
    pub fn covering(self, pictures: &PictureNumbers, last: &Last) -> Shift {
        let after = |last: Option<u16>, value: u16| last.map_or(0, |last| last.wrapping_add(1).wrapping_sub(value));
        let after_octet = |last: Option<u8>, value: u8| last.map_or(0, |last| last.wrapping_add(1).wrapping_sub(value));
        Shift {
            id: self.id.or_else(|| Some(after(last.id, pictures.id()?))),
            base: self.base.or_else(|| Some(after_octet(last.base, pictures.base()?))),
            key: self.key.or_else(|| Some(after_octet(last.key, pictures.key()?))),
        }
    }

    /// For a picture behind which so many were left out.
    #[inline]
    pub(crate) fn before(self, left_out: u16) -> Shift {
        Shift { id: self.id.map(|id| id.wrapping_add(left_out)), ..self }
    }

    /// For pictures that follow so many that were left out.
    pub(crate) fn after(self, left_out: u16) -> Shift {
        Shift { id: self.id.map(|id| id.wrapping_sub(left_out)), ..self }
    }

    fn id_of(&self, pictures: &PictureNumbers) -> Option<u16> {
        let mask = if pictures.is_long { ID_MASK } else { SHORT_ID_MASK };
        Some(pictures.id()?.wrapping_add(self.id.unwrap_or(0)) & mask)
    }

    fn base_of(&self, pictures: &PictureNumbers) -> Option<u8> {
        Some(pictures.base()?.wrapping_add(self.base.unwrap_or(0)))
    }

    fn key_of(&self, pictures: &PictureNumbers) -> Option<u8> {
        Some(pictures.key()?.wrapping_add(self.key.unwrap_or(0)) & KEY_MASK)
    }

    /// Writes the shifted numbers over the publisher's, in a copy of the payload from which `pictures` were read.
    #[inline]
    pub fn write(&self, pictures: &PictureNumbers, payload: &mut [u8]) {
        if let (Some(field), Some(id)) = (pictures.id, self.id_of(pictures)) {
            let [high, low] = id.to_be_bytes();
            let at = usize::from(field.at);
            if pictures.is_long {
                payload[at..at + 2].copy_from_slice(&[0x80 | high, low]);
            } else {
                payload[at] = low;
            }
        }
        if let (Some(field), Some(base)) = (pictures.base, self.base_of(pictures)) {
            payload[usize::from(field.at)] = base;
        }
        if let (Some(field), Some(key)) = (pictures.key, self.key_of(pictures)) {
            let byte = &mut payload[usize::from(field.at)];
            *byte = *byte & !KEY_MASK | key;
        }
    }
}

/// The numbers that one payload's pictures get for one receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Renumber {
    /// Those that the publisher wrote, and where.
    pub pictures: PictureNumbers,
    /// What is added to them.
    pub shift: Shift,
}

impl Renumber {
    /// Bytes at the start of a payload in which all numbers lie.
    pub const LEN_MAX: usize = 16;

    /// Writes the numbers into a copy of the start of the payload.
    #[inline]
    pub fn write(&self, start: &mut [u8]) {
        self.shift.write(&self.pictures, start);
    }
}

/// The numbers of the newest packet that left through a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Last {
    /// In 15 bits; a source with ids of 7 bits moves it by as much as they move.
    id: Option<u16>,
    base: Option<u8>,
    key: Option<u8>,
}

impl Last {
    /// A newer packet left.
    #[inline]
    pub fn sent(&mut self, pictures: &PictureNumbers, shift: &Shift) {
        if let Some(id) = shift.id_of(pictures) {
            self.id = Some(match self.id {
                Some(last) if !pictures.is_long => {
                    // The id is the one nearest to the last that has these seven bits.
                    let ahead = (id.wrapping_sub(last) & SHORT_ID_MASK) as i16;
                    let moved = if ahead > 63 { ahead - 128 } else { ahead };
                    last.wrapping_add_signed(moved) & ID_MASK
                }
                _ => id,
            });
        }
        self.base = shift.base_of(pictures).or(self.base);
        self.key = shift.key_of(pictures).or(self.key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A VP8 payload with these numbers.
    fn vp8_payload(id: Option<(u16, bool)>, base: Option<u8>, key: Option<u8>) -> Vec<u8> {
        let bit = |is_there: bool, bit: u8| if is_there { bit } else { 0 };
        let mut bytes = vec![0x90, bit(id.is_some(), 0x80) | bit(base.is_some(), 0x60) | bit(key.is_some(), 0x10)];
        match id {
            Some((id, true)) => bytes.extend((id | 0x8000).to_be_bytes()),
            Some((id, false)) => bytes.push(id as u8),
            None => {}
        }
        bytes.extend(base);
        if base.is_some() || key.is_some() {
            bytes.push(0x60 | key.unwrap_or(0));
        }
        bytes.extend([0x50, 1, 2, 3]);
        bytes
    }

    fn shown(payload: &[u8]) -> (Option<u16>, Option<u8>, Option<u8>) {
        let pictures = PictureNumbers::read(Codec::Vp8, payload);
        (pictures.id(), pictures.base(), pictures.key())
    }

    /// Sends a payload and returns it as it left.
    fn send(last: &mut Last, shift: &mut Shift, payload: &[u8]) -> Vec<u8> {
        send_as(Codec::Vp8, last, shift, payload)
    }

    fn send_as(codec: Codec, last: &mut Last, shift: &mut Shift, payload: &[u8]) -> Vec<u8> {
        let pictures = PictureNumbers::read(codec, payload);
        *shift = shift.covering(&pictures, last);
        let mut copy = payload.to_vec();
        shift.write(&pictures, &mut copy);
        last.sent(&pictures, shift);
        copy
    }

    #[test]
    fn every_form_of_descriptor_is_read() {
        for id in [None, Some((7, false)), Some((0x1234, true)), Some((0x7fff, true))] {
            for (base, key) in [(None, None), (Some(200), None), (None, Some(31)), (Some(0), Some(9))] {
                let payload = vp8_payload(id, base, key);
                assert_eq!(shown(&payload), (id.map(|(id, _)| id), base, key));
                let descriptor = payload.len() - 4;
                for len in 0..descriptor {
                    assert_eq!(shown(&payload[..len]), (None, None, None), "{payload:02x?} cut to {len}");
                }
            }
        }
        assert_eq!(shown(&[0x10, 0x80, 0x05]), (None, None, None), "X is not set: the rest is the frame");
        assert_eq!(shown(&[]), (None, None, None));
        assert_eq!(
            PictureNumbers::read(Codec::H264, &vp8_payload(Some((7, true)), None, None)),
            PictureNumbers::default()
        );
    }

    #[test]
    fn the_first_source_keeps_its_numbers_and_the_next_goes_on() {
        let (mut last, mut a, mut b) = (Last::default(), Shift::default(), Shift::default());
        let sent = send(&mut last, &mut a, &vp8_payload(Some((500, true)), Some(9), Some(3)));
        assert_eq!(sent, vp8_payload(Some((500, true)), Some(9), Some(3)));
        let sent = send(&mut last, &mut b, &vp8_payload(Some((0x7ffe, true)), Some(255), Some(31)));
        assert_eq!(sent, vp8_payload(Some((501, true)), Some(10), Some(4)));
        let sent = send(&mut last, &mut b, &vp8_payload(Some((1, true)), Some(1), Some(0)));
        assert_eq!(sent, vp8_payload(Some((504, true)), Some(12), Some(5)), "a gap over the wrap stays a gap");
    }

    #[test]
    fn a_sender_of_seven_bits_stays_one_and_counts_for_those_after_it() {
        let (mut last, mut long, mut short) = (Last::default(), Shift::default(), Shift::default());
        send(&mut last, &mut long, &vp8_payload(Some((0x7fff, true)), None, None));
        for n in 0..200u16 {
            let sent = send(&mut last, &mut short, &vp8_payload(Some(((n + 100) & 0x7f, false)), None, None));
            assert_eq!(sent, vp8_payload(Some((n & 0x7f, false)), None, None));
        }
        let mut after = Shift::default();
        let sent = send(&mut last, &mut after, &vp8_payload(Some((9999, true)), None, None));
        assert_eq!(shown(&sent).0, Some(200), "0x7fff, then 0 to 199, then this");
    }

    #[test]
    fn a_number_that_comes_later_goes_on_from_there() {
        let (mut last, mut a, mut b) = (Last::default(), Shift::default(), Shift::default());
        send(&mut last, &mut a, &vp8_payload(Some((20, true)), None, None));
        let bare = vp8_payload(None, None, None);
        assert_eq!(send(&mut last, &mut b, &bare), bare, "nothing to rewrite");
        let sent = send(&mut last, &mut b, &vp8_payload(Some((7000, true)), Some(4), None));
        assert_eq!(shown(&sent), (Some(21), Some(4), None));
    }

    #[test]
    fn vp9_has_picture_ids_and_the_base_layers_count() {
        let numbers = |payload: &[u8]| {
            let pictures = PictureNumbers::read(Codec::Vp9, payload);
            (pictures.id(), pictures.base(), pictures.key())
        };
        assert_eq!(numbers(&[0x8c, 0x92, 0x34, 0x49]), (Some(0x1234), None, None));
        assert_eq!(numbers(&[0xac, 0x12, 0x20, 9, 0x49]), (Some(0x12), Some(9), None), "layers");
        assert_eq!(numbers(&[0xbc, 0x12, 0x20, 0x49]), (Some(0x12), None, None), "flexible mode");
        assert_eq!(numbers(&[0x0c, 0x49]), (None, None, None));
        let mut payload = [0xac, 0xff, 0xff, 0x20, 255, 0x49];
        let pictures = PictureNumbers::read(Codec::Vp9, &payload);
        Shift { id: Some(2), base: Some(1), key: None }.write(&pictures, &mut payload);
        assert_eq!(payload, [0xac, 0x80, 0x01, 0x20, 0, 0x49]);
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_nothing_but_the_numbers_changes(
            payload in prop::collection::vec(any::<u8>(), 0..24),
            before in prop::collection::vec(any::<u8>(), 0..12),
            codec in prop_oneof![Just(Codec::Vp8), Just(Codec::Vp9)],
        ) {
            let (mut last, mut shift) = (Last::default(), Shift::default());
            send_as(codec, &mut last, &mut Shift::default(), &before);
            let sent = send_as(codec, &mut last, &mut shift, &payload);
            prop_assert_eq!(sent.len(), payload.len());
            let (was, is) = (PictureNumbers::read(codec, &payload), PictureNumbers::read(codec, &sent));
            prop_assert_eq!((was.is_long, was.id.map(|p| p.at)), (is.is_long, is.id.map(|p| p.at)));
            prop_assert_eq!((was.base.map(|p| p.at), was.key.map(|p| p.at)), (is.base.map(|p| p.at), is.key.map(|p| p.at)));
            // Shifted back it is what it was.
            let mut back = sent.clone();
            Shift {
                id: shift.id.map(u16::wrapping_neg),
                base: shift.base.map(u8::wrapping_neg),
                key: shift.key.map(u8::wrapping_neg),
            }
            .write(&is, &mut back);
            prop_assert_eq!(back, payload);
        }
    }
}
