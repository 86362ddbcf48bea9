//! WebSocket (RFC 6455), the server's half: the handshake, and messages over the connection that it leaves.
//!
//! A signalling socket is open for hours and says something for a second. What it costs is therefore what it holds while
//! nothing is said: here the few bytes into which the next frame's beginning is read. An offer of a browser and its answer
//! are tens of kilobytes each; the memory for them is taken when they come, from what all sockets share ([`Lease`]), and given back when
//! they are through. Extensions are not negotiated.
//!
//! Each byte is moved, unmasked and checked once or twice, however the frames are cut, and each frame is handed to the caller
//! ([`Message::Part`]), who can charge it ([`WebSocket::take_cost`]) before the next one is looked at.

use std::io;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ring::digest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout_at};

use super::pace::Pace;
use crate::limited::Owner;
use crate::memory::{Lease, Memory};

/// What a client's key is hashed with (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes for which there is room while nothing is being said: most signals of a client are shorter.
const IDLE_LEN: usize = 256;

/// Most that is made room for at once, whatever a frame says of its length: who means it sends it.
const READ_LEN_MAX: usize = 8 * 1024;

/// Bytes of a message that are not charged to anybody: each socket may have them.
const UNCHARGED_LEN: usize = 1024;

/// Frames of a message. Clients cut at 4 KiB or more, if at all; the longest message has 512.
const FRAMES_MAX: u32 = 4096;

/// Bytes for which a frame counts at least: what the frame itself costs, however little is in it.
const FRAME_COST_MIN: usize = 256;

/// How soon a message that finds no memory looks again.
const MEMORY_RETRY: Duration = Duration::from_millis(20);

/// Longest payload of a control frame (§5.5).
const CONTROL_LEN_MAX: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// Kinds of frames (§5.2).
mod opcode {
    pub(super) const CONTINUATION: u8 = 0x0;
    pub(super) const TEXT: u8 = 0x1;
    pub(super) const BINARY: u8 = 0x2;
    pub(super) const CLOSE: u8 = 0x8;
    pub(super) const PING: u8 = 0x9;
    pub(super) const PONG: u8 = 0xa;
}

/// Why a socket is closed (§7.4.1 and IANA's registry).
pub(super) mod close_code {
    /// All is said.
    pub(crate) const NORMAL: u16 = 1000;
    /// This side goes away.
    pub(crate) const AWAY: u16 = 1001;
    /// What came is not WebSocket, or not what is accepted here.
    pub(crate) const PROTOCOL: u16 = 1002;
    /// A text that is not UTF-8.
    pub(crate) const NOT_TEXT: u16 = 1007;
    /// What came is against the rules of this server.
    pub(crate) const POLICY: u16 = 1008;
    /// What came is too long.
    pub(crate) const SIZE: u16 = 1009;
    /// The server restarts.
    pub(crate) const RESTART: u16 = 1012;
    /// Try again later.
    pub(crate) const AGAIN: u16 = 1013;
}

