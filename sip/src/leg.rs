//! The media of one call toward its telephone, without sockets and clock: RTP in and out, SRTP, digits, G.711 or Opus.
//!
//! RTP is taken from one address: the one that the SDP names, or, behind a NAT, the first one at the address that signals;
//! from the first packet on it is fixed, until the SDP names another one.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use client::random::Random;
use client::rtp::{self, Fields, Header};
use client::srtp::{self, MasterKeys, Profile};

use crate::counters::{Counter, Counters};
use crate::dtmf;
use crate::jitter::{Jitter, Play, Put};
use crate::reception::Reception;
use crate::sdp::{Codec, KEY_LEN, Remote};
use crate::voice::{OpusIn, OpusOut, frame_len, to_f32, to_i16};

/// How long we send to an address from which nothing has come: nobody can have us send to a stranger for longer.
pub(crate) const UNASKED_MAX: Duration = Duration::from_secs(10);
/// Payload type of comfort noise (RFC 3389), which says only that the other end is there.
const CN: u8 = 13;
/// Longest packet of RTP.
const PACKET_LEN_MAX: usize = 1500;
/// A frame that is repeated to conceal one is so much quieter than the one before.
pub(crate) const FADE: f32 = 0.6;

pub(crate) struct Leg {
    remote: Remote,
    /// Who signals.
    signals: IpAddr,
    latched: Option<SocketAddr>,
    since: Instant,
    srtp: Option<srtp::Session>,
    /// Of the source that is heard.
    reception: Reception,
    source: Option<u32>,
    jitter: Jitter,
    decoder: Option<OpusIn>,
    encoder: Option<OpusOut>,
    /// Decoded and not yet played.
    voice: Vec<f32>,
    /// The last frame, for what is lost.
    last: Vec<f32>,
    digits_in: dtmf::Receiver,
    digits_out: dtmf::Sender,
    event_begun: u32,
    ssrc: u32,
    seq: u16,
    timestamp: u32,
    is_first: bool,
    heard_at: Option<Instant>,
    pub(crate) counters: Counters,
}

impl std::fmt::Debug for Leg {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Leg").field("remote", &self.remote).finish_non_exhaustive()
    }
}

/// Our key, for SRTP.
pub(crate) struct Srtp<'a>(pub(crate) &'a [u8; KEY_LEN]);

/// What a datagram was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    Voice,
    Digit(u8),
    Dropped,
}

impl Leg {
    /// None if libopus cannot be had.
    pub(crate) fn new(
        now: Instant,
        remote: Remote,
        signals: IpAddr,
        key: Option<&Srtp<'_>>,
        random: &mut Random,
    ) -> Option<Leg> {
        let codec = remote.codec;
        let is_opus = codec == Codec::Opus;
        let keys = |bytes: &[u8; KEY_LEN]| (bytes[..16].to_vec(), bytes[16..].to_vec());
        let srtp = remote.crypto.as_ref().zip(key).map(|(theirs, ours)| {
            srtp::Session::new(Profile::Cm80, &MasterKeys { tx: keys(ours.0), rx: keys(&theirs.key) })
        });
        Some(Leg {
            decoder: if is_opus { Some(OpusIn::new(codec.rate()).ok()?) } else { None },
            encoder: if is_opus { Some(OpusOut::new(codec.rate()).ok()?) } else { None },
            remote,
            signals,
            latched: None,
            since: now,
            srtp,
            reception: Reception::default(),
            source: None,
            jitter: Jitter::new(codec.rate()),
            voice: Vec::new(),
            last: vec![0.0; frame_len(codec.rate())],
            digits_in: dtmf::Receiver::default(),
            digits_out: dtmf::Sender::default(),
            event_begun: 0,
            ssrc: random.ssrc(),
            seq: random.first_seq(),
            timestamp: random.ssrc(),
            is_first: true,
            heard_at: None,
            counters: Counters::default(),
        })
    }

    /// Counts what did not come.
    pub(crate) fn finish(mut self, counters: &mut Counters) {
        self.counters.add_many(Counter::RtpLost, self.reception.lost());
        counters.merge(&self.counters);
    }

    pub(crate) fn rate(&self) -> u32 {
        self.remote.codec.rate()
    }

    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// When the telephone was heard last.
    pub(crate) fn heard_at(&self) -> Option<Instant> {
        self.heard_at
    }

