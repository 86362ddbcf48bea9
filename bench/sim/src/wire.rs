//! What clients of the simulator say on the wire beside media: an offer, what they read in an answer, connectivity checks, and SRTP
//! contexts of another implementation.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use controlplane::dtls::{Identity as Certificate, KeyMaterial};
use proto::plane::SrtpProfile;
use proto::signal::ClientSignal;
use proto::stun;
use webrtc_srtp::context::Context;
use webrtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use webrtc_srtp::protection_profile::ProtectionProfile;

/// Chromium's offer of the meeting page: microphone (mid 0), camera (1), screen (2), 7 audio and 8 video slots.
const OFFER: &str = include_str!("../../../controlplane/tests/offers/chromium_page.sdp");

/// What a client does that the world carries out.
#[derive(Debug)]
pub enum FromClient {
    /// A datagram for the server.
    Datagram(SocketAddr, Vec<u8>),
    /// It opens a signalling socket.
    Open,
    /// It says something there.
    Signal(ClientSignal),
    /// It closes the socket.
    Close,
}

/// What an answer says.
pub struct Answer {
    /// The first candidate.
    pub server: SocketAddr,
    /// Of the server's password.
    pub key: stun::IntegrityKey,
    ufrag: String,
    /// Of its certificate, SHA-256.
    pub fingerprint: Vec<u8>,
    /// By m-section: the payload type to send, and that of its repairs (0: none).
    pub formats: BTreeMap<String, (u8, u8)>,
    /// Slots: SSRC, that of its repairs, and whether it is of video.
    pub slots: Vec<(u32, Option<u32>, bool)>,
    /// By SSRC: the slot's m-section, and whether it is of its repairs.
    pub sections: BTreeMap<u32, (String, bool)>,
}

impl Answer {
    /// Reads an answer of the server.
    pub fn parse(sdp: &str) -> Answer {
        let value = |name: &str| sdp.lines().find_map(|line| line.strip_prefix(name)).expect("an answer has it");
        let candidate: Vec<&str> = value("a=candidate:").split(' ').collect();
        let fingerprint = value("a=fingerprint:sha-256 ").split(':');
        let mut answer = Answer {
            server: SocketAddr::new(candidate[4].parse().expect("an address"), candidate[5].parse().expect("a port")),
            key: stun::IntegrityKey::new(value("a=ice-pwd:").as_bytes()),
            ufrag: value("a=ice-ufrag:").to_owned(),
            fingerprint: fingerprint.map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect(),
            formats: BTreeMap::new(),
            slots: Vec::new(),
            sections: BTreeMap::new(),
        };
        let (mut mid, mut is_video) = (String::new(), false);
        let mut repairs = BTreeMap::new();
        for line in sdp.lines() {
            if let Some(kind) = line.strip_prefix("m=") {
                is_video = kind.starts_with("video");
            } else if let Some(of_section) = line.strip_prefix("a=mid:") {
                mid = of_section.to_owned();
            } else if let Some((pt, name)) = line.strip_prefix("a=rtpmap:").and_then(|format| format.split_once(' ')) {
                // The first format of a section is the one to send.
                if !name.starts_with("rtx") {
                    answer.formats.entry(mid.clone()).or_insert((pt.parse().expect("a payload type"), 0));
                }
            } else if let Some((pt, apt)) = line.strip_prefix("a=fmtp:").and_then(|format| format.split_once(" apt=")) {
                let of_section = answer.formats.get_mut(&mid).filter(|(sent, _)| apt.parse() == Ok(*sent));
                of_section.into_iter().for_each(|(_, rtx)| *rtx = pt.parse().expect("a payload type"));
            } else if let Some(pair) = line.strip_prefix("a=ssrc-group:FID ") {
                let pair: Vec<u32> = pair.split(' ').map(|ssrc| ssrc.parse().expect("an SSRC")).collect();
                repairs.insert(pair[1], pair[0]);
            } else if let Some(of_stream) = line.strip_prefix("a=ssrc:") {
                let ssrc = of_stream.split(' ').next().and_then(|ssrc| ssrc.parse().ok()).expect("an SSRC");
                if answer.sections.insert(ssrc, (mid.clone(), false)).is_none() {
                    answer.slots.push((ssrc, None, is_video));
                }
            }
        }
        for (repair, original) in repairs {
            answer.sections.get_mut(&repair).expect("it is described").1 = true;
            answer.slots.retain(|(ssrc, ..)| *ssrc != repair);
            let slot = answer.slots.iter_mut().find(|(ssrc, ..)| *ssrc == original);
            slot.expect("it is described").1 = Some(repair);
        }
        answer
    }
}

