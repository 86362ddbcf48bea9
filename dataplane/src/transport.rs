//! A peer as its worker sees it: credentials, addresses, SRTP keys, and SSRCs.

use proto::id::{PeerId, Ssrc};
use proto::plane::{
    Direction, Extension, ExtensionIds, PEER_REMOTE_PARTS_MAX, PeerCandidate, PeerEdge, PeerExtensions, PeerIce,
    PeerKeys, PeerOpen, PeerRate, PeerRemote, Refusal, UFRAG_LEN,
};
use proto::stun::IntegrityKey;

use crate::asks::Asks;
use crate::bucket::Bucket;
use crate::bwe::Estimate;
use crate::config::{
    FRAME_LEN, Micros, PEER_DATA_PUNT_BURST, PEER_DATA_PUNT_RATE, PEER_PUNT_BURST, PEER_PUNT_RATE, PEER_SLOT_SSRCS_MAX,
    PEER_SLOTS_MAX, PEER_SSRCS_MAX, PEER_STREAMS_MAX, RTCP_SENDERS_MAX, RTT_DEFAULT,
};
use crate::headroom::Headroom;
use crate::losing::Losing;
use crate::overlay::{Crossed, Probing};
use crate::packet::SecondTries;
use crate::path::Destination;
use crate::path::Path;
use crate::paths::Paths;
use crate::police::Police;
use crate::sending::{Kind, Sending};
use crate::silence::Silence;
use crate::srtp::{Crypto, Narrow, RtcpSender, RtcpWindows, Window};
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

    /// Its own credentials, as the controlplane told them, and what our checks are made with.
    pub(crate) remote_parts: Vec<PeerRemote>,
    pub(crate) remote: Option<Box<Remote>>,
    /// What it is between edges, if it is that.
    pub(crate) edge: Option<Box<Edge>>,
    /// Where its packets come from and go to.
    pub(crate) paths: Paths,
    pub(crate) silence: Silence,
    pub(crate) is_consent_timer_set: bool,
    pub(crate) is_check_timer_set: bool,
    pub(crate) is_expired: bool,

    pub(crate) rx: Option<Crypto>,
    pub(crate) tx: Option<Crypto>,
    pub(crate) keys_open: [Option<PeerKeys>; 2],
    /// SRTCP indices count for each sender SSRC (RFC 3711 §3.2.1); made with the keys.
    pub(crate) rtcp_rx_windows: Option<RtcpWindows>,
    rtcp_sender: RtcpSender,

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
    /// Whether they are being lost.
    pub(crate) losing: Losing,
    /// SSRC that feedback is about; any of its streams will do.
    pub(crate) transport_cc_ssrc: Ssrc,
    /// Next transport-wide sequence number towards it.
    transport_cc_seq: u16,

    /// What it may be sent, once it has a slot, and takes transport-wide sequence numbers or has said of a limit.
    pub(crate) sending: Option<Box<Sending>>,

    /// The estimate of what it may send, if it is sent REMB.
    pub(crate) estimate: Option<Box<Estimate>>,

    pub(crate) is_report_timer_set: bool,
    /// Smoothed round trip to it.
    pub(crate) rtt: Micros,
    /// Added to its NTP timestamps to put them on the worker's clock; set by its first sender report and kept, so
    /// that its audio and video stay together.
    pub(crate) ntp_offset: Option<u64>,
    pub(crate) punts: Bucket,
    /// The same for application data.
    pub(crate) data_punts: Bucket,
    /// Keyframes that it has asked for as a receiver.
    pub(crate) asks: Asks,
    /// What it may send in all, and as the controlplane said it.
    pub(crate) police: Option<Box<Police>>,
    pub(crate) rate_open: Option<PeerRate>,
}

/// A peer that is a link to another edge, or a transport over one.
#[derive(Default)]
pub(crate) struct Edge {
    /// Of a link: addresses of the other edge, as the controlplane told them.
    pub(crate) candidates: Vec<PeerCandidate>,
    /// Of a link: its probes of each, and which one is used.
    pub(crate) probing: Probing,
    /// Of a link: the transports over it, by index.
    pub(crate) transports: Vec<u32>,
    /// Of a transport: its link.
    pub(crate) open: Option<PeerEdge>,
    /// Of a transport: what the receivers at the other edge have room for of what is sent there, by SSRC. Not in the slots, of which there are many.
    pub(crate) rooms: Vec<(Ssrc, Headroom)>,
    /// Of a transport: what of its media has crossed since its link was told.
    pub(crate) crossed: Crossed,
    /// Of a link, and of a transport over it: the path by which audio goes as well.
    pub(crate) second: Option<Path>,
}

