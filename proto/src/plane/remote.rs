//! The peer's own ICE credentials in the parts in which they cross to a worker: [`PeerRemote`].
//!
//! A username fragment and a password may be 256 bytes long each (RFC 8839 §5.4), and records are short. What is cut into
//! parts is the length of the fragment less one (a byte), the fragment, and the key of MESSAGE-INTEGRITY. The key of a password
//! that is longer than a block of SHA-1 is its hash (RFC 2104 §2), so this is never longer than 321 bytes. Browsers'
//! credentials are one part. Which bytes they are made of is the peer's affair.

use super::command::{PEER_REMOTE_PART_LEN, PEER_REMOTE_PARTS_MAX, PeerRemote};
use crate::id::PeerId;
use crate::stun::IntegrityKey;

/// Longest username fragment and longest password (RFC 8839 §5.4).
const LEN_MAX: usize = 256;

impl PeerRemote {
    /// The parts of a peer's credentials. `None` if one of them is empty or longer than RFC 8839 allows.
    pub fn parts(peer: PeerId, ufrag: &[u8], pwd: &[u8]) -> Option<Vec<PeerRemote>> {
        if ![ufrag, pwd].iter().all(|text| (1..=LEN_MAX).contains(&text.len())) {
            return None;
        }
        let text = [&[(ufrag.len() - 1) as u8], ufrag, &IntegrityKey::shortened(pwd)].concat();
        let chunks = text.chunks(PEER_REMOTE_PART_LEN);
        let count = chunks.len() as u8;
        let part = |(part, of_part): (usize, &[u8])| {
            let mut bytes = [0; PEER_REMOTE_PART_LEN];
            bytes[..of_part.len()].copy_from_slice(of_part);
            PeerRemote { peer, part: part as u8, count, len: of_part.len() as u8, bytes }
        };
        Some(chunks.enumerate().map(part).collect())
    }

    /// Whether it can be a part of anything.
    pub fn is_valid(&self) -> bool {
        let is_len = usize::from(self.len) <= PEER_REMOTE_PART_LEN;
        let is_count = (1..=PEER_REMOTE_PARTS_MAX).contains(&usize::from(self.count));
        is_len && is_count && usize::from(self.part) < PEER_REMOTE_PARTS_MAX
    }

    /// Fragment and key of the parts that are there, in whichever order; `None` as long as some are missing.
    pub fn join(parts: &[PeerRemote]) -> Option<(Vec<u8>, Vec<u8>)> {
        let part = |number: u8| parts.iter().find(|part| part.part == number);
        let count = part(0)?.count;
        let mut text = Vec::new();
        for number in 0..count {
            let part = part(number).filter(|part| part.count == count)?;
            text.extend_from_slice(part.bytes.get(..usize::from(part.len))?);
        }
        let (&len, rest) = text.split_first()?;
        let (ufrag, key) = rest.split_at_checked(usize::from(len) + 1)?;
        Some((ufrag.to_vec(), key.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId::new(3, 1);

    #[test]
    fn credentials_of_every_length_are_joined_again() {
        for (ufrag, pwd) in [(1, 1), (4, 22), (4, 24), (8, 32), (16, 32), (43, 22), (256, 64), (256, 65), (256, 256)] {
            let (ufrag, pwd) = (vec![b'u'; ufrag], vec![b'p'; pwd]);
            let mut parts = PeerRemote::parts(PEER, &ufrag, &pwd).expect("they are credentials");
            assert!(parts.len() <= PEER_REMOTE_PARTS_MAX && parts.iter().all(PeerRemote::is_valid));
            parts.reverse();
            let (joined, key) = PeerRemote::join(&parts).expect("all parts are there");
            assert_eq!(joined, ufrag);
            let is_same = |key: &[u8]| {
                let mut out = [0; 64];
                let id = crate::stun::TransactionId([1; 12]);
                let writer = crate::stun::Writer::binding_request(&mut out, id);
                let len = writer.integrity(&IntegrityKey::new(key)).finish().expect("it fits");
                crate::stun::Message::parse(&out[..len]).unwrap().check_integrity(&IntegrityKey::new(&pwd))
            };
            assert!(is_same(&key), "the key of a long password is its hash");
            parts.pop();
            assert_eq!(PeerRemote::join(&parts), None, "the first part is missing");
        }
        assert_eq!(PeerRemote::parts(PEER, b"", &[b'p'; 22]), None);
        assert_eq!(PeerRemote::parts(PEER, b"abcd", &[b'p'; 257]), None);
    }

    #[test]
    fn the_rest_of_longer_credentials_is_no_part_of_shorter_ones() {
        let mut parts = PeerRemote::parts(PEER, &[b'a'; 100], &[b'p'; 22]).unwrap();
        parts[0] = PeerRemote::parts(PEER, b"abcd", &[b'q'; 22]).unwrap()[0];
        assert_eq!(PeerRemote::join(&parts), Some((b"abcd".to_vec(), vec![b'q'; 22])));
    }
}
