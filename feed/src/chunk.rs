//! RTMP's chunk stream (§5 of Adobe's specification): messages in pieces, several at a time. Reading is sans-IO and bounded.

use crate::flv::BODY_LEN_MAX;

/// Chunk streams of one connection; encoders use five.
const STREAMS_MAX: usize = 16;
/// Longest header of a chunk.
const HEADER_MAX: usize = 18;
/// Longest message of somebody who has not said the key: a `connect` has a few hundred bytes.
pub(crate) const STRANGERS_MESSAGE_MAX: usize = 4096;
/// What may wait of unfinished messages.
const UNFINISHED_MAX: usize = 2 * BODY_LEN_MAX;
/// Length of a chunk until its sender says another.
const CHUNK_LEN: usize = 128;
/// From here on a timestamp stands behind the header.
const EXTENDED: u32 = 0xFF_FFFF;

/// Types of messages.
pub(crate) const SET_CHUNK_SIZE: u8 = 1;
pub(crate) const ABORT: u8 = 2;
pub(crate) const ACKNOWLEDGEMENT: u8 = 3;
pub(crate) const USER_CONTROL: u8 = 4;
pub(crate) const WINDOW_SIZE: u8 = 5;
pub(crate) const PEER_BANDWIDTH: u8 = 6;
pub(crate) const COMMAND_AMF3: u8 = 17;
pub(crate) const COMMAND: u8 = 20;

/// A whole message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) timestamp: u32,
    pub(crate) payload: Vec<u8>,
}

/// What comes is no RTMP, or more than may come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error("a chunk continues nothing")]
    Continues,
    #[error("a message has {0} bytes")]
    TooLong(usize),
    #[error("more than {STREAMS_MAX} chunk streams")]
    TooMany,
    #[error("a chunk size of {0}")]
    ChunkSize(u32),
}

#[derive(Default, Debug)]
struct Stream {
    id: u32,
    timestamp: u32,
    /// What the timestamp of the next message is more, if it does not say.
    delta: u32,
    is_extended: bool,
    len: usize,
    kind: u8,
    payload: Vec<u8>,
}

/// Puts messages together.
#[derive(Debug)]
pub(crate) struct Reader {
    chunk_len: usize,
    message_max: usize,
    streams: Vec<Stream>,
    /// Bytes of a header that is not whole.
    head: Vec<u8>,
    /// The stream of the chunk that is being read, and what is left of it.
    body: Option<(usize, usize)>,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader {
            chunk_len: CHUNK_LEN,
            message_max: STRANGERS_MESSAGE_MAX,
            streams: Vec::new(),
            head: Vec::new(),
            body: None,
        }
    }
}

impl Reader {
    /// The other end is known: messages may be as long as frames are.
    pub(crate) fn trust(&mut self) {
        self.message_max = BODY_LEN_MAX;
    }

    /// Takes bytes from the front of the input until a message is whole.
    pub(crate) fn read(&mut self, input: &mut &[u8]) -> Result<Option<Message>, ChunkError> {
        loop {
            let Some((index, left)) = self.body else {
                let whole = self.head.len() + input.len();
                let taken = input.len().min(HEADER_MAX - self.head.len());
                let before = self.head.len();
                self.head.extend_from_slice(&input[..taken]);
                let Some((len, index)) = self.header()? else {
                    debug_assert!(whole < HEADER_MAX, "the longest header is whole");
                    *input = &[];
                    return Ok(None);
                };
                *input = &input[len - before..];
                self.head.clear();
                let stream = &self.streams[index];
                self.body = Some((index, self.chunk_len.min(stream.len - stream.payload.len())));
                continue;
            };
            let (piece, rest) = input.split_at(left.min(input.len()));
            let stream = &mut self.streams[index];
            stream.payload.extend_from_slice(piece);
            *input = rest;
            if piece.len() < left {
                self.body = Some((index, left - piece.len()));
                return Ok(None);
            }
            self.body = None;
            if stream.payload.len() == stream.len {
                let payload = std::mem::take(&mut stream.payload);
                let message = Message { kind: stream.kind, timestamp: stream.timestamp, payload };
                if !self.control(&message)? {
                    return Ok(Some(message));
                }
            } else if self.streams.iter().map(|stream| stream.payload.len()).sum::<usize>() > UNFINISHED_MAX {
                return Err(ChunkError::TooLong(UNFINISHED_MAX));
            }
        }
    }

