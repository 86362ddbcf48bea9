//! WebSocket (RFC 6455), the server's half: the handshake, and messages over the connection that it leaves.
//!
//! A signalling socket is open for hours and says something for a second. What it costs is therefore what it holds while
//! nothing is said: here the few bytes into which the next frame's beginning is read. An offer of a browser and its answer
//! are tens of kilobytes each; the memory for them is taken when they come and given back when they are through.
//! Extensions are not negotiated.

use std::io;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ring::digest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a client's key is hashed with (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes for which there is room while nothing is being said: most signals of a client are shorter.
const IDLE_LEN: usize = 256;

/// Most that is made room for at once, whatever a frame says of its length: who means it sends it.
const READ_LEN_MAX: usize = 16 * 1024;

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
    /// What came is not WebSocket, or not as it is spoken here.
    pub(crate) const PROTOCOL: u16 = 1002;
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
    /// A message or a frame is longer than the bound.
    #[error("a message of more than {0} bytes")]
    TooLong(usize),
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
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_wanted)?;
    let accept = HeaderValue::try_from(accept(key.as_bytes())).expect("base64 is of printable characters");
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    Some((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// What proves that we took the key for one of WebSocket (§4.2.2). SHA-1 is no secret keeper here, only a format.
fn accept(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    base64(hash.finish().as_ref())
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let bits = chunk.iter().enumerate().fold(0, |bits, (n, byte)| bits | u32::from(*byte) << (16 - 8 * n));
        let digits = chunk.len() + 1;
        (0..4).map(move |n| if n < digits { ALPHABET[(bits >> (18 - 6 * n)) as usize & 63] } else { b'=' })
    };
    bytes.chunks(3).flat_map(group).map(char::from).collect()
}

/// The server's end of a WebSocket.
pub(super) struct WebSocket<S> {
    stream: S,
    /// Longest message, bytes, and so the longest frame.
    len_max: usize,
    /// What was read and not taken yet: the beginning of a frame, or several.
    input: Vec<u8>,
    /// What waits to be written.
    output: Vec<u8>,
    /// Whether the stream has let go of everything that was written.
    is_flushed: bool,
    /// The message whose last frame has not come yet.
    begun: Option<(Kind, Vec<u8>)>,
    /// What came, and is handed out once its answer has left.
    answered: Option<Message>,
    has_sent_close: bool,
    has_ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
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
    pub(super) fn new(stream: S, len_max: usize) -> Self {
        WebSocket {
            stream,
            len_max,
            input: Vec::new(),
            output: Vec::new(),
            is_flushed: true,
            begun: None,
            answered: None,
            has_sent_close: false,
            has_ended: false,
        }
    }

    /// The next message; `None` after the end. Pings and the other side's end are answered here. Nothing is lost when the
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
            Message::Binary => self.put(opcode::BINARY, &[]),
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
            match self.take_frame()? {
                Taken::Message(message) => return Ok(message),
                Taken::Frame => {}
                Taken::Incomplete(missing) => {
                    self.make_room(missing);
                    if self.stream.read_buf(&mut self.input).await? == 0 {
                        return Err(Error::Gone(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
    }

    /// Room for what is to be read next, and no more than that while there is nothing.
    fn make_room(&mut self, missing: usize) {
        if self.input.is_empty() && self.input.capacity() > IDLE_LEN {
            self.input = Vec::new();
        }
        if self.input.capacity() - self.input.len() < missing.min(READ_LEN_MAX) {
            self.input.reserve(missing.clamp(IDLE_LEN, READ_LEN_MAX));
        }
    }

    /// Takes a frame out of what was read.
    fn take_frame(&mut self) -> Result<Taken, Error> {
        let Some(head) = self.head()? else { return Ok(Taken::Incomplete(1)) };
        let len = head.len + head.payload_len;
        let Some(payload) = self.input.get_mut(head.len..len) else {
            return Ok(Taken::Incomplete(len - self.input.len()));
        };
        for (n, byte) in payload.iter_mut().enumerate() {
            *byte ^= head.mask[n % 4];
        }
        let taken = if head.opcode & 0x8 == 0 { self.take_data(&head) } else { self.take_control(&head) };
        self.input.drain(..len);
        taken
    }

    /// The head of the next frame, once it is there.
    fn head(&self) -> Result<Option<Head>, Error> {
        let &[first, second, ref rest @ ..] = &self.input[..] else { return Ok(None) };
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
        if payload_len > self.len_max {
            return Err(Error::TooLong(self.len_max));
        }
        let Some((mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
        let len = self.input.len() - rest.len();
        Ok(Some(Head { is_final: first & FIN != 0, opcode, mask: *mask, len, payload_len }))
    }

    /// A frame of a message, which is the first of `input` and unmasked.
    fn take_data(&mut self, head: &Head) -> Result<Taken, Error> {
        let payload = &self.input[head.len..][..head.payload_len];
        let (kind, bytes) = match (head.opcode, self.begun.take()) {
            (opcode::TEXT, None) => (Kind::Text, payload.to_vec()),
            (opcode::BINARY, None) => (Kind::Binary, payload.to_vec()),
            (opcode::CONTINUATION, Some((kind, mut bytes))) => {
                if bytes.len() + payload.len() > self.len_max {
                    return Err(Error::TooLong(self.len_max));
                }
                bytes.extend_from_slice(payload);
                (kind, bytes)
            }
            (opcode::TEXT | opcode::BINARY, Some(_)) => return Err(Error::Protocol("a message begins within another")),
            (opcode::CONTINUATION, None) => return Err(Error::Protocol("nothing is there to go on with")),
            _ => return Err(Error::Protocol("a frame of no known kind")),
        };
        if !head.is_final {
            self.begun = Some((kind, bytes));
            return Ok(Taken::Frame);
        }
        Ok(Taken::Message(match kind {
            Kind::Text => {
                Message::Text(String::from_utf8(bytes).map_err(|_| Error::Protocol("a text that is not UTF-8"))?)
            }
            Kind::Binary => Message::Binary,
        }))
    }

    /// A frame between those of messages, which is the first of `input` and unmasked.
    fn take_control(&mut self, head: &Head) -> Result<Taken, Error> {
        let payload = self.input[head.len..][..head.payload_len].to_vec();
        match head.opcode {
            opcode::PONG => return Ok(Taken::Message(Message::Pong)),
            opcode::PING => {
                self.put(opcode::PONG, &[&payload]);
                self.answered = Some(Message::Ping);
            }
            opcode::CLOSE => {
                let code = match payload.first_chunk() {
                    Some(code) => u16::from_be_bytes(*code),
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
        Ok(Taken::Frame)
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
        while !self.output.is_empty() {
            let written = self.stream.write(&self.output).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.output.drain(..written);
            self.is_flushed = false;
        }
        self.output = Vec::new();
        if !self.is_flushed {
            self.stream.flush().await?; // TLS keeps what the connection has not taken yet.
            self.is_flushed = true;
        }
        Ok(())
    }
}

/// What became of the bytes that were read.
enum Taken {
    Message(Message),
    /// A frame that is no whole message.
    Frame,
    /// So many bytes are missing, or more.
    Incomplete(usize),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::DuplexStream;

    use super::*;

    const LEN_MAX: usize = 100_000;

    /// A frame as a client sends it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..126 => bytes.push(MASKED | len as u8),
            len @ 126..65_536 => bytes.extend([&[MASKED | 126][..], &(len as u16).to_be_bytes()].concat()),
            len => bytes.extend([&[MASKED | 127][..], &(len as u64).to_be_bytes()].concat()),
        }
        let mask = [7, 0xff, 0, 0x55];
        bytes.extend(mask);
        bytes.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
        bytes
    }

    fn pair() -> (WebSocket<DuplexStream>, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        (WebSocket::new(ours, LEN_MAX), theirs)
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    /// What comes out of these bytes until their end.
    async fn read(bytes: &[u8]) -> Vec<Result<Message, Error>> {
        let (mut socket, mut client) = pair();
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let mut read = Vec::new();
        while let Some(received) = socket.recv().await {
            read.push(received);
        }
        read
    }

    #[test]
    fn the_handshake_is_that_of_the_rfc() {
        let mut headers = HeaderMap::new();
        let lines = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in lines {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let answer = shake_hands(&Method::GET, &headers).unwrap();
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "RFC 6455 §1.3");
        assert!(shake_hands(&Method::HEAD, &headers).is_none());
        for (name, _) in lines {
            let mut without = headers.clone();
            without.remove(name);
            assert!(shake_hands(&Method::GET, &without).is_none(), "without {name}");
        }
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text, "RFC 4648 §10");
        }
    }

    #[test]
    fn an_idle_socket_holds_next_to_nothing_however_much_was_said() {
        block_on(async {
            let (mut socket, mut client) = pair();
            let offer = "o".repeat(70_000);
            client.write_all(&frame(FIN | opcode::TEXT, offer.as_bytes())).await.unwrap();
            assert_eq!(socket.recv().await.unwrap().unwrap(), Message::Text(offer.clone()));
            socket.send(Message::Text(offer)).await.unwrap();
            // It waits, as it does for hours.
            let waited = tokio::time::timeout(std::time::Duration::from_millis(1), socket.recv()).await;
            assert!(waited.is_err());
            let held = socket.input.capacity() + socket.output.capacity() + size_of_val(&socket);
            assert!(held <= 600, "{held} bytes");
        });
    }

    #[test]
    fn a_ping_between_the_parts_of_a_message_is_answered() {
        block_on(async {
            let (mut socket, mut client) = pair();
            let parts = [frame(opcode::TEXT, b"he"), frame(FIN | opcode::PING, b"?"), frame(FIN, b"llo")].concat();
            client.write_all(&parts).await.unwrap();
            assert_eq!(socket.recv().await.unwrap().unwrap(), Message::Ping);
            assert_eq!(socket.recv().await.unwrap().unwrap(), Message::Text("hello".into()));
            let mut pong = [0; 3];
            client.read_exact(&mut pong).await.unwrap();
            assert_eq!(pong, [FIN | opcode::PONG, 1, b'?']);
        });
    }

    #[test]
    fn an_end_is_answered_once_and_is_the_end() {
        block_on(async {
            let (mut socket, mut client) = pair();
            client.write_all(&frame(FIN | opcode::CLOSE, &[3, 0xe8, b'x'])).await.unwrap();
            assert_eq!(socket.recv().await.unwrap().unwrap(), Message::Close(close_code::NORMAL, ""));
            assert!(socket.recv().await.is_none());
            drop(socket);
            let mut said = Vec::new();
            client.read_to_end(&mut said).await.unwrap();
            assert_eq!(said, [FIN | opcode::CLOSE, 2, 3, 0xe8]);

            let (mut socket, mut client) = pair();
            socket.send(Message::Close(close_code::POLICY, "no")).await.unwrap();
            client.write_all(&frame(FIN | opcode::CLOSE, &[3, 0xf0])).await.unwrap();
            assert_eq!(socket.recv().await.unwrap().unwrap(), Message::Close(close_code::POLICY, ""));
            drop(socket);
            let mut said = Vec::new();
            client.read_to_end(&mut said).await.unwrap();
            assert_eq!(said, [&[FIN | opcode::CLOSE, 4, 3, 0xf0][..], b"no"].concat(), "it is not said twice");
        });
    }

    #[test]
    fn what_is_not_websocket_is_named() {
        let unmasked = vec![FIN | opcode::TEXT, 1, b'x'];
        let half_of_a_letter = frame(FIN | opcode::TEXT, &[0xc3]);
        let bad = [
            unmasked,
            half_of_a_letter,
            frame(FIN | 0x40 | opcode::TEXT, b"x"),
            frame(FIN | 0x3, b"x"),
            frame(FIN | 0xb, b"x"),
            frame(FIN, b"x"),
            frame(opcode::PING, b"x"),
            frame(FIN | opcode::PING, &[0; 126]),
            frame(FIN | opcode::CLOSE, &[3]),
            frame(FIN | opcode::CLOSE, &1005u16.to_be_bytes()),
            [frame(opcode::TEXT, b"x"), frame(FIN | opcode::TEXT, b"y")].concat(),
        ];
        for bytes in bad {
            let read = block_on(read(&bytes));
            assert!(matches!(&read[..], [Err(Error::Protocol(_))]), "{bytes:x?} gives {read:?}");
        }
        let too_long = [FIN | opcode::TEXT, MASKED | 127, 0xff, 0, 0, 0, 0, 0, 0, 0];
        assert!(matches!(&block_on(read(&too_long))[..], [Err(Error::TooLong(LEN_MAX))]), "before its mask has come");
        let in_parts = [frame(opcode::TEXT, &[b'x'; LEN_MAX]), frame(FIN, b"x")].concat();
        assert!(matches!(&block_on(read(&in_parts))[..], [Err(Error::TooLong(LEN_MAX))]));
        assert!(matches!(&block_on(read(&[FIN]))[..], [Err(Error::Gone(_))]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Messages come out as they went in, wherever they are cut into frames and however the bytes arrive, and a wait
        /// that is given up loses nothing.
        #[test]
        fn messages_survive_any_cut(
            texts in prop::collection::vec("[a-zäß]{0,400}", 1..5),
            parts in 1usize..5,
            chunk in 1usize..300,
        ) {
            let mut bytes = Vec::new();
            for text in &texts {
                let text = text.as_bytes();
                let len = (text.len() / parts).max(1);
                let pieces: Vec<&[u8]> = if text.is_empty() { vec![text] } else { text.chunks(len).collect() };
                for (n, piece) in pieces.iter().enumerate() {
                    let opcode = if n == 0 { opcode::TEXT } else { opcode::CONTINUATION };
                    let fin = if n + 1 == pieces.len() { FIN } else { 0 };
                    bytes.extend(frame(fin | opcode, piece));
                }
            }
            let received = block_on(async {
                let (mut socket, mut client) = pair();
                let mut received = Vec::new();
                for chunk in bytes.chunks(chunk) {
                    client.write_all(chunk).await.unwrap();
                    let soon = std::time::Duration::ZERO;
                    while let Ok(Some(message)) = tokio::time::timeout(soon, socket.recv()).await {
                        received.push(message.unwrap());
                    }
                }
                received
            });
            let expected: Vec<Message> = texts.into_iter().map(Message::Text).collect();
            prop_assert_eq!(received, expected);
        }

        /// Whatever arrives, there is an end, and nobody is hurt.
        #[test]
        fn hostile_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let read = block_on(read(&bytes));
            prop_assert!(matches!(read.last(), Some(Err(_) | Ok(Message::Close(..)))));
        }
    }
}
