//! The estimator on a path in virtual time: what it makes of a capacity that changes, of loss, of silence, and of lies.

use dataplane::bwe::{Bwe, Limited};
use dataplane::config::{MILLISECOND, Micros, SECOND};
use dataplane::twcc::{ArrivalLog, TransportCc};
use proptest::prelude::*;

use crate::link::*;

const MS: Micros = MILLISECOND;

fn run(seed: u64, path: Path, source: Source, seconds: f64) -> Run {
    let mut run = Run::new(seed, path, source);
    run.until(seconds);
    run
}

#[test]
fn rfc_8867_5_1_a_variable_capacity_is_used_with_short_queues() {
    let mut used_sum = 0.0;
    for seed in 0..5 {
        let path = Path::of(&[(0, 1.0), (40, 2.5), (60, 0.6), (80, 1.0)]);
        let run = run(seed, path, Source { used: 1.0, ..Source::default() }, 100.0);
        let (used, queue) = (run.utilization(0.0, 100.0), run.queue_ms(0.95, 0.0, 100.0));
        println!("seed {seed}: used {used:.3}, queue p95 {queue:.0} ms");
        for (a, b) in [(0.0, 5.0), (5.0, 40.0), (40.0, 60.0), (60.0, 80.0), (80.0, 100.0)] {
            let (used, queue) = (run.utilization(a, b), run.queue_ms(0.95, a, b));
            println!("  {a}..{b} s: used {used:.3}, queue p95 {queue:.0} ms, estimate {:?}", run.estimates(a, b));
        }
        used_sum += used;
        assert!(used >= 0.80 && queue <= 100.0, "seed {seed}: {used} {queue}");
    }
    assert!(used_sum / 5.0 >= 0.85, "{used_sum}");
}

#[test]
fn a_drop_is_followed_within_a_second_drained_within_two_and_over_within_ten() {
    for seed in 0..8 {
        let run = run(seed, Path::of(&[(0, 2.5), (30, 0.4), (60, 2.5)]), Source::default(), 75.0);
        let below = run.time_to(30.0, |bps| bps < 400_000).unwrap();
        let back = run.time_to(60.0, |bps| bps >= 2_000_000).unwrap();
        let queue = run.queue_ms(1.0, 32.0, 40.0);
        println!("seed {seed}: below after {below:.2} s, queue after 2 s {queue:.0} ms, back after {back:.2} s");
        assert!(below <= 1.0 && queue <= 100.0 && back <= 10.0, "seed {seed}: {below} {queue} {back}");
    }
}

#[test]
fn poor_links_are_used_with_short_queues_from_the_first_second() {
    for (seed, mbps) in (0..5).flat_map(|seed| [0.15, 0.3, 0.5, 1.0].map(|mbps| (seed, mbps))) {
        let path = Path { delay: 25 * MS, ..Path::of(&[(0, mbps)]) };
        let run = run(seed, path, Source::default(), 60.0);
        let (used, queue, begin) =
            (run.utilization(10.0, 60.0), run.queue_ms(0.95, 0.0, 60.0), run.queue_ms(0.95, 0.0, 5.0));
        println!("{mbps} Mb/s, seed {seed}: used {used:.3}, queue p95 {queue:.0} ms, first 5 s {begin:.0} ms");
        if mbps >= 0.5 {
            assert!(used >= 0.85 && queue <= 100.0 && begin <= 100.0, "{mbps} seed {seed}: {used} {queue} {begin}");
        }
    }
}