    /// Reads the header in `head`: its length, and the stream. None if it is not whole.
    fn header(&mut self) -> Result<Option<(usize, usize)>, ChunkError> {
        let head = &self.head[..];
        let Some(&first) = head.first() else { return Ok(None) };
        let (id, mut at) = match (first & 0x3F, head.get(1), head.get(2)) {
            (0, Some(&low), _) => (u32::from(low) + 64, 2),
            (1, Some(&low), Some(&high)) => (u32::from(high) * 256 + u32::from(low) + 64, 3),
            (0 | 1, ..) => return Ok(None),
            (id, ..) => (u32::from(id), 1),
        };
        let known = self.streams.iter().position(|stream| stream.id == id);
        let format = first >> 6;
        let fields_len = [11, 7, 3, 0][usize::from(format)];
        let Some(fields) = head.get(at..at + fields_len) else { return Ok(None) };
        at += fields_len;
        let three = |fields: &[u8]| u32::from_be_bytes([0, fields[0], fields[1], fields[2]]);
        let is_extended = match known {
            _ if format < 3 => three(fields) == EXTENDED,
            Some(index) => self.streams[index].is_extended,
            None => return Err(ChunkError::Continues),
        };
        let mut extended = None;
        if is_extended {
            let Some(value) = head.get(at..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
            extended = Some(u32::from_be_bytes(*value));
            at += 4;
        }
        let index = match known {
            Some(index) => index,
            None if format != 0 => return Err(ChunkError::Continues),
            None if self.streams.len() == STREAMS_MAX => return Err(ChunkError::TooMany),
            None => {
                self.streams.push(Stream { id, ..Stream::default() });
                self.streams.len() - 1
            }
        };
        let stream = &mut self.streams[index];
        let continues = !stream.payload.is_empty();
        if format < 3 && continues {
            return Err(ChunkError::Continues);
        }
        if format < 3 {
            stream.is_extended = is_extended;
            stream.delta = extended.unwrap_or(three(fields));
        }
        if format < 2 {
            (stream.len, stream.kind) = (three(&fields[3..]) as usize, fields[6]);
        }
        if stream.len > self.message_max {
            return Err(ChunkError::TooLong(stream.len));
        }
        match format {
            0 => stream.timestamp = stream.delta,
            3 if continues => (),
            _ => stream.timestamp = stream.timestamp.wrapping_add(stream.delta),
        }
        Ok(Some((at, index)))
    }

    /// Takes what concerns the chunks themselves; false for all else.
    fn control(&mut self, message: &Message) -> Result<bool, ChunkError> {
        let number = message.payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        match (message.kind, number) {
            (SET_CHUNK_SIZE, Some(len @ 1..=0x7FFF_FFFF)) => self.chunk_len = len as usize,
            (SET_CHUNK_SIZE, len) => return Err(ChunkError::ChunkSize(len.unwrap_or(0))),
            (ABORT, Some(id)) => {
                let aborted = self.streams.iter_mut().find(|stream| stream.id == id);
                aborted.into_iter().for_each(|stream| stream.payload.clear());
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Appends a message, in chunks of the default length.
pub(crate) fn write(out: &mut Vec<u8>, chunk_stream: u8, message_stream: u32, kind: u8, payload: &[u8]) {
    out.push(chunk_stream);
    out.extend([0, 0, 0]);
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.push(kind);
    out.extend(message_stream.to_le_bytes());
    for (i, piece) in payload.chunks(CHUNK_LEN).enumerate() {
        if i > 0 {
            out.push(0xC0 | chunk_stream);
        }
        out.extend(piece);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(reader: &mut Reader, bytes: &[u8], step: usize) -> Result<Vec<Message>, ChunkError> {
        let mut messages = Vec::new();
        for mut piece in bytes.chunks(step) {
            while let Some(message) = reader.read(&mut piece)? {
                messages.push(message);
            }
            assert!(piece.is_empty());
        }
        Ok(messages)
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let mut bytes = Vec::new();
        write(&mut bytes, 3, 0, COMMAND, &[7; 300]);
        write(&mut bytes, 2, 0, SET_CHUNK_SIZE, &200u32.to_be_bytes());
        // Two streams take turns; the first has an extended timestamp, which its continuation repeats.
        bytes.extend([4, 255, 255, 255, 0, 1, 44, 9, 1, 0, 0, 0, 1, 0, 0, 5]);
        bytes.extend([9; 200]);
        bytes.extend([0x45, 0, 0, 1, 0, 0, 1, 8]);
        assert!(read_all(&mut Reader::default(), &bytes, 1000).is_err(), "a header that refers to nothing");
        bytes.truncate(bytes.len() - 8);
        bytes.extend([5, 0, 0, 40, 0, 0, 2, 8, 1, 0, 0, 0, 1, 2]);
        bytes.extend([0xC4, 1, 0, 0, 5]);
        bytes.extend([9; 100]);
        // The same length and type 20 ms later, and once more by nothing at all.
        bytes.extend([0x85, 0, 0, 20, 3, 4, 0xC5, 5, 6]);
        for step in [1, 3, 17, 5000] {
            let messages = read_all(&mut Reader::default(), &bytes, step).unwrap();
            let seen: Vec<_> = messages.iter().map(|m| (m.kind, m.timestamp, m.payload.len())).collect();
            let video = (9, 0x0100_0005, 300);
            assert_eq!(seen, [(COMMAND, 0, 300), (8, 40, 2), video, (8, 60, 2), (8, 80, 2)], "{step}");
            assert_eq!(messages[4].payload, [5, 6]);
        }
    }

    #[test]
    fn who_is_not_known_sends_little_and_nobody_sends_without_end() {
        let mut bytes = Vec::new();
        write(&mut bytes, 3, 0, COMMAND, &[0; STRANGERS_MESSAGE_MAX + 1]);
        assert_eq!(read_all(&mut Reader::default(), &bytes, 64), Err(ChunkError::TooLong(STRANGERS_MESSAGE_MAX + 1)));
        let begin = |id: u8| [id, 0, 0, 0, 0, 1, 0, 9, 1, 0, 0, 0].into_iter().chain([0; 128]).collect::<Vec<_>>();
        let many: Vec<u8> = (0..=STREAMS_MAX as u8).flat_map(|i| begin(3 + i)).collect();
        assert_eq!(read_all(&mut Reader::default(), &many, 64), Err(ChunkError::TooMany));
        let mut reader = Reader::default();
        reader.trust();
        let announced = [3, 0, 0, 0, 0xFF, 0xFF, 0xFF, 9, 1, 0, 0, 0];
        assert_eq!(read_all(&mut reader, &announced, 64), Err(ChunkError::TooLong(0xFF_FFFF)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_messages_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600), step in 1usize..40) {
            let mut reader = Reader::default();
            let _ = read_all(&mut reader, &bytes, step);
            prop_assert!(reader.streams.iter().map(|stream| stream.payload.len()).sum::<usize>() <= bytes.len());
        }
    }
}
