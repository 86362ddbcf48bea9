//! A path in virtual time, with a sender that follows its estimate at one end and a receiver that writes transport-cc
//! feedback at the other. Capacity over time, a queue with a limit, delay, loss, reordering, cross traffic.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use dataplane::bwe::{Bwe, Matched, ProbeId};
use dataplane::config::{MILLISECOND, Micros, SECOND};
use dataplane::twcc::{ArrivalLog, TransportCc};

/// Bytes of headers below RTP.
pub const HEADERS: usize = 28;

/// Numbers of a seed (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn is(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }
}

/// What the path is like.
#[derive(Clone)]
pub struct Path {
    /// Bit/s from these times on.
    pub capacity: Vec<(Micros, f64)>,
    /// Longest wait in the queue.
    pub queue_max: Micros,
    /// One way, each way.
    pub delay: Micros,
    /// Random loss after the queue, and of feedback.
    pub loss: f64,
    pub feedback_loss: f64,
    /// How many packets take how much longer.
    pub reordered: (f64, Micros),
    /// Uniform, without reordering.
    pub jitter: Micros,
    /// Others' rate in the same queue, bit/s, between these times.
    pub cross: Vec<(Micros, Micros, f64)>,
    /// No feedback comes between these times.
    pub silence: (Micros, Micros),
}

impl Default for Path {
    fn default() -> Path {
        Path {
            capacity: vec![(0, 1e9)],
            queue_max: 300 * MILLISECOND,
            delay: 50 * MILLISECOND,
            loss: 0.0,
            feedback_loss: 0.0,
            reordered: (0.0, 0),
            jitter: 0,
            cross: Vec::new(),
            silence: (0, 0),
        }
    }
}

impl Path {
    pub fn of(capacity: &[(u64, f64)]) -> Path {
        let capacity = capacity.iter().map(|&(second, mbps)| (second * SECOND, mbps * 1e6)).collect();
        Path { capacity, ..Path::default() }
    }

    pub fn capacity_at(&self, at: Micros) -> f64 {
        self.capacity.iter().take_while(|(from, _)| *from <= at).last().map_or(1e9, |(_, bps)| *bps)
    }
}

/// What the sender would like to send.
#[derive(Clone, Copy)]
pub struct Source {
    /// Audio: packets of 120 bytes each 20 ms.
    pub is_audio: bool,
    /// Video, bit/s without a limit.
    pub video_max: f64,
    /// Fraction of the estimate that is used at most.
    pub used: f64,
    /// Pacing as a multiple of the estimate.
    pub pacing: f64,
    /// What the transport is said to want, between these seconds; the sum of the above if none.
    pub wanted: Option<(f64, f64, f64)>,
}

impl Default for Source {
    fn default() -> Source {
        Source { is_audio: true, video_max: 4e6, used: 0.95, pacing: 1.2, wanted: None }
    }
}

/// A packet as an onlooker sees it.
#[derive(Clone, Copy, Debug)]
pub struct SentPacket {
    pub seq: u16,
    pub at: Micros,
    pub len: usize,
    /// Its probe, with the least packets and bytes of that.
    pub probe: Option<(u64, u16, u32)>,
}

/// Looks on: another estimator that is given the same.
pub trait Onlooker {
    fn sent(&mut self, packet: SentPacket);
    fn feedback(&mut self, now: Micros, feedback: &TransportCc<'_>);
    /// After feedback, when ours has taken it up.
    fn after(&mut self, now: Micros, bwe: &Bwe);
}

pub struct Nobody;

impl Onlooker for Nobody {
    fn sent(&mut self, _: SentPacket) {}
    fn feedback(&mut self, _: Micros, _: &TransportCc<'_>) {}
    fn after(&mut self, _: Micros, _: &Bwe) {}
}

/// One point of a run.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at: Micros,
    pub estimate: u64,
    /// Wait of the last packet in the queue.
    pub queue: Micros,
    /// Bytes that have come out of the path so far.
    pub delivered: u64,
}

/// A probe that is being sent: its id, rate and least packets and bytes, what was sent of it, and when it began and goes on.
type SentProbe = (ProbeId, (u64, u16, u32), usize, u32, Micros, Micros);

pub struct Run<O = Nobody> {
    pub bwe: Bwe,
    pub path: Path,
    pub source: Source,
    pub onlooker: O,
    pub samples: Vec<Sample>,
    pub matched: Matched,
    pub now: Micros,
    random: Random,
    seq: u16,
    audio_at: Micros,
    frame_at: Micros,
    video_at: Micros,
    /// Bytes of video that wait for the pacer.
    video_bytes: f64,
    probe: Option<SentProbe>,
    probes: u64,
    busy_until: Rc<Cell<Micros>>,
    cross_at: Micros,
    arrived_last: Micros,
    flying: BinaryHeap<Reverse<(Micros, u16, usize)>>,
    log: ArrivalLog,
    feedback_at: Micros,
    feedback: BinaryHeap<Reverse<(Micros, Vec<u8>)>>,
    queue: Micros,
    delivered: u64,
    sample_at: Micros,
}

pub const STEP: Micros = MILLISECOND;

/// A packet comes to the queue: its wait, and when it is out; none if the queue is full. `busy_until`: when the queue is empty.
pub fn enqueue(path: &Path, busy_until: &Cell<Micros>, at: Micros, len: usize) -> Option<(Micros, Micros)> {
    let begun = busy_until.get().max(at);
    if begun - at > path.queue_max {
        return None;
    }
    let out = begun + ((len * 8) as f64 / path.capacity_at(begun - SECOND) * 1e6) as Micros;
    busy_until.set(out);
    Some((begun - at, out))
}

impl Run {
    pub fn new(seed: u64, path: Path, source: Source) -> Run {
        Run::watched(seed, path, source, Nobody)
    }
}

impl<O: Onlooker> Run<O> {
    pub fn watched(seed: u64, path: Path, source: Source, onlooker: O) -> Run<O> {
        let now = SECOND;
        Run {
            bwe: Bwe::new(300_000, 30_000, 10_000_000, now),
            path,
            source,
            onlooker,
            samples: Vec::new(),
            matched: Matched::default(),
            now,
            random: Random::new(seed),
            seq: (seed as u16).wrapping_mul(7919),
            audio_at: now,
            frame_at: now,
            video_at: now,
            video_bytes: 0.0,
            probe: None,
            probes: 0,
            busy_until: Rc::new(Cell::new(0)),
            cross_at: now,
            arrived_last: 0,
            flying: BinaryHeap::new(),
            log: ArrivalLog::new(4096),
            feedback_at: now,
            feedback: BinaryHeap::new(),
            queue: 0,
            delivered: 0,
            sample_at: now,
        }
    }

