//! SRTP and SRTCP (RFC 3711, RFC 7714): one [`Session`] protects what a peer sends and unprotects what it receives.
//!
//! Packets are worked on in place, and nothing is allocated but an entry for each new SSRC. AES-GCM is `ring`'s;
//! AES-CM with HMAC-SHA1 is made of the `aes`, `ctr`, `hmac` and `sha1` crates.

use aes::{Aes128Enc, Aes256Enc};
use ctr::cipher::{InnerIvInit, KeyInit, KeyIvInit, StreamCipher, StreamCipherCore};
use ctr::{Ctr128BE, CtrCore, flavors};
use hmac::{Hmac, Mac};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha1::Sha1;

use crate::rtp;

/// Bytes that protection adds to a packet at most: a tag of AES-GCM, and SRTCP's index.
pub const OVERHEAD_MAX: usize = GCM_TAG_LEN + INDEX_LEN;

const GCM_TAG_LEN: usize = 16;
const CM_TAG_LEN: usize = 10;
/// SRTCP's index with the E bit (RFC 3711 §3.4).
const INDEX_LEN: usize = 4;
/// The head of an RTCP packet that stays in the clear: flags, type, length, SSRC.
const RTCP_HEAD_LEN: usize = 8;
/// Bit that says that an SRTCP packet is encrypted.
const ENCRYPTED: u32 = 1 << 31;
/// Packets behind the highest that are still taken (RFC 3711 §3.3.2 asks for 64).
const WINDOW_LEN: u64 = 64;
/// SSRCs of one direction: a receiver in the largest room has some hundreds. 96 KiB of memory.
const STREAMS_MAX: usize = 4096;

/// SRTP protection profiles (RFC 5764 §4.1.2, RFC 7714 §14.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Profile {
    /// AEAD_AES_128_GCM
    Gcm128,
    /// AEAD_AES_256_GCM
    Gcm256,
    /// SRTP_AES128_CM_HMAC_SHA1_80
    Cm80,
}

impl Profile {
    /// All that are known.
    pub const ALL: [Profile; 3] = [Profile::Gcm128, Profile::Gcm256, Profile::Cm80];

    /// Bytes of a master key.
    pub fn key_len(self) -> usize {
        if self == Profile::Gcm256 { 32 } else { 16 }
    }

    /// Bytes of a master salt.
    pub fn salt_len(self) -> usize {
        if self == Profile::Cm80 { 14 } else { 12 }
    }
}

/// Master key and salt of each direction.
pub struct MasterKeys {
    /// Of what we send.
    pub tx: (Vec<u8>, Vec<u8>),
    /// Of what we receive.
    pub rx: (Vec<u8>, Vec<u8>),
}

/// Why a received packet is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SrtpError {
    /// It is too short, or not RTP.
    #[error("the packet is malformed")]
    Malformed,
    /// It was received already, or is older than the window.
    #[error("the packet is a replay")]
    Replay,
    /// Its tag is wrong.
    #[error("the packet does not authenticate")]
    Unauthentic,
    /// It is of one SSRC more than a session may have.
    #[error("there are too many SSRCs")]
    TooManyStreams,
}

/// Keys and indices of both directions.
pub struct Session {
    profile: Profile,
    tx: Direction,
    rx: Direction,
}

impl Session {
    /// Derives the session keys.
    pub fn new(profile: Profile, keys: &MasterKeys) -> Session {
        let direction = |(key, salt): &(Vec<u8>, Vec<u8>)| Direction {
            rtp: Cipher::new(profile, key, salt, 0),
            rtcp: Cipher::new(profile, key, salt, 3),
            streams: Vec::new(),
            rtcp_streams: Vec::new(),
            rtcp_index: 0,
        };
        Session { profile, tx: direction(&keys.tx), rx: direction(&keys.rx) }
    }

