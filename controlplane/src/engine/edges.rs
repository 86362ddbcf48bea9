//! Rooms that other edges have, too: who is in them there, what is wanted of them, and what they want ([`crate::edges`]).
//!
//! Nothing of this stands in the way of a call: what the cluster says comes when it comes, and while it is away everything stays as it is.

mod adopt;
mod data;
mod links;
mod media;
mod paths;
mod people;
mod seats;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proto::signal::LeaveReason;

use self::data::{Arrivals, Courier};
use self::seats::Waiting;
use super::{Engine, Handle, Output, Timer};
use crate::bus::{News, NodeNews, Order, Sender};
use crate::edges::export::Export;
use crate::edges::import::Import;
use crate::edges::journal::EdgeEntry;
use crate::edges::link::{Link, LinkKey};
use crate::edges::message::{Person, Saying, Telling};
use crate::edges::part::Part;
use crate::edges::paths::Numbers;
use crate::edges::relay::Relays;
use crate::edges::seats::Seats;
use crate::ids::SocketId;

/// How often everything is looked after: what was not answered is asked again, what is of no use is closed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often the others hear of a room of which nothing has changed, so that they know that they have missed nothing.
const HEARTBEAT_LOOKS: u64 = 15;

/// How often a node in another run than before is asked who is in a room, before those of its run before are taken for gone.
const ASKED_MAX: u32 = 10;

/// This edge in its cluster.
#[derive(Default)]
pub(super) struct Edges {
    /// The name of our node, if there is a cluster.
    node: Option<String>,
    is_connected: bool,
    /// The other nodes that are here.
    nodes: BTreeMap<String, NodeNews>,
    links: BTreeMap<LinkKey, Link>,
    link_of: BTreeMap<Handle, LinkKey>,
    /// Who is in our rooms through other edges, by the place on the worker here.
    imports: BTreeMap<Handle, Import>,
    looks: u64,
    /// Nodes to which no path leads, and when they were asked whether they are there.
    doubted: BTreeMap<String, Instant>,
    /// Nodes that were taken for gone so. They may believe the same of us: then somebody has to speak first.
    given_up: BTreeSet<String>,
    /// Numbers of nodes, carriers and regions, as paths are chosen by.
    numbers: Numbers,
    /// Our carrier and region.
    place: (String, String),
    /// What is passed on for others.
    relays: Relays,
    /// Who owns the admission to rooms.
    seats: BTreeMap<String, Seats>,
    /// Offers that wait for a seat.
    waiting: BTreeMap<SocketId, Waiting>,
    /// Messages on the way to other nodes.
    couriers: BTreeMap<String, Courier>,
    /// What an earlier controlplane left, until it is known which rooms there are: by worker and place.
    held: Vec<(usize, u32, EdgeEntry)>,
}

/// What other edges have to do with a room.
#[derive(Default)]
pub(super) struct Remote {
    /// The number of our next message.
    seq: u64,
    /// What was said of our own members.
    said: BTreeMap<String, Person>,
    /// Who of them has left since.
    left: Vec<(String, LeaveReason)>,
    /// Whether everything is to be said, not only what has changed.
    is_whole_due: bool,
    /// Who is in it through each other edge.
    parts: BTreeMap<String, Part>,
    /// What others receive of our members, by node and peer.
    exports: BTreeMap<(String, String), Export>,
    /// Messages that came from others.
    pub(super) arrivals: Arrivals,
}

impl Remote {
    /// A member of ours has left.
    pub(super) fn left(&mut self, id: &str, reason: LeaveReason) {
        if self.said.contains_key(id) {
            self.left.push((id.to_owned(), reason));
        }
    }

    /// The slots of all that is sent to others.
    pub(super) fn slots(&self) -> impl Iterator<Item = proto::id::SlotId> + '_ {
        self.exports.values().flat_map(Export::slots)
    }

    /// What of a room with these members is carried to other edges.
    pub(super) fn carried<'a>(
        &'a self,
        room: &'a crate::room::Room,
    ) -> impl Iterator<Item = (proto::id::StreamId, &'a crate::member::Slot)> {
        let of_export = |export: &'a Export| {
            let publisher = room.members().iter().find(|member| member.id == export.want.peer);
            publisher.into_iter().flat_map(|publisher| export.carried(publisher))
        };
        self.exports.values().flat_map(of_export)
    }
}

