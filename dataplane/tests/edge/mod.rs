//! Two workers of two edges in virtual time, and the network between them.

#![allow(dead_code, unreachable_pub, missing_docs)] // each test file uses a part of it

use std::net::SocketAddr;

use proto::id::{Mid, PeerId, RouteId, SlotId, StreamId};
use proto::plane::*;
use proto::stun;

use crate::world::*;

pub const MS: u64 = 1000;
pub const SECOND: u64 = 1_000_000;

pub const ADDRESSES: [&str; 2] = ["198.51.100.1:40000", "198.51.100.2:40000"];

pub fn address(of: usize) -> SocketAddr {
    ADDRESSES[of].parse().unwrap()
}

/// What the worker of each edge has of the other one.
pub const PEER: PeerId = PeerId::new(300, 1);

const UFRAGS: [[u8; UFRAG_LEN]; 2] = [*b"edge-one", *b"edge-two"];
const PWDS: [[u8; PWD_LEN]; 2] = [*b"the-password-of-edge-one", *b"the-password-of-edge-two"];

/// Two edges.
pub struct Edges {
    pub worlds: Vec<World>,
    pub net: Net,
}

/// What is between them.
#[derive(Default)]
pub struct Net {
    /// Whether what the edge of this number sends to the other one is lost.
    pub is_cut: [bool; 2],
    /// How many of the next packets of media from the first edge are lost.
    pub lost: usize,
    /// Datagrams that each has sent to the other one since this was last looked at.
    pub sent: [Vec<Vec<u8>>; 2],
}