    /// What was agreed.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Protects the RTP packet in the first `len` bytes, in place; there must be [`OVERHEAD_MAX`] bytes more. Its new
    /// length. The sequence numbers of an SSRC must ascend, but for the wrap.
    pub fn protect_rtp(&mut self, packet: &mut [u8], len: usize) -> usize {
        let header = rtp::Header::parse(&packet[..len]).expect("what we send is RTP");
        let stream = stream(&mut self.tx.streams, header.ssrc);
        let index = stream.index_of(header.seq);
        stream.update(index);
        self.tx.rtp.protect(packet, header.len, len, header.ssrc, index)
    }

    /// Unprotects an SRTP packet in place. The length of the RTP packet.
    pub fn unprotect_rtp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let header = rtp::Header::parse(packet).ok_or(SrtpError::Malformed)?;
        let known = known(&self.rx.streams, header.ssrc);
        let index = known.map_or(header.seq.into(), |stream| stream.index_of(header.seq));
        if known.is_some_and(|stream| stream.is_replay(index)) {
            return Err(SrtpError::Replay);
        }
        if known.is_none() && self.rx.streams.len() >= STREAMS_MAX {
            return Err(SrtpError::TooManyStreams);
        }
        let len = self.rx.rtp.unprotect(packet, header.len, header.ssrc, index)?;
        stream(&mut self.rx.streams, header.ssrc).update(index);
        Ok(len)
    }

    /// Protects the RTCP compound in the first `len` bytes, in place; there must be [`OVERHEAD_MAX`] bytes more. Its new
    /// length.
    pub fn protect_rtcp(&mut self, packet: &mut [u8], len: usize) -> usize {
        let index = self.tx.rtcp_index;
        self.tx.rtcp_index = (index + 1) & !ENCRYPTED;
        self.tx.rtcp.protect_rtcp(packet, len, index)
    }

    /// Unprotects an SRTCP packet in place. The length of the RTCP compound.
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let (ssrc, index, is_encrypted) = self.rx.rtcp.rtcp_index(packet).ok_or(SrtpError::Malformed)?;
        if !is_encrypted {
            return Err(SrtpError::Unauthentic);
        }
        let known = known(&self.rx.rtcp_streams, ssrc);
        if known.is_some_and(|stream| stream.is_replay(index.into())) {
            return Err(SrtpError::Replay);
        }
        if known.is_none() && self.rx.rtcp_streams.len() >= STREAMS_MAX {
            return Err(SrtpError::TooManyStreams);
        }
        let len = self.rx.rtcp.unprotect_rtcp(packet, ssrc, index)?;
        stream(&mut self.rx.rtcp_streams, ssrc).update(index.into());
        Ok(len)
    }
}

struct Direction {
    rtp: Cipher,
    rtcp: Cipher,
    /// In order of SSRC.
    streams: Vec<Stream>,
    rtcp_streams: Vec<Stream>,
    rtcp_index: u32,
}

/// Packet indices of one SSRC (RFC 3711 §3.3.1).
struct Stream {
    ssrc: u32,
    /// None before the first packet.
    highest: Option<u64>,
    /// Bit n: the packet n before the highest was received.
    received: u64,
}

fn known(streams: &[Stream], ssrc: u32) -> Option<&Stream> {
    streams.binary_search_by_key(&ssrc, |stream| stream.ssrc).ok().map(|at| &streams[at])
}

/// The stream of this SSRC, a new one if need be: only what we send, or what was authenticated, makes one.
fn stream(streams: &mut Vec<Stream>, ssrc: u32) -> &mut Stream {
    let at = match streams.binary_search_by_key(&ssrc, |stream| stream.ssrc) {
        Ok(at) => at,
        Err(at) => {
            streams.insert(at, Stream { ssrc, highest: None, received: 0 });
            at
        }
    };
    &mut streams[at]
}

impl Stream {
    /// The index with this sequence number that is nearest to the highest.
    fn index_of(&self, seq: u16) -> u64 {
        match self.highest {
            None => seq.into(),
            Some(highest) => {
                let index = highest as i64 + i64::from(seq.wrapping_sub(highest as u16) as i16);
                // Before the first round there is none.
                if index < 0 { (index + (1 << 16)) as u64 } else { index as u64 }
            }
        }
    }

