//! The media of one call toward its telephone, without sockets and clock: RTP and RTCP in and out, SRTP, digits, G.711 or Opus.
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
use crate::reports::{Own, Read, Reports, Theirs, There};
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
    /// The same of RTCP, where it has an address of its own.
    rtcp_latched: Option<SocketAddr>,
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
    /// When that was, and what has been sent.
    sent_at: Instant,
    sent: (u32, u32),
    reports: Reports,
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
    Report,
    Dropped,
}

/// How well the telephone and we heard each other.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Quality {
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) jitter: Duration,
    pub(crate) sent: u64,
    /// As the telephone says; None if it says nothing.
    pub(crate) there: Option<There>,
    pub(crate) round_trip: Option<Duration>,
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
            rtcp_latched: None,
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
            sent_at: now,
            sent: (0, 0),
            reports: Reports::new(now, random.fork()),
            is_first: true,
            heard_at: None,
            counters: Counters::default(),
        })
    }

    /// Counts what did not come.
    pub(crate) fn finish(mut self, counters: &mut Counters) {
        self.counters.add_many(Counter::RtpLost, self.reception.lost());
        self.counters.add_many(Counter::RtpLostThere, self.reports.there.unwrap_or_default().lost.into());
        let (count, sum) = self.reports.round_trips;
        self.counters.add_many(Counter::RoundTrips, count);
        self.counters.add_many(Counter::RoundTripMicros, sum.as_micros() as u64);
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
            if (remote.address, remote.rtcp) != (self.remote.address, self.remote.rtcp) {
                self.latched = None;
                self.rtcp_latched = None;
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
        // RFC 5761 §4: the types of RTCP are none of RTP.
        if self.remote.is_muxed && datagram.get(1).is_some_and(|kind| (192..224).contains(kind)) {
            self.receive_rtcp(now, from, datagram);
            return Received::Report;
        }
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

    /// Whether RTCP comes and goes where RTP does.
    pub(crate) fn is_muxed(&self) -> bool {
        self.remote.is_muxed
    }

    /// Takes a datagram of RTCP, which it unprotects in place.
    pub(crate) fn receive_rtcp(&mut self, now: Instant, from: SocketAddr, datagram: &mut [u8]) {
        self.counters.add(Counter::RtcpReceived);
        let is_expected = match self.rtcp_latched {
            Some(latched) if !self.remote.is_muxed => latched == from,
            _ if self.remote.is_muxed => self.is_expected(from),
            _ => {
                let known = [Some(self.remote.rtcp.ip()), Some(self.signals), self.latched.map(|latched| latched.ip())];
                known.contains(&Some(from.ip()))
            }
        };
        if !is_expected {
            return self.counters.add(Counter::RtcpForeign);
        }
        let len = match &mut self.srtp {
            None => datagram.len(),
            Some(session) => match session.unprotect_rtcp(datagram) {
                Ok(len) => len,
                Err(_) => return self.counters.add(Counter::RtcpSrtcp),
            },
        };
        match self.reports.read(now, &datagram[..len], self.ssrc, self.remote.codec.rate()) {
            Read::Malformed => return self.counters.add(Counter::RtcpMalformed),
            Read::TooMany => return self.counters.add(Counter::RtcpRate),
            Read::Taken => (),
        }
        if !self.remote.is_muxed {
            self.rtcp_latched = Some(from);
        }
        // A sign of life of one that leaves out silence; one that never sent RTP has no way for it.
        self.heard_at = self.heard_at.map(|_| now);
    }

    /// The report that is due, and where it goes.
    pub(crate) fn report(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        if self.reports.is_due(now) { self.write_report(now, false) } else { None }
    }

    /// The last report, which says that our stream ends.
    pub(crate) fn goodbye(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        self.write_report(now, true)
    }

    fn write_report(&mut self, now: Instant, is_last: bool) -> Option<(SocketAddr, Vec<u8>)> {
        let rate = self.remote.codec.rate();
        let since = now.saturating_duration_since(self.sent_at).as_secs_f64();
        let (packets, octets) = self.sent;
        let rtp_time = self.timestamp.wrapping_add((since * f64::from(rate)) as u32);
        let own = Own { ssrc: self.ssrc, rtp_time, packets, octets };
        let jitter = (self.jitter.jitter().as_secs_f64() * f64::from(rate)) as u32;
        let theirs = self.source.map(|ssrc| Theirs { ssrc, reception: self.reception, jitter });
        let compound = self.reports.write(now, &own, theirs.as_ref(), is_last);
        let to = self.rtcp_to(now)?;
        let mut packet = [0; PACKET_LEN_MAX];
        let mut len = compound.len();
        packet[..len].copy_from_slice(&compound);
        if let Some(session) = &mut self.srtp {
            len = session.protect_rtcp(&mut packet, len);
        }
        self.counters.add(Counter::RtcpSent);
        Some((to, packet[..len].to_vec()))
    }

    /// Where reports go: never for long to who has sent nothing from there, as with RTP.
    fn rtcp_to(&self, now: Instant) -> Option<SocketAddr> {
        let is_new = now.saturating_duration_since(self.since) <= UNASKED_MAX;
        let has_sent = |to: SocketAddr| self.latched.is_some_and(|latched| latched.ip() == to.ip());
        let (known, said) = match self.remote.is_muxed {
            true => (self.latched, self.remote.address),
            false => (self.rtcp_latched, self.remote.rtcp),
        };
        let to = known.or_else(|| Some(said).filter(|said| is_new || has_sent(*said)))?;
        (to.port() != 0 && !to.ip().is_unspecified()).then_some(to)
    }

    /// How well both ends heard each other, for the log.
    pub(crate) fn quality(&self) -> Quality {
        Quality {
            received: self.counters.get(Counter::RtpReceived),
            lost: self.counters.get(Counter::RtpLost) + self.reception.lost(),
            jitter: self.jitter.jitter(),
            sent: self.counters.get(Counter::RtpSent),
            there: self.reports.there,
            round_trip: self.reports.round_trip,
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
        self.sent_at = now;
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
        self.sent = (self.sent.0.wrapping_add(1), self.sent.1.wrapping_add(payload.len() as u32));
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

    /// Reports between two legs: at the next port, at one that the SDP names, and where RTP goes; as SRTCP as well.
    #[test]
    fn reports_find_their_way_and_say_what_was_heard() {
        let begin = Instant::now();
        let line = |key: &str| format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}\r\n");
        let (a, b) = ("A".repeat(40), "B".repeat(40));
        let ones = remote(&format!("m=audio 5000 RTP/SAVP 0\r\n{}", line(&b))).crypto.unwrap().key;
        for (more, at, is_keyed) in [
            ("", "192.0.2.1:5001", false),
            ("a=rtcp:5555\r\n", "192.0.2.1:5555", false),
            ("a=rtcp:5555 IN IP4 192.0.2.2\r\n", "192.0.2.2:5555", false),
            ("a=rtcp-mux\r\n", PHONE, false),
            ("a=rtcp-mux\r\n", PHONE, true),
        ] {
            let section = |key: &str| match is_keyed {
                true => format!("m=audio 5000 RTP/SAVP 0\r\n{}{more}", line(key)),
                false => format!("m=audio 5000 RTP/AVP 0\r\n{more}"),
            };
            let mut from = leg(begin, &section(&b), is_keyed.then_some([0; KEY_LEN]));
            // They do not report at the same moment.
            let mut to = leg(begin + Duration::from_secs(1), &section(&a), is_keyed.then_some(ones));
            let phone: SocketAddr = PHONE.parse().unwrap();
            let at: SocketAddr = at.parse().unwrap();
            for frame in 0..1000u32 {
                let now = begin + Duration::from_millis(20) * frame;
                for is_back in [false, true] {
                    let (one, other) = if is_back { (&mut to, &mut from) } else { (&mut from, &mut to) };
                    let (_, mut packet) = one.send(now, &[0.1; 160]).expect("it is wanted");
                    // One of ten is lost on one way.
                    if is_back || frame % 10 != 5 {
                        assert_eq!(other.receive(now, phone, &mut packet), Received::Voice);
                    }
                    let Some((towards, mut report)) = one.report(now) else { continue };
                    assert_eq!(towards, at, "{more}");
                    let later = now + Duration::from_millis(15);
                    if other.is_muxed() {
                        assert_eq!(other.receive(later, phone, &mut report), Received::Report);
                    } else {
                        other.receive_rtcp(later, at, &mut report);
                    }
                }
            }
            let (there, back) = (from.quality(), to.quality());
            let told = there.there.expect("the other end tells").lost;
            assert!((50..=100).contains(&told), "{told}");
            assert_eq!((back.lost, back.there.map(|there| there.lost), there.received), (100, Some(0), 1000));
            for quality in [there, back] {
                let round_trip = quality.round_trip.expect("it is measured");
                assert!(round_trip.abs_diff(Duration::from_millis(30)) < Duration::from_millis(2), "{round_trip:?}");
            }
            let (_, mut last) = to.goodbye(begin + Duration::from_secs(21)).unwrap();
            let mut forged = last.clone();
            forged[if is_keyed { 20 } else { 3 }] ^= 1;
            let now = begin + Duration::from_secs(21);
            from.receive_rtcp(now, at, &mut forged);
            from.receive_rtcp(now, "203.0.113.9:5001".parse().unwrap(), &mut last.clone());
            from.receive_rtcp(now, at, &mut last);
            let bad = [Counter::RtcpForeign, Counter::RtcpMalformed, Counter::RtcpSrtcp, Counter::RtcpRate];
            let bad = bad.map(|counter| from.counters.get(counter));
            assert_eq!(bad, if is_keyed { [1, 0, 1, 0] } else { [1, 1, 0, 0] });
        }
    }

    #[test]
    fn nobody_is_sent_reports_for_long_who_has_sent_nothing() {
        let now = Instant::now();
        let sent = |leg: &mut Leg, from: u64, to: u64| {
            (from..to).filter(|second| leg.report(now + Duration::from_secs(*second)).is_some()).count()
        };
        let mut leg = leg(now, "m=audio 5000 RTP/AVP 0\r\na=rtcp:53 IN IP4 203.0.113.53\r\n", None);
        assert!((1..=4).contains(&sent(&mut leg, 0, 11)));
        let mut packet = [0; 172];
        packet[0] = 0x80;
        leg.receive(now, PHONE.parse().unwrap(), &mut packet);
        assert_eq!(sent(&mut leg, 11, 100), 0, "what it says of another host is not believed for long");
        assert!(leg.retarget(now, &remote("m=audio 5000 RTP/AVP 0\r\n")));
        leg.receive(now, PHONE.parse().unwrap(), &mut packet);
        assert!(sent(&mut leg, 100, 200) >= 13);
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