impl Edge {
    /// What the receivers at the other edge have room for of what is sent under an SSRC.
    pub(crate) fn room_of(&self, ssrc: Ssrc) -> Headroom {
        self.rooms.iter().find(|(of, _)| *of == ssrc).map_or(Headroom::NONE, |(_, room)| *room)
    }

    /// The other edge says what they have. Takes no memory: there is room for as many as one publisher has.
    pub(crate) fn set_room(&mut self, ssrc: Ssrc, room: Headroom) {
        let has_room = self.rooms.len() < self.rooms.capacity();
        match self.rooms.iter_mut().find(|(of, _)| *of == ssrc) {
            Some((_, of)) => *of = room,
            None if has_room => self.rooms.push((ssrc, room)),
            None => {}
        }
    }
}

/// What our checks of a peer are made with.
pub(crate) struct Remote {
    /// Its username fragment and ours (RFC 8445 §7.2.2).
    pub(crate) username: Vec<u8>,
    /// Of its password: for our requests and its answers.
    pub(crate) key: IntegrityKey,
}

impl Transport {
    pub(crate) fn new(open: PeerOpen, now: Micros) -> Self {
        Transport {
            id: open.peer,
            integrity: IntegrityKey::new(&open.pwd),
            open,
            extension_ids: ExtensionIds::default(),
            extensions_open: None,
            remote_parts: Vec::new(),
            remote: None,
            edge: None,
            paths: Paths::new(),
            silence: Silence::default(),
            is_consent_timer_set: false,
            is_check_timer_set: false,
            is_expired: false,
            rx: None,
            tx: None,
            keys_open: [None; 2],
            rtcp_rx_windows: None,
            rtcp_sender: RtcpSender::default(),
            streams: Vec::with_capacity(4),
            slots: Vec::with_capacity(PEER_SLOTS_MAX / 4),
            by_ssrc: Vec::with_capacity(2 * PEER_STREAMS_MAX),
            others: Vec::new(),
            second_tries: SecondTries::new(now),
            slot_ssrcs: Vec::new(),
            arrivals: None,
            losing: Losing::default(),
            is_transport_cc_timer_set: false,
            transport_cc_ssrc: 0,
            transport_cc_seq: 1,
            sending: None,
            estimate: None,
            is_report_timer_set: false,
            rtt: RTT_DEFAULT,
            ntp_offset: None,
            punts: Bucket::new(PEER_PUNT_BURST, PEER_PUNT_RATE, now),
            data_punts: Bucket::new(PEER_DATA_PUNT_BURST, PEER_DATA_PUNT_RATE, now),
            asks: Asks::new(),
            police: None,
            rate_open: None,
        }
    }

    /// Takes other ICE credentials; the username fragment before.
    pub(crate) fn restart_ice(&mut self, ice: &PeerIce) -> [u8; UFRAG_LEN] {
        let before = self.open.ufrag;
        self.open = PeerOpen { peer: self.open.peer, ufrag: ice.ufrag, pwd: ice.pwd };
        self.integrity = IntegrityKey::new(&ice.pwd);
        self.paths.restart();
        self.join_remote();
        before
    }

    /// Takes a part of the peer's own credentials.
    pub(crate) fn set_remote(&mut self, told: &PeerRemote) -> Result<(), Refusal> {
        if !told.is_valid() {
            return Err(Refusal::Malformed);
        }
        match self.remote_parts.iter_mut().find(|part| part.part == told.part) {
            Some(part) => *part = *told,
            None => {
                debug_assert!(self.remote_parts.len() < PEER_REMOTE_PARTS_MAX, "each number is there once");
                self.remote_parts.push(*told);
            }
        }
        self.join_remote();
        Ok(())
    }

