//! The probe behind `io = "auto"`, on this kernel. It is alone in its process, so that descriptors and threads can be counted.

use std::fs;
use std::time::{Duration, Instant};

use dataplane::config::{Backend, Driver};
use dataplane::io::probe::{Probe, RATIO_MAX};

fn count(folder: &str) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// How much it costs is not looked at: that is a number of the machine's.
#[test]
fn it_ends_leaves_nothing_behind_and_obeys_its_rule() {
    let before = (count("/proc/self/fd"), count("/proc/self/task"));
    for driver in [Driver::Auto, Driver::Epoll] {
        let probe = Probe::run(driver);
        eprintln!("{driver:?}: {probe}");
        // The kernel wakes who joins a thread before it takes the thread out of /proc (mm_release in kernel/fork.c).
        let begun = Instant::now();
        while (count("/proc/self/fd"), count("/proc/self/task")) != before {
            let now = (count("/proc/self/fd"), count("/proc/self/task"));
            assert!(begun.elapsed() < Duration::from_secs(5), "descriptors and threads: {now:?}, before {before:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        match &probe {
            Probe::Measured(costs) => {
                assert!(costs.udp_ns > 0.0 && costs.uring_ns > 0.0, "{costs:?}");
                assert_eq!(probe.backend() == Backend::Uring, costs.ratio <= RATIO_MAX, "{costs:?}");
            }
            Probe::Refused(_) => assert_eq!(probe.backend(), Backend::Udp),
            Probe::Failed(error) => panic!("loopback works here: {error}"),
        }
    }
}
