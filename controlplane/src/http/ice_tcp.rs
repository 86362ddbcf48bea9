//! ICE over TCP at the address of HTTP (RFC 6544), for clients whose network lets nothing through but the port of HTTPS.
//!
//! The first bytes of a connection say what it is: a client's check is in a frame (RFC 4571 §2), which begins with its length and
//! so with a byte below 6; a TLS handshake begins with 22 (RFC 8446 §5.1) and a request of HTTP/1.1 with a letter. They are looked
//! at and left where they are: the worker that has the peer reads them again.

use std::time::Duration;

use proto::stun::Message;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::ice::Credentials;

/// Longest check that is taken, bytes, one above it: an Ethernet frame has 1,500.
const CHECK_LEN_END: usize = 6 << 8;

/// Bytes of a frame's length.
const PREFIX_LEN: usize = 2;

/// How often a check that has come in part is looked at again.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// What a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opening {
    /// HTTP, with TLS or without.
    Http,
    /// A client's check, for a peer on this worker.
    Check { worker: usize },
    /// Neither, or nothing in time.
    Neither,
}

/// What a connection is, by what it begins with. Waits no longer than `patience`.
pub(super) async fn opening(stream: &TcpStream, patience: Duration) -> Opening {
    timeout(patience, look(stream)).await.unwrap_or(Opening::Neither)
}

async fn look(stream: &TcpStream) -> Opening {
    let mut bytes = [0; PREFIX_LEN + CHECK_LEN_END];
    loop {
        match stream.peek(&mut bytes).await {
            Ok(0) | Err(_) => return Opening::Neither,
            Ok(len) => match judge(&bytes[..len]) {
                Some(opening) => return opening,
                None => sleep(LOOK_INTERVAL).await,
            },
        }
    }
}

/// `None`: more of it has to come.
fn judge(bytes: &[u8]) -> Option<Opening> {
    if usize::from(*bytes.first()?) << 8 >= CHECK_LEN_END {
        return Some(Opening::Http);
    }
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX_LEN>()?;
    let check = rest.get(..usize::from(u16::from_be_bytes(*prefix)))?;
    Some(worker_of(check).map_or(Opening::Neither, |worker| Opening::Check { worker }))
}

/// USERNAME is our fragment, a colon and the client's (RFC 8445 §7.2.2).
fn worker_of(check: &[u8]) -> Option<usize> {
    let message = Message::parse(check).ok().filter(Message::is_binding_request)?;
    let ours = message.username()?.split(|&c| c == b':').next()?;
    Credentials::worker(ours)
}

#[cfg(test)]
mod tests {
    use proto::stun::{IntegrityKey, TransactionId, Writer};

    use super::*;
    use crate::ice::CREDENTIALS_RANDOM_LEN;

    fn framed_check(username: &[u8]) -> Vec<u8> {
        let mut check = [0; 512];
        let key = IntegrityKey::new(b"a password of theirs");
        let writer = Writer::binding_request(&mut check, TransactionId([7; 12])).username(username);
        let len = writer.integrity(&key).fingerprint().finish().unwrap();
        [&(len as u16).to_be_bytes()[..], &check[..len]].concat()
    }

    #[test]
    fn a_check_names_the_worker_and_everything_else_is_http_or_nothing() {
        for worker in [0, 1, 63, 64, 1023] {
            let ours = Credentials::from_random(worker, &[0xA5; CREDENTIALS_RANDOM_LEN]);
            let frame = framed_check(format!("{}:theirs", ours.ufrag_str()).as_bytes());
            assert_eq!(judge(&frame), Some(Opening::Check { worker }));
            for len in 0..frame.len() {
                assert_eq!(judge(&frame[..len]), None, "{len} bytes of it");
            }
            let more = [&frame[..], b"what follows"].concat();
            assert_eq!(judge(&more), Some(Opening::Check { worker }));
        }
        assert_eq!(judge(&framed_check(b"short:theirs")), Some(Opening::Neither));
        assert_eq!(judge(&framed_check(b"")), Some(Opening::Neither));
        assert_eq!(judge(b"\x00\x04none"), Some(Opening::Neither), "no STUN");
        assert_eq!(judge(b"\x00\x00"), Some(Opening::Neither));
        for http in [&b"GET / HTTP/1.1\r\n"[..], b"P", b"\x16\x03\x01", b"\x16", b"\xff", b"\x06"] {
            assert_eq!(judge(http), Some(Opening::Http), "{http:?}");
        }
    }
}