    fn join_remote(&mut self) {
        let joined = PeerRemote::join(&self.remote_parts);
        self.remote = joined.map(|(ufrag, key)| {
            let username = [&ufrag[..], b":", &self.open.ufrag].concat();
            Box::new(Remote { username, key: IntegrityKey::new(&key) })
        });
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

    /// Whether its handshake is done.
    pub(crate) fn has_keys(&self) -> bool {
        self.tx.is_some()
    }

    /// Where to send and with which keys, if it may be sent to.
    #[inline]
    pub(crate) fn outgoing(&self) -> Option<(Destination, &Crypto)> {
        if self.is_expired {
            return None;
        }
        let to = Destination { peer: self.id.index, path: self.paths.selected()?, flow: self.flow() };
        Some((to, self.tx.as_ref()?))
    }

    /// Where audio that leaves for `first` goes as well.
    #[inline]
    pub(crate) fn second(&self, first: Destination) -> Option<Destination> {
        let path = self.edge.as_ref()?.second?;
        Some(Destination { path, ..first })
    }

    /// The link that it is a transport over.
    #[inline]
    pub(crate) fn edge_open(&self) -> Option<&PeerEdge> {
        self.edge.as_ref()?.open.as_ref()
    }

    /// What it is between edges, from now on.
    pub(crate) fn edge_mut(&mut self) -> &mut Edge {
        self.edge.get_or_insert_default()
    }

    /// The transports over it, by index.
    pub(crate) fn transports(&self) -> &[u32] {
        self.edge.as_ref().map_or(&[], |edge| &edge.transports)
    }

    /// Whether anything is sent over it, or comes over it.
    pub(crate) fn is_used_link(&self) -> bool {
        !self.transports().is_empty() || !self.streams.is_empty() || !self.slots.is_empty()
    }

    /// Its candidates, as they were told.
    pub(crate) fn candidates(&self) -> &[PeerCandidate] {
        self.edge.as_ref().map_or(&[], |edge| &edge.candidates)
    }

    /// The flow in which packets to it are; 0: in none.
    #[inline]
    fn flow(&self) -> u64 {
        self.edge_open().map_or(0, |open| open.send_flow)
    }

    /// Whether it may be sent RTCP.
    pub(crate) fn may_report(&self) -> bool {
        !self.is_expired && self.tx.is_some() && self.paths.reports_to(FRAME_LEN).is_some()
    }

    /// Where to send RTCP, with which keys and by which sender, if it may be sent to.
    pub(crate) fn outgoing_rtcp(&mut self) -> Option<(Destination, &Crypto, &mut RtcpSender)> {
        if self.is_expired {
            return None;
        }
        let crypto = self.tx.as_ref()?;
        let flow = self.flow();
        let to = Destination { peer: self.id.index, path: self.paths.report(FRAME_LEN)?, flow };
        Some((to, crypto, &mut self.rtcp_sender))
    }

    /// The transport-wide sequence number of the next packet to the peer.
    #[inline]
    pub(crate) fn transport_cc_seq(&self) -> u16 {
        self.transport_cc_seq
    }

    /// A packet of so many bytes has left with that number.
    #[inline]
    pub(crate) fn transport_cc_sent(&mut self, now: Micros, len: usize, kind: Kind) {
        if let Some(sending) = &mut self.sending {
            sending.sent(now, self.transport_cc_seq, len, kind);
        }
        self.transport_cc_seq = self.transport_cc_seq.wrapping_add(1);
    }

    /// A packet of sound has left again.
    #[inline]
    pub(crate) fn sent_again(&mut self, now: Micros, len: usize) {
        if let Some(sending) = &mut self.sending {
            sending.sent_again(now, len);
        }
    }

    /// Whether what the peer lacks may leave again: its path may be full.
    pub(crate) fn may_repair(&mut self, now: Micros, kind: Kind) -> bool {
        self.sending.as_mut().is_none_or(|sending| sending.may_repair(now, kind))
    }

    /// Takes memory for the estimate of what it may be sent, once there is something to estimate.
    pub(crate) fn prepare_sending(&mut self, now: Micros) {
        if self.extension_ids[Extension::TransportCc as usize] != 0 && !self.slots.is_empty() {
            self.sending.get_or_insert_with(|| Box::new(Sending::new(now)));
        }
    }

    /// The same, for reports or REMB that say of a limit. Who sends no feedback and neither of these takes no memory.
    pub(crate) fn limited_sending(&mut self, now: Micros, is_said: bool) -> Option<&mut Sending> {
        if is_said && self.sending.is_none() && !self.slots.is_empty() {
            self.sending = Some(Box::new(Sending::without_feedback(now)));
        }
        self.sending.as_deref_mut()
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
