//! Transport-wide congestion control feedback for what a peer receives
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01): which packets arrived, and when.

use std::collections::VecDeque;
use std::time::Instant;

use crate::rtcp::{Compound, TRANSPORT_FEEDBACK};

/// Packets that one feedback tells of; the next tells of the rest.
const STATUSES_MAX: usize = 350;
/// Packets that are waited for. A jump beyond that is an outage: what came before it is not told.
const PENDING_MAX: u64 = 8 * STATUSES_MAX as u64;
/// Symbols of two bits in one status vector (§3.1.4).
const VECTOR_LEN: usize = 7;
/// Unit of the reference time, microseconds (§3.1).
const REFERENCE_MICROS: i64 = 64_000;
/// Unit of a delta, microseconds (§3.1.5).
const DELTA_MICROS: i64 = 250;
/// In the place of a time: not received.
const MISSING: i64 = i64::MIN;
/// Format of the feedback.
const FORMAT: u8 = 15;

/// The packets that arrived since the last feedback.
pub struct Arrivals {
    epoch: Instant,
    /// First number that no feedback told of.
    base: u64,
    /// From `base` on: microseconds since the epoch, or [`MISSING`].
    times: VecDeque<i64>,
    has_begun: bool,
    feedbacks: u8,
    deltas: Vec<i64>,
}

impl Arrivals {
    /// None yet.
    pub fn new(epoch: Instant) -> Arrivals {
        let (times, deltas) = (VecDeque::new(), Vec::new());
        Arrivals { epoch, base: 0, times, has_begun: false, feedbacks: 0, deltas }
    }

    /// A packet with this transport-wide number arrived.
    pub fn push(&mut self, now: Instant, seq: u16) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.base = (1 << 16) | u64::from(seq);
        }
        let end = self.base + self.times.len() as u64;
        let number = end.saturating_add_signed(i64::from(seq.wrapping_sub(end as u16) as i16));
        // What a feedback told as lost stays lost: a late packet is no measure of the path.
        let Some(at) = number.checked_sub(self.base) else { return };
        if at >= PENDING_MAX {
            self.times.clear();
            self.base = number;
            self.times.push_back(self.micros(now));
            return;
        }
        let at = at as usize;
        if self.times.len() <= at {
            self.times.resize(at + 1, MISSING);
        }
        if self.times[at] == MISSING {
            self.times[at] = self.micros(now);
        }
    }

    fn micros(&self, now: Instant) -> i64 {
        now.saturating_duration_since(self.epoch).as_micros() as i64
    }

    /// Writes the next feedback, if anything arrived. Whether it did.
    pub fn write(&mut self, sender_ssrc: u32, media_ssrc: u32, compound: &mut Compound) -> bool {
        let count = self.times.len().min(STATUSES_MAX);
        let Some(&first) = self.times.iter().find(|&&at| at != MISSING) else { return false };
        let reference = first / REFERENCE_MICROS;
        let base = self.base as u16;
        self.base += count as u64;
        let feedback = self.feedbacks;
        self.feedbacks = feedback.wrapping_add(1);
        let (times, deltas) = (&mut self.times, &mut self.deltas);
        deltas.clear();
        compound.packet(FORMAT, TRANSPORT_FEEDBACK, |out| {
            out.extend(sender_ssrc.to_be_bytes());
            out.extend(media_ssrc.to_be_bytes());
            out.extend(base.to_be_bytes());
            out.extend((count as u16).to_be_bytes());
            out.extend(&(reference as u32).to_be_bytes()[1..]);
            out.push(feedback);
            let mut before = reference * REFERENCE_MICROS;
            let (mut vector, mut symbols) = (0u16, 0);
            for at in times.drain(..count) {
                let symbol = if at == MISSING {
                    0
                } else {
                    let ticks = (at - before) / DELTA_MICROS;
                    before += ticks * DELTA_MICROS;
                    deltas.push(ticks);
                    if (0..=0xFF).contains(&ticks) { 1 } else { 2 }
                };
                vector = vector << 2 | symbol;
                symbols += 1;
                if symbols == VECTOR_LEN {
                    out.extend((0xC000 | vector).to_be_bytes());
                    (vector, symbols) = (0, 0);
                }
            }
            if symbols > 0 {
                out.extend((0xC000 | vector << (2 * (VECTOR_LEN - symbols))).to_be_bytes());
            }
            for &ticks in deltas.iter() {
                match u8::try_from(ticks) {
                    Ok(small) => out.push(small),
                    Err(_) => out.extend((ticks.clamp(i16::MIN.into(), i16::MAX.into()) as i16).to_be_bytes()),
                }
            }
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rtcp::transport_feedbacks::transport_layer_cc::TransportLayerCc;
    use webrtc_util::marshal::Unmarshal;

    use super::*;

    fn feedback(arrivals: &mut Arrivals) -> Option<TransportLayerCc> {
        let mut compound = Compound::default();
        arrivals.write(1, 2, &mut compound).then(|| TransportLayerCc::unmarshal(&mut compound.bytes()).unwrap())
    }

    #[test]
    fn feedback_tells_each_number_once_across_the_wrap() {
        let epoch = Instant::now();
        let mut arrivals = Arrivals::new(epoch);
        assert!(feedback(&mut arrivals).is_none());
        for (i, seq) in [65_533, 65_534, 0, 2, 1].into_iter().enumerate() {
            arrivals.push(epoch + Duration::from_millis(100 + 10 * i as u64), seq);
        }
        let first = feedback(&mut arrivals).unwrap();
        assert_eq!((first.sender_ssrc, first.media_ssrc), (1, 2));
        assert_eq!((first.base_sequence_number, first.packet_status_count), (65_533, 6));
        assert_eq!(first.reference_time, 1);
        let deltas: Vec<i64> = first.recv_deltas.iter().map(|delta| delta.delta).collect();
        // 65,535 is missing; 2 came before 1.
        assert_eq!(deltas, [36_000, 10_000, 10_000, 20_000, -10_000]);
        assert!(feedback(&mut arrivals).is_none());
        arrivals.push(epoch + Duration::from_secs(1), 65_535);
        assert!(feedback(&mut arrivals).is_none(), "what was told as lost stays lost");
        arrivals.push(epoch + Duration::from_secs(1), 3);
        let second = feedback(&mut arrivals).unwrap();
        assert_eq!((second.base_sequence_number, second.fb_pkt_count), (3, 1));
    }

    #[test]
    fn an_outage_begins_anew_and_many_packets_take_several_feedbacks() {
        let epoch = Instant::now();
        let mut arrivals = Arrivals::new(epoch);
        (0..1000).for_each(|seq| arrivals.push(epoch, seq));
        let counts: Vec<u16> =
            std::iter::from_fn(|| feedback(&mut arrivals)).map(|feedback| feedback.packet_status_count).collect();
        assert_eq!(counts, [350, 350, 300]);
        arrivals.push(epoch, 20_000);
        assert_eq!(feedback(&mut arrivals).unwrap().base_sequence_number, 20_000);
    }
}
