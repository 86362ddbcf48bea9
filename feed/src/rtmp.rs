//! The server's side of RTMP for one connection that publishes: handshake, `connect`, `createStream`, `publish`, then frames. Sans-IO.
//! Nothing but these is taken of somebody who has not said the stream key.

use crate::amf::{self, Value};
use crate::chunk::{self, ChunkError, Message, Reader};
use crate::flv::{Kind, Tag};
use crate::key::Key;

/// Length of the handshake's parts.
const HANDSHAKE_LEN: usize = 1536;
/// What we say that may come before we acknowledge, and what we acknowledge after.
const WINDOW: u32 = 2_500_000;
/// Messages of a stranger: four are needed.
const STRANGERS_MESSAGES_MAX: u32 = 32;
/// The one message stream.
const STREAM: u32 = 1;

/// What a connection says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Said {
    /// The key is right: frames follow.
    Published,
    /// The key is wrong.
    WrongKey,
    /// A frame.
    Tag(Tag),
    /// The feed is over.
    Unpublished,
}

/// Why a connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum RtmpError {
    #[error("it does not speak RTMP")]
    Handshake,
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error("a command that cannot be read")]
    Command,
    #[error("frames without a stream key")]
    Early,
    #[error("it wants to play")]
    Plays,
    #[error("it says much and no stream key")]
    Talks,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Hello,
    Echo,
    Messages,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Session {
    key: Key,
    phase: Phase,
    handshake: Vec<u8>,
    reader: Reader,
    is_published: bool,
    messages: u32,
    received: u32,
    acknowledged: u32,
    /// What is to be sent.
    pub(crate) out: Vec<u8>,
}

impl Session {
    pub(crate) fn new(key: Key) -> Session {
        Session {
            key,
            phase: Phase::Hello,
            handshake: Vec::new(),
            reader: Reader::default(),
            is_published: false,
            messages: 0,
            received: 0,
            acknowledged: 0,
            out: Vec::new(),
        }
    }

    /// Takes bytes; what they say is appended.
    pub(crate) fn receive(&mut self, mut input: &[u8], said: &mut Vec<Said>) -> Result<(), RtmpError> {
        self.received = self.received.wrapping_add(input.len() as u32);
        self.shake_hands(&mut input)?;
        if self.phase != Phase::Messages {
            return Ok(());
        }
        while let Some(message) = self.reader.read(&mut input)? {
            self.take(message, said)?;
        }
        if self.received.wrapping_sub(self.acknowledged) >= WINDOW {
            self.acknowledged = self.received;
            chunk::write(&mut self.out, 2, 0, chunk::ACKNOWLEDGEMENT, &self.received.to_be_bytes());
        }
        Ok(())
    }

    /// §5.2: the simple handshake, which every client falls back to. The random bytes in it authenticate nothing.
    fn shake_hands(&mut self, input: &mut &[u8]) -> Result<(), RtmpError> {
        while self.phase != Phase::Messages {
            let needed = if self.phase == Phase::Hello { 1 + HANDSHAKE_LEN } else { HANDSHAKE_LEN };
            let (taken, rest) = input.split_at(input.len().min(needed - self.handshake.len()));
            self.handshake.extend_from_slice(taken);
            *input = rest;
            if self.handshake.first().is_some_and(|&version| self.phase == Phase::Hello && version != 3) {
                return Err(RtmpError::Handshake);
            }
            if self.handshake.len() < needed {
                return Ok(());
            }
            if self.phase == Phase::Hello {
                self.out.push(3);
                self.out.extend([0; 8]);
                self.out.extend((0..HANDSHAKE_LEN - 8).map(|i| (i * 31) as u8));
                self.out.extend_from_slice(&self.handshake[1..]);
                self.phase = Phase::Echo;
            } else {
                self.phase = Phase::Messages;
            }
            self.handshake.clear();
        }
        Ok(())
    }

    fn take(&mut self, message: Message, said: &mut Vec<Said>) -> Result<(), RtmpError> {
        self.messages = self.messages.saturating_add(1);
        if !self.is_published && self.messages > STRANGERS_MESSAGES_MAX {
            return Err(RtmpError::Talks);
        }
        let Message { kind, timestamp, payload } = message;
        match (kind, Kind::numbered(kind)) {
            (_, Some(kind)) if self.is_published => said.push(Said::Tag(Tag { kind, timestamp, body: payload })),
            (_, Some(_)) => return Err(RtmpError::Early),
            (chunk::COMMAND, _) => self.command(&payload, said)?,
            // AMF3 in name: a byte, and then AMF0.
            (chunk::COMMAND_AMF3, _) => self.command(payload.get(1..).unwrap_or_default(), said)?,
            // A ping.
            (chunk::USER_CONTROL, _) if payload.starts_with(&[0, 6]) => {
                let pong = [&[0, 7], &payload[2..payload.len().min(6)]].concat();
                chunk::write(&mut self.out, 2, 0, chunk::USER_CONTROL, &pong);
            }
            _ => (),
        }
        Ok(())
    }