    fn is_replay(&self, index: u64) -> bool {
        self.highest.is_some_and(|highest| {
            index <= highest && (highest - index >= WINDOW_LEN || self.received >> (highest - index) & 1 == 1)
        })
    }

    fn update(&mut self, index: u64) {
        match self.highest {
            Some(highest) if index <= highest => {
                self.received |= 1u64.checked_shl((highest - index) as u32).unwrap_or(0)
            }
            before => {
                let step = before.map_or(WINDOW_LEN, |highest| index - highest);
                self.received = self.received.checked_shl(step.min(WINDOW_LEN) as u32).unwrap_or(0) | 1;
                self.highest = Some(index);
            }
        }
    }
}

/// The session key of RTP or of RTCP, and its salt right-aligned.
enum Cipher {
    Gcm { key: Box<LessSafeKey>, salt: u128 },
    Cm { block: Box<Aes128Enc>, salt: u128, mac: Box<Hmac<Sha1>> },
}

impl Cipher {
    /// Derives the three keys whose labels begin here (RFC 3711 §4.3): encryption, authentication, salt.
    fn new(profile: Profile, key: &[u8], salt: &[u8], label: u8) -> Cipher {
        let derived = |label: u8, len: usize| {
            let mut out = vec![0; len];
            derive(key, salt, label, &mut out);
            out
        };
        let (session_key, session_salt) = (derived(label, profile.key_len()), derived(label + 2, profile.salt_len()));
        let salt = number(&session_salt);
        match profile {
            Profile::Gcm128 | Profile::Gcm256 => {
                let algorithm = if profile == Profile::Gcm128 { &AES_128_GCM } else { &AES_256_GCM };
                let key = UnboundKey::new(algorithm, &session_key).expect("the key has the length of the profile");
                Cipher::Gcm { key: Box::new(LessSafeKey::new(key)), salt }
            }
            Profile::Cm80 => {
                let block = Aes128Enc::new_from_slice(&session_key).expect("the key has 16 bytes");
                let mac = Hmac::new_from_slice(&derived(label + 1, 20)).expect("HMAC takes a key of any length");
                Cipher::Cm { block: Box::new(block), salt, mac: Box::new(mac) }
            }
        }
    }

    fn protect(&self, packet: &mut [u8], header_len: usize, len: usize, ssrc: u32, index: u64) -> usize {
        match self {
            Cipher::Gcm { key, salt } => {
                let (header, rest) = packet.split_at_mut(header_len);
                let (text, tag) = rest.split_at_mut(len - header_len);
                let sealed = key.seal_in_place_separate_tag(nonce(*salt, ssrc, index), Aad::from(&*header), text);
                tag[..GCM_TAG_LEN].copy_from_slice(sealed.expect("a datagram is shorter than the limit").as_ref());
                len + GCM_TAG_LEN
            }
            Cipher::Cm { block, salt, mac } => {
                apply_keystream(block, *salt, ssrc, index, &mut packet[header_len..len]);
                let tag = tag(mac, &packet[..len], &((index >> 16) as u32).to_be_bytes());
                packet[len..len + CM_TAG_LEN].copy_from_slice(&tag);
                len + CM_TAG_LEN
            }
        }
    }

    fn unprotect(&self, packet: &mut [u8], header_len: usize, ssrc: u32, index: u64) -> Result<usize, SrtpError> {
        match self {
            Cipher::Gcm { key, salt } => {
                let len = packet.len().checked_sub(GCM_TAG_LEN).filter(|&len| len >= header_len);
                let len = len.ok_or(SrtpError::Malformed)?;
                let (header, text) = packet.split_at_mut(header_len);
                let opened = key.open_in_place(nonce(*salt, ssrc, index), Aad::from(&*header), text);
                opened.map(|_| len).map_err(|_| SrtpError::Unauthentic)
            }
            Cipher::Cm { block, salt, mac } => {
                let len = packet.len().checked_sub(CM_TAG_LEN).filter(|&len| len >= header_len);
                let len = len.ok_or(SrtpError::Malformed)?;
                verify(mac, &packet[..len], &((index >> 16) as u32).to_be_bytes(), &packet[len..])?;
                apply_keystream(block, *salt, ssrc, index, &mut packet[header_len..len]);
                Ok(len)
            }
        }
    }

