//! Edges of one cluster, each an engine with strict workers ([`super::world`]): what they say arrives at once and in order, links find their
//! paths, and DTLS goes over them. And what shows whether media would arrive.

#![allow(dead_code, unreachable_pub, missing_docs)] // each test file uses a part of it

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use controlplane::bus::{Claim, News, NodeNews, Order, Sender};
use controlplane::engine::{Input, Settings};
use proto::id::PeerId;
use proto::plane::{DatagramHeader, PathMeasured, PathState, PeerPath, Report};
use proto::signal::{ClientSignal, ErrorCode, PeerInfo, ServerSignal, SlotInfo};

use super::world::worker::{Peer, Worker};
use super::world::{self, Client, World};

/// Edges of one cluster. What they say arrives at once, and in order, while the cluster is there.
pub struct Edges {
    pub worlds: Vec<World>,
    pub runs: Vec<u32>,
    pub listens: Vec<BTreeSet<String>>,
    pub is_there: bool,
    /// Those to which nothing comes.
    pub deaf: BTreeSet<usize>,
    /// Who has claimed rooms, and the revision of the latest claim.
    pub claims: BTreeMap<String, (Sender, u64)>,
    pub revision: u64,
    /// What was said, by the edge that said it.
    pub said: Vec<(usize, Order)>,
}

pub fn name(edge: usize) -> String {
    format!("edge{edge}")
}

pub fn address(edge: usize, worker: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, edge as u8 + 1], 40_000 + worker as u16))
}

impl Edges {
    pub fn new(count: usize) -> Edges {
        Self::with(count, 1, Settings::default())
    }

    pub fn with(count: usize, workers: usize, settings: Settings) -> Edges {
        let world = |edge: usize| {
            let mut world = World::unlinked(settings.clone());
            world.reseed(edge as u8 + 1);
            world.is_node = true;
            world.engine.join_cluster(name(edge), String::new(), String::new());
            (0..workers).for_each(|worker| world.link(worker));
            world
        };
        let mut edges = Edges {
            worlds: (0..count).map(world).collect(),
            runs: vec![0; count],
            listens: vec![BTreeSet::new(); count],
            is_there: true,
            deaf: BTreeSet::new(),
            claims: BTreeMap::new(),
            revision: 0,
            said: Vec::new(),
        };
        edges.introduce();
        for world in &mut edges.worlds {
            world.input(Input::Cluster(News::Connected(true)));
        }
        edges.carry();
        edges
    }

    pub fn sender(&self, edge: usize) -> Sender {
        Sender { node: name(edge), run: self.runs[edge].to_string() }
    }

    /// Tells each edge which others there are.
    pub fn introduce(&mut self) {
        let node = |edge: usize| NodeNews {
            node: self.sender(edge),
            region: String::new(),
            carrier: String::new(),
            fingerprint: self.worlds[edge].fingerprint,
            workers: self.worlds[edge].workers.keys().map(|&worker| vec![address(edge, worker)]).collect(),
        };
        let nodes: Vec<NodeNews> = (0..self.worlds.len()).map(node).collect();
        for (edge, world) in self.worlds.iter_mut().enumerate() {
            let others = nodes.iter().filter(|node| node.node.node != name(edge)).cloned().collect();
            world.input(Input::Cluster(News::Nodes(others)));
        }
    }

    /// Carries everything between the edges until nobody has anything to say.
    pub fn carry(&mut self) {
        loop {
            let mut is_quiet = true;
            for edge in 0..self.worlds.len() {
                for order in std::mem::take(&mut self.worlds[edge].orders) {
                    is_quiet = false;
                    self.order(edge, order);
                }
            }
            is_quiet &= !self.check_paths() & !self.exchange();
            if is_quiet {
                return;
            }
        }
    }

    pub fn order(&mut self, edge: usize, order: Order) {
        match &order {
            Order::Listen { room } => drop(self.listens[edge].insert(room.clone())),
            Order::Ignore { room } => drop(self.listens[edge].remove(room)),
            _ if !self.is_there => return,
            Order::Claim { .. } if self.deaf.contains(&edge) => return,
            Order::Say { room, payload } => {
                let from = self.sender(edge);
                for other in (0..self.worlds.len())
                    .filter(|&other| other != edge && !self.deaf.contains(&edge) && !self.deaf.contains(&other))
                    .filter(|&other| self.listens[other].contains(room))
                    .collect::<Vec<_>>()
                {
                    let said = News::Said { room: room.clone(), from: from.clone(), payload: payload.clone() };
                    self.worlds[other].input(Input::Cluster(said));
                }
            }
            Order::Tell { node, payload } => {
                let other = (0..self.worlds.len()).find(|&other| name(other) == *node).expect("a node");
                if self.deaf.contains(&other) || self.deaf.contains(&edge) {
                    return;
                }
                let told = News::Told { from: self.sender(edge), payload: payload.clone() };
                self.worlds[other].input(Input::Cluster(told));
            }
            Order::Claim { room, replaced } => {
                let stands = self.claims.get(room).map_or(0, |(_, revision)| *revision);
                if stands == *replaced {
                    self.revision += 1;
                    self.claims.insert(room.clone(), (self.sender(edge), self.revision));
                }
                let (owner, revision) = self.claims[room].clone();
                let claim = match owner == self.sender(edge) {
                    true => Claim::Ours { revision },
                    false => Claim::Theirs { owner, revision },
                };
                self.worlds[edge].input(Input::Cluster(News::Claimed { room: room.clone(), claim }));
            }
            Order::Release { room, revision } => {
                self.claims.retain(|of, (_, stands)| of != room || stands != revision);
            }
        }
        self.said.push((edge, order));
    }

