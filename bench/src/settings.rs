//! How a peer of a test behaves.

use std::net::{IpAddr, Ipv4Addr};

use proto::signal::SlotCount;

use crate::dtls_srtp::{CHROMIUM, Profile};
use crate::send::CameraSettings;

/// MID of the microphone.
pub const MICROPHONE: &str = "0";
/// MID of the camera.
pub const CAMERA: &str = "1";
/// MID of the empty screen sender.
pub const SCREEN: &str = "2";

/// Takes every n-th RTP or RTCP datagram; STUN and DTLS pass.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Loss {
    /// Of those that this peer sends.
    pub sent_every: Option<u32>,
    /// Of those that it receives.
    pub received_every: Option<u32>,
}

/// How a peer behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number in the marks of its media. Different for each peer of a test.
    pub publisher: u32,
    /// SRTP profiles offered, in this order.
    pub profiles: Vec<Profile>,
    /// Receive slots to offer; those of `welcome` if None.
    pub slots: Option<SlotCount>,
    /// Whether it sends a microphone and a camera. The m-sections are there in any case.
    pub sends: bool,
    /// What the camera sends.
    pub camera: CameraSettings,
    /// First sequence number of its streams; random below 2^15 if None (RFC 3711 §3.3.1 advises that half).
    pub first_seq: Option<u16>,
    /// Loss on its own socket.
    pub loss: Loss,
    /// Local address of its UDP socket.
    pub ip: IpAddr,
    /// Whether its network blocks UDP, so that it connects to the server's TCP candidate.
    pub is_tcp: bool,
    /// Whether it sends transport-cc feedback. Without any the server estimates nothing and leaves nothing out.
    pub tells_arrivals: bool,
}

impl Settings {
    /// The usual one: offers SRTP profiles as Chromium does, sends both, loses nothing.
    pub fn new(publisher: u32) -> Settings {
        Settings {
            publisher,
            profiles: CHROMIUM.to_vec(),
            slots: None,
            sends: true,
            camera: CameraSettings::default(),
            first_seq: None,
            loss: Loss::default(),
            ip: Ipv4Addr::LOCALHOST.into(),
            is_tcp: false,
            tells_arrivals: true,
        }
    }
}
