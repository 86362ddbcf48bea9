//! The plane contract: what the controlplane tells a worker (commands), what a worker tells the controlplane
//! (events), the datagrams that pass between them, and the counters of the stats page.
//!
//! Every record is a fixed array of bytes written and read field by field, little endian, so that the two
//! processes agree on it without sharing a Rust layout. Reading checks the tag and each field; a record that does
//! not parse is refused whole. The record declarations below are the only source: the codec, the size assertions
//! and the layout hash are made from them.

mod datagram;
mod extension;
mod tally;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use self::datagram::DATAGRAM_LAYOUT;
pub use self::datagram::DatagramHeader;
pub use self::extension::{EXTENSION_COUNT_MAX, Extension, ExtensionIds};
pub use self::tally::{SlotTally, StreamTally, TALLY_WORDS_MAX, Tally, TallyWords};
use crate::id::{MID_LEN_MAX, Mid, PeerId, Pt, RouteId, SlotId, Ssrc, StreamId, TapId};

/// Version of the contract. Raised when the meaning of a record changes without its layout.
pub const CONTRACT_VERSION: u32 = 2;

/// Bytes of a command or an event: one cache line.
pub const RECORD_LEN: usize = 64;

/// Largest datagram that is punted or injected, bytes. An Ethernet frame carries 1472 bytes of UDP payload.
pub const DATAGRAM_LEN_MAX: usize = 1500;

/// Bytes of a datagram record: header and payload, a multiple of the cache line.
pub const DATAGRAM_RECORD_LEN: usize = 1600;

/// One command or event as it lies in a ring.
pub type Record = [u8; RECORD_LEN];

/// A value with a fixed wire size inside a record.
trait Field: Sized {
    const SIZE: usize;
    fn write(&self, out: &mut [u8]);
    fn read(bytes: &[u8]) -> Option<Self>;
}

macro_rules! int_field {
    ($($t:ty),*) => {$(
        impl Field for $t {
            const SIZE: usize = size_of::<$t>();
            fn write(&self, out: &mut [u8]) { out.copy_from_slice(&self.to_le_bytes()); }
            fn read(bytes: &[u8]) -> Option<Self> { Some(<$t>::from_le_bytes(bytes.try_into().ok()?)) }
        }
    )*};
}
int_field!(u8, u16, u32, u64);

impl<const N: usize> Field for [u8; N] {
    const SIZE: usize = N;
    fn write(&self, out: &mut [u8]) {
        out.copy_from_slice(self);
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok()
    }
}

impl<const N: usize> Field for [Ssrc; N] {
    const SIZE: usize = 4 * N;
    fn write(&self, out: &mut [u8]) {
        out.chunks_exact_mut(4).zip(self).for_each(|(place, number)| number.write(place));
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut numbers = [0; N];
        for (number, place) in numbers.iter_mut().zip(bytes.chunks_exact(4)) {
            *number = u32::read(place)?;
        }
        Some(numbers)
    }
}

macro_rules! id_field {
    ($($t:ty),*) => {$(
        impl Field for $t {
            const SIZE: usize = 8;
            fn write(&self, out: &mut [u8]) {
                out[..4].copy_from_slice(&self.index.to_le_bytes());
                out[4..].copy_from_slice(&self.generation.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Option<Self> {
                let id = Self::new(u32::read(&bytes[..4])?, u32::read(&bytes[4..])?);
                (id.generation != 0).then_some(id)
            }
        }
    )*};
}
id_field!(PeerId, StreamId, SlotId, RouteId, TapId);

impl Field for Mid {
    const SIZE: usize = MID_LEN_MAX;
    fn write(&self, out: &mut [u8]) {
        out.fill(0);
        out[..self.as_bytes().len()].copy_from_slice(self.as_bytes());
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        let len = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        if bytes[len..].iter().any(|&b| b != 0) {
            return None;
        }
        Mid::parse(&bytes[..len])
    }
}

impl Field for SocketAddr {
    const SIZE: usize = 19;
    fn write(&self, out: &mut [u8]) {
        out.fill(0);
        match self.ip() {
            IpAddr::V4(ip) => {
                out[0] = 4;
                out[1..5].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out[0] = 6;
                out[1..17].copy_from_slice(&ip.octets());
            }
        }
        out[17..].copy_from_slice(&self.port().to_le_bytes());
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        let ip = match bytes[0] {
            4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::read(&bytes[1..5])?)),
            6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::read(&bytes[1..17])?)),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::read(&bytes[17..19])?))
    }
}

