//! Links to other edges: their ends here, and the DTLS connections over them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::id::PeerId;
use proto::plane::{DatagramHeader, DatagramKind};

use super::super::{Engine, Handle, Hosted, Output, TIMER_MIN, Timer};
use crate::bus::Sender;
use crate::edges::link::{Link, LinkKey};
use crate::edges::message::{LinkSaid, Telling};
use crate::peer::Progress;
use crate::placement::plan_of;

/// How long a link stays over which nothing runs: whoever comes back finds it.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// In how many looks paths are looked after, and the other ends of links told that they are of use.
const PATHS_LOOKS: u64 = 2;
const USED_LOOKS: u64 = 10;

/// How long a node to which no path leads may take to say that it is there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Links of one edge: each node with a room in common has a few.
const LINKS_MAX: usize = 1024;

impl Engine {
    /// The end of a link here, which is opened if it is not there. `None`: the other node is not known, or there is no room.
    pub(super) fn link_to(&mut self, now: Instant, key: &LinkKey) -> Option<PeerId> {
        if let Some(link) = self.edges.links.get_mut(key) {
            link.used_at = now;
            return Some(link.peer);
        }
        let ours = self.edges.node.clone()?;
        let Engine { edges, workers, random, settings, .. } = self;
        let node = edges.nodes.get(&key.node).filter(|_| edges.links.len() < LINKS_MAX)?;
        node.workers.get(usize::from(key.theirs))?;
        let plan = plan_of(workers, key.ours)?;
        let peer = plan.issue_remote()?;
        let transport = Link::transport(&ours, node, now + settings.handshake_timeout);
        let link = Link::open(peer, key.ours, transport, plan, random, now);
        edges.links.insert(key.clone(), link);
        edges.link_of.insert(Handle { worker: key.ours, peer }, key.clone());
        self.journal_link(key);
        self.say_link(key, true);
        self.set_link_clock(now, key);
        self.set_look_timer(now);
        Some(peer)
    }

    /// Tells the other end how a link is reached at this one.
    pub(super) fn say_link(&mut self, key: &LinkKey, asks: bool) {
        if let Some(link) = self.edges.links.get(key) {
            let said = link.said(key, asks);
            self.tell_node(&key.node, &Telling::Link(said));
        }
    }

    /// The other end tells how it is reached.
    pub(super) fn link_told(&mut self, now: Instant, from: &Sender, said: &LinkSaid) {
        let key = LinkKey { node: from.node.clone(), ours: usize::from(said.theirs), theirs: said.ours };
        let is_new = !self.edges.links.contains_key(&key);
        if self.link_to(now, &key).is_none() {
            return;
        }
        let Some(ours) = self.edges.node.clone() else { return };
        let Engine { edges, workers, settings, .. } = self;
        let (Some(link), Some(node)) = (edges.links.get_mut(&key), edges.nodes.get(&key.node)) else { return };
        let Some(plan) = plan_of(workers, key.ours) else { return };
        let addresses = node.workers.get(usize::from(key.theirs)).map(Vec::as_slice).unwrap_or_default();
        if link.told(said, &from.run, addresses, plan) {
            link.restart(Link::transport(&ours, node, now + settings.handshake_timeout));
        }
        // Who opens it by this has asked already.
        if said.asks && !is_new {
            self.say_link(&key, false);
        }
        self.begin_link(now, &key, false);
        self.advance_link(now, &key);
    }

    /// A node has another certificate, or another run: connections to it are made anew when it has told its ends.
    pub(super) fn node_restarted(&mut self, now: Instant, node: &str) {
        let keys = self.edges.links.keys().filter(|key| key.node == node).cloned();
        for key in keys.collect::<Vec<_>>() {
            self.restart_link(now, &key);
            self.say_link(&key, true);
        }
    }

    fn restart_link(&mut self, now: Instant, key: &LinkKey) {
        let Some(ours) = self.edges.node.clone() else { return };
        let Engine { edges, settings, .. } = self;
        let (Some(link), Some(node)) = (edges.links.get_mut(key), edges.nodes.get(&key.node)) else { return };
        link.restart(Link::transport(&ours, node, now + settings.handshake_timeout));
        self.set_link_clock(now, key);
    }

