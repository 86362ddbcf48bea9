//! What reads strangers' bytes here, as functions of bytes for `fuzz/targets`. Each panics if what it holds is not so.

use client::room::PAYLOAD_LEN_MAX;

use crate::avc::Config;
use crate::flv::{Content, Kind, Reader, header};
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

/// A stream of FLV, as a child of ffmpeg writes what an encoder had it read. However it is cut, it says the same; what is written of its tags is
/// read again alike; and a frame of H.264 becomes payloads that have their lengths and a type of RTP, or none.
pub fn flv(bytes: &[u8]) {
    let read = |bytes: &[u8], len: usize| {
        let (mut reader, mut tags) = (Reader::default(), Vec::new());
        let outcome = bytes.chunks(len).try_for_each(|piece| reader.read(piece, &mut tags));
        (outcome, tags)
    };
    let (outcome, tags) = read(bytes, bytes.len().max(1));
    assert_eq!((outcome, &tags), (read(bytes, 61).0, &read(bytes, 61).1));
    let mut written = header(Kind::Video).to_vec();
    tags.iter().for_each(|tag| tag.write(tag.timestamp, &mut written));
    let (outcome, again) = read(&written, written.len());
    assert_eq!((outcome, &again), (Ok(()), &tags));
    let mut config = None;
    for tag in &tags {
        match tag.content() {
            Content::AvcConfig(record) => config = Config::parse(record).or(config),
            Content::Avc { units, .. } => {
                let payloads = config.as_ref().and_then(|config| config.payloads(units)).unwrap_or_default();
                let is_one = |payload: &Vec<u8>| (1..=PAYLOAD_LEN_MAX).contains(&payload.len());
                assert!(payloads.iter().all(is_one));
            }
            Content::AacConfig | Content::Aac | Content::Unknown(_) | Content::Empty => {}
        }
    }
}
