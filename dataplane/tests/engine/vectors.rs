//! Published vectors of SRTP: RFC 3711 appendix B, RFC 6188 §7, RFC 7714 §16 and §17.
//!
//! Those of RFC 7714 give session keys, so they enter below key derivation.

use dataplane::srtp::{Crypto, SessionKeys};
use proto::plane::SrtpProfile;

/// Hexadecimal, spaces allowed, zero padded on the right.
fn hex<const N: usize>(text: &str) -> [u8; N] {
    let bytes = unhex(text);
    let mut out = [0; N];
    out[..bytes.len()].copy_from_slice(&bytes);
    out
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    assert!(digits.len().is_multiple_of(2), "half a byte in {text:?}");
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hexadecimal digit") as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// RFC 3711 B.2: keystream of AES-CM at both ends of the counter's range.
///
/// The vector's counter blocks 0xFEFF to 0xFF01 lie a megabyte into the packet, so this packet is as long.
#[test]
fn rfc3711_b2_aes_cm_keystream() {
    let keys = SessionKeys {
        cipher: hex("2B7E151628AED2A6ABF7158809CF4F3C"),
        auth: [0; 20],
        salt: hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD"),
    };
    let crypto = Crypto::from_session_keys(SrtpProfile::Aes128CmHmacSha1_80, &keys, &keys);
    let len = 0xFF02 * 16;
    let mut buffer = vec![0; len + Crypto::OVERHEAD_MAX];
    assert_eq!(crypto.protect_rtp(0, 0, 0, &mut buffer, len, &[]), Some(len + 10));
    for (block, expected) in [
        (0x0000, "E03EAD0935C95E80E166B16DD92B4EB4"),
        (0x0001, "D23513162B02D0F72A43A2FE4A5F97AB"),
        (0x0002, "41E95B3BB0A2E8DD477901E4FCA894C0"),
        (0xFEFF, "EC8CDF7398607CB0F2D21675EA9EA1E4"),
        (0xFF00, "362B7C3C6773516318A077D7FC5073AE"),
        (0xFF01, "6A2CC3787889374FBEB4C81B17BA6C44"),
    ] {
        assert_eq!(buffer[block * 16..][..16], unhex(expected), "block {block:#06x}");
    }
}

/// RFC 3711 B.3: AES-128 key derivation.
#[test]
fn rfc3711_b3_key_derivation() {
    let keys = SessionKeys::rtp(
        SrtpProfile::Aes128CmHmacSha1_80,
        &hex("E1F97A0D3E018BE0D64FA32C06DE4139"),
        &hex("0EC675AD498AFEEBB6960B3AABE6"),
    );
    assert_eq!(keys.cipher[..16], unhex("C61E7A93744F39EE10734AFE3FF7A087"));
    assert_eq!(keys.salt[..], unhex("30CBBC08863D8C85D49DB34A9AE1"));
    assert_eq!(keys.auth[..], unhex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4"));
}

/// RFC 6188 §7.2: AES-256 key derivation, which RFC 7714 §11 prescribes for AEAD_AES_256_GCM.
#[test]
fn rfc6188_key_derivation() {
    let keys = SessionKeys::rtp(
        SrtpProfile::AeadAes256Gcm,
        &hex("f0f04914b513f2763a1b1fa130f10e29 98f6f6e43e4309d1e622a0e332b9f1b6"),
        &hex("3b04803de51ee7c96423ab5b78d2"),
    );
    assert_eq!(keys.cipher[..], unhex("5ba1064e30ec51613cad926c5a28ef73 1ec7fb397f70a960653caf06554cd8c4"));
    assert_eq!(keys.salt[..], unhex("fa31791685ca444a9e07c6c64e93"));
    assert_eq!(keys.auth[..], unhex("fd9c32d39ed5fbb5a9dc96b30818454d1313dc05"));
}

/// Keys and salt of RFC 7714 §16 and §17: 00 01 02 … and "Quid pro quo".
fn rfc7714(profile: SrtpProfile) -> Crypto {
    let cipher = std::array::from_fn(|i| i as u8);
    let keys = SessionKeys { cipher, auth: [0; 20], salt: hex("517569642070726f2071756f") };
    Crypto::from_session_keys(profile, &keys, &keys)
}

/// RFC 7714 §16: SEQ 0xf17b, SSRC 0x5501a0b2, ROC 0, "Gallia est omnis divisa in partes tres".
#[test]
fn rfc7714_16_srtp() {
    let plain = [&unhex("8040f17b 8041f8d3 5501a0b2")[..], b"Gallia est omnis divisa in partes tres"].concat();
    for (profile, protected) in [
        (
            SrtpProfile::AeadAes128Gcm,
            "8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f 42a5f47a 51c7d19b
             36de3adf 8833 899d7f27 beb16a91 52cf765e e4390cce",
        ),
        (
            SrtpProfile::AeadAes256Gcm,
            "8040f17b 8041f8d3 5501a0b2 32b1de78 a822fe12 ef9f78fa 332e33aa b1801238 9a58e2f3 b50b2a02 76ffae0f
             1ba63799 b87b 7aa3db36 dfffd6b0 f9bb7878 d7a76c13",
        ),
    ] {
        let (crypto, protected) = (rfc7714(profile), unhex(protected));
        let mut buffer = plain.clone();
        buffer.resize(plain.len() + Crypto::OVERHEAD_MAX, 0);
        let len = crypto.protect_rtp(0x5501_a0b2, 0xf17b, 12, &mut buffer, plain.len(), &[]).expect("index in range");
        assert_eq!(buffer[..len], protected, "{profile:?}");

        let mut packet = protected;
        let len = crypto.unprotect_rtp(0x5501_a0b2, 0xf17b, 12, &mut packet).expect("authentic");
        assert_eq!(packet[..len], plain, "{profile:?}");
    }
}

/// The packet of RFC 7714 §17.1 to §17.4 (the one printed before them is another), SSRC "Mars".
const RTCP: &str = "81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 deadbeef deadbeef deadbeef
                    deadbeef deadbeef";
const RTCP_INDEX: u32 = 0x5d4;

/// RFC 7714 §17.1 and §17.2.
#[test]
fn rfc7714_17_srtcp() {
    let plain = unhex(RTCP);
    for (profile, protected) in [
        (
            SrtpProfile::AeadAes128Gcm,
            "81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d c676a5f1 730d6fda 4ce09b46
             86303ded 0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade 800005d4",
        ),
        (
            SrtpProfile::AeadAes256Gcm,
            "81c8000d 4d617273 d50ae4d1 f5ce5d30 4ba297e4 7d470c28 2c3ece5d bffe0a50 a2eaa5c1 110555be 8415f658
             c61de047 6f1b6fad 1d1eb30c 4446839f 57ff6f6c b26ac3be 800005d4",
        ),
    ] {
        let (crypto, protected) = (rfc7714(profile), unhex(protected));
        let mut buffer = plain.clone();
        buffer.resize(plain.len() + Crypto::OVERHEAD_MAX, 0);
        let len = crypto.protect_rtcp(RTCP_INDEX, &mut buffer, plain.len()).expect("index in range");
        assert_eq!(buffer[..len], protected, "{profile:?}");

        let mut packet = protected;
        assert_eq!(crypto.rtcp_index(&packet), Some(RTCP_INDEX));
        let len = crypto.unprotect_rtcp(&mut packet).expect("authentic");
        assert_eq!(packet[..len], plain, "{profile:?}");
    }
}

/// RFC 7714 §17.3 is authentic but not encrypted (E = 0). DTLS-SRTP does not negotiate that, so it is refused.
#[test]
fn rfc7714_17_3_unencrypted_srtcp_is_refused() {
    let mut packet = unhex(RTCP);
    packet.extend(unhex("841dd968 3dd78ec9 2ae58790 125f62b3 000005d4"));
    let crypto = rfc7714(SrtpProfile::AeadAes128Gcm);
    assert_eq!(crypto.rtcp_index(&packet), None);
    assert!(crypto.unprotect_rtcp(&mut packet).is_err());
}