/// Declares a byte-sized enum with a checked reader.
macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $value),* }

        impl Field for $name {
            const SIZE: usize = 1;
            fn write(&self, out: &mut [u8]) { out[0] = *self as u8; }
            fn read(bytes: &[u8]) -> Option<Self> {
                match bytes[0] { $($value => Some($name::$variant),)* _ => None }
            }
        }
    };
}

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
    }
}

/// Length of the ICE username fragment that we issue, bytes of ice-char: 48 bits of randomness (RFC 8445 §5.3 asks 24).
pub const UFRAG_LEN: usize = 8;
/// Length of the ICE password that we issue, bytes of ice-char: 144 bits of randomness (RFC 8445 §5.3 asks 128).
pub const PWD_LEN: usize = 24;

/// Master key, right-padded with zeros to the longest profile's length.
pub const KEY_LEN_MAX: usize = 32;
/// Master salt: 14 bytes for AES-CM, 12 and two zeros for GCM.
pub const SALT_LEN_MAX: usize = 14;

/// Encodings of a stream beside its best one: libwebrtc sends three at most (`kMaxSimulcastStreams`), and one to spare.
pub const STREAM_ENCODINGS_MAX: usize = 3;

/// Bytes of parameter sets in one [`StreamSets`]: then it is no longer than a [`StreamOpen`], and all commands take less
/// memory where they are remembered.
pub const STREAM_SETS_PART_LEN: usize = 36;

/// Parts of a stream's parameter sets: 180 bytes, where those of x264, openh264 and hardware encoders take 20 to 60.
pub const STREAM_SETS_PARTS_MAX: usize = 5;

/// Bits of [`StreamOpen::feedback`] and [`RouteOpen::feedback`]: what was negotiated by `a=rtcp-fb`.
pub mod feedback {
    /// Generic NACK (RFC 4585 §6.2.1).
    pub const NACK: u8 = 1;
    /// Picture loss indication (RFC 4585 §6.3.1).
    pub const PLI: u8 = 2;
    /// Full intra request (RFC 5104 §4.3.1).
    pub const FIR: u8 = 4;
    /// Transport-wide congestion control feedback.
    pub const TRANSPORT_CC: u8 = 8;
    /// Receiver estimated maximum bitrate (draft-alvestrand-rmcat-remb-03), where transport-wide feedback is not.
    pub const REMB: u8 = 16;
}

