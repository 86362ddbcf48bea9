//! What the controlplane tells a worker.

use std::net::SocketAddr;

use super::extension::ExtensionIds;
use super::field::Field;
use super::record::records;
use super::value::{Codec, Direction, Gate, SrtpProfile};
use super::{RECORD_LEN, Record};
use crate::id::{Mid, PeerId, Pt, RelayId, Rid, RouteId, SlotId, Ssrc, StreamId, TapId};

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

/// Encodings of a track that come by RID, each as a stream of its own: as many as libwebrtc sends (`kMaxSimulcastStreams`).
pub const TRACK_ENCODINGS_MAX: usize = 3;

/// Bytes of parameter sets in one [`StreamSets`]: then it is no longer than a [`StreamOpen`], and all commands take less
/// memory where they are remembered.
pub const STREAM_SETS_PART_LEN: usize = 36;

/// Parts of a stream's parameter sets: 180 bytes, where those of x264, openh264 and hardware encoders take 20 to 60.
pub const STREAM_SETS_PARTS_MAX: usize = 5;

/// Bytes of a peer's own ICE credentials in one [`PeerRemote`]: then it is no longer than [`PeerKeys`], and all commands take
/// no more memory where they are remembered.
pub const PEER_REMOTE_PART_LEN: usize = 44;

/// Parts of a peer's own ICE credentials: a length, a fragment of 256 bytes, and a key of 64.
pub const PEER_REMOTE_PARTS_MAX: usize = 8;
const _: () = assert!(PEER_REMOTE_PART_LEN * PEER_REMOTE_PARTS_MAX >= 1 + 256 + 64);

/// Remote candidates of one peer ([`PeerCandidate`]): the direct path to another edge, and two that stand by, and one to spare.
pub const PEER_CANDIDATES_MAX: usize = 4;

/// Bits of [`StreamOpen::feedback`]: what was negotiated by `a=rtcp-fb`.
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

/// How important a video is to its receiver ([`SlotShown::weight`]): the heavier is served first.
pub mod weight {
    /// Somebody's camera.
    pub const OTHER: u8 = 0;
    /// The camera of somebody who speaks. It is raised first; that others are seen comes before that.
    pub const SPEAKER: u8 = 1;
    /// What the receiver has chosen to look at. It is served whole before anything lighter is served at all.
    pub const PINNED: u8 = 2;
    /// A shared screen, in the same way before what is pinned.
    pub const SCREEN: u8 = 3;
}

