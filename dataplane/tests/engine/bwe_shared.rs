//! Several flows in one queue: what the estimator leaves to its like and to TCP, and what these leave to it (RFC 8867 §5.2, 5.4,
//! 5.6, 5.8).

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use dataplane::config::{MILLISECOND, Micros, SECOND};

use crate::link::*;

/// Flows in one queue, of which each begins at its time.
fn flows(seed: u64, path: &Path, begins: &[f64]) -> Vec<(f64, Run)> {
    let queue = Rc::new(Cell::new(0));
    let flow = |(n, begin): (usize, &f64)| {
        let mut run = Run::new(seed * 31 + n as u64, path.clone(), Source::default());
        run.share(&queue);
        (*begin, run)
    };
    begins.iter().enumerate().map(flow).collect()
}

/// All flows that have begun go on for a step, in turn.
fn step(flows: &mut [(f64, Run)], second: f64) {
    for (begin, run) in flows {
        if second >= *begin {
            run.begin_at(*begin);
            run.until(second);
        }
    }
}

fn jain(rates: &[f64]) -> f64 {
    let (sum, squares): (f64, f64) = (rates.iter().sum(), rates.iter().map(|rate| rate * rate).sum());
    sum * sum / (rates.len() as f64 * squares)
}

/// Least and mean.
fn summary(values: &[f64]) -> (f64, f64) {
    (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().sum::<f64>() / values.len() as f64)
}

const SEEDS: u64 = 12;

#[test]
fn rfc_8867_5_4_three_flows_share() {
    let mut fairness = Vec::new();
    for seed in 0..SEEDS {
        let mut flows = flows(seed, &Path::of(&[(0, 3.5)]), &[0.0, 20.0, 40.0]);
        (1..=120_000).for_each(|n| step(&mut flows, f64::from(n) / 1000.0));
        let rates: Vec<_> = flows.iter().map(|(_, run)| run.delivered_bps(70.0, 120.0)).collect();
        let queue = flows[0].1.queue_ms(0.95, 0.0, 120.0);
        let used = rates.iter().sum::<f64>() / 3.5e6;
        println!("seed {seed}: {rates:.0?}, Jain {:.3}, used {used:.3}, queue p95 {queue:.0} ms", jain(&rates));
        assert!(used >= 0.8 && queue <= 200.0, "seed {seed}: {used} {queue}");
        fairness.push(jain(&rates));
    }
    let (least, mean) = summary(&fairness);
    assert!(least >= 0.75 && mean >= 0.9, "{fairness:?}");
}

#[test]
fn rfc_8867_5_2_two_flows_follow_a_capacity_that_changes() {
    for seed in 0..SEEDS {
        let path = Path::of(&[(0, 4.0), (25, 2.0), (50, 3.5), (75, 1.0), (100, 2.0)]);
        let mut flows = flows(seed, &path, &[0.0, 0.0]);
        (1..=125_000).for_each(|n| step(&mut flows, f64::from(n) / 1000.0));
        let used: f64 = flows.iter().map(|(_, run)| run.utilization(0.0, 125.0)).sum();
        let rates: Vec<_> = flows.iter().map(|(_, run)| run.delivered_bps(10.0, 125.0)).collect();
        let queue = flows[0].1.queue_ms(0.95, 0.0, 125.0);
        println!("seed {seed}: used {used:.3}, Jain {:.3}, queue p95 {queue:.0} ms", jain(&rates));
        assert!(used >= 0.75 && jain(&rates) >= 0.9 && queue <= 150.0, "seed {seed}: {used} {rates:?} {queue}");
    }
}

/// A TCP flow with as much to send as it may: slow start, and a window that halves when a packet is lost.
struct Tcp {
    queue: Rc<Cell<Micros>>,
    path: Path,
    window: f64,
    threshold: f64,
    /// When the acknowledgement of each packet in flight comes, or when its loss is noticed.
    flying: VecDeque<(Micros, bool)>,
    lowered_at: Micros,
    delivered: u64,
}

impl Tcp {
    fn new(path: &Path, queue: &Rc<Cell<Micros>>) -> Tcp {
        Tcp {
            queue: Rc::clone(queue),
            path: path.clone(),
            window: 10.0,
            threshold: 1e9,
            flying: VecDeque::new(),
            lowered_at: 0,
            delivered: 0,
        }
    }

