//! A peer as its worker sees it: credentials, the addresses it has proved, its SRTP keys, and its consent.

use proto::id::{PeerId, Ssrc};
use proto::plane::{Direction, ExtensionIds, PeerExtensions, PeerIce, PeerKeys, PeerOpen, Refusal, UFRAG_LEN};
use proto::stun::IntegrityKey;

use crate::config::{
    CONSENT_TIMEOUT, HEARD_INTERVAL, Micros, PEER_PATHS_MAX, PEER_PUNT_BURST, PEER_PUNT_RATE, PEER_SLOT_SSRCS_MAX,
    PEER_SLOTS_MAX, PEER_SSRCS_MAX, PEER_STREAMS_MAX, RTCP_SENDERS_MAX, RTT_DEFAULT,
};
use crate::outbox::{Destination, Path};
use crate::packet::SecondTries;
use crate::punt::Bucket;
use crate::remb::Estimate;
use crate::silence::Silence;
use crate::srtp::{Crypto, Narrow, RtcpWindows, Window};
use crate::twcc::ArrivalLog;

/// Which of a publisher's streams an SSRC belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SsrcOwner {
    pub(crate) ssrc: Ssrc,
    pub(crate) stream: u32,
    pub(crate) is_rtx: bool,
}

/// An SSRC of a peer from which no stream is carried.
#[derive(Clone, Copy)]
pub(crate) struct OtherSsrc {
    ssrc: Ssrc,
    /// Whose it would be: index of the stream, and below that whether it is for RTX.
    role: u32,
    pub(crate) window: Narrow,
}
const _: () = assert!(size_of::<OtherSsrc>() == 32, "there is memory for a hundred of them in each peer");

impl OtherSsrc {
    const OF_NOBODY: u32 = u32::MAX;

    /// Whose it would be.
    pub(crate) fn owner(&self) -> Option<SsrcOwner> {
        let OtherSsrc { ssrc, role, .. } = *self;
        (role != Self::OF_NOBODY).then_some(SsrcOwner { ssrc, stream: role >> 1, is_rtx: role & 1 != 0 })
    }
}

/// A peer's transport.
pub(crate) struct Transport {
    pub(crate) id: PeerId,
    pub(crate) open: PeerOpen,
    pub(crate) integrity: IntegrityKey,
    pub(crate) extension_ids: ExtensionIds,
    pub(crate) extensions_open: Option<PeerExtensions>,

    /// Addresses that authenticated checks came from, and when last.
    paths: Vec<(Path, Micros)>,
    /// Where its packets go.
    pub(crate) path: Option<Path>,
    pub(crate) is_nominated: bool,
    /// The last authenticated check, or authentic packet on the selected path; the consent clock (RFC 7675 §5.1) starts
    /// with the first check.
    last_heard: Option<Micros>,
    pub(crate) silence: Silence,
    pub(crate) is_consent_timer_set: bool,
    pub(crate) is_expired: bool,

    pub(crate) rx: Option<Crypto>,
    pub(crate) tx: Option<Crypto>,
    pub(crate) keys_open: [Option<PeerKeys>; 2],
    /// SRTCP indices count for each sender SSRC (RFC 3711 §3.2.1); made with the keys.
    pub(crate) rtcp_rx_windows: Option<RtcpWindows>,
    rtcp_tx_index: u32,

    /// What it publishes and receives, by index in the worker's tables.
    pub(crate) streams: Vec<u32>,
    pub(crate) slots: Vec<(Ssrc, u32)>,
    pub(crate) by_ssrc: Vec<SsrcOwner>,
    /// SSRCs from which no stream is carried. Their packets, and those of before, are authentic, so the window and the ROC
    /// of each go on whatever becomes of it (RFC 3711 §3.2.1).
    others: Vec<OtherSsrc>,
    /// When a packet may be tried under a second roll-over counter.
    pub(crate) second_tries: SecondTries,
    /// SSRCs that we have sent from, or may have: the slots' and their RTX. A second slot would begin the index again under
    /// the same key, so none is ever opened twice.
    slot_ssrcs: Vec<Ssrc>,

    /// Arrivals of its transport-wide sequence numbers, once a stream is open whose sender takes feedback on them.
    pub(crate) arrivals: Option<Box<ArrivalLog>>,
    pub(crate) is_transport_cc_timer_set: bool,
    /// SSRC that feedback is about; any of its streams will do.
    pub(crate) transport_cc_ssrc: Ssrc,
    /// Next transport-wide sequence number towards it.
    transport_cc_seq: u16,

    /// What it may send, if it is to be told by REMB.
    pub(crate) estimate: Option<Box<Estimate>>,

