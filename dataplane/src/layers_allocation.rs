//! `video-layers-allocation`: the RTP header extension in which libwebrtc says which encodings and layers of a video it sends now, at which rates, and how large their
//! pictures are (webrtc.googlesource.com, docs/native-code/rtp-hdrext/video-layers-allocation00). It is in the packets of all encodings of a track, and is about
//! all of them.

/// RTP streams of one video, and spatial layers and temporal layers of each: two bits say how many there are.
pub const STREAMS_MAX: usize = 4;

/// One RTP stream of a video.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allocated {
    /// Bit n: spatial layer n is sent.
    pub spatial: u8,
    /// Target rate of all its layers, kbit/s.
    pub kbps: u32,
    /// Width and height of the largest pictures, 0 if they are not said.
    pub size: (u32, u32),
}

/// What an extension says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LayersAllocation {
    /// Which of the streams the packet is of.
    pub stream: u8,
    /// How many streams there are.
    pub count: u8,
    /// The streams in the order of `a=simulcast`.
    pub streams: [Allocated; STREAMS_MAX],
}

impl LayersAllocation {
    /// Reads a value. `None`: it is cut short, or a number in it has more than 32 bits.
    pub fn read(bytes: &[u8]) -> Option<LayersAllocation> {
        let (&first, mut rest) = bytes.split_first()?;
        let mut allocation = LayersAllocation { stream: first >> 6, count: (first >> 4 & 3) + 1, ..Self::default() };
        if bytes == [0] {
            return Some(allocation); // Nothing is sent.
        }
        let count = usize::from(allocation.count);
        let masks = match first & 0x0f {
            0 => {
                let (masks, after) = rest.split_at_checked(count.div_ceil(2))?;
                rest = after;
                masks
            }
            _ => &[],
        };
        for (at, stream) in allocation.streams[..count].iter_mut().enumerate() {
            stream.spatial = match masks.get(at / 2) {
                Some(pair) => {
                    if at % 2 == 0 {
                        pair >> 4
                    } else {
                        pair & 0x0f
                    }
                }
                None => first & 0x0f,
            };
        }
        let layers = || (0..count).flat_map(|at| (0..4).map(move |layer| (at, layer)));
        let is_sent =
            move |streams: &[Allocated; STREAMS_MAX], at: usize, layer: u32| streams[at].spatial >> layer & 1 != 0;
        let sent =
            |streams: &[Allocated; STREAMS_MAX]| layers().filter(|(at, layer)| is_sent(streams, *at, *layer)).count();
        let (temporal, after) = rest.split_at_checked(sent(&allocation.streams).div_ceil(4))?;
        rest = after;
        let mut place = 0;
        for (at, layer) in layers() {
            if !is_sent(&allocation.streams, at, layer) {
                continue;
            }
            let counts = temporal.get(place / 4)?;
            place += 1;
            let mut kbps = 0;
            for _ in 0..=(counts >> (6 - 2 * ((place - 1) % 4)) & 3) {
                kbps = leb128(&mut rest)?; // That of a temporal layer has those below in it.
            }
            let stream = &mut allocation.streams[at];
            stream.kbps = stream.kbps.saturating_add(kbps);
        }
        if rest.is_empty() {
            return Some(allocation);
        }
        for (at, layer) in layers() {
            if is_sent(&allocation.streams, at, layer) {
                let (&[w0, w1, h0, h1, _], after) = rest.split_first_chunk()?;
                rest = after;
                let side = |high, low| u32::from(u16::from_be_bytes([high, low])) + 1;
                allocation.streams[at].size = (side(w0, w1), side(h0, h1));
            }
        }
        Some(allocation)
    }
}

/// A number of at most 32 bits in LEB128 (AV1 specification §4.10.5).
fn leb128(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(hex: &str) -> Option<LayersAllocation> {
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        LayersAllocation::read(&bytes)
    }

    /// Values of Chromium 156.
    #[test]
    fn what_chromium_sends_is_read() {
        // H.264 in L1T3, without and with the size.
        let temporal = read("0100d804").unwrap();
        assert_eq!((temporal.stream, temporal.count, temporal.streams[0].spatial), (0, 1, 1));
        assert_eq!(temporal.streams[0], Allocated { spatial: 1, kbps: 600, size: (0, 0) });
        assert_eq!(read("01009802013f00b310").unwrap().streams[0].size, (320, 180));
        // VP9 in L3T3_KEY: 77, 100, 142; 214, 278, 396; 453, 588, 844 kbit/s.
        let spatial = read("07a84d648e01e201a602a203c703d104cc06013f00b316027f01671604ff02cf16").unwrap();
        assert_eq!((spatial.streams[0].spatial, spatial.streams[0].size), (0b111, (1280, 720)));
        assert_eq!(spatial.streams[0].kbps, 142 + 418 + 844);
        // Three encodings of which the first two are sent; the packet is of the second.
        let simulcast = read("60110000c801ac02013f00b30f027f01670f").unwrap();
        assert_eq!((simulcast.stream, simulcast.count), (1, 3));
        let of = |at: usize| (simulcast.streams[at].kbps, simulcast.streams[at].size);
        assert_eq!([of(0), of(1), of(2)], [(200, (320, 180)), (300, (640, 360)), (0, (0, 0))]);
        assert_eq!(read("00"), Some(LayersAllocation { count: 1, ..LayersAllocation::default() }), "nothing is sent");
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let whole = "07a84d648e01e201a602a203c703d104cc06013f00b316027f01671604ff02cf16";
        for len in (0..whole.len()).step_by(2) {
            // Sizes are there or not.
            assert!(read(&whole[..len]).is_none() || len == 36, "{len}");
        }
        assert_eq!(read("0100ffffffffff0f"), None, "a number of more than 32 bits");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(allocation) = LayersAllocation::read(&bytes) {
                prop_assert!(usize::from(allocation.count) <= STREAMS_MAX && allocation.stream < 4);
                for stream in allocation.streams {
                    prop_assert!(stream.spatial < 16 && (stream.spatial > 0 || stream == Allocated::default()));
                }
            }
        }
    }
}
