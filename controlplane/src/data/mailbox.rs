//! Reliable messages for one client module: what waits, and what is on its way without an acknowledgement. Bounded by bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::message::Message;
use super::{FLIGHT_LEN_CHANNEL, FLIGHT_LEN_SOCKET, FLIGHT_SOCKET_MAX, MAILBOX_LEN_MAX};

/// How messages reach a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// By the module's channel on this stream.
    Channel(u16),
    /// By the signalling socket.
    Socket,
}

/// What a message that is to be delivered finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Delivery {
    /// A place.
    Taken,
    /// More than [`MAILBOX_LEN_MAX`] waits: all of it is given up, and this one with it.
    Slow,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    waiting: VecDeque<Arc<Message>>,
    flight: VecDeque<Arc<Message>>,
    len: usize,
    flight_len: usize,
    /// How what is in `flight` was sent.
    way: Option<Way>,
}

impl Mailbox {
    /// Takes a message.
    pub(crate) fn push(&mut self, message: Arc<Message>) -> Delivery {
        if self.len + message.len() > MAILBOX_LEN_MAX {
            *self = Mailbox { way: self.way, ..Mailbox::default() };
            return Delivery::Slow;
        }
        self.len += message.len();
        self.waiting.push_back(message);
        Delivery::Taken
    }

    /// The next message to send, if the client has acknowledged enough of those before. By another way than before it begins again with the
    /// first that is not acknowledged: the client knows by the number what it has.
    pub(crate) fn next(&mut self, way: Way) -> Option<Arc<Message>> {
        if self.way != Some(way) {
            self.again();
            self.way = Some(way);
        }
        let (len_max, count_max) = match way {
            Way::Channel(_) => (FLIGHT_LEN_CHANNEL, usize::MAX),
            Way::Socket => (FLIGHT_LEN_SOCKET, FLIGHT_SOCKET_MAX),
        };
        if self.flight_len >= len_max || self.flight.len() >= count_max {
            return None;
        }
        let message = self.waiting.pop_front()?;
        self.flight_len += message.len();
        self.flight.push_back(message.clone());
        Some(message)
    }

    /// The message that [`Mailbox::next`] has next.
    pub(crate) fn peek(&self, way: Way) -> Option<&Arc<Message>> {
        if self.way == Some(way) { self.waiting.front() } else { self.flight.front().or(self.waiting.front()) }
    }

    /// The oldest message that is on its way.
    pub(crate) fn on_its_way(&self) -> Option<&Arc<Message>> {
        self.flight.front()
    }

    /// What was sent may be lost: it is sent again.
    pub(crate) fn again(&mut self) {
        while let Some(message) = self.flight.pop_back() {
            self.waiting.push_front(message);
        }
        self.flight_len = 0;
        self.way = None;
    }

    /// The client has all messages of `from` up to this one.
    pub(crate) fn acked(&mut self, from: Option<&str>, id: u64) {
        let is_acked = |message: &Message| message.from.as_deref() == from && message.id.is_some_and(|its| its <= id);
        let (len, flight_len) = (&mut self.len, &mut self.flight_len);
        self.flight.retain(|message| {
            let is_kept = !is_acked(message);
            if !is_kept {
                *len -= message.len();
                *flight_len -= message.len();
            }
            is_kept
        });
        // It may have it by an earlier way, while it waits for this one.
        self.waiting.retain(|message| {
            let is_kept = !is_acked(message);
            *len -= if is_kept { 0 } else { message.len() };
            is_kept
        });
    }

    /// Whether nothing waits, and nothing is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What waits, if it goes another way altogether.
    pub(crate) fn into_waiting(self) -> VecDeque<Arc<Message>> {
        self.waiting
    }

    /// Bytes that it holds.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Payload, relayed};
    use super::*;

    fn message(from: &str, id: u64, len: usize) -> Arc<Message> {
        relayed(Some(from.into()), "", Some(id), Payload::Binary(vec![0; len]))
    }

    fn drain(mailbox: &mut Mailbox, way: Way) -> Vec<u64> {
        std::iter::from_fn(|| mailbox.next(way)).map(|message| message.id.unwrap()).collect()
    }

    #[test]
    fn what_is_not_acknowledged_is_bounded_and_goes_again_by_another_way() {
        let mut mailbox = Mailbox::default();
        for id in 1..=10 {
            assert_eq!(mailbox.push(message("a", id, 40_000)), Delivery::Taken);
        }
        assert_eq!(drain(&mut mailbox, Way::Socket), [1, 2]);
        mailbox.acked(Some("b"), 9);
        assert!(drain(&mut mailbox, Way::Socket).is_empty(), "those of somebody else");
        mailbox.acked(Some("a"), 1);
        assert_eq!(drain(&mut mailbox, Way::Socket), [3]);
        assert_eq!(drain(&mut mailbox, Way::Channel(0)), [2, 3, 4, 5, 6, 7, 8, 9, 10]);
        mailbox.acked(Some("a"), 10);
        assert_eq!((mailbox.len(), mailbox.flight_len), (0, 0));
    }

    /// More would fill the queue of the socket, and the client would be cut off, come back, and be given the same again.
    #[test]
    fn small_messages_do_not_fill_the_queue_of_a_socket() {
        let mut mailbox = Mailbox::default();
        (1..=400).for_each(|id| assert_eq!(mailbox.push(message("a", id, 64)), Delivery::Taken));
        assert_eq!(drain(&mut mailbox, Way::Socket).len(), FLIGHT_SOCKET_MAX);
        mailbox.acked(Some("a"), 100);
        assert_eq!(drain(&mut mailbox, Way::Socket).len(), 100);
        assert_eq!(drain(&mut mailbox, Way::Channel(0)).len(), 300, "a channel has no such queue");
    }

    #[test]
    fn who_is_too_slow_loses_what_waits_and_gets_what_comes_after() {
        let mut mailbox = Mailbox::default();
        let taken = (1..).take_while(|&id| mailbox.push(message("a", id, 100_000)) == Delivery::Taken).count();
        assert_eq!((taken, mailbox.len()), (11, 0));
        assert_eq!(mailbox.push(message("a", 13, 10)), Delivery::Taken);
        assert_eq!(drain(&mut mailbox, Way::Socket), [13]);
    }
}
