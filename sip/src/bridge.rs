//! The media of one call between its telephone and its room, without sockets and clock: the room's voices are decoded, mixed
//! and sent to the telephone, and the telephone's voice is encoded for the room.
//!
//! The room never sends a peer its own track, so the mix is without the telephone's own voice by itself.

use std::collections::VecDeque;
use std::time::Instant;

use crate::counters::{Counter, Counters};
use crate::jitter::{Jitter, Play, Put};
use crate::known::{Frame, Known};
use crate::leg::{FADE, Leg};
use crate::reception::Reception;
use crate::voice::{CONCEALED_MAX, ComfortNoise, Mixer, OpusIn, OpusOut, frame_len};

/// Ticks of Opus's RTP clock in 20 ms.
const TICKS: u32 = 960;
/// Of such telephones it is known what they say. Most are such.
const KNOWN_RATE: u32 = 8000;
/// Sounds that wait, in samples: five seconds.
const SOUND_SECONDS_MAX: usize = 5;

/// A voice of the room.
#[derive(Debug)]
struct Voice {
    reception: Reception,
    jitter: Jitter,
    decoder: OpusIn,
    waiting: Vec<f32>,
    /// The frame that was played last, if it was known, and how often it was played again since.
    last: Option<(Frame, u32)>,
}

impl Voice {
    fn take(&mut self, now: Instant, len: usize, known: &Known) -> Option<Vec<f32>> {
        let rate_ratio = TICKS as usize / len;
        let mut is_silent = false;
        while self.waiting.len() < len && !is_silent {
            match self.jitter.take(now) {
                Play::Packet(packet) => {
                    self.last = known.of(&packet).filter(|frame| frame.len() == len).map(|frame| (frame, 0));
                    if let Some((frame, _)) = &self.last {
                        self.waiting.extend_from_slice(frame);
                        self.jitter.played(TICKS.into());
                        continue;
                    }
                    let samples = self.decoder.decode(&packet, &mut self.waiting);
                    self.jitter.played((samples * rate_ratio) as u64);
                    is_silent = samples == 0;
                }
                Play::Lost | Play::Nothing => is_silent = !self.conceal(),
            }
        }
        if self.waiting.len() < len {
            self.waiting.clear();
            return None;
        }
        Some(self.waiting.drain(..len).collect())
    }

    /// 20 ms in place of what did not come; false when there is silence.
    fn conceal(&mut self) -> bool {
        let Some((frame, times)) = &mut self.last else { return self.decoder.conceal(&mut self.waiting) };
        *times += 1;
        if *times > CONCEALED_MAX {
            return false;
        }
        let gain = FADE.powi(times.cast_signed());
        self.waiting.extend(frame.iter().map(|sample| sample * gain));
        true
    }
}

/// How far a telephone is in its room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Outside,
    /// We call it: the room hears its ringing, or what is said instead, and it hears nothing of the room before it answers.
    Called,
    Inside,
}

/// What a tick of 20 ms brings.
#[derive(Debug)]
pub(crate) struct Tick {
    /// For the telephone, at its rate.
    pub(crate) frame: Vec<f32>,
    /// For the room: the time of its clock, and a packet of Opus.
    pub(crate) packet: Option<(u32, Vec<u8>)>,
}

#[derive(Debug)]
pub(crate) struct Bridge {
    rate: u32,
    voices: Vec<Option<Voice>>,
    known: Known,
    mixer: Mixer,
    noise: ComfortNoise,
    encoder: OpusOut,
    timestamp: u32,
    sounds: VecDeque<f32>,
    /// Packets of the room that came too late, and that did not come in slots that are no more.
    late: u64,
    lost: u64,
}

impl Bridge {
    /// Of a telephone at this rate and a room with so many slots of audio. None if libopus cannot be had.
    pub(crate) fn new(rate: u32, slots: usize, known: Known) -> Option<Bridge> {
        Some(Bridge {
            rate,
            voices: (0..slots).map(|_| None).collect(),
            known,
            mixer: Mixer::new(rate),
            noise: ComfortNoise::new(),
            encoder: OpusOut::new(rate).ok()?,
            timestamp: 0,
            sounds: VecDeque::new(),
            late: 0,
            lost: 0,
        })
    }

    /// A packet of one of the room's slots.
    pub(crate) fn put(&mut self, now: Instant, slot: usize, seq: u16, timestamp: u32, packet: &[u8]) {
        let Some(voice) = self.voices.get_mut(slot) else { return };
        if voice.is_none() {
            let Ok(decoder) = OpusIn::new(self.rate) else { return };
            *voice = Some(Voice {
                reception: Reception::default(),
                jitter: Jitter::new(48_000),
                decoder,
                waiting: Vec::new(),
                last: None,
            });
        }
        if let Some(voice) = voice {
            voice.reception.receive(seq);
            self.late += u64::from(voice.jitter.put(now, timestamp, packet) == Put::Late);
        }
    }