    /// Each link of an edge: the worker, its place there, and whether its path was found.
    pub fn links(&self, edge: usize) -> Vec<(usize, Peer)> {
        let worker = |(&index, worker): (&usize, &Worker)| {
            let links = worker.peers.values().filter(|peer| !peer.candidates.is_empty());
            links.map(|peer| (index, peer.clone())).collect::<Vec<_>>()
        };
        self.worlds[edge].workers.iter().flat_map(worker).collect()
    }

    /// The other end of a link: the edge whose worker is at the address that it asks, and the peer there with its credentials.
    pub fn other_end(&self, peer: &Peer) -> Option<(usize, usize, PeerId)> {
        let theirs = peer.remote.first()?;
        let ufrag = &theirs.bytes[1..][..8];
        (0..self.worlds.len()).find_map(|edge| {
            let found = self.links(edge).into_iter().find(|(_, other)| other.open.ufrag == *ufrag)?;
            Some((edge, found.0, found.1.open.peer))
        })
    }

    /// What workers do: two ends that know each other's credentials find a path.
    pub fn check_paths(&mut self) -> bool {
        let mut has_found = false;
        for edge in 0..self.worlds.len() {
            for (worker, peer) in self.links(edge) {
                let id = peer.open.peer;
                if self.other_end(&peer).is_none() || !self.worlds[edge].paths.insert((worker, id, peer.open.ufrag)) {
                    continue;
                }
                has_found = true;
                let path = PeerPath { peer: id, remote: peer.candidates[0].remote, nominated: 1 };
                self.worlds[edge].input(Input::Report { worker, report: Report::Event(path.into()) });
            }
        }
        has_found
    }

    /// Carries DTLS over the links.
    pub fn exchange(&mut self) -> bool {
        let mut has_carried = false;
        for edge in 0..self.worlds.len() {
            let links = self.links(edge);
            let is_link = |worker, peer| links.iter().any(|(at, link)| *at == worker && link.open.peer == peer);
            for (worker, header, payload) in self.worlds[edge].take_injected(is_link) {
                has_carried = true;
                let link = links.iter().find(|(at, link)| *at == worker && link.open.peer == header.peer);
                let Some((other, at, peer)) = link.and_then(|(_, link)| self.other_end(link)) else { continue };
                let header = DatagramHeader { peer, remote: address(edge, worker), ..header };
                self.worlds[other].input(Input::Datagram { worker: at, header, payload });
            }
        }
        has_carried
    }

    /// What the probes of workers measure, by the round trip between two edges; `None` where nothing arrives.
    pub fn measure(&mut self, rtt_us: impl Fn(usize, usize) -> Option<u32>) {
        for edge in 0..self.worlds.len() {
            for (worker, peer) in self.links(edge) {
                let Some((other, ..)) = self.other_end(&peer) else { continue };
                for candidate in &peer.candidates {
                    let third = (0..self.worlds.len()).find(|&third| address(third, 0).ip() == candidate.remote.ip());
                    let rtt_us = match third {
                        _ if candidate.send_flow == 0 => rtt_us(edge, other),
                        Some(third) => rtt_us(edge, third).zip(rtt_us(third, other)).map(|(there, on)| there + on),
                        None => None,
                    };
                    let state = if rtt_us.is_some() { PathState::Good } else { PathState::Dead };
                    let (place, rtt_us) = (candidate.place, rtt_us.unwrap_or(0));
                    let peer = peer.open.peer;
                    let event = PathMeasured { peer, place, rtt_us, loss_ppm: 0, jitter_us: 0, state };
                    self.worlds[edge].input(Input::Report { worker, report: Report::Event(event.into()) });
                }
            }
        }
        self.carry();
    }

    pub fn join(&mut self, edge: usize, room: &str, who: &str) -> Client {
        self.try_join(edge, room, who).expect("there is a seat")
    }

    /// An offer may wait for the answer of another edge.
    pub fn try_join(&mut self, edge: usize, room: &str, who: &str) -> Result<Client, ErrorCode> {
        self.try_join_with(edge, room, who, world::PAGE)
    }

