//! What one peer has of data: its association, what waits for it, and what it has sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::id::PeerId;
use proto::signal::{DataEndReason, DataSent, ServerSignal};

use super::association::{Association, Channel, ChannelEvent, Given, begins};
use super::mailbox::{Delivery, Mailbox, Way};
use super::message::{Assembly, Message, MessageError, Payload, frame, parts};
use super::sent::Sent;
use super::{DATAGRAM_COST, LOSSY_LEN_SOCKET_MAX};
use crate::bucket::TokenBucket;
use crate::negotiated::DataChannels;

/// What is to be done for a peer.
#[derive(Debug)]
pub(crate) enum Exchanged {
    /// Send this packet of SCTP.
    Packet(Vec<u8>),
    /// Send this signal on its socket.
    Signal(ServerSignal),
}

/// What became of a message for a client of another kind than the client module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RawDelivery {
    /// It is on its way, or has no place there.
    Taken,
    /// The client took messages more slowly than they came, and its channel is closed.
    Slow,
    /// It is longer than the client takes.
    TooLong,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// What was agreed of channels, if they are served, and whether we are the DTLS client.
    agreed: Option<(DataChannels, bool)>,
    association: Option<Association>,
    mailbox: Mailbox,
    assembly: Assembly,
    /// What it has sent, for whom it waits.
    pub(crate) sent: Sent<PeerId>,
    /// What it may send.
    credit: TokenBucket,
    burst: f64,
    /// Numbers of the reliable messages of a client that has none of its own.
    numbered: u64,
    /// Whether its messages wait until a receiver has room for them.
    pub(crate) is_paused: bool,
    /// Whether a client of another kind was told that it may not send, and that a message for it was too long.
    was_refused: bool,
    was_too_long: bool,
    /// Signals for its socket.
    signals: Vec<ServerSignal>,
}

impl Exchange {
    /// Of a peer that may send so much.
    pub(crate) fn new(bps_max: u32) -> Exchange {
        let rate = f64::from(bps_max / 8);
        let burst = rate.max(64.0 * 1024.0);
        Exchange {
            agreed: None,
            association: None,
            mailbox: Mailbox::default(),
            assembly: Assembly::default(),
            sent: Sent::default(),
            credit: TokenBucket::new(burst, rate),
            burst,
            numbered: 0,
            is_paused: false,
            was_refused: false,
            was_too_long: false,
            signals: Vec::new(),
        }
    }

    /// What is agreed of channels now, and whether we are the DTLS client.
    pub(crate) fn agree(&mut self, agreed: Option<(DataChannels, bool)>) {
        self.agreed = agreed;
    }

    /// Whether the peer may send a datagram of so many bytes now; then it counts.
    pub(crate) fn admits(&mut self, now: Instant, len: usize) -> bool {
        let has_some = self.credit.left(now) > 0.0;
        if has_some {
            self.spend(now, len + DATAGRAM_COST);
        }
        has_some
    }

    /// Whether it has half of what it may send at once yet.
    pub(crate) fn has_used_little(&mut self, now: Instant) -> bool {
        self.credit.left(now) > self.burst / 2.0
    }

    /// Counts so many bytes of what the peer may send.
    pub(crate) fn spend(&mut self, now: Instant, len: usize) {
        let _ = self.credit.spend(now, len); // What is too much is refused later.
    }

    /// Takes a packet of SCTP.
    pub(crate) fn take_packet(&mut self, now: Instant, packet: &[u8]) {
        let Some((agreed, is_client)) = self.agreed else { return };
        if self.association.is_none() && begins(packet) {
            self.association = Some(Association::new(now, agreed, is_client));
        }
        if let Some(association) = &mut self.association {
            association.handle(now, packet);
        }
    }

    /// Takes a part of a message of its socket. `Some`: it is whole.
    pub(crate) fn take_part(&mut self, part: DataSent) -> Result<Option<(DataSent, Payload)>, MessageError> {
        self.assembly.take(part)
    }