    /// The slots are others: the peer has joined anew.
    pub(crate) fn reset(&mut self) {
        let lost = |voice: Voice| voice.reception.lost();
        self.lost += self.voices.iter_mut().filter_map(Option::take).map(lost).sum::<u64>();
    }

    /// Counts what did not come, or too late.
    pub(crate) fn finish(mut self, counters: &mut Counters) {
        self.reset();
        counters.add_many(Counter::RoomLate, self.late);
        counters.add_many(Counter::RoomLost, self.lost);
    }

    /// Plays a sound to the telephone, behind those that still play.
    pub(crate) fn play(&mut self, sound: Vec<f32>) {
        if self.sounds.len() < SOUND_SECONDS_MAX * self.rate as usize {
            self.sounds.extend(sound);
        }
    }

    pub(crate) fn is_playing(&self) -> bool {
        !self.sounds.is_empty()
    }

    /// Leaves out so many frames: those who receive are told by the clocks of RTP.
    pub(crate) fn skip(&mut self, leg: &mut Leg, frames: u32) {
        self.timestamp = self.timestamp.wrapping_add(frames.wrapping_mul(TICKS));
        leg.skip(frames);
    }

    /// Goes on by 20 ms. Only who is in the room is heard there, and hears it.
    pub(crate) fn tick(&mut self, now: Instant, leg: &mut Leg, place: Place) -> Tick {
        let len = frame_len(self.rate);
        let voice = leg.take(now);
        self.timestamp = self.timestamp.wrapping_add(TICKS);
        let packet = voice.filter(|_| place != Place::Outside).and_then(|frame| {
            let packet = self.encoder.encode(&frame)?;
            if self.rate == KNOWN_RATE {
                self.known.keep(&packet, &frame);
            }
            Some(packet)
        });
        let mut is_quiet = true;
        for voice in self.voices.iter_mut().flatten() {
            if let Some(frame) = voice.take(now, len, &self.known).filter(|_| place == Place::Inside) {
                self.mixer.add(&frame);
                is_quiet = false;
            }
        }
        if !self.sounds.is_empty() {
            let sound: Vec<f32> = self.sounds.drain(..len.min(self.sounds.len())).collect();
            self.mixer.add(&sound);
            is_quiet = false;
        }
        let mut frame = self.mixer.take();
        if is_quiet {
            self.noise.fill(&mut frame);
        }
        Tick { frame, packet: packet.map(|packet| (self.timestamp, packet)) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use client::random::Random;

    use super::*;
    use crate::sdp::Remote;
    use crate::voice::tests::{amplitude, tone};

    fn leg(now: Instant) -> Leg {
        let sdp = "v=0\r\no=a 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0\r\n";
        let remote = Remote::parse(sdp, false).unwrap();
        Leg::new(now, remote, "192.0.2.1".parse().unwrap(), None, &mut Random::from_seed(3)).unwrap()
    }

    /// Three voices of the room, one of which stops and one of which loses packets, and what the telephone hears.
    #[test]
    fn the_telephone_hears_all_voices_and_the_room_hears_the_telephone() {
        let now = Instant::now();
        let (mut bridge, mut leg) = (Bridge::new(8000, 4, Known::default()).unwrap(), leg(now));
        let mut encoders: Vec<OpusOut> = (0..3).map(|_| OpusOut::new(48_000).unwrap()).collect();
        let tones = [500.0, 900.0, 1300.0];
        let samples: Vec<Vec<f32>> = tones.iter().map(|hertz| tone(48_000, *hertz, 0.2, 48_000 * 2)).collect();
        let spoken = tone(8000, 700.0, 0.3, 16_000);
        let (mut heard, mut in_room, mut decoder) = (Vec::new(), Vec::new(), OpusIn::new(48_000).unwrap());
        for at in 0..100usize {
            let now = now + Duration::from_millis(20) * at as u32;
            for (slot, encoder) in encoders.iter_mut().enumerate() {
                let packet = encoder.encode(&samples[slot][at * 960..(at + 1) * 960]);
                let is_sent = slot != 2 || at < 40;
                if let Some(packet) = packet.filter(|_| is_sent && !(slot == 1 && at % 20 == 7)) {
                    bridge.put(now, slot, at as u16, at as u32 * 960, &packet);
                }
            }
            let mut rtp = vec![0x80, 0, 0, at as u8, 0, 0, 0, 0, 0, 0, 0, 1];
            rtp[4..8].copy_from_slice(&(at as u32 * 160).to_be_bytes());
            let law = crate::g711::Law::Mu;
            rtp.extend(spoken[at * 160..(at + 1) * 160].iter().map(|sample| law.encode(crate::voice::to_i16(*sample))));
            leg.receive(now, "192.0.2.1:5000".parse().unwrap(), &mut rtp);
            let tick = bridge.tick(now + Duration::from_millis(10), &mut leg, Place::Inside);
            heard.extend(tick.frame);
            if let Some((_, packet)) = tick.packet {
                decoder.decode(&packet, &mut in_room);
            }
        }
        let mut counters = Counters::default();
        bridge.finish(&mut counters);
        // One of twenty of the second voice.
        assert_eq!((counters.get(Counter::RoomLost), counters.get(Counter::RoomLate)), (5, 0));
        let (early, late) = (&heard[1600..6000], &heard[8000..]);
        for (at, hertz) in tones.into_iter().enumerate() {
            let (first, then) = (amplitude(early, 8000, hertz), amplitude(late, 8000, hertz));
            assert!((0.1..0.3).contains(&first), "{hertz} Hz: {first}");
            assert!(if at == 2 { then < 0.02 } else { (0.1..0.3).contains(&then) }, "{hertz} Hz, later: {then}");
        }
        assert!(amplitude(&heard, 8000, 700.0) < 0.02, "minus itself");
        let there = amplitude(&in_room[24_000..], 48_000, 700.0);
        assert!((0.2..0.4).contains(&there), "{there}");
    }

    /// Two telephones of one gateway: what one says is heard by the other, also where a packet is lost, and by a third one whose gateway
    /// does not know it.
    #[test]
    fn what_telephones_of_the_gateway_say_is_not_decoded_again_and_sounds_alike() {
        let (now, known) = (Instant::now(), Known::default());
        let bridge = |known: &Known| Bridge::new(8000, 1, known.clone()).unwrap();
        let (mut speaks, mut hears, mut elsewhere) = (bridge(&known), bridge(&known), bridge(&Known::default()));
        let mut legs = [leg(now), leg(now), leg(now)];
        let spoken = tone(8000, 700.0, 0.3, 16_000);
        let mut heard = [Vec::new(), Vec::new()];
        for at in 0..100usize {
            let now = now + Duration::from_millis(20) * at as u32;
            let mut rtp = vec![0x80, 0, 0, at as u8, 0, 0, 0, 0, 0, 0, 0, 1];
            rtp[4..8].copy_from_slice(&(at as u32 * 160).to_be_bytes());
            let law = crate::g711::Law::Mu;
            rtp.extend(spoken[at * 160..(at + 1) * 160].iter().map(|sample| law.encode(crate::voice::to_i16(*sample))));
            legs[0].receive(now, "192.0.2.1:5000".parse().unwrap(), &mut rtp);
            let packet = speaks.tick(now, &mut legs[0], Place::Inside).packet;
            for (of, bridge) in [&mut hears, &mut elsewhere].into_iter().enumerate() {
                if let Some((timestamp, packet)) = packet.as_ref().filter(|_| at % 20 != 7) {
                    bridge.put(now, 0, at as u16, *timestamp, packet);
                }
                heard[of].extend(bridge.tick(now, &mut legs[1 + of], Place::Inside).frame);
            }
        }
        for heard in heard {
            let there = amplitude(&heard[1600..], 8000, 700.0);
            assert!((0.2..0.35).contains(&there), "{there}");
        }
        let last = |bridge: &Bridge| bridge.voices[0].as_ref().unwrap().last.is_some();
        assert!(last(&hears) && !last(&elsewhere), "one has decoded nothing, the other all");
    }

    #[test]
    fn before_the_room_there_are_sounds_alone() {
        let now = Instant::now();
        let (mut bridge, mut leg) = (Bridge::new(8000, 1, Known::default()).unwrap(), leg(now));
        bridge.play(tone(8000, 880.0, 0.2, 1600));
        bridge.put(now, 0, 0, 0, &OpusOut::new(48_000).unwrap().encode(&tone(48_000, 500.0, 0.5, 960)).unwrap());
        bridge.put(now, 9, 0, 0, &[0; 10]);
        let heard = |place| (0..5).flat_map(|_| bridge.tick(now, &mut leg, place).frame).collect::<Vec<f32>>();
        let heard = [Place::Outside, Place::Called].map(heard).concat();
        assert!(amplitude(&heard, 8000, 880.0) > 0.15 && amplitude(&heard, 8000, 500.0) < 0.02);
        assert!(!bridge.is_playing());
    }
}
