//! A WebRTC peer of an attack: by WHIP or WHEP, from an address of its own, and only as far as the attack wants. ICE, DTLS and SRTP are
//! those of the crate `client`, which needs no task and no clock of its own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use client::dtls::Identity;
use client::ice::Credentials;
use client::random::Random;
use client::rtp;
use client::sdp::{self, Answer, OfferSection};
use client::srtp::OVERHEAD_MAX;
use client::transport::{Event, Kind, Received, Transport};
use proto::signal;

use crate::harness::DEADLINE;
use crate::scene::Scene;

/// A sequence parameter set, with which a keyframe begins (RFC 6184 §5.2, type 7).
const PARAMETER_SET: &[u8] = &[0x67, 0x42, 0xe0, 0x1f];

/// More than any datagram of a server.
const DATAGRAM_MAX: usize = 2048;

/// How a peer comes in without a socket, and what it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// It sends audio.
    Whip,
    /// It sends video.
    WhipVideo,
    /// It receives audio.
    Whep,
    /// It receives audio and video.
    WhepVideo,
}

/// A peer whose offer was answered.
pub(crate) struct Peer {
    pub(crate) transport: Transport,
    pub(crate) udp: UdpSocket,
    answer: Answer,
    sections: Vec<OfferSection>,
    /// Packets of media that came.
    pub(crate) received: u32,
    /// What came of each SSRC.
    heard: BTreeMap<u32, Heard>,
    sent: u16,
}

/// What came of an SSRC.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Heard {
    pub(crate) packets: u32,
    /// With headers.
    pub(crate) bytes: u64,
    /// Sequence numbers between the first and the newest that did not come.
    pub(crate) missing: u32,
    newest: Option<u16>,
}

impl Heard {
    fn take(&mut self, seq: u16, len: usize) {
        self.packets += 1;
        self.bytes += len as u64;
        let step = seq.wrapping_sub(self.newest.unwrap_or(seq.wrapping_sub(1)));
        match step {
            1..0x8000 => (self.missing, self.newest) = (self.missing + u32::from(step) - 1, Some(seq)),
            _ => self.missing = self.missing.saturating_sub(1), // It comes late.
        }
    }
}

/// The certificate that all of them have: a server does not compare them.
pub(crate) fn identity() -> Identity {
    Identity::generate().unwrap()
}

/// An offer that is not answered yet.
pub(crate) struct Draft {
    ice: Credentials,
    random: Random,
    sections: Vec<OfferSection>,
}

impl Draft {
    /// Of audio: senders first, then slots.
    pub(crate) fn new(senders: usize, slots: usize) -> Draft {
        Draft::of(&vec![signal::Kind::Audio; senders], &vec![signal::Kind::Audio; slots])
    }

    /// Senders first, then slots.
    fn of(senders: &[signal::Kind], slots: &[signal::Kind]) -> Draft {
        let mut random = Random::from_system();
        let ice = Credentials::generate(&mut random);
        let section = |(n, &kind): (usize, &signal::Kind)| {
            let ssrcs = (n < senders.len()).then(|| (random.ssrc(), None));
            OfferSection { mid: n.to_string(), kind, ssrcs, has_track: ssrcs.is_some(), rids: Vec::new() }
        };
        let sections = senders.iter().chain(slots).enumerate().map(section).collect();
        Draft { ice, random, sections }
    }

    pub(crate) fn sdp(&self, identity: &Identity) -> String {
        let fingerprint = identity.fingerprint();
        sdp::write_offer(&sdp::Offer { ice: &self.ice, fingerprint, sections: &self.sections })
    }

    /// The peer at an address of ours, with the answer.
    pub(crate) fn answered(self, text: &str, from: Ipv4Addr, identity: &Identity) -> Peer {
        let Draft { ice, random, sections } = self;
        let answer = sdp::parse_answer(text, &sections).unwrap_or_else(|error| panic!("{error}: {text}"));
        let mut transport = Transport::new(Instant::now(), ice, identity, random);
        transport.set_answer(&answer);
        let udp = UdpSocket::bind((from, 0)).unwrap();
        udp.set_nonblocking(true).unwrap();
        Peer { transport, udp, answer, sections, received: 0, heard: BTreeMap::new(), sent: 0 }
    }
}

