//! Bytes from somebody without the key: they never authenticate, never panic, and never index out of range, whatever
//! header length the parser before claims. The corpus holds the shapes that sit on a boundary.

use dataplane::srtp::{AuthError, Crypto};
use proptest::prelude::*;
use proto::plane::SrtpProfile;

const PROFILES: [SrtpProfile; 3] =
    [SrtpProfile::Aes128CmHmacSha1_80, SrtpProfile::AeadAes128Gcm, SrtpProfile::AeadAes256Gcm];

fn crypto(profile: SrtpProfile) -> Crypto {
    Crypto::new(profile, &[0x5c; 32], &[0x36; 14])
}

/// Tries the bytes as everything they could be taken for.
fn refused(crypto: &Crypto, bytes: &[u8], header_len: usize, index: u64) {
    let rtp = crypto.unprotect_rtp(7, index, header_len, &mut bytes.to_vec());
    assert_eq!(rtp, Err(AuthError), "{:?} took SRTP {bytes:02x?}", crypto.profile());
    let rtcp = crypto.unprotect_rtcp(&mut bytes.to_vec());
    assert_eq!(rtcp, Err(AuthError), "{:?} took SRTCP {bytes:02x?}", crypto.profile());
    assert!(crypto.rtcp_index(bytes).is_none_or(|index| index < 1 << 31 && bytes.len() >= 22));
}

/// Receives RTP as the worker does: SSRC and SEQ are read from the packet itself.
fn receive_rtp(crypto: &Crypto, packet: &[u8]) -> Result<usize, AuthError> {
    let mut packet = packet.to_vec();
    if packet.len() < 12 {
        return crypto.unprotect_rtp(0, 0, packet.len(), &mut packet);
    }
    let seq = u16::from_be_bytes([packet[2], packet[3]]);
    let ssrc = u32::from_be_bytes([packet[8], packet[9], packet[10], packet[11]]);
    crypto.unprotect_rtp(ssrc, seq.into(), 12, &mut packet)
}

fn protected_rtp(crypto: &Crypto) -> Vec<u8> {
    let mut buffer = vec![0x80, 96, 0x12, 0x34, 0, 0, 0, 9, 0, 0, 0, 7];
    buffer.extend(b"a payload of no great length");
    let len = buffer.len();
    buffer.resize(len + Crypto::OVERHEAD_MAX, 0);
    let len = crypto.protect_rtp(7, 0x1234, 12, &mut buffer, len, &[]).expect("index in range");
    buffer.truncate(len);
    buffer
}

fn protected_rtcp(crypto: &Crypto) -> Vec<u8> {
    let mut buffer = vec![0x80, 201, 0, 1, 0, 0, 0, 7, 0x81, 202, 0, 1, 0, 0, 0, 7];
    let len = buffer.len();
    buffer.resize(len + Crypto::OVERHEAD_MAX, 0);
    let len = crypto.protect_rtcp(5, &mut buffer, len).expect("index in range");
    buffer.truncate(len);
    buffer
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_authenticate(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        header_len in prop_oneof![8 => 0..220usize, 1 => Just(usize::MAX)],
        index in any::<u64>(),
    ) {
        for profile in PROFILES {
            refused(&crypto(profile), &bytes, header_len, index);
        }
    }
}

#[test]
fn corpus_is_refused() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/srtp");
    let mut files = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus is in the repository") {
        let bytes = std::fs::read(entry.expect("a readable folder").path()).expect("a readable file");
        for profile in PROFILES {
            for header_len in (0..=bytes.len() + 1).chain([usize::MAX]) {
                refused(&crypto(profile), &bytes, header_len, 0x1234);
            }
        }
        files += 1;
    }
    assert!(files >= 8, "only {files} files in {corpus}");
}

#[test]
fn a_flipped_bit_never_authenticates() {
    for profile in PROFILES {
        let crypto = crypto(profile);
        let (rtp, rtcp) = (protected_rtp(&crypto), protected_rtcp(&crypto));
        assert!(receive_rtp(&crypto, &rtp).is_ok() && crypto.unprotect_rtcp(&mut rtcp.clone()).is_ok());
        for bit in 0..rtp.len() * 8 {
            let mut packet = rtp.clone();
            packet[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(receive_rtp(&crypto, &packet), Err(AuthError), "{profile:?} bit {bit}");
        }
        for bit in 0..rtcp.len() * 8 {
            let mut packet = rtcp.clone();
            packet[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(crypto.unprotect_rtcp(&mut packet), Err(AuthError), "{profile:?} bit {bit}");
        }
    }
}

#[test]
fn a_cut_or_longer_packet_never_authenticates() {
    for profile in PROFILES {
        let crypto = crypto(profile);
        for (packet, is_rtcp) in [(protected_rtp(&crypto), false), (protected_rtcp(&crypto), true)] {
            let receive = |packet: &[u8]| match is_rtcp {
                true => crypto.unprotect_rtcp(&mut packet.to_vec()),
                false => receive_rtp(&crypto, packet),
            };
            for len in 0..packet.len() {
                assert_eq!(receive(&packet[..len]), Err(AuthError), "{profile:?} cut to {len}");
                assert_eq!(receive(&packet[packet.len() - len..]), Err(AuthError), "{profile:?} the last {len}");
            }
            for more in 1..40 {
                let longer = [&packet[..], &vec![0; more]].concat();
                assert_eq!(receive(&longer), Err(AuthError), "{profile:?} longer by {more}");
            }
        }
    }
}

/// A header that is claimed longer or shorter than it was authenticates as nothing under GCM; under AES-CM the tag
/// does not know where the header ends, and the length stays that of the packet.
#[test]
fn a_wrong_header_length_stays_in_bounds() {
    for profile in PROFILES {
        let crypto = crypto(profile);
        let packet = protected_rtp(&crypto);
        for header_len in (0..packet.len() + 20).filter(|&len| len != 12).chain([usize::MAX]) {
            let taken = crypto.unprotect_rtp(7, 0x1234, header_len, &mut packet.clone());
            match profile {
                SrtpProfile::Aes128CmHmacSha1_80 if header_len <= packet.len() - 10 => {
                    assert_eq!(taken, Ok(packet.len() - 10));
                }
                _ => assert_eq!(taken, Err(AuthError), "{profile:?} {header_len}"),
            }
        }
    }
}