    pub(crate) is_report_timer_set: bool,
    /// Smoothed round trip to it.
    pub(crate) rtt: Micros,
    /// Added to its NTP timestamps to put them on the worker's clock; set by its first sender report and kept, so
    /// that its audio and video stay together.
    pub(crate) ntp_offset: Option<u64>,
    pub(crate) punts: Bucket,
}

/// What an authenticated check changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Checked {
    /// The address is newly validated: bind it.
    pub(crate) is_new: bool,
    /// An older address made room: unbind it.
    pub(crate) evicted: Option<Path>,
    /// The peer's packets go elsewhere now, or its path became nominated.
    pub(crate) is_moved: bool,
}

impl Transport {
    pub(crate) fn new(open: PeerOpen, now: Micros) -> Self {
        Transport {
            id: open.peer,
            integrity: IntegrityKey::new(&open.pwd),
            open,
            extension_ids: ExtensionIds::default(),
            extensions_open: None,
            paths: Vec::with_capacity(PEER_PATHS_MAX),
            path: None,
            is_nominated: false,
            last_heard: None,
            silence: Silence::default(),
            is_consent_timer_set: false,
            is_expired: false,
            rx: None,
            tx: None,
            keys_open: [None; 2],
            rtcp_rx_windows: None,
            rtcp_tx_index: 0,
            streams: Vec::with_capacity(4),
            slots: Vec::with_capacity(PEER_SLOTS_MAX / 4),
            by_ssrc: Vec::with_capacity(2 * PEER_STREAMS_MAX),
            others: Vec::new(),
            second_tries: SecondTries::new(now),
            slot_ssrcs: Vec::new(),
            arrivals: None,
            is_transport_cc_timer_set: false,
            transport_cc_ssrc: 0,
            transport_cc_seq: 1,
            estimate: None,
            is_report_timer_set: false,
            rtt: RTT_DEFAULT,
            ntp_offset: None,
            punts: Bucket::new(PEER_PUNT_BURST, PEER_PUNT_RATE, now),
        }
    }

    /// Takes other ICE credentials; the username fragment before.
    pub(crate) fn restart_ice(&mut self, ice: &PeerIce) -> [u8; UFRAG_LEN] {
        let before = self.open.ufrag;
        self.open = PeerOpen { peer: self.open.peer, ufrag: ice.ufrag, pwd: ice.pwd };
        self.integrity = IntegrityKey::new(&ice.pwd);
        before
    }

    /// Installs the keys of one direction, once. A peer's keys live as long as the peer: an index space that began
    /// again under the same key would use a keystream twice, so other keys mean another peer.
    pub(crate) fn set_keys(&mut self, keys: &PeerKeys) -> Result<(), Refusal> {
        if self.keys_open[(keys.direction == Direction::Tx) as usize].is_some() {
            return Err(Refusal::Occupied);
        }
        let crypto = Crypto::new(keys.profile, &keys.key, &keys.salt);
        let blank = PeerKeys { key: [0; 32], salt: [0; 14], ..*keys };
        match keys.direction {
            Direction::Rx => {
                self.rx = Some(crypto);
                self.rtcp_rx_windows = Some(RtcpWindows::new(RTCP_SENDERS_MAX));
                self.keys_open[0] = Some(blank);
            }
            Direction::Tx => {
                self.tx = Some(crypto);
                self.keys_open[1] = Some(blank);
            }
        }
        Ok(())
    }

    /// A check from `path` passed MESSAGE-INTEGRITY. The first one selects its path, later ones only with
    /// USE-CANDIDATE: the controlling side decides, and it may decide anew at any time (Wi-Fi to mobile).
    pub(crate) fn checked(&mut self, path: Path, use_candidate: bool, now: Micros) -> Checked {
        let mut result = Checked::default();
        self.last_heard = Some(now);
        match self.paths.iter_mut().find(|(p, _)| *p == path) {
            Some((_, at)) => *at = now,
            None => {
                if self.paths.len() == PEER_PATHS_MAX {
                    let selected = self.path;
                    let oldest = (0..self.paths.len())
                        .filter(|&i| Some(self.paths[i].0) != selected)
                        .min_by_key(|&i| self.paths[i].1)
                        .expect("more than one path is kept, and one is selected");
                    result.evicted = Some(self.paths.swap_remove(oldest).0);
                }
                self.paths.push((path, now));
                result.is_new = true;
            }
        }
        let is_selected = self.path.is_none() || use_candidate;
        if is_selected && (self.path != Some(path) || (use_candidate && !self.is_nominated)) {
            self.path = Some(path);
            self.is_nominated |= use_candidate;
            result.is_moved = true;
        }
        result
    }

    /// The validated path with this remote address, on whichever socket.
    pub(crate) fn path_to(&self, remote: std::net::SocketAddr) -> Option<Path> {
        self.paths.iter().map(|(p, _)| *p).find(|p| p.remote == remote)
    }

