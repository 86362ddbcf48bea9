//! What a process takes of its machine, read from `/proc` at a scrape, under the names that all Prometheus clients use
//! (`process_cpu_seconds_total`, `process_resident_memory_bytes`, …).
//!
//! A value that cannot be read is left out. That happens for a dataplane that runs in another container, or as another user
//! behind `hidepid`.

use std::fs;
use std::path::{Path, PathBuf};

/// Ticks in a second in `/proc/PID/stat`: USER_HZ, which is 100 on every architecture that uprtc runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What one process takes.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Usage {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) fds_open: Option<u64>,
    pub(super) fds_max: Option<u64>,
    /// Seconds since 1970.
    pub(super) started_at: Option<f64>,
}

impl Usage {
    /// Of the process that asks.
    pub(super) fn of_this() -> Usage {
        Usage::of(Path::new("/proc/self"))
    }

    /// Of another process.
    pub(super) fn of_pid(pid: u32) -> Usage {
        Usage::of(&PathBuf::from(format!("/proc/{pid}")))
    }

    fn of(folder: &Path) -> Usage {
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
        let (stat, status, limits) = (read("stat"), read("status"), read("limits"));
        let kib = |name| field(&status, name).map(|kib| kib * 1024);
        let since_boot = ticks(&stat, START_TIME, 1);
        let booted_at = since_boot.and_then(|_| field(&fs::read_to_string("/proc/stat").ok()?, "btime"));
        Usage {
            cpu_seconds: ticks(&stat, USER_TIME, 2),
            resident_bytes: kib("VmRSS:"),
            virtual_bytes: kib("VmSize:"),
            threads: field(&status, "Threads:"),
            fds_open: count_fds(&folder.join("fd")),
            fds_max: field(&limits, "Max open files"),
            started_at: since_boot.zip(booted_at).map(|(since_boot, booted_at)| booted_at as f64 + since_boot),
        }
    }
}

/// Places in `/proc/PID/stat` behind the process's name, which may have spaces and brackets in it (proc_pid_stat(5)).
const USER_TIME: usize = 11;
const START_TIME: usize = 19;

/// The sum of `count` fields of `stat` from `first` on, in seconds.
fn ticks(stat: &str, first: usize, count: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let values: Vec<u64> =
        fields.split_whitespace().skip(first).take(count).map(str::parse).collect::<Result<_, _>>().ok()?;
    (values.len() == count).then(|| values.iter().sum::<u64>() as f64 / TICKS_PER_SECOND)
}

/// The first number behind `name` at the begin of a line. None for `unlimited`.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The number of open descriptors. Linux 6.2 and later say it as the size of the folder, which needs no permission to
/// read the folder; earlier ones say 0.
fn count_fds(folder: &Path) -> Option<u64> {
    match fs::metadata(folder).ok()?.len() {
        0 => Some(fs::read_dir(folder).ok()?.count() as u64),
        count => Some(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_what_it_takes() {
        let before = Usage::of_this();
        let held: Vec<fs::File> = (0..40).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        // The other tests of this process take and free memory meanwhile.
        let sees_memory = || {
            let resident = || Usage::of_this().resident_bytes.unwrap();
            let (before, _memory) = (resident(), std::hint::black_box(vec![1_u8; 64 << 20]));
            resident() >= before + (50 << 20)
        };
        assert!((0..20).any(|_| sees_memory()));
        let begun = std::time::Instant::now();
        while begun.elapsed().as_millis() < 150 {
            std::hint::black_box(&held);
        }
        let after = Usage::of_this();
        let grown = |of: fn(&Usage) -> Option<u64>| of(&after).unwrap() as i64 - of(&before).unwrap() as i64;
        assert!(grown(|usage| usage.fds_open) >= 30, "{before:?} {after:?}");
        assert!(after.cpu_seconds.unwrap() >= before.cpu_seconds.unwrap() + 0.05, "{before:?} {after:?}");
        assert!(after.threads.unwrap() >= 2 && after.virtual_bytes > after.resident_bytes, "{after:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - after.started_at.unwrap();
        assert!((-2.0..3600.0).contains(&age), "started {age} s ago");
        assert_eq!(Usage { cpu_seconds: None, ..Usage::of_pid(std::process::id()) }.fds_max, after.fds_max);
        drop(held);
    }

    #[test]
    fn a_name_with_brackets_moves_no_field_and_nobody_has_no_values() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 5 0 4200 1000 2";
        assert_eq!((ticks(stat, USER_TIME, 2), ticks(stat, START_TIME, 1)), (Some(4.0), Some(42.0)));
        assert_eq!(ticks("7 (a) S 1", USER_TIME, 2), None);
        assert_eq!(field("Max open files            unlimited            unlimited", "Max open files"), None);
        assert_eq!(Usage::of(Path::new("/proc/0")), Usage::default());
    }
}