    /// Begins so many seconds later, if it has not begun.
    pub fn begin_at(&mut self, second: f64) {
        let now = SECOND + (second * SECOND as f64) as Micros;
        if self.samples.is_empty() && self.now < now {
            (self.now, self.sample_at, self.feedback_at) = (now, now, now);
            (self.audio_at, self.frame_at, self.video_at, self.cross_at) = (now, now, now, now);
        }
    }

    /// Stands in the same queue as another from now on.
    pub fn share(&mut self, queue: &Rc<Cell<Micros>>) {
        self.busy_until = Rc::clone(queue);
    }

    /// Goes on until so many seconds have passed since the begin.
    pub fn until(&mut self, seconds: f64) {
        let end = SECOND + (seconds * SECOND as f64) as Micros;
        while self.now < end {
            self.step();
        }
    }

    /// Seconds since the begin.
    pub fn seconds(&self) -> f64 {
        (self.now - SECOND) as f64 / SECOND as f64
    }

    fn step(&mut self) {
        self.now += STEP;
        self.cross();
        let all = self.source.video_max + 64_000.0;
        let wanted = self.source.wanted.map_or(
            all,
            |(from, to, bps)| {
                if (from..to).contains(&self.seconds()) { bps } else { 0.0 }
            },
        );
        self.bwe.set_demand(self.now, wanted as u64);
        self.send();
        self.arrive();
        self.feed_back();
        if self.now >= self.sample_at {
            self.sample_at += 20 * MILLISECOND;
            let (at, estimate) = (self.now - SECOND, self.bwe.estimate());
            self.samples.push(Sample { at, estimate, queue: self.queue, delivered: self.delivered });
        }
    }

    fn send(&mut self) {
        if self.source.is_audio && self.now >= self.audio_at {
            self.audio_at += 20 * MILLISECOND;
            self.packet(self.now, 120 + HEADERS, None);
        }
        let estimate = self.bwe.estimate() as f64;
        if self.now >= self.frame_at && self.source.video_max > 0.0 {
            self.frame_at += SECOND / 30;
            let bps = (self.source.used * estimate - 60_000.0).clamp(0.0, self.source.video_max);
            self.video_bytes = (self.video_bytes + bps / 8.0 / 30.0 * (0.7 + 0.6 * self.random.unit())).min(bps / 8.0);
        }
        while self.video_bytes >= 200.0 && self.video_at <= self.now {
            let len = self.video_bytes.min(1172.0) as usize + HEADERS;
            self.video_bytes -= (len - HEADERS) as f64;
            let gap = (len * 8) as f64 / (self.source.pacing * estimate) * 1e6;
            self.video_at = self.video_at.max(self.now) + gap as Micros;
            self.packet(self.now, len, None);
        }
        self.send_probe();
    }

    fn send_probe(&mut self) {
        if self.probe.is_none()
            && let Some(probe) = self.bwe.probe(self.now)
        {
            self.probes += 1;
            let len = (probe.bytes_min as usize / usize::from(probe.packets_min)).clamp(200, 1200);
            let count = (probe.bytes_min / len as u32 + 1).max(u32::from(probe.packets_min));
            let gap = (len as u64 * 8 * SECOND) / probe.bps.max(1);
            let seen = (self.probes, probe.packets_min, probe.bytes_min.max(1));
            self.probe = Some((probe.id, seen, len, count, gap, self.now));
        }
        while let Some((id, seen, len, count, gap, at)) = self.probe
            && at <= self.now
        {
            self.packet(at.max(self.now - STEP + 1), len, Some((id, seen)));
            self.probe = (count > 1).then_some((id, seen, len, count - 1, gap, at + gap));
        }
    }