    fn command(&mut self, payload: &[u8], said: &mut Vec<Said>) -> Result<(), RtmpError> {
        let values = amf::read(payload).ok_or(RtmpError::Command)?;
        let name = values.first().and_then(Value::text).ok_or(RtmpError::Command)?;
        let transaction = Value::Number(values.get(1).and_then(Value::number).unwrap_or(0.0));
        match name {
            "connect" => {
                let control = |out: &mut Vec<u8>, kind, payload: &[u8]| chunk::write(out, 2, 0, kind, payload);
                control(&mut self.out, chunk::WINDOW_SIZE, &WINDOW.to_be_bytes());
                control(&mut self.out, chunk::PEER_BANDWIDTH, &[&WINDOW.to_be_bytes()[..], &[2]].concat());
                let server = fields(&[("fmsVer", "FMS/3,0,1,123")]);
                let status = status("status", "NetConnection.Connect.Success", "connected");
                self.reply(0, &[Value::Text("_result".into()), transaction, server, status]);
            }
            "createStream" => {
                let stream = Value::Number(f64::from(STREAM));
                self.reply(0, &[Value::Text("_result".into()), transaction, Value::Null, stream]);
            }
            "publish" if !self.is_published => {
                let key = values.get(3).and_then(Value::text).ok_or(RtmpError::Command)?;
                let is_right = self.key.is(key);
                let status = match is_right {
                    true => status("status", "NetStream.Publish.Start", "the feed begins"),
                    false => status("error", "NetStream.Publish.BadName", "wrong stream key"),
                };
                self.reply(STREAM, &[Value::Text("onStatus".into()), Value::Number(0.0), Value::Null, status]);
                if is_right {
                    self.is_published = true;
                    self.reader.trust();
                }
                said.push(if is_right { Said::Published } else { Said::WrongKey });
            }
            "FCUnpublish" | "deleteStream" | "closeStream" if self.is_published => said.push(Said::Unpublished),
            "play" | "play2" => return Err(RtmpError::Plays),
            // `releaseStream`, `FCPublish`, `_checkbw` and others, which wait for no answer.
            _ => (),
        }
        Ok(())
    }

    fn reply(&mut self, stream: u32, values: &[Value]) {
        let mut payload = Vec::new();
        amf::write(&mut payload, values);
        chunk::write(&mut self.out, 3, stream, chunk::COMMAND, &payload);
    }
}

fn fields(fields: &[(&str, &str)]) -> Value {
    Value::Object(fields.iter().map(|&(name, value)| (name.to_owned(), Value::Text(value.to_owned()))).collect())
}

fn status(level: &str, code: &str, description: &str) -> Value {
    fields(&[("level", level), ("code", code), ("description", description)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "a-stream-key-of-ours";

    fn command(out: &mut Vec<u8>, values: &[Value]) {
        let mut payload = Vec::new();
        amf::write(&mut payload, values);
        chunk::write(out, 3, 0, chunk::COMMAND, &payload);
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    /// What a client sends until it publishes with a key.
    fn client(key: &str) -> Vec<u8> {
        let mut bytes = vec![3];
        bytes.extend([0; 2 * HANDSHAKE_LEN]);
        command(&mut bytes, &[text("connect"), Value::Number(1.0), fields(&[("app", "live")])]);
        command(&mut bytes, &[text("createStream"), Value::Number(2.0), Value::Null]);
        command(&mut bytes, &[text("publish"), Value::Number(3.0), Value::Null, text(key), text("live")]);
        bytes
    }

    fn says(bytes: &[u8], step: usize) -> (Result<Vec<Said>, RtmpError>, Vec<u8>) {
        let (mut session, mut said) = (Session::new(Key::new(KEY).unwrap()), Vec::new());
        for piece in bytes.chunks(step) {
            if let Err(error) = session.receive(piece, &mut said) {
                return (Err(error), session.out);
            }
        }
        (Ok(said), session.out)
    }

    #[test]
    fn who_says_the_key_may_send_frames_and_nobody_else() {
        let mut bytes = client(KEY);
        chunk::write(&mut bytes, 4, 1, 9, &[0x17, 1, 0, 0, 0, 5]);
        command(&mut bytes, &[text("deleteStream"), Value::Number(4.0), Value::Null, Value::Number(1.0)]);
        let tag = Tag { kind: Kind::Video, timestamp: 0, body: vec![0x17, 1, 0, 0, 0, 5] };
        for step in [1, 100, 10_000] {
            let (said, out) = says(&bytes, step);
            assert_eq!(said.unwrap(), [Said::Published, Said::Tag(tag.clone()), Said::Unpublished], "{step}");
            assert!(out.windows(23).any(|part| part == b"NetStream.Publish.Start"));
        }
        let (said, out) = says(&client("another-stream-key"), 100);
        assert_eq!(said.unwrap(), [Said::WrongKey]);
        assert!(out.windows(25).any(|part| part == b"NetStream.Publish.BadName"));
        let mut bytes = client("another-stream-key");
        chunk::write(&mut bytes, 4, 1, 9, &[0x17, 1, 0, 0, 0, 5]);
        assert_eq!(says(&bytes, 100).0, Err(RtmpError::Early));
    }

    #[test]
    fn strangers_are_closed_by_name() {
        assert_eq!(says(b"GET / HTTP/1.1\r\n", 100).0, Err(RtmpError::Handshake));
        let mut plays = client(KEY);
        command(&mut plays, &[text("play"), Value::Number(4.0), Value::Null, text(KEY)]);
        assert_eq!(says(&plays, 100).0, Err(RtmpError::Plays));
        let mut talks = client(KEY);
        talks.truncate(1 + 2 * HANDSHAKE_LEN);
        (0..40).for_each(|_| command(&mut talks, &[text("hello"), Value::Number(1.0)]));
        assert_eq!(says(&talks, 100).0, Err(RtmpError::Talks));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_bytes_are_answered_or_refused(change in prop::collection::vec((1usize..4000, any::<u8>()), 1..20), step in 1usize..4000) {
            let mut bytes = client(KEY);
            for (at, value) in change {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            let _ = says(&bytes, step);
        }
    }
}
