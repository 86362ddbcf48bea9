//! What a peer did and saw. Tests judge by this alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::signal::{ErrorCode, Kind, LeaveReason, PausedEncodings, PeerInfo, PeerState, SlotInfo};

use crate::dtls_srtp::Profile;
use crate::media::Proof;
use crate::send::WallClock;

/// Everything about one peer since it joined.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// This peer's id in the room, by `welcome`.
    pub peer: String,
    /// Secret for `resume`.
    pub session: String,
    /// Whether the signalling socket is open.
    pub is_signalled: bool,
    /// How often the server took this peer back by `resume`.
    pub resumed: u32,
    /// Offers sent. One, ever.
    pub offers: u32,
    /// Answers received.
    pub answers: u32,
    /// What the server says of our transport.
    pub state: Option<PeerState>,
    /// Agreed by DTLS; None until it completed.
    pub profile: Option<Profile>,
    /// DTLS handshakes completed.
    pub handshakes: u32,
    /// Why DTLS, SDP or the socket failed, in words.
    pub failures: Vec<String>,
    /// The other end closed DTLS.
    pub is_dtls_closed: bool,
    /// The others in the room, by their id.
    pub others: BTreeMap<String, PeerInfo>,
    /// Others that left, and why.
    pub left: Vec<(String, LeaveReason)>,
    /// Tracks switched on or off by others, in the order of the signals: track id, active.
    pub switched: Vec<(String, bool)>,
    /// What each slot carries, by the last `slots`.
    pub slots: Vec<SlotInfo>,
    /// Encodings that it should not send, by the last `encodings`.
    pub paused: Vec<PausedEncodings>,
    /// The last `limits`: all, video, audio; bit/s.
    pub limits: Option<(u32, u32, u32)>,
    /// Errors that the server named.
    pub errors: Vec<(ErrorCode, String)>,
    /// The server's `bye`: why, and whether to come again.
    pub bye: Option<(LeaveReason, bool)>,
    /// Checks and consent.
    pub ice: IceReport,
    /// What was sent, and what was said of it.
    pub sent: SentReport,
    /// Received media by who sent it, proved by its marks.
    pub tracks: BTreeMap<(u32, Kind), TrackReport>,
    /// Received streams by the MID of their slot.
    pub streams: BTreeMap<String, StreamReport>,
    /// Transport-wide sequence numbers that did not arrive.
    pub transport_missing: u64,
    /// What was received and belongs nowhere.
    pub odd: OddReport,
}

/// Connectivity checks.
#[derive(Clone, Copy, Default, Debug)]
pub struct IceReport {
    /// Checks sent.
    pub checks: u64,
    /// Checks answered.
    pub answers: u64,
    /// The server's address that checks selected.
    pub selected: Option<SocketAddr>,
    /// Our address as the server sees it, confirmed since the last move.
    pub mapped: Option<SocketAddr>,
    /// Consent was lost.
    pub is_expired: bool,
}

/// Our own streams.
#[derive(Clone, Copy, Default, Debug)]
pub struct SentReport {
    /// RTP packets given to the network or dropped by our own loss, without retransmissions.
    pub packets: u64,
    /// Retransmissions.
    pub repairs: u64,
    /// Datagrams that our own loss took.
    pub dropped: u64,
    /// Opus packets.
    pub audio: u64,
    /// H.264 frames.
    pub frames: u64,
    /// Of these, keyframes.
    pub keyframes: u64,
    /// Keyframe requests of the server: PLI and FIR.
    pub keyframe_requests: u64,
    /// Sequence numbers that NACKs of the server asked for.
    pub nacked: u64,
    /// Of these, no longer in our history.
    pub nacked_in_vain: u64,
    /// Report blocks of the server about our streams.
    pub reported: u64,
    /// The highest `cumulative number of packets lost` in them.
    pub reported_lost: u32,
    /// Packets that transport-cc feedback said to have arrived.
    pub arrivals: u64,
    /// Packets that transport-cc feedback said to have been lost.
    pub arrivals_lost: u64,
}

