//! One room on several workers: the messages between workers, and the lanes that carry them.
//!
//! A publisher's packet is unprotected once, by the worker that receives it. For each worker with a mirror of the
//! stream, that worker puts the plain packet into a lane ([`proto::link::Lane`]). There it goes into the store of that worker and
//! is forwarded as if it had been received there. Only requests for keyframes, and which encodings of a track are taken, go in the
//! other direction: receivers' losses are repaired by their own worker, the publisher's by the publisher's worker.
//!
//! Each [`Message`] names its object with the generation, so that a late message does not reach a later object of the same index.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use proto::id::{Ssrc, StreamId};
use proto::link::{Bell, Lane, LaneReceiver, LaneSender};
use proto::plane::{EXTENSION_COUNT_MAX, ExtensionIds};

use crate::config::{FRAME_LEN, Micros};
use crate::headroom::Headroom;
use crate::rtcp::SenderClock;
use crate::size::Size;

/// A message from one worker to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// A packet of a stream that is relayed.
    Packet(Packet<'a>),
    /// A sender report: the stream's RTP clock and the clock that all workers share, at one moment.
    Clock {
        /// The mirror.
        mirror: StreamId,
        /// Of the stream.
        ssrc: Ssrc,
        /// NTP time on the workers' clock.
        ntp: u64,
        /// RTP timestamp of that moment.
        rtp: u32,
        /// When it came.
        at: Micros,
    },
    /// The parameter sets of a stream, as [`ParameterSets::as_bytes`](crate::sets::ParameterSets::as_bytes) has them: its mirror
    /// may have begun after the packets that brought them.
    Sets {
        /// The mirror.
        mirror: StreamId,
        /// The sets.
        sets: &'a [u8],
    },
    /// A receiver there waits for a keyframe of this stream.
    KeyframeWanted {
        /// The stream, where it is received.
        stream: StreamId,
    },
    /// Whether anybody there takes this encoding, and if not, its packets need not be handed on; and whether anybody wants it.
    Taken {
        /// The stream, where it is received.
        stream: StreamId,
        /// Its mirror there.
        mirror: StreamId,
        /// Whether it is taken.
        is_taken: bool,
        /// Whether it is wanted, although it may not flow.
        is_wanted: bool,
        /// What those who take it there have room for.
        room: Headroom,
    },
    /// How an encoding is, whether or not its packets are handed on.
    Encoding {
        /// The mirror.
        mirror: StreamId,
        /// Whether packets of it come.
        is_flowing: bool,
        /// Of its pictures.
        size: Size,
        /// Its rate, bit/s.
        bps: u32,
        /// The rate that its publisher would give it of its own, bit/s.
        expected: u32,
    },
}

/// An authentic packet in the clear, as the worker that received it knows it. It never leaves the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// The mirror.
    pub mirror: StreamId,
    /// SSRC of the stream. The packet's own is another if it came as RTX.
    pub ssrc: Ssrc,
    /// Its index (ROC and sequence number) in the stream.
    pub index: u64,
    /// The highest index that has come by then.
    pub highest: u64,
    /// When the kernel received it, on the clock that all workers share.
    pub at: Micros,
    /// How often the stream has begun anew: a packet of another number than the one before does not continue it.
    pub cuts: u8,
    /// The publisher's header extension ids.
    pub ids: ExtensionIds,
    /// Header and extensions, as received.
    pub head: &'a [u8],
    /// Payload without padding.
    pub payload: &'a [u8],
}

const PACKET: u8 = 1;
const CLOCK: u8 = 2;
const KEYFRAME_WANTED: u8 = 3;
const SETS: u8 = 4;
const TAKEN: u8 = 5;
const ENCODING: u8 = 6;

/// The fixed part of a message in a lane: tag, id, four numbers, extension ids.
const FIXED_LEN: usize = 8 + 8 + 4 * 8 + EXTENSION_COUNT_MAX;
type Fixed = [u8; FIXED_LEN];

const _: () = assert!(8 + FIXED_LEN + FRAME_LEN + 8 <= proto::link::LANE_RECORD_LEN, "a packet fits a record");

