//! SRTP against another implementation, the `webrtc-srtp` crate, in both directions and for all three profiles:
//! equal bytes, roll-over, reordering, replay, SRTCP.

use std::collections::HashMap;

use dataplane::srtp::{Crypto, RtcpWindows, Window};
use proptest::prelude::*;
use proto::plane::{KEY_LEN_MAX, SALT_LEN_MAX, SrtpProfile};
use webrtc_srtp::context::Context;
use webrtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use webrtc_srtp::protection_profile::ProtectionProfile;

const PROFILES: [SrtpProfile; 3] =
    [SrtpProfile::Aes128CmHmacSha1_80, SrtpProfile::AeadAes128Gcm, SrtpProfile::AeadAes256Gcm];

/// Any key does; the master key's padding must not matter, so it is not zero here.
const KEY: [u8; KEY_LEN_MAX] = *b"key of a peer, 32 bytes in all..";
const SALT: [u8; SALT_LEN_MAX] = *b"salt-salt-sa\0\0";

fn ours(profile: SrtpProfile) -> Crypto {
    Crypto::new(profile, &KEY, &salt(profile))
}

/// CM has a salt of 14 bytes, GCM one of 12 and two zeros.
fn salt(profile: SrtpProfile) -> [u8; SALT_LEN_MAX] {
    let mut salt = SALT;
    if profile == SrtpProfile::Aes128CmHmacSha1_80 {
        salt[12..].copy_from_slice(b"lt");
    }
    salt
}

fn theirs(profile: SrtpProfile) -> Context {
    let theirs = match profile {
        SrtpProfile::Aes128CmHmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        SrtpProfile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
    };
    let window = Window::WIDTH as usize;
    let (key, salt) = (&KEY[..theirs.key_len()], &salt(profile)[..theirs.salt_len()]);
    Context::new(key, salt, theirs, Some(srtp_replay_protection(window)), Some(srtcp_replay_protection(window)))
        .expect("keys of the right length")
}

/// A plain RTP packet and the length of its header.
#[derive(Clone, Debug)]
struct Plain {
    bytes: Vec<u8>,
    header_len: usize,
}

fn rtp(ssrc: u32, seq: u16, csrcs: usize, extension: Option<[u8; 3]>, payload: &[u8]) -> Plain {
    let mut bytes = vec![0x80 | u8::from(extension.is_some()) << 4 | csrcs as u8, 96];
    bytes.extend(seq.to_be_bytes());
    bytes.extend(0x1234_5678u32.to_be_bytes());
    bytes.extend(ssrc.to_be_bytes());
    (0..csrcs).for_each(|csrc| bytes.extend((csrc as u32).to_be_bytes()));
    if let Some(data) = extension {
        bytes.extend([0xbe, 0xde, 0, 1, 3 << 4 | 2]);
        bytes.extend(data);
    }
    let header_len = bytes.len();
    bytes.extend(payload);
    Plain { bytes, header_len }
}

/// A receiver report without blocks, and an SDES-like tail that nobody parses.
fn rtcp(ssrc: u32, words: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0x80, 201];
    bytes.extend((1 + words.len() as u16).to_be_bytes());
    bytes.extend(ssrc.to_be_bytes());
    words.iter().for_each(|word| bytes.extend(word.to_be_bytes()));
    bytes
}

fn protect_rtp(crypto: &Crypto, index: u64, plain: &Plain) -> Vec<u8> {
    let ssrc = u32::from_be_bytes(plain.bytes[8..12].try_into().unwrap());
    // The plaintext lies in two places, and which part of it lies where makes no difference.
    let text_len = plain.bytes.len() - plain.header_len;
    let (begun, rest) = plain.bytes.split_at(plain.header_len + index as usize % (text_len + 1));
    let mut buffer = begun.to_vec();
    buffer.resize(plain.bytes.len() + Crypto::OVERHEAD_MAX, 0xee);
    let len = crypto.protect_rtp(ssrc, index, plain.header_len, &mut buffer, begun.len(), rest).expect("in range");
    buffer.truncate(len);
    buffer
}

fn protect_rtcp(crypto: &Crypto, index: u32, plain: &[u8]) -> Vec<u8> {
    let mut buffer = plain.to_vec();
    buffer.resize(plain.len() + Crypto::OVERHEAD_MAX, 0xee);
    let len = crypto.protect_rtcp(index, &mut buffer, plain.len()).expect("in range");
    buffer.truncate(len);
    buffer
}

/// A receiver as the worker is one: check, authenticate, update.
struct Receiver {
    crypto: Crypto,
    rtp: HashMap<u32, Window>,
    rtcp: RtcpWindows,
}

impl Receiver {
    fn new(profile: SrtpProfile) -> Receiver {
        Receiver { crypto: ours(profile), rtp: HashMap::new(), rtcp: RtcpWindows::new(4) }
    }