/// A keyframe makes a queue where half of the path is used. What it says of the path is what came out of the queue, and not the half.
#[test]
fn overuse_of_a_sender_of_little_does_not_lower_the_estimate_to_what_it_sends() {
    let estimate_after = |is_by_the_window: bool| {
        let path = || Path { delay: 25 * MS, ..Path::of(&[(0, 1.0)]) };
        let lowered = (0..8).map(|seed| {
            let mut run = Run::new(seed, path(), Source { pacing: 1.1, ..Source::default() });
            if is_by_the_window {
                run.bwe.lower_by_the_window(1.0 / 0.7);
            }
            run.until(20.0);
            run.source.used = 0.55;
            run.until(25.0);
            // Ten frames' worth at once, paced at a quarter more than the path carries.
            (run.source.pacing, run.source.used) = (1.25e6 / run.bwe.estimate() as f64, 10.0);
            run.until(25.04);
            run.source.used = 0.55;
            run.until(26.5);
            let before = run.between(24.0, 25.0).last().unwrap().estimate;
            run.estimates(25.0, 26.5).0 as f64 / before as f64
        });
        lowered.sum::<f64>() / 8.0
    };
    let (by_the_queue, by_the_window) = (estimate_after(false), estimate_after(true));
    println!("lowered to {by_the_queue:.2} of it; by the window, to {by_the_window:.2}");
    assert!(by_the_queue >= by_the_window + 0.1, "{by_the_queue} and {by_the_window}");
}

#[test]
fn random_loss_of_a_tenth_does_not_collapse_the_estimate() {
    for seed in 0..8 {
        let mut run = Run::new(seed, Path::default(), Source::default());
        run.until(10.0);
        let before = run.bwe.estimate();
        run.path.loss = 0.1;
        run.until(60.0);
        let (least, _) = run.estimates(10.0, 60.0);
        let mean = run.delivered_bps(15.0, 60.0);
        println!("seed {seed}: {before}, with loss {least} at least, {mean:.0} arrives in the mean");
        assert!(before >= 3_000_000 && mean >= 1_000_000.0 && least >= 800_000, "seed {seed}: {before} {mean} {least}");
        assert!((0.05..0.15).contains(&run.bwe.facts().loss));
    }
}

#[test]
fn reordering_is_not_congestion() {
    for seed in 0..5 {
        let path = Path { reordered: (0.05, 20 * MS), ..Path::of(&[(0, 20.0)]) };
        let run = run(seed, path, Source::default(), 40.0);
        assert!(run.estimates(10.0, 40.0).0 >= 3_000_000, "seed {seed}: {:?}", run.estimates(10.0, 40.0));
    }
}

#[test]
fn jitter_and_cross_traffic_leave_a_share() {
    for seed in 0..5 {
        let path = Path { jitter: 20 * MS, ..Path::of(&[(0, 20.0)]) };
        let jitter = run(seed, path, Source::default(), 40.0);
        assert!(jitter.estimates(10.0, 40.0).0 >= 1_000_000, "seed {seed}: {:?}", jitter.estimates(10.0, 40.0));
        let path = Path { cross: vec![(20 * SECOND, 40 * SECOND, 1.2e6)], ..Path::of(&[(0, 2.0)]) };
        let cross = run(seed, path, Source::default(), 60.0);
        let (beside, after) = (cross.delivered_bps(30.0, 40.0), cross.delivered_bps(52.0, 60.0));
        println!("seed {seed}: {beside:.0} beside 1.2 of 2 Mb/s, then {after:.0}");
        assert!(beside >= 400_000.0 && after >= 1_400_000.0, "seed {seed}: {beside} {after}");
    }
}

#[test]
fn audio_alone_probes_up_before_and_when_video_is_wanted() {
    for wanted_from in [0.0, 20.0] {
        let source = Source { video_max: 0.0, wanted: Some((wanted_from, 100.0, 2.5e6)), ..Source::default() };
        let run = run(1, Path::of(&[(0, 4.0)]), source, 40.0);
        let time = run.time_to(wanted_from, |bps| bps >= 2_000_000);
        println!("wanted from {wanted_from}: {time:?}");
        assert!(time.is_some_and(|time| time <= 3.0), "{time:?}");
        if wanted_from > 0.0 {
            assert!(run.estimates(0.0, 19.0).1 < 310_000, "no probe that nobody wants");
        }
        assert!(run.bwe.estimate() >= 2_000_000 && run.bwe.facts().is_alr);
    }
}

