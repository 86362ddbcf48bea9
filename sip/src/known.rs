//! What the telephones of this gateway said lately, by the packets of Opus that carry it. A room with several telephones sends each
//! of them what the others said. Who knows the packet need not decode it, which halves what a hundred telephones
//! cost, and it sounds better. The room still decides who hears whom, as only packets that come from it are looked up.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Frames that are kept: 80 s of one voice, a second of 160. Of 8 kHz that is some 7 MiB.
const FRAMES_MAX: usize = 8192;

/// 20 ms at 8 kHz.
pub(crate) type Frame = Arc<[f32]>;

#[derive(Debug, Default)]
struct Table {
    /// With the number of the entry in `order`.
    frames: HashMap<Arc<[u8]>, (u64, Frame)>,
    order: VecDeque<Arc<[u8]>>,
    /// Entries that have left `order`.
    gone: u64,
}

/// One for all calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known(Arc<Mutex<Table>>);

impl Known {
    /// Keeps what a packet carries.
    pub(crate) fn keep(&self, packet: &[u8], frame: &[f32]) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (key, number) = (Arc::<[u8]>::from(packet), table.gone + table.order.len() as u64);
        table.frames.insert(Arc::clone(&key), (number, frame.into()));
        table.order.push_back(key);
        if table.order.len() > FRAMES_MAX
            && let Some(oldest) = table.order.pop_front()
        {
            // Unless a later packet was the same.
            if table.frames.get(&oldest).is_some_and(|(number, _)| *number == table.gone) {
                table.frames.remove(&oldest);
            }
            table.gone += 1;
        }
    }

    /// What this packet carries, if a telephone of ours said it.
    pub(crate) fn of(&self, packet: &[u8]) -> Option<Frame> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.frames.get(packet).map(|(_, frame)| Arc::clone(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_known_and_the_table_is_bounded() {
        let known = Known::default();
        known.keep(b"silence", &[0.0]);
        for n in 0..FRAMES_MAX as u32 - 2 {
            known.keep(&n.to_be_bytes(), &[n as f32]);
        }
        known.keep(b"silence", &[0.5]);
        assert_eq!(known.of(b"silence").as_deref(), Some(&[0.5][..]));
        // The first of them is the oldest one now, and with it goes nothing that is newer.
        known.keep(b"more", &[1.0]);
        assert_eq!(known.of(b"silence").as_deref(), Some(&[0.5][..]));
        known.keep(b"and more", &[1.0]);
        assert_eq!((known.of(&0u32.to_be_bytes()), known.of(&1u32.to_be_bytes()).is_some()), (None, true));
        assert_eq!(known.of(b"other"), None);
        for n in 0..3 * FRAMES_MAX as u32 {
            known.keep(&[1, (n >> 16) as u8, (n >> 8) as u8, n as u8], &[0.0]);
        }
        let table = known.0.lock().unwrap();
        assert_eq!((table.frames.len(), table.order.len()), (FRAMES_MAX, FRAMES_MAX));
    }
}
