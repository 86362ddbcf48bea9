//! A direction of the link in virtual time.

use weak::{Command, Direction, Loss, Settings, Which};

const MS: u64 = 1_000;

fn settings(words: &str) -> Settings {
    match Command::parse(&format!("down {words}")).expect("settings") {
        Command::Set(Which::Down, change) => Settings::default().with(&change),
        other => panic!("{other:?}"),
    }
}

/// A direction with what came out of it and when.
struct Run {
    direction: Direction,
    now: u64,
    out: Vec<(u64, u32)>,
    sent: u32,
}

impl Run {
    fn new(words: &str) -> Run {
        Run { direction: Direction::new(settings(words), 7, 0), now: 0, out: Vec::new(), sent: 0 }
    }

    /// Sends the next numbered packet of this length.
    fn send(&mut self, len: usize) {
        let mut packet = self.sent.to_be_bytes().to_vec();
        packet.resize(len, 0);
        self.direction.push(self.now, packet);
        self.sent += 1;
    }

    /// Goes on to this time, and calls exactly when it is asked to.
    fn until(&mut self, end: u64) {
        loop {
            let (now, out) = (self.now, &mut self.out);
            let next = self.direction.poll(now, |packet| {
                let number = u32::from_be_bytes(packet[..4].try_into().expect("its number"));
                out.push((now, number));
            });
            match next {
                Some(at) if at <= end => {
                    assert!(at > self.now, "a deadline lies ahead");
                    self.now = at;
                }
                _ => break,
            }
        }
        self.now = end;
        // The capacity counts up to now.
        self.direction.poll(end, |_| unreachable!("delivered before"));
    }

    fn numbers(&self) -> Vec<u32> {
        self.out.iter().map(|&(_, number)| number).collect()
    }
}

#[test]
fn a_link_without_limits_delivers_at_once() {
    let mut run = Run::new("");
    run.send(1200);
    run.until(0);
    assert_eq!(run.out, [(0, 0)]);
    assert_eq!(run.direction.counts().utilisation(), None);
}

#[test]
fn a_packet_takes_its_bits_at_the_rate_and_the_delay() {
    let mut run = Run::new("rate=1M delay=25ms");
    run.send(1250);
    run.send(1250);
    run.until(100 * MS);
    // 10,000 bits at 1 Mb/s are 10 ms.
    assert_eq!(run.out, [(35 * MS, 0), (45 * MS, 1)]);
    assert_eq!(run.direction.counts().queueing_us_max(), 20 * MS);
    assert_eq!(run.direction.counts().queueing_us(0.5), 10 * MS);
}

#[test]
fn what_does_not_fit_into_the_queue_is_dropped() {
    let mut run = Run::new("rate=1M queue=100ms");
    for _ in 0..20 {
        run.send(1250);
    }
    run.until(1_000 * MS);
    assert_eq!(run.numbers(), (0..10).collect::<Vec<_>>());
    assert_eq!(run.direction.counts().drops(), (10, 0));
    assert_eq!(run.direction.counts().queueing_us_max(), 100 * MS);
    // A packet that is longer than the queue is sent where nothing waits.
    let mut run = Run::new("rate=100k queue=10ms");
    run.send(1250);
    run.send(1250);
    run.until(1_000 * MS);
    assert_eq!(run.out, [(100 * MS, 0)]);
}

#[test]
fn a_rate_that_changes_applies_to_what_is_half_sent_and_to_what_waits() {
    let mut run = Run::new("rate=1M");
    run.send(1250);
    run.send(1250);
    run.until(5 * MS);
    run.direction.set(run.now, &[weak::settings::Setting::Rate(Some(100_000))]);
    run.until(1_000 * MS);
    // Half of the first was sent in 5 ms; the other half takes 50, the second 100.
    assert_eq!(run.out, [(55 * MS, 0), (155 * MS, 1)]);
    let mut run = Run::new("rate=100k");
    run.send(1250);
    run.until(50 * MS);
    run.direction.set(run.now, &[weak::settings::Setting::Rate(None)]);
    run.until(50 * MS);
    assert_eq!(run.out, [(50 * MS, 0)]);
}

#[test]
fn utilisation_is_what_was_sent_of_what_the_capacity_permitted() {
    let mut run = Run::new("rate=1M queue=50ms");
    // Half of the capacity for a second, then twice the capacity for another.
    for at in 0..100 {
        run.until(at * 20 * MS);
        let packets = if at < 50 { 1 } else { 4 };
        (0..packets).for_each(|_| run.send(1250));
    }
    run.until(2_000 * MS);
    let used = run.direction.counts().utilisation().expect("a capacity");
    assert!((0.74..0.77).contains(&used), "{used}");
    run.direction.mark(run.now);
    run.until(3_000 * MS);
    let used = run.direction.counts().utilisation().expect("a capacity");
    assert!((0.0..0.06).contains(&used), "after the mark: {used}");
}