impl Net {
    /// What each has sent to the other arrives, and what that one answers.
    pub fn carry(&mut self, worlds: &mut [World]) {
        loop {
            let mut is_quiet = true;
            for from in 0..2 {
                for datagram in worlds[from].take_sent(address(1 - from)) {
                    is_quiet = false;
                    let is_media =
                        from == 0 && matches!(datagram[8..], [0x80..=0xbf, pt, ..] if !(192..=223).contains(&pt));
                    let is_lost = self.is_cut[from] || (is_media && self.lost > 0);
                    self.lost -= usize::from(is_media && self.lost > 0);
                    if !is_lost {
                        worlds[1 - from].receive(address(from), &datagram);
                    }
                    self.sent[from].push(datagram);
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    /// Time passes at both, in steps of 5 ms, and what they send meanwhile arrives.
    pub fn advance(&mut self, worlds: &mut [World], by: u64) {
        for _ in 0..by / (5 * MS) {
            worlds.iter_mut().for_each(|world| world.advance(5 * MS));
            self.carry(worlds);
        }
    }
}

/// A transport over the link, one of several.
pub fn transport(n: u32) -> PeerId {
    PeerId::new(310 + n, 1)
}

/// The flow of a transport to the edge of this number.
pub fn flow(n: u32, to: usize) -> u64 {
    0x00ab_cdef_0000_0000 + u64::from(n) * 2 + to as u64
}

/// What opens a transport at an edge.
pub fn open_transport(of: usize, n: u32) -> Vec<Command> {
    let peer = transport(n);
    let mut ufrag = *b"trans000";
    ufrag[5..].copy_from_slice(format!("{n:03}").as_bytes());
    let open = PeerOpen { peer, ufrag, pwd: PWDS[of] }.into();
    let over = PeerEdge { peer, edge: PEER, send_flow: flow(n, 1 - of), receive_flow: flow(n, of) }.into();
    [&[open, over][..], &keys(of, peer)].concat()
}

/// Has two workers know each other, with a path and as many transports over it.
pub fn link(worlds: &mut [World], net: &mut Net, transports: u32) {
    for (of, world) in worlds.iter_mut().enumerate() {
        world.mute.extend([address(0), address(1)]);
        world.commit(&[opened(of), credentials(of), candidate(of).into()]);
        for n in 0..transports {
            world.commit(&open_transport(of, n));
        }
    }
    net.carry(worlds);
    for (of, world) in worlds.iter_mut().enumerate() {
        assert_eq!(paths_told(world), [address(1 - of)]);
    }
    net.sent = Default::default();
}

/// Where a worker said that packets to the other edge go, since it was last asked.
pub fn paths_told(world: &mut World) -> Vec<SocketAddr> {
    let paths = world.take_reports().into_iter().filter_map(|report| match report {
        Report::Event(Event::PeerPath(path)) => {
            assert!(path.peer.index < transport(0).index, "of transports no path is told");
            (path.peer == PEER).then_some(path.remote)
        }
        Report::Event(Event::Refused(refused)) => panic!("{refused:?}"),
        _ => None,
    });
    paths.collect()
}

pub fn opened(of: usize) -> Command {
    PeerOpen { peer: PEER, ufrag: UFRAGS[of], pwd: PWDS[of] }.into()
}

/// The credentials of the other edge.
pub fn credentials(of: usize) -> Command {
    PeerRemote::parts(PEER, &UFRAGS[1 - of], &PWDS[1 - of]).unwrap()[0].into()
}

/// The address of the other edge.
pub fn candidate(of: usize) -> PeerCandidate {
    PeerCandidate { peer: PEER, place: 0, remote: address(1 - of), send_flow: 0, receive_flow: 0 }
}

/// SRTP keys, as a handshake between the edges gives them.
pub fn keys(of: usize, peer: PeerId) -> [Command; 2] {
    [(Direction::Rx, 1 - of), (Direction::Tx, of)].map(|(direction, sender)| {
        let (key, salt) = ([peer.index as u8 ^ (sender as u8) << 4; KEY_LEN_MAX], [50 + sender as u8; SALT_LEN_MAX]);
        let salt = std::array::from_fn(|at| if at < 12 { salt[at] } else { 0 });
        PeerKeys { peer, direction, profile: SrtpProfile::AeadAes128Gcm, key, salt }.into()
    })
}

/// A check of the other edge's, as the worker `of` may get it.
pub fn check(of: usize) -> Vec<u8> {
    let mut out = [0; 512];
    let name = [&UFRAGS[of][..], b":", &UFRAGS[1 - of]].concat();
    let writer = stun::Writer::binding_request(&mut out, stun::TransactionId([8; 12])).username(&name).priority(1);
    let writer = writer.ice_controlled(5).integrity(&stun::IntegrityKey::new(&PWDS[of]));
    let len = writer.fingerprint().finish().unwrap();
    out[..len].to_vec()
}

impl Edges {
    /// Two that know nothing of each other.
    pub fn new() -> Edges {
        let mut worlds = vec![World::new(), World::new()];
        for world in &mut worlds {
            // What goes to the other edge is for the other edge.
            world.mute.extend([address(0), address(1)]);
        }
        Edges { worlds, net: Net::default() }
    }

    /// Two that have a path to each other, and a transport.
    pub fn linked() -> Edges {
        let mut edges = Edges::new();
        link(&mut edges.worlds, &mut edges.net, 1);
        edges
    }

    /// What each has sent to the other arrives, and what that one answers.
    pub fn carry(&mut self) {
        self.net.carry(&mut self.worlds);
    }

    /// Time passes at both, in steps of 5 ms, and what they send meanwhile arrives.
    pub fn advance(&mut self, by: u64) {
        self.net.advance(&mut self.worlds, by);
    }

    /// Where the worker said that packets to the other edge go, since it was last asked.
    pub fn paths_told(&mut self, of: usize) -> Vec<SocketAddr> {
        paths_told(&mut self.worlds[of])
    }

    /// When the worker `of` sends checks in the time from now on.
    pub fn check_times(&mut self, of: usize, during: u64) -> Vec<u64> {
        let start = self.worlds[of].now;
        self.net.sent[of].clear();
        let mut times = Vec::new();
        self.carry();
        while self.worlds[of].now < start + during {
            let now = self.worlds[of].now;
            times.extend(self.net.sent[of].drain(..).filter(|bytes| is_check(bytes)).map(|_| now - start));
            self.advance(5 * MS);
        }
        times
    }
}

/// A stream of the first transport that the other edge sends, by SSRC alone.
pub fn import(stream: StreamId, ssrc: u32, codec: Codec) -> StreamOpen {
    let is_video = codec.is_video();
    StreamOpen {
        stream,
        peer: transport(0),
        ssrc,
        rtx_ssrc: if is_video { ssrc + 1 } else { 0 },
        mid: Mid::NONE,
        pt: if is_video { 96 } else { 111 },
        rtx_pt: if is_video { 97 } else { 0 },
        codec,
        feedback: feedback::NACK | feedback::PLI,
        red_pt: 0,
    }
}

/// A slot of the first transport through which the other edge gets a stream, and the route into it.
pub fn export(index: u32, stream: &StreamOpen, ssrc: u32) -> [Command; 2] {
    let is_video = stream.codec.is_video();
    let slot = SlotId::new(index, 1);
    let open = SlotOpen {
        slot,
        peer: transport(0),
        ssrc,
        rtx_ssrc: if is_video { ssrc + 1 } else { 0 },
        mid: Mid::NONE,
        seq_first: 7,
        rtx_seq_first: 9,
        timestamp_first: 5,
    };
    let (pt, rtx_pt) = if is_video { (96, 97) } else { (111, 0) };
    let route = RouteOpen { route: RouteId::new(index, 1), stream: stream.stream, slot, pt, rtx_pt, red_pt: 0 };
    [open.into(), route.into()]
}
