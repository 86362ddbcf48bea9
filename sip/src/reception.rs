//! What of one stream has come (RFC 3550 §6.4.1, A.1 and A.3): how many packets, and how many are missing between them.

/// A step ahead beyond which it is another sequence, and one back (RFC 3550 A.1).
const DROPOUT_MAX: u16 = 3000;
const MISORDER_MAX: u16 = 100;

/// The packets of one source.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Reception {
    /// First and highest sequence number, extended by their cycles.
    span: Option<(u64, u64)>,
    received: u64,
    /// Lost in sequences that have ended.
    lost_before: u64,
}

impl Reception {
    /// Takes note of a packet.
    pub(crate) fn receive(&mut self, seq: u16) {
        let (first, highest) = self.span.unwrap_or((seq.into(), seq.into()));
        let ahead = seq.wrapping_sub(highest as u16);
        let span = if ahead <= DROPOUT_MAX {
            (first, highest + u64::from(ahead))
        } else if ahead >= MISORDER_MAX.wrapping_neg() {
            (first, highest)
        } else {
            self.lost_before = self.lost();
            self.received = 0;
            (seq.into(), seq.into())
        };
        self.span = Some(span);
        self.received += 1;
    }

    /// Packets of this sequence that should have come, and that did.
    pub(crate) fn expected(&self) -> u64 {
        self.span.map_or(0, |(first, highest)| highest - first + 1)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Highest sequence number with its cycles, as reports say it.
    pub(crate) fn highest(&self) -> u32 {
        self.span.map_or(0, |(_, highest)| highest as u32)
    }

    /// Packets that did not come. One that came twice stands for one that did not, as in RFC 3550.
    pub(crate) fn lost(&self) -> u64 {
        self.lost_before + self.expected().saturating_sub(self.received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_counted_over_the_wrap_and_in_disorder() {
        let mut reception = Reception::default();
        for seq in [65_533, 65_535, 65_534, 1, 3] {
            reception.receive(seq);
        }
        // 0 and 2.
        assert_eq!(reception.lost(), 2);
        reception.receive(2);
        assert_eq!(reception.lost(), 1);
        // Another sequence: what was lost stays so, and the jump is no loss.
        reception.receive(30_000);
        reception.receive(30_002);
        assert_eq!(reception.lost(), 2);
    }
}