    /// RTCP, then the tag and the index (RFC 7714 §9.2), or the index and the tag (RFC 3711 §3.4).
    fn protect_rtcp(&self, packet: &mut [u8], len: usize, index: u32) -> usize {
        let ssrc = number(&packet[4..RTCP_HEAD_LEN]) as u32;
        let trailer = (index | ENCRYPTED).to_be_bytes();
        match self {
            Cipher::Gcm { key, salt } => {
                let associated = associated(packet, trailer);
                let (text, rest) = packet[RTCP_HEAD_LEN..].split_at_mut(len - RTCP_HEAD_LEN);
                let nonce = nonce(*salt, ssrc, index.into());
                let sealed = key.seal_in_place_separate_tag(nonce, Aad::from(associated), text);
                rest[..GCM_TAG_LEN].copy_from_slice(sealed.expect("a datagram is shorter than the limit").as_ref());
                rest[GCM_TAG_LEN..GCM_TAG_LEN + INDEX_LEN].copy_from_slice(&trailer);
                len + GCM_TAG_LEN + INDEX_LEN
            }
            Cipher::Cm { block, salt, mac } => {
                apply_keystream(block, *salt, ssrc, index.into(), &mut packet[RTCP_HEAD_LEN..len]);
                packet[len..len + INDEX_LEN].copy_from_slice(&trailer);
                let tag = tag(mac, &packet[..len + INDEX_LEN], &[]);
                packet[len + INDEX_LEN..len + INDEX_LEN + CM_TAG_LEN].copy_from_slice(&tag);
                len + INDEX_LEN + CM_TAG_LEN
            }
        }
    }

    /// SSRC, index and E bit of an SRTCP packet; None if it is too short.
    fn rtcp_index(&self, packet: &[u8]) -> Option<(u32, u32, bool)> {
        let tag_len = match self {
            Cipher::Gcm { .. } => GCM_TAG_LEN,
            Cipher::Cm { .. } => CM_TAG_LEN,
        };
        if packet.len() < RTCP_HEAD_LEN + tag_len + INDEX_LEN {
            return None;
        }
        let at = match self {
            Cipher::Gcm { .. } => packet.len() - INDEX_LEN,
            Cipher::Cm { .. } => packet.len() - INDEX_LEN - CM_TAG_LEN,
        };
        let word = number(&packet[at..at + INDEX_LEN]) as u32;
        Some((number(&packet[4..RTCP_HEAD_LEN]) as u32, word & !ENCRYPTED, word & ENCRYPTED != 0))
    }

    /// Of a packet whose index was read, so that it is long enough.
    fn unprotect_rtcp(&self, packet: &mut [u8], ssrc: u32, index: u32) -> Result<usize, SrtpError> {
        let trailer = (index | ENCRYPTED).to_be_bytes();
        match self {
            Cipher::Gcm { key, salt } => {
                let associated = associated(packet, trailer);
                let end = packet.len() - INDEX_LEN;
                let nonce = nonce(*salt, ssrc, index.into());
                let opened = key.open_in_place(nonce, Aad::from(associated), &mut packet[RTCP_HEAD_LEN..end]);
                opened.map(|_| end - GCM_TAG_LEN).map_err(|_| SrtpError::Unauthentic)
            }
            Cipher::Cm { block, salt, mac } => {
                let end = packet.len() - CM_TAG_LEN;
                verify(mac, &packet[..end], &[], &packet[end..])?;
                let len = end - INDEX_LEN;
                apply_keystream(block, *salt, ssrc, index.into(), &mut packet[RTCP_HEAD_LEN..len]);
                Ok(len)
            }
        }
    }
}

/// What AES-GCM authenticates of SRTCP without encrypting it (RFC 7714 §9.2).
fn associated(packet: &[u8], trailer: [u8; INDEX_LEN]) -> [u8; RTCP_HEAD_LEN + INDEX_LEN] {
    let mut associated = [0; RTCP_HEAD_LEN + INDEX_LEN];
    associated[..RTCP_HEAD_LEN].copy_from_slice(&packet[..RTCP_HEAD_LEN]);
    associated[RTCP_HEAD_LEN..].copy_from_slice(&trailer);
    associated
}

