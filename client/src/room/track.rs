//! A track of our own: from payloads to packets, its history for repairs, and what its sender reports say.

use std::collections::VecDeque;

use proto::signal::Kind;

use super::Outgoing;
use crate::random::Random;
use crate::rtcp::{SenderInfo, ntp_time};
use crate::rtp;
use crate::sdp::{ABS_SEND_TIME, AUDIO_LEVEL, AnswerSection, MID, TRANSPORT_CC};

/// Packets that may be asked for again: two seconds of a camera at 2 Mb/s.
const HISTORY_MAX: usize = 512;
/// After so long what was said of the clock counts no more, microseconds.
const CLOCK_WINDOW: u64 = 2_000_000;
/// How loud audio is if its user does not say: speech of -30 dBov, so that the room hears all of it.
const LEVEL: u8 = 30;

struct Sent {
    seq: u16,
    /// Before SRTP.
    packet: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Extensions {
    mid: Option<u8>,
    abs_send_time: Option<u8>,
    transport_cc: Option<u8>,
    audio_level: Option<u8>,
}

/// Payload type, SSRC and next number of a track's retransmissions.
struct Rtx {
    ssrc: u32,
    pt: u8,
    seq: u16,
}

/// A track that we send.
pub(super) struct Track {
    pub(super) ssrc: u32,
    mid: String,
    pt: u8,
    seq: u16,
    clock_rate: u32,
    extensions: Extensions,
    rtx: Option<Rtx>,
    history: VecDeque<Sent>,
    packets: u32,
    octets: u32,
    /// Of the last packet (RFC 6464).
    level: u8,
    /// The packet that was handed over with the least delay, of this window and of the one before: RTP time and microseconds since
    /// 1970. A user that is late now and then does not move the clock.
    soonest: [Option<(u32, u64)>; 2],
    window_began: u64,
}

impl Track {
    /// The track of an answered section; None if the server does not take it.
    pub(super) fn new(
        kind: Kind,
        pt: u8,
        ssrcs: (u32, Option<u32>),
        answer: &AnswerSection,
        random: &mut Random,
    ) -> Option<Track> {
        if answer.is_rejected || !matches!(answer.direction.as_str(), "recvonly" | "sendrecv") {
            return None;
        }
        let id = |uri| answer.extensions.get(uri).copied();
        let rtx_pt = answer.rtx_of.iter().find(|(_, original)| *original == pt).map(|(rtx, _)| *rtx);
        let rtx = ssrcs.1.zip(rtx_pt).map(|(ssrc, pt)| Rtx { ssrc, pt, seq: random.first_seq() });
        Some(Track {
            ssrc: ssrcs.0,
            mid: answer.mid.clone(),
            pt,
            seq: random.first_seq(),
            clock_rate: if kind == Kind::Audio { 48_000 } else { 90_000 },
            extensions: Extensions {
                mid: id(MID),
                abs_send_time: id(ABS_SEND_TIME),
                transport_cc: id(TRANSPORT_CC),
                audio_level: id(AUDIO_LEVEL).filter(|_| kind == Kind::Audio),
            },
            rtx,
            history: VecDeque::new(),
            packets: 0,
            octets: 0,
            level: LEVEL,
            soonest: [None; 2],
            window_began: 0,
        })
    }

    /// Writes a packet into `out`: its length. `micros` is now, since 1970; `transport_seq` counts all packets of the peer.
    pub(super) fn write(&mut self, micros: u64, packet: &Outgoing, transport_seq: &mut u16, out: &mut [u8]) -> usize {
        let &Outgoing { timestamp, marker, ref payload, captured_micros, level, .. } = packet;
        self.note_clock(timestamp, captured_micros.unwrap_or(micros));
        self.level = level.unwrap_or(LEVEL);
        let fields = rtp::Fields { marker, pt: self.pt, seq: self.seq, timestamp, ssrc: self.ssrc };
        let header_len = self.write_header(&fields, micros, transport_seq, out);
        let len = header_len + payload.len();
        out[header_len..len].copy_from_slice(payload);
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload.len() as u32);
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(Sent { seq: self.seq, packet: out[..len].to_vec() });
        self.seq = self.seq.wrapping_add(1);
        len
    }

