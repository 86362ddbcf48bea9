//! What a room sends, as frames with the time of their capture: for whoever does something with the media of a room.
//!
//! ```text
//! put, report, begin ─▶ pull: a slot's next frame
//! ```

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use client::room::{self, Codec, Packet, SlotContent};
use proto::signal::Kind;

use crate::clock::{Clock, ServerClock, since};
use crate::depacketize::{Depacketizer, Frame};
use crate::order::{Order, Ordered};

/// Between two requests for a keyframe that has not come.
const KEYFRAME_INTERVAL: Duration = Duration::from_secs(1);
/// How long the frames of a new track wait for the first report of when they were captured, microseconds.
const HOLD_MICROS: i64 = 900_000;

/// What came of a track.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Packets that never came.
    pub lost: u64,
    /// Whether reports tell when its frames were captured.
    pub is_reported: bool,
}

/// One slot, while it carries one track.
struct Slot {
    content: SlotContent,
    order: Order,
    clock: Clock,
    depacketizer: Option<(Codec, Depacketizer)>,
    /// Frames, and when they came.
    ready: VecDeque<(Frame, i64)>,
    /// They wait until it is known when they were captured.
    is_held: bool,
    packets: u64,
    lost: u64,
    asked_keyframe: Option<Instant>,
}

/// All slots of one peer. Times are microseconds since one moment.
pub struct Feed {
    began: Instant,
    server_clock: ServerClock,
    slots: HashMap<usize, Slot>,
    frames: Vec<Frame>,
}

impl Feed {
    /// One whose time 0 is this moment.
    pub fn new(began: Instant) -> Feed {
        Feed { began, server_clock: ServerClock::default(), slots: HashMap::new(), frames: Vec::new() }
    }

    /// When a moment is.
    pub fn micros(&self, at: Instant) -> i64 {
        since(self.began, at)
    }

    /// The slots that carry something.
    pub fn slots(&self) -> Vec<usize> {
        self.slots.keys().copied().collect()
    }

    /// What a slot carries.
    pub fn content(&self, slot: usize) -> Option<&SlotContent> {
        self.slots.get(&slot).map(|slot| &slot.content)
    }

    /// What came of it, since it began or since [`Feed::count_anew`].
    pub fn counts(&self, slot: usize) -> Counts {
        let of = |slot: &Slot| Counts { packets: slot.packets, lost: slot.lost, is_reported: slot.clock.is_reported() };
        self.slots.get(&slot).map(of).unwrap_or_default()
    }

    /// From here on.
    pub fn count_anew(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(&slot) {
            (slot.packets, slot.lost) = (0, 0);
        }
    }

    /// Whether a slot is to carry something else than it does.
    pub fn is_other(&self, content: &SlotContent) -> bool {
        self.content(content.slot).map(|known| &known.track) != Some(&content.track)
    }

    /// What a slot carries from now on.
    pub fn begin(&mut self, content: SlotContent) {
        self.slots.remove(&content.slot);
        if content.track.is_none() {
            return;
        }
        let rate = if content.kind == Kind::Audio { 48_000 } else { 90_000 };
        let slot = Slot {
            order: Order::default(),
            clock: Clock::new(rate),
            depacketizer: None,
            ready: VecDeque::new(),
            is_held: true,
            packets: 0,
            lost: 0,
            asked_keyframe: None,
            content,
        };
        self.slots.insert(slot.content.slot, slot);
    }

    /// Nothing more comes of what a slot carries: what waits can be pulled.
    pub fn close(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.is_held = false;
        }
    }

    /// Forgets what a slot carried.
    pub fn end(&mut self, slot: usize) {
        self.slots.remove(&slot);
    }

    /// The peer has joined anew: numbers and clocks of the one before hold no more.
    pub fn restart(&mut self) {
        self.slots.clear();
        self.server_clock = ServerClock::default();
    }

    /// Takes a packet. Of a slot with nobody in it there is none: the signal that says whose it is comes later, by another path.
    pub fn put(&mut self, packet: Packet) {
        if let Some(slot) = self.slots.get_mut(&packet.slot) {
            slot.packets += 1;
            slot.order.push(packet);
        }
    }

    /// Takes a sender report.
    pub fn report(&mut self, clock: room::Clock) {
        let micros = self.server_clock.micros(clock.ntp_time, since(self.began, clock.arrival));
        if let Some(slot) = self.slots.get_mut(&clock.slot) {
            slot.clock.report(clock.rtp_time, micros);
            slot.is_held = false;
        }
    }

    /// The next frame of a slot, and when it was captured.
    pub fn pull(&mut self, slot: usize, now: Instant) -> Option<(Frame, i64)> {
        let slot = self.slots.get_mut(&slot)?;
        let is_late = |(_, arrival): &(Frame, i64)| since(self.began, now) - arrival >= HOLD_MICROS;
        slot.is_held &= !slot.ready.front().is_some_and(is_late);
        loop {
            if !slot.is_held
                && let Some((frame, arrival)) = slot.ready.pop_front()
            {
                let micros = slot.clock.micros(frame.timestamp, arrival);
                return Some((frame, micros));
            }
            let ordered = slot.order.pop(now)?;
            let arrival = since(self.began, ordered.packet.arrival);
            depacketize(slot, &ordered, &mut self.frames);
            for frame in self.frames.drain(..) {
                slot.clock.arrived(frame.timestamp, arrival);
                slot.ready.push_back((frame, arrival));
            }
        }
    }

    /// What was pulled last is of no use: what comes next must be a keyframe.
    pub fn await_keyframe(&mut self, slot: usize) {
        if let Some((_, depacketizer)) = self.slots.get_mut(&slot).and_then(|slot| slot.depacketizer.as_mut()) {
            depacketizer.await_keyframe();
        }
    }

    /// Whether a keyframe is to be asked for now.
    pub fn wants_keyframe(&mut self, slot: usize, now: Instant) -> bool {
        let Some(slot) = self.slots.get_mut(&slot) else { return false };
        let wants = slot.depacketizer.as_ref().is_some_and(|(_, depacketizer)| depacketizer.wants_keyframe());
        let may = slot.asked_keyframe.is_none_or(|asked| now.duration_since(asked) >= KEYFRAME_INTERVAL);
        if wants && may {
            slot.asked_keyframe = Some(now);
        }
        wants && may
    }
}

fn depacketize(slot: &mut Slot, ordered: &Ordered, frames: &mut Vec<Frame>) {
    let Ordered { packet, lost } = ordered;
    slot.lost += lost;
    if slot.depacketizer.as_ref().is_none_or(|(codec, _)| *codec != packet.codec) {
        slot.depacketizer = Some((packet.codec, Depacketizer::new(packet.codec)));
        slot.asked_keyframe = None;
    }
    let Some((_, depacketizer)) = &mut slot.depacketizer else { return };
    let was_waiting = depacketizer.wants_keyframe();
    let header = &packet.header;
    depacketizer.push(*lost > 0, header.timestamp, header.marker, &packet.payload, frames);
    if depacketizer.wants_keyframe() && !was_waiting {
        slot.asked_keyframe = None; // At once.
    }
}