impl Peer {
    /// Offers from an address of ours. The status, if the offer is refused.
    pub(crate) fn offer(
        (scene, from): (&Scene, Ipv4Addr),
        (door, room): (Door, &str),
        token: &str,
        identity: &Identity,
    ) -> Result<Peer, u16> {
        use signal::Kind::{Audio, Video};
        let (path, draft) = match door {
            Door::Whip => (format!("/whip/{room}"), Draft::of(&[Audio], &[])),
            Door::WhipVideo => (format!("/whip/{room}"), Draft::of(&[Video], &[])),
            Door::Whep => (format!("/whep/{room}"), Draft::of(&[], &[Audio])),
            Door::WhepVideo => (format!("/whep/{room}"), Draft::of(&[], &[Audio, Audio, Video, Video])),
        };
        match scene.request(from, token, ("POST", &path), ("application/sdp", &draft.sdp(identity))) {
            (201, text) => Ok(draft.answered(&text, from, identity)),
            (status, _) => Err(status),
        }
    }

    /// Where the server receives this peer.
    pub(crate) fn server(&self) -> SocketAddr {
        self.answer.candidates[0]
    }

    /// Sends what is due and takes what has come, but of DTLS only if it `shakes_hands`. True if there are keys now.
    pub(crate) fn turn(&mut self, shakes_hands: bool) -> bool {
        let mut datagram = [0; DATAGRAM_MAX];
        while let Ok((len, from)) = self.udp.recv_from(&mut datagram) {
            if !shakes_hands && Kind::of(&datagram[..len]) == Kind::Dtls {
                continue;
            }
            let header = rtp::Header::parse(&datagram[..len]);
            let received = self.transport.receive(Instant::now(), from, &mut datagram[..len]);
            let is_media = matches!(received, Received::Rtp(_));
            self.received += u32::from(is_media);
            if let Some(header) = header.filter(|_| is_media) {
                self.heard.entry(header.ssrc).or_default().take(header.seq, len);
            }
        }
        let now = Instant::now();
        self.transport.handle_timeout(now);
        while let Some((to, bytes)) = self.transport.poll_transmit(now) {
            let _ = self.udp.send_to(&bytes, to); // A full buffer is a lost datagram.
        }
        while let Some(event) = self.transport.poll_event() {
            assert!(!shakes_hands || matches!(event, Event::Connected(_)), "{event:?}");
        }
        self.transport.session().is_some()
    }

    /// Connects: how long it took.
    pub(crate) fn connect(&mut self) -> Duration {
        let begun = Instant::now();
        while !self.turn(true) {
            assert!(begun.elapsed() < DEADLINE, "a peer does not connect");
            std::thread::sleep(Duration::from_millis(1));
        }
        begun.elapsed()
    }

    /// What came in the slots of a kind, of those in which something did.
    pub(crate) fn heard_in(&self, kind: signal::Kind) -> Vec<Heard> {
        let sections = self.sections.iter().zip(&self.answer.sections);
        let ssrcs = sections.filter(|(offered, _)| offered.kind == kind).filter_map(|(_, answered)| answered.ssrc);
        ssrcs.filter_map(|ssrc| self.heard.get(&ssrc).copied()).collect()
    }

    /// Sends a packet of audio with so many bytes of payload.
    pub(crate) fn speak(&mut self, payload_len: usize) {
        self.send(&[], payload_len, (u32::from(self.sent) + 1) * 960);
    }

    /// Sends a keyframe of H.264 in one packet with so many bytes of payload. Its length on the way, without UDP and IP.
    pub(crate) fn show(&mut self, payload_len: usize, timestamp: u32) -> usize {
        self.send(PARAMETER_SET, payload_len, timestamp)
    }

    /// Sends a packet whose payload begins with this. Its length.
    fn send(&mut self, begin: &[u8], payload_len: usize, timestamp: u32) -> usize {
        let (ssrc, _) = self.sections[0].ssrcs.expect("it sends");
        self.sent = self.sent.wrapping_add(1);
        let fields =
            rtp::Fields { marker: !begin.is_empty(), pt: self.answer.sections[0].pt, seq: self.sent, timestamp, ssrc };
        let mut packet = [0x55; DATAGRAM_MAX];
        let at = rtp::write(&mut packet, &fields, &[]);
        packet[at..at + begin.len()].copy_from_slice(begin);
        let len = at + payload_len;
        let protected =
            self.transport.session().expect("it is connected").protect_rtp(&mut packet[..len + OVERHEAD_MAX], len);
        let server = self.server();
        let _ = self.udp.send_to(&packet[..protected], server); // As above.
        protected
    }
}
