//! Messages as they are relayed, and how the client module frames them on its channels and cuts them on the socket.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::signal::{ClientSignal, DataReceived, DataSent, MESSAGE_LEN_MAX, PART_LEN_MAX, ServerSignal};

use super::association::Channel;
use super::{LABEL_LEN_MAX, LOSSY_LEN_SOCKET_MAX, TO_MAX};

/// Bytes of a frame's header, at most: ids and labels are bounded.
const HEADER_LEN: usize = 1024;

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Payload {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

impl Payload {
    /// Bytes that it takes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Payload::Text(text) => text.len(),
            Payload::Binary(bytes) => bytes.len(),
        }
    }
}

/// One message, shared by all whom it is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    /// Who sent it; `None`: the application's server.
    pub(crate) from: Option<String>,
    /// What it is about.
    pub(crate) label: String,
    /// Its number, if it is reliable.
    pub(crate) id: Option<u64>,
    /// What it says.
    pub(crate) payload: Payload,
    /// The channel on which a client of another kind than the client module gets it, and its stream if that was negotiated.
    pub(crate) channel: Channel,
    pub(crate) stream: u16,
}

impl Message {
    /// Bytes that are counted for it.
    pub(crate) fn len(&self) -> usize {
        self.payload.len() + self.label.len() + 64
    }

    /// Whether it is longer than a frame on a channel may be: then it goes by the socket, in parts.
    pub(crate) fn is_for_socket(&self) -> bool {
        match &self.payload {
            Payload::Binary(bytes) => bytes.len() + HEADER_LEN > MESSAGE_LEN_MAX,
            // A character of JSON takes six bytes at most.
            Payload::Text(text) if text.len() * 6 + HEADER_LEN <= MESSAGE_LEN_MAX => false,
            Payload::Text(_) => frame(self).1.len() > MESSAGE_LEN_MAX,
        }
    }

    fn received(&self) -> DataReceived {
        DataReceived {
            from: self.from.clone(),
            label: self.label.clone(),
            reliable: self.id.is_some(),
            id: self.id,
            ..DataReceived::default()
        }
    }
}

/// What is wrong with a message of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("a message on the module's channel is neither a signal nor has a header of JSON")]
    Frame,
    #[error("only data, data_ack are said on a data channel")]
    OtherSignal,
    #[error("a reliable message has an id above 0, and no other has one")]
    Id,
    #[error("a label has at most {LABEL_LEN_MAX} bytes")]
    Label,
    #[error("a message names at most {TO_MAX} peers")]
    To,
    #[error("a message says either text or binary, on a data channel binary as the bytes after the header")]
    Payload,
    #[error("binary is not base64 (RFC 4648 section 4, with padding)")]
    Base64,
    #[error("a message has at most {MESSAGE_LEN_MAX} bytes")]
    TooLong,
    #[error(
        "a part of a message has at most {PART_LEN_MAX} bytes of text or base64, and what is not reliable comes in one of {LOSSY_LEN_SOCKET_MAX}"
    )]
    Part,
    #[error("a part belongs to another message than the part before it")]
    OtherMessage,
}

/// What a client says on the module's channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Framed {
    /// A message, whole.
    Sent(DataSent, Payload),
    /// An acknowledgement.
    Ack {
        /// Whose messages.
        from: Option<String>,
        /// Up to which.
        id: u64,
    },
}

/// Checks what a message says of itself.
pub(crate) fn check_sent(sent: &DataSent) -> Result<(), MessageError> {
    let has_id = sent.id.is_some_and(|id| id > 0);
    if has_id != sent.reliable || sent.id == Some(0) {
        return Err(MessageError::Id);
    }
    if sent.label.len() > LABEL_LEN_MAX {
        return Err(MessageError::Label);
    }
    if sent.to.as_ref().is_some_and(|to| to.len() > TO_MAX) {
        return Err(MessageError::To);
    }
    Ok(())
}

