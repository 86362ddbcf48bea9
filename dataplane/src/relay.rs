//! One room across workers: what one worker hands to another, and the lanes that it goes by.
//!
//! A publisher's packet is unprotected once, by the worker that receives it. For each worker with a mirror of the
//! stream, that worker puts the plain packet into a lane ([`proto::link::Lane`]); there it meets the routes, slots and
//! history of that worker as if it had been received there. Back come requests for keyframes, and nothing else: losses of
//! receivers are mended where the receivers are, losses of the publisher where the publisher is.
//!
//! Each [`Message`] names its object with the generation, so that a late one reaches nobody instead of the next occupant.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use proto::id::{Ssrc, StreamId};
use proto::link::{Bell, Lane, LaneReceiver, LaneSender};
use proto::plane::{EXTENSION_COUNT_MAX, ExtensionIds};

use crate::config::{FRAME_LEN, Micros};
use crate::route::SenderClock;

/// What one worker tells another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// A packet of a stream that is handed on.
    Packet(Packet<'a>),
    /// A publisher related the stream's RTP clock to the clock that all workers share.
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
    /// The parameter sets of a stream, as [`ParameterSets::as_told`](crate::sets::ParameterSets::as_told) has them: its mirror
    /// may have begun after the packets that brought them.
    Sets {
        /// The mirror.
        mirror: StreamId,
        /// The sets.
        sets: &'a [u8],
    },
    /// Somebody there waits for a keyframe of this stream.
    KeyframeWanted {
        /// The stream, where it is received.
        stream: StreamId,
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

/// The fixed part of a message in a lane: tag, id, four numbers, extension ids.
const FIXED_LEN: usize = 8 + 8 + 4 * 8 + EXTENSION_COUNT_MAX;
type Fixed = [u8; FIXED_LEN];

const _: () = assert!(8 + FIXED_LEN + FRAME_LEN + 8 <= proto::link::LANE_RECORD_LEN, "a packet fits a record");

impl<'a> Message<'a> {
    /// The message as the parts of a record.
    fn write(&self, fixed: &'a mut Fixed) -> [&'a [u8]; 3] {
        let (tag, id, numbers, ids, head, payload): (u8, StreamId, [u64; 4], ExtensionIds, &[u8], &[u8]) = match *self {
            Message::Packet(Packet { mirror, ssrc, index, highest, at, ids, head, payload }) => {
                (PACKET, mirror, [u64::from(ssrc), index, highest, at], ids, head, payload)
            }
            Message::Clock { mirror, ssrc, ntp, rtp, at } => {
                (CLOCK, mirror, [u64::from(ssrc) << 32 | u64::from(rtp), ntp, at, 0], ExtensionIds::default(), &[], &[])
            }
            Message::Sets { mirror, sets } => (SETS, mirror, [0; 4], ExtensionIds::default(), &[], sets),
            Message::KeyframeWanted { stream } => (KEYFRAME_WANTED, stream, [0; 4], ExtensionIds::default(), &[], &[]),
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
                let [ssrc, index, highest, at] = numbers;
                let ssrc = ssrc as u32;
                Some(Message::Packet(Packet { mirror: id, ssrc, index, highest, at, ids, head, payload }))
            }
            CLOCK => {
                let (ssrc, rtp) = ((numbers[0] >> 32) as u32, numbers[0] as u32);
                Some(Message::Clock { mirror: id, ssrc, ntp: numbers[1], rtp, at: numbers[2] })
            }
            SETS => Some(Message::Sets { mirror: id, sets: payload }),
            KEYFRAME_WANTED => Some(Message::KeyframeWanted { stream: id }),
            _ => None,
        }
    }

    /// A stream's clock for its mirror.
    pub(crate) fn clock(mirror: StreamId, ssrc: Ssrc, clock: SenderClock) -> Message<'static> {
        Message::Clock { mirror, ssrc, ntp: clock.ntp, rtp: clock.rtp, at: clock.at }
    }
}

/// What the workers of one dataplane share: where their clocks start, and for each its bell, its eventfd, and the lanes that
/// lead to it.
pub struct Exchange {
    origin: Instant,
    desks: Box<[Desk]>,
}

struct Desk {
    bell: Bell,
    /// Written to wake the worker.
    knock: OwnedFd,
    /// By sender. A lane is made by its first message, because most pairs of cores never share a room.
    lanes: Box<[OnceLock<Arc<Lane>>]>,
}

