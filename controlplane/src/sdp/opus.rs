//! Format parameters of Opus (RFC 7587 §6.1, §7): what a client declares, and what a publisher is answered.
//!
//! Each parameter says what its writer would like to receive, but for `sprop-stereo`, which says what it is likely to send. The
//! edge neither encodes nor decodes, so what it declares to a publisher is what those declare who receive the publisher. It
//! answers once: who comes later cannot change the answer. So a publisher is believed, too, who declares by its own parameters
//! what it is about to send, as everybody does who edits `stereo=1` into an offer.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// Values of `maxaveragebitrate` that count, bit/s (RFC 7587 §6.1: others should be ignored).
const BITRATES: RangeInclusive<u32> = 6_000..=510_000;

/// Values of `maxplaybackrate` that count, Hz. From 48,000 on, which is the default, there is no limit.
const PLAYBACK_RATES: RangeInclusive<u32> = 8_000..=47_999;

/// Values of `ptime`, `minptime` and `maxptime` that count, milliseconds: the frames of Opus (RFC 7587 §6.1).
const PACKET_TIMES: RangeInclusive<u8> = 3..=120;

/// `minptime` of an answer to an offer without one: frames shorter than 10 ms cost more headers than they are worth.
const PACKET_TIME_MIN: u8 = 10;

/// What is declared of Opus in one m-section, or answered there. Short in the journal, whose entries have little room.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(from = "Entry", into = "Entry")]
pub struct OpusParams {
    /// Stereo is preferred to mono.
    pub stereo: bool,
    /// What is sent is likely to be stereo.
    pub sprop_stereo: bool,
    /// A constant bit rate is preferred.
    pub cbr: bool,
    /// Silence should not be sent.
    pub usedtx: bool,
    /// Most that should be sent, bit/s.
    pub maxaveragebitrate: Option<u32>,
    /// Highest sampling rate that can be played, Hz.
    pub maxplaybackrate: Option<u32>,
    /// Shortest packet that should be sent, milliseconds. Not of the RFC, but of libwebrtc.
    pub minptime: Option<u8>,
    /// Wanted length of a packet, milliseconds (RFC 8866 §6.4).
    pub ptime: Option<u8>,
    /// Longest packet, milliseconds (RFC 8866 §6.4).
    pub maxptime: Option<u8>,
}

/// The flags as bits, then the numbers in the order of the fields.
type Entry = (u8, Option<u32>, Option<u32>, Option<u8>, Option<u8>, Option<u8>);

impl From<OpusParams> for Entry {
    fn from(p: OpusParams) -> Self {
        let flags = [p.stereo, p.sprop_stereo, p.cbr, p.usedtx];
        let flags = (0..).zip(flags).map(|(bit, flag)| u8::from(flag) << bit).sum();
        (flags, p.maxaveragebitrate, p.maxplaybackrate, p.minptime, p.ptime, p.maxptime)
    }
}

impl From<Entry> for OpusParams {
    fn from((flags, maxaveragebitrate, maxplaybackrate, minptime, ptime, maxptime): Entry) -> Self {
        OpusParams {
            stereo: flags & 1 != 0,
            sprop_stereo: flags & 2 != 0,
            cbr: flags & 4 != 0,
            usedtx: flags & 8 != 0,
            maxaveragebitrate: maxaveragebitrate.filter(|rate| BITRATES.contains(rate)),
            maxplaybackrate: maxplaybackrate.filter(|rate| PLAYBACK_RATES.contains(rate)),
            minptime: minptime.filter(|time| PACKET_TIMES.contains(time)),
            ptime: ptime.filter(|time| PACKET_TIMES.contains(time)),
            maxptime: maxptime.filter(|time| PACKET_TIMES.contains(time)),
        }
    }
}

