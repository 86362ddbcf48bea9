//! Messages of a room that go to its people at other edges, and theirs that come here. Each edge delivers to its own people, and
//! acknowledges for all of them together; until then the edge of the sender says it again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use proto::id::PeerId;
use proto::signal::{DataReceived, DataSent, ServerSignal};

use super::{Engine, Handle};
use crate::bus::Sender;
use crate::data::{Assembly, Mailbox, Message, Payload, Sent, Taking, Way, parts};
use crate::edges::message::{DataSaid, Telling};

/// Messages on the way to one other edge.
#[derive(Debug, Default)]
pub(in crate::engine) struct Courier {
    mailbox: Mailbox,
    /// The oldest message without an acknowledgement when it was last looked at.
    seen: Option<Arc<Message>>,
    /// By number of the message, for whom at that edge each is, if not for all: as long as it is in the mailbox.
    to: BTreeMap<Number, Addressed>,
}

/// A sender, and its number of a message.
type Number = (Option<String>, u64);

/// The room of a message, and whom in it it names.
type Addressed = (String, Option<Vec<String>>);

/// Messages that come from people at other edges.
#[derive(Debug, Default)]
pub(in crate::engine) struct Arrivals {
    /// By sender: for whom here its messages wait.
    sent: BTreeMap<String, Sent<PeerId>>,
    /// By node: a message whose parts have not all come.
    begun: BTreeMap<String, Assembly>,
}

impl Arrivals {
    /// Somebody elsewhere has left.
    pub(in crate::engine) fn left(&mut self, id: &str) {
        self.sent.remove(id);
    }
}

impl Engine {
    /// Sends a message to the people of a room at other edges; who will acknowledge it.
    pub(in crate::engine) fn send_across(
        &mut self,
        room: &str,
        to: Option<&[String]>,
        message: &Arc<Message>,
    ) -> Vec<PeerId> {
        let Some(found) = self.room(room) else { return Vec::new() };
        let mut nodes: BTreeMap<String, Vec<PeerId>> = BTreeMap::new();
        for member in found.members().iter().filter(|member| to.is_none_or(|to| to.contains(&member.id))) {
            if let Some(elsewhere) = &member.elsewhere {
                nodes.entry(elsewhere.node.clone()).or_default().push(member.peer);
            }
        }
        let mut waits_for = Vec::new();
        for (node, people) in nodes {
            let Some(id) = message.id else {
                self.tell_parts(&node, room, to, message);
                continue;
            };
            let courier = self.edges.couriers.entry(node.clone()).or_default();
            if courier.mailbox.push(message.clone()) == crate::data::Delivery::Slow {
                // As where one receiver is too slow: nobody waits for that edge.
                courier.to.clear();
                self.totals.data_given_up += 1;
                continue;
            }
            courier.to.insert((message.from.clone(), id), (room.to_owned(), to.map(<[String]>::to_vec)));
            waits_for.extend(people);
            self.courier(&node);
        }
        waits_for
    }

    /// Hands on what waits for an edge, as far as it has acknowledged.
    fn courier(&mut self, node: &str) {
        while let Some(courier) = self.edges.couriers.get_mut(node)
            && let Some(message) = courier.mailbox.next(Way::Socket)
        {
            let key = (message.from.clone(), message.id.unwrap_or_default());
            if let Some((room, to)) = courier.to.get(&key).cloned() {
                self.tell_parts(node, &room, to.as_deref(), &message);
            }
        }
    }

    fn tell_parts(&mut self, node: &str, room: &str, to: Option<&[String]>, message: &Arc<Message>) {
        // As bytes also where it is text, whose length in JSON nobody knows.
        let (is_text, bytes) = match &message.payload {
            Payload::Text(text) => (true, text.clone().into_bytes()),
            Payload::Binary(bytes) => (false, bytes.clone()),
        };
        let bytes = Message { payload: Payload::Binary(bytes), ..Message::clone(message) };
        for part in parts(&bytes) {
            let ServerSignal::Data(part) = part else { continue };
            let channel = message.channel.clone();
            let (room, to, stream) = (room.to_owned(), to.map(<[String]>::to_vec), message.stream);
            self.tell_node(node, &Telling::Data(Box::new(DataSaid { room, to, is_text, channel, stream, part })));
        }
    }