    pub fn try_join_with(&mut self, edge: usize, room: &str, who: &str, sdp: &str) -> Result<Client, ErrorCode> {
        let mut client = self.worlds[edge].guest(room, world::grant(who));
        let sdp = world::with_fingerprint(sdp, &client.identity);
        let offer = ClientSignal::Offer { sdp, tracks: world::page_tracks() };
        self.worlds[edge].say(client.socket, offer);
        self.carry();
        if !self.is_there || self.worlds[edge].signals.get(&client.socket).is_none_or(|signals| signals.is_empty()) {
            self.pass(Duration::from_secs(2));
        }
        self.worlds[edge].answered(&mut client)?;
        self.worlds[edge].connect(&mut client);
        self.carry();
        Ok(client)
    }

    pub fn pass(&mut self, duration: Duration) {
        let steps = (duration.as_millis() / 250).max(1);
        for _ in 0..steps {
            for world in &mut self.worlds {
                world.pass(Duration::from_millis(250));
            }
            self.carry();
        }
    }

    pub fn set_there(&mut self, is_there: bool) {
        self.is_there = is_there;
        for world in &mut self.worlds {
            world.input(Input::Cluster(News::Connected(is_there)));
        }
        self.carry();
    }

    pub fn restart_controlplane(&mut self, edge: usize) {
        self.runs[edge] += 1;
        self.listens[edge].clear();
        self.worlds[edge].restart_controlplane_as(name(edge));
        self.introduce();
        if self.is_there {
            self.worlds[edge].input(Input::Cluster(News::Connected(true)));
        }
        self.carry();
    }

    /// Who is in the room besides a client, as it was told.
    pub fn slots(&mut self, edge: usize, client: &Client) -> Vec<SlotInfo> {
        self.worlds[edge].slots(client.socket).expect("slots were told")
    }

    /// What of a publisher really arrives in a client's slots: each route leads to a stream of it here, or to a stream over a link that the
    /// publisher's edge fills by a route from its stream under the same SSRC, with keys that fit.
    pub fn arrives(&self, edge: usize, client: &Client, from: usize, publisher: &Client) -> usize {
        let worker = &self.worlds[edge].workers[&client.worker];
        let slots = worker.slots_of(client.peer.unwrap());
        let there = &self.worlds[from];
        let mut count = 0;
        for route in worker.routes.values().filter(|route| slots.contains(&route.slot)) {
            let mut at = (client.worker, route.stream);
            if let Some(mirror) = worker.mirrors.get(&route.stream.index) {
                at = (usize::from(mirror.worker), mirror.origin);
            }
            let own = &self.worlds[edge].workers[&at.0];
            let stream = own.streams[&at.1.index];
            let import = own.peers[&stream.peer.index].clone();
            let Some(over) = import.edge else { continue };
            let sent = there.workers.values().find_map(|worker| {
                let export = worker
                    .peers
                    .values()
                    .find(|peer| peer.edge.is_some_and(|edge| edge.send_flow == over.receive_flow))?;
                let back = export.edge.unwrap();
                assert_eq!(back.receive_flow, over.send_flow);
                assert_eq!(export.tx.unwrap().key, import.rx.unwrap().key, "both ends have the same keys");
                assert_eq!(export.rx.unwrap().key, import.tx.unwrap().key);
                let slot =
                    worker.slots.values().find(|slot| slot.peer == export.open.peer && slot.ssrc == stream.ssrc)?;
                assert_eq!(slot.rtx_ssrc, stream.rtx_ssrc);
                let route = worker.routes.values().find(|route| route.slot == slot.slot)?;
                assert_eq!(route.pt, stream.pt);
                let origin = match worker.mirrors.get(&route.stream.index) {
                    Some(mirror) => (usize::from(mirror.worker), mirror.origin),
                    None => (route.stream.peer_worker(), route.stream),
                };
                Some(there.workers[&origin.0].streams[&origin.1.index].peer)
            });
            count += usize::from(sent == publisher.peer);
        }
        count
    }
}

/// The worker of an id, which its generation names.
trait OnWorker {
    fn peer_worker(&self) -> usize;
}

impl OnWorker for proto::id::StreamId {
    fn peer_worker(&self) -> usize {
        (self.generation >> 22) as usize
    }
}

pub fn peers_told(world: &mut World, client: &Client) -> Vec<String> {
    let mut there: Vec<PeerInfo> = Vec::new();
    for signal in world.drain(client.socket) {
        match signal {
            ServerSignal::Peers { peers } => there = peers,
            ServerSignal::PeerJoined { peer } => there.push(peer),
            ServerSignal::PeerLeft { peer, .. } => there.retain(|other| other.peer != peer),
            _ => {}
        }
    }
    there.into_iter().map(|peer| peer.name).collect()
}

pub fn check(edges: &Edges) {
    for (edge, world) in edges.worlds.iter().enumerate() {
        for worker in world.workers.values() {
            assert!(worker.refused.is_empty(), "edge {edge}: {:?}", worker.refused);
        }
    }
}
