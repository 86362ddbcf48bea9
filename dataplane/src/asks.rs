//! Leaf: how often one receiver may cause keyframe requests to each stream, by PLI and FIR and by entering the stream anew. Each
//! keyframe is several times a mean frame for its publisher and for everybody else who receives it.

use proto::id::StreamId;

use crate::config::{KEYFRAME_ASKS_MAX, KEYFRAME_PAUSE, KEYFRAME_REQUESTS_MAX, KEYFRAME_WINDOW, Micros};

/// What a receiver has asked of one stream.
#[derive(Clone, Copy)]
struct Ask {
    stream: Option<StreamId>,
    /// Start of the window, and how many in it.
    since: Micros,
    count: u8,
}

/// What one receiver has asked of the streams that it asked last.
pub(crate) struct Asks {
    of: [Ask; KEYFRAME_ASKS_MAX],
}

impl Asks {
    pub(crate) fn new() -> Asks {
        Asks { of: [Ask { stream: None, since: 0, count: 0 }; KEYFRAME_ASKS_MAX] }
    }

    /// Whether it may ask for a keyframe of a stream now; else when it may.
    pub(crate) fn ask(&mut self, stream: StreamId, now: Micros) -> Result<(), Micros> {
        let at = self.of.iter().position(|ask| ask.stream == Some(stream));
        let oldest =
            || (0..self.of.len()).min_by_key(|&at| (self.of[at].stream.is_some(), self.of[at].since)).unwrap_or(0);
        let ask = &mut self.of[at.unwrap_or_else(oldest)];
        if ask.stream != Some(stream) || now >= ask.since + KEYFRAME_WINDOW {
            *ask = Ask { stream: Some(stream), since: now, count: 0 };
        }
        if ask.count < KEYFRAME_REQUESTS_MAX {
            ask.count += 1;
            return Ok(());
        }
        Err((ask.since + KEYFRAME_WINDOW).min(now + KEYFRAME_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_may_be_asked_so_often_in_a_window() {
        let mut asks = Asks::new();
        let stream = |n| StreamId::new(n, 1);
        for n in 0..KEYFRAME_ASKS_MAX as u32 {
            let granted = (0..10).filter(|_| asks.ask(stream(n), Micros::from(n)).is_ok()).count();
            assert_eq!(granted, usize::from(KEYFRAME_REQUESTS_MAX));
        }
        assert_eq!(asks.ask(stream(0), 100), Err(100 + KEYFRAME_PAUSE));
        assert_eq!(asks.ask(stream(0), KEYFRAME_WINDOW - 1), Err(KEYFRAME_WINDOW));
        assert_eq!(asks.ask(stream(0), KEYFRAME_WINDOW), Ok(()));
        assert_eq!(asks.ask(stream(99), KEYFRAME_WINDOW), Ok(()), "it takes the place of the oldest");
        assert_eq!(asks.ask(StreamId::new(99, 2), KEYFRAME_WINDOW), Ok(()), "another occupant is another stream");
    }
}