/// Declares the records of one direction: an enum of structs, its codec, its size assertions and its layout text.
macro_rules! records {
    ($(#[$doc:meta])* $set:ident, $layout:ident {
        $($(#[$rdoc:meta])* $name:ident = $tag:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty),* $(,)? })*
    }) => {
        $(
            $(#[$rdoc])*
            #[derive(Clone, Copy, PartialEq, Eq, Debug)]
            pub struct $name { $($(#[$fdoc])* pub $field: $ty),* }

            impl $name {
                const SIZE: usize = 2 $(+ <$ty as Field>::SIZE)*;
            }
            const _: () = assert!($name::SIZE <= RECORD_LEN, concat!(stringify!($name), " does not fit a record"));
        )*

        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $set { $($(#[$rdoc])* $name($name)),* }

        $(impl From<$name> for $set {
            fn from(record: $name) -> Self { $set::$name(record) }
        })*

        impl $set {
            /// The record as it lies in a ring: tag (u16), fields in order, zeros.
            pub fn write(&self) -> Record {
                let mut out = [0u8; RECORD_LEN];
                match self {
                    $($set::$name(_r) => {
                        u16::write(&$tag, &mut out[..2]);
                        let mut _at = 2;
                        $(
                            let end = _at + <$ty as Field>::SIZE;
                            <$ty as Field>::write(&_r.$field, &mut out[_at..end]);
                            _at = end;
                        )*
                    })*
                }
                out
            }

            /// Reads a record that another process wrote; `None` unless the tag and every field are valid.
            pub fn read(record: &Record) -> Option<Self> {
                match u16::read(&record[..2])? {
                    $($tag => {
                        let mut _at = 2;
                        $(
                            let end = _at + <$ty as Field>::SIZE;
                            let $field = <$ty as Field>::read(&record[_at..end])?;
                            _at = end;
                        )*
                        Some($set::$name($name { $($field),* }))
                    })*
                    _ => None,
                }
            }

            /// The tag that names the record's kind.
            pub const fn tag(&self) -> u16 {
                match self { $($set::$name(_) => $tag),* }
            }
        }

        const $layout: &str = concat!($(stringify!($name), "=", stringify!($tag), "{", $(stringify!($field), ":", stringify!($ty), ",",)* "}"),*);
    };
}

records! {
    /// Controlplane to worker. Edits are staged in order and take effect together at [`Commit`].
    Command, COMMAND_LAYOUT {
        /// A peer's transport, with the ICE credentials that we issued for it (RFC 8445 §5.3).
        PeerOpen = 1 {
            /// Its place in the worker's table.
            peer: PeerId,
            /// Our username fragment, which no other peer of the worker has; the first half of USERNAME in the peer's checks.
            ufrag: [u8; UFRAG_LEN],
            /// Our password; keys MESSAGE-INTEGRITY in both directions of a check.
            pwd: [u8; PWD_LEN],
        }
        /// The header extension ids of the peer's BUNDLE group.
        PeerExtensions = 2 {
            /// Whose.
            peer: PeerId,
            /// Id by [`Extension`], 0 where not negotiated.
            ids: ExtensionIds,
        }
        /// SRTP keys of one direction, from the DTLS exporter (RFC 5764 §4.2).
        PeerKeys = 3 {
            /// Whose.
            peer: PeerId,
            /// From the peer or to it.
            direction: Direction,
            /// Cipher and tag.
            profile: SrtpProfile,
            /// Master key, zero padded.
            key: [u8; KEY_LEN_MAX],
            /// Master salt, zero padded.
            salt: [u8; SALT_LEN_MAX],
        }
        /// The peer is gone; closes its streams, slots and their routes too.
        PeerClose = 4 {
            /// Which.
            peer: PeerId,
        }
        /// A stream that the peer may send.
        StreamOpen = 5 {
            /// Its place in the worker's table.
            stream: StreamId,
            /// Who sends it.
            peer: PeerId,
            /// Its SSRC as signalled (RFC 5576), or 0: then the first packet with this MID (or else PT) names it.
            ssrc: Ssrc,
            /// SSRC of its RTX stream (RFC 4588), or 0 as above.
            rtx_ssrc: Ssrc,
            /// The m-section's MID, or none.
            mid: Mid,
            /// Payload type of the codec.
            pt: Pt,
            /// Payload type of RTX, or 0 when not negotiated.
            rtx_pt: Pt,
            /// The codec; [`StreamCodec`] may add a second one.
            codec: Codec,
            /// Bits of [`feedback`] that the sender of the stream understands.
            feedback: u8,
        }
        /// A second codec that the stream may change to, of the same clock. One a stream, and it goes with the stream; its
        /// payload types are not those of the first.
        StreamCodec = 16 {
            /// Which stream.
            stream: StreamId,
            /// The codec, another than the stream was opened with.
            codec: Codec,
            /// Its payload type.
            pt: Pt,
            /// Payload type of its RTX, or 0 when not negotiated.
            rtx_pt: Pt,
        }
        /// Other encodings of the stream, from which it is sent at the same time (`ssrc-group:SIM`, RFC 5576 §4.2). The best
        /// one is in [`StreamOpen`]; the stream is carried from the best one that sends. One a stream, and it goes with the
        /// stream.
        StreamEncodings = 18 {
            /// Which stream.
            stream: StreamId,
            /// SSRC of each, the better one first; 0 for none.
            ssrcs: [Ssrc; STREAM_ENCODINGS_MAX],
            /// SSRC of the RTX stream of each, or 0.
            rtx_ssrcs: [Ssrc; STREAM_ENCODINGS_MAX],
        }
        /// Parameter sets of H.264 that the sender told in SDP (`sprop-parameter-sets`, RFC 6184 §8.1): what it sends in the
        /// stream itself comes before them. They are written one after the other, each behind its length (a byte), and cut
        /// into parts; they go with the stream.
        StreamSets = 19 {
            /// Which stream.
            stream: StreamId,
            /// Which part, below [`STREAM_SETS_PARTS_MAX`]. Each once, in their order.
            part: u8,
            /// Bytes of it.
            len: u8,
            /// The bytes, zero padded.
            bytes: [u8; STREAM_SETS_PART_LEN],
        }
        /// The stream is gone; closes its routes too.
        StreamClose = 6 {
            /// Which.
            stream: StreamId,
        }
        /// An m-section through which the peer receives.
        SlotOpen = 7 {
            /// Its place in the worker's table.
            slot: SlotId,
            /// Who receives.
            peer: PeerId,
            /// SSRC for the life of the slot. It and the RTX stream's are refused as occupied if a slot of this peer has
            /// ever had them: the packet index would begin again under the same key.
            ssrc: Ssrc,
            /// SSRC of its RTX stream, or 0.
            rtx_ssrc: Ssrc,
            /// MID written into its packets while the extension is negotiated.
            mid: Mid,
            /// First sequence number, below 2^15 (libsrtp and str0m#553: stay far from the wrap).
            seq_first: u16,
            /// First sequence number of the RTX stream, below 2^15.
            rtx_seq_first: u16,
            /// First timestamp.
            timestamp_first: u32,
        }
        /// The slot is gone; closes its route too.
        SlotClose = 8 {
            /// Which.
            slot: SlotId,
        }
        /// Carry a stream into a slot. A slot carries one stream at a time.
        RouteOpen = 9 {
            /// Its place in the worker's table.
            route: RouteId,
            /// From.
            stream: StreamId,
            /// To.
            slot: SlotId,
            /// Payload type that the receiver gave the codec which the stream was opened with, or 0: it cannot receive it,
            /// and is sent nothing while the stream is in that codec.
            pt: Pt,
            /// Payload type of RTX for it, or 0: then losses of the receiver are not repaired.
            rtx_pt: Pt,
            /// Bits of [`feedback`] that the receiver was told it may send.
            feedback: u8,
        }
        /// What the receiver gave the stream's second codec. One a route, and it goes with the route; without it nothing is
        /// sent while the stream is in that codec.
        RouteCodec = 15 {
            /// Which route.
            route: RouteId,
            /// The codec, as the stream's [`StreamCodec`] says.
            codec: Codec,
            /// Its payload type.
            pt: Pt,
            /// Payload type of its RTX, or 0: then losses of the receiver are not repaired.
            rtx_pt: Pt,
        }
        /// Stop carrying.
        RouteClose = 10 {
            /// Which.
            route: RouteId,
        }
        /// Hand a stream on to another worker of this dataplane, which has its mirror ([`MirrorOpen`]): each packet once, in
        /// the clear, in memory of the process. It goes with the stream. Refused as unknown if there is no such worker.
        TapOpen = 20 {
            /// Its place in the worker's table.
            tap: TapId,
            /// What is handed on.
            stream: StreamId,
            /// To which worker.
            worker: u16,
            /// The mirror there.
            mirror: StreamId,
        }
        /// Stop handing on.
        TapClose = 21 {
            /// Which.
            tap: TapId,
        }
        /// A stream that another worker receives and hands on. Routes may start from it as from any stream of that place;
        /// its packets come by the lanes between workers, and requests for keyframes go back there. [`StreamCodec`] and
        /// [`StreamClose`] are for it, too.
        MirrorOpen = 22 {
            /// Its place in this worker's table of streams.
            stream: StreamId,
            /// Which worker receives it.
            worker: u16,
            /// The stream there.
            origin: StreamId,
            /// Who sends it, there: its mirrors on this worker share their receivers' CNAME.
            publisher: PeerId,
            /// As in [`StreamOpen`].
            pt: Pt,
            /// As in [`StreamOpen`].
            rtx_pt: Pt,
            /// As in [`StreamOpen`].
            codec: Codec,
        }
        /// Close everything: what a controlplane says that adopts nothing.
        Reset = 11 {}
        /// Say what is installed: the worker echoes each open record ([`Report::Echo`]) and ends with [`Described`].
        /// A controlplane that adopts rooms from the journal asks this first.
        Describe = 13 {}
        /// Other ICE credentials for a peer that is open: an ICE restart (RFC 8445 §2.4). Path, keys and streams stand; checks
        /// with the credentials before are unknown from now on. A description tells them in [`PeerOpen`].
        PeerIce = 14 {
            /// Whose.
            peer: PeerId,
            /// As in [`PeerOpen`].
            ufrag: [u8; UFRAG_LEN],
            /// As in [`PeerOpen`].
            pwd: [u8; PWD_LEN],
        }
        /// What a peer may send in those of its streams that take [`feedback::REMB`], together. Another one takes its place;
        /// it goes with the peer, and without one no REMB is sent.
        PeerLimit = 17 {
            /// Whose.
            peer: PeerId,
            /// Bit/s.
            bps_max: u32,
        }
        /// Everything staged since the last commit takes effect, whole, between two turns.
        Commit = 12 {
            /// Number of the batch; comes back in [`Committed`].
            batch: u64,
        }
    }
}

records! {
    /// Worker to controlplane.
    Event, EVENT_LAYOUT {
        /// A batch took effect.
        Committed = 1 {
            /// Number of the batch.
            batch: u64,
        }
        /// A command of a batch was refused; the rest of the batch stands.
        Refused = 2 {
            /// Number of the next commit when it was read.
            batch: u64,
            /// Tag of the command, 0 if unreadable.
            tag: u16,
            /// Index of the object that it names.
            index: u32,
            /// Why.
            refusal: Refusal,
        }
        /// The peer's path was selected or moved: the source of an authenticated check (RFC 8445 §7.3).
        PeerPath = 3 {
            /// Whose.
            peer: PeerId,
            /// Where its packets go now.
            remote: SocketAddr,
            /// Whether the check carried USE-CANDIDATE.
            nominated: u8,
        }
        /// No authenticated check for the consent time (RFC 7675 §5.1, 30 s): nothing is sent to it any more.
        PeerExpired = 4 {
            /// Whose.
            peer: PeerId,
        }
        /// End of the echoes that a [`Describe`] asked for.
        Described = 6 {
            /// How many records were echoed.
            count: u64,
        }
        /// The first authentic packet of a stream arrived.
        StreamStarted = 5 {
            /// Which.
            stream: StreamId,
            /// Its SSRC.
            ssrc: Ssrc,
        }
        /// No authentic packet of a stream for about two seconds, or none yet although its peer has keys for so long. Not of
        /// RTX, and not of mirrors: who receives the stream from its peer says it. A description repeats it.
        StreamSilent = 7 {
            /// Which.
            stream: StreamId,
        }
        /// An authentic packet of a stream that was silent.
        StreamResumed = 8 {
            /// Which.
            stream: StreamId,
        }
        /// Neither an authenticated check nor an authentic packet on the selected path for about eight seconds, which is
        /// longer than the longest interval of checks (RFC 7675 §5.1: 6 s). A description repeats it.
        PeerSilent = 9 {
            /// Whose.
            peer: PeerId,
        }
        /// An authenticated check or an authentic packet of a peer that was silent.
        PeerResumed = 10 {
            /// Whose.
            peer: PeerId,
        }
    }
}

/// Bit of a tag in the event ring: the record is not an event but the echo of an installed command.
const ECHO_BIT: u16 = 0x8000;

/// What a record of the event ring says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// Something happened.
    Event(Event),
    /// Something is installed: the command that opened it, with the key and salt of [`PeerKeys`] blanked.
    Echo(Command),
}

impl Report {
    /// The record as it lies in the event ring.
    pub fn write(&self) -> Record {
        match self {
            Report::Event(event) => event.write(),
            Report::Echo(command) => {
                let command = match *command {
                    Command::PeerKeys(keys) => {
                        Command::PeerKeys(PeerKeys { key: [0; KEY_LEN_MAX], salt: [0; SALT_LEN_MAX], ..keys })
                    }
                    other => other,
                };
                let mut record = command.write();
                (command.tag() | ECHO_BIT).write(&mut record[..2]);
                record
            }
        }
    }

    /// Reads a record that the worker wrote; `None` unless it is valid.
    pub fn read(record: &Record) -> Option<Self> {
        let tag = u16::read(&record[..2])?;
        if tag & ECHO_BIT == 0 {
            return Event::read(record).map(Report::Event);
        }
        let mut command = *record;
        (tag & !ECHO_BIT).write(&mut command[..2]);
        Command::read(&command).map(Report::Echo)
    }
}

/// Declares the counters of the stats page: an enum, its names, its count, and what each of them counts. The comment of a
/// counter is its HELP line in `/metrics`, so it is one plain sentence for operators.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident => $text:literal),* $(,)?) => {
        /// One counter of a worker's stats page. Received and relay_received together equal forwarded, consumed, punted and
        /// every dropped_* together: each packet has one fate. All only grow, but for those that [`Counter::is_gauge`] names.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(usize)]
        pub enum Counter { $($(#[doc = $doc])+ $name),* }

        impl Counter {
            /// All counters, in page order.
            pub const ALL: &'static [Counter] = &[$(Counter::$name),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();
            /// The name under which metrics show it. One that ends in `_micros` counts microseconds.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$name => $text),* }
            }
            /// What is counted, in one sentence.
            pub const fn help(self) -> &'static str {
                match self { $(Counter::$name => concat!($($doc),+).trim_ascii()),* }
            }
            /// Whether it says how many there are now, and so may fall.
            pub const fn is_gauge(self) -> bool {
                matches!(self, Counter::PeersOpen | Counter::RoutesOpen)
            }
        }

        const COUNTER_LAYOUT: &str = concat!("Counters{", $($text, ",",)* "}");
    };
}

counters! {
    /// Datagrams taken from the kernel.
    Received => "received",
    /// Bytes of the datagrams taken from the kernel.
    ReceivedBytes => "received_bytes",
    /// Packets taken from other workers of the same edge, for receivers of this one.
    RelayReceived => "relay_received",
    /// Packets that were accepted for forwarding, to any number of receivers, also to none.
    Forwarded => "forwarded",
    /// Datagrams that ended at this worker with effect: STUN checks, RTCP, and retransmissions that filled a gap.
    Consumed => "consumed",
    /// Datagrams handed to the controlplane, which are those of DTLS.
    Punted => "punted",
    /// Datagrams dropped because they are empty, or their first byte is of no protocol that is spoken here (RFC 7983).
    DroppedUnknownProtocol => "dropped_unknown_protocol",
    /// Datagrams dropped because no authenticated check came from their address.
    DroppedUnknownAddress => "dropped_unknown_address",
    /// Datagrams dropped because they are malformed STUN, or not a Binding request.
    DroppedStunMalformed => "dropped_stun_malformed",
    /// Checks dropped because their USERNAME names no peer of this worker.
    DroppedStunUnknownUfrag => "dropped_stun_unknown_ufrag",
    /// Checks dropped because their MESSAGE-INTEGRITY or FINGERPRINT is wrong.
    DroppedStunIntegrity => "dropped_stun_integrity",
    /// Authentic checks dropped because another peer has checked from the same address within 10 s.
    DroppedStunPathTaken => "dropped_stun_path_taken",
    /// Datagrams dropped because they are malformed DTLS records.
    DroppedDtlsMalformed => "dropped_dtls_malformed",
    /// DTLS datagrams dropped because the peer, or all peers together, sent more than their rate.
    DroppedPuntRate => "dropped_punt_rate",
    /// DTLS datagrams dropped because the ring to the controlplane was full.
    DroppedPuntFull => "dropped_punt_full",
    /// SRTP and SRTCP packets dropped because they came before the keys.
    DroppedNoKeys => "dropped_no_keys",
    /// Packets dropped because they are malformed RTP.
    DroppedRtpMalformed => "dropped_rtp_malformed",
    /// RTP packets dropped because they belong to no negotiated stream.
    DroppedUnknownStream => "dropped_unknown_stream",
    /// SRTP packets dropped because their authentication failed.
    DroppedSrtpAuth => "dropped_srtp_auth",
    /// SRTP packets dropped because they were seen before or are older than the replay window (RFC 3711 section 3.3.2).
    DroppedSrtpReplay => "dropped_srtp_replay",
    /// Authentic RTP packets dropped because their stream is carried from another SSRC now, such as a better encoding.
    DroppedOtherSsrc => "dropped_other_ssrc",
    /// SRTCP packets dropped because their authentication failed, they were seen before, or their content is malformed.
    DroppedSrtcp => "dropped_srtcp",
    /// Retransmissions dropped because the packet had arrived, is too old, or is only padding.
    DroppedRtxUseless => "dropped_rtx_useless",
    /// RTP packets dropped because their payload type was not negotiated.
    DroppedPayloadType => "dropped_payload_type",
    /// Datagrams dropped because they are larger than a packet buffer.
    DroppedTooLarge => "dropped_too_large",
    /// Packets from another worker dropped because their stream no longer exists here.
    DroppedRelayStale => "dropped_relay_stale",

    /// Packets tried under the next roll-over counter because the nearest one failed (RFC 3711 section 3.3.1).
    SrtpSecondTries => "srtp_second_tries",

    /// Packets handed to other workers, counted once for each worker.
    Relayed => "relayed",
    /// Packets not handed to another worker because its lane was full, which its receivers see as loss.
    RelayFull => "relay_full",

    /// RTP packets sent to receivers, counted once for each receiver.
    Sent => "sent",
    /// Bytes of the RTP packets sent to receivers.
    SentBytes => "sent_bytes",
    /// Send operations of the kernel, each for one packet or for several equal ones to one receiver (a train).
    SentTrains => "sent_trains",
    /// Packets of any kind that were sent as Ethernet frames through AF_XDP.
    SentFrames => "sent_frames",
    /// Packets of any kind that were sent through the sockets although frames are in use.
    FramesToSockets => "frames_to_sockets",
    /// Datagrams of any kind that the kernel refused to send, or for which no buffer was free.
    SendFailed => "send_failed",
    /// H.264 parameter sets sent ahead of a keyframe that came without them.
    ParameterSetsSent => "parameter_sets_sent",
    /// Copies not sent because the receiver waits for a keyframe.
    HeldForKeyframe => "held_for_keyframe",
    /// Copies not sent because the receiver has not negotiated the codec that the stream is in.
    HeldCodec => "held_codec",
    /// Copies not sent because they are older than the receiver's switch to this stream, or their number was used.
    HeldStale => "held_stale",
    /// Copies not sent because the receiver has no keys, no path or no consent yet.
    HeldNotReady => "held_not_ready",
    /// Retransmissions sent to receivers.
    RtxSent => "rtx_sent",
    /// Sequence numbers that receivers asked for by NACK.
    NackReceived => "nack_received",
    /// Sequence numbers asked for by NACK that are no longer in the history.
    NackMissed => "nack_missed",
    /// Sequence numbers asked for by NACK again within a round trip, or beyond the budget for repair.
    NackThrottled => "nack_throttled",
    /// Sequence numbers that publishers were asked for by NACK.
    NackSent => "nack_sent",
    /// Gaps of publishers' streams that were filled by a retransmission or a late packet.
    Recovered => "recovered",
    /// Gaps of publishers' streams that were given up.
    Lost => "lost",
    /// Keyframe requests (PLI and FIR) received from receivers.
    KeyframeRequestsReceived => "keyframe_requests_received",
    /// Keyframe requests sent to publishers, after merging.
    KeyframeRequestsSent => "keyframe_requests_sent",
    /// Keyframe requests handed to the worker of the publisher, after merging.
    KeyframeRequestsRelayed => "keyframe_requests_relayed",
    /// Transport-cc feedback packets sent to publishers.
    TransportCcSent => "transport_cc_sent",
    /// Transport-cc feedback packets received from receivers of media.
    TransportCcReceived => "transport_cc_received",
    /// REMB packets sent to publishers that have no transport-cc.
    RembSent => "remb_sent",
    /// RTCP compound packets sent.
    RtcpSent => "rtcp_sent",
    /// Datagrams sent for the controlplane.
    Injected => "injected",
    /// Datagrams of the controlplane not sent because the peer is unknown, or has not validated the address.
    InjectRefused => "inject_refused",
    /// STUN Binding success responses sent.
    BindingAnswered => "binding_answered",
    /// Events not told to the controlplane because the ring to it was full.
    EventsLost => "events_lost",
    /// Passes of the worker's loop.
    Turns => "turns",
    /// Times that the worker's loop went to sleep.
    Parks => "parks",
    /// Processor time of the worker, user and kernel, without the time spent looking for work in vain.
    BusyMicros => "busy_micros",
    /// Processor time that the worker spent looking for work in vain before it slept (setting spin-us).
    SpinMicros => "spin_micros",
    /// Peers open now.
    PeersOpen => "peers_open",
    /// Routes open now, each from one stream to one receiver.
    RoutesOpen => "routes_open",
}

/// FNV-1a over the declarations above; two builds that disagree on any record refuse each other.
pub const LAYOUT_HASH: u64 = {
    let hash = fnv1a(0xcbf2_9ce4_8422_2325, COMMAND_LAYOUT.as_bytes());
    let hash = fnv1a(hash, EVENT_LAYOUT.as_bytes());
    let hash = fnv1a(hash, DATAGRAM_LAYOUT.as_bytes());
    let hash = fnv1a(hash, COUNTER_LAYOUT.as_bytes());
    let hash = fnv1a(fnv1a(hash, tally::LAYOUTS[0].as_bytes()), tally::LAYOUTS[1].as_bytes());
    fnv1a(hash, crate::histogram::LAYOUT.as_bytes())
};

const fn fnv1a(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}