    /// Writes a packet again: in the stream of retransmissions (RFC 4588 §4), or, where there is none, to the byte as it was, which is
    /// what SRTP needs. None if it is too old.
    pub(super) fn repair(&mut self, micros: u64, seq: u16, transport_seq: &mut u16, out: &mut [u8]) -> Option<usize> {
        let age = usize::from(self.seq.wrapping_sub(seq));
        let at = self.history.len().checked_sub(age)?;
        let packet = &self.history.get(at).filter(|sent| sent.seq == seq)?.packet;
        let Some(rtx) = self.rtx.as_mut() else {
            out[..packet.len()].copy_from_slice(packet);
            return Some(packet.len());
        };
        let rtp::Header { marker, timestamp, len, .. } = rtp::Header::parse(packet)?;
        let fields = rtp::Fields { marker, pt: rtx.pt, seq: rtx.seq, timestamp, ssrc: rtx.ssrc };
        rtx.seq = rtx.seq.wrapping_add(1);
        let header_len = self.write_header(&fields, micros, transport_seq, out);
        let payload = &self.history[at].packet[len..];
        let begin = header_len + 2;
        out[header_len..begin].copy_from_slice(&seq.to_be_bytes());
        out[begin..begin + payload.len()].copy_from_slice(payload);
        Some(begin + payload.len())
    }

    fn write_header(&self, fields: &rtp::Fields, micros: u64, transport_seq: &mut u16, out: &mut [u8]) -> usize {
        *transport_seq = transport_seq.wrapping_add(1);
        // 6.18 fixed-point seconds in 24 bits.
        let send_time = (((u128::from(micros) << 18) / 1_000_000) as u32).to_be_bytes();
        let number = transport_seq.to_be_bytes();
        // RFC 6464 §3: a voice, and how loud it is.
        let level = [0x80 | self.level];
        let all: [(Option<u8>, &[u8]); 4] = [
            (self.extensions.abs_send_time, &send_time[1..]),
            (self.extensions.transport_cc, &number),
            (self.extensions.mid, self.mid.as_bytes()),
            (self.extensions.audio_level, &level),
        ];
        let mut answered = [(0, &[][..]); 4];
        let mut count = 0;
        for (id, value) in all.into_iter().filter_map(|(id, value)| Some((id?, value))) {
            answered[count] = (id, value);
            count += 1;
        }
        rtp::write(out, fields, &answered[..count])
    }

    fn note_clock(&mut self, timestamp: u32, micros: u64) {
        if micros.saturating_sub(self.window_began) > CLOCK_WINDOW {
            self.soonest = [None, self.soonest[0]];
            self.window_began = micros;
        }
        let is_sooner = self.soonest[0].is_none_or(|(known, at)| micros < self.micros_of(known, at, timestamp));
        if is_sooner {
            self.soonest[0] = Some((timestamp, micros));
        }
    }

    /// When a timestamp would have been handed over, had it been as late as a known one.
    fn micros_of(&self, known: u32, at: u64, timestamp: u32) -> u64 {
        let ticks = i64::from(timestamp.wrapping_sub(known) as i32);
        at.saturating_add_signed(ticks * 1_000_000 / i64::from(self.clock_rate))
    }