    /// A message, or a part of one, of somebody at another edge.
    pub(super) fn data_said(&mut self, now: Instant, from: &Sender, said: DataSaid) {
        let DataSaid { room, to, is_text, channel, stream, part } = said;
        let DataReceived { from: sender, label, reliable, id, binary, more, .. } = part;
        let Some(hosted) = self.rooms.get_mut(&room) else { return };
        // A node speaks for its own people, and for the application's server that has asked it.
        let is_theirs = |id: &String| {
            let member = hosted.room.member_by_id(id);
            member.and_then(|member| member.elsewhere.as_ref()).is_some_and(|elsewhere| elsewhere.node == from.node)
        };
        if !sender.as_ref().is_none_or(is_theirs) {
            self.totals.edge_messages_refused += 1;
            return;
        }
        let part = DataSent { label, to: None, reliable, id, text: None, binary, more };
        let (sent, payload) = match hosted.remote.arrivals.begun.entry(from.node.clone()).or_default().take(part) {
            Ok(Some(whole)) => whole,
            Ok(None) => return,
            Err(_) => {
                self.totals.edge_messages_refused += 1;
                return;
            }
        };
        let payload = match payload {
            Payload::Binary(bytes) if is_text => Payload::Text(String::from_utf8_lossy(&bytes).into_owned()),
            payload => payload,
        };
        let (key, len) = (sender.clone().unwrap_or_default(), payload.len());
        if let Some(id) = sent.id {
            let of_sender = hosted.remote.arrivals.sent.entry(key.clone()).or_default();
            match of_sender.look(id, len) {
                Taking::New => {}
                Taking::Known => {
                    let told = of_sender.told();
                    if told >= id {
                        self.tell_node(&from.node, &Telling::DataAcked { room, peer: sender, id: told });
                    }
                    return;
                }
                Taking::OutOfOrder | Taking::TooMuch => return, // It is said again.
            }
        }
        let message = Arc::new(Message { from: sender, label: sent.label, id: sent.id, payload, channel, stream });
        let waits_for = self.deliver_here(now, &room, None, to.as_deref(), &message);
        let Some(hosted) = self.rooms.get_mut(&room) else { return };
        let mut behind = Vec::new();
        if let Some(id) = message.id {
            let of_sender = hosted.remote.arrivals.sent.entry(key.clone()).or_default();
            of_sender.note(id, len, waits_for);
            behind = of_sender.behind();
        }
        for receiver in behind {
            self.too_slow(now, Handle::of(receiver));
            self.exchange(now, Handle::of(receiver));
        }
        self.acked_across(&room, &key, |_| {});
    }

    /// Something changes in what messages of somebody elsewhere wait for; its edge learns what all here have.
    pub(in crate::engine) fn acked_across(&mut self, room: &str, sender: &str, change: impl FnOnce(&mut Sent<PeerId>)) {
        let Some(hosted) = self.rooms.get_mut(room) else { return };
        let Some(of_sender) = hosted.remote.arrivals.sent.get_mut(sender) else { return };
        change(of_sender);
        let Some(id) = of_sender.poll_acked() else { return };
        let peer = (!sender.is_empty()).then(|| sender.to_owned());
        let node = hosted.room.member_by_id(sender).and_then(|member| member.elsewhere.as_ref());
        match node.map(|elsewhere| elsewhere.node.clone()) {
            Some(node) => self.tell_node(&node, &Telling::DataAcked { room: room.to_owned(), peer, id }),
            // Of an application's server it is not noted which node it has asked: all are told, and one of them waits.
            None if sender.is_empty() => {
                for node in hosted.remote.parts.keys().cloned().collect::<Vec<_>>() {
                    self.tell_node(&node, &Telling::DataAcked { room: room.to_owned(), peer: None, id });
                }
            }
            None => {}
        }
    }

    /// Somebody here has left a room, or what waited for it was given up.
    pub(in crate::engine) fn no_longer_waited_for_across(&mut self, room: &str, receiver: PeerId) {
        let Some(hosted) = self.rooms.get(room) else { return };
        for sender in hosted.remote.arrivals.sent.keys().cloned().collect::<Vec<_>>() {
            self.acked_across(room, &sender, |sent| sent.forget(&receiver));
        }
    }

    /// All people at another edge have the messages of somebody here up to one.
    pub(super) fn data_acked_there(&mut self, now: Instant, from: &Sender, room: &str, peer: Option<&str>, id: u64) {
        if let Some(courier) = self.edges.couriers.get_mut(&from.node) {
            courier.mailbox.acked(peer, id);
            courier.to.retain(|(sender, number), _| sender.as_deref() != peer || *number > id);
        }
        self.courier(&from.node);
        let Some(found) = self.room(room) else { return };
        let is_there = |node: &str| node == from.node;
        let there = found.members().iter().filter(|m| m.elsewhere.as_ref().is_some_and(|e| is_there(&e.node)));
        let there: Vec<PeerId> = there.map(|member| member.peer).collect();
        let Some(sender) = peer.and_then(|peer| found.member_by_id(peer)) else { return };
        let handle = Handle::of(sender.peer);
        let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.data.as_deref_mut()) else { return };
        there.iter().for_each(|receiver| exchange.sent.acked(receiver, id));
        if let Some(id) = exchange.sent.poll_acked() {
            exchange.tell(now, ServerSignal::DataAcked { id });
            self.exchange(now, handle);
        }
    }

    /// Says again what an edge has not acknowledged since the last look; forgets what is for nodes that are gone.
    pub(super) fn look_after_couriers(&mut self) {
        let nodes = &self.edges.nodes;
        self.edges.couriers.retain(|node, courier| nodes.contains_key(node) && !courier.mailbox.is_empty());
        for node in self.edges.couriers.keys().cloned().collect::<Vec<_>>() {
            let Some(courier) = self.edges.couriers.get_mut(&node) else { continue };
            let oldest = courier.mailbox.on_its_way().cloned();
            let stands = matches!((&oldest, &courier.seen), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
            courier.seen = oldest;
            if stands {
                courier.mailbox.again();
                self.courier(&node);
            }
        }
    }
}
