//! Data between the peers of a room: from a peer's channel or socket to the others'.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use proto::id::PeerId;
use proto::plane::{DatagramHeader, DatagramKind};
use proto::signal::{DataEndReason, DataSent, ErrorCode, ServerSignal};

use super::{Engine, Handle, Output};
use crate::data::{
    CHANNEL_LEN_FULL, CHANNEL_LEN_LOW, ChannelEvent, Delivery, Exchange, Exchanged, Framed, MESSAGE_COST, Message,
    Payload, RawDelivery, Taking, parse_frame, relayed,
};
use crate::happening::Happening;

/// Part of what all peers together may send that is kept for those who have sent little.
const KEPT: f64 = 0.25;

const NOT_ALLOWED: &str = "the token does not allow to send data, or this server carries none";

impl Engine {
    /// Whether a datagram of a peer's data is looked at: a peer has a rate, and all together have one. Where the latter runs short, those who
    /// have used up half of their own wait first.
    pub(super) fn admits_data(&mut self, now: Instant, handle: Handle, len: usize) -> bool {
        let is_short = self.data_credit.left(now) < KEPT * f64::from(crate::data::DATA_TOTAL);
        let is_empty = self.data_credit.left(now) <= 0.0;
        let bps_max = self.settings.data_bps_max;
        let Some(peer) = self.peers.get_mut(&handle) else { return false };
        let is_admitted = match peer.exchange(bps_max) {
            Some(exchange) => (!is_short || exchange.has_used_little(now)) && exchange.admits(now, len),
            // Without data channels it is the end of a handshake, or of the connection.
            None => !is_short,
        };
        if !is_admitted || is_empty {
            self.totals.data_over_rate += 1;
            return false;
        }
        let _ = self.data_credit.spend(now, len); // What is too much is refused later.
        true
    }