impl Exchange {
    /// An exchange between the workers that these eventfds wake.
    pub fn new(knocks: Vec<OwnedFd>) -> Arc<Exchange> {
        let count = knocks.len();
        let desk = |knock| Desk { bell: Bell::new(count), knock, lanes: (0..count).map(|_| OnceLock::new()).collect() };
        Arc::new(Exchange { origin: Instant::now(), desks: knocks.into_iter().map(desk).collect() })
    }

    /// Where the clocks of all workers start, so that times in messages compare.
    pub(crate) fn origin(&self) -> Instant {
        self.origin
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.desks.len()
    }
}

/// One worker's ends of all lanes.
pub(crate) struct Relay {
    exchange: Arc<Exchange>,
    index: usize,
    senders: Box<[Option<LaneSender>]>,
    receivers: Box<[Option<LaneReceiver>]>,
    /// To whom something was pushed since the last [`ring`](Self::ring).
    pushed: Box<[bool]>,
    /// Lanes that may hold something, by bit.
    waiting: Box<[u64]>,
    /// Whose message was not taken yet.
    held: Option<usize>,
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    Yes,
    /// And no more now.
    Enough,
    /// It is to be given again before all others.
    NotYet,
}

impl Relay {
    /// The ends of worker `index`. One for each worker.
    pub(crate) fn new(exchange: Arc<Exchange>, index: usize) -> Relay {
        let count = exchange.workers();
        let waiting = vec![0; exchange.desks[index].bell.groups()].into_boxed_slice();
        Relay {
            exchange,
            index,
            senders: (0..count).map(|_| None).collect(),
            receivers: (0..count).map(|_| None).collect(),
            pushed: vec![false; count].into_boxed_slice(),
            waiting,
            held: None,
        }
    }

    /// Puts a message into the lane to a worker. False if it is full. Takes memory for the first message of all.
    pub(crate) fn push(&mut self, to: usize, message: &Message<'_>) -> bool {
        let Some(sender) = self.senders.get_mut(to) else { return false };
        let lane = &self.exchange.desks[to].lanes[self.index];
        let sender = sender.get_or_insert_with(|| LaneSender::new(lane.get_or_init(Lane::new).clone()));
        let is_pushed = sender.push(message.write(&mut [0; FIXED_LEN]));
        self.pushed[to] |= is_pushed;
        is_pushed
    }

    /// Tells those to whom something was pushed, and wakes those of them that sleep.
    pub(crate) fn ring(&mut self) {
        for (desk, pushed) in self.exchange.desks.iter().zip(&mut self.pushed) {
            if std::mem::take(pushed) && desk.bell.ring(self.index) {
                // An eventfd refuses only when its count is full, and then the sleeper is being woken already.
                let _ = rustix::io::write(&desk.knock, &1u64.to_ne_bytes());
            }
        }
    }