/// [`SlotShown::lines`] of a video that is shown as large as it comes.
pub const SHOWN_LINES_ANY: u16 = u16::MAX;

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
            /// Id by [`Extension`](super::Extension), 0 where not negotiated.
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
            /// Payload type of RED (RFC 2198) with blocks of the codec, or 0 when not negotiated; only of audio.
            red_pt: Pt,
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
        /// The stream is one of several encodings of a track (RFC 8853). They come in one m-section, each under an SSRC of its own
        /// that nobody signals: the RID in the packets tells them apart (RFC 8852). One a stream, and it goes with the stream. A
        /// mirror of such a stream has one, too.
        StreamEncoding = 26 {
            /// Which stream.
            stream: StreamId,
            /// The track: the stream of its first encoding, where the publisher is. A slot may have a route from each encoding of
            /// one track.
            track: StreamId,
            /// Its place in `a=simulcast`, which says how good it is as long as nobody knows better, the worst first.
            place: u8,
            /// Its RID.
            rid: Rid,
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
        /// How the receiver shows the video in a slot. Another one takes its place; it goes with the slot, and without one the video
        /// is shown as large as it comes, and as important as any other.
        SlotShown = 30 {
            /// Which slot.
            slot: SlotId,
            /// Shorter side of the picture as it is shown, device pixels: the smallest encoding that has as many is enough. 0: it is not
            /// shown, and nothing is sent. [`SHOWN_LINES_ANY`]: as large as it comes.
            lines: u16,
            /// One of [`weight`].
            weight: u8,
        }
        /// The slot is gone; closes its routes too.
        SlotClose = 8 {
            /// Which.
            slot: SlotId,
        }
        /// Carry a stream into a slot. A slot carries one stream, or one encoding at a time of the track from whose encodings
        /// it has routes ([`StreamEncoding`]).
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
            /// Payload type of RTX for it, or 0: then losses of the receiver are not repaired. `pt` itself, of audio only: they are
            /// repaired by the same packets again.
            rtx_pt: Pt,
            /// Payload type of RED (RFC 2198) with blocks of `pt`, or 0; only of audio that is repaired so.
            red_pt: Pt,
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
        /// Pass on datagrams of other edges in one direction, as they are, in another flow ([`crate::flow`]): they are neither opened nor
        /// stored. Nothing is passed on before a [`RelayRate`] was told. Refused as occupied if the worker receives that flow already, as
        /// unknown if it has no address of the family of `to`.
        RelayOpen = 33 {
            /// Its place in the worker's table.
            relay: RelayId,
            /// The flow in which they come.
            flow: u64,
            /// The address from which they come, and from no other.
            from: SocketAddr,
            /// Where they go, by the first of the worker's sockets that has an address of its family and scope.
            to: SocketAddr,
            /// The flow in which they go.
            to_flow: u64,
        }
        /// How much a relay passes on. Another one takes its place; it goes with the relay.
        RelayRate = 34 {
            /// Which.
            relay: RelayId,
            /// Bit/s, without the headers of IP and UDP. A burst may be two seconds of it.
            bps_max: u32,
        }
        /// Pass on no more.
        RelayClose = 35 {
            /// Which.
            relay: RelayId,
        }
        /// Close everything: what a controlplane says that adopts nothing.
        Reset = 11 {}
        /// Say what is installed: the worker echoes each open record ([`Report::Echo`](super::Report::Echo)) and ends with [`Described`](super::Described).
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
        /// The ICE credentials that the peer itself gave (`a=ice-ufrag`, `a=ice-pwd`), in parts: with them the worker asks the
        /// peer's addresses whether they want what is sent there (RFC 7675). Nothing is sent to a peer before an address of it
        /// has answered. Another part takes the place of the one of its number; all go with the peer.
        PeerRemote = 23 {
            /// Whose.
            peer: PeerId,
            /// Which part, below [`PEER_REMOTE_PARTS_MAX`].
            part: u8,
            /// How many there are.
            count: u8,
            /// Bytes of it.
            len: u8,
            /// The bytes, zero padded.
            bytes: [u8; PEER_REMOTE_PART_LEN],
        }
        /// A remote candidate of the peer (RFC 8445 §5.1) that the controlplane knows. The worker asks it by checks of its own, at once
        /// and until an address of the peer has answered, and again when none does any more. So a peer that has one never expires
        /// ([`PeerExpired`](super::PeerExpired)). Both sides do so, as full agents of which neither nominates: each chooses where its
        /// own packets go. Another one takes the place of the one of its number; all go with the peer. Refused as unknown if the worker
        /// has no address of its family.
        PeerCandidate = 31 {
            /// Whose.
            peer: PeerId,
            /// Its number, below [`PEER_CANDIDATES_MAX`].
            place: u8,
            /// Its address. With port 0 there is none of this number any more.
            remote: SocketAddr,
            /// The flow in which another edge, whose address it is, passes on what is sent there ([`RelayOpen`]); 0: it is the other
            /// edge's own.
            send_flow: u64,
            /// The flow in which it passes on what comes back; 0 as above. Refused as occupied if the worker receives it already.
            receive_flow: u64,
        }
        /// The peer is a transport over a link: another peer of this worker, which has candidates and DTLS ([`PeerCandidate`]). Its packets
        /// go where those of the link do, each in a flow ([`crate::flow`]), and come in another one from addresses that are the link's.
        /// It has keys, streams and slots as any peer, and no checks, no consent and no DTLS of its own: its ICE credentials name nobody,
        /// and no [`PeerPath`](super::PeerPath) or [`PeerExpired`](super::PeerExpired) is told of it. Another one takes its place; it goes with
        /// the peer. Refused as unknown if there is no such link, and as occupied if the worker receives that flow already.
        PeerEdge = 32 {
            /// Whose.
            peer: PeerId,
            /// The link.
            edge: PeerId,
            /// The flow in which its packets are sent.
            send_flow: u64,
            /// The flow in which its packets come.
            receive_flow: u64,
        }
        /// What a peer may send in those of its streams that take [`feedback::REMB`], together. Another one takes its place;
        /// it goes with the peer, and without one no REMB is sent.
        PeerLimit = 17 {
            /// Whose.
            peer: PeerId,
            /// Bit/s.
            bps_max: u32,
        }
        /// What the worker lets pass of all that a peer sends in its streams. Packets beyond it are dropped, with their name. Another
        /// one takes its place; it goes with the peer, and without one everything passes.
        PeerRate = 24 {
            /// Whose.
            peer: PeerId,
            /// Bit/s, headers and RTX included. A burst may be two seconds of it.
            bps_max: u32,
            /// Packets a second.
            packets_max: u32,
        }
        /// The same of one stream, with all of its SSRCs. Not of mirrors.
        StreamRate = 25 {
            /// Which stream.
            stream: StreamId,
            /// As in [`PeerRate`].
            bps_max: u32,
            /// As in [`PeerRate`].
            packets_max: u32,
        }
        /// When packets of a stream of audio are passed on. Another one takes its place; it goes with the stream, and without one all
        /// are. Not of mirrors: what is not passed on is not handed on either.
        StreamGate = 27 {
            /// Which stream.
            stream: StreamId,
            /// When.
            gate: Gate,
        }
        /// Everything staged since the last commit takes effect, whole, between two turns.
        Commit = 12 {
            /// Number of the batch; comes back in [`Committed`](super::Committed).
            batch: u64,
        }
    }
}