    /// Application data of a peer's DTLS.
    pub(super) fn data_received(&mut self, now: Instant, handle: Handle, records: &[Vec<u8>]) {
        let bps_max = self.settings.data_bps_max;
        let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.exchange(bps_max)) else { return };
        records.iter().for_each(|packet| exchange.take_packet(now, packet));
        self.channel_events(now, handle);
    }

    /// What a peer's association has to do by now.
    pub(super) fn data_due(&mut self, now: Instant, handle: Handle) {
        if let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.data.as_deref_mut()) {
            exchange.handle_timeout(now);
            self.channel_events(now, handle);
        }
    }

    fn channel_events(&mut self, now: Instant, handle: Handle) {
        while let Some(peer) = self.peers.get_mut(&handle)
            && let Some(event) = peer.data.as_deref_mut().and_then(|exchange| exchange.poll_event())
        {
            match event {
                ChannelEvent::Opened(stream) => {
                    let of_sdk = peer.data.as_deref().and_then(|exchange| exchange.channel(stream)?.of_sdk());
                    if of_sdk == Some(true) {
                        self.is_of_sdk(handle);
                    }
                }
                ChannelEvent::Message { stream, is_text, bytes } => {
                    self.channel_message(now, handle, stream, is_text, bytes);
                }
                ChannelEvent::Closed(_) | ChannelEvent::Ended(_) => {}
            }
        }
        self.exchange(now, handle);
    }

    /// A client acknowledges messages: it is the client module. A successor of ours learns it, too.
    fn is_of_sdk(&mut self, handle: Handle) {
        let Some(peer) = self.peers.get_mut(&handle) else { return };
        if !std::mem::replace(&mut peer.negotiated.is_sdk, true) {
            self.journal(handle);
        }
    }

    fn channel_message(&mut self, now: Instant, handle: Handle, stream: u16, is_text: bool, bytes: Vec<u8>) {
        let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.data.as_deref_mut()) else { return };
        let Some(channel) = exchange.channel(stream).cloned() else { return };
        if channel.of_sdk().is_some() {
            return match parse_frame(is_text, &bytes) {
                Ok(Framed::Sent(sent, payload)) => self.data_sent(now, handle, sent, payload),
                Ok(Framed::Ack { from, id }) => self.data_acked(now, handle, from.as_deref(), id),
                Err(error) => self.refuse_data(now, handle, &error.to_string()),
            };
        }
        let is_refused = !self.may_send_data(handle);
        let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.data.as_deref_mut()) else { return };
        let is_news = exchange.note_refusal(is_refused);
        if is_refused {
            self.totals.data_refused += 1;
            if is_news {
                self.data_error(now, handle, ErrorCode::DataRefused, NOT_ALLOWED);
            }
            return;
        }
        let id = channel.reliability.is_whole().then(|| exchange.number());
        let payload = match is_text {
            true => Payload::Text(String::from_utf8(bytes).expect("an association gives no other")),
            false => Payload::Binary(bytes),
        };
        let Some(from) = self.member(handle).map(|member| member.id.clone()) else { return };
        let label = channel.label.clone();
        let is_whole = id.is_some();
        self.relay(now, handle, None, &Arc::new(Message { from: Some(from), label, id, payload, channel, stream }));
        if is_whole {
            self.pause_if_full(handle);
        }
    }

    /// Reads no more of a client of another kind than the client module while much waits at all receivers of its kind.
    fn pause_if_full(&mut self, handle: Handle) {
        let Some(room) = self.peers.get(&handle).map(|peer| peer.room.clone()) else { return };
        let others = self.members_of(&room).into_iter().filter(|other| *other != handle);
        let exchanges = others.filter_map(|other| self.peers.get(&other)?.data.as_deref());
        let of_others = exchanges.filter(|exchange| exchange.is_of_others(self.now.unwrap_or_else(Instant::now)));
        let is_full = of_others.map(Exchange::waiting).min().is_some_and(|least| least > CHANNEL_LEN_FULL);
        if is_full && let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.data.as_deref_mut()) {
            exchange.is_paused = true;
            self.paused.insert(handle);
        }
    }

    /// Goes on with those who were paused in a room, when a receiver there has room again or has left.
    fn go_on(&mut self, now: Instant, room: &str) {
        let is_there = |handle: &&Handle| self.peers.get(handle).is_none_or(|peer| peer.room == room);
        for handle in self.paused.iter().filter(is_there).copied().collect::<Vec<_>>() {
            self.paused.remove(&handle);
            if let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.data.as_deref_mut()) {
                exchange.is_paused = false;
                self.channel_events(now, handle);
            }
        }
    }

    /// A message, or a part of one, on a socket.
    pub(super) fn data_signal(&mut self, now: Instant, handle: Handle, part: DataSent) {
        self.is_of_sdk(handle);
        let bps_max = self.settings.data_bps_max;
        let Some(exchange) = self.peers.get_mut(&handle).map(|peer| peer.exchange_any(bps_max)) else { return };
        match exchange.take_part(part) {
            Ok(None) => {}
            Ok(Some((sent, payload))) => {
                exchange.spend(now, payload.len());
                self.data_sent(now, handle, sent, payload);
                self.exchange(now, handle);
            }
            Err(error) => {
                self.refuse_data(now, handle, &error.to_string());
                self.exchange(now, handle);
            }
        }
    }

    /// The same of an acknowledgement.
    pub(super) fn data_ack_signal(&mut self, now: Instant, handle: Handle, from: Option<&str>, id: u64) {
        self.is_of_sdk(handle);
        self.data_acked(now, handle, from, id);
        self.exchange(now, handle);
    }

    fn may_send_data(&self, handle: Handle) -> bool {
        self.settings.data_bps_max > 0 && self.member(handle).is_some_and(|member| member.grant.data)
    }

    fn refuse_data(&mut self, now: Instant, handle: Handle, why: &str) {
        self.totals.data_refused += 1;
        self.data_error(now, handle, ErrorCode::DataRefused, why);
    }

    fn data_error(&mut self, now: Instant, handle: Handle, code: ErrorCode, why: &str) {
        self.tell_data(now, handle, ServerSignal::Error { code, message: why.to_owned(), fatal: false });
    }

    fn tell_data(&mut self, now: Instant, handle: Handle, signal: ServerSignal) {
        if let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.data.as_deref_mut()) {
            exchange.tell(now, signal);
        }
    }

    /// A message of a client module, whole.
    fn data_sent(&mut self, now: Instant, handle: Handle, sent: DataSent, payload: Payload) {
        if !self.may_send_data(handle) {
            return self.refuse_data(now, handle, NOT_ALLOWED);
        }
        let Some(from) = self.member(handle).map(|member| member.id.clone()) else { return };
        let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.data.as_deref_mut()) else { return };
        let len = payload.len() + sent.label.len();
        if let Some(id) = sent.id {
            match exchange.sent.look(id, len) {
                Taking::New => {}
                // It is told again what may have been lost with a socket.
                Taking::Known => {
                    let told = exchange.sent.told();
                    if told >= id {
                        exchange.tell(now, ServerSignal::DataAcked { id: told });
                    }
                    return;
                }
                Taking::OutOfOrder => return,
                Taking::TooMuch => {
                    self.totals.data_refused += 1;
                    let why =
                        format!("message {id} and those after it are not taken: too much is not acknowledged yet");
                    return self.data_error(now, handle, ErrorCode::TooMuch, &why);
                }
            }
        }
        let message = relayed(Some(from), &sent.label, sent.id, payload);
        let waits_for = self.relay(now, handle, sent.to.as_deref(), &message);
        let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.data.as_deref_mut()) else { return };
        if let Some(id) = sent.id {
            exchange.sent.note(id, len, waits_for);
            for receiver in exchange.sent.behind() {
                self.too_slow(now, Handle::of(receiver));
                self.exchange(now, Handle::of(receiver));
            }
            let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.data.as_deref_mut()) else { return };
            if let Some(id) = exchange.sent.poll_acked() {
                exchange.tell(now, ServerSignal::DataAcked { id });
            }
        }
    }

    /// A message of the application's server.
    pub(super) fn data_of_server(&mut self, now: Instant, room: &str, to: Option<&[String]>, message: &Arc<Message>) {
        self.relay_in(now, room, None, to, message);
    }

    /// Somebody whose messages are acknowledged by all of an edge together is not here any more.
    pub(super) fn sender_left_across(&mut self, room: &str, id: &str) {
        if let Some(hosted) = self.rooms.get_mut(room) {
            hosted.remote.arrivals.left(id);
        }
    }

    /// Hands a message to all whom it is for; who will acknowledge it.
    fn relay(&mut self, now: Instant, from: Handle, to: Option<&[String]>, message: &Arc<Message>) -> BTreeSet<PeerId> {
        let Some(room) = self.peers.get(&from).map(|peer| peer.room.clone()) else { return BTreeSet::new() };
        self.relay_in(now, &room, Some(from), to, message)
    }

    fn relay_in(
        &mut self,
        now: Instant,
        room: &str,
        from: Option<Handle>,
        to: Option<&[String]>,
        message: &Arc<Message>,
    ) -> BTreeSet<PeerId> {
        let mut waits_for = self.deliver_here(now, room, from, to, message);
        waits_for.extend(self.send_across(room, to, message));
        waits_for
    }

    /// Hands a message to those at this edge whom it is for; who will acknowledge it.
    pub(super) fn deliver_here(
        &mut self,
        now: Instant,
        room: &str,
        from: Option<Handle>,
        to: Option<&[String]>,
        message: &Arc<Message>,
    ) -> BTreeSet<PeerId> {
        let Some(found) = self.room(room) else { return BTreeSet::new() };
        let is_meant = |id: &String| to.is_none_or(|to| to.contains(id));
        let receivers = found.members().iter().filter(|member| member.elsewhere.is_none() && member.grant.subscribe);
        let receivers: Vec<Handle> = receivers
            .filter(|member| is_meant(&member.id))
            .map(|member| Handle::of(member.peer))
            .filter(|handle| Some(*handle) != from)
            .collect();
        self.totals.data_messages += 1;
        let cost = MESSAGE_COST * (1 + receivers.len()) + message.payload.len() * receivers.len();
        let _ = self.data_credit.spend(now, cost); // What is too much is refused later.
        if let Some(exchange) = from.and_then(|from| self.peers.get_mut(&from)?.data.as_deref_mut()) {
            exchange.spend(now, MESSAGE_COST);
        }
        let (bps_max, mut waits_for) = (self.settings.data_bps_max, BTreeSet::new());
        for handle in receivers {
            let has_socket = self.sockets.of(handle).is_some();
            let Some(peer) = self.peers.get_mut(&handle) else { continue };
            let is_sdk = peer.negotiated.is_sdk;
            let Some(exchange) = peer.exchange(bps_max) else { continue };
            let mut is_slow = false;
            match message.id {
                _ if !is_sdk && exchange.is_of_others(now) => match exchange.deliver_raw(now, message) {
                    RawDelivery::Taken => {}
                    RawDelivery::Slow => is_slow = true,
                    RawDelivery::TooLong => self.totals.data_too_long += 1,
                },
                Some(_) => match exchange.deliver(message.clone()) {
                    Delivery::Taken if is_sdk => {
                        waits_for.insert(handle.peer);
                    }
                    Delivery::Taken => {} // Who has not said yet that it acknowledges is not waited for.
                    Delivery::Slow => is_slow = is_sdk,
                },
                None if is_sdk => exchange.deliver_lossy(now, message, has_socket),
                None => {}
            }
            if is_slow {
                self.too_slow(now, handle);
            }
            self.exchange(now, handle);
        }
        waits_for
    }

    /// What waited for a peer was given up: nobody waits for it any more, and it is told.
    pub(super) fn too_slow(&mut self, now: Instant, handle: Handle) {
        self.totals.data_given_up += 1;
        if let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.data.as_deref_mut()) {
            exchange.give_up();
        }
        self.tell_data(now, handle, ServerSignal::DataEnded { reason: DataEndReason::Slow });
        if let Some(who) = self.who(handle) {
            self.happened(Happening::DataGivenUp { who });
        }
        let Some(room) = self.peers.get(&handle).map(|peer| peer.room.clone()) else { return };
        self.no_longer_waited_for(&room, handle);
    }

    /// A peer has left the room, or what waited for it was given up: senders learn who has everything now.
    pub(super) fn no_longer_waited_for(&mut self, room: &str, receiver: Handle) {
        let Some(now) = self.now else { return };
        self.no_longer_waited_for_across(room, receiver.peer);
        if !self.paused.is_empty() {
            self.go_on(now, room);
        }
        for handle in self.members_of(room) {
            let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.data.as_deref_mut()) else {
                continue;
            };
            if exchange.sent.is_empty() {
                continue;
            }
            exchange.sent.forget(&receiver.peer);
            if let Some(id) = exchange.sent.poll_acked() {
                exchange.tell(now, ServerSignal::DataAcked { id });
                self.exchange(now, handle);
            }
        }
    }

    /// A client has all messages of somebody up to one.
    fn data_acked(&mut self, now: Instant, handle: Handle, from: Option<&str>, id: u64) {
        let Some(peer) = self.peers.get_mut(&handle) else { return };
        if let Some(exchange) = peer.data.as_deref_mut() {
            exchange.acked(from, id);
        }
        let sender = from.and_then(|from| self.room_of(handle)?.member_by_id(from));
        let room = self.peers.get(&handle).map(|peer| peer.room.clone()).unwrap_or_default();
        let Some(sender) = sender.filter(|member| member.elsewhere.is_none()).map(|member| Handle::of(member.peer))
        else {
            // Somebody elsewhere, or the application's server by another edge.
            return self.acked_across(&room, from.unwrap_or_default(), |sent| sent.acked(&handle.peer, id));
        };
        let Some(exchange) = self.peers.get_mut(&sender).and_then(|peer| peer.data.as_deref_mut()) else { return };
        exchange.sent.acked(&handle.peer, id);
        if let Some(id) = exchange.sent.poll_acked() {
            exchange.tell(now, ServerSignal::DataAcked { id });
            self.exchange(now, sender);
        }
    }

    /// A peer is back on another socket.
    pub(super) fn data_resumed(&mut self, now: Instant, handle: Handle) {
        if let Some(exchange) = self.peers.get_mut(&handle).and_then(|peer| peer.data.as_deref_mut()) {
            exchange.socket_changed();
            self.exchange(now, handle);
        }
    }

    /// Sends what there is to send for a peer, and sets its clock.
    pub(super) fn exchange(&mut self, now: Instant, handle: Handle) {
        let socket = self.sockets.of(handle);
        let Some(peer) = self.peers.get_mut(&handle) else { return };
        let is_sdk = peer.negotiated.is_sdk;
        let Some(exchange) = peer.data.as_deref_mut() else { return };
        for exchanged in exchange.poll(now, is_sdk, socket.is_some()) {
            match exchanged {
                Exchanged::Signal(signal) => {
                    self.outputs.extend(socket.map(|socket| Output::Signal { socket, signal }));
                }
                Exchanged::Packet(packet) => {
                    peer.transport.send_data(now, &packet);
                    while let Some((remote, payload)) = peer.transport.poll_transmit() {
                        let len = u16::try_from(payload.len()).expect("DTLS datagrams are at most 1200 bytes");
                        let header = DatagramHeader { kind: DatagramKind::Data, peer: handle.peer, remote, len };
                        self.outputs.push_back(Output::Inject { worker: handle.worker, header, payload });
                    }
                }
            }
        }
        let has_room = !self.paused.is_empty() && exchange.waiting() <= CHANNEL_LEN_LOW;
        let room = has_room.then(|| peer.room.clone());
        self.set_clock(handle);
        if let Some(room) = room.filter(|_| !self.paused.contains(&handle)) {
            self.go_on(now, &room);
        }
    }
}
