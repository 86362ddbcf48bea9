//! What a case came to, in figures, and their text: one block for each case, which can be compared line by line.

use std::fmt::Write;

use dataplane::Micros;

const SECOND: f64 = 1_000_000.0;
/// How often a path is looked at.
pub const SAMPLE_INTERVAL: Micros = 50_000;
/// A new capacity is not held against an estimate for so long.
const SETTLED_AFTER: Micros = 5_000_000;

/// The path of one receiver at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Since the begin.
    pub at: Micros,
    /// The server's estimate, bit/s, if it has one.
    pub estimate: Option<u64>,
    /// Bytes that have come out of the path so far, with headers.
    pub delivered: u64,
    /// Bytes that have left the server for the first receiver so far: sound, video, repairs and probes.
    pub left: [u64; 3],
    /// The capacity, bit/s.
    pub capacity: u64,
}

/// What one run found out.
#[derive(Clone, Default, Debug)]
pub struct Run {
    /// By receiver.
    pub samples: Vec<Vec<Sample>>,
    /// When each packet of media came to the queue, and how long it waited there; none: it was full.
    pub waits: Vec<(Micros, Option<Micros>)>,
    /// Bytes that TCP got through.
    pub tcp_delivered: u64,
    /// Slots of all receivers: frames sent and decoded, time in freezes and in all, the longest freeze, changes of the encoding.
    pub frames: (u64, u64),
    /// … time in freezes, of the time since the first frame.
    pub frozen: (Micros, Micros),
    /// … the longest freeze.
    pub frozen_longest: Micros,
    /// … changes of the encoding.
    pub switches: u64,
    /// Packets of sound sent and played.
    pub sound: (u64, u64),
    /// From a receiver's keys to the first frame of the first and of the last of its videos.
    pub first_frame: Vec<(Micros, Micros)>,
    /// What `goog_cc` permits the publisher that is looked at, bit/s: each sample.
    pub uplink: Vec<u64>,
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Seconds in which the capacity's use, and the shares of several, are looked at.
    pub from: u64,
    /// … until.
    pub to: u64,
    /// Since when it is counted how long the estimate takes to 80 and 90 % of the capacity.
    pub timed_from: u64,
}

/// A figure of one run, in the unit of its line.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What it is.
    pub name: &'static str,
    /// Digits behind the point.
    digits: usize,
    /// None: it never happened.
    pub value: Option<f64>,
}

impl Run {
    /// The figures, in their order.
    pub fn figures(&self, window: Window) -> Vec<Figure> {
        let mut figures = Vec::new();
        let mut add = |name, digits, value| figures.push(Figure { name, digits, value });
        let rates: Vec<f64> = self.samples.iter().map(|samples| rate(samples, window)).collect();
        let capacity = mean(self.within(0, window).map(|sample| sample.capacity as f64));
        let seconds = self.samples.first().and_then(|samples| samples.last()).map_or(1.0, |s| s.at as f64 / SECOND);
        add("capacity used by media, %", 1, Some(100.0 * rates.iter().sum::<f64>() / capacity));
        if self.tcp_delivered > 0 {
            let tcp = self.tcp_delivered as f64 * 8.0 / seconds;
            add("capacity used by TCP in the whole run, %", 1, Some(100.0 * tcp / capacity));
        }
        if rates.len() > 1 {
            let squares: f64 = rates.iter().map(|rate| rate * rate).sum();
            add("Jain's index", 3, Some(rates.iter().sum::<f64>().powi(2) / (rates.len() as f64 * squares)));
        }
        let estimates: Vec<f64> = self.estimates(0, window).collect();
        let kbps = |bps: Option<f64>| bps.map(|bps| bps / 1000.0);
        add("estimate least, kb/s", 0, kbps(estimates.iter().copied().min_by(f64::total_cmp)));
        add("estimate last, kb/s", 0, kbps(estimates.last().copied()));
        add("estimate most, kb/s", 0, kbps(estimates.iter().copied().max_by(f64::total_cmp)));
        let of_share = |s: &Sample| s.estimate.map(|bps| 100.0 * bps as f64 / self.share(s));
        let within: Vec<f64> = self.within(0, window).filter_map(of_share).collect();
        add("estimate of the share in the mean, %", 1, Some(mean(within.into_iter())));
        for part in [0.8, 0.9] {
            let name = if part == 0.8 { "80 % of the share after, s" } else { "90 % of the share after, s" };
            add(name, 2, self.time_to(window.timed_from, part));
        }
        add("worst drawdown, %", 1, Some(100.0 * self.drawdown()));
        let mut waits: Vec<Micros> = self.waits.iter().filter_map(|(_, wait)| *wait).collect();
        waits.sort_unstable();
        for (name, part) in [("queue p50, ms", 0.5), ("queue p95, ms", 0.95), ("queue longest, ms", 1.0)] {
            add(name, 0, quantile(&waits, part).map(|wait| wait / 1000.0));
        }
        let full = self.waits.len() - waits.len();
        add("lost in the full queue, %", 2, Some(share(full as u64, self.waits.len() as u64)));
        add("frames undecodable, %", 2, Some(share(self.frames.0 - self.frames.1, self.frames.0)));
        add("frames each second", 1, Some(self.frames.1 as f64 * SECOND / self.frozen.1.max(1) as f64));
        add("time in freezes, %", 2, Some(share(self.frozen.0, self.frozen.1)));
        add("longest freeze, ms", 0, Some(self.frozen_longest as f64 / 1000.0));
        add("sound not played, %", 2, Some(share(self.sound.0 - self.sound.1.min(self.sound.0), self.sound.0)));
        add("changes of an encoding", 0, Some(self.switches as f64));
        let first = self.first_frame.iter().map(|(first, _)| *first as f64 / 1000.0).max_by(f64::total_cmp);
        let last = self.first_frame.iter().map(|(_, last)| *last as f64 / 1000.0).max_by(f64::total_cmp);
        add("first frame of the first video after, ms", 0, first);
        add("first frame of the last video after, ms", 0, last);
        if !self.uplink.is_empty() {
            let kbps = self.uplink.iter().map(|bps| *bps as f64 / 1000.0);
            add("publisher's goog_cc in the mean, kb/s", 0, Some(mean(kbps)));
        }
        figures
    }

