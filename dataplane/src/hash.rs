//! Leaf: a keyed hash for tables whose keys strangers choose.

use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

/// Hash of what strangers choose (addresses) or guess (usernames), keyed so that they cannot aim at one bucket.
#[derive(Clone, Copy)]
pub(crate) struct KeyedHash {
    key: [u8; 16],
}

impl KeyedHash {
    pub(crate) fn new(key: [u8; 16]) -> Self {
        KeyedHash { key }
    }
}

impl BuildHasher for KeyedHash {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.key)
    }
}