impl OpusParams {
    /// Reads them; `parameter` finds a format parameter by its name, or `ptime` and `maxptime` where they are attributes. A
    /// value that cannot be is as good as none.
    pub(super) fn read<'a>(parameter: impl Fn(&str) -> Option<&'a str>) -> OpusParams {
        let flag = |name| parameter(name).is_some_and(|value| value.trim() == "1");
        let number = |name| parameter(name).and_then(|value| value.trim().parse::<u32>().ok());
        let time = |name| number(name).and_then(|time| u8::try_from(time).ok());
        // The conversion leaves what counts.
        OpusParams::from(Entry::from(OpusParams {
            stereo: flag("stereo"),
            sprop_stereo: flag("sprop-stereo"),
            cbr: flag("cbr"),
            usedtx: flag("usedtx"),
            maxaveragebitrate: number("maxaveragebitrate"),
            maxplaybackrate: number("maxplaybackrate"),
            minptime: time("minptime"),
            ptime: time("ptime"),
            maxptime: time("maxptime"),
        }))
    }

    /// What receivers declare, as one who declares the same as all of them.
    pub fn together(receivers: &[OpusParams]) -> Option<OpusParams> {
        let all_of = OpusParams { sprop_stereo: false, ..OpusParams::default().answered(receivers) };
        (!receivers.is_empty()).then_some(all_of)
    }

    /// What a publisher that declares `self` is answered, if these are who would receive it.
    ///
    /// One answer serves them all. What takes nothing away from the others is granted if anybody asks for it: stereo, which each
    /// decoder can play (RFC 7587 §6.1), and a constant rate. What does take something away is granted if all of them ask:
    /// silence that is not sent, and limits, of which the widest counts.
    pub fn answered(self, receivers: &[OpusParams]) -> OpusParams {
        let all_ask = |ask: &dyn Fn(&OpusParams) -> bool| !receivers.is_empty() && receivers.iter().all(ask);
        let widest = |limit: fn(&OpusParams) -> Option<u32>| {
            let limits: Option<Vec<u32>> = receivers.iter().map(limit).collect();
            limits.and_then(|limits| limits.into_iter().max())
        };
        let lower = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
        OpusParams {
            stereo: self.stereo || self.sprop_stereo || receivers.iter().any(|receiver| receiver.stereo),
            sprop_stereo: false,
            cbr: self.cbr || receivers.iter().any(|receiver| receiver.cbr),
            usedtx: self.usedtx || all_ask(&|receiver| receiver.usedtx),
            maxaveragebitrate: lower(self.maxaveragebitrate, widest(|receiver| receiver.maxaveragebitrate)),
            maxplaybackrate: lower(self.maxplaybackrate, widest(|receiver| receiver.maxplaybackrate)),
            ptime: self
                .ptime
                .or(widest(|receiver| receiver.ptime.map(u32::from)).and_then(|time| time.try_into().ok())),
            ..self
        }
    }

    /// What a receiver that declares `self` is answered: a receiver that asks for stereo gets it from publishers that send it.
    pub fn sent(self) -> OpusParams {
        OpusParams { sprop_stereo: self.stereo, minptime: self.minptime, ..OpusParams::default() }
    }

    /// The lines of `ptime` and `maxptime`, which are attributes.
    pub(super) fn write_packet_times(&self, out: &mut impl fmt::Write) -> fmt::Result {
        for (name, time) in [("ptime", self.ptime), ("maxptime", self.maxptime)] {
            if let Some(time) = time {
                write!(out, "a={name}:{time}\r\n")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for OpusParams {
    /// The format parameters of an answer. In-band FEC is always wanted: it is how lost audio is repaired.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "minptime={};useinbandfec=1", self.minptime.unwrap_or(PACKET_TIME_MIN))?;
        let flags =
            [("stereo", self.stereo), ("sprop-stereo", self.sprop_stereo), ("usedtx", self.usedtx), ("cbr", self.cbr)];
        for (name, _) in flags.into_iter().filter(|(_, is_set)| *is_set) {
            write!(f, ";{name}=1")?;
        }
        let limits = [("maxaveragebitrate", self.maxaveragebitrate), ("maxplaybackrate", self.maxplaybackrate)];
        for (name, limit) in limits {
            if let Some(limit) = limit {
                write!(f, ";{name}={limit}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(text: &str) -> OpusParams {
        OpusParams::read(|name| {
            text.split(';').filter_map(|pair| pair.split_once('=')).find(|p| p.0 == name).map(|p| p.1)
        })
    }

    #[test]
    fn what_is_declared_is_read_and_what_cannot_be_is_not() {
        let all = "stereo=1;sprop-stereo=1;cbr=1;usedtx=1;maxaveragebitrate=128000;maxplaybackrate=16000;minptime=20;ptime=40;maxptime=60";
        let read = params(all);
        assert!(read.stereo && read.sprop_stereo && read.cbr && read.usedtx);
        assert_eq!((read.maxaveragebitrate, read.maxplaybackrate), (Some(128_000), Some(16_000)));
        assert_eq!((read.minptime, read.ptime, read.maxptime), (Some(20), Some(40), Some(60)));
        let journaled = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<OpusParams>(&journaled).unwrap(), read);
        for nothing in [
            "",
            "stereo=0;usedtx=2;cbr=yes",
            "maxaveragebitrate=5999;maxplaybackrate=48000;ptime=0;maxptime=121",
            "maxaveragebitrate=510001;maxplaybackrate=-1;minptime=300;ptime=x",
            "maxaveragebitrate=99999999999999999999;maxplaybackrate=7999",
        ] {
            assert_eq!(params(nothing), OpusParams::default(), "{nothing}");
        }
    }

    #[test]
    fn a_publisher_is_answered_what_it_declares() {
        for declared in [
            "minptime=10;useinbandfec=1;stereo=1",
            "minptime=10;useinbandfec=1;stereo=1;usedtx=1;cbr=1;maxaveragebitrate=510000;maxplaybackrate=24000",
            "minptime=20;useinbandfec=1",
        ] {
            assert_eq!(params(declared).answered(&[]).to_string(), declared);
        }
        assert_eq!(params("").answered(&[]).to_string(), "minptime=10;useinbandfec=1");
        assert_eq!(params("sprop-stereo=1").answered(&[]).to_string(), "minptime=10;useinbandfec=1;stereo=1");
        let mut lines = String::new();
        params("ptime=20;maxptime=60").answered(&[]).write_packet_times(&mut lines).unwrap();
        assert_eq!(lines, "a=ptime:20\r\na=maxptime:60\r\n");
    }

    #[test]
    fn a_publisher_is_answered_what_those_who_are_there_want() {
        let answered = |own: &str, receivers: &[&str]| {
            let receivers: Vec<OpusParams> = receivers.iter().map(|text| params(text)).collect();
            params(own).answered(&receivers)
        };
        assert!(answered("", &["", "stereo=1"]).stereo, "if one of them asks");
        assert!(answered("", &["cbr=1", ""]).cbr);
        assert!(answered("", &["usedtx=1", "usedtx=1"]).usedtx && !answered("", &["usedtx=1", ""]).usedtx, "if all do");
        let limit = |own, receivers| answered(own, receivers).maxaveragebitrate;
        assert_eq!(limit("", &["maxaveragebitrate=20000", "maxaveragebitrate=40000"]), Some(40_000), "the widest");
        assert_eq!(limit("", &["maxaveragebitrate=20000", ""]), None);
        assert_eq!(limit("maxaveragebitrate=128000", &["maxaveragebitrate=20000"]), Some(20_000));
        assert_eq!(limit("maxaveragebitrate=128000", &["maxaveragebitrate=20000", ""]), Some(128_000));
        assert_eq!(answered("", &["maxplaybackrate=8000", "maxplaybackrate=16000"]).maxplaybackrate, Some(16_000));
        assert_eq!(answered("", &["ptime=20", "ptime=40"]).ptime, Some(40));
        assert_eq!(answered("ptime=60", &["ptime=20", ""]).ptime, Some(60));
        assert!(!answered("sprop-stereo=1", &["stereo=1"]).sprop_stereo, "nothing is sent to who only publishes");
    }

    #[test]
    fn receivers_elsewhere_are_as_one_who_declares_the_same() {
        let texts =
            ["stereo=1", "usedtx=1;maxaveragebitrate=20000", "usedtx=1;ptime=40", "cbr=1;maxplaybackrate=16000", ""];
        let all: Vec<OpusParams> = texts.iter().map(|text| params(text)).collect();
        assert_eq!(OpusParams::together(&[]), None);
        for picked in 1u32..1 << all.len() {
            let some: Vec<_> = (0..all.len()).filter(|n| picked >> n & 1 == 1).map(|n| all[n]).collect();
            let (there, here) = some.split_at(some.len() / 2);
            let one: Vec<_> = OpusParams::together(there).into_iter().chain(here.iter().copied()).collect();
            for publisher in ["", "stereo=1;minptime=20;maxaveragebitrate=64000"] {
                assert_eq!(params(publisher).answered(&one), params(publisher).answered(&some), "{picked:b}");
            }
        }
    }

    #[test]
    fn a_receiver_is_told_that_stereo_may_come() {
        assert_eq!(params("stereo=1;usedtx=1").sent().to_string(), "minptime=10;useinbandfec=1;sprop-stereo=1");
        assert_eq!(params("maxaveragebitrate=20000").sent(), OpusParams::default());
    }
}