    /// What happened second by second: of the first receiver its estimate, what came to it and which changes its videos made; the longest wait in the queue,
    /// and the packets for which it was full.
    pub fn timeline(&self) -> String {
        let names = ["s", "capacity", "estimate", "arrived", "sound", "video", "repairs", "queue", "full"];
        let mut out: String = names.map(|name| format!("{name:>9}")).concat() + "  kb/s, ms\n";
        let samples = self.samples.first().map_or(&[][..], Vec::as_slice);
        for second in samples.chunks((1_000_000 / SAMPLE_INTERVAL) as usize) {
            let (first, last) = (second[0], second[second.len() - 1]);
            let time = first.at..last.at + SAMPLE_INTERVAL;
            let waits = || self.waits.iter().filter(|(at, _)| time.contains(at)).map(|(_, wait)| wait);
            let kbps = |from: u64, to: u64| (to - from) * 8_000 / (last.at - first.at).max(1);
            let [sound, video, repairs] = [0, 1, 2].map(|kind| kbps(first.left[kind], last.left[kind]));
            let (queue, full) =
                (waits().flatten().max().map_or(0, |wait| wait / 1000), waits().filter(|w| w.is_none()).count());
            let estimate = last.estimate.map_or(0, |bps| bps / 1000);
            let arrived = kbps(first.delivered, last.delivered);
            let row = [
                first.at / 1_000_000,
                last.capacity / 1000,
                estimate,
                arrived,
                sound,
                video,
                repairs,
                queue,
                full as u64,
            ];
            let _ = writeln!(out, "{}", row.map(|value| format!("{value:>9}")).concat());
        }
        out
    }

    fn within(&self, receiver: usize, window: Window) -> impl Iterator<Item = &Sample> {
        let samples = self.samples.get(receiver).map_or(&[][..], Vec::as_slice);
        let seconds = window.from * 1_000_000..window.to * 1_000_000;
        samples.iter().filter(move |sample| seconds.contains(&sample.at))
    }

    fn estimates(&self, receiver: usize, window: Window) -> impl Iterator<Item = f64> {
        self.within(receiver, window).filter_map(|sample| sample.estimate).map(|bps| bps as f64)
    }

    /// The capacity divided by all flows, TCP not counted.
    fn share(&self, sample: &Sample) -> f64 {
        sample.capacity as f64 / self.samples.len() as f64
    }