    /// The link of a place on a worker.
    pub(in crate::engine) fn link_at(&self, handle: Handle) -> Option<LinkKey> {
        self.edges.link_of.get(&handle).cloned()
    }

    /// A path to the other end was found, or another one.
    pub(in crate::engine) fn link_path(&mut self, now: Instant, key: &LinkKey, remote: SocketAddr) {
        if let Some(link) = self.edges.links.get_mut(key) {
            link.validated(remote);
        }
        self.journal_link(key);
        self.begin_link(now, key, false);
        self.advance_link(now, key);
    }

    /// A datagram of the handshake.
    pub(in crate::engine) fn link_datagram(&mut self, now: Instant, key: &LinkKey, remote: SocketAddr, payload: &[u8]) {
        if let Some(link) = self.edges.links.get_mut(key) {
            link.validated(remote);
        }
        self.begin_link(now, key, true);
        if let Some(link) = self.edges.links.get_mut(key) {
            link.transport.handle(now, payload);
        }
        self.advance_link(now, key);
    }

    fn begin_link(&mut self, now: Instant, key: &LinkKey, has_datagram: bool) {
        let Engine { edges, identity, .. } = self;
        let Some(link) = edges.links.get_mut(key).filter(|link| link.is_told()) else { return };
        if link.transport.wants_handshake(has_datagram)
            && let Err(error) = link.transport.begin(identity, now)
        {
            tracing::error!(node = key.node, "no handshake with another edge can be begun: {error}");
        }
    }

    /// Injects what the handshake has to send, and takes what became of it.
    fn advance_link(&mut self, now: Instant, key: &LinkKey) {
        let Some(link) = self.edges.links.get_mut(key) else { return };
        let peer = link.peer;
        let mut datagrams = Vec::new();
        while let Some(datagram) = link.transport.poll_transmit() {
            datagrams.push(datagram);
        }
        let (mut is_connected, mut failure) = (false, None);
        while let Some(progress) = link.transport.poll_progress() {
            match progress {
                Progress::Connected(_) => is_connected = true,
                Progress::Failed(reason) => failure = Some(reason),
                Progress::Closed => failure = Some("the other end closed the connection".to_owned()),
            }
        }
        for (remote, payload) in datagrams {
            let len = u16::try_from(payload.len()).expect("DTLS datagrams are at most 1200 bytes");
            let header = DatagramHeader { kind: DatagramKind::Dtls, peer, remote, len };
            self.outputs.push_back(Output::Inject { worker: key.ours, header, payload });
        }
        if is_connected {
            self.totals.links_connected += 1;
            self.key_over(now, key);
        }
        if let Some(reason) = failure {
            self.link_failed(now, key, &reason);
        }
        self.set_link_clock(now, key);
    }

    /// The connection is made: transports over it that wait for keys get them.
    fn key_over(&mut self, now: Instant, key: &LinkKey) {
        let imports = self.edges.imports.iter();
        let over = imports.filter(|(handle, import)| {
            handle.worker == key.ours && import.node == key.node && import.theirs == key.theirs
        });
        for handle in over.map(|(handle, _)| *handle).collect::<Vec<_>>() {
            self.attach_import(now, handle);
        }
        let mut waiting = Vec::new();
        for (name, Hosted { remote, .. }) in &self.rooms {
            let over = remote.exports.iter().filter(|(_, export)| {
                export.to.node == key.node && export.worker() == key.ours && export.want.ours == key.theirs
            });
            waiting.extend(over.map(|(of_export, _)| (name.clone(), of_export.clone())));
        }
        for (name, of_export) in waiting {
            self.key_export(&name, &of_export);
        }
    }

    /// The handshake cannot go on: it is begun anew, and the other end sees by other credentials that it has to, too.
    fn link_failed(&mut self, now: Instant, key: &LinkKey, reason: &str) {
        tracing::warn!(node = key.node, worker = key.ours, "no connection to another edge: {reason}");
        self.totals.links_failed += 1;
        self.restart_link(now, key);
        let Engine { edges, workers, random, .. } = self;
        if let (Some(link), Some(plan)) = (edges.links.get_mut(key), plan_of(workers, key.ours)) {
            link.renew(key.ours, plan, random);
        }
        self.say_link(key, true);
    }