impl<'a> Message<'a> {
    /// The message as the parts of a record.
    fn write(&self, fixed: &'a mut Fixed) -> [&'a [u8]; 3] {
        let (tag, id, numbers, ids, head, payload): (u8, StreamId, [u64; 4], ExtensionIds, &[u8], &[u8]) = match *self {
            Message::Packet(Packet { mirror, ssrc, index, highest, at, cuts, ids, head, payload }) => {
                let names = u64::from(cuts) << 32 | u64::from(ssrc);
                (PACKET, mirror, [names, index, highest, at], ids, head, payload)
            }
            Message::Clock { mirror, ssrc, ntp, rtp, at } => {
                (CLOCK, mirror, [u64::from(ssrc) << 32 | u64::from(rtp), ntp, at, 0], ExtensionIds::default(), &[], &[])
            }
            Message::Sets { mirror, sets } => (SETS, mirror, [0; 4], ExtensionIds::default(), &[], sets),
            Message::KeyframeWanted { stream } => (KEYFRAME_WANTED, stream, [0; 4], ExtensionIds::default(), &[], &[]),
            Message::Taken { stream, mirror, is_taken, is_wanted, room } => {
                let flags = u64::from(is_taken) | u64::from(is_wanted) << 1 | u64::from(room.is_needed) << 2;
                let numbers = [mirror.index.into(), mirror.generation.into(), flags, room.bps.into()];
                (TAKEN, stream, numbers, ExtensionIds::default(), &[], &[])
            }
            Message::Encoding { mirror, is_flowing, size, bps, expected } => {
                let rates = u64::from(expected) << 32 | u64::from(bps);
                let numbers = [is_flowing.into(), size.width.into(), size.height.into(), rates];
                (ENCODING, mirror, numbers, ExtensionIds::default(), &[], &[])
            }
        };
        fixed[0] = tag;
        fixed[8..12].copy_from_slice(&id.index.to_ne_bytes());
        fixed[12..16].copy_from_slice(&id.generation.to_ne_bytes());
        for (place, number) in fixed[16..48].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        fixed[48..].copy_from_slice(&ids);
        [fixed, head, payload]
    }

    /// Reads a record; `None` if it is none of these.
    fn read([fixed, head, payload]: [&'a [u8]; 3]) -> Option<Message<'a>> {
        let fixed: &Fixed = fixed.try_into().ok()?;
        let u32_at = |at: usize| u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let u64_at = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| fixed[at + i]));
        let id = StreamId::new(u32_at(8), u32_at(12));
        let numbers = [u64_at(16), u64_at(24), u64_at(32), u64_at(40)];
        match fixed[0] {
            PACKET => {
                let ids = std::array::from_fn(|i| fixed[48 + i]);
                let [names, index, highest, at] = numbers;
                let (ssrc, cuts) = (names as u32, (names >> 32) as u8);
                Some(Message::Packet(Packet { mirror: id, ssrc, index, highest, at, cuts, ids, head, payload }))
            }
            CLOCK => {
                let (ssrc, rtp) = ((numbers[0] >> 32) as u32, numbers[0] as u32);
                Some(Message::Clock { mirror: id, ssrc, ntp: numbers[1], rtp, at: numbers[2] })
            }
            SETS => Some(Message::Sets { mirror: id, sets: payload }),
            KEYFRAME_WANTED => Some(Message::KeyframeWanted { stream: id }),
            TAKEN => {
                let mirror = StreamId::new(numbers[0] as u32, numbers[1] as u32);
                let is_set = |bit: u32| numbers[2] >> bit & 1 != 0;
                let room = Headroom { bps: numbers[3] as u32, is_needed: is_set(2) };
                Some(Message::Taken { stream: id, mirror, is_taken: is_set(0), is_wanted: is_set(1), room })
            }
            ENCODING => {
                let [is_flowing, width, height, rates] = numbers;
                let size = Size { width: width as u32, height: height as u32 };
                let (bps, expected) = (rates as u32, (rates >> 32) as u32);
                Some(Message::Encoding { mirror: id, is_flowing: is_flowing != 0, size, bps, expected })
            }
            _ => None,
        }
    }

    /// A stream's clock for its mirror.
    pub(crate) fn clock(mirror: StreamId, ssrc: Ssrc, clock: SenderClock) -> Message<'static> {
        Message::Clock { mirror, ssrc, ntp: clock.ntp, rtp: clock.rtp, at: clock.at }
    }
}

