//! H.264: from the frames of FLV to payloads of RTP (RFC 6184).

use client::room::PAYLOAD_LEN_MAX;

/// Types of NAL units.
const IDR: u8 = 5;
const SPS: u8 = 7;
const PPS: u8 = 8;
const FU_A: u8 = 28;
/// Parameter sets of one stream, as many as a record may have of one kind.
const SETS_MAX: usize = 32;

/// What the AVC decoder configuration record says (ISO/IEC 14496-15 §5.3.3.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Config {
    profile: u8,
    length_len: usize,
    /// Parameter sets, in their order.
    sets: Vec<Vec<u8>>,
}

impl Config {
    /// None if it is none.
    pub(crate) fn parse(record: &[u8]) -> Option<Config> {
        let &[1, profile, _, _, lengths, sps_count, ref rest @ ..] = record else { return None };
        let (mut rest, mut sets) = (rest, Vec::new());
        let take = |rest: &mut &[u8], count: u8, kind: u8, sets: &mut Vec<Vec<u8>>| {
            for _ in 0..count {
                let (len, behind) = rest.split_first_chunk::<2>()?;
                let (set, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
                *rest = behind;
                let is_one = set.first().is_some_and(|first| first & 0x1F == kind);
                sets.extend((is_one && sets.len() < SETS_MAX).then(|| set.to_vec()));
            }
            Some(())
        };
        take(&mut rest, sps_count & 0x1F, SPS, &mut sets)?;
        let (&pps_count, behind) = rest.split_first()?;
        rest = behind;
        take(&mut rest, pps_count, PPS, &mut sets)?;
        let has = |kind| sets.iter().any(|set| set[0] & 0x1F == kind);
        (has(SPS) && has(PPS)).then(|| Config { profile, length_len: usize::from(lengths & 3) + 1, sets })
    }

    /// Whether what everybody in a room decodes is enough: (constrained) baseline or main.
    pub(crate) fn is_common_profile(&self) -> bool {
        matches!(self.profile, 66 | 77)
    }

    /// The payloads of a frame. None if its units cannot be taken apart.
    pub(crate) fn payloads(&self, units: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut kept: Vec<&[u8]> = Vec::new();
        let mut rest = units;
        while !rest.is_empty() {
            let (len, behind) = rest.split_at_checked(self.length_len)?;
            let len = len.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
            let (unit, behind) = behind.split_at_checked(len)?;
            rest = behind;
            // Slices and parameter sets: delimiters, fillers and messages are for files.
            kept.extend(unit.first().filter(|&first| matches!(first & 0x1F, 1..=IDR | SPS | PPS)).map(|_| unit));
        }
        let is = |kind| move |unit: &&[u8]| unit[0] & 0x1F == kind;
        let mut payloads = Vec::new();
        // Who comes late needs them with each keyframe.
        if kept.iter().any(is(IDR)) && !kept.iter().any(is(SPS)) {
            self.sets.iter().for_each(|set| packetize(set, &mut payloads));
        }
        kept.iter().for_each(|unit| packetize(unit, &mut payloads));
        Some(payloads)
    }
}

/// A single NAL unit packet, or fragments (§5.8).
fn packetize(unit: &[u8], payloads: &mut Vec<Vec<u8>>) {
    if unit.len() <= PAYLOAD_LEN_MAX {
        payloads.push(unit.to_vec());
        return;
    }
    let (header, body) = (unit[0], &unit[1..]);
    let count = body.len().div_ceil(PAYLOAD_LEN_MAX - 2);
    for (i, part) in body.chunks(body.len().div_ceil(count)).enumerate() {
        let (begins, ends) = (u8::from(i == 0) << 7, u8::from(i + 1 == count) << 6);
        let mut payload = Vec::with_capacity(2 + part.len());
        payload.extend([header & 0xE0 | FU_A, begins | ends | header & 0x1F]);
        payload.extend_from_slice(part);
        payloads.push(payload);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Vec<u8> {
        let (sps, pps) = ([0x67, 0x42, 0xC0, 0x1F, 9], [0x68, 0xCE, 0x3C]);
        let mut record = vec![1, 0x42, 0xC0, 0x1F, 0xFF, 0xE1, 0, 5];
        record.extend(sps);
        record.extend([1, 0, 3]);
        record.extend(pps);
        record
    }

    fn unit(header: u8, len: usize) -> Vec<u8> {
        let mut unit = (len as u32).to_be_bytes().to_vec();
        unit.push(header);
        unit.extend((1..len).map(|i| i as u8));
        unit
    }

    #[test]
    fn a_keyframe_has_its_parameter_sets_and_long_units_are_put_together_again() {
        let config = Config::parse(&record()).unwrap();
        assert!(config.is_common_profile());
        let frame = [unit(0x09, 2), unit(0x06, 30), unit(0x65, 5000)].concat();
        let payloads = config.payloads(&frame).unwrap();
        assert!(payloads.iter().all(|payload| payload.len() <= PAYLOAD_LEN_MAX));
        assert_eq!((payloads[0][0], payloads[1][0]), (0x67, 0x68));
        let fragments = &payloads[2..];
        let bits: Vec<u8> = fragments.iter().map(|payload| payload[1] >> 6).collect();
        assert_eq!(
            (bits[0], *bits.last().unwrap(), bits.iter().filter(|&&bit| bit == 0).count()),
            (2, 1, bits.len() - 2)
        );
        let whole: Vec<u8> = fragments.iter().flat_map(|payload| payload[2..].to_vec()).collect();
        assert_eq!([&[0x65], &whole[..]].concat(), unit(0x65, 5000)[4..]);
        let single = config.payloads(&unit(0x41, 100)).unwrap();
        assert_eq!(single, [unit(0x41, 100)[4..].to_vec()], "no parameter sets where there is no keyframe");
        assert_eq!(config.payloads(&[0, 0, 0, 9, 1]), None, "a unit that is cut short");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_configuration_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80), at in 0usize..24, value: u8) {
            let mut changed = record();
            let at = at % changed.len();
            changed[at] = value;
            for record in [bytes, changed] {
                if let Some(config) = Config::parse(&record) {
                    prop_assert!(config.payloads(&unit(0x65, 3000)).is_none_or(|payloads| payloads.iter().all(|p| p.len() <= PAYLOAD_LEN_MAX)));
                }
            }
        }
    }
}
