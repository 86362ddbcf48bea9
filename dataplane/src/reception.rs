//! What has come of a stream, for receiver reports (RFC 3550 §6.4.1) and tallies.

use proto::id::Ssrc;

use crate::config::Micros;
use crate::rtcp::ReportBlock;

/// Reception statistics of a stream, for receiver reports (RFC 3550 §6.4.1, App. A.3, A.8).
#[derive(Default)]
pub(crate) struct Reception {
    first_index: Option<u64>,
    received: u64,
    expected_prior: u64,
    received_prior: u64,
    /// Expected and received at the last review of the peer's estimate.
    reviewed: (u64, u64),
    jitter_q4: u32,
    transit_last: Option<u32>,
    last_sr_middle: u32,
    last_sr_at: Option<Micros>,
    /// Packets received and expected of the SSRCs that the stream had before.
    former: (u64, u64),
}

impl Reception {
    /// An authentic packet arrived.
    #[inline]
    pub(crate) fn received(&mut self, index: u64, timestamp: u32, clock_rate: u32, at: Micros) {
        self.first_index.get_or_insert(index);
        self.received += 1;
        let arrival = (u128::from(at) * u128::from(clock_rate) / 1_000_000) as u32;
        let transit = arrival.wrapping_sub(timestamp);
        if let Some(last) = self.transit_last.replace(transit) {
            let d = (transit.wrapping_sub(last) as i32).unsigned_abs();
            // RFC 3550 App. A.8, in sixteenths. A jump of a minute is a new clock, not jitter.
            if d < 60 * clock_rate {
                self.jitter_q4 = self.jitter_q4.wrapping_add(d).wrapping_sub((self.jitter_q4 + 8) >> 4);
            }
        }
    }

    /// A sender report came.
    pub(crate) fn sender_report(&mut self, ntp: u64, at: Micros) {
        self.last_sr_middle = (ntp >> 16) as u32;
        self.last_sr_at = Some(at);
    }

    /// The report block for the time since the last one.
    pub(crate) fn report(&mut self, ssrc: Ssrc, highest: u64, now: Micros) -> Option<ReportBlock> {
        let first = self.first_index?;
        let expected = highest.saturating_sub(first) + 1;
        let expected_interval = expected.saturating_sub(self.expected_prior);
        let received_interval = self.received - self.received_prior;
        self.expected_prior = expected;
        self.received_prior = self.received;
        let lost_interval = expected_interval.saturating_sub(received_interval);
        let fraction_lost = (lost_interval * 256).checked_div(expected_interval).unwrap_or(0).min(255);
        let cumulative = (expected as i64 - self.received as i64).clamp(-0x80_0000, 0x7f_ffff);
        Some(ReportBlock {
            ssrc,
            fraction_lost: fraction_lost as u8,
            cumulative_lost: cumulative as i32,
            highest_seq: highest as u32,
            jitter: self.jitter_q4 >> 4,
            last_sr: self.last_sr_middle,
            delay_since_last_sr: self
                .last_sr_at
                .map_or(0, |at| (u128::from(now.saturating_sub(at)) * 65_536 / 1_000_000) as u32),
        })
    }

    /// Packets that were expected since the last call, and how many of them did not come.
    pub(crate) fn lost_since_review(&mut self, highest: u64) -> (u64, u64) {
        let Some(first) = self.first_index else { return (0, 0) };
        let (expected, received) = (highest.saturating_sub(first) + 1, self.received);
        let (expected_before, received_before) = std::mem::replace(&mut self.reviewed, (expected, received));
        let expected = expected.saturating_sub(expected_before);
        (expected, expected.saturating_sub(received - received_before))
    }

    /// Packets received and expected since the stream was opened; `highest` is the index of the newest.
    pub(crate) fn totals(&self, highest: Option<u64>) -> (u64, u64) {
        let (received, expected) = self.former;
        let span = self.first_index.zip(highest).map_or(0, |(first, highest)| highest.saturating_sub(first) + 1);
        (received + self.received, expected + span)
    }

    /// Starts over for a new SSRC; `highest` is the last index of the one before.
    pub(crate) fn reset(&mut self, highest: Option<u64>) {
        *self = Reception { former: self.totals(highest), ..Reception::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_what_is_missing_since_the_last() {
        let mut reception = Reception::default();
        assert_eq!(reception.report(1, 0, 0), None, "nothing was received yet");
        for index in (100..200).filter(|i| i % 4 != 0) {
            reception.received(index, index as u32 * 960, 48_000, index * 20_000);
        }
        reception.sender_report(0x0001_2345_6789_0000, 3_000_000);
        let block = reception.report(7, 199, 4_000_000).unwrap();
        assert_eq!((block.ssrc, block.highest_seq, block.cumulative_lost), (7, 199, 24), "100 is where it began");
        assert_eq!(block.fraction_lost, (24 * 256 / 99) as u8);
        assert_eq!((block.last_sr, block.delay_since_last_sr), (0x2345_6789, 65_536));
        assert_eq!(block.jitter, 0, "packets came exactly in time");
        let block = reception.report(7, 199, 4_000_000).unwrap();
        assert_eq!((block.fraction_lost, block.cumulative_lost), (0, 24));
    }
}
