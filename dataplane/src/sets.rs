//! The parameter sets of an H.264 stream (RFC 6184 §8.4): a decoder can do nothing with a picture without the sequence and
//! the picture parameter set that it refers to. Browsers send both before each IDR picture; encoders may send them once, at
//! the start, or only in SDP (`sprop-parameter-sets`, §8.2.2), and then receivers that come later could decode nothing.
//!
//! So they are remembered, and sent ahead of an IDR picture that comes without them to each receiver that has not had them.
//! Sets from the stream replace those from SDP, one by one. The memory is small and fixed: where the sets of
//! an encoder are longer than [`SETS_LEN_MAX`], receivers wait for sets in the stream, as they would without it.

use proto::plane::{STREAM_SETS_PART_LEN, STREAM_SETS_PARTS_MAX, StreamSets};

use crate::config::SETS_LEN_MAX;

/// NAL unit types of RFC 6184 §5.4 and ISO/IEC 14496-10 table 7-1.
mod nal {
    pub(super) const IDR: u8 = 5;
    pub(super) const SPS: u8 = 7;
    pub(super) const PPS: u8 = 8;
    pub(super) const STAP_A: u8 = 24;
    pub(super) const FU_A: u8 = 28;
}

/// Type of a NAL unit, by its first byte.
const fn nal_type(byte: u8) -> u8 {
    byte & 0x1f
}

/// Whether a receiver that knows nothing of the stream may begin with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KeyframeStart {
    /// No.
    #[default]
    No,
    /// Yes.
    Complete,
    /// If it is given the parameter sets first, as they are in this version.
    NeedsSets(u16),
}

/// What is known of the access unit (the packets of one timestamp) that the newest packet is of.
#[derive(Clone, Copy, Default, Debug)]
struct Unit {
    timestamp: u32,
    /// Every packet of it so far has come, in order, from its first.
    is_whole: bool,
    has_sps: bool,
    has_idr: bool,
    /// The newest packet has the marker.
    is_ended: bool,
}

/// A parameter set that comes in fragments (FU-A, RFC 6184 §5.8). Its bytes lie behind the sets.
#[derive(Clone, Copy, Debug)]
struct Fragments {
    /// Index of the last one.
    index: u64,
    /// Bytes so far.
    len: usize,
}

/// The parameter sets of one stream.
#[derive(Debug)]
pub struct ParameterSets {
    /// Index after that of the newest packet.
    next: Option<u64>,
    unit: Unit,
    /// Changes with each change.
    version: u16,
    /// Bytes of all sets, and where the first one begins that is not an SPS.
    len: usize,
    sps_end: usize,
    /// The parts that the controlplane sent.
    pub(crate) of_sdp: Vec<StreamSets>,
    /// Index of the newest packet that brought one.
    newest: Option<u64>,
    fragments: Option<Fragments>,
    /// Each set behind its length: SPS, then PPS.
    bytes: [u8; SETS_LEN_MAX],
}

impl Default for ParameterSets {
    fn default() -> Self {
        Self::new()
    }
}

impl ParameterSets {
    /// None yet.
    pub fn new() -> Self {
        ParameterSets {
            next: None,
            unit: Unit::default(),
            version: 0,
            len: 0,
            sps_end: 0,
            newest: None,
            of_sdp: Vec::new(),
            fragments: None,
            bytes: [0; SETS_LEN_MAX],
        }
    }

    /// A packet of the stream came: remembers the sets in it. Whether it begins a picture that a newcomer can decode.
    #[inline]
    pub fn saw(&mut self, index: u64, timestamp: u32, marker: bool, payload: &[u8]) -> KeyframeStart {
        let is_newest = self.next.is_none_or(|next| index >= next);
        if is_newest {
            self.enter_unit(index, timestamp, marker);
        }
        let Some((&first, rest)) = payload.split_first() else { return KeyframeStart::No };
        let found = match nal_type(first) {
            nal::SPS | nal::PPS => self.found_set(index, payload),
            nal::IDR => Found { has_idr: is_first_slice(rest), has_sps: false },
            nal::STAP_A => self.found_in_aggregate(index, rest),
            nal::FU_A => self.found_fragment(index, first, rest),
            _ => return KeyframeStart::No,
        };
        self.entry(found, is_newest)
    }