    /// Gives `take` what has arrived, at most `max` messages, as long as it says yes; how many were taken.
    pub(crate) fn take(&mut self, max: usize, mut take: impl FnMut(Message<'_>) -> Taken) -> usize {
        let Relay { exchange, index, receivers, waiting, held, .. } = self;
        let desk = &exchange.desks[*index];
        let mut left = max;
        if let Some(receiver) = held.and_then(|from| receivers[from].as_ref()) {
            let taken = Message::read(receiver.popped()).map_or(Taken::Yes, &mut take);
            if taken == Taken::NotYet {
                return 0;
            }
            *held = None;
            left -= 1;
            if taken == Taken::Enough {
                return 1;
            }
        }
        for (group, waiting) in waiting.iter_mut().enumerate() {
            *waiting |= desk.bell.take(group);
            let mut bits = *waiting;
            while bits != 0 {
                let from = 64 * group + bits.trailing_zeros() as usize;
                // Each sender gets its share of the turn, so that a busy one does not hold up the others.
                let share = left.div_ceil(bits.count_ones() as usize);
                bits &= bits - 1;
                let Some(lane) = desk.lanes[from].get() else { continue };
                let receiver = receivers[from].get_or_insert_with(|| LaneReceiver::new(lane.clone()));
                let until = left - share;
                while left > until {
                    let Some(parts) = receiver.pop() else {
                        *waiting &= !(1 << (from % 64));
                        break;
                    };
                    // A record that is none would be a mistake of ours, and harmless.
                    let taken = Message::read(parts).map_or(Taken::Yes, &mut take);
                    if taken == Taken::NotYet {
                        *held = Some(from);
                        return max - left;
                    }
                    left -= 1;
                    if taken == Taken::Enough {
                        return max - left;
                    }
                }
            }
        }
        max - left
    }

    /// Declares that the worker is about to park. False: something has come, so it must not park.
    #[must_use]
    pub(crate) fn sleep(&self) -> bool {
        self.held.is_none()
            && self.waiting.iter().all(|&bits| bits == 0)
            && self.exchange.desks[self.index].bell.sleep()
    }

    /// Declares that the worker is awake.
    pub(crate) fn awake(&self) {
        self.exchange.desks[self.index].bell.awake();
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
            ids,
            head,
            payload,
        })
    }

    fn taken(relay: &mut Relay) -> Vec<String> {
        let mut messages = Vec::new();
        relay.take(MAX, |message| {
            messages.push(format!("{message:?}"));
            Taken::Yes
        });
        messages
    }

    #[test]
    fn messages_come_as_they_were_sent() {
        let exchange = exchange(70);
        let (mut a, mut b) = (Relay::new(exchange.clone(), 1), Relay::new(exchange, 69));
        let bytes = [5; FRAME_LEN];
        let messages = [
            packet(u64::MAX - 1, &bytes[..20], &bytes[..FRAME_LEN - 20]),
            Message::Clock { mirror: StreamId::new(1, 2), ssrc: 3, ntp: u64::MAX, rtp: 5, at: 6 },
            Message::KeyframeWanted { stream: StreamId::new(8, u32::MAX) },
            Message::Sets { mirror: StreamId::new(2, 3), sets: &bytes[..7] },
            packet(0, &bytes[..12], &[]),
        ];
        for message in &messages {
            assert!(a.push(69, message));
        }
        assert!(taken(&mut b).is_empty(), "nobody has rung yet");
        a.ring();
        assert_eq!(taken(&mut b), messages.map(|message| format!("{message:?}")));
        assert!(b.sleep());
        assert!(!a.push(70, &messages[0]), "there is no such worker");
        assert!(!a.push(69, &packet(1, &bytes, &bytes)), "longer than a record");
    }

    #[test]
    fn who_sends_much_does_not_hold_up_the_others() {
        let exchange = exchange(3);
        let mut relays: Vec<Relay> = (0..3).map(|index| Relay::new(exchange.clone(), index)).collect();
        for index in 0..2 * MAX as u64 {
            assert!(relays[0].push(2, &packet(index, &[], &[])));
        }
        assert!(relays[1].push(2, &packet(999_999, &[], &[])));
        relays[0].ring();
        relays[1].ring();
        let first = taken(&mut relays[2]);
        assert!(first.len() <= MAX && first.iter().any(|message| message.contains("999999")));
        assert!(!relays[2].sleep(), "there is more");
        let mut all = first.len();
        while all < 2 * MAX + 1 {
            all += taken(&mut relays[2]).len();
        }
        assert!(relays[2].sleep());
    }

    #[test]
    fn what_is_not_taken_yet_comes_again_before_all_others() {
        let exchange = exchange(3);
        let mut relays: Vec<Relay> = (0..3).map(|index| Relay::new(exchange.clone(), index)).collect();
        for (from, relay) in relays.iter_mut().enumerate().take(2) {
            assert!((0..3).all(|n| relay.push(2, &packet(10 * from as u64 + n, &[from as u8; 12], b"payload"))));
            relay.ring();
        }
        let here = &mut relays[2];
        let mut order = Vec::new();
        let mut give = |here: &mut Relay, max, verdict: fn(u64) -> Taken| {
            here.take(max, |message| {
                let Message::Packet(Packet { index, payload: b"payload", .. }) = message else { panic!("{message:?}") };
                order.push(index);
                verdict(index)
            })
        };
        assert_eq!(give(here, MAX, |index| if index == 1 { Taken::NotYet } else { Taken::Yes }), 1);
        assert!(!here.sleep(), "one is held");
        assert_eq!(give(here, MAX, |_| Taken::NotYet), 0, "and stays so");
        assert_eq!(give(here, MAX, |_| Taken::Enough), 1);
        assert_eq!(give(here, MAX, |_| Taken::Yes), 4);
        assert_eq!(order[..4], [0, 1, 1, 1]);
        assert_eq!(order[4..], [2, 10, 11, 12]);
        assert!(here.sleep());
    }
}
