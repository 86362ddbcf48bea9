//! Values of one byte that records carry: codecs, SRTP profiles, directions, and why something is refused or crosses.

use super::field::{Field, wire_enum};

wire_enum! {
    /// SRTP protection profile, numbered as IANA's DTLS-SRTP registry (low byte).
    SrtpProfile {
        /// AES128_CM_HMAC_SHA1_80 (RFC 5764 §4.1.2).
        Aes128CmHmacSha1_80 = 1,
        /// AEAD_AES_128_GCM (RFC 7714 §14.2).
        AeadAes128Gcm = 7,
        /// AEAD_AES_256_GCM (RFC 7714 §14.2).
        AeadAes256Gcm = 8,
    }
}

wire_enum! {
    /// Which way a key protects, seen from the worker.
    Direction {
        /// From the peer to us.
        Rx = 1,
        /// From us to the peer.
        Tx = 2,
    }
}

wire_enum! {
    /// What a stream carries, as far as the packet path must know it.
    Codec {
        /// Opus (RFC 7587), 48 kHz RTP clock.
        Opus = 1,
        /// H.264 (RFC 6184), 90 kHz RTP clock.
        H264 = 2,
        /// VP8 (RFC 7741), 90 kHz RTP clock.
        Vp8 = 3,
        /// VP9 (RFC 9628), 90 kHz RTP clock.
        Vp9 = 4,
        /// AV1 (AV1 RTP payload format 1.0), 90 kHz RTP clock.
        Av1 = 5,
    }
}

impl Codec {
    /// RTP clock rate, Hz.
    pub const fn clock_rate(self) -> u32 {
        match self {
            Codec::Opus => 48_000,
            Codec::H264 | Codec::Vp8 | Codec::Vp9 | Codec::Av1 => 90_000,
        }
    }

    /// Whether it is video (has keyframes, trains and repair).
    pub const fn is_video(self) -> bool {
        !matches!(self, Codec::Opus)
    }
}

wire_enum! {
    /// When packets of a stream of audio are passed on.
    Gate {
        /// Always.
        Open = 1,
        /// While somebody speaks in it, and for two seconds after. A stream whose packets tell no level always.
        Speech = 2,
        /// Never: others are louder.
        Closed = 3,
    }
}

wire_enum! {
    /// How a path between edges is.
    PathState {
        /// It answers, within the thresholds.
        Good = 1,
        /// Too little was answered to judge it.
        Unknown = 2,
        /// It answers, beyond the thresholds.
        Bad = 3,
        /// It does not answer.
        Dead = 4,
    }
}

wire_enum! {
    /// Why a command was refused.
    Refusal {
        /// The bytes are not a command of this contract.
        Malformed = 1,
        /// A table of the worker is full.
        TableFull = 2,
        /// It names an object that is not there (or another generation of it).
        Unknown = 3,
        /// It opens an object whose place is taken.
        Occupied = 4,
        /// The staged batch is longer than the worker can hold.
        BatchFull = 5,
    }
}

wire_enum! {
    /// Why a datagram crosses the planes.
    DatagramKind {
        /// A DTLS record, from or to a peer whose address is validated (RFC 5764).
        Dtls = 1,
        /// The same after the handshake: application data, which is SCTP of data channels (RFC 8261).
        Data = 2,
    }
}
