//! Frames on a connection (RFC 4571 §2): two bytes of length, most significant first, and as many bytes of a packet.

use crate::config::{TCP_FRAME_LEN_MAX, TCP_FRAME_LEN_MIN};

/// Bytes before each packet.
pub(super) const PREFIX_LEN: usize = 2;

/// A frame of a length that no packet has: the connection is of no use any more, because what follows cannot be told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// What goes before a packet.
pub(super) fn prefix(packet: &[u8]) -> [u8; PREFIX_LEN] {
    (packet.len() as u16).to_be_bytes()
}

/// How many of these bytes are whole frames; the rest is the beginning of the next one. Frames without a packet are allowed
/// (RFC 4571 §2).
pub(super) fn whole(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut at = 0;
    while let Some(len) = packet_len(&bytes[at..]) {
        if len != 0 && !(TCP_FRAME_LEN_MIN..=TCP_FRAME_LEN_MAX).contains(&len) {
            return Err(Malformed);
        }
        if bytes.len() < at + PREFIX_LEN + len {
            break;
        }
        at += PREFIX_LEN + len;
    }
    Ok(at)
}

fn packet_len(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk().map(|prefix| usize::from(u16::from_be_bytes(*prefix)))
}

/// The packets of whole frames, without those that are empty.
pub(super) struct Packets<'a> {
    rest: &'a mut [u8],
}

impl<'a> Packets<'a> {
    pub(super) fn new(frames: &'a mut [u8]) -> Self {
        Packets { rest: frames }
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = &'a mut [u8];

    fn next(&mut self) -> Option<&'a mut [u8]> {
        loop {
            let len = packet_len(self.rest)?;
            let rest = std::mem::take(&mut self.rest);
            let (packet, rest) = rest.get_mut(PREFIX_LEN..)?.split_at_mut_checked(len)?;
            self.rest = rest;
            if !packet.is_empty() {
                return Some(packet);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed<'a>(packets: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
        packets.into_iter().flat_map(|packet| prefix(packet).into_iter().chain(packet.iter().copied())).collect()
    }

    /// As a connection does with what it reads: whole frames are taken, and the beginning of the next one is kept.
    fn read(stream: &[u8], pieces: &[usize]) -> Result<(Vec<Vec<u8>>, usize), Malformed> {
        let (mut got, mut kept, mut rest) = (Vec::new(), Vec::new(), stream);
        for piece in pieces.iter().copied().cycle() {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            rest = later;
            kept.extend_from_slice(now);
            let whole = whole(&kept)?;
            got.extend(Packets::new(&mut kept[..whole]).map(|packet| packet.to_vec()));
            kept.drain(..whole);
            assert!(kept.len() < PREFIX_LEN + TCP_FRAME_LEN_MAX, "what is kept is less than a frame");
            if rest.is_empty() {
                break;
            }
        }
        Ok((got, kept.len()))
    }

    fn packet() -> impl Strategy<Value = Vec<u8>> {
        let len = prop_oneof![Just(0), TCP_FRAME_LEN_MIN..200, Just(TCP_FRAME_LEN_MAX)];
        len.prop_flat_map(|len| prop::collection::vec(any::<u8>(), len))
    }

    proptest! {
        #[test]
        fn packets_come_out_as_they_went_in_however_the_stream_is_cut(
            packets in prop::collection::vec(packet(), 0..20),
            pieces in prop::collection::vec(1usize..3000, 1..8),
            cut in 0usize..40,
        ) {
            let mut stream = framed(&packets);
            let full = packets.iter().filter(|packet| !packet.is_empty()).cloned().collect::<Vec<_>>();
            prop_assert_eq!(read(&stream, &pieces), Ok((full.clone(), 0)));
            // A stream that ends early gives the packets that are whole, in order.
            stream.truncate(stream.len().saturating_sub(cut));
            let (got, _) = read(&stream, &pieces).unwrap();
            prop_assert!(full.starts_with(&got));
        }

        #[test]
        fn a_length_that_no_packet_has_ends_the_connection(
            packets in prop::collection::vec(packet(), 0..5),
            len in prop_oneof![1u16..TCP_FRAME_LEN_MIN as u16, TCP_FRAME_LEN_MAX as u16 + 1..=u16::MAX],
            pieces in prop::collection::vec(1usize..3000, 1..8),
        ) {
            let mut stream = framed(&packets);
            stream.extend(len.to_be_bytes());
            prop_assert_eq!(read(&stream, &pieces), Err(Malformed));
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            if let Ok(whole) = whole(&bytes) {
                prop_assert!(whole <= bytes.len());
                let lens: usize = Packets::new(&mut bytes[..whole]).map(|packet| packet.len()).sum();
                prop_assert!(lens <= whole);
            }
        }
    }
}
