//! The picture while there is none: black, 640×360, each of it a keyframe. Two of them, because two in a row must differ in `idr_pic_id`
//! (ISO/IEC 14496-10 §7.4.3). x264 made it: `color=black:s=640x360`, baseline profile, `keyint=1`.

use record::depacketize::{Config, Frame};

const STREAM: &[u8] = include_bytes!("black.h264");

/// Black pictures, one after the other.
pub(crate) struct Black {
    config: Config,
    pictures: [Vec<u8>; 2],
    next: usize,
}

impl Black {
    pub(crate) fn new() -> Black {
        let mut units: [Vec<Vec<u8>>; 32] = Default::default();
        for unit in split(STREAM) {
            units[usize::from(unit[0] & 0x1F)].push(unit.to_vec());
        }
        let [sps, pps, pictures] = [7, 8, 5].map(|kind: usize| std::mem::take(&mut units[kind]));
        let config = Config::H264 { sps: sps[..1].to_vec(), pps: pps[..1].to_vec(), size: (640, 360) };
        let prefixed = |unit: &Vec<u8>| [&(unit.len() as u32).to_be_bytes()[..], unit].concat();
        Black { config, pictures: [prefixed(&pictures[0]), prefixed(&pictures[1])], next: 0 }
    }

    /// The next one.
    pub(crate) fn picture(&mut self) -> Frame {
        self.next ^= 1;
        let data = self.pictures[self.next].clone();
        Frame { timestamp: 0, data, is_key: true, config: Some(self.config.clone()) }
    }
}

/// The NAL units of a stream with start codes.
fn split(stream: &[u8]) -> Vec<&[u8]> {
    let begins: Vec<usize> = (3..stream.len()).filter(|&at| stream[at - 3..at] == [0, 0, 1]).collect();
    let ends = begins.iter().skip(1).map(|begin| begin - 3).chain([stream.len()]);
    let trim = |(&begin, end): (&usize, usize)| {
        let len = stream[begin..end].iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        &stream[begin..begin + len]
    };
    begins.iter().zip(ends).map(trim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_two_pictures_that_differ() {
        let mut black = Black::new();
        let (one, other, again) = (black.picture(), black.picture(), black.picture());
        assert_ne!(one.data, other.data);
        assert_eq!(one, again);
        let Some(Config::H264 { sps, pps, .. }) = &one.config else { panic!("{one:?}") };
        assert_eq!((sps[0][0], pps[0][0], one.data[4]), (0x67, 0x68, 0x65));
    }
}