/// One publisher's audio or video, as its marks prove it.
#[derive(Clone, Default, Debug)]
pub struct TrackReport {
    /// Slot in which it came last.
    pub mid: String,
    /// Opus packets or frames that were equal to what was sent, byte by byte.
    pub intact: u64,
    /// Of these, keyframes.
    pub keyframes: u64,
    /// Number of the first and of the last.
    pub numbers: Option<(u32, u32)>,
    /// Numbers missing between the first and the last.
    pub skipped: u64,
    /// Numbers that came after a higher one.
    pub reordered: u64,
    /// Longest time between two of them.
    pub gap_max: Duration,
    /// From capture to here, together for all of them: with one clock on both ends, what the way took.
    pub latency_total: Duration,
    /// The longest.
    pub latency_max: Duration,
    /// When the last was captured by its slot's sender reports, minus when it was by its mark, microseconds.
    pub clock_offset: Option<i64>,
    last_at: Option<Instant>,
}

impl TrackReport {
    /// Counts one that is intact.
    pub(crate) fn prove(&mut self, now: Instant, wall: &WallClock, mid: &str, proof: &Proof) {
        let mark = proof.mark;
        if self.mid != mid {
            mid.clone_into(&mut self.mid);
        }
        self.intact += 1;
        self.keyframes += u64::from(proof.is_key);
        let (first, last) = *self.numbers.get_or_insert((mark.number, mark.number));
        if mark.number > last {
            self.skipped += u64::from(mark.number - last - 1);
            self.numbers = Some((first, mark.number));
        } else if self.intact > 1 {
            self.reordered += 1;
        }
        let latency = Duration::from_micros(wall.micros(now).saturating_sub(mark.captured));
        self.latency_total += latency;
        self.latency_max = self.latency_max.max(latency);
        self.clock_offset = proof.clock_offset;
        if let Some(before) = self.last_at.replace(now) {
            self.gap_max = self.gap_max.max(now.duration_since(before));
        }
    }
}

/// One slot's stream.
#[derive(Clone, Default, Debug)]
pub struct StreamReport {
    /// RTP packets, without retransmissions.
    pub packets: u64,
    /// Retransmissions.
    pub repairs: u64,
    /// Packets that were missing and came by retransmission.
    pub repaired: u64,
    /// Packets that were here already.
    pub duplicates: u64,
    /// Sequence numbers asked for by NACK, counted each time.
    pub nacked: u64,
    /// Packets that never came.
    pub lost: u64,
    /// Keyframes asked for by PLI.
    pub keyframe_requests: u64,
    /// Packets or frames that are not what their mark says.
    pub corrupt: u64,
    /// Packets whose MID extension names another section.
    pub wrong_mid: u64,
    /// Packets with another payload type than the answer says.
    pub wrong_pt: u64,
    /// Packets or frames whose RTP timestamp did not go on as their capture did.
    pub mistimed: u64,
    /// Sender reports.
    pub sender_reports: u64,
    /// Publishers that were seen in it, in turn.
    pub publishers: Vec<u32>,
}

/// What was received and belongs nowhere. All zero on a healthy server.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OddReport {
    /// SRTP or SRTCP that does not authenticate.
    pub unauthentic: u64,
    /// RTP of an SSRC that the answer does not name.
    pub unknown_ssrc: u64,
    /// Neither STUN, DTLS, RTP nor RTCP.
    pub unknown: u64,
    /// RTP or RTCP that does not parse after it was unprotected.
    pub malformed: u64,
    /// RTP or RTCP before there were keys.
    pub early: u64,
}

impl Report {
    /// The one that sends as `publisher` in this room, as this peer received it.
    pub fn track(&self, publisher: u32, kind: Kind) -> TrackReport {
        self.tracks.get(&(publisher, kind)).cloned().unwrap_or_default()
    }

    /// Packets or frames that were not what was sent, in any regard.
    pub fn corrupt(&self) -> u64 {
        let wrong = |stream: &StreamReport| stream.corrupt + stream.wrong_mid + stream.wrong_pt + stream.mistimed;
        self.streams.values().map(wrong).sum()
    }

    /// Who is in the slot with this MID, by the last `slots`.
    pub fn occupant(&self, mid: &str) -> Option<&str> {
        self.slots.iter().find(|slot| slot.mid == mid)?.peer.as_deref()
    }
}