/// Reads a message on the module's channel: a signal as text, or a header and the bytes.
pub(crate) fn parse_frame(is_text: bool, bytes: &[u8]) -> Result<Framed, MessageError> {
    if bytes.len() > MESSAGE_LEN_MAX + 1024 {
        return Err(MessageError::TooLong);
    }
    let (header, rest) = if is_text {
        (bytes, None)
    } else {
        let (len, rest) = bytes.split_at_checked(2).ok_or(MessageError::Frame)?;
        let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
        let (header, rest) = rest.split_at_checked(len).ok_or(MessageError::Frame)?;
        (header, Some(rest))
    };
    match serde_json::from_slice(header).map_err(|_| MessageError::Frame)? {
        ClientSignal::Data(sent) => {
            let mut sent = *sent;
            check_sent(&sent)?;
            let payload = match (rest, sent.text.take(), sent.binary.take(), sent.more) {
                (None, Some(text), None, false) => Payload::Text(text),
                (Some(rest), None, None, false) => Payload::Binary(rest.to_vec()),
                _ => return Err(MessageError::Payload),
            };
            if payload.len() > MESSAGE_LEN_MAX {
                return Err(MessageError::TooLong);
            }
            Ok(Framed::Sent(sent, payload))
        }
        ClientSignal::DataAck { from, id } if is_text => Ok(Framed::Ack { from, id }),
        _ => Err(MessageError::OtherSignal),
    }
}

/// A message as it goes on the module's channel: whether it is text, and the bytes.
pub(crate) fn frame(message: &Message) -> (bool, Vec<u8>) {
    let mut received = message.received();
    match &message.payload {
        Payload::Text(text) => {
            received.text = Some(text.clone());
            (true, json(&ServerSignal::Data(received)))
        }
        Payload::Binary(bytes) => {
            let header = json(&ServerSignal::Data(received));
            let len = u16::try_from(header.len()).expect("ids and labels are bounded");
            (false, [&len.to_be_bytes()[..], &header, bytes].concat())
        }
    }
}

/// A message as it goes on the socket: a signal, or several.
pub(crate) fn parts(message: &Message) -> Vec<ServerSignal> {
    let (text, is_text) = match &message.payload {
        Payload::Text(text) => (text.clone(), true),
        Payload::Binary(bytes) => (STANDARD.encode(bytes), false),
    };
    let mut signals = Vec::new();
    let mut rest = text.as_str();
    loop {
        let mut at = rest.len().min(PART_LEN_MAX);
        while !rest.is_char_boundary(at) {
            at -= 1;
        }
        let (part, after) = rest.split_at(at);
        let said = Some(part.to_owned());
        let (text, binary) = if is_text { (said, None) } else { (None, said) };
        signals.push(ServerSignal::Data(DataReceived { text, binary, more: !after.is_empty(), ..message.received() }));
        rest = after;
        if rest.is_empty() {
            return signals;
        }
    }
}

fn json(signal: &ServerSignal) -> Vec<u8> {
    serde_json::to_vec(signal).expect("signals have nothing that JSON cannot say")
}

/// A message of a socket whose parts have not all come.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    begun: Option<(DataSent, String)>,
}

impl Assembly {
    /// Takes a part. `Some`: the message is whole.
    pub(crate) fn take(&mut self, mut part: DataSent) -> Result<Option<(DataSent, Payload)>, MessageError> {
        let begun = self.begun.take();
        check_sent(&part)?;
        let (said, is_text) = match (part.text.take(), part.binary.take()) {
            (Some(text), None) => (text, true),
            (None, Some(binary)) => (binary, false),
            _ => return Err(MessageError::Payload),
        };
        let more = std::mem::take(&mut part.more);
        let lossy_len_max = if is_text { LOSSY_LEN_SOCKET_MAX } else { LOSSY_LEN_SOCKET_MAX.div_ceil(3) * 4 };
        let is_of_socket = part.reliable || (!more && begun.is_none() && said.len() <= lossy_len_max);
        if said.len() > PART_LEN_MAX || !is_of_socket {
            return Err(MessageError::Part);
        }
        // How it is said is kept in the part, so that the parts of one message agree in that, too.
        part.text = is_text.then(String::new);
        let whole = match begun {
            None => said,
            Some((before, mut text)) if before == part => {
                text.push_str(&said);
                text
            }
            Some(_) => return Err(MessageError::OtherMessage),
        };
        if whole.len() > MESSAGE_LEN_MAX.div_ceil(3) * 4 {
            return Err(MessageError::TooLong);
        }
        if more {
            self.begun = Some((part, whole));
            return Ok(None);
        }
        part.text = None;
        let payload = match is_text {
            true => Payload::Text(whole),
            false => Payload::Binary(STANDARD.decode(&whole).map_err(|_| MessageError::Base64)?),
        };
        if payload.len() > MESSAGE_LEN_MAX {
            return Err(MessageError::TooLong);
        }
        Ok(Some((part, payload)))
    }
}