    /// What happened on its association next.
    pub(crate) fn poll_event(&mut self) -> Option<ChannelEvent> {
        let event = self.association.as_mut()?.poll_event(self.is_paused)?;
        if let ChannelEvent::Ended(_) = &event {
            self.association = None;
            self.mailbox.again();
        }
        Some(event)
    }

    /// The channel on a stream.
    pub(crate) fn channel(&self, stream: u16) -> Option<&Channel> {
        self.association.as_ref()?.channel(stream)
    }

    /// Whether it is a client of another kind than the client module, which opens its channels at once.
    pub(crate) fn is_of_others(&self, now: Instant) -> bool {
        self.association.as_ref().is_some_and(|association| {
            let is_of_sdk = |(_, channel): (u16, &Channel)| channel.of_sdk().is_some();
            let has_time = now < association.begun() + OPENING_TIME && association.channels().next().is_none();
            !has_time && !association.channels().any(is_of_sdk)
        })
    }

    /// Bytes of messages that wait for it, if it is a client of another kind than the client module.
    pub(crate) fn waiting(&self) -> usize {
        self.association.as_ref().map_or(0, Association::waiting)
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(association) = &mut self.association
            && association.poll_timeout().is_some_and(|due| due <= now)
        {
            association.handle_timeout(now);
        }
    }