#[test]
fn losses_are_the_share_that_was_asked_for_and_bursts_have_their_length() {
    for (words, share, length) in [("loss=10%", 0.1, 1.11), ("loss=2%x10", 0.02, 10.0), ("loss=0%", 0.0, 0.0)] {
        let mut run = Run::new(words);
        for at in 0..200_000 {
            run.now = at * 100;
            run.send(100);
            run.until(at * 100);
        }
        let (mut bursts, mut expected) = (0u32, 0);
        for number in run.numbers() {
            bursts += u32::from(number != expected);
            expected = number + 1;
        }
        let (_, lost) = run.direction.counts().drops();
        let (got, mean) = (lost as f64 / 200_000.0, lost as f64 / f64::from(bursts.max(1)));
        assert!((got - share).abs() <= 0.15 * share, "{words}: {got}");
        assert!((mean - length).abs() <= 0.1 * length, "{words}: bursts of {mean}");
    }
}

#[test]
fn jitter_keeps_the_order_and_reordering_does_not() {
    let mut run = Run::new("delay=10ms jitter=30ms");
    for at in 0..1_000 {
        run.until(at * 20 * MS);
        run.send(100);
    }
    run.until(30_000 * MS);
    assert_eq!(run.numbers(), (0..1_000).collect::<Vec<_>>());
    let late = run.out.iter().map(|&(at, number)| at - u64::from(number) * 20 * MS);
    let (least, most) = (late.clone().min().expect("some"), late.max().expect("some"));
    assert!((10 * MS..12 * MS).contains(&least) && (35 * MS..=40 * MS).contains(&most), "{least} to {most}");

    let mut run = Run::new("reorder=5%x20ms");
    for at in 0..1_000 {
        run.until(at * MS);
        run.send(100);
    }
    run.until(2_000 * MS);
    let late = run.out.iter().filter(|&&(at, number)| at == u64::from(number) * MS + 20 * MS).count();
    assert!((25..100).contains(&late), "{late} of 1000 were held back");
    assert_eq!(run.out.len(), 1_000);
}

/// Whatever happens, a packet that was offered is dropped, lost, in the link, or delivered.
#[test]
fn every_packet_is_accounted_for() {
    let mut run = Run::new("rate=400k queue=80ms delay=30ms jitter=20ms loss=5%x3 reorder=2%");
    for at in 0..5_000u64 {
        run.until(at * 2 * MS);
        run.send(100 + (at as usize * 37) % 1200);
        if at % 500 == 499 {
            let rate = [200_000, 2_000_000, 50_000][(at / 500) as usize % 3];
            run.direction.set(run.now, &[weak::settings::Setting::Rate(Some(rate))]);
        }
    }
    run.until(60_000 * MS);
    let counts = run.direction.counts();
    let (queue, lost) = counts.drops();
    assert_eq!(counts.offered().0, 5_000);
    assert_eq!(counts.sent().0 + queue, 5_000);
    assert_eq!(counts.delivered() + queue + lost, 5_000);
    assert_eq!(counts.delivered(), run.out.len() as u64);
    assert!(queue > 100 && lost > 50, "{queue} and {lost}");
    let mut text = String::new();
    counts.write_json(&mut text);
    let report: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let steps = report["steps"].as_array().expect("a series");
    let sum: u64 = steps.iter().map(|step| step[1].as_u64().expect("bytes")).sum();
    assert_eq!(Some(sum), report["sent_bytes"].as_u64());
}

#[test]
fn commands_are_parsed_and_bad_ones_say_why() {
    let at = Command::parse("at 10 both rate=2.5M queue=100ms");
    assert!(matches!(at, Ok(Command::At(10_000_000, Which::Both, ref change)) if change.len() == 2), "{at:?}");
    assert_eq!(Command::parse(" mark "), Ok(Command::Mark));
    assert_eq!(Command::parse("report"), Ok(Command::Report));
    assert_eq!(settings("loss=2%x10").loss, Loss::Burst(0.02, 10.0));
    assert_eq!(settings("rate=500k").rate_bps, Some(500_000));
    for bad in [
        "",
        "sideways rate=1k",
        "up rate",
        "up rate=5",
        "up loss=120%",
        "up loss=100%x10",
        "at x up",
        "up queue=3",
        "up rate=NaNk",
        "up color=red",
    ] {
        assert!(Command::parse(bad).is_err(), "{bad:?}");
    }
}
