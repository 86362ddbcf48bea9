//! Tests with an enemy at the other end: it writes what it likes over the whole shared memory, before and while an
//! honest end works. The honest end must not panic, must not take more steps than there are records, and must hand
//! out only what parses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::ends::{ControlLink, Wakes, WorkerLink};
use super::region::{COMMANDS, EVENTS, INJECTS, JOURNAL, PAGE, PUNTS, Region, SLOT_TALLIES, STREAM_TALLIES, WORDS};
use super::{COMMANDS_MAX, EVENTS_MAX, INJECTS_MAX, JOURNAL_ENTRY_LEN_MAX, PUNTS_MAX};
use crate::id::{PeerId, SlotId, StreamId};
use crate::plane::{Command, Counter, DATAGRAM_LEN_MAX, DatagramHeader, DatagramKind, Reset, StreamTally, Tally};

fn ends() -> (Arc<Region>, WorkerLink, ControlLink) {
    let (region, _) = Region::create(1).unwrap();
    let region = Arc::new(region);
    let wakes = Wakes::create().unwrap();
    let worker = WorkerLink::new(region.clone(), wakes.try_clone().unwrap());
    (region.clone(), worker, ControlLink::new(region, wakes))
}

const HEADER: DatagramHeader = DatagramHeader {
    kind: DatagramKind::Dtls,
    peer: PeerId::new(0, 1),
    remote: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9),
    len: 0,
};

const TALLY: StreamTally = StreamTally {
    stream: StreamId::new(0, 3),
    packets: 1,
    bytes: 1,
    expected: 1,
    repaired: 1,
    nacks: 1,
    keyframe_requests: 1,
    policed: 1,
    window_us: 1,
    window_packets: 1,
    window_bytes: 1,
    window_expected: 1,
};

/// One of everything that a worker does, bounded as a worker bounds it.
fn work(worker: &mut WorkerLink) {
    for _ in 0..=COMMANDS_MAX {
        let Some(record) = worker.pop_command() else { break };
        let _ = Command::read(&record);
    }
    for _ in 0..=INJECTS_MAX {
        match worker.pop_inject() {
            Some(Ok((header, payload))) => {
                assert!(payload.len() == usize::from(header.len) && payload.len() <= DATAGRAM_LEN_MAX)
            }
            Some(Err(_)) => {}
            None => break,
        }
    }
    let _ = worker.push_report(&[1; 64]);
    let _ = worker.push_punt(&HEADER, &[2; DATAGRAM_LEN_MAX]);
    assert!(worker.report_space() <= EVENTS_MAX);
    worker.publish(&[3; Counter::COUNT]);
    worker.publish_tally(&Tally::Stream(TALLY));
    worker.raise_resync();
    worker.notify();
    let _ = worker.sleep();
    worker.clear_wake();
    worker.awake();
}

/// One of everything that a controlplane does.
fn control(control: &mut ControlLink) {
    for _ in 0..=EVENTS_MAX {
        if control.pop_report().is_none() {
            break;
        }
    }
    for _ in 0..=PUNTS_MAX {
        match control.pop_punt() {
            Some(Ok((header, payload))) => {
                assert!(payload.len() == usize::from(header.len) && payload.len() <= DATAGRAM_LEN_MAX)
            }
            Some(Err(_)) => {}
            None => break,
        }
    }
    let _ = control.push_command(&Reset {}.into());
    let _ = control.push_inject(&HEADER, &[4; DATAGRAM_LEN_MAX]);
    assert!(control.command_space() <= COMMANDS_MAX);
    let _ = (control.counters(), control.take_resync());
    let latencies = control.latencies();
    let _ = (latencies.count(), latencies.quantile(0.99));
    if let Some(tally) = control.stream_tally(TALLY.stream) {
        assert_eq!(tally.stream, TALLY.stream);
    }
    assert_eq!(control.slot_tally(SlotId::new(u32::MAX, 1)), None);
    control.journal_write(7, b"mine").unwrap();
    control.journal_clear(8).unwrap();
    for (_, bytes) in control.journal_entries() {
        assert!(bytes.len() <= JOURNAL_ENTRY_LEN_MAX);
    }
    control.notify();
    let _ = control.sleep();
    control.clear_wake();
    control.awake();
}

/// A place worth lying about: an index line, the first records, the page, the bitmap and the first journal slots, the
/// first tallies; or any word before them.
fn place() -> impl Strategy<Value = usize> {
    let rings = [0, COMMANDS.start, EVENTS.start, INJECTS.start, PUNTS.start];
    let hot = [&rings[..], &[PAGE.start, JOURNAL.start, STREAM_TALLIES.start, SLOT_TALLIES.start]].concat();
    let hot = (prop::sample::select(hot), 0usize..96).prop_map(|(start, offset)| start + offset);
    prop_oneof![4 => hot, 1 => 0..JOURNAL.start + 512 + 4096]
}

/// A word worth writing: small, huge, near a capacity, or anything.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..4, Just(u64::MAX), 4090u64..4100, 0u64..9000, any::<u64>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn scribbles_between_turns_do_no_harm(turns in prop::collection::vec(prop::collection::vec((place(), word()), 0..24), 1..6)) {
        let (region, mut worker, mut controlplane) = ends();
        for scribbles in turns {
            for (at, word) in scribbles {
                region[at].store(word, Ordering::Relaxed);
            }
            work(&mut worker);
            control(&mut controlplane);
        }
    }
}

#[test]
fn a_memory_full_of_noise_does_no_harm() {
    let (region, mut worker, mut controlplane) = ends();
    // A fixed xorshift: the noise is the same in every run. The journal's slots beyond the first are left alone so
    // that the test does not take 64 MiB; its bitmap is noise.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for at in (0..JOURNAL.start + 512 + 8 * 2048).filter(|at| *at < WORDS) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        region[at].store(state, Ordering::Relaxed);
    }
    work(&mut worker);
    control(&mut controlplane);
}

#[test]
fn an_enemy_that_never_stops_does_no_harm() {
    let (region, mut worker, mut controlplane) = ends();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut state = 88_172_645_463_325_252u64;
            while !is_over.load(Ordering::Relaxed) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let rings = [COMMANDS.start, EVENTS.start, INJECTS.start, PUNTS.start];
                let starts = [rings[0], rings[1], rings[2], rings[3], PAGE.start, STREAM_TALLIES.start];
                let at = starts[state as usize % starts.len()] + (state >> 8) as usize % 48;
                region[at].store(state >> (state % 64), Ordering::Relaxed);
            }
        });
        for _ in 0..300 {
            work(&mut worker);
            control(&mut controlplane);
        }
        is_over.store(true, Ordering::Relaxed);
    });
}
