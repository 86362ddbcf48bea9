//! The packets of audio that leave once more with a later one, as RED ([`crate::red`]): gathered from the store, and written ahead of its
//! payload.

use proto::id::Pt;

use crate::config::{COPIES_MAX, PAYLOAD_LEN_MAX};
use crate::red::{Block, Writer};
use crate::rtp::Header;
use crate::store::{Kept, Source, Store};

/// The earlier packets that one leaves with.
#[derive(Default)]
pub(crate) struct Earlier {
    writer: Writer,
    /// Which they are: the lowest bit for the one before.
    bits: u8,
}

impl Earlier {
    #[inline]
    pub(crate) fn clear(&mut self) {
        if self.bits != 0 {
            self.writer.clear();
            self.bits = 0;
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bits == 0
    }

    /// What goes ahead of a payload of this type, and which packets those are. The next packet has none.
    #[inline]
    pub(crate) fn take(&mut self, pt: Pt) -> (&[u8], u8) {
        match std::mem::take(&mut self.bits) {
            0 => (&[], 0),
            bits => (self.writer.finish(pt), bits),
        }
    }

    /// Gathers the packets of these bits before the one with this index and timestamp; `may` says whether one may be carried. What is not
    /// there any more is left out.
    #[expect(clippy::too_many_arguments, reason = "a packet, and where those before it are")]
    pub(crate) fn gather(
        &mut self,
        bits: u8,
        source: Source,
        (index, timestamp): (u64, u32),
        pt: Pt,
        len: usize,
        kept: &Kept,
        store: &Store,
        may: impl Fn(u64, u32) -> bool,
    ) {
        self.writer.clear();
        self.bits = 0;
        let mut len = len;
        for back in (1..=u64::from(COPIES_MAX)).rev().filter(|back| bits >> (back - 1) & 1 != 0) {
            let Some(index) = index.checked_sub(back) else { continue };
            let Some([head, payload]) = store.find(source, kept, index).and_then(|handle| store.packet(handle)) else {
                continue;
            };
            let Ok(header) = Header::parse(head) else { continue };
            let block = Block { pt, offset: timestamp.wrapping_sub(header.timestamp), payload };
            let fits = len + payload.len() + 16 <= PAYLOAD_LEN_MAX;
            if fits && may(index, header.timestamp) && self.writer.add(block) {
                self.bits |= 1 << (back - 1);
                len += payload.len();
            }
        }
    }
}