impl Engine {
    /// This edge is a node of a cluster, under this name, in this carrier's network and this region.
    pub fn join_cluster(&mut self, node: String, carrier: String, region: String) {
        self.edges.node = Some(node);
        self.edges.place = (carrier, region);
    }

    /// Whether this edge is one of a cluster.
    pub(super) fn is_node(&self) -> bool {
        self.edges.node.is_some()
    }

    /// Ends of links.
    pub(super) fn link_count(&self) -> usize {
        self.edges.links.len()
    }

    /// Transports over them, in both directions.
    pub(super) fn edge_transport_count(&self) -> usize {
        let imports = self.edges.imports.values().filter(|import| import.transport.is_some()).count();
        imports + self.rooms.values().map(|hosted| hosted.remote.exports.len()).sum::<usize>()
    }

    /// Pairs of others between whom something is passed on.
    pub(super) fn edge_relay_count(&self) -> usize {
        self.edges.relays.len()
    }

    /// People elsewhere.
    pub(super) fn elsewhere_count(&self) -> usize {
        self.edges.imports.len()
    }

    /// The room of a peer of ours, or of somebody who is in a room through another edge.
    pub(super) fn room_name(&self, handle: Handle) -> Option<&String> {
        let import = || self.edges.imports.get(&handle).map(|import| &import.room);
        self.peers.get(&handle).map(|peer| &peer.room).or_else(import)
    }

    /// Whether somebody is in a room through another edge.
    pub(super) fn is_elsewhere(&self, handle: Handle) -> bool {
        self.edges.imports.contains_key(&handle)
    }

    /// The cluster tells something.
    pub(super) fn cluster(&mut self, now: Instant, news: News) {
        if self.edges.node.is_none() {
            return;
        }
        if let News::Said { from, .. } | News::Told { from, .. } = &news {
            self.heard(from);
        }
        match news {
            News::Connected(is_connected) => {
                let was_connected = std::mem::replace(&mut self.edges.is_connected, is_connected);
                if is_connected && !was_connected {
                    self.say_everything();
                }
            }
            News::Nodes(nodes) => self.nodes(now, nodes),
            News::Said { room, from, payload } => match Saying::read(&payload) {
                Some(Saying::Here(here)) => self.here(now, &room, &from, here),
                Some(Saying::Who {}) => self.asked_who(&room),
                None => self.totals.edge_messages_refused += 1,
            },
            News::Told { from, payload } => match Telling::read(&payload) {
                Some(Telling::Link(link)) => self.link_told(now, &from, &link),
                Some(Telling::Want(want)) => self.wanted(now, &from, *want),
                Some(Telling::Unwant { room, peer }) => self.close_export(&room, &from.node, &peer),
                Some(Telling::Anew { room, peer, context }) => self.begin_anew(now, &from, &room, &peer, &context),
                Some(Telling::Ping {}) => self.tell_node(&from.node, &Telling::Pong {}),
                Some(Telling::Pong {}) => {} // That it came is all.
                Some(Telling::Legs { legs }) => self.legs_told(&from, &legs),
                Some(Telling::Ways(said)) => self.ways_told(&from, &said),
                Some(Telling::Relay(said)) => self.relay_ordered(now, &from, &said),
                Some(Telling::Seat { room, count }) => self.seat_asked(&from, &room, count),
                Some(Telling::Seats { room, count, hears }) => self.seats_given(now, &from, &room, (count, hears)),
                Some(Telling::NotOwner { room }) => self.not_owner(&from, &room),
                Some(Telling::Data(said)) => self.data_said(now, &from, *said),
                Some(Telling::DataAcked { room, peer, id }) => {
                    self.data_acked_there(now, &from, &room, peer.as_deref(), id);
                }
                Some(Telling::Who { room }) => self.asked_who_is_here(&room),
                None => self.totals.edge_messages_refused += 1,
            },
            News::Claimed { room, claim } => self.claimed(now, &room, claim),
        }
        self.set_look_timer(now);
    }

    /// A node has said something, so it is there.
    fn heard(&mut self, from: &Sender) {
        self.edges.doubted.remove(&from.node);
        self.edges.given_up.remove(&from.node);
    }

    fn order(&mut self, order: Order) {
        self.outputs.push_back(Output::Cluster(order));
    }

