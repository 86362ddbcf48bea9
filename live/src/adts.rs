//! AAC as ffmpeg writes it to a pipe: frames, each with a header (ADTS, ISO/IEC 13818-7 §6.2).

/// Samples of a frame of AAC.
pub(crate) const AAC_FRAME: i64 = 1_024;
/// A frame of silence of two channels.
pub(crate) const SILENT: [u8; 9] = [0x21, 0x00, 0x49, 0x90, 0x02, 0x19, 0x00, 0x23, 0x80];

/// Takes a stream apart.
#[derive(Default)]
pub(crate) struct Adts(Vec<u8>);

impl Adts {
    /// The frames that are whole, without their headers.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
        self.0.extend_from_slice(bytes);
        let (mut frames, mut at) = (Vec::new(), 0);
        while let [first, second, _, fourth, fifth, sixth, _, ..] = self.0[at..] {
            if first != 0xFF || second & 0xF6 != 0xF0 {
                return Err("what the encoder writes is no ADTS");
            }
            // With a checksum, unless it is said to be absent.
            let header = if second & 1 == 1 { 7 } else { 9 };
            let len = usize::from(fourth & 3) << 11 | usize::from(fifth) << 3 | usize::from(sixth >> 5);
            if len < header {
                return Err("what the encoder writes is no ADTS");
            }
            let Some(frame) = self.0.get(at + header..at + len) else { break };
            frames.push(frame.to_vec());
            at += len;
        }
        self.0.drain(..at);
        Ok(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_however_the_pipe_cuts_them() {
        let frame = |data: &[u8]| {
            let len = data.len() + 7;
            let header = [0xFF, 0xF1, 0x4C, 0x80 | (len >> 11) as u8, (len >> 3) as u8, (len << 5) as u8 | 0x1F, 0xFC];
            [&header[..], data].concat()
        };
        let stream = [frame(b"one"), frame(&[7; 3000]), frame(b"")].concat();
        for step in [1, 5, 4000] {
            let mut adts = Adts::default();
            let frames: Vec<_> = stream.chunks(step).flat_map(|bytes| adts.push(bytes).unwrap()).collect();
            assert_eq!(frames, [b"one".to_vec(), vec![7; 3000], Vec::new()]);
        }
        assert!(Adts::default().push(b"ffmpeg: no such encoder").is_err());
        assert!(Adts::default().push(&[0xFF, 0xF1, 0, 0, 0, 0, 0]).is_err(), "shorter than its header");
    }
}
