//! What reads strangers' bytes here, as functions of bytes for `fuzz/targets`. Each panics if what it holds is not so.

use crate::key::Key;
use crate::rtmp::{Said, Session};

/// The key that a connection of [`rtmp`] must say before its frames are taken.
pub const KEY: &str = "a-stream-key-of-ours";

/// What a connection to the door of RTMP sends. However it is cut, it says the same, and no frame is taken without the key.
pub fn rtmp(bytes: &[u8]) {
    let says = |len: usize| {
        let (mut session, mut said) = (Session::new(Key::new(KEY).expect("a key")), Vec::new());
        let outcome = bytes.chunks(len).try_for_each(|piece| session.receive(piece, &mut said));
        (outcome, said)
    };
    let (outcome, said) = says(bytes.len().max(1));
    assert_eq!((outcome, said.clone()), says(97));
    let first = said.iter().position(|said| *said == Said::Published).unwrap_or(said.len());
    assert!(said[..first].iter().all(|said| !matches!(said, Said::Tag(_))));
    for said in &said {
        if let Said::Tag(tag) = said {
            let _ = (tag.content(), tag.is_keyframe());
        }
    }
}
