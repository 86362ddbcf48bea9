//! What reads strangers' bytes here, as functions of bytes for `fuzz/targets`. Each panics if what it holds is not so.

use crate::message::{Framed, HEADERS_MAX, MESSAGE_LEN_MAX, Malformed, Message, framed};
use crate::sdp::Remote;

/// A datagram, or the front of a stream, as SIP. What is read is written and read again alike; what is refused can be answered.
pub fn sip(bytes: &[u8]) {
    if let Framed::Whole(len) | Framed::Ping(len) = framed(bytes) {
        assert!(len > 0 && len <= bytes.len());
    }
    let message = match Message::parse(bytes) {
        Ok(message) => message,
        Err(Malformed::Refuse(message, status, reason)) => {
            assert!((400..700).contains(&status));
            assert!(!Message::response(&message, status, reason).write().is_empty());
            return;
        }
        Err(Malformed::Drop) => return,
    };
    if let Ok(text) = std::str::from_utf8(&message.body) {
        sdp(text);
    }
    let written = message.write();
    // Names in their long form and a Content-Length may be more than what came.
    if written.len() > MESSAGE_LEN_MAX || message.headers.len() >= HEADERS_MAX {
        return;
    }
    let again = Message::parse(&written).expect("what is written is read");
    let all = |message: &Message| -> Vec<_> {
        message.headers.iter().filter(|(name, _)| name != "Content-Length").cloned().collect()
    };
    assert_eq!((&again.start, &again.body), (&message.start, &message.body));
    assert_eq!(all(&again), all(&message));
}

/// An offer or an answer of a telephone.
fn sdp(text: &str) {
    let plain = Remote::parse(text, false);
    // Who wants SRTP takes nothing that is not taken without.
    if let Ok(remote) = Remote::parse(text, true) {
        assert!(remote.crypto.is_some() && plain.is_ok());
    }
}