    fn packet(&mut self, at: Micros, len: usize, probe: Option<(ProbeId, (u64, u16, u32))>) {
        self.seq = self.seq.wrapping_add(1);
        self.bwe.sent(at, self.seq, len, probe.map(|(id, _)| id));
        self.onlooker.sent(SentPacket { seq: self.seq, at, len, probe: probe.map(|(_, seen)| seen) });
        let Some((queue, out)) = enqueue(&self.path, &self.busy_until, at, len) else {
            self.queue = self.path.queue_max;
            return;
        };
        self.queue = queue;
        if self.random.is(self.path.loss) {
            return;
        }
        let mut arrived = out + self.path.delay;
        if self.path.jitter > 0 {
            arrived += (self.random.unit() * self.path.jitter as f64) as Micros;
            arrived = arrived.max(self.arrived_last);
            self.arrived_last = arrived;
        }
        if self.random.is(self.path.reordered.0) {
            arrived += self.path.reordered.1;
        }
        self.flying.push(Reverse((arrived, self.seq, len)));
    }

    fn cross(&mut self) {
        let seconds = self.now - SECOND;
        let Some(&(_, _, bps)) = self.path.cross.iter().find(|(from, to, _)| (*from..*to).contains(&seconds)) else {
            self.cross_at = self.now;
            return;
        };
        while self.cross_at <= self.now {
            enqueue(&self.path, &self.busy_until, self.cross_at, 1200);
            self.cross_at += (9_600.0 / bps * 1e6) as Micros;
        }
    }

    fn arrive(&mut self) {
        while let Some(&Reverse((at, seq, len))) = self.flying.peek()
            && at <= self.now
        {
            self.flying.pop();
            self.delivered += len as u64;
            self.log.push(seq, at);
        }
    }

    fn feed_back(&mut self) {
        if self.now >= self.feedback_at {
            self.feedback_at += 100 * MILLISECOND;
            while self.log.has_unreported() {
                let mut bytes = vec![0; 1100];
                bytes[..8].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2]);
                let len = self.log.write_feedback(&mut bytes[8..]);
                bytes.truncate(8 + len);
                let is_silent = (self.path.silence.0..self.path.silence.1).contains(&(self.now - SECOND));
                if !is_silent && !self.random.is(self.path.feedback_loss) {
                    self.feedback.push(Reverse((self.now + self.path.delay, bytes)));
                }
            }
        }
        while let Some(Reverse((at, _))) = self.feedback.peek()
            && *at <= self.now
        {
            let Reverse((_, bytes)) = self.feedback.pop().unwrap();
            let feedback = TransportCc::parse(&bytes).unwrap();
            self.onlooker.feedback(self.now, &feedback);
            let matched = self.bwe.feedback(self.now, &feedback);
            self.matched.found += matched.found;
            self.matched.unknown += matched.unknown;
            self.onlooker.after(self.now, &self.bwe);
        }
    }

    /// Samples between these seconds.
    pub fn between(&self, from: f64, to: f64) -> &[Sample] {
        let index = |second: f64| self.samples.partition_point(|sample| (sample.at as f64) < second * 1e6);
        &self.samples[index(from)..index(to)]
    }

    /// What came out between these seconds, bit/s.
    pub fn delivered_bps(&self, from: f64, to: f64) -> f64 {
        let samples = self.between(from, to);
        let (first, last) = (samples.first().unwrap(), samples.last().unwrap());
        (last.delivered - first.delivered) as f64 * 8e6 / (last.at - first.at) as f64
    }

    /// The fraction of the capacity that was used between these seconds.
    pub fn utilization(&self, from: f64, to: f64) -> f64 {
        let samples = self.between(from, to);
        let capacity: f64 = samples.iter().map(|sample| self.path.capacity_at(sample.at)).sum();
        self.delivered_bps(from, to) / (capacity / samples.len() as f64)
    }

    /// Milliseconds of waiting that a fraction of the packets do not exceed, between these seconds.
    pub fn queue_ms(&self, fraction: f64, from: f64, to: f64) -> f64 {
        let mut queues: Vec<_> = self.between(from, to).iter().map(|sample| sample.queue).collect();
        queues.sort_unstable();
        queues[((queues.len() - 1) as f64 * fraction) as usize] as f64 / 1000.0
    }

    /// Least and highest estimate between these seconds, bit/s.
    pub fn estimates(&self, from: f64, to: f64) -> (u64, u64) {
        let estimates = || self.between(from, to).iter().map(|sample| sample.estimate);
        (estimates().min().unwrap(), estimates().max().unwrap())
    }

    /// Seconds from a time on until the estimate fulfils something, if it does.
    pub fn time_to(&self, from: f64, is: impl Fn(u64) -> bool) -> Option<f64> {
        let sample = self.between(from, f64::MAX).iter().find(|sample| is(sample.estimate))?;
        Some(sample.at as f64 / 1e6 - from)
    }
}