    /// Takes a new description of the other end, with the same codec and the same keys: hold, resume, another address. False
    /// if it is more than that, and a new leg is needed.
    pub(crate) fn retarget(&mut self, now: Instant, remote: &Remote) -> bool {
        let is_same = remote.codec == self.remote.codec && remote.crypto == self.remote.crypto;
        if is_same {
            if remote.address != self.remote.address {
                self.latched = None;
                self.since = now;
            }
            self.remote = remote.clone();
        }
        is_same
    }

    /// Whether a packet may come from here.
    fn is_expected(&self, from: SocketAddr) -> bool {
        match self.latched {
            Some(latched) => latched == from,
            None => from.ip() == self.remote.address.ip() || from.ip() == self.signals,
        }
    }

    /// Takes a datagram, which it unprotects in place.
    pub(crate) fn receive(&mut self, now: Instant, from: SocketAddr, datagram: &mut [u8]) -> Received {
        self.counters.add(Counter::RtpReceived);
        let drop = |leg: &mut Leg, counter| {
            leg.counters.add(counter);
            Received::Dropped
        };
        if !self.is_expected(from) {
            return drop(self, Counter::RtpForeign);
        }
        let len = match &mut self.srtp {
            None => datagram.len(),
            Some(session) => match session.unprotect_rtp(datagram) {
                Ok(len) => len,
                Err(_) => return drop(self, Counter::RtpSrtp),
            },
        };
        let datagram = &datagram[..len];
        let Some((header, payload)) =
            Header::parse(datagram).and_then(|header| Some((header, rtp::payload(datagram, &header)?)))
        else {
            return drop(self, Counter::RtpMalformed);
        };
        let is_ours = header.pt == self.remote.pt || Some(header.pt) == self.remote.event_pt || header.pt == CN;
        if !is_ours {
            return drop(self, Counter::RtpMalformed);
        }
        self.latched = Some(from);
        self.heard_at = Some(now);
        if self.source.replace(header.ssrc) != Some(header.ssrc) {
            let before = std::mem::take(&mut self.reception);
            self.counters.add_many(Counter::RtpLost, before.lost());
        }
        self.reception.receive(header.seq);
        if Some(header.pt) == self.remote.event_pt {
            return self.digits_in.receive(header.timestamp, payload).map_or(Received::Voice, Received::Digit);
        }
        if header.pt != self.remote.pt || !self.remote.direction.sends() {
            return Received::Voice;
        }
        match self.jitter.put(now, header.timestamp, payload) {
            Put::Late => drop(self, Counter::RtpLate),
            Put::Kept | Put::Twice => Received::Voice,
        }
    }