/// What the workers of one dataplane share: where their clocks start, and the inbox of each.
pub struct Exchange {
    origin: Instant,
    inboxes: Box<[Inbox]>,
}

/// Where the messages for one worker arrive.
struct Inbox {
    bell: Bell,
    /// The eventfd that wakes the worker.
    wake: OwnedFd,
    /// By sender. A lane is made by its first message, because most pairs of cores never share a room.
    lanes: Box<[OnceLock<Arc<Lane>>]>,
}

impl Exchange {
    /// An exchange between the workers that these eventfds wake.
    pub fn new(wakes: Vec<OwnedFd>) -> Arc<Exchange> {
        let count = wakes.len();
        let inbox = |wake| Inbox { bell: Bell::new(count), wake, lanes: (0..count).map(|_| OnceLock::new()).collect() };
        Arc::new(Exchange { origin: Instant::now(), inboxes: wakes.into_iter().map(inbox).collect() })
    }

    /// Where the clocks of all workers start, so that times in messages compare.
    pub(crate) fn origin(&self) -> Instant {
        self.origin
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.inboxes.len()
    }
}

/// One worker's sending ends of the lanes to all others.
pub(crate) struct RelaySender {
    exchange: Arc<Exchange>,
    index: usize,
    senders: Box<[Option<LaneSender>]>,
    /// Workers for which something was pushed since the last [`notify`](Self::notify).
    pushed: Box<[bool]>,
}

impl RelaySender {
    /// The ends of worker `index`. One for each worker.
    pub(crate) fn new(exchange: Arc<Exchange>, index: usize) -> RelaySender {
        let count = exchange.workers();
        let (senders, pushed) = ((0..count).map(|_| None).collect(), vec![false; count].into_boxed_slice());
        RelaySender { exchange, index, senders, pushed }
    }

    /// Puts a message into the lane to a worker. False if it is full. Takes memory for the first message of all.
    pub(crate) fn push(&mut self, to: usize, message: &Message<'_>) -> bool {
        let Some(sender) = self.senders.get_mut(to) else { return false };
        let lane = &self.exchange.inboxes[to].lanes[self.index];
        let sender = sender.get_or_insert_with(|| LaneSender::new(lane.get_or_init(Lane::new).clone()));
        let is_pushed = sender.push(message.write(&mut [0; FIXED_LEN]));
        self.pushed[to] |= is_pushed;
        is_pushed
    }

    /// Notifies the workers for which something was pushed, and wakes those of them that sleep.
    pub(crate) fn notify(&mut self) {
        for (inbox, pushed) in self.exchange.inboxes.iter().zip(&mut self.pushed) {
            if std::mem::take(pushed) && inbox.bell.ring(self.index) {
                // An eventfd refuses only when its count is full, and then the sleeper is being woken already.
                let _ = rustix::io::write(&inbox.wake, &1u64.to_ne_bytes());
            }
        }
    }
}

/// One worker's receiving ends of the lanes from all others.
pub(crate) struct RelayReceiver {
    exchange: Arc<Exchange>,
    index: usize,
    receivers: Box<[Option<LaneReceiver>]>,
    /// Lanes that may hold something, by bit.
    nonempty: Box<[u64]>,
}

impl RelayReceiver {
    /// The ends of worker `index`. One for each worker.
    pub(crate) fn new(exchange: Arc<Exchange>, index: usize) -> RelayReceiver {
        let nonempty = vec![0; exchange.inboxes[index].bell.groups()].into_boxed_slice();
        RelayReceiver { receivers: (0..exchange.workers()).map(|_| None).collect(), exchange, index, nonempty }
    }