/// The username of checks to the server, and the key of our own password.
pub fn credentials(offer: &str, answer: &Answer) -> (String, stun::IntegrityKey) {
    let value = |name: &str| offer.lines().find_map(|line| line.strip_prefix(name)).expect("an offer has it");
    let own_key = stun::IntegrityKey::new(value("a=ice-pwd:").as_bytes());
    (format!("{}:{}", answer.ufrag, value("a=ice-ufrag:")), own_key)
}

/// Whether it is RTP.
pub fn is_rtp(bytes: &[u8]) -> bool {
    (128..192).contains(&bytes[0]) && !is_rtcp(bytes)
}

/// RFC 5761 §4.
pub fn is_rtcp(bytes: &[u8]) -> bool {
    (128..192).contains(&bytes[0]) && bytes.len() > 1 && (192..=223).contains(&bytes[1])
}

/// A connectivity check that nominates.
pub fn check(username: &str, key: &stun::IntegrityKey, id: stun::TransactionId) -> Vec<u8> {
    let mut out = [0; 256];
    let len = stun::Writer::binding_request(&mut out, id)
        .username(username.as_bytes())
        .priority(1)
        .ice_controlling(1)
        .use_candidate()
        .integrity(key)
        .fingerprint()
        .finish()
        .expect("a check fits");
    out[..len].to_vec()
}

/// The answer to the server's own check. How it sees us does not matter to it.
pub fn answer(own_key: &stun::IntegrityKey, server: SocketAddr, id: stun::TransactionId) -> Vec<u8> {
    let mut out = [0; 128];
    let writer = stun::Writer::binding_success(&mut out, id, server);
    let len = writer.integrity(own_key).fingerprint().finish().expect("an answer fits");
    out[..len].to_vec()
}

/// A context of `webrtc-srtp`.
pub fn context(profile: SrtpProfile, material: &KeyMaterial) -> Context {
    let profile = match profile {
        SrtpProfile::Aes128CmHmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        SrtpProfile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
    };
    let (key, salt) = (&material.key[..profile.key_len()], &material.salt[..profile.salt_len()]);
    let window = (Some(srtp_replay_protection(1024)), Some(srtcp_replay_protection(1024)));
    Context::new(key, salt, profile, window.0, window.1).expect("keys of the profile's length")
}

/// Audio, video, RTX.
pub fn ssrcs(number: u16) -> [u32; 3] {
    [1, 2, 3].map(|kind| u32::from(number) << 8 | kind << 24)
}

/// The offer with a certificate and SSRCs of its own, and the camera in these encodings, the worst first; none: in one, without RIDs.
pub fn offer(certificate: &Certificate, number: u16, rids: &[&str]) -> String {
    let hex: Vec<String> = certificate.fingerprint_sha256().iter().map(|byte| format!("{byte:02X}")).collect();
    let mut of_browser: Vec<&str> = Vec::new();
    let (mut out, mut mid) = (String::new(), "");
    for line in OFFER.lines() {
        mid = line.strip_prefix("a=mid:").unwrap_or(mid);
        if !rids.is_empty() && mid == "1" {
            if line.starts_with("a=ssrc") {
                continue;
            }
            if line == "a=mid:1" {
                rids.iter().for_each(|rid| out += &format!("a=rid:{rid} send\r\n"));
                out += &format!("a=simulcast:send {}\r\n", rids.join(";"));
            }
        }
        if line.starts_with("a=fingerprint:") {
            out += &format!("a=fingerprint:sha-256 {}\r\n", hex.join(":"));
            continue;
        }
        let rest = line.strip_prefix("a=ssrc:").or_else(|| line.strip_prefix("a=ssrc-group:FID "));
        let mut line = line.to_owned();
        for found in
            rest.into_iter().flat_map(|rest| rest.split(' ').take(2)).filter(|word| word.parse::<u32>().is_ok())
        {
            let known = of_browser.iter().position(|ssrc| *ssrc == found);
            let place = known.unwrap_or(of_browser.len());
            if known.is_none() {
                of_browser.push(found);
            }
            // Beyond microphone and camera, of the screen, which nobody shares here.
            let ssrc = ssrcs(number).get(place).copied().unwrap_or(u32::from(number) << 8 | 4 << 24 | place as u32);
            line = line.replace(found, &ssrc.to_string());
        }
        out += &line;
        out += "\r\n";
    }
    out
}
