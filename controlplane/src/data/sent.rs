//! Reliable messages of one sender: for whom each waits, so that the sender learns when all have it.

use std::collections::{BTreeSet, VecDeque};

use super::{BEHIND_LEN_MAX, SENT_LEN_MAX, SENT_MAX};

/// See the module. `K` names a receiver.
#[derive(Debug)]
pub(crate) struct Sent<K> {
    /// In order.
    messages: VecDeque<Waiting<K>>,
    len: usize,
    /// The number of the last message that was taken.
    taken: u64,
    /// The number up to which the sender was told that all have it.
    told: u64,
    /// A message that was not taken because there were too many: what the sender has sent after it is not taken before it.
    refused: Option<u64>,
}

/// A message, and for whom it waits.
#[derive(Debug)]
struct Waiting<K> {
    id: u64,
    len: usize,
    waits_for: BTreeSet<K>,
    /// Whether somebody has acknowledged it.
    is_begun: bool,
}

impl<K> Default for Sent<K> {
    fn default() -> Self {
        Self { messages: VecDeque::new(), len: 0, taken: 0, told: 0, refused: None }
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taking {
    /// It is a new one.
    New,
    /// It was here before.
    Known,
    /// One before it was not taken.
    OutOfOrder,
    /// The sender has more without an acknowledgement than it may.
    TooMuch,
}

impl<K: Ord> Sent<K> {
    /// What a message of this number and length is.
    pub(crate) fn look(&mut self, id: u64, len: usize) -> Taking {
        if id <= self.taken {
            return Taking::Known;
        }
        if self.refused.is_some_and(|refused| id > refused) {
            return Taking::OutOfOrder;
        }
        if self.messages.len() >= SENT_MAX || self.len + len > SENT_LEN_MAX {
            self.refused = Some(id);
            return Taking::TooMuch;
        }
        self.refused = None;
        Taking::New
    }

    /// Notes a new message and whom it waits for.
    pub(crate) fn note(&mut self, id: u64, len: usize, waits_for: BTreeSet<K>) {
        self.taken = id;
        self.len += len;
        self.messages.push_back(Waiting { id, len, waits_for, is_begun: false });
    }

    /// Receivers that are further behind the others than they may be.
    pub(crate) fn behind(&self) -> Vec<K>
    where
        K: Copy,
    {
        // What nobody waits for, or nobody has, keeps nobody behind.
        if self.len <= BEHIND_LEN_MAX {
            return Vec::new();
        }
        let Some(front) = self.messages.front() else { return Vec::new() };
        let is_behind = |receiver: &&K| {
            let lacks = |message: &&Waiting<K>| message.is_begun && message.waits_for.contains(*receiver);
            self.messages.iter().filter(lacks).map(|message| message.len).sum::<usize>() > BEHIND_LEN_MAX
        };
        front.waits_for.iter().filter(is_behind).copied().collect()
    }

    /// A receiver has everything up to this number.
    pub(crate) fn acked(&mut self, by: &K, id: u64) {
        for message in self.messages.iter_mut().take_while(|message| message.id <= id) {
            message.is_begun |= message.waits_for.remove(by);
        }
    }

    /// A receiver has left, or was given up.
    pub(crate) fn forget(&mut self, receiver: &K) {
        for message in &mut self.messages {
            message.waits_for.remove(receiver);
        }
    }

    /// The number up to which all have everything, if the sender was not told it.
    pub(crate) fn poll_acked(&mut self) -> Option<u64> {
        let told = self.told;
        while let Some(Waiting { id, len, .. }) = self.messages.pop_front_if(|message| message.waits_for.is_empty()) {
            self.len -= len;
            self.told = self.told.max(id);
        }
        (self.told > told).then_some(self.told)
    }

    /// What the sender was told last.
    pub(crate) fn told(&self) -> u64 {
        self.told
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sender_learns_when_all_have_it() {
        let mut sent = Sent::default();
        sent.note(1, 10, BTreeSet::from(['a', 'b']));
        sent.note(2, 10, BTreeSet::from(['b']));
        sent.note(3, 10, BTreeSet::new());
        assert_eq!(sent.poll_acked(), None);
        sent.acked(&'b', 2);
        assert_eq!(sent.poll_acked(), None, "the first waits for a");
        sent.acked(&'a', 1);
        assert_eq!((sent.poll_acked(), sent.poll_acked()), (Some(3), None));
        assert_eq!((sent.look(3, 1), sent.look(4, 1)), (Taking::Known, Taking::New));
    }

    #[test]
    fn who_is_half_a_window_behind_the_others_is_named() {
        let mut sent = Sent::default();
        for id in 1..=10 {
            sent.note(id, 100_000, BTreeSet::from(['a', 'b', 'c']));
        }
        sent.acked(&'a', 5);
        sent.acked(&'b', 1);
        assert!(sent.behind().is_empty());
        sent.acked(&'a', 6);
        assert_eq!(sent.behind(), ['c'], "of six that a has it has none, and b has one");
        sent.acked(&'a', 10);
        sent.forget(&'c');
        assert_eq!((sent.poll_acked(), sent.behind()), (Some(1), vec!['b']));
    }

    #[test]
    fn who_leaves_is_not_waited_for_and_the_window_is_bounded() {
        let mut sent = Sent::default();
        let mut id = 0;
        while sent.look(id + 1, 100_000) == Taking::New {
            id += 1;
            sent.note(id, 100_000, BTreeSet::from(['a']));
        }
        assert_eq!((id, sent.behind()), (10, vec![]), "a megabyte, and nobody is behind where nobody is ahead");
        sent.forget(&'a');
        assert_eq!(sent.poll_acked(), Some(10));
        assert_eq!(sent.look(12, 1), Taking::OutOfOrder, "11 was not taken");
        assert_eq!((sent.look(11, 1), sent.look(12, 1)), (Taking::New, Taking::New));
        let mut sent = Sent::default();
        for id in 1..=SENT_MAX as u64 {
            sent.note(id, 1, BTreeSet::from(['a']));
        }
        assert_eq!(sent.look(SENT_MAX as u64 + 1, 1), Taking::TooMuch);
    }
}
