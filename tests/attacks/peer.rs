//! A WebRTC peer of an attack: by WHIP or WHEP, from an address of its own, and only as far as the attack wants. ICE, DTLS and SRTP are
//! those of the crate `client`, which needs no task and no clock of its own.

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

/// More than any datagram of a server.
const DATAGRAM_MAX: usize = 2048;

/// How a peer comes in without a socket, and what it has: one section of audio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// It sends.
    Whip,
    /// It receives.
    Whep,
}

/// A peer whose offer was answered.
pub(crate) struct Peer {
    pub(crate) transport: Transport,
    pub(crate) udp: UdpSocket,
    answer: Answer,
    sections: Vec<OfferSection>,
    /// Packets of media that came.
    pub(crate) received: u32,
    sent: u16,
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
        let mut random = Random::from_system();
        let ice = Credentials::generate(&mut random);
        let section = |n: usize| {
            let ssrcs = (n < senders).then(|| (random.ssrc(), None));
            OfferSection { mid: n.to_string(), kind: signal::Kind::Audio, ssrcs, has_track: ssrcs.is_some() }
        };
        let sections = (0..senders + slots).map(section).collect();
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
        Peer { transport, udp, answer, sections, received: 0, sent: 0 }
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
        let (path, draft) = match door {
            Door::Whip => (format!("/whip/{room}"), Draft::new(1, 0)),
            Door::Whep => (format!("/whep/{room}"), Draft::new(0, 1)),
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
            let received = self.transport.receive(Instant::now(), from, &mut datagram[..len]);
            self.received += u32::from(matches!(received, Received::Rtp(_)));
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

    /// Sends a packet of audio with so many bytes of payload.
    pub(crate) fn speak(&mut self, payload_len: usize) {
        let (ssrc, _) = self.sections[0].ssrcs.expect("it sends");
        self.sent += 1;
        let (seq, timestamp) = (self.sent, u32::from(self.sent) * 960);
        let fields = rtp::Fields { marker: false, pt: self.answer.sections[0].pt, seq, timestamp, ssrc };
        let mut packet = [0x55; DATAGRAM_MAX];
        let len = rtp::write(&mut packet, &fields, &[]) + payload_len;
        let protected =
            self.transport.session().expect("it is connected").protect_rtp(&mut packet[..len + OVERHEAD_MAX], len);
        let server = self.server();
        let _ = self.udp.send_to(&packet[..protected], server); // As above.
    }
}
