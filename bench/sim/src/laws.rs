//! What must hold of the media that leaves the server, whatever the network does and whichever plane dies:
//!
//! 1. no SRTP index of an SSRC is used twice but for the same bytes again, so no keystream is, and no sequence number carries
//!    two packets; a repair carries what was, or would have been, sent under the number that it names;
//! 2. in the order of sequence numbers timestamps never go back, and no two frames share one;
//! 3. a gap of the input is a gap of the output, and a switch from one stream to another leaves none;
//! 4. nobody gets media of another room, or their own;
//! 5. when the network is good again, everything arrives.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rtp::packet::Packet;

/// What each payload says of itself, from its ninth byte on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// Which peer of the simulation.
    pub publisher: u16,
    /// Which of its connections: it begins anew after it was thrown out.
    pub incarnation: u16,
    /// 0 for audio, 1 for video, and what is above that for further encodings of it.
    pub kind: u8,
    /// Which frame.
    pub frame: u32,
    /// Which packet of the stream: the RTP packet index that it left with.
    pub index: u64,
}

/// Marks our payloads: bytes that must not be seen on the wire.
pub const MARK: [u8; 8] = *b"in clear";

impl Identity {
    /// Bytes of a payload.
    pub const LEN: usize = 8 + 17 + MARK.len();

    /// A payload that begins with these bytes, which say to H.264 what it is.
    pub fn write(self, first: [u8; 8]) -> Vec<u8> {
        let mut bytes = first.to_vec();
        bytes.extend(self.publisher.to_be_bytes());
        bytes.extend(self.incarnation.to_be_bytes());
        bytes.push(self.kind);
        bytes.extend(self.frame.to_be_bytes());
        bytes.extend(self.index.to_be_bytes());
        bytes.extend(MARK);
        bytes
    }

    /// Reads a payload.
    pub fn read(payload: &[u8]) -> Identity {
        assert_eq!(payload.len(), Self::LEN, "a payload comes whole");
        assert_eq!(payload[25..], MARK, "a payload comes unchanged");
        let u16_at = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
        Identity {
            publisher: u16_at(8),
            incarnation: u16_at(10),
            kind: payload[12],
            frame: u32::from_be_bytes(payload[13..17].try_into().expect("four bytes")),
            index: u64::from_be_bytes(payload[17..25].try_into().expect("eight bytes")),
        }
    }

    /// The stream that it belongs to.
    pub fn source(self) -> (u16, u16, u8) {
        (self.publisher, self.incarnation, self.kind)
    }
}

/// The index nearest to the highest so far (RFC 3711 §3.3.1).
pub fn unwrap(seq: u16, highest: Option<u64>) -> u64 {
    // The first of a stream may be followed by earlier ones, so it begins in the second round.
    let Some(highest) = highest else { return u64::from(seq) + (1 << 16) };
    highest.wrapping_add_signed(i64::from(seq.wrapping_sub(highest as u16) as i16))
}

/// Transport-wide sequence numbers of one connection.
#[derive(Default, Debug)]
pub struct Numbers {
    highest: Option<u64>,
    seen: BTreeSet<u64>,
}

impl Numbers {
    /// A packet leaves with this one, which no other has.
    pub fn leave(&mut self, seq: u16) {
        let number = unwrap(seq, self.highest);
        self.highest = self.highest.max(Some(number));
        assert!(self.seen.insert(number), "two packets have the transport-wide number {seq}");
    }
}

/// Payload type of RED in the page's offer.
const RED_PT: u8 = 63;

/// What was seen of one slot of one connection.
#[derive(Default, Debug)]
pub struct Seen {
    highest: Option<u64>,
    indices: BTreeSet<u64>,
    rtx_highest: Option<u64>,
    rtx_indices: BTreeSet<u64>,
    /// By index: timestamp and identity, from media or repair.
    packets: BTreeMap<u64, (u32, Identity)>,
    /// Indices of which media or repair reached the receiver.
    arrived: BTreeSet<u64>,
}

impl Seen {
    /// A packet leaves the server: law 1.
    pub fn leave(&mut self, packet: &Packet, is_rtx: bool) -> Identity {
        let (highest, indices) = match is_rtx {
            true => (&mut self.rtx_highest, &mut self.rtx_indices),
            false => (&mut self.highest, &mut self.indices),
        };
        let index = unwrap(packet.header.sequence_number, *highest);
        *highest = (*highest).max(Some(index));
        assert!(indices.insert(index), "index {index} of {:x} was used before", packet.header.ssrc);
        let (index, payload) = match is_rtx {
            true => {
                let (original, payload) = packet.payload.split_at(2);
                (unwrap(u16::from_be_bytes([original[0], original[1]]), self.highest), payload)
            }
            false => (index, &packet.payload[..]),
        };
        let is_red = !is_rtx && packet.header.payload_type == RED_PT;
        let payload = if is_red { self.newest(index, packet.header.timestamp, payload) } else { payload };
        let content = (packet.header.timestamp, Identity::read(payload));
        let first = *self.packets.entry(index).or_insert(content);
        assert_eq!(first, content, "number {index} carries two packets");
        content.1
    }