    fn tell_node(&mut self, node: &str, telling: &Telling) {
        self.order(Order::Tell { node: node.to_owned(), payload: telling.write() });
    }

    /// The cluster is there again: what was said meanwhile is lost, in both directions.
    fn say_everything(&mut self) {
        for name in self.rooms.keys().cloned().collect::<Vec<_>>() {
            self.listen(&name);
        }
        self.seats_reconnected();
        let links: Vec<LinkKey> = self.edges.links.keys().cloned().collect();
        links.iter().for_each(|key| self.say_link(key, true));
        self.edges.imports.values_mut().for_each(|import| import.told = None);
        for handle in self.edges.imports.keys().copied().collect::<Vec<_>>() {
            self.want(handle);
        }
    }

    /// Which other nodes there are.
    fn nodes(&mut self, now: Instant, nodes: Vec<NodeNews>) {
        let nodes: BTreeMap<String, NodeNews> = nodes.into_iter().map(|node| (node.node.node.clone(), node)).collect();
        self.edges.given_up.retain(|node| nodes.contains_key(node));
        let before = std::mem::replace(&mut self.edges.nodes, nodes);
        for (name, was) in before {
            match self.edges.nodes.get(&name) {
                None => self.lose_node(&name),
                // With another run it has another certificate, too.
                Some(node) if node.node.run != was.node.run => {
                    self.node_restarted(now, &name);
                    // It may have forgotten what it passes on.
                    self.edges.links.values_mut().for_each(|link| link.ways.told_at = None);
                    self.seats_of_lost(&name, false);
                }
                Some(_) => {}
            }
        }
        self.attach_imports(now);
    }

    /// A node is gone, and who was in our rooms through it.
    fn lose_node(&mut self, node: &str) {
        for name in self.rooms.keys().cloned().collect::<Vec<_>>() {
            self.lose_part(&name, node, LeaveReason::TimedOut);
            self.close_exports(&name, |export| export.to.node == node);
        }
        let keys = self.edges.links.keys().filter(|key| key.node == node).cloned();
        for key in keys.collect::<Vec<_>>() {
            self.close_link(&key);
        }
        self.seats_of_lost(node, true);
    }

    /// A worker is gone, and with it what came over its links.
    pub(super) fn lose_edges_on(&mut self, worker: usize) {
        self.edges.relays.lose_worker(worker);
        self.edges.links.retain(|key, _| key.ours != worker);
        self.edges.link_of.retain(|handle, _| handle.worker != worker);
        for hosted in self.rooms.values_mut() {
            hosted.remote.exports.retain(|_, export| export.worker() != worker);
        }
        let lost = self.edges.imports.keys().filter(|handle| handle.worker == worker).copied();
        for handle in lost.collect::<Vec<_>>() {
            self.forget_person(handle, LeaveReason::MediaRestarted);
        }
        for hosted in self.rooms.values_mut() {
            hosted.remote.parts.clear();
        }
    }

    /// Looks after what waits for an answer.
    pub(super) fn look_remote(&mut self, now: Instant) {
        self.edges.looks += 1;
        let is_heartbeat = self.edges.looks.is_multiple_of(HEARTBEAT_LOOKS);
        if self.edges.is_connected && self.is_ready() {
            for name in self.rooms.keys().cloned().collect::<Vec<_>>() {
                self.ask_again(&name);
                if is_heartbeat {
                    self.say_heartbeat(&name);
                }
            }
            self.attach_imports(now);
        }
        self.look_after_away(now);
        self.look_after_couriers();
        self.look_after_links(now);
        self.set_look_timer(now);
    }

    fn set_look_timer(&mut self, now: Instant) {
        let has_parts = self.rooms.values().any(|hosted| !hosted.remote.parts.is_empty());
        let is_needed =
            has_parts || !self.edges.given_up.is_empty() || !self.edges.links.is_empty() || self.edges.relays.len() > 0;
        match is_needed {
            false => self.timers.set(Timer::Remote, None),
            true if self.timers.is_set(Timer::Remote) => {}
            true => self.timers.set(Timer::Remote, Some(now + LOOK_INTERVAL)),
        }
    }

    fn sender_is_known(&self, from: &Sender) -> bool {
        self.edges.nodes.contains_key(&from.node)
    }
}
