//! The receiving side: slots, each an m-section with one SSRC, and the routes that fill them.

use std::num::NonZeroU64;

use proto::id::Pt;
use proto::plane::{RouteCodec, RouteOpen, SHOWN_LINES_ANY, SlotOpen, SlotShown, weight};

use crate::choice::Choice;
use crate::config::Micros;
use crate::headroom::Headroom;
use crate::layer::Layers;
use crate::playout::Playout;
use crate::repair::{Again, Budget, Refused};
use crate::rewrite::Rewriter;
use crate::srtp::{OrderedSender, Sender};
use crate::stream::{Format, Hop, Stream};
use crate::table::Table;
use crate::tally::SlotCounts;

/// An m-section through which a peer receives.
pub(crate) struct Slot {
    pub(crate) open: SlotOpen,
    /// The routes that fill it, and which of them it takes.
    pub(crate) choice: Choice,
    /// How its receiver shows it, lines and weight, as the controlplane said it.
    shown: Option<(u16, u8)>,
    /// Which of its last packets was sent again for a probe.
    pub(crate) probed: u16,
    /// What the allocation gave it, if it was ever asked: an encoding, or nothing.
    pub(crate) allocated: Option<Option<u8>>,
    /// What its receiver's path has room for, of the encoding that it was given.
    pub(crate) room: Headroom,
    /// Which temporal layers of it are sent.
    pub(crate) layers: Layers,
    /// How long its receiver is to hold its pictures back.
    pub(crate) playout: Playout,
    pub(crate) rewriter: Rewriter,
    /// What its packets leave by.
    pub(crate) sender: Sender,
    /// What repairs leave by, where RTX was negotiated.
    pub(crate) rtx: Option<Box<Rtx>>,
    /// What is known of its newest packets, where they are repaired by the same packets again.
    pub(crate) again: Option<Box<Again>>,
    pub(crate) packets: u64,
    pub(crate) octets: u64,
    pub(crate) counts: SlotCounts,
    /// The lower bits of its next index and of its packets when its receiver last reported on it.
    reported: (u16, u16),
    sender_report_sent: Option<SenderReport>,
}

/// The last sender report of a slot.
#[derive(Clone, Copy)]
struct SenderReport {
    /// The middle 32 bits of its NTP time.
    middle: u32,
    /// When it left, microseconds; 1 at the least, so that an `Option` is no larger.
    at: NonZeroU64,
}
const _: () = assert!(size_of::<Option<SenderReport>>() == 16, "each slot has one");

/// The RTX stream of a slot (RFC 4588).
pub(crate) struct Rtx {
    pub(crate) sender: OrderedSender,
    pub(crate) budget: Budget,
    pub(crate) refused: Refused,
}

impl Rtx {
    fn new(open: &SlotOpen) -> Rtx {
        let sender = OrderedSender::new(open.rtx_ssrc, open.rtx_seq_first.into());
        Rtx { sender, budget: Budget::new(), refused: Refused::default() }
    }
}

impl Slot {
    pub(crate) fn new(open: SlotOpen) -> Self {
        Slot {
            choice: Choice::default(),
            shown: None,
            probed: 0,
            allocated: None,
            room: Headroom::NONE,
            layers: Layers::new(),
            playout: Playout::default(),
            rewriter: Rewriter::new(open.timestamp_first),
            // The first index has ROC 0, as receivers assume. A first sequence number of 0 is served as 1, so that there is an
            // index before the first.
            sender: Sender::new(open.ssrc, u64::from(open.seq_first.max(1))),
            rtx: (open.rtx_ssrc != 0).then(|| Box::new(Rtx::new(&open))),
            again: None,
            packets: 0,
            octets: 0,
            counts: SlotCounts::default(),
            reported: (open.seq_first.max(1), 0),
            sender_report_sent: None,
            open,
        }
    }

    /// From now on its packets may leave again.
    pub(crate) fn keep_moments(&mut self) {
        self.sender.seal();
        self.again.get_or_insert_with(|| Box::new(Again::new()));
    }
}

impl Slot {
    /// Shorter side of its pictures as they are shown; 0 if they are not.
    pub(crate) fn lines(&self) -> u16 {
        self.shown.map_or(SHOWN_LINES_ANY, |(lines, _)| lines)
    }