/// Salt, SSRC and packet index as one number (RFC 3711 §4.1.1, RFC 7714 §8.1).
fn mix(salt: u128, ssrc: u32, index: u64) -> u128 {
    salt ^ u128::from(ssrc) << 48 ^ u128::from(index)
}

fn nonce(salt: u128, ssrc: u32, index: u64) -> Nonce {
    let bytes = mix(salt, ssrc, index).to_be_bytes();
    Nonce::assume_unique_for_key(*bytes[4..].first_chunk().expect("12 of 16 bytes"))
}

fn apply_keystream(block: &Aes128Enc, salt: u128, ssrc: u32, index: u64, text: &mut [u8]) {
    let counter = (mix(salt, ssrc, index) << 16).to_be_bytes();
    CtrCore::<_, flavors::Ctr128BE>::inner_iv_init(block, &counter.into()).apply_keystream_partial(text.into());
}

fn tag(mac: &Hmac<Sha1>, packet: &[u8], trailer: &[u8]) -> [u8; CM_TAG_LEN] {
    let full = mac.clone().chain_update(packet).chain_update(trailer).finalize().into_bytes();
    *full.first_chunk().expect("SHA-1 gives 20 bytes")
}

fn verify(mac: &Hmac<Sha1>, packet: &[u8], trailer: &[u8], tag: &[u8]) -> Result<(), SrtpError> {
    let mac = mac.clone().chain_update(packet).chain_update(trailer);
    mac.verify_truncated_left(tag).map_err(|_| SrtpError::Unauthentic)
}

/// The keystream of the master key for this label (RFC 3711 §4.3.3); a salt of 96 bits is padded with zeros on its right
/// (RFC 7714 §11).
fn derive(key: &[u8], salt: &[u8], label: u8, out: &mut [u8]) {
    let salt = number(salt) << (8 * (14 - salt.len()));
    let counter = ((salt ^ u128::from(label) << 48) << 16).to_be_bytes();
    if key.len() == 32 {
        Ctr128BE::<Aes256Enc>::new_from_slices(key, &counter).expect("32 and 16 bytes").apply_keystream(out);
    } else {
        Ctr128BE::<Aes128Enc>::new_from_slices(key, &counter).expect("16 and 16 bytes").apply_keystream(out);
    }
}

/// Big-endian bytes as a number.
fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u128::from(byte))
}

#[cfg(test)]
mod tests {
    use webrtc_srtp::context::Context;
    use webrtc_srtp::protection_profile::ProtectionProfile;

    use super::*;

    fn keys(profile: Profile) -> MasterKeys {
        let bytes = |len: usize, first: u8| (0..len).map(|i| first.wrapping_add(i as u8 * 7)).collect::<Vec<u8>>();
        let pair = |first| (bytes(profile.key_len(), first), bytes(profile.salt_len(), first ^ 0x5A));
        MasterKeys { tx: pair(1), rx: pair(99) }
    }

    /// The other stack at the other end.
    fn other_end(profile: Profile) -> (Context, Context) {
        let theirs = match profile {
            Profile::Gcm128 => ProtectionProfile::AeadAes128Gcm,
            Profile::Gcm256 => ProtectionProfile::AeadAes256Gcm,
            Profile::Cm80 => ProtectionProfile::Aes128CmHmacSha1_80,
        };
        let keys = keys(profile);
        let context = |(key, salt): &(Vec<u8>, Vec<u8>)| Context::new(key, salt, theirs, None, None).unwrap();
        (context(&keys.tx), context(&keys.rx))
    }

    fn packet(seq: u16) -> Vec<u8> {
        let mut packet = vec![0; 200];
        let fields = rtp::Fields { marker: false, pt: 111, seq, timestamp: 7, ssrc: 0xCAFE };
        let len = rtp::write(&mut packet, &fields, &[(3, &[1, 2])]);
        packet[len..].iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
        packet
    }