    /// Seconds from then on until the first receiver's estimate has come to that part of its share of the capacity.
    fn time_to(&self, from: u64, part: f64) -> Option<f64> {
        let begin = from * 1_000_000;
        let reached = self.samples.first()?.iter().find(|sample| {
            sample.at >= begin && sample.estimate.is_some_and(|bps| bps as f64 >= part * self.share(sample))
        });
        reached.map(|sample| (sample.at - begin) as f64 / SECOND)
    }

    /// The largest fall of the first receiver's estimate below what it had been before while the capacity stayed, as a part of that.
    /// What was above its share does not count.
    fn drawdown(&self) -> f64 {
        let (mut worst, mut highest, mut changed_at, mut capacity) = (0.0f64, 0.0f64, 0, 0);
        for sample in self.samples.first().into_iter().flatten() {
            if sample.capacity != capacity {
                (capacity, changed_at, highest) = (sample.capacity, sample.at, 0.0);
            }
            let Some(bps) = sample.estimate.filter(|_| sample.at >= changed_at + SETTLED_AFTER) else { continue };
            let bps = (bps as f64).min(self.share(sample));
            highest = highest.max(bps);
            worst = worst.max(1.0 - bps / highest);
        }
        worst
    }
}

fn rate(samples: &[Sample], window: Window) -> f64 {
    let at = |second: u64| samples.partition_point(|sample| sample.at < second * 1_000_000).min(samples.len() - 1);
    if samples.is_empty() {
        return 0.0;
    }
    let (first, last) = (samples[at(window.from)], samples[at(window.to)]);
    (last.delivered - first.delivered) as f64 * 8.0 * SECOND / (last.at - first.at).max(1) as f64
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    if count > 0.0 { sum / count } else { 0.0 }
}

fn share(part: u64, of: u64) -> f64 {
    100.0 * part as f64 / of.max(1) as f64
}

fn quantile(sorted: &[Micros], part: f64) -> Option<f64> {
    sorted.get((sorted.len().checked_sub(1)? as f64 * part) as usize).map(|wait| *wait as f64)
}

/// A figure as it is printed.
fn text(figure: &Figure) -> String {
    // No minus in front of nothing.
    figure.value.map_or("never".to_owned(), |value| format!("{:.*}", figure.digits, value + 0.0))
}

/// The block of a case: a line for each figure, with that of the first seed, and least, median and most of all seeds. Of one seed only
/// the first column.
pub fn block(title: &str, runs: &[Vec<Figure>]) -> String {
    let mut out = format!("{title}\n");
    for (at, figure) in runs[0].iter().enumerate() {
        let _ = write!(out, "  {:<44}{:>10}", figure.name, text(figure));
        if runs.len() > 1 {
            let mut of_all: Vec<&Figure> = runs.iter().map(|run| &run[at]).collect();
            of_all.sort_by(|a, b| a.value.unwrap_or(f64::INFINITY).total_cmp(&b.value.unwrap_or(f64::INFINITY)));
            let [least, median, most] = [0, (runs.len() - 1) / 2, runs.len() - 1].map(|n| text(of_all[n]));
            let _ = write!(out, "  |{least:>9}{median:>10}{most:>10}");
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64, estimate: u64, delivered: u64, capacity: u64) -> Sample {
        Sample { at: at * 1_000_000, estimate: Some(estimate), delivered, left: [0; 3], capacity }
    }

    #[test]
    fn figures_say_what_happened() {
        let path = [(0, 100), (6, 800), (7, 400), (8, 2000), (9, 900), (10, 950)];
        let samples = path.iter().map(|&(at, bps)| sample(at, bps, at * 100, 1000)).collect();
        let run = Run {
            samples: vec![samples],
            waits: [1000, 2000, 9000].map(|wait| (0, Some(wait))).into(),
            ..Run::default()
        };
        let figures = run.figures(Window { from: 0, to: 10, timed_from: 6 });
        let value = |name: &str| figures.iter().find(|figure| figure.name == name).and_then(|figure| figure.value);
        assert_eq!(value("capacity used by media, %"), Some(80.0));
        assert_eq!(value("80 % of the share after, s"), Some(0.0));
        assert_eq!(value("90 % of the share after, s"), Some(2.0));
        assert_eq!(value("worst drawdown, %"), Some(50.0));
        assert_eq!(value("queue p50, ms"), Some(2.0));
        assert_eq!(value("estimate most, kb/s"), Some(2.0));
        assert_eq!(value("Jain's index"), None);
    }
}