/// What comes and goes on a socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// A text.
    Text(String),
    /// Bytes. None are sent here, so they are let go of at once.
    Binary,
    /// A frame came, and its message is not whole yet.
    Part,
    /// The other side asks whether we are there; it has its answer.
    Ping,
    /// It answers.
    Pong,
    /// The end. One that came has its answer.
    Close(u16, &'static str),
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The connection is gone.
    #[error("the connection is gone: {0}")]
    Gone(#[from] io::Error),
    /// What came is not WebSocket.
    #[error("not WebSocket: {0}")]
    Protocol(&'static str),
    /// A text, or the reason of an end, is not UTF-8.
    #[error("a text that is not UTF-8")]
    NotText,
    /// A message or a frame is longer than the bound.
    #[error("a message of more than {0} bytes")]
    TooLong(usize),
    /// A message is cut into too many frames.
    #[error("a message of too many frames")]
    TooManyFrames,
    /// A message does not come on.
    #[error("a message that comes too slowly")]
    TooSlow,
    /// The owner's other messages take all the memory that it may have.
    #[error("no memory for the message")]
    NoMemory,
}

impl Error {
    /// What the other side is told, if it is still there (§7.4.1).
    pub(super) fn close(&self) -> Option<(u16, &'static str)> {
        match self {
            Error::Gone(_) => None,
            Error::Protocol(why) => Some((close_code::PROTOCOL, why)),
            Error::NotText => Some((close_code::NOT_TEXT, "not UTF-8")),
            Error::TooLong(_) => Some((close_code::SIZE, "too long")),
            Error::TooManyFrames => Some((close_code::POLICY, "too many frames in a message")),
            Error::TooSlow => Some((close_code::POLICY, "a message comes too slowly")),
            Error::NoMemory => Some((close_code::AGAIN, "too many messages at the same time")),
        }
    }
}

/// The answer that begins a WebSocket, if these are the headers of a client that wants one (§4.2.1).
pub(super) fn shake_hands(method: &Method, headers: &HeaderMap) -> Option<Response> {
    let has = |name: HeaderName, word: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    let is_wanted = method == Method::GET
        && has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket")
        && has(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_wanted && has_key(headers))?;
    let accept = HeaderValue::try_from(accept(key.as_bytes())).expect("base64 is of printable characters");
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    Some((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Whether there is one key: the base64 of 16 bytes (§4.2.1).
pub(super) fn has_key(headers: &HeaderMap) -> bool {
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let digits = keys.next().and_then(|key| key.as_bytes().strip_suffix(b"=="));
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    digits.is_some_and(|digits| digits.len() == 22 && digits.iter().all(is_digit)) && keys.next().is_none()
}

/// What proves that we took the key for one of WebSocket (§4.2.2). SHA-1 is no secret keeper here, only a format.
fn accept(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    base64(hash.finish().as_ref())
}

/// RFC 4648 §4.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let bits = chunk.iter().enumerate().fold(0, |bits, (n, byte)| bits | u32::from(*byte) << (16 - 8 * n));
        let digits = chunk.len() + 1;
        (0..4).map(move |n| if n < digits { ALPHABET[(bits >> (18 - 6 * n)) as usize & 63] } else { b'=' })
    };
    bytes.chunks(3).flat_map(group).map(char::from).collect()
}

/// How much a client may send, and how slowly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Longest message, bytes, and so the longest frame.
    pub(super) len_max: usize,
    /// How slowly a message may come.
    pub(super) pace: Pace,
}

/// The server's end of a WebSocket.
pub(super) struct WebSocket<S> {
    stream: S,
    bounds: Bounds,
    /// Memory for the message that is not whole yet, beyond what each socket may have.
    lease: Lease,
    /// What was read; the first `taken` bytes of it are through.
    input: Vec<u8>,
    taken: usize,
    /// What waits to be written; the first `written` bytes of it are.
    output: Vec<u8>,
    written: usize,
    /// Whether the stream has let go of everything that was written.
    is_flushed: bool,
    /// The message whose last frame has not come yet.
    begun: Option<Begun>,
    /// The frame of it whose payload is being read.
    frame: Option<Frame>,
    /// Since when a message or a frame has been coming.
    since: Option<Instant>,
    /// What came, and is handed out once its answer has left.
    answered: Option<Message>,
    /// What the frames since the last [`WebSocket::take_cost`] count for.
    cost: usize,
    has_sent_close: bool,
    has_ended: bool,
    /// Bytes moved, unmasked and checked, and frames: what the input has cost.
    #[cfg(test)]
    work: usize,
}

/// A message whose end has not come.
struct Begun {
    /// The bytes of a text; those of a binary message are not kept.
    text: Option<Vec<u8>>,
    /// How much of the text is known to be UTF-8.
    valid_to: usize,
    len: usize,
    frames: u32,
}

/// A frame of a message whose payload has not come whole.
struct Frame {
    is_final: bool,
    mask: [u8; 4],
    left: usize,
}

/// The first bytes of a frame.
struct Head {
    is_final: bool,
    opcode: u8,
    mask: [u8; 4],
    /// Bytes of the head itself.
    len: usize,
    payload_len: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// A socket after its handshake.
    pub(super) fn new(stream: S, bounds: Bounds, lease: Lease) -> Self {
        WebSocket {
            stream,
            bounds,
            lease,
            input: Vec::new(),
            taken: 0,
            output: Vec::new(),
            written: 0,
            is_flushed: true,
            begun: None,
            frame: None,
            since: None,
            answered: None,
            cost: 0,
            has_sent_close: false,
            has_ended: false,
            #[cfg(test)]
            work: 0,
        }
    }

    /// What the frames that came since the last time count for, in bytes.
    pub(super) fn take_cost(&mut self) -> usize {
        std::mem::take(&mut self.cost)
    }

    /// The next message, or that a frame of it came; `None` after the end. Pings and the other side's end are answered here. Nothing is lost when the
    /// future is dropped before it is ready.
    pub(super) async fn recv(&mut self) -> Option<Result<Message, Error>> {
        if self.has_ended {
            return None;
        }
        let received = self.receive().await;
        self.has_ended = matches!(received, Err(_) | Ok(Message::Close(..)));
        Some(received)
    }

    /// Sends a message, and what waits before it.
    pub(super) async fn send(&mut self, message: Message) -> Result<(), Error> {
        match message {
            Message::Text(text) => self.put(opcode::TEXT, &[text.as_bytes()]),
            Message::Binary | Message::Part => self.put(opcode::BINARY, &[]),
            Message::Ping => self.put(opcode::PING, &[]),
            Message::Pong => self.put(opcode::PONG, &[]),
            Message::Close(code, reason) => self.put_close(code, reason),
        }
        Ok(self.flush().await?)
    }

    async fn receive(&mut self) -> Result<Message, Error> {
        loop {
            self.flush().await?;
            if let Some(message) = self.answered.take() {
                return Ok(message);
            }
            match self.take()? {
                Taken::Message(message) => return Ok(message),
                Taken::Nothing => {}
                Taken::Incomplete(missing) => self.read(missing).await?,
                Taken::NoMemory => {
                    if self.deadline().is_none_or(|deadline| deadline <= Instant::now()) {
                        return Err(Error::NoMemory);
                    }
                    sleep(MEMORY_RETRY).await; // Nothing more is read meanwhile.
                }
            }
        }
    }

    /// Reads more. What has begun to come must go on.
    async fn read(&mut self, missing: usize) -> Result<(), Error> {
        self.make_room(missing);
        let read = match self.deadline() {
            None => self.stream.read_buf(&mut self.input).await?,
            Some(deadline) => {
                timeout_at(deadline, self.stream.read_buf(&mut self.input)).await.map_err(|_| Error::TooSlow)??
            }
        };
        match read {
            0 => Err(Error::Gone(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    /// Until when the message must be whole, if one has begun.
    fn deadline(&self) -> Option<Instant> {
        let len = self.begun.as_ref().map_or(0, |begun| begun.len);
        self.since.map(|since| since + self.bounds.pace.grace + self.bounds.pace.time_for(len))
    }

    /// Room for what is to be read next, and no more than that while there is nothing.
    fn make_room(&mut self, missing: usize) {
        let waiting = self.input.len() - self.taken;
        if waiting == 0 {
            self.input.clear();
            if self.input.capacity() > IDLE_LEN.max(missing.min(READ_LEN_MAX)) {
                self.input = Vec::new();
            }
        } else {
            // At most the beginning of one frame: whatever is whole has been taken.
            self.note_work(waiting);
            self.input.drain(..self.taken);
        }
        self.taken = 0;
        let room = missing.clamp(IDLE_LEN, READ_LEN_MAX);
        if self.input.capacity() - self.input.len() < missing.min(READ_LEN_MAX) {
            self.input.reserve_exact(room);
        }
    }

    #[cfg(test)]
    fn note_work(&mut self, bytes: usize) {
        self.work += bytes;
    }

    #[cfg(not(test))]
    fn note_work(&mut self, _: usize) {}

    /// Takes what it can of what was read: a frame, its head, or a part of its payload.
    fn take(&mut self) -> Result<Taken, Error> {
        if self.frame.is_some() {
            return self.take_payload();
        }
        if self.begun.is_none() {
            self.lease.set(0); // The message before has been handled.
        }
        let Some(head) = self.head()? else { return Ok(Taken::Incomplete(1)) };
        let is_control = head.opcode & 0x8 != 0;
        let (waiting, len) = (self.input.len() - self.taken, head.len + head.payload_len);
        if is_control && waiting < len {
            return Ok(Taken::Incomplete(len - waiting));
        }
        self.note_work(head.len);
        self.cost += head.payload_len.max(FRAME_COST_MIN);
        self.taken += head.len;
        if is_control {
            let mut payload = [0; CONTROL_LEN_MAX];
            let payload = &mut payload[..head.payload_len];
            payload.copy_from_slice(&self.input[self.taken..][..head.payload_len]);
            unmask(payload, head.mask);
            self.taken += head.payload_len;
            self.note_work(head.payload_len);
            return self.take_control(head.opcode, payload);
        }
        self.begin_frame(&head)?;
        Ok(Taken::Nothing)
    }

    /// The head of the next frame, once it is there.
    fn head(&self) -> Result<Option<Head>, Error> {
        let input = &self.input[self.taken..];
        let &[first, second, ref rest @ ..] = input else { return Ok(None) };
        let (opcode, short_len) = (first & 0xf, usize::from(second & !MASKED));
        if first & RESERVED != 0 {
            return Err(Error::Protocol("a reserved bit is set"));
        }
        if second & MASKED == 0 {
            return Err(Error::Protocol("a client's frame is not masked"));
        }
        if opcode & 0x8 != 0 && (first & FIN == 0 || short_len > CONTROL_LEN_MAX) {
            return Err(Error::Protocol("a control frame is long or in parts"));
        }
        let (payload_len, rest) = match short_len {
            126 => match rest.split_first_chunk() {
                Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((len, rest)) => (u64::from_be_bytes(*len), rest),
                None => return Ok(None),
            },
            len => (len as u64, rest),
        };
        let payload_len = usize::try_from(payload_len).unwrap_or(usize::MAX);
        if payload_len > self.bounds.len_max {
            return Err(Error::TooLong(self.bounds.len_max));
        }
        let Some((mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
        let len = input.len() - rest.len();
        Ok(Some(Head { is_final: first & FIN != 0, opcode, mask: *mask, len, payload_len }))
    }

    /// A frame of a message begins.
    fn begin_frame(&mut self, head: &Head) -> Result<(), Error> {
        let new = |text| Begun { text, valid_to: 0, len: 0, frames: 0 };
        let begun = match (head.opcode, self.begun.take()) {
            (opcode::TEXT, None) => new(Some(Vec::new())),
            (opcode::BINARY, None) => new(None),
            (opcode::CONTINUATION, Some(begun)) => begun,
            (opcode::TEXT | opcode::BINARY, Some(_)) => return Err(Error::Protocol("a message begins within another")),
            (opcode::CONTINUATION, None) => return Err(Error::Protocol("nothing is there to go on with")),
            _ => return Err(Error::Protocol("a frame of no known kind")),
        };
        if begun.len + head.payload_len > self.bounds.len_max {
            return Err(Error::TooLong(self.bounds.len_max));
        }
        if begun.frames >= FRAMES_MAX {
            return Err(Error::TooManyFrames);
        }
        self.since.get_or_insert_with(Instant::now);
        self.begun = Some(Begun { frames: begun.frames + 1, ..begun });
        self.frame = Some(Frame { is_final: head.is_final, mask: head.mask, left: head.payload_len });
        Ok(())
    }

    /// As much of a frame's payload as was read. A text is checked as it comes, so that the end comes with the first bad byte (§8.1).
    fn take_payload(&mut self) -> Result<Taken, Error> {
        let (Some(frame), Some(begun)) = (&mut self.frame, &mut self.begun) else { return Ok(Taken::Nothing) };
        let payload = &self.input[self.taken..];
        let payload = &payload[..payload.len().min(frame.left)];
        if payload.is_empty() && frame.left > 0 {
            return Ok(Taken::Incomplete(frame.left));
        }
        let mut work = payload.len();
        if let Some(text) = &mut begun.text {
            let len = text.len() + payload.len();
            if len > text.capacity() {
                let capacity = len.max(2 * text.capacity()).clamp(IDLE_LEN, self.bounds.len_max.max(len));
                if !self.lease.set(capacity.saturating_sub(UNCHARGED_LEN)) {
                    return Ok(Taken::NoMemory);
                }
                work += text.len();
                text.reserve_exact(capacity - text.len());
            }
            let new = text.len();
            text.extend_from_slice(payload);
            unmask(&mut text[new..], frame.mask);
            work += text.len() - begun.valid_to;
            begun.valid_to += match std::str::from_utf8(&text[begun.valid_to..]) {
                Ok(valid) => valid.len(),
                Err(error) if error.error_len().is_none() => error.valid_up_to(), // A letter goes on in what comes.
                Err(_) => return Err(Error::NotText),
            };
        }
        let len = payload.len();
        frame.mask.rotate_left(len % 4);
        frame.left -= len;
        begun.len += len;
        self.taken += len;
        let (is_whole, is_final) = (frame.left == 0, frame.is_final);
        self.note_work(work);
        if !is_whole {
            return Ok(Taken::Nothing);
        }
        self.frame = None;
        if !is_final {
            return Ok(Taken::Message(Message::Part));
        }
        self.since = None;
        match self.begun.take().and_then(|begun| begun.text) {
            Some(text) => Ok(Taken::Message(Message::Text(String::from_utf8(text).map_err(|_| Error::NotText)?))),
            None => Ok(Taken::Message(Message::Binary)),
        }
    }

    /// A frame between those of messages.
    fn take_control(&mut self, opcode: u8, payload: &[u8]) -> Result<Taken, Error> {
        match opcode {
            opcode::PONG => return Ok(Taken::Message(Message::Pong)),
            opcode::PING => {
                self.put(opcode::PONG, &[payload]);
                self.answered = Some(Message::Ping);
            }
            opcode::CLOSE => {
                let code = match payload.split_first_chunk() {
                    Some((code, reason)) => {
                        std::str::from_utf8(reason).map_err(|_| Error::NotText)?;
                        u16::from_be_bytes(*code)
                    }
                    None if payload.is_empty() => close_code::NORMAL,
                    None => return Err(Error::Protocol("half a code")),
                };
                // Those between stand for ends that nobody says (§7.4.1).
                if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                    return Err(Error::Protocol("a code that is not said"));
                }
                // The code is said back, unless this is the answer to ours (§5.5.1).
                if !self.has_sent_close {
                    self.has_sent_close = true;
                    self.put(opcode::CLOSE, &[&payload[..payload.len().min(2)]]);
                }
                self.answered = Some(Message::Close(code, ""));
            }
            _ => return Err(Error::Protocol("a frame of no known kind")),
        }
        Ok(Taken::Nothing)
    }

    fn put_close(&mut self, code: u16, reason: &str) {
        if !self.has_sent_close {
            self.has_sent_close = true;
            debug_assert!(reason.len() + 2 <= CONTROL_LEN_MAX, "a reason is a few words");
            self.put(opcode::CLOSE, &[&code.to_be_bytes(), reason.as_bytes()]);
        }
    }

    /// Queues a frame.
    fn put(&mut self, opcode: u8, payload: &[&[u8]]) {
        let len: usize = payload.iter().map(|part| part.len()).sum();
        self.output.reserve_exact(10 + len);
        self.output.push(FIN | opcode);
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(len @ ..=125), _) => self.output.push(len),
            (_, Ok(len)) => {
                self.output.push(126);
                self.output.extend_from_slice(&len.to_be_bytes());
            }
            _ => {
                self.output.push(127);
                self.output.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        for part in payload {
            self.output.extend_from_slice(part);
        }
    }

    /// Writes what waits. Where it is left off, the next call goes on.
    async fn flush(&mut self) -> io::Result<()> {
        while self.written < self.output.len() {
            let written = self.stream.write(&self.output[self.written..]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.written += written;
            self.is_flushed = false;
        }
        (self.output, self.written) = (Vec::new(), 0);
        if !self.is_flushed {
            self.stream.flush().await?; // TLS keeps what the connection has not taken yet.
            self.is_flushed = true;
        }
        Ok(())
    }
}

/// All that a stream brings: its texts, what its frames count for, and the code with which it is closed. It is public for
/// `fuzz/targets` alone, which cannot name the types of this module.
#[doc(hidden)]
pub async fn read_all(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    len_max: usize,
) -> (Vec<String>, usize, Option<u16>) {
    let pace = Pace { grace: Duration::from_secs(10), least: 4096 };
    let lease = Memory::new(4 * len_max).lease(Owner::Room(String::new()));
    let mut socket = WebSocket::new(stream, Bounds { len_max, pace }, lease);
    let (mut texts, mut code) = (Vec::new(), None);
    while let Some(received) = socket.recv().await {
        match received {
            Ok(Message::Text(text)) => texts.push(text),
            Ok(Message::Close(said, _)) => code = Some(said),
            Ok(_) => {}
            Err(error) => code = error.close().map(|(code, _)| code),
        }
    }
    (texts, socket.take_cost(), code)
}

/// Takes the mask off (§5.3).
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte ^= mask[n % 4];
    }
}

/// What became of the bytes that were read.
enum Taken {
    Message(Message),
    /// Something that is no whole frame of a message.
    Nothing,
    /// So many bytes are missing, or more.
    Incomplete(usize),
    /// There is no memory now for what was read.
    NoMemory,
}

#[cfg(test)]
mod tests;