    /// The newest packet begins an access unit or goes on with one.
    #[inline]
    fn enter_unit(&mut self, index: u64, timestamp: u32, marker: bool) {
        let is_in_order = self.next.is_none_or(|next| index == next);
        let begins = self.next.is_none() || self.unit.is_ended || timestamp != self.unit.timestamp;
        if begins || !is_in_order {
            self.unit = Unit { timestamp, is_whole: begins && is_in_order, ..Unit::default() };
        }
        self.unit.is_ended = marker;
        self.next = Some(index + 1);
    }

    fn entry(&mut self, found: Found, is_newest: bool) -> KeyframeStart {
        let is_first_idr = found.has_idr && is_newest && !self.unit.has_idr;
        // Without what came before it in the same access unit, nobody knows whether new sets were among that.
        let needs_sets = is_first_idr && self.unit.is_whole && !self.unit.has_sps && self.is_complete();
        if is_newest {
            self.unit.has_idr |= found.has_idr;
            self.unit.has_sps |= found.has_sps;
        }
        match (found.has_sps, needs_sets) {
            (true, _) => KeyframeStart::Complete,
            (false, true) => KeyframeStart::NeedsSets(self.version),
            (false, false) => KeyframeStart::No,
        }
    }

    fn found_set(&mut self, index: u64, unit: &[u8]) -> Found {
        // A late one may be older than what is remembered under its id.
        let is_late = self.newest.is_some_and(|newest| index < newest);
        if !is_late {
            self.newest = Some(index);
        }
        if !is_late || !self.iter().any(|known| key(known) == key(unit)) {
            self.remember(unit);
        }
        Found { has_idr: false, has_sps: unit.first().is_some_and(|&byte| nal_type(byte) == nal::SPS) }
    }

    /// The NAL units of a STAP-A (RFC 6184 §5.7.1).
    fn found_in_aggregate(&mut self, index: u64, rest: &[u8]) -> Found {
        let mut found = Found::default();
        for unit in crate::codec::aggregated(rest) {
            match unit.first().map(|&byte| nal_type(byte)) {
                Some(nal::SPS | nal::PPS) => found.has_sps |= self.found_set(index, unit).has_sps,
                Some(nal::IDR) => found.has_idr |= is_first_slice(&unit[1..]),
                _ => {}
            }
        }
        found
    }

    /// A fragment of a NAL unit.
    fn found_fragment(&mut self, index: u64, indicator: u8, rest: &[u8]) -> Found {
        let Some((&header, bytes)) = rest.split_first() else { return Found::default() };
        let (is_start, is_end, kind) = (header & 0x80 != 0, header & 0x40 != 0, nal_type(header));
        match kind {
            nal::IDR => return Found { has_idr: is_start && is_first_slice(bytes), has_sps: false },
            nal::SPS | nal::PPS => {}
            _ => return Found::default(),
        }
        let begun = match self.fragments.take() {
            _ if is_start => Some(0),
            Some(fragments) if fragments.index + 1 == index => Some(fragments.len),
            _ => None,
        };
        let first = [indicator & 0xe0 | kind];
        let head = if is_start { &first[..] } else { &[] };
        let free = self.bytes.get_mut(self.len + 1..).unwrap_or_default();
        if let Some(place) = begun.and_then(|len| free.get_mut(len..len + head.len() + bytes.len())) {
            place[..head.len()].copy_from_slice(head);
            place[head.len()..].copy_from_slice(bytes);
            let len = begun.unwrap_or(0) + place.len();
            if is_end {
                let mut unit = [0; SETS_LEN_MAX];
                unit[..len].copy_from_slice(&self.bytes[self.len + 1..][..len]);
                self.found_set(index, &unit[..len]);
            } else {
                self.fragments = Some(Fragments { index, len });
            }
        }
        Found { has_idr: false, has_sps: is_start && kind == nal::SPS }
    }

    /// Adds the sets of SDP or of another worker, each behind its length. Sets from the stream itself stay.
    pub fn merge(&mut self, mut sets: &[u8]) {
        if self.newest.is_some() {
            return;
        }
        while let Some((&len, rest)) = sets.split_first() {
            let Some((unit, rest)) = rest.split_at_checked(len.into()) else { return };
            self.remember(unit);
            sets = rest;
        }
    }