    /// The newest block of a packet of RED (RFC 2198). The earlier ones are those just before it in its stream, as they were sent.
    fn newest<'a>(&self, index: u64, timestamp: u32, payload: &'a [u8]) -> &'a [u8] {
        let (mut headers, mut rest) = (Vec::new(), payload);
        while rest[0] & 0x80 != 0 {
            let bits = u32::from_be_bytes(rest[..4].try_into().expect("four bytes"));
            headers.push((bits >> 10 & 0x3fff, (bits & 0x3ff) as usize));
            rest = &rest[4..];
        }
        rest = &rest[1..];
        let mut earlier = Vec::new();
        for (offset, len) in headers {
            let (block, after) = rest.split_at(len);
            earlier.push((timestamp.wrapping_sub(offset), Identity::read(block)));
            rest = after;
        }
        let newest = Identity::read(rest);
        for content in earlier {
            // Which packet a block is, its own index says. It may be one that found no room when it was sent.
            let back = newest.index - content.1.index;
            let is_of_it = Identity { index: newest.index, frame: newest.frame, ..content.1 } == newest;
            assert!(is_of_it && (1..=2).contains(&back), "number {index} carries {back} back, or another stream");
            let before = index.checked_sub(back).and_then(|index| self.packets.get(&index));
            assert!(
                before.is_none_or(|before| *before == content),
                "number {index} carries another packet than was sent"
            );
        }
        rest
    }

    /// It reached its receiver.
    pub fn arrive(&mut self, packet: &Packet, is_rtx: bool) {
        let seq = match is_rtx {
            true => u16::from_be_bytes([packet.payload[0], packet.payload[1]]),
            false => packet.header.sequence_number,
        };
        // It left, so its index is known.
        let near = unwrap(seq, self.highest);
        let index = [near, near.wrapping_sub(1 << 16)].into_iter().find(|index| self.packets.contains_key(index));
        self.arrived.insert(index.expect("what arrives has left"));
    }

    /// Sequence numbers of the last 300 that the receiver lacks.
    pub fn lacking(&self) -> Vec<u16> {
        let (Some(&lowest), Some(&highest)) = (self.arrived.first(), self.arrived.last()) else { return Vec::new() };
        let from = lowest.max(highest.saturating_sub(300));
        (from..highest).filter(|index| !self.arrived.contains(index)).map(|index| index as u16).collect()
    }

    /// Number of packets that left.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether nothing left.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Laws 2 and 3, over all that left.
    pub fn check_order(&self) {
        let mut frames: HashMap<u32, (u16, u16, u8, u32)> = HashMap::new();
        for (timestamp, id) in self.packets.values() {
            let frame = (id.publisher, id.incarnation, id.kind, id.frame);
            let first = *frames.entry(*timestamp).or_insert(frame);
            assert_eq!(first, frame, "two frames share timestamp {timestamp}");
        }
        let following = self.packets.iter().zip(self.packets.iter().skip(1));
        for ((index, (timestamp, id)), (next, (next_timestamp, next_id))) in following {
            let elapsed = next_timestamp.wrapping_sub(*timestamp) as i32;
            assert!(elapsed >= 0, "the timestamp goes back by {elapsed} from {index} to {next}: {id:?} {next_id:?}");
            let is_same =
                id.source() == next_id.source() && index.wrapping_sub(id.index) == next.wrapping_sub(next_id.index);
            assert!(is_same || index + 1 == *next, "a switch leaves a gap: {index} {id:?} {next} {next_id:?}");
        }
    }

    /// Law 5: of these frames of a source, what left and did not arrive, from the first to the last packet. `None`: the last
    /// frame never left.
    pub fn missing(&self, source: (u16, u16, u8), frames: std::ops::Range<u32>) -> Option<Vec<u64>> {
        let of_source = |(_, id): &(u32, Identity)| id.source() == source && frames.contains(&id.frame);
        self.packets.values().find(|(_, id)| id.source() == source && id.frame + 1 == frames.end)?;
        let indices: Vec<u64> = self.packets.iter().filter(|(_, p)| of_source(p)).map(|(index, _)| *index).collect();
        let (first, last) = (*indices.first()?, *indices.last()?);
        Some((first..=last).filter(|index| !self.arrived.contains(index)).collect())
    }
}