    /// How important it is to its receiver.
    pub(crate) fn weight(&self) -> u8 {
        self.shown.map_or(weight::OTHER, |(_, weight)| weight)
    }

    /// Takes what the controlplane says of it.
    pub(crate) fn show(&mut self, shown: &SlotShown) {
        self.shown = Some((shown.lines, shown.weight));
    }

    /// What the controlplane has said of it.
    pub(crate) fn shown(&self) -> Option<SlotShown> {
        self.shown.map(|(lines, weight)| SlotShown { slot: self.open.slot, lines, weight })
    }

    /// A sender report has left, whose NTP time has these middle 32 bits.
    pub(crate) fn sender_reported(&mut self, middle: u32, now: Micros) {
        let at = NonZeroU64::new(now).unwrap_or(NonZeroU64::MIN);
        self.sender_report_sent = Some(SenderReport { middle, at });
    }

    /// When the last sender report left, if its NTP time has these middle 32 bits.
    pub(crate) fn sender_report_sent(&self, middle: u32) -> Option<Micros> {
        self.sender_report_sent.filter(|report| report.middle == middle).map(|report| report.at.get())
    }

    /// Its receiver reports that this fraction, in 1/256, of the numbers since its last report did not arrive. How many packets were sent since
    /// then, and how many of them were lost behind us: what had not come here has a number, and was not sent.
    pub(crate) fn lost_since(&mut self, fraction_lost: u8) -> (u64, u64) {
        let now = (self.sender.next() as u16, self.packets as u16);
        let (next, packets) = std::mem::replace(&mut self.reported, now);
        let (numbers, sent) = (u64::from(now.0.wrapping_sub(next)), u64::from(now.1.wrapping_sub(packets)));
        let missing = numbers * u64::from(fraction_lost) / 256;
        (sent, missing.saturating_sub(numbers.saturating_sub(sent)))
    }

    /// Whether its receiver does not show it.
    pub(crate) fn is_hidden(&self) -> bool {
        self.lines() == 0
    }

    /// A route into it is closed. Whether its stream was the wanted one.
    pub(crate) fn close_route(&mut self, route: u32) -> bool {
        let was_wanted = self.choice.wanted.take_if(|wanted| *wanted == route).is_some();
        if self.choice.remove(route) {
            self.rewriter.cut();
        }
        if self.choice.routes().next().is_none() {
            (self.choice, self.allocated, self.room) = (Choice::default(), None, Headroom::NONE);
        }
        was_wanted
    }

    /// What comes by a route from now on does not continue what came by it before.
    pub(crate) fn interrupt(&mut self, route: u32) {
        if self.choice.waits_for(route) {
            self.choice.held = None;
        } else if self.choice.live == Some(route) {
            self.rewriter.cut();
            self.choice.frame = None;
        }
    }
}

/// What comes of a stream from now on does not continue what its receivers were sent.
pub(crate) fn interrupt(stream: &Stream, slots: &mut Table<Slot>) {
    for hop in &stream.hops {
        if let Some(slot) = slots.at_mut(hop.slot) {
            slot.interrupt(hop.route);
        }
    }
}

/// A route: what was asked for, and the dense indices it stands on.
pub(crate) struct Route {
    pub(crate) open: RouteOpen,
    /// What the receiver gave the stream's second codec.
    pub(crate) second: Option<RouteCodec>,
}

impl Route {
    /// What the fan-out of its stream needs of it, for a receiver that has had nothing of the stream.
    pub(crate) fn hop(&self, route: u32, peer: u32, awaits_keyframe: bool) -> Hop {
        let pts = [self.open.pt, self.second.map_or(0, |second| second.pt)];
        Hop {
            route,
            slot: self.open.slot.index,
            peer,
            pts,
            red_pt: self.open.red_pt,
            awaits_keyframe,
            lacks_sets: false,
        }
    }

    /// Whether losses are repaired by the same packets again.
    pub(crate) fn is_repaired_as_is(open: &RouteOpen) -> bool {
        open.rtx_pt != 0 && open.rtx_pt == open.pt
    }

    /// The receiver's payload type for retransmissions of a stream's codec, 0 for none.
    pub(crate) fn rtx_pt(&self, format: Format) -> Pt {
        match format.index {
            0 => self.open.rtx_pt,
            _ => self.second.map_or(0, |second| second.rtx_pt),
        }
    }
}