#[test]
fn what_is_sent_at_two_thirds_of_the_estimate_rises() {
    for used in [0.5, 0.6, 0.65, 0.7, 0.8] {
        let mut run = Run::new(2, Path::of(&[(0, 8.0)]), Source { used, ..Source::default() });
        run.source.wanted = Some((0.0, 0.0, 0.0));
        run.until(20.0);
        let before = run.bwe.estimate();
        run.source.wanted = None;
        run.until(36.0);
        println!("{used}: {before} to {}", run.bwe.estimate());
        assert!(run.bwe.estimate() >= 2 * before, "{used}: {before} to {}", run.bwe.estimate());
    }
}

#[test]
fn a_changed_maximum_or_wish_does_not_probe_again() {
    let mut run = run(3, Path::of(&[(0, 8.0)]), Source { video_max: 1e6, ..Source::default() }, 20.0);
    let before = run.bwe.facts().probes;
    for n in 0..100 {
        run.until(20.0 + 0.1 * n as f64);
        run.bwe.set_max(run.now, 5_000_000 + n % 7 * 1_000_000);
        run.bwe.set_demand(run.now, 900_000 + n % 5 * 10_000);
    }
    assert_eq!(run.bwe.facts().probes, before);
}

#[test]
fn without_feedback_the_estimate_falls_and_comes_back_and_a_pause_is_not_silence() {
    let path = Path { silence: (20 * SECOND, 26 * SECOND), ..Path::of(&[(0, 4.0)]) };
    let mut silent = Run::new(4, path, Source::default());
    silent.until(20.0);
    let before = silent.bwe.estimate();
    silent.until(26.0);
    assert!(silent.bwe.estimate() < before / 4, "{before} to {}", silent.bwe.estimate());
    assert_eq!(silent.bwe.facts().limited, Limited::Silence);
    silent.until(40.0);
    assert!(silent.bwe.estimate() > before / 2, "{before} to {}", silent.bwe.estimate());

    let mut paused = run(4, Path::of(&[(0, 4.0)]), Source::default(), 20.0);
    let (before, now) = (paused.bwe.estimate(), paused.now);
    for n in 0..60 {
        paused.bwe.tick(now + n * SECOND);
    }
    paused.bwe.sent(now + 60 * SECOND, 40_000, 1200, None);
    assert_eq!(paused.bwe.estimate(), before);
}

/// The bytes of feedback: base, reference time in 64 ms, and received (with the tick of 250 µs since the last) or not.
fn feedback(base: u16, reference: u32, count: u8, statuses: &[Option<i16>]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 2];
    bytes.extend(base.to_be_bytes());
    bytes.extend((statuses.len() as u16).to_be_bytes());
    bytes.extend((reference << 8 | u32::from(count)).to_be_bytes());
    for seven in statuses.chunks(7) {
        let bits = seven.iter().enumerate().map(|(n, status)| u16::from(status.is_some()) << (13 - 2 * n));
        bytes.extend((0xc000 | bits.sum::<u16>()).to_be_bytes());
    }
    bytes.extend(statuses.iter().flatten().flat_map(|delta| delta.to_be_bytes()));
    bytes
}

/// jitsi-videobridge#2440: a full path reports so late that the history has forgotten.
#[test]
fn feedback_that_the_history_does_not_know_is_counted_and_going_on_it_is_overuse() {
    let mut bwe = Bwe::new(2_000_000, 30_000, 2_000_000, 0);
    let mut log = ArrivalLog::new(4096);
    let mut unknown = 0;
    for n in 0..8_000u64 {
        let now = n * MS;
        bwe.sent(now, n as u16, 1200, None);
        // The path takes 1.5 s from the third second on: more than 1024 packets.
        let late = if n > 3_000 { 1_500 } else { 50 };
        if n > late {
            log.push((n - late) as u16, now);
        }
        if n % 100 == 0 && log.has_unreported() {
            let mut bytes = vec![0; 1100];
            let len = log.write_feedback(&mut bytes[8..]);
            unknown += bwe.feedback(now, &TransportCc::parse(&bytes[..8 + len]).unwrap()).unknown;
        }
        if n == 3_000 {
            assert_eq!((unknown, bwe.facts().unknown), (0, 0));
            assert!(bwe.estimate() > 1_500_000, "{}", bwe.estimate());
        }
    }
    assert_eq!(u64::from(unknown), bwe.facts().unknown);
    assert!(unknown > 1_000 && bwe.estimate() < 200_000, "{unknown} {}", bwe.estimate());
    // By turns: nothing that is in the history has been reported, which is silence as well.
    assert!(matches!(bwe.facts().limited, Limited::Unknown | Limited::Silence), "{:?}", bwe.facts().limited);
}

