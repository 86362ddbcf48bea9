//! What waits to be written to one connection, in a buffer that never grows. A receiver that reads slowly loses whole packets:
//! those of video first, all of them from the first until half of the buffer is free again, so that it is not left with every other
//! packet of its pictures. It asks for what it lacks as after any loss (NACK, PLI).

use super::frame::{PREFIX_LEN, prefix};
use crate::config::{TCP_WAITING_LEN, TCP_WAITING_LOW, TCP_WAITING_VIDEO};

pub(super) struct Waiting {
    bytes: Box<[u8]>,
    /// What waits: `bytes[head..tail]`.
    head: usize,
    tail: usize,
    refuses_video: bool,
}

impl Waiting {
    pub(super) fn new() -> Waiting {
        Waiting { bytes: vec![0; TCP_WAITING_LEN].into(), head: 0, tail: 0, refuses_video: false }
    }

    /// For another connection.
    pub(super) fn clear(&mut self) {
        (self.head, self.tail, self.refuses_video) = (0, 0, false);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.head..self.tail]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// So many bytes were written.
    pub(super) fn written(&mut self, len: usize) {
        self.head += len.min(self.tail - self.head);
        if self.is_empty() {
            (self.head, self.tail) = (0, 0);
        }
    }

    /// Adds a packet if it may wait.
    pub(super) fn push(&mut self, packet: &[u8], is_video: bool) -> bool {
        let may_wait = self.has_room(PREFIX_LEN + packet.len(), is_video);
        if may_wait {
            self.append(&prefix(packet));
            self.append(packet);
        }
        may_wait
    }

    /// Keeps what a write has left of one frame, without which nothing that follows could be read. Nothing else waits then.
    pub(super) fn keep_rest(&mut self, packet: &[u8], written: usize) {
        debug_assert!(self.is_empty(), "frames are written in order");
        let prefix = prefix(packet);
        self.append(&prefix[written.min(PREFIX_LEN)..]);
        self.append(&packet[written.saturating_sub(PREFIX_LEN)..]);
    }

    fn has_room(&mut self, len: usize, is_video: bool) -> bool {
        let waiting = self.tail - self.head;
        if !is_video {
            return waiting + len <= TCP_WAITING_LEN;
        }
        if self.refuses_video {
            self.refuses_video = waiting > TCP_WAITING_LOW;
        }
        self.refuses_video |= waiting + len > TCP_WAITING_VIDEO;
        !self.refuses_video
    }

    fn append(&mut self, more: &[u8]) {
        if self.tail + more.len() > self.bytes.len() {
            self.bytes.copy_within(self.head..self.tail, 0);
            (self.head, self.tail) = (0, self.tail - self.head);
        }
        self.bytes[self.tail..][..more.len()].copy_from_slice(more);
        self.tail += more.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIDEO: [u8; 1200] = [7; 1200];
    const AUDIO: [u8; 120] = [9; 120];

    fn fill(waiting: &mut Waiting, packet: &[u8], is_video: bool) -> usize {
        std::iter::repeat_with(|| waiting.push(packet, is_video)).take_while(|&is_taken| is_taken).count()
    }

    #[test]
    fn video_is_dropped_first_and_until_half_is_free() {
        let mut waiting = Waiting::new();
        let video = fill(&mut waiting, &VIDEO, true);
        assert_eq!(video, TCP_WAITING_VIDEO / 1202);
        let audio = fill(&mut waiting, &AUDIO, false);
        assert!(audio >= (TCP_WAITING_LEN - TCP_WAITING_VIDEO) / 122, "{audio}: audio has the rest");
        assert!(!waiting.push(&VIDEO, true) && !waiting.push(&AUDIO, false), "nothing grows");
        let over = waiting.bytes().len() - TCP_WAITING_LOW;
        waiting.written(over - 1);
        assert!(!waiting.push(&[7; 20], true), "one packet fits, and would be of no use");
        assert!(waiting.push(&AUDIO, false));
        waiting.written(200);
        assert!(waiting.push(&[7; 20], true));
    }

    #[test]
    fn what_waits_leaves_in_order_and_whole() {
        let (mut waiting, mut expected, mut left) = (Waiting::new(), Vec::new(), Vec::new());
        waiting.keep_rest(&AUDIO, 1);
        expected.extend_from_slice(&[&prefix(&AUDIO)[1..], &AUDIO].concat());
        for round in 0..2000usize {
            let packet = vec![round as u8; 12 + round * 37 % 1300];
            if waiting.push(&packet, round % 3 > 0) {
                expected.extend_from_slice(&prefix(&packet));
                expected.extend_from_slice(&packet);
            }
            let written = (round * 91 % 700).min(waiting.bytes().len());
            left.extend_from_slice(&waiting.bytes()[..written]);
            waiting.written(written);
        }
        left.extend_from_slice(waiting.bytes());
        assert!(left == expected);
        waiting.clear();
        waiting.keep_rest(&AUDIO, PREFIX_LEN + 100);
        assert_eq!(waiting.bytes(), &AUDIO[100..]);
    }
}