    /// What a sender report says now; None before the first packet.
    pub(super) fn sender_info(&self, micros: u64) -> Option<SenderInfo> {
        let [newest, older] = self.soonest;
        let (mut timestamp, mut at) = newest?;
        if let Some((earlier, then)) = older
            && self.micros_of(earlier, then, timestamp) < at
        {
            (timestamp, at) = (earlier, then);
        }
        let ticks = micros.saturating_sub(at) * u64::from(self.clock_rate) / 1_000_000;
        Some(SenderInfo {
            ssrc: self.ssrc,
            ntp_time: ntp_time(micros),
            rtp_time: timestamp.wrapping_add(ticks as u32),
            packets: self.packets,
            octets: self.octets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(kind: Kind, rtx_of: Vec<(u8, u8)>) -> Track {
        let answer = AnswerSection { direction: "recvonly".into(), rtx_of, ..AnswerSection::default() };
        Track::new(kind, 108, (7, Some(8)), &answer, &mut Random::from_seed(1)).unwrap()
    }

    fn outgoing(timestamp: u32, payload: &[u8]) -> Outgoing {
        let (kind, payload) = (Kind::Video, payload.to_vec());
        Outgoing { kind, timestamp, marker: true, payload, captured_micros: None, level: None }
    }

    #[test]
    fn what_was_sent_is_sent_again_behind_its_number() {
        let mut track = track(Kind::Video, vec![(109, 108)]);
        let (mut out, mut counter) = ([0; 256], 0);
        let len = track.write(1, &outgoing(90, b"one"), &mut counter, &mut out);
        let first = rtp::Header::parse(&out[..len]).unwrap();
        assert_eq!((&out[first.len..len], first.pt, first.marker, first.ssrc), (&b"one"[..], 108, true, 7));
        track.write(2, &outgoing(91, b"two"), &mut counter, &mut out);
        let len = track.repair(3, first.seq, &mut counter, &mut out).unwrap();
        let again = rtp::Header::parse(&out[..len]).unwrap();
        assert_eq!((again.pt, again.ssrc, again.timestamp), (109, 8, 90));
        assert_eq!(
            (&out[again.len..again.len + 2], &out[again.len + 2..len]),
            (&first.seq.to_be_bytes()[..], &b"one"[..])
        );
        assert_eq!(track.repair(3, first.seq.wrapping_add(2), &mut counter, &mut out), None, "not yet sent");
        assert_eq!(track.repair(3, first.seq.wrapping_sub(1), &mut counter, &mut out), None, "too old");
    }

    #[test]
    fn without_a_stream_of_retransmissions_the_packet_itself_goes_again() {
        let mut track = track(Kind::Audio, Vec::new());
        let (mut first, mut again, mut counter) = ([0; 256], [0; 256], 0);
        let len = track.write(1, &outgoing(960, b"opus"), &mut counter, &mut first);
        let seq = rtp::Header::parse(&first[..len]).unwrap().seq;
        assert_eq!(track.repair(9, seq, &mut counter, &mut again), Some(len));
        assert_eq!(first, again);
    }

    #[test]
    fn a_late_packet_does_not_move_the_clock() {
        let mut track = track(Kind::Audio, Vec::new());
        let (mut out, mut counter) = ([0; 256], 0);
        assert_eq!(track.sender_info(0), None);
        for (i, late) in [3_000, 0, 9_000, 1_000].into_iter().enumerate() {
            let at = 1_000_000 + 20_000 * i as u64 + late;
            track.write(at, &outgoing(960 * i as u32, &[0]), &mut counter, &mut out);
        }
        assert_eq!(track.sender_info(1_100_000).unwrap().rtp_time, 4800);
        assert_eq!(track.sender_info(1_100_000).unwrap().packets, 4);
    }

    #[test]
    fn reports_say_when_a_packet_was_captured_however_late_it_is_sent() {
        let (mut sound, mut pictures) = (track(Kind::Audio, Vec::new()), track(Kind::Video, Vec::new()));
        let (mut out, mut counter) = ([0; 256], 0);
        for (track, late) in [(&mut sound, 30_000), (&mut pictures, 200_000)] {
            let captured_micros = Some(1_000_000);
            track.write(1_000_000 + late, &Outgoing { captured_micros, ..outgoing(0, &[0]) }, &mut counter, &mut out);
        }
        let time = |track: &Track| track.sender_info(1_500_000).unwrap().rtp_time;
        assert_eq!((time(&sound), time(&pictures)), (24_000, 45_000));
    }
}