    fn receive_rtp(&mut self, header_len: usize, packet: &[u8]) -> Option<Vec<u8>> {
        let seq = u16::from_be_bytes(packet[2..4].try_into().unwrap());
        let ssrc = u32::from_be_bytes(packet[8..12].try_into().unwrap());
        let window = self.rtp.entry(ssrc).or_default();
        let index = window.estimate(seq);
        window.check(index).ok()?;
        let mut packet = packet.to_vec();
        let len = self.crypto.unprotect_rtp(ssrc, index, header_len, &mut packet).ok()?;
        window.update(index);
        packet.truncate(len);
        Some(packet)
    }

    fn receive_rtcp(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let (ssrc, index) = self.crypto.rtcp_source(packet)?;
        self.rtcp.check(ssrc, index).ok()?;
        let mut packet = packet.to_vec();
        let len = self.crypto.unprotect_rtcp(&mut packet).ok()?;
        self.rtcp.update(ssrc, index);
        packet.truncate(len);
        Some(packet)
    }
}

fn profile() -> impl Strategy<Value = SrtpProfile> {
    prop::sample::select(&PROFILES)
}

prop_compose! {
    fn any_rtp()(
        ssrc in any::<u32>(),
        seq in any::<u16>(),
        csrcs in 0..16usize,
        extension in any::<Option<[u8; 3]>>(),
        payload in prop::collection::vec(any::<u8>(), 0..1300),
    ) -> Plain {
        rtp(ssrc, seq, csrcs, extension, &payload)
    }
}

