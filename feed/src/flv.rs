//! Tags of FLV: what RTMP carries, what the children of ffmpeg read and write. A tag is a frame of audio or video with its time.

/// Longest body of a tag: a keyframe of 4K at 50 Mb/s has half of that.
pub(crate) const BODY_LEN_MAX: usize = 2 * 1024 * 1024;
/// Of H.264 and AAC in a tag's first byte.
const AVC: u8 = 7;
const AAC: u8 = 10;

/// What a tag carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Audio,
    Video,
    /// Metadata.
    Script,
}

impl Kind {
    /// By its number, which is the type of an RTMP message, too.
    pub(crate) fn numbered(number: u8) -> Option<Kind> {
        match number {
            8 => Some(Kind::Audio),
            9 => Some(Kind::Video),
            18 => Some(Kind::Script),
            _ => None,
        }
    }

    fn number(self) -> u8 {
        match self {
            Kind::Audio => 8,
            Kind::Video => 9,
            Kind::Script => 18,
        }
    }
}

/// A frame or a header of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tag {
    pub(crate) kind: Kind,
    /// When it is decoded, milliseconds.
    pub(crate) timestamp: u32,
    pub(crate) body: Vec<u8>,
}

/// What is in the body of a tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content<'a> {
    /// The AVC decoder configuration record (ISO/IEC 14496-15).
    AvcConfig(&'a [u8]),
    /// NAL units, each behind its length.
    Avc {
        is_key: bool,
        /// From when it is decoded to when it is shown, milliseconds.
        composition: i32,
        units: &'a [u8],
    },
    /// The AudioSpecificConfig of AAC.
    AacConfig,
    Aac,
    /// Another codec, by its number.
    Unknown(u8),
    /// What says nothing.
    Empty,
}

impl Tag {
    pub(crate) fn content(&self) -> Content<'_> {
        match (self.kind, &self.body[..]) {
            (Kind::Video, &[first, packet, a, b, c, ref rest @ ..]) if first & 0x8F == AVC => match packet {
                0 => Content::AvcConfig(rest),
                1 => {
                    let composition = i32::from_be_bytes([a, b, c, 0]) >> 8;
                    Content::Avc { is_key: first >> 4 == 1, composition, units: rest }
                }
                _ => Content::Empty,
            },
            (Kind::Video, &[first, ..]) if first & 0x8F != AVC => Content::Unknown(first & 0x8F),
            (Kind::Audio, &[first, packet, ..]) if first >> 4 == AAC => {
                if packet == 0 {
                    Content::AacConfig
                } else {
                    Content::Aac
                }
            }
            (Kind::Audio, &[first, ..]) if first >> 4 != AAC => Content::Unknown(first >> 4),
            _ => Content::Empty,
        }
    }

    pub(crate) fn is_keyframe(&self) -> bool {
        matches!(self.content(), Content::Avc { is_key: true, .. })
    }

    /// As a file has it, at another time.
    pub(crate) fn write(&self, timestamp: u32, out: &mut Vec<u8>) {
        let [low @ .., _] = timestamp.rotate_left(8).to_be_bytes();
        let len = (self.body.len() as u32).to_be_bytes();
        out.push(self.kind.number());
        out.extend(&len[1..]);
        out.extend(low);
        out.push((timestamp >> 24) as u8);
        out.extend([0, 0, 0]);
        out.extend(&self.body);
        out.extend((self.body.len() as u32 + 11).to_be_bytes());
    }
}

/// The begin of a file with audio or video.
pub(crate) fn header(kind: Kind) -> [u8; 13] {
    let flags = if kind == Kind::Audio { 4 } else { 1 };
    [b'F', b'L', b'V', 1, flags, 0, 0, 0, 9, 0, 0, 0, 0]
}

/// What comes is no FLV.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it wrote no FLV")]
pub(crate) struct NotFlv;

/// Tags of a stream that comes in pieces.
#[derive(Default, Debug)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    has_header: bool,
}

impl Reader {
    /// Takes a piece; whole tags are appended.
    pub(crate) fn read(&mut self, piece: &[u8], tags: &mut Vec<Tag>) -> Result<(), NotFlv> {
        self.bytes.extend_from_slice(piece);
        let mut at = 0;
        if !self.has_header {
            let Some(header) = self.bytes.first_chunk::<13>() else { return Ok(()) };
            if !header.starts_with(b"FLV") {
                return Err(NotFlv);
            }
            (self.has_header, at) = (true, 13);
        }
        while let Some(head) = self.bytes[at..].first_chunk::<11>() {
            let len = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
            if len > BODY_LEN_MAX {
                return Err(NotFlv);
            }
            let Some(body) = self.bytes.get(at + 11..at + 11 + len) else { break };
            if self.bytes.len() < at + 15 + len {
                break;
            }
            let timestamp = u32::from_be_bytes([head[7], head[4], head[5], head[6]]);
            if let Some(kind) = Kind::numbered(head[0]) {
                tags.push(Tag { kind, timestamp, body: body.to_vec() });
            }
            at += 15 + len;
        }
        self.bytes.drain(..at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_out_as_they_went_in_however_they_are_cut() {
        let tags = [
            Tag { kind: Kind::Video, timestamp: 0, body: vec![0x17, 1, 0xFF, 0xFF, 0xFE, 9] },
            Tag { kind: Kind::Audio, timestamp: 0x0102_0304, body: vec![0xAF, 1, 7] },
            Tag { kind: Kind::Script, timestamp: u32::MAX, body: Vec::new() },
        ];
        let mut bytes = header(Kind::Video).to_vec();
        tags.iter().for_each(|tag| tag.write(tag.timestamp, &mut bytes));
        for step in [1, 2, 7, 100] {
            let (mut reader, mut read) = (Reader::default(), Vec::new());
            bytes.chunks(step).for_each(|piece| reader.read(piece, &mut read).unwrap());
            assert_eq!(read, tags, "{step}");
        }
        let key = Content::Avc { is_key: true, composition: -2, units: &[9] };
        assert_eq!((tags[0].content(), tags[1].content()), (key, Content::Aac));
        assert_eq!(Reader::default().read(&[7; 20], &mut Vec::new()), Err(NotFlv));
    }

    #[test]
    fn other_codecs_are_told_apart() {
        let content = |kind, body: &[u8]| format!("{:?}", Tag { kind, timestamp: 0, body: body.to_vec() }.content());
        assert_eq!(content(Kind::Video, &[0x90, b'h', b'v', b'c', b'1']), "Unknown(128)");
        assert_eq!(content(Kind::Audio, &[0x2F, 1]), "Unknown(2)");
        assert_eq!(content(Kind::Audio, &[]), "Empty");
        assert_eq!(content(Kind::Video, &[0x17, 1]), "Empty");
    }
}