    /// 20 ms of the telephone's voice; None in silence.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Vec<f32>> {
        let len = frame_len(self.rate());
        let mut is_silent = false;
        while self.voice.len() < len && !is_silent {
            match self.jitter.take(now) {
                Play::Packet(payload) => {
                    let ticks = self.decode(&payload);
                    self.jitter.played(ticks as u64);
                    is_silent = ticks == 0;
                }
                Play::Lost => {
                    self.counters.add(Counter::Concealed);
                    is_silent = !self.conceal();
                }
                // The network may only be late: a little is concealed, then there is silence.
                Play::Nothing => is_silent = !self.conceal(),
            }
        }
        if self.voice.len() < len {
            // The rest of a frame is not kept for a later one.
            self.voice.clear();
            return None;
        }
        let frame: Vec<f32> = self.voice.drain(..len).collect();
        self.last.clone_from(&frame);
        Some(frame)
    }

    fn decode(&mut self, payload: &[u8]) -> usize {
        match (self.remote.codec, &mut self.decoder) {
            (Codec::G711(law), _) => {
                self.voice.extend(payload.iter().map(|code| to_f32(law.decode(*code))));
                payload.len()
            }
            (Codec::Opus, Some(decoder)) => decoder.decode(payload, &mut self.voice),
            (Codec::Opus, None) => 0,
        }
    }

    /// Adds 20 ms in place of what did not come; false when that would be silence.
    fn conceal(&mut self) -> bool {
        if let Some(decoder) = &mut self.decoder {
            return decoder.conceal(&mut self.voice);
        }
        let peak = self.last.iter().fold(0.0f32, |peak, sample| peak.max(sample.abs()));
        if peak < 0.002 {
            return false;
        }
        self.last.iter_mut().for_each(|sample| *sample *= FADE);
        self.voice.extend(&self.last);
        true
    }

    /// Queues a digit for the telephone.
    pub(crate) fn push_digit(&mut self, digit: u8) {
        self.digits_out.push(digit);
    }

    /// Leaves out so many frames of 20 ms.
    pub(crate) fn skip(&mut self, frames: u32) {
        self.timestamp = self.timestamp.wrapping_add(frames.wrapping_mul(frame_len(self.rate()) as u32));
        // A telephone may begin anew with its own buffer there (RFC 3551 §4.1).
        self.is_first = true;
    }

    /// The packet that carries these 20 ms to the telephone, and where it goes. None on hold, or when it never answered.
    pub(crate) fn send(&mut self, now: Instant, frame: &[f32]) -> Option<(SocketAddr, Vec<u8>)> {
        let ticks = frame_len(self.rate()) as u16;
        self.timestamp = self.timestamp.wrapping_add(ticks.into());
        let to = self.latched.unwrap_or(self.remote.address);
        let is_stranger = self.latched.is_none() && now.saturating_duration_since(self.since) > UNASKED_MAX;
        if !self.remote.wants_media() || is_stranger {
            return None;
        }
        let event = self.remote.event_pt.zip(self.digits_out.tick(frame_len(self.remote.event_rate) as u16));
        let (fields, payload) = match event {
            Some((pt, event)) => {
                if event.marker {
                    self.event_begun = self.timestamp;
                }
                (self.fields(pt, event.marker, self.event_begun), event.payload.to_vec())
            }
            None => {
                let payload = match (self.remote.codec, &mut self.encoder) {
                    (Codec::G711(law), _) => frame.iter().map(|sample| law.encode(to_i16(*sample))).collect(),
                    (Codec::Opus, Some(encoder)) => encoder.encode(frame)?,
                    (Codec::Opus, None) => return None,
                };
                let marker = std::mem::take(&mut self.is_first);
                (self.fields(self.remote.pt, marker, self.timestamp), payload)
            }
        };
        let mut packet = [0; PACKET_LEN_MAX];
        let head = rtp::write(&mut packet, &fields, &[]);
        packet[head..head + payload.len()].copy_from_slice(&payload);
        let mut len = head + payload.len();
        if let Some(session) = &mut self.srtp {
            len = session.protect_rtp(&mut packet, len);
        }
        self.seq = self.seq.wrapping_add(1);
        self.counters.add(Counter::RtpSent);
        Some((to, packet[..len].to_vec()))
    }

    fn fields(&self, pt: u8, marker: bool, timestamp: u32) -> Fields {
        Fields { marker, pt, seq: self.seq, timestamp, ssrc: self.ssrc }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::voice::tests::{amplitude, tone};

    const PHONE: &str = "192.0.2.1:5000";

    fn remote(lines: &str) -> Remote {
        let head = "v=0\r\no=a 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n";
        Remote::parse(&format!("{head}{lines}"), false).unwrap()
    }

    fn leg(now: Instant, lines: &str, key: Option<[u8; KEY_LEN]>) -> Leg {
        let key = key.as_ref().map(Srtp);
        Leg::new(now, remote(lines), "198.51.100.1".parse().unwrap(), key.as_ref(), &mut Random::from_seed(1)).unwrap()
    }

    /// One leg's packets into another one, for half a second.
    fn carried(from: &mut Leg, to: &mut Leg, now: Instant) -> Vec<f32> {
        let rate = from.rate();
        let mut heard = Vec::new();
        for (at, frame) in tone(rate, 800.0, 0.4, rate as usize / 2).chunks(frame_len(rate)).enumerate() {
            let now = now + Duration::from_millis(20) * at as u32;
            let (_, mut packet) = from.send(now, frame).expect("it is wanted");
            assert_eq!(to.receive(now, PHONE.parse().unwrap(), &mut packet), Received::Voice);
            heard.extend(to.take(now + Duration::from_millis(1)).unwrap_or_default());
        }
        heard
    }

    #[test]
    fn a_tone_comes_through_in_each_codec_and_through_srtp() {
        let now = Instant::now();
        let line = |key: &str| format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}\r\n");
        let (a, b) = ("A".repeat(40), "B".repeat(40));
        let (zeros, ones) =
            ([0; KEY_LEN], remote(&format!("m=audio 5000 RTP/SAVP 0\r\n{}", line(&b))).crypto.unwrap().key);
        for (codec, keyed) in [("0", false), ("8", false), ("96\r\na=rtpmap:96 opus/48000/2", false), ("0", true)] {
            let section = |key: &str| match keyed {
                true => format!("m=audio 5000 RTP/SAVP {codec}\r\n{}", line(key)),
                false => format!("m=audio 5000 RTP/AVP {codec}\r\n"),
            };
            let mut from = leg(now, &section(&b), keyed.then_some(zeros));
            let mut to = leg(now, &section(&a), keyed.then_some(ones));
            let heard = carried(&mut from, &mut to, now);
            let rate = to.rate();
            let there = amplitude(&heard[heard.len() / 3..], rate, 800.0);
            assert!((0.3..0.5).contains(&there), "{codec} {keyed}: {there}");
            if keyed {
                let (_, mut forged) = from.send(now, &[0.0; 160]).unwrap();
                forged[20] ^= 1;
                assert_eq!(to.receive(now, PHONE.parse().unwrap(), &mut forged), Received::Dropped);
                assert_eq!(to.counters.get(Counter::RtpSrtp), 1);
            }
        }
    }

    #[test]
    fn rtp_is_taken_from_one_address_and_from_no_other() {
        let now = Instant::now();
        let mut leg = leg(now, "m=audio 5000 RTP/AVP 0\r\n", None);
        let mut packet = [0; 172];
        packet[0] = 0x80;
        let from = |leg: &mut Leg, packet: &[u8], address: &str| {
            leg.receive(now, address.parse().unwrap(), &mut packet.to_vec())
        };
        assert_eq!(from(&mut leg, &packet, "203.0.113.9:5000"), Received::Dropped, "a stranger");
        assert_eq!(from(&mut leg, &packet, "198.51.100.1:7777"), Received::Voice, "behind the NAT of who signals");
        assert_eq!(from(&mut leg, &packet, PHONE), Received::Dropped, "it is latched");
        assert_eq!(leg.counters.get(Counter::RtpForeign), 2);
        assert_eq!(leg.send(now, &[0.0; 160]).unwrap().0, "198.51.100.1:7777".parse().unwrap());
        packet[1] = 77;
        assert_eq!(leg.receive(now, "198.51.100.1:7777".parse().unwrap(), &mut packet), Received::Dropped);
        assert_eq!(leg.receive(now, "198.51.100.1:7777".parse().unwrap(), &mut [1, 2]), Received::Dropped);
        assert_eq!(leg.counters.get(Counter::RtpMalformed), 2);
    }

    #[test]
    fn frames_that_are_left_out_are_seen_in_the_timestamp() {
        let now = Instant::now();
        let mut leg = leg(now, "m=audio 5000 RTP/AVP 0\r\n", None);
        let send = |leg: &mut Leg| {
            let (_, packet) = leg.send(now, &[0.1; 160]).unwrap();
            let header = Header::parse(&packet).unwrap();
            (header.marker, header.seq, header.timestamp)
        };
        let (_, seq, timestamp) = send(&mut leg);
        assert_eq!(send(&mut leg), (false, seq.wrapping_add(1), timestamp.wrapping_add(160)));
        leg.skip(50);
        assert_eq!(send(&mut leg), (true, seq.wrapping_add(2), timestamp.wrapping_add(52 * 160)));
    }

    #[test]
    fn nobody_who_is_silent_is_sent_to_for_long_and_hold_is_obeyed() {
        let now = Instant::now();
        let mut leg = leg(now, "m=audio 5000 RTP/AVP 0\r\n", None);
        assert!(leg.send(now + UNASKED_MAX, &[0.0; 160]).is_some());
        assert!(leg.send(now + UNASKED_MAX + Duration::from_millis(1), &[0.0; 160]).is_none());
        assert!(leg.retarget(now, &remote("m=audio 6000 RTP/AVP 0\r\n")));
        assert!(leg.send(now, &[0.0; 160]).is_some());
        assert!(leg.retarget(now, &remote("m=audio 6000 RTP/AVP 0\r\na=sendonly\r\n")));
        assert!(leg.send(now, &[0.0; 160]).is_none(), "on hold");
        assert!(!leg.retarget(now, &remote("m=audio 6000 RTP/AVP 8\r\n")), "another codec");
    }

    #[test]
    fn digits_go_out_and_come_in() {
        let now = Instant::now();
        let section = "m=audio 5000 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n";
        let (mut from, mut to) = (leg(now, section, None), leg(now, section, None));
        b"42#".iter().for_each(|digit| from.push_digit(*digit));
        let mut digits = Vec::new();
        for at in 0..60u32 {
            let (_, mut packet) = from.send(now, &[0.0; 160]).unwrap();
            // One packet of three is lost.
            if at % 3 != 0
                && let Received::Digit(digit) = to.receive(now, PHONE.parse().unwrap(), &mut packet)
            {
                digits.push(digit);
            }
        }
        assert_eq!(digits, b"42#");
        let mut counters = Counters::default();
        to.finish(&mut counters);
        assert_eq!(
            (counters.get(Counter::RtpReceived), counters.get(Counter::RtpLost)),
            (40, 19),
            "the first one is not missed"
        );
    }
}