    fn set_link_clock(&mut self, now: Instant, key: &LinkKey) {
        let Some(link) = self.edges.links.get(key) else { return };
        let handle = Handle { worker: key.ours, peer: link.peer };
        let deadline = link.transport.poll_timeout().map(|deadline| deadline.max(now + TIMER_MIN));
        self.timers.set(Timer::Peer(handle), deadline);
    }

    /// A link's clock has come.
    pub(in crate::engine) fn link_due(&mut self, now: Instant, key: &LinkKey) {
        let Some(link) = self.edges.links.get_mut(key) else { return };
        if link.transport.is_overdue(now) {
            self.link_failed(now, key, "the other end did not answer in time");
        } else {
            link.transport.handle_timeout(now);
        }
        self.advance_link(now, key);
    }

    /// Closes links over which nothing runs any more.
    pub(super) fn look_after_links(&mut self, now: Instant) {
        let mut used: Vec<LinkKey> = self
            .edges
            .imports
            .iter()
            .filter(|(_, import)| import.transport.is_some())
            .map(|(handle, import)| LinkKey { node: import.node.clone(), ours: handle.worker, theirs: import.theirs })
            .collect();
        for export in self.rooms.values().flat_map(|hosted| hosted.remote.exports.values()) {
            let (node, theirs) = (export.to.node.clone(), export.want.ours);
            used.push(LinkKey { node, ours: export.worker(), theirs });
        }
        used.sort_unstable();
        used.dedup();
        for key in &used {
            if let Some(link) = self.edges.links.get_mut(key) {
                link.used_at = now;
            }
        }
        self.look_after_dead(now, &used);
        if self.edges.looks.is_multiple_of(PATHS_LOOKS) {
            self.look_after_paths(now, &used);
        }
        if self.edges.looks.is_multiple_of(USED_LOOKS) && !used.is_empty() {
            // The other end keeps what it hears of.
            let keys: Vec<LinkKey> = self.edges.links.keys().cloned().collect();
            keys.iter().for_each(|key| self.say_link(key, false));
        }
        let idle = self.edges.links.iter().filter(|(_, link)| link.used_at + IDLE_MAX <= now);
        for key in idle.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.close_link(&key);
        }
    }

    /// Nodes to which no path leads are asked by the cluster whether they are there. Who does not answer is gone, and who was in rooms through
    /// it: the cluster itself would say so only when its lease has ended.
    fn look_after_dead(&mut self, now: Instant, used: &[LinkKey]) {
        if !self.edges.is_connected {
            return;
        }
        let is_dead = |key: &&LinkKey| self.edges.links.get(key).is_some_and(|link| link.ways.are_dead(now));
        let dead: std::collections::BTreeSet<String> =
            used.iter().filter(is_dead).map(|key| key.node.clone()).collect();
        self.edges.doubted.retain(|node, _| dead.contains(node));
        for node in dead {
            match self.edges.doubted.get(&node) {
                None => {
                    self.edges.doubted.insert(node.clone(), now);
                    self.tell_node(&node, &Telling::Ping {});
                }
                Some(at) if *at + ANSWER_TIMEOUT <= now => {
                    tracing::warn!(
                        node,
                        "no path leads to this node, and it does not answer: its people are taken for gone"
                    );
                    self.lose_node(&node);
                    self.edges.doubted.remove(&node);
                    self.edges.given_up.insert(node);
                }
                Some(_) => {}
            }
        }
    }

    pub(super) fn close_link(&mut self, key: &LinkKey) {
        let Some(link) = self.edges.links.remove(key) else { return };
        let handle = Handle { worker: key.ours, peer: link.peer };
        self.edges.link_of.remove(&handle);
        self.timers.set(Timer::Peer(handle), None);
        self.write_journal(handle, None);
        if let Some(plan) = plan_of(&mut self.workers, key.ours) {
            plan.unwant_peer(link.peer);
        }
    }
}
