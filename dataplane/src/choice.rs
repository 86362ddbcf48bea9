//! Which encoding of a track a slot takes.
//!
//! A slot has a route from each encoding of the track that is in it. It is sent one of them, and may wait for another one: then it
//! is a receiver of both streams, and goes on with the other at a keyframe of that, when the frame that it is being sent is
//! complete. Of the encodings that it neither takes nor waits for it is no receiver, so they cost nothing.

use proto::plane::TRACK_ENCODINGS_MAX;

use crate::sets::KeyframeStart;

/// What a slot should take, in the order of quality: 0 is the worst.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Want {
    /// The best that flows.
    #[default]
    Best,
    /// No better one than this.
    Rank(u8),
    /// Nothing.
    Paused,
}

/// A keyframe of the encoding that a slot waits for, which has begun while a frame of the one that it takes was not complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    /// Index of its first packet.
    pub(crate) index: u64,
    pub(crate) timestamp: u32,
    pub(crate) start: KeyframeStart,
    /// Whether packets of the next frames of the encoding that the slot takes were left out since.
    pub(crate) has_withheld: bool,
}

/// The routes that fill a slot, and which of them it takes.
#[derive(Default)]
pub(crate) struct Choice {
    routes: [Option<u32>; TRACK_ENCODINGS_MAX],
    pub(crate) want: Want,
    /// The route whose stream it would take if all were flowing.
    pub(crate) wanted: Option<u32>,
    /// The route that it takes.
    pub(crate) live: Option<u32>,
    /// The one that it waits for; only while it takes one.
    pub(crate) next: Option<u32>,
    pub(crate) held: Option<Held>,
    /// Timestamp of the frame of the live route's stream that is not complete, if its newest packet has left.
    pub(crate) frame: Option<u32>,
}

impl Choice {
    /// The routes, in the order in which they were opened.
    #[inline]
    pub(crate) fn routes(&self) -> impl Iterator<Item = u32> + use<> {
        self.routes.into_iter().flatten()
    }

    /// Whether one more fits.
    pub(crate) fn has_room(&self) -> bool {
        self.routes.contains(&None)
    }

    /// Adds a route. There must be room for it.
    pub(crate) fn add(&mut self, route: u32) {
        let place = self.routes.iter_mut().find(|place| place.is_none());
        *place.expect("the caller has made sure of room") = Some(route);
    }

    /// Removes a route. Whether the slot took it.
    pub(crate) fn remove(&mut self, route: u32) -> bool {
        for place in self.routes.iter_mut().filter(|place| **place == Some(route)) {
            *place = None;
        }
        if self.next == Some(route) {
            (self.next, self.held) = (None, None);
        }
        let was_live = self.live == Some(route);
        if was_live {
            (self.live, self.held, self.frame) = (None, None, None);
        }
        was_live
    }

    /// Whether the slot is a receiver of the stream of a route.
    #[inline]
    pub(crate) fn takes(&self, route: u32) -> bool {
        self.live == Some(route) || self.next == Some(route)
    }

    /// Whether it waits for that stream, and takes another one.
    #[inline]
    pub(crate) fn waits_for(&self, route: u32) -> bool {
        self.next == Some(route)
    }

    /// A packet of the live route's stream left, and none with a higher index had.
    #[inline]
    pub(crate) fn sent_newest(&mut self, timestamp: u32, marker: bool) {
        self.frame = (!marker).then_some(timestamp);
    }

    /// Whether a packet that would be the newest of the live route's stream may leave. When a keyframe of the next one waits, only
    /// the rest of the frame that has begun may.
    #[inline]
    pub(crate) fn lets_pass(&mut self, timestamp: u32) -> bool {
        let Some(held) = &mut self.held else { return true };
        if self.frame == Some(timestamp) {
            return true;
        }
        // Another frame begins: what is missing of the one before does not come any more.
        (self.frame, held.has_withheld) = (None, true);
        false
    }

    /// What it waited for is what it takes from now on.
    pub(crate) fn switch(&mut self) {
        (self.live, self.next) = (self.next, None);
        (self.held, self.frame) = (None, None);
    }
}