    /// An authentic packet came by this path. If it is the selected one, the peer is still there and consents: agents
    /// before RFC 7675 check no more once they have nominated, and keep the path by indications (RFC 8445 §11), which
    /// prove nothing. Media selects no path and takes no lost consent back. True if this renewed it.
    #[inline]
    pub(crate) fn heard(&mut self, path: Path, now: Micros) -> bool {
        let is_due = self.last_heard.is_some_and(|at| now >= at + HEARD_INTERVAL);
        if !is_due || self.path != Some(path) || self.is_expired {
            return false;
        }
        self.last_heard = Some(now);
        if let Some((_, at)) = self.paths.iter_mut().find(|(p, _)| *p == path) {
            *at = now;
        }
        true
    }

    /// The last check, or authentic packet on the selected path, to within [`HEARD_INTERVAL`].
    pub(crate) fn last_heard(&self) -> Option<Micros> {
        self.last_heard
    }

    /// When this path was last checked from or, if it is the selected one, heard from.
    pub(crate) fn checked_at(&self, path: Path) -> Option<Micros> {
        self.paths.iter().find(|(p, _)| *p == path).map(|(_, at)| *at)
    }

    /// All validated paths.
    pub(crate) fn paths(&self) -> impl Iterator<Item = Path> + '_ {
        self.paths.iter().map(|(p, _)| *p)
    }

    /// When consent ends if nothing more is heard.
    pub(crate) fn consent_ends(&self) -> Option<Micros> {
        self.last_heard.map(|at| at + CONSENT_TIMEOUT)
    }

    /// Where to send and with which keys, if it may be sent to.
    #[inline]
    pub(crate) fn outgoing(&self) -> Option<(Destination, &Crypto)> {
        if self.is_expired {
            return None;
        }
        Some((Destination { peer: self.id.index, path: self.path? }, self.tx.as_ref()?))
    }

    /// The next SRTCP index towards the peer, one count for all of our SSRCs. It is 31 bits long and does not wrap
    /// (RFC 3711 §9.2): at its end, decades of reports away, nothing more is protected.
    pub(crate) fn next_rtcp_index(&mut self) -> u32 {
        self.rtcp_tx_index = self.rtcp_tx_index.saturating_add(1);
        self.rtcp_tx_index
    }

    /// The next transport-wide sequence number towards the peer.
    #[inline]
    pub(crate) fn next_transport_cc_seq(&mut self) -> u16 {
        let seq = self.transport_cc_seq;
        self.transport_cc_seq = seq.wrapping_add(1);
        seq
    }

    /// The stream that owns an SSRC. At most 2 × [`PEER_STREAMS_MAX`] are bound, so the search is bounded.
    #[inline]
    pub(crate) fn owner(&self, ssrc: Ssrc) -> Option<SsrcOwner> {
        self.by_ssrc.iter().find(|o| o.ssrc == ssrc).copied()
    }

    /// What is known of an SSRC from which no stream is carried.
    pub(crate) fn other(&self, ssrc: Ssrc) -> Option<OtherSsrc> {
        self.others.iter().find(|other| other.ssrc == ssrc).copied()
    }

    /// Whether one more SSRC may be remembered, without taking memory.
    pub(crate) fn may_remember(&self) -> bool {
        self.has_room_for(1) && self.others.len() < self.others.capacity()
    }

    /// Whether so many SSRCs more are within a peer's life.
    pub(crate) fn has_room_for(&self, count: usize) -> bool {
        self.ssrc_count() + count <= PEER_SSRCS_MAX
    }

    /// Whether signalling may give these SSRCs (of a stream and its RTX, 0 where not signalled) to a new stream.
    pub(crate) fn may_open(&self, ssrc: Ssrc, rtx_ssrc: Ssrc) -> Result<(), Refusal> {
        let is_taken = |ssrc| ssrc != 0 && self.owner(ssrc).is_some();
        if is_taken(ssrc) || is_taken(rtx_ssrc) || (ssrc != 0 && ssrc == rtx_ssrc) {
            return Err(Refusal::Occupied);
        }
        if self.streams.len() >= PEER_STREAMS_MAX || !self.has_room_for(2) { Err(Refusal::TableFull) } else { Ok(()) }
    }

    /// How many SSRCs are bound or remembered.
    pub(crate) fn ssrc_count(&self) -> usize {
        self.by_ssrc.len() + self.others.len()
    }

    /// Takes memory for all SSRCs that the peer may send from; its first stream is opened.
    pub(crate) fn reserve_ssrcs(&mut self) {
        self.others.reserve_exact(PEER_SSRCS_MAX - self.others.len());
    }

    /// Binds an SSRC that nobody has to a stream; returns the one that the stream had in that role.
    pub(crate) fn bind_ssrc(&mut self, owner: SsrcOwner) -> Option<Ssrc> {
        let is_role = |o: &SsrcOwner| (o.stream, o.is_rtx) == (owner.stream, owner.is_rtx);
        match self.by_ssrc.iter_mut().find(|o| is_role(o)) {
            Some(place) => Some(std::mem::replace(place, owner).ssrc),
            None => {
                self.by_ssrc.push(owner);
                None
            }
        }
    }

    /// Remembers an SSRC from which no stream is carried; whose it would be, if anybody's.
    pub(crate) fn remember_other(&mut self, ssrc: Ssrc, owner: Option<SsrcOwner>, window: Narrow) {
        let role = owner.map_or(OtherSsrc::OF_NOBODY, |owner| owner.stream << 1 | u32::from(owner.is_rtx));
        let other = OtherSsrc { ssrc, role, window };
        match self.others.iter_mut().find(|other| other.ssrc == ssrc) {
            Some(place) => *place = other,
            None => {
                debug_assert!(self.others.len() < PEER_SSRCS_MAX, "what is remembered was counted before");
                self.others.push(other);
            }
        }
    }

    /// What is remembered of an SSRC from which a stream is carried again.
    pub(crate) fn recall(&mut self, ssrc: Ssrc) -> Option<Window> {
        let at = self.others.iter().position(|other| other.ssrc == ssrc)?;
        Some(self.others.swap_remove(at).window.into())
    }

    /// A stream is closed: its other SSRCs are nobody's, and those that never sent are forgotten.
    pub(crate) fn disown_others(&mut self, stream: u32) {
        let is_its = |other: &OtherSsrc| other.owner().is_some_and(|owner| owner.stream == stream);
        self.others.retain(|other| !is_its(other) || other.window.highest().is_some());
        for other in self.others.iter_mut().filter(|other| is_its(other)) {
            other.role = OtherSsrc::OF_NOBODY;
        }
    }

    /// Notes the SSRCs of a new slot and its RTX (0 for none), unless one of them was ever used.
    pub(crate) fn use_slot_ssrcs(&mut self, ssrc: Ssrc, rtx_ssrc: Ssrc) -> Result<(), Refusal> {
        if ssrc == 0 {
            return Err(Refusal::Malformed);
        }
        if ssrc == rtx_ssrc || self.slot_ssrcs.iter().any(|s| [ssrc, rtx_ssrc].contains(s)) {
            return Err(Refusal::Occupied);
        }
        if self.slots.len() >= PEER_SLOTS_MAX || self.slot_ssrcs.len() + 2 > PEER_SLOT_SSRCS_MAX {
            return Err(Refusal::TableFull);
        }
        self.slot_ssrcs.extend([ssrc, rtx_ssrc].into_iter().filter(|s| *s != 0));
        Ok(())
    }

    /// Takes a measured round trip into the smoothed one (RFC 6298 §2: one eighth).
    pub(crate) fn measured_rtt(&mut self, rtt: Micros) {
        self.rtt = (7 * self.rtt + rtt.min(10_000_000)) / 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::plane::PWD_LEN;

    fn path(port: u16) -> Path {
        Path { socket: 0, remote: std::net::SocketAddr::from(([10, 0, 0, 1], port)) }
    }

    fn transport() -> Transport {
        Transport::new(PeerOpen { peer: PeerId::new(3, 1), ufrag: [b'u'; UFRAG_LEN], pwd: [b'p'; PWD_LEN] }, 0)
    }

    #[test]
    fn the_first_check_selects_and_later_ones_only_by_nomination() {
        let mut t = transport();
        assert_eq!(t.checked(path(1), false, 0), Checked { is_new: true, evicted: None, is_moved: true });
        assert!(!t.is_nominated);
        assert!(!t.checked(path(2), false, 1).is_moved);
        assert_eq!(t.path, Some(path(1)));
        assert!(t.checked(path(2), true, 2).is_moved);
        assert!(!t.checked(path(2), true, 3).is_moved, "consent is not a move");
        assert_eq!(t.path, Some(path(2)));
        assert!(t.checked(path(1), true, 4).is_moved, "and back");
    }

    #[test]
    fn addresses_are_bounded_and_the_selected_one_stays() {
        let mut t = transport();
        t.checked(path(0), true, 0);
        for port in 1..100u16 {
            let checked = t.checked(path(port), false, Micros::from(port));
            assert_eq!(checked.evicted.is_some(), usize::from(port) >= PEER_PATHS_MAX, "{port}");
            assert_ne!(checked.evicted, Some(path(0)));
        }
        let kept = |port| t.path_to(path(port).remote).is_some();
        assert!(kept(0) && kept(99) && !kept(1));
    }
}