    /// All sets, as [`merge`](Self::merge) takes them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The sets, in the order in which a decoder takes them.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.as_bytes();
        std::iter::from_fn(move || {
            let (&len, after) = rest.split_first()?;
            let (unit, after) = after.split_at(len.into());
            rest = after;
            Some(unit)
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.iter().count()
    }

    /// Which sets these are: another number after each change.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Whether a picture may be decoded by them.
    pub fn is_complete(&self) -> bool {
        0 < self.sps_end && self.sps_end < self.len
    }

    /// Another encoder sends from now on.
    pub fn clear(&mut self) {
        (self.len, self.sps_end) = (0, 0);
        (self.next, self.newest, self.fragments) = (None, None, None);
        self.version = self.version.wrapping_add(1);
    }

    /// Adds the sets of SDP, as far as the stream itself has brought none.
    pub(crate) fn recall_sdp(&mut self) {
        let mut bytes = [0; STREAM_SETS_PART_LEN * STREAM_SETS_PARTS_MAX];
        let mut len = 0;
        for told in &self.of_sdp {
            let part = &told.bytes[..told.len.into()];
            bytes[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        self.merge(&bytes[..len]);
    }

    /// Puts a set into its place: that of the set with the same id, or behind the others of its kind.
    fn remember(&mut self, unit: &[u8]) {
        let Some(key) = key(unit) else { return };
        let mut at = 0;
        let mut same = None;
        while at < self.len {
            let len = 1 + usize::from(self.bytes[at]);
            if self::key(&self.bytes[at + 1..at + len]) == Some(key) {
                same = Some((at, len));
                break;
            }
            at += len;
        }
        if same.is_some_and(|(at, len)| self.bytes[at + 1..at + len] == *unit) {
            return;
        }
        self.version = self.version.wrapping_add(1);
        self.fragments = None;
        if let Some((at, len)) = same {
            self.bytes.copy_within(at + len..self.len, at);
            self.len -= len;
            self.sps_end -= if at < self.sps_end { len } else { 0 };
        }
        let len = 1 + unit.len();
        if self.len + len > SETS_LEN_MAX || unit.len() > usize::from(u8::MAX) || self.count() == SETS_MAX {
            // Half of the sets would be worse than none.
            (self.len, self.sps_end) = (0, 0);
            return;
        }
        let at = if key.0 == nal::SPS { self.sps_end } else { self.len };
        self.bytes.copy_within(at..self.len, at + len);
        self.bytes[at] = unit.len() as u8;
        self.bytes[at + 1..at + len].copy_from_slice(unit);
        self.len += len;
        self.sps_end += if key.0 == nal::SPS { len } else { 0 };
    }
}

/// What one packet holds.
#[derive(Clone, Copy, Default)]
struct Found {
    /// The start of an IDR picture.
    has_idr: bool,
    /// The start of an SPS.
    has_sps: bool,
}

/// Sets of one stream: encoders have one of each kind, or one for each of a few layers. Each is a packet to the receivers that need them.
pub const SETS_MAX: usize = 8;

/// Whether a slice is the first of its picture: first_mb_in_slice, which is the first number in it, is 0, a single 1 as ue(v)
/// (ISO/IEC 14496-10 §7.3.3).
fn is_first_slice(slice: &[u8]) -> bool {
    slice.first().is_some_and(|byte| byte & 0x80 != 0)
}

/// Type and id of a parameter set (ISO/IEC 14496-10 §7.3.2.1.1, §7.3.2.2); `None` if it has none.
fn key(unit: &[u8]) -> Option<(u8, u32)> {
    let (kind, at, max) = match nal_type(*unit.first()?) {
        // profile_idc, constraint flags, level_idc.
        nal::SPS => (nal::SPS, 4, 31),
        nal::PPS => (nal::PPS, 1, 255),
        _ => return None,
    };
    exp_golomb(unit.get(at..)?).filter(|id| *id <= max).map(|id| (kind, id))
}

/// The ue(v) at the front of `bytes` (ISO/IEC 14496-10 §9.1), as far as an id of 8 bits needs it.
fn exp_golomb(bytes: &[u8]) -> Option<u32> {
    let window = bytes.iter().take(4).fold(0u32, |window, &byte| window << 8 | u32::from(byte));
    let available = 8 * bytes.len().min(4) as u32;
    let zeros = (window << (32 - available).min(31)).leading_zeros();
    if zeros > 8 || 2 * zeros + 1 > available {
        return None;
    }
    Some((window >> (available - 2 * zeros - 1)) - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPS: &[u8] = &[0x67, 0x42, 0xe0, 0x1f, 0x8c, 0x8d, 0x40];
    const PPS: &[u8] = &[0x68, 0xce, 0x3c, 0x80];
    const IDR: &[u8] = &[0x65, 0x88, 0x84, 0x00];
    const SLICE: &[u8] = &[0x41, 0x9a, 0x24, 0x6c];

    /// A set of either kind with this id, and something behind.
    fn set(kind: u8, id: u32, tail: &[u8]) -> Vec<u8> {
        let bits = 32 - (id + 1).leading_zeros();
        let code = u64::from(id + 1) << (64 - 2 * bits + 1);
        let front: &[u8] = if kind == nal::SPS { &[0x67, 0x64, 0, 0x28] } else { &[0x68] };
        [front, &code.to_be_bytes()[..4], tail].concat()
    }

    fn sets(known: &ParameterSets) -> Vec<Vec<u8>> {
        known.iter().map(<[u8]>::to_vec).collect()
    }

    fn aggregate(units: &[&[u8]]) -> Vec<u8> {
        let sized = units.iter().flat_map(|unit| [&(unit.len() as u16).to_be_bytes()[..], unit].concat());
        std::iter::once(0x78).chain(sized).collect()
    }

    /// A NAL unit in fragments of two bytes.
    fn fragments(unit: &[u8]) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> = unit[1..].chunks(2).collect();
        let bits = |at: usize| u8::from(at == 0) << 7 | u8::from(at + 1 == chunks.len()) << 6;
        let header = |at| [unit[0] & 0xe0 | nal::FU_A, bits(at) | unit[0] & 0x1f];
        chunks.iter().enumerate().map(|(at, chunk)| [&header(at)[..], chunk].concat()).collect()
    }

    #[test]
    fn ids_are_read_as_the_standard_writes_them() {
        for id in 0..=255 {
            assert_eq!(key(&set(nal::PPS, id, &[])), Some((nal::PPS, id)), "{id}");
            assert_eq!(key(&set(nal::SPS, id, &[])), (id <= 31).then_some((nal::SPS, id)), "{id}");
        }
        assert_eq!(key(&set(nal::PPS, 256, &[])), None);
        for cut in [&[][..], &[0x67], &[0x67, 1, 2, 3], &[0x68], &[0x68, 0x00], &[0x68, 0x01], &[0x65, 0x88]] {
            assert_eq!(key(cut), None, "{cut:02x?}");
        }
    }

    #[test]
    fn sets_are_remembered_however_they_are_packed() {
        let single = vec![SPS.to_vec(), PPS.to_vec()];
        let in_fragments = [fragments(SPS), fragments(PPS)].concat();
        let mixed = [vec![aggregate(&[&[0x09, 0xf0], SPS])], fragments(PPS)].concat();
        for packets in [single, vec![aggregate(&[SPS, PPS])], in_fragments, mixed] {
            let mut known = ParameterSets::new();
            for (index, packet) in (7..).zip(&packets) {
                known.saw(index, 0, false, packet);
            }
            assert_eq!(sets(&known), [SPS, PPS], "{packets:02x?}");
            let index = 7 + packets.len() as u64;
            known.saw(index, 0, true, IDR);
            assert_eq!(known.saw(index + 1, 3000, false, IDR), KeyframeStart::NeedsSets(known.version()));
        }
        // A fragment is lost: what is left is no set.
        let mut known = ParameterSets::new();
        for (index, packet) in (7..).zip(fragments(SPS)).filter(|(index, _)| *index != 8) {
            known.saw(index, 0, false, &packet);
        }
        assert_eq!(known.count(), 0);
    }

    #[test]
    fn others_of_the_same_id_take_the_place_and_of_another_stand_beside() {
        let mut known = ParameterSets::new();
        known.merge(&[&[7], SPS, &[4], PPS].concat());
        assert_eq!((sets(&known), known.is_complete()), (vec![SPS.to_vec(), PPS.to_vec()], true));
        let before = known.version();
        known.saw(1, 0, false, SPS);
        assert_eq!(known.version(), before, "the same is no change");
        let [other, second, second_pps] = [set(nal::SPS, 0, b"other"), set(nal::SPS, 1, b"1"), set(nal::PPS, 1, b"1")];
        for (index, unit) in (2..).zip([&other, &second_pps, &second]) {
            known.saw(index, 0, false, unit);
        }
        assert_eq!(sets(&known), [other.clone(), second, PPS.to_vec(), second_pps], "SPS before PPS");
        assert_ne!(known.version(), before);
        known.saw(1, 0, false, &set(nal::SPS, 0, b"late"));
        assert_eq!(sets(&known)[0], other, "what is late is older");
        known.merge(&[&[7], SPS].concat());
        assert_eq!(sets(&known)[0], other, "the stream's own come before those of SDP");
        known.clear();
        assert!(!known.is_complete());
    }

    #[test]
    fn sets_that_are_too_many_or_too_long_are_none() {
        let mut known = ParameterSets::new();
        for id in 0..SETS_MAX as u32 {
            known.saw(id.into(), 0, false, &set(nal::PPS, id, &[]));
        }
        assert_eq!(known.count(), SETS_MAX);
        known.saw(100, 0, false, &set(nal::PPS, 99, &[]));
        assert_eq!(known.count(), 0);
        known.saw(101, 0, false, SPS);
        known.saw(102, 0, false, &set(nal::PPS, 0, &[1; SETS_LEN_MAX]));
        assert_eq!(known.count(), 0);
        known.saw(103, 0, false, SPS);
        known.saw(104, 0, false, PPS);
        assert!(known.is_complete(), "and are remembered again when they fit");
    }

    #[test]
    fn a_picture_begins_only_where_nothing_before_it_is_missing() {
        let known = || {
            let mut known = ParameterSets::new();
            known.merge(&[&[7], SPS, &[4], PPS].concat());
            known
        };
        let needs = |sets: &ParameterSets| KeyframeStart::NeedsSets(sets.version());
        let mut sets = known();
        assert_eq!(sets.saw(5, 0, true, SLICE), KeyframeStart::No);
        assert_eq!(sets.saw(6, 3000, false, &[0x06, 5, 0x80]), KeyframeStart::No, "SEI");
        assert_eq!(sets.saw(7, 3000, false, IDR), needs(&sets));
        assert_eq!(sets.saw(8, 3000, true, IDR), KeyframeStart::No, "the second slice");
        assert_eq!(sets.saw(10, 6000, true, IDR), KeyframeStart::No, "9 may have had other sets");
        assert_eq!(sets.saw(9, 6000, true, IDR), KeyframeStart::No, "late");
        assert_eq!(sets.saw(11, 9000, false, SPS), KeyframeStart::Complete);
        assert_eq!(sets.saw(12, 9000, false, IDR), KeyframeStart::No, "its SPS came before it");
        assert_eq!(sets.saw(13, 12_000, false, &[0x7c, 0x85, 0x88]), needs(&sets), "FU-A");
        assert_eq!(sets.saw(14, 12_000, true, &[0x7c, 0x45, 0x88]), KeyframeStart::No, "its end");
        assert_eq!(sets.saw(15, 15_000, true, &aggregate(&[&[0x06, 1], IDR])), needs(&sets), "STAP-A");
        assert_eq!(sets.saw(16, 18_000, true, &[0x65, 0x40]), KeyframeStart::No, "a slice in the midst of a picture");
        assert_eq!(sets.saw(17, 21_000, true, SLICE), KeyframeStart::No);
        assert_eq!(ParameterSets::new().saw(1, 0, true, IDR), KeyframeStart::No, "no sets are known");
    }

    proptest! {
        #[test]
        fn any_bytes_are_remembered_within_bounds(
            packets in prop::collection::vec(
                (prop::sample::select(vec![0x67u8, 0x68, 0x78, 0x7c, 0x65, 0x00]), prop::collection::vec(any::<u8>(), 0..300), 0..3u64),
                0..60,
            ),
            told in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut known = ParameterSets::new();
            known.merge(&told);
            let mut index = 0;
            for (first, body, step) in packets {
                index += step;
                let before = (known.version(), known.as_bytes().to_vec());
                let payload = [&[first], &body[..]].concat();
                let entry = known.saw(index, (index / 4) as u32, body.len() % 2 == 0, &payload);
                prop_assert!(known.as_bytes().len() <= SETS_LEN_MAX && known.count() <= SETS_MAX);
                let kinds: Vec<u8> = known.iter().map(|set| nal_type(set[0])).collect();
                prop_assert!(kinds.is_sorted() && kinds.iter().all(|kind| [nal::SPS, nal::PPS].contains(kind)));
                let keys: std::collections::BTreeSet<_> = known.iter().map(key).collect();
                prop_assert_eq!(keys.len(), known.count(), "each id once");
                prop_assert!(known.version() != before.0 || known.as_bytes() == before.1, "a change has a version");
                prop_assert_eq!(entry == KeyframeStart::Complete, crate::codec::h264_starts_keyframe(&payload));
            }
            let mut again = ParameterSets::new();
            again.merge(known.as_bytes());
            prop_assert_eq!(sets(&again), sets(&known), "another worker has the same");
        }
    }
}