/// Sends so many bit/s for a second, in packets of 1000 bytes or, if that is little, of audio.
fn send(bwe: &mut Bwe, second: u64, bps: u64, seq: &mut u16) {
    let len = if bps < 100_000 { 120 } else { 1000 };
    let count = bps / 8 / len;
    for n in 0..count {
        *seq = seq.wrapping_add(1);
        bwe.sent(second * SECOND + n * SECOND / count, *seq, len as usize, None);
    }
}

#[test]
fn reports_alone_give_a_rate_to_receivers_without_transport_cc() {
    let (mut bwe, mut seq) = (Bwe::new(300_000, 30_000, 5_000_000, 0), 0);
    bwe.set_demand(0, 2_000_000);
    let mut rates = Vec::new();
    for second in 0..60 {
        let sent = bwe.estimate().min(1_500_000);
        send(&mut bwe, second, sent, &mut seq);
        bwe.receiver_report((second + 1) * SECOND, if (30..33).contains(&second) { 64 } else { 0 });
        assert!(bwe.probe((second + 1) * SECOND).is_none(), "nobody would measure it");
        rates.push(bwe.estimate());
    }
    assert!(rates[29] >= 1_500_000 && rates[32] < rates[29] * 7 / 10 && rates[59] > rates[32], "{rates:?}");
    assert!(rates.iter().all(|bps| (30_000..=2_300_000).contains(bps)), "{rates:?}");
    // mediasoup#1400: audio alone keeps what it has.
    let (mut bwe, mut seq) = (Bwe::new(300_000, 30_000, 5_000_000, 0), 0);
    for second in 0..60 {
        send(&mut bwe, second, 40_000, &mut seq);
        bwe.receiver_report((second + 1) * SECOND, 0);
    }
    assert_eq!(bwe.estimate(), 300_000);
}

#[test]
fn a_remb_bounds_the_estimate_and_neither_0_nor_2_63_nor_a_stopped_video_starves_it() {
    let (mut bwe, mut seq) = (Bwe::new(500_000, 30_000, 5_000_000, 0), 0);
    for second in 0..3 {
        send(&mut bwe, second, 450_000, &mut seq);
        bwe.remb((second + 1) * SECOND, Some(200_000));
    }
    assert_eq!((bwe.estimate(), bwe.facts().limited), (200_000, Limited::Remb));
    for bps in [Some(0), Some(1 << 63), Some(u64::MAX), None] {
        bwe.remb(3 * SECOND, Some(200_000));
        bwe.remb(3 * SECOND, bps);
        assert_eq!(bwe.estimate(), 500_000, "{bps:?}");
    }
    bwe.remb(3 * SECOND, Some(1));
    assert_eq!(bwe.estimate(), 30_000);
    // It is not repeated.
    assert_eq!(bwe.deadline(), Some(8 * SECOND));
    bwe.tick(8 * SECOND);
    assert_eq!(bwe.estimate(), 500_000);
    // mediasoup#316: video stops, and the receiver allows one and a half times the audio.
    for second in 10..20 {
        send(&mut bwe, second, 40_000, &mut seq);
        bwe.remb((second + 1) * SECOND, Some(70_000));
    }
    assert_eq!(bwe.estimate(), 500_000);
}

#[test]
fn a_transport_of_a_meeting_takes_less_than_24_kib() {
    let bytes = |max| Bwe::new(300_000, 30_000, max, 0).bytes();
    println!("{} for 2 Mb/s, {} for 4 Mb/s, {} at most", bytes(2_000_000), bytes(4_000_000), bytes(u64::MAX));
    assert!(bytes(2_000_000) <= 18 << 10 && bytes(4_000_000) <= 25 << 10 && bytes(u64::MAX) <= 44 << 10);
}