    fn step(&mut self, now: Micros) {
        while self.flying.front().is_some_and(|(at, _)| *at <= now) {
            let (_, is_lost) = self.flying.pop_front().unwrap();
            if !is_lost {
                self.delivered += 1460;
                self.window += if self.window < self.threshold { 1.0 } else { 1.0 / self.window };
            } else if now - self.lowered_at > 2 * self.path.delay + self.path.queue_max {
                self.lowered_at = now;
                self.window = (self.window / 2.0).max(2.0);
                self.threshold = self.window;
            }
        }
        while (self.flying.len() as f64) < self.window {
            let out = enqueue(&self.path, &self.queue, now, 1500);
            let back = out.map_or(now + self.path.queue_max, |(_, out)| out) + 2 * self.path.delay;
            let back = self.flying.back().map_or(back, |(at, _)| back.max(*at));
            self.flying.push_back((back, out.is_none()));
        }
    }
}

#[test]
fn rfc_8867_5_6_a_long_tcp_does_not_starve_media_nor_is_starved() {
    let mut shares = Vec::new();
    for seed in 0..SEEDS {
        let path = Path::of(&[(0, 2.0)]);
        let mut flows = flows(seed, &path, &[0.0]);
        let queue = Rc::new(Cell::new(0));
        flows[0].1.share(&queue);
        let mut tcp = Tcp::new(&path, &queue);
        for n in 1..=120_000u64 {
            step(&mut flows, n as f64 / 1000.0);
            if n > 10_000 {
                tcp.step(SECOND + n * MILLISECOND);
            }
        }
        let media = flows[0].1.delivered_bps(30.0, 120.0) / 2e6;
        let tcp = tcp.delivered as f64 * 8.0 / 110.0 / 2e6;
        println!("seed {seed}: media {media:.3}, TCP {tcp:.3}");
        assert!(media >= 0.08 && tcp >= 0.2, "seed {seed}: {media} {tcp}");
        shares.push(media);
    }
    assert!(summary(&shares).1 >= 0.18, "{shares:?}");
}

#[test]
fn rfc_8867_5_8_a_flow_that_pauses_has_its_share_again_within_ten_seconds() {
    let mut fairness = Vec::new();
    for seed in 0..SEEDS {
        let mut flows = flows(seed, &Path::of(&[(0, 3.5)]), &[0.0, 0.0, 0.0]);
        for n in 1..=120_000 {
            let second = f64::from(n) / 1000.0;
            flows[1].1.source.video_max = if (40.0..60.0).contains(&second) { 0.0 } else { 4e6 };
            step(&mut flows, second);
        }
        let after: Vec<_> = flows.iter().map(|(_, run)| run.delivered_bps(70.0, 100.0)).collect();
        println!("seed {seed}: {after:.0?} Jain {:.3}", jain(&after));
        fairness.push(jain(&after));
    }
    let (least, mean) = summary(&fairness);
    assert!(least >= 0.75 && mean >= 0.9, "{fairness:?}");
}

/// Nobody else is there, and lowering the rate does not help at first: still the queue is ours.
#[test]
fn a_path_that_gets_worse_and_worse_is_followed() {
    for seed in 0..SEEDS {
        let falling: Vec<_> = (0..20).map(|n| (20 + n, 2.0 * 0.9f64.powi(n as i32))).collect();
        let capacity: Vec<_> = [(0, 2.0)].into_iter().chain(falling).collect();
        let path = Path { queue_max: 2 * SECOND, ..Path::of(&capacity) };
        let mut flows = flows(seed, &path, &[0.0]);
        (1..=60_000).for_each(|n| step(&mut flows, f64::from(n) / 1000.0));
        let (falling, after) = (flows[0].1.queue_ms(0.95, 20.0, 40.0), flows[0].1.queue_ms(0.95, 43.0, 60.0));
        println!("seed {seed}: queue p95 {falling:.0} ms while it falls, {after:.0} ms after");
        assert!(falling <= 600.0 && after <= 200.0, "seed {seed}: {falling} {after}");
    }
}