    /// When [`Exchange::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let association = self.association.as_ref()?;
        let opening = (!self.mailbox.is_empty() && association.channels().next().is_none())
            .then(|| association.begun() + OPENING_TIME);
        [association.poll_timeout(), opening].into_iter().flatten().min()
    }

    /// The number of a reliable message of a client that gives none.
    pub(crate) fn number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    /// Takes a reliable message for a client module.
    pub(crate) fn deliver(&mut self, message: Arc<Message>) -> Delivery {
        self.mailbox.push(message)
    }

    /// Gives up what waits for it.
    pub(crate) fn give_up(&mut self) {
        self.mailbox = Mailbox::default();
    }

    /// The client has all messages of `from` up to this one.
    pub(crate) fn acked(&mut self, from: Option<&str>, id: u64) {
        self.mailbox.acked(from, id);
    }

    /// Its socket is another one: what was sent on the one before may be lost.
    pub(crate) fn socket_changed(&mut self) {
        self.assembly = Assembly::default();
        if self.way(true) == Some(Way::Socket)
            || self.mailbox.on_its_way().is_some_and(|message| message.is_for_socket())
        {
            self.mailbox.again();
        }
    }

    /// A message that is not reliable, for a client module.
    pub(crate) fn deliver_lossy(&mut self, now: Instant, message: &Message, has_socket: bool) {
        match self.association.as_mut().and_then(|association| Some((association.of_sdk(false)?, association))) {
            Some((stream, association)) if !message.is_for_socket() => {
                let (is_text, bytes) = frame(message);
                association.send(now, stream, is_text, bytes);
            }
            Some(_) => {}
            None if has_socket && message.payload.len() <= LOSSY_LEN_SOCKET_MAX => self.signals.extend(parts(message)),
            None => {}
        }
    }

    /// A message for a client of another kind: on its channel of that label, which is opened like the sender's if there is none.
    pub(crate) fn deliver_raw(&mut self, now: Instant, message: &Message) -> RawDelivery {
        let (of, stream) = (&message.channel, message.stream);
        let Some(association) = &mut self.association else { return RawDelivery::Taken };
        let found = if of.is_negotiated {
            let is_free = association.channel(stream).is_none_or(|channel| channel.is_negotiated);
            (is_free && (association.channel(stream).is_some() || association.assume(stream))).then_some(stream)
        } else {
            association.labelled(&of.label).or_else(|| association.open(now, of.clone()))
        };
        let Some(stream) = found else { return RawDelivery::Taken };
        let (is_text, bytes) = match &message.payload {
            Payload::Text(text) => (true, text.clone().into_bytes()),
            Payload::Binary(bytes) => (false, bytes.clone()),
        };
        match association.send(now, stream, is_text, bytes) {
            Given::Sent | Given::Dropped => RawDelivery::Taken,
            Given::Full => {
                association.close(now, stream);
                RawDelivery::Slow
            }
            Given::TooLong => {
                if !std::mem::replace(&mut self.was_too_long, true) {
                    self.signals.push(ServerSignal::DataEnded { reason: DataEndReason::TooLong });
                }
                RawDelivery::TooLong
            }
        }
    }

    /// Notes whether a message of a client of another kind was refused. True: it is to be told, on its socket, as a channel has no place for it.
    pub(crate) fn note_refusal(&mut self, is_refused: bool) -> bool {
        !std::mem::replace(&mut self.was_refused, is_refused) && is_refused
    }

    /// Says something on its channel, or else on its socket.
    pub(crate) fn tell(&mut self, now: Instant, signal: ServerSignal) {
        if let Some(association) = &mut self.association
            && let Some(stream) = association.of_sdk(true)
        {
            let text = serde_json::to_vec(&signal).expect("signals have nothing that JSON cannot say");
            association.send(now, stream, true, text);
            return;
        }
        self.signals.push(signal);
    }

    /// Hands on what waits, as far as the client takes it, and gives what is to be sent for it.
    pub(crate) fn poll(&mut self, now: Instant, is_sdk: bool, has_socket: bool) -> Vec<Exchanged> {
        if !is_sdk && !self.mailbox.is_empty() && self.is_of_others(now) {
            // They came before it was known what kind of client it is.
            for message in std::mem::take(&mut self.mailbox).into_waiting() {
                self.deliver_raw(now, &message);
            }
        }
        if is_sdk && let Some(way) = self.way(has_socket) {
            while let Some(message) = self.next(way, has_socket) {
                match (way, &mut self.association) {
                    (Way::Channel(stream), Some(association)) if !message.is_for_socket() => {
                        let (is_text, bytes) = frame(&message);
                        association.send(now, stream, is_text, bytes);
                    }
                    _ => self.signals.extend(parts(&message)),
                }
            }
        }
        let packets = std::iter::from_fn(|| self.association.as_mut()?.poll_packet()).map(Exchanged::Packet);
        let mut exchanged: Vec<Exchanged> = packets.collect();
        let signals = std::mem::take(&mut self.signals);
        exchanged.extend(signals.into_iter().filter(|_| has_socket).map(Exchanged::Signal));
        exchanged
    }

    /// The next message that may go now.
    fn next(&mut self, way: Way, has_socket: bool) -> Option<Arc<Message>> {
        if let Way::Channel(stream) = way {
            // What is on the socket meanwhile would be overtaken, and dropped as one that was there before.
            if self.mailbox.on_its_way().is_some_and(|message| message.is_for_socket()) {
                return None;
            }
            let is_large = self.mailbox.peek(way)?.is_for_socket();
            if is_large && (self.mailbox.on_its_way().is_some() || !has_socket) {
                return None;
            }
            // It waits here, where it can still be given up, and not in SCTP.
            if self.association.as_ref()?.buffered(stream) > CHANNEL_LEN_ENOUGH {
                return None;
            }
        }
        self.mailbox.next(way)
    }

    fn way(&self, has_socket: bool) -> Option<Way> {
        let channel = self.association.as_ref().and_then(|association| association.of_sdk(true));
        channel.map(Way::Channel).or(has_socket.then_some(Way::Socket))
    }
}

/// How long a client has to open its first channel until it is taken for one that has agreed on its channels elsewhere.
const OPENING_TIME: Duration = Duration::from_secs(2);

/// Bytes of messages that wait in SCTP, beside the last one: enough for its next turns.
const CHANNEL_LEN_ENOUGH: usize = 128 * 1024;