/// In which order packets `0..count` arrive: some late by up to 60 places, some lost, some twice.
fn arrivals(count: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec((0..60usize, 0..10u8), count).prop_map(|fates| {
        let mut arrivals: Vec<(usize, usize)> = Vec::new();
        for (packet, (delay, fate)) in fates.into_iter().enumerate() {
            let delay = if fate < 5 { 0 } else { delay };
            if fate != 9 {
                arrivals.push((packet + delay, packet));
            }
            if fate == 8 {
                arrivals.push((packet + 2 * delay, packet));
            }
        }
        arrivals.sort();
        arrivals.into_iter().map(|(_, packet)| packet).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_write_the_same_srtp(profile in profile(), plain in any_rtp()) {
        let index = u16::from_be_bytes([plain.bytes[2], plain.bytes[3]]).into();
        let protected = protect_rtp(&ours(profile), index, &plain);
        prop_assert_eq!(&protected[..], &theirs(profile).encrypt_rtp(&plain.bytes).unwrap()[..]);
        prop_assert_eq!(&theirs(profile).decrypt_rtp(&protected).unwrap()[..], &plain.bytes[..]);
        prop_assert_eq!(Receiver::new(profile).receive_rtp(plain.header_len, &protected), Some(plain.bytes));
    }

    #[test]
    fn both_write_the_same_srtcp(
        profile in profile(),
        ssrc in any::<u32>(),
        words in prop::collection::vec(any::<u32>(), 0..100),
    ) {
        let (crypto, mut theirs, mut receiver) = (ours(profile), theirs(profile), Receiver::new(profile));
        let plain = rtcp(ssrc, &words);
        for index in 1..4 {
            let protected = theirs.encrypt_rtcp(&plain).unwrap();
            prop_assert_eq!(&protect_rtcp(&crypto, index, &plain)[..], &protected[..]);
            prop_assert_eq!(receiver.receive_rtcp(&protected), Some(plain.clone()));
        }
    }

    /// Both receivers take the same packets of a lossy, reordering, duplicating network around a roll-over.
    #[test]
    fn both_take_the_same_srtp(
        profile in profile(),
        start in prop_oneof![65_300..65_536u64, 1..65_536u64],
        arrivals in arrivals(300),
    ) {
        let (crypto, mut theirs, mut receiver) = (ours(profile), theirs(profile), Receiver::new(profile));
        let mut taken = 0;
        for packet in arrivals {
            let index = start + packet as u64;
            let plain = rtp(0xabcd, index as u16, 0, None, &index.to_be_bytes());
            let protected = protect_rtp(&crypto, index, &plain);
            let from_ours = receiver.receive_rtp(plain.header_len, &protected);
            let from_theirs = theirs.decrypt_rtp(&protected).ok().map(|bytes| bytes.to_vec());
            prop_assert_eq!(&from_ours, &from_theirs, "index {} from {}", index, start);
            if let Some(bytes) = from_ours {
                prop_assert_eq!(bytes, plain.bytes);
                taken += 1;
            }
        }
        prop_assert!(taken > 0);
    }

    #[test]
    fn both_take_the_same_srtcp(profile in profile(), start in 1..1u32 << 30, arrivals in arrivals(100)) {
        let (crypto, mut theirs, mut receiver) = (ours(profile), theirs(profile), Receiver::new(profile));
        for packet in arrivals {
            let plain = rtcp(0xabcd, &[packet as u32]);
            let protected = protect_rtcp(&crypto, start + packet as u32, &plain);
            let from_ours = receiver.receive_rtcp(&protected);
            let from_theirs = theirs.decrypt_rtcp(&protected).ok().map(|bytes| bytes.to_vec());
            prop_assert_eq!(from_ours, from_theirs);
        }
    }
}

/// Strides just short of half the sequence space raise the ROC to 5 in a dozen packets; neither side may lose it.
#[test]
fn roll_over_both_ways() {
    for profile in PROFILES {
        let (crypto, mut receiver) = (ours(profile), Receiver::new(profile));
        let (mut tx, mut rx) = (theirs(profile), theirs(profile));
        for step in 0..12 {
            let index = 20_000 + step * 32_000;
            let plain = rtp(7, index as u16, 0, Some([1, 2, 3]), b"payload");
            let protected = tx.encrypt_rtp(&plain.bytes).unwrap();
            assert_eq!(protect_rtp(&crypto, index, &plain), &protected[..], "{profile:?} {index}");
            assert_eq!(rx.decrypt_rtp(&protected).unwrap(), &plain.bytes[..], "{profile:?} {index}");
            assert_eq!(receiver.receive_rtp(plain.header_len, &protected), Some(plain.bytes), "{profile:?} {index}");
        }
        assert_eq!(receiver.rtp[&7].highest(), Some(20_000 + 11 * 32_000));
    }
}

/// Around the roll-over, late packets still belong to the ROC before, and each is taken once.
#[test]
fn reordering_and_replay_across_the_roll_over() {
    for profile in PROFILES {
        let (mut tx, mut receiver) = (theirs(profile), Receiver::new(profile));
        let packets: Vec<_> = (65_530..65_545u64)
            .map(|index| {
                let plain = rtp(7, index as u16, 2, None, &[index as u8; 100]);
                (tx.encrypt_rtp(&plain.bytes).unwrap(), plain)
            })
            .collect();
        // The first must come first: it sets ROC 0. Then all others backwards.
        for order in std::iter::once(0).chain((1..packets.len()).rev()) {
            let (protected, plain) = &packets[order];
            assert_eq!(receiver.receive_rtp(plain.header_len, protected).as_ref(), Some(&plain.bytes), "{order}");
        }
        for (protected, plain) in &packets {
            assert_eq!(receiver.receive_rtp(plain.header_len, protected), None, "replayed");
        }
    }
}

/// A stack with an SRTCP index for each of its SSRCs, as browsers have: the same index twice is no replay.
#[test]
fn each_srtcp_sender_has_its_own_index() {
    for profile in PROFILES {
        let (mut tx, mut receiver) = (theirs(profile), Receiver::new(profile));
        for round in 0..3 {
            for ssrc in [1, 2, 3] {
                let plain = rtcp(ssrc, &[round]);
                let protected = tx.encrypt_rtcp(&plain).unwrap();
                assert_eq!(receiver.crypto.rtcp_source(&protected), Some((ssrc, round + 1)));
                assert_eq!(receiver.receive_rtcp(&protected), Some(plain), "{profile:?} SSRC {ssrc} round {round}");
                assert_eq!(receiver.receive_rtcp(&protected), None, "replayed");
            }
        }
    }
}

/// SSRC and direction are bound in: another stream's packet does not authenticate as this one's, nor another ROC's.
#[test]
fn nothing_authenticates_out_of_its_place() {
    for profile in PROFILES {
        let crypto = ours(profile);
        let plain = rtp(7, 9, 0, None, b"payload");
        let protected = protect_rtp(&crypto, 9, &plain);
        let try_as = |crypto: &Crypto, ssrc, index| {
            crypto.unprotect_rtp(ssrc, index, plain.header_len, &mut protected.clone()).is_ok()
        };
        assert!(try_as(&crypto, 7, 9));
        assert!(!try_as(&crypto, 7, 9 + (1 << 16)), "another ROC");
        assert!(!try_as(&Crypto::new(profile, &[0; KEY_LEN_MAX], &salt(profile)), 7, 9), "another key");
        if profile != SrtpProfile::Aes128CmHmacSha1_80 {
            // AES-CM's tag covers the SSRC in the header, not the one said; GCM's nonce has both.
            assert!(!try_as(&crypto, 8, 9), "another SSRC");
        }
        assert!(crypto.unprotect_rtcp(&mut protected.clone()).is_err(), "SRTP is not SRTCP");
    }
}

/// The key's life ends with its indices (RFC 3711 §9.2); the last of them still works.
#[test]
fn indices_end() {
    for profile in PROFILES {
        let crypto = ours(profile);
        let plain = rtp(7, 0xffff, 0, None, b"payload");
        let mut last = protect_rtp(&crypto, (1 << 48) - 1, &plain);
        assert!(crypto.unprotect_rtp(7, (1 << 48) - 1, 12, &mut last).is_ok());
        let mut buffer = vec![0; 100];
        assert_eq!(crypto.protect_rtp(7, 1 << 48, 12, &mut buffer, 40, &[]), None);
        assert!(crypto.unprotect_rtp(7, 1 << 48, 12, &mut buffer).is_err());

        let mut last = protect_rtcp(&crypto, (1 << 31) - 1, &rtcp(7, &[1, 2]));
        assert!(crypto.unprotect_rtcp(&mut last).is_ok());
        assert_eq!(crypto.protect_rtcp(1 << 31, &mut buffer, 40), None);
    }
}