    /// Gives `handle` what has arrived, at most `max` messages; how many there were.
    pub(crate) fn receive(&mut self, max: usize, mut handle: impl FnMut(Message<'_>)) -> usize {
        let RelayReceiver { exchange, index, receivers, nonempty } = self;
        let inbox = &exchange.inboxes[*index];
        let mut left = max;
        for (group, nonempty) in nonempty.iter_mut().enumerate() {
            *nonempty |= inbox.bell.take(group);
            let mut bits = *nonempty;
            while bits != 0 {
                let from = 64 * group + bits.trailing_zeros() as usize;
                // Each sender gets its share of the turn, so that a busy one does not hold up the others.
                let share = left.div_ceil(bits.count_ones() as usize);
                bits &= bits - 1;
                let Some(lane) = inbox.lanes[from].get() else { continue };
                let receiver = receivers[from].get_or_insert_with(|| LaneReceiver::new(lane.clone()));
                let until = left - share;
                while left > until {
                    let Some(parts) = receiver.pop() else {
                        *nonempty &= !(1 << (from % 64));
                        break;
                    };
                    left -= 1;
                    // A record that is no message would be a mistake of ours, and harmless.
                    if let Some(message) = Message::read(parts) {
                        handle(message);
                    }
                }
            }
        }
        max - left
    }

    /// Declares that the worker is about to park. False: something has come, so it must not park.
    #[must_use]
    pub(crate) fn sleep(&self) -> bool {
        self.nonempty.iter().all(|&bits| bits == 0) && self.exchange.inboxes[self.index].bell.sleep()
    }

    /// Declares that the worker is awake.
    pub(crate) fn awake(&self) {
        self.exchange.inboxes[self.index].bell.awake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    const MAX: usize = 100;

    fn exchange(workers: usize) -> Arc<Exchange> {
        Exchange::new((0..workers).map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap()).collect())
    }

    fn packet<'a>(index: u64, head: &'a [u8], payload: &'a [u8]) -> Message<'a> {
        let ids = std::array::from_fn(|i| i as u8);
        Message::Packet(Packet {
            mirror: StreamId::new(7, 9),
            ssrc: u32::MAX,
            index,
            highest: index + 1,
            at: index ^ 1 << 40,
            cuts: index as u8,
            ids,
            head,
            payload,
        })
    }

    fn received(relay: &mut RelayReceiver) -> Vec<String> {
        let mut messages = Vec::new();
        relay.receive(MAX, |message| messages.push(format!("{message:?}")));
        messages
    }

    #[test]
    fn messages_come_as_they_were_sent() {
        let exchange = exchange(70);
        let (mut a, mut b) = (RelaySender::new(exchange.clone(), 1), RelayReceiver::new(exchange, 69));
        let bytes = [5; FRAME_LEN];
        let size = Size { width: u32::MAX, height: 7 };
        let messages = [
            packet(u64::MAX - 1, &bytes[..20], &bytes[..FRAME_LEN - 20]),
            Message::Clock { mirror: StreamId::new(1, 2), ssrc: 3, ntp: u64::MAX, rtp: 5, at: 6 },
            Message::KeyframeWanted { stream: StreamId::new(8, u32::MAX) },
            Message::Sets { mirror: StreamId::new(2, 3), sets: &bytes[..7] },
            Message::Taken {
                stream: StreamId::new(4, 5),
                mirror: StreamId::new(u32::MAX, 6),
                is_taken: true,
                is_wanted: false,
                room: Headroom { bps: u32::MAX - 1, is_needed: true },
            },
            Message::Encoding { mirror: StreamId::new(7, 8), is_flowing: true, size, bps: 9, expected: u32::MAX },
            packet(0, &bytes[..12], &[]),
        ];
        for message in &messages {
            assert!(a.push(69, message));
        }
        assert!(received(&mut b).is_empty(), "nobody has notified yet");
        a.notify();
        assert_eq!(received(&mut b), messages.map(|message| format!("{message:?}")));
        assert!(b.sleep());
        assert!(!a.push(70, &messages[0]), "there is no such worker");
        assert!(!a.push(69, &packet(1, &bytes, &bytes)), "longer than a record");
    }

    #[test]
    fn a_busy_sender_does_not_hold_up_the_others() {
        let exchange = exchange(3);
        let mut senders: Vec<RelaySender> = (0..2).map(|index| RelaySender::new(exchange.clone(), index)).collect();
        let mut receiver = RelayReceiver::new(exchange, 2);
        for index in 0..2 * MAX as u64 {
            assert!(senders[0].push(2, &packet(index, &[], &[])));
        }
        assert!(senders[1].push(2, &packet(999_999, &[], &[])));
        senders.iter_mut().for_each(RelaySender::notify);
        let first = received(&mut receiver);
        assert!(first.len() <= MAX && first.iter().any(|message| message.contains("999999")));
        assert!(!receiver.sleep(), "there is more");
        let mut all = first.len();
        while all < 2 * MAX + 1 {
            all += received(&mut receiver).len();
        }
        assert!(receiver.sleep());
    }
}