/// What a peer may do to its own estimator.
#[derive(Clone, Debug)]
enum Act {
    Send(u8, u16),
    Feedback { behind: u16, reference: u32, statuses: Vec<Option<i16>> },
    Runs(u16, u16),
    Report(u8),
    Remb(Option<u64>),
    Rtt(u64),
    Want(u64),
    Max(u64),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let status = prop_oneof![2 => Just(None), 5 => (0i16..200).prop_map(Some), 1 => any::<i16>().prop_map(Some)];
    let behind = prop_oneof![4 => 0u16..100, 1 => any::<u16>()];
    let reference = prop_oneof![4 => 0u32..100, 1 => 0u32..1 << 24];
    prop_oneof![
        6 => (0u8..60, 0u16..1500).prop_map(|(count, len)| Act::Send(count, len)),
        6 => (behind, reference, prop::collection::vec(status, 1..150))
            .prop_map(|(behind, reference, statuses)| Act::Feedback { behind, reference, statuses }),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(base, count)| Act::Runs(base, count)),
        1 => any::<u8>().prop_map(Act::Report),
        1 => any::<Option<u64>>().prop_map(Act::Remb),
        1 => any::<u64>().prop_map(Act::Rtt),
        1 => any::<u64>().prop_map(Act::Want),
        1 => any::<u64>().prop_map(Act::Max),
        2 => prop_oneof![0u64..3 * SECOND, 0u64..7200 * SECOND].prop_map(Act::Wait),
    ]
}

proptest! {
    #[test]
    fn whatever_a_receiver_reports_the_estimate_stays_within_its_bounds(
        acts in prop::collection::vec(act(), 1..150),
    ) {
        let mut bwe = Bwe::new(300_000, 30_000, 5_000_000, 0);
        let bytes = bwe.bytes();
        let (mut now, mut seq, mut max, mut probes) = (SECOND, 0u16, 5_000_000, 0);
        for act in acts {
            match act {
                Act::Send(count, len) => for _ in 0..count {
                    now += 3 * MS;
                    seq = seq.wrapping_add(1);
                    let probe = bwe.probe(now);
                    probes += u64::from(probe.is_some());
                    bwe.sent(now, seq, usize::from(len), probe.map(|probe| probe.id));
                },
                Act::Feedback { behind, reference, statuses } => {
                    let bytes = feedback(seq.wrapping_sub(behind), reference, 0, &statuses);
                    let matched = bwe.feedback(now, &TransportCc::parse(&bytes).unwrap());
                    prop_assert!((matched.found + matched.unknown) as usize <= statuses.len());
                }
                Act::Runs(base, count) => {
                    let mut bytes = feedback(base, 7, 0, &[]);
                    bytes[10..12].copy_from_slice(&count.to_be_bytes());
                    (0..=count / 0x1fff).for_each(|_| bytes.extend(0x1fffu16.to_be_bytes()));
                    bwe.feedback(now, &TransportCc::parse(&bytes).unwrap());
                }
                Act::Report(fraction_lost) => bwe.receiver_report(now, fraction_lost),
                Act::Remb(bps) => bwe.remb(now, bps),
                Act::Rtt(rtt) => bwe.rtt(now, rtt),
                Act::Want(bps) => bwe.set_demand(now, bps),
                Act::Max(bps) => {
                    max = bps.max(30_000);
                    bwe.set_max(now, bps);
                }
                Act::Wait(time) => {
                    now += time;
                    bwe.tick(now);
                }
            }
            prop_assert!((30_000..=max).contains(&bwe.estimate()), "{} of {max}", bwe.estimate());
            prop_assert!(bwe.facts().loss.is_finite() && (0.0..=1.0).contains(&bwe.facts().loss));
            prop_assert!(bwe.padding() <= bwe.estimate());
        }
        prop_assert_eq!(bwe.bytes(), bytes);
        prop_assert_eq!(bwe.facts().probes, probes);
    }
}