    const RTCP: [u8; 12] = [0x81, 206, 0, 2, 0, 0, 0, 9, 0, 0, 0, 7];

    #[test]
    fn whoever_has_the_keys_takes_no_more_memory_than_for_so_many_streams() {
        let mut session = Session::new(Profile::Gcm128, &keys(Profile::Gcm128));
        let (_, mut writes) = other_end(Profile::Gcm128);
        let mut receive = |ssrc: u32| {
            let mut plain = packet(1);
            plain[8..12].copy_from_slice(&ssrc.to_be_bytes());
            let mut bytes = writes.encrypt_rtp(&plain).unwrap().to_vec();
            session.unprotect_rtp(&mut bytes).map(drop)
        };
        assert!((1..=STREAMS_MAX as u32).all(|ssrc| receive(ssrc) == Ok(())));
        assert_eq!(receive(STREAMS_MAX as u32 + 1), Err(SrtpError::TooManyStreams));
        assert_eq!(receive(7), Err(SrtpError::Replay), "those that were there go on");
    }

    #[test]
    fn another_stack_reads_what_we_write_and_we_read_what_it_writes() {
        for profile in Profile::ALL {
            let mut session = Session::new(profile, &keys(profile));
            let (mut reads, mut writes) = other_end(profile);
            // Across the wrap, so that the ROC enters.
            for seq in (65_500..=65_535).chain(0..50) {
                let plain = packet(seq);
                let mut bytes = plain.clone();
                bytes.resize(plain.len() + OVERHEAD_MAX, 0);
                let len = session.protect_rtp(&mut bytes, plain.len());
                assert_eq!(reads.decrypt_rtp(&bytes[..len]).unwrap(), plain, "{profile:?} {seq}");

                let mut bytes = writes.encrypt_rtp(&plain).unwrap().to_vec();
                let len = session.unprotect_rtp(&mut bytes).unwrap();
                assert_eq!(bytes[..len], plain, "{profile:?} {seq}");

                let mut bytes = RTCP.to_vec();
                bytes.resize(RTCP.len() + OVERHEAD_MAX, 0);
                let len = session.protect_rtcp(&mut bytes, RTCP.len());
                assert_eq!(reads.decrypt_rtcp(&bytes[..len]).unwrap()[..], RTCP);
                let mut bytes = writes.encrypt_rtcp(&RTCP).unwrap().to_vec();
                let len = session.unprotect_rtcp(&mut bytes).unwrap();
                assert_eq!(bytes[..len], RTCP);
            }
        }
    }

    #[test]
    fn replays_and_changed_bits_are_refused_and_late_packets_are_not() {
        for profile in Profile::ALL {
            let (_, mut writes) = other_end(profile);
            let mut session = Session::new(profile, &keys(profile));
            let protected: Vec<Vec<u8>> =
                (65_530..=65_535).chain(0..80).map(|seq| writes.encrypt_rtp(&packet(seq)).unwrap().to_vec()).collect();
            let mut take = |at: usize| session.unprotect_rtp(&mut protected[at].clone()).map(|_| ());
            for at in [0, 1, 3, 2, 10, 9] {
                assert_eq!(take(at), Ok(()), "{profile:?} {at}");
                assert_eq!(take(at), Err(SrtpError::Replay));
            }
            assert_eq!(take(85), Ok(()));
            assert_eq!(take(85 - 63), Ok(()));
            assert_eq!(take(85 - 64), Err(SrtpError::Replay), "older than the window");
            let (mut session, bytes) = (Session::new(profile, &keys(profile)), &protected[0]);
            for bit in (0..8 * bytes.len()).step_by(5) {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(session.unprotect_rtp(&mut changed).is_err(), "bit {bit}");
            }
            for len in 0..bytes.len() {
                assert!(session.unprotect_rtp(&mut bytes[..len].to_vec()).is_err());
                assert!(session.unprotect_rtcp(&mut bytes[..len].to_vec()).is_err());
            }
            assert!(session.unprotect_rtp(&mut bytes.clone()).is_ok(), "what was refused changed nothing");
        }
    }
}
