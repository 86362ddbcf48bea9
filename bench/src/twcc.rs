//! Transport-wide congestion control feedback for what this peer receives
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01): which packets arrived, and when.

use std::collections::BTreeMap;
use std::time::Instant;

use rtcp::transport_feedbacks::transport_layer_cc::{
    PacketStatusChunk, RecvDelta, StatusChunkTypeTcc, StatusVectorChunk, SymbolSizeTypeTcc, SymbolTypeTcc,
    TransportLayerCc,
};

use crate::receive::nearest;

/// Packets that one feedback tells of; the next tells of the rest.
const STATUSES_MAX: u64 = 350;
/// Symbols of two bits in one status vector (§3.1.4).
const VECTOR_LEN: usize = 7;
/// Unit of the reference time, microseconds (§3.1).
const REFERENCE_MICROS: i64 = 64_000;
/// Unit of a delta, microseconds (§3.1.5).
const DELTA_MICROS: i64 = 250;

/// The packets that arrived since the last feedback.
pub struct Arrivals {
    epoch: Instant,
    /// First number that no feedback told of.
    base: Option<u64>,
    highest: u64,
    /// Extended number to microseconds since the epoch.
    pending: BTreeMap<u64, i64>,
    feedbacks: u8,
    received: u64,
    first: u64,
}

impl Arrivals {
    /// None yet.
    pub fn new(epoch: Instant) -> Arrivals {
        Arrivals { epoch, base: None, highest: 0, pending: BTreeMap::new(), feedbacks: 0, received: 0, first: 0 }
    }

    /// A packet with this transport-wide number arrived.
    pub fn push(&mut self, now: Instant, seq: u16) {
        let base = *self.base.get_or_insert_with(|| {
            self.first = (1 << 16) | u64::from(seq);
            self.highest = self.first;
            self.first
        });
        let number = nearest(self.highest, seq);
        self.highest = self.highest.max(number);
        self.received += 1;
        // What came after it was told as lost stays lost: a late packet is no measure of the path.
        if number >= base {
            self.pending.insert(number, now.duration_since(self.epoch).as_micros() as i64);
        }
    }

    /// Numbers between the first and the highest that did not arrive.
    pub fn missing(&self) -> u64 {
        self.base.map_or(0, |_| (self.highest - self.first + 1).saturating_sub(self.received))
    }

    /// The next feedback, if anything arrived.
    pub fn poll(&mut self, sender_ssrc: u32, media_ssrc: u32) -> Option<TransportLayerCc> {
        let base = self.base?;
        let (_, &at) = self.pending.first_key_value()?;
        let end = (self.highest + 1).min(base + STATUSES_MAX);
        let reference = at / REFERENCE_MICROS;
        let mut before = reference * REFERENCE_MICROS;
        let (mut symbols, mut recv_deltas) = (Vec::new(), Vec::new());
        for number in base..end {
            let Some(at) = self.pending.remove(&number) else {
                symbols.push(SymbolTypeTcc::PacketNotReceived);
                continue;
            };
            let ticks = (at - before) / DELTA_MICROS;
            before += ticks * DELTA_MICROS;
            let is_small = (0..=0xFF).contains(&ticks);
            let type_tcc_packet = if is_small {
                SymbolTypeTcc::PacketReceivedSmallDelta
            } else {
                SymbolTypeTcc::PacketReceivedLargeDelta
            };
            symbols.push(type_tcc_packet);
            recv_deltas.push(RecvDelta { type_tcc_packet, delta: ticks * DELTA_MICROS });
        }
        self.base = Some(end);
        let fb_pkt_count = self.feedbacks;
        self.feedbacks = self.feedbacks.wrapping_add(1);
        Some(TransportLayerCc {
            sender_ssrc,
            media_ssrc,
            base_sequence_number: base as u16,
            packet_status_count: symbols.len() as u16,
            reference_time: (reference & 0xFF_FFFF) as u32,
            fb_pkt_count,
            packet_chunks: symbols.chunks(VECTOR_LEN).map(vector).collect(),
            recv_deltas,
        })
    }
}

fn vector(symbols: &[SymbolTypeTcc]) -> PacketStatusChunk {
    let mut symbol_list = symbols.to_vec();
    symbol_list.resize(VECTOR_LEN, SymbolTypeTcc::PacketNotReceived);
    PacketStatusChunk::StatusVectorChunk(StatusVectorChunk {
        type_tcc: StatusChunkTypeTcc::StatusVectorChunk,
        symbol_size: SymbolSizeTypeTcc::TwoBit,
        symbol_list,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use webrtc_util::marshal::{Marshal, Unmarshal};

    use super::*;

    #[test]
    fn feedback_tells_each_number_once_across_the_wrap() {
        let epoch = Instant::now();
        let mut arrivals = Arrivals::new(epoch);
        assert!(arrivals.poll(1, 2).is_none());
        for (i, seq) in [65_533, 65_534, 0, 2, 1].into_iter().enumerate() {
            arrivals.push(epoch + Duration::from_millis(100 + 10 * i as u64), seq);
        }
        let feedback = arrivals.poll(1, 2).unwrap();
        assert_eq!((feedback.base_sequence_number, feedback.packet_status_count), (65_533, 6));
        assert_eq!(feedback.reference_time, 1);
        let deltas: Vec<i64> = feedback.recv_deltas.iter().map(|delta| delta.delta).collect();
        // 65,535 is missing; 2 came before 1.
        assert_eq!(deltas, [36_000, 10_000, 10_000, 20_000, -10_000]);
        assert_eq!(arrivals.missing(), 1);
        let bytes = feedback.marshal().unwrap();
        assert_eq!(TransportLayerCc::unmarshal(&mut bytes.clone()).unwrap().recv_deltas, feedback.recv_deltas);
        assert!(arrivals.poll(1, 2).is_none());
        arrivals.push(epoch + Duration::from_secs(1), 3);
        let feedback = arrivals.poll(1, 2).unwrap();
        assert_eq!((feedback.base_sequence_number, feedback.fb_pkt_count), (3, 1));
    }
}