/// A message of a client module, as others get it.
pub(crate) fn relayed(from: Option<String>, label: &str, id: Option<u64>, payload: Payload) -> Arc<Message> {
    let channel = Channel::for_label(label, id.is_some());
    Arc::new(Message { from, label: label.to_owned(), id, payload, channel, stream: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(id: Option<u64>) -> DataSent {
        DataSent { label: "l".into(), to: None, reliable: id.is_some(), id, text: None, binary: None, more: false }
    }

    fn message(payload: Payload) -> Message {
        Arc::unwrap_or_clone(relayed(Some("a".into()), "l", Some(7), payload))
    }

    #[test]
    fn a_frame_is_a_signal_or_a_header_and_bytes() {
        let text = br#"{"type":"data","label":"l","id":1,"text":"hello"}"#;
        assert_eq!(parse_frame(true, text), Ok(Framed::Sent(sent(Some(1)), Payload::Text("hello".into()))));
        let header = br#"{"type":"data","label":"l","reliable":false}"#;
        let binary = [&(header.len() as u16).to_be_bytes()[..], header, &[0, 255]].concat();
        assert_eq!(parse_frame(false, &binary), Ok(Framed::Sent(sent(None), Payload::Binary(vec![0, 255]))));
        let ack = br#"{"type":"data_ack","from":"b","id":9}"#;
        assert_eq!(parse_frame(true, ack), Ok(Framed::Ack { from: Some("b".into()), id: 9 }));
    }

    #[test]
    fn what_is_no_frame_is_refused_by_name() {
        for (is_text, bytes, error) in [
            (true, &br#"{"type":"leave"}"#[..], MessageError::OtherSignal),
            (true, br#"{"type":"data","id":1}"#, MessageError::Payload),
            (true, br#"{"type":"data","text":"x"}"#, MessageError::Id),
            (true, br#"{"type":"data","id":0,"text":"x"}"#, MessageError::Id),
            (true, br#"{"type":"data","id":1,"reliable":false,"text":"x"}"#, MessageError::Id),
            (true, b"hello", MessageError::Frame),
            (false, b"\x00", MessageError::Frame),
            (false, b"\xff\xff{}", MessageError::Frame),
        ] {
            assert_eq!(parse_frame(is_text, bytes), Err(error), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_message_on_the_socket_comes_in_parts_and_is_whole_again() {
        let text = "ä".repeat(100_000);
        for payload in [Payload::Text(text), Payload::Binary((0..200_000).map(|n| n as u8).collect())] {
            let signals = parts(&message(payload.clone()));
            assert!(signals.len() > 3);
            let mut assembly = Assembly::default();
            let mut whole = None;
            for signal in signals {
                let ServerSignal::Data(DataReceived { text, binary, more, .. }) = signal else { panic!() };
                assert_eq!(whole, None);
                whole = assembly.take(DataSent { text, binary, more, ..sent(Some(7)) }).unwrap();
            }
            assert_eq!(whole, Some((sent(Some(7)), payload)));
        }
    }

    #[test]
    fn parts_of_two_messages_are_not_mixed() {
        let part = |id, more| DataSent { text: Some("x".into()), more, ..sent(Some(id)) };
        let mut assembly = Assembly::default();
        assert_eq!(assembly.take(part(1, true)), Ok(None));
        assert_eq!(assembly.take(part(2, false)), Err(MessageError::OtherMessage));
        assert_eq!(assembly.take(part(2, false)), Ok(Some((sent(Some(2)), Payload::Text("x".into())))));
        let long = DataSent { text: Some("x".repeat(PART_LEN_MAX)), more: true, ..sent(Some(3)) };
        let refused = std::iter::repeat_with(|| assembly.take(long.clone())).take(10).find(Result::is_err);
        assert_eq!(refused, Some(Err(MessageError::TooLong)));
        let both = DataSent { text: Some("x".into()), binary: Some("eA==".into()), ..sent(Some(4)) };
        assert_eq!(assembly.take(both), Err(MessageError::Payload));
        let lossy = DataSent { text: Some("x".repeat(LOSSY_LEN_SOCKET_MAX + 1)), ..sent(None) };
        assert_eq!(assembly.take(lossy), Err(MessageError::Part));
    }

    #[test]
    fn frames_are_read_by_the_other_end() {
        let (is_text, bytes) = frame(&message(Payload::Text("t".into())));
        assert!(is_text);
        let expected = r#"{"type":"data","from":"a","label":"l","id":7,"text":"t"}"#;
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        let (is_text, bytes) = frame(&message(Payload::Binary(vec![1, 2, 3])));
        assert!(!is_text && bytes.ends_with(&[b'}', 1, 2, 3]));
    }
}
