//! CPU time and memory of the server's processes, read from outside by their ids, so that any server can be measured in
//! the same way.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// A process of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Process {
    /// What it is called in the report.
    pub(super) name: String,
    /// Its id.
    pub(super) pid: u32,
}

/// What a process had used at one moment.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Usage {
    /// User and kernel time of all threads. Sends over loopback are in it whole: the kernel delivers in the sender's
    /// time.
    pub(super) cpu: Duration,
    /// Resident memory, bytes.
    pub(super) rss: u64,
    /// The same, pages shared with others counted in parts, bytes. 0 where the kernel does not tell us.
    pub(super) pss: u64,
}

impl Process {
    /// What it has used until now; None if it is gone.
    pub(super) fn usage(&self) -> Option<Usage> {
        let folder = format!("/proc/{}", self.pid);
        let folder = Path::new(&folder);
        let (rss, pss) = memory(folder)?;
        Some(Usage { cpu: run_time(folder).or_else(|| stat_time(folder))?, rss, pss })
    }
}

/// Nanoseconds of each thread on a CPU, from `schedstat`. Threads that end in between take theirs with them.
fn run_time(folder: &Path) -> Option<Duration> {
    let threads = fs::read_dir(folder.join("task")).ok()?;
    let sum: Duration = threads.flatten().filter_map(|thread| thread_time(&thread.path())).sum();
    (!sum.is_zero()).then_some(sum)
}

fn thread_time(folder: &Path) -> Option<Duration> {
    let text = fs::read_to_string(folder.join("schedstat")).ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

/// CPU time of the calling thread; none where the kernel has no `schedstat`.
pub(super) fn own_thread_time() -> Duration {
    thread_time(Path::new("/proc/thread-self")).unwrap_or_default()
}

/// What `stat` counts in: every Linux shows 100 ticks a second, whatever it uses inside.
const TICK_MS: u64 = 10;

/// The same in ticks of 10 ms, where the kernel has no `schedstat`.
fn stat_time(folder: &Path) -> Option<Duration> {
    let text = fs::read_to_string(folder.join("stat")).ok()?;
    // The name in parentheses may hold anything.
    let words: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks: u64 = words.get(11)?.parse::<u64>().ok()? + words.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * TICK_MS))
}

fn memory(folder: &Path) -> Option<(u64, u64)> {
    let value = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let rollup = fs::read_to_string(folder.join("smaps_rollup")).unwrap_or_default();
    Some((value(&status, "VmRSS")?, value(&rollup, "Pss").unwrap_or(0)))
}

/// Of all CPUs of this machine, the share that was idle since `before`, and the counters for the next time.
pub(super) fn machine_idle(before: Option<(u64, u64)>) -> Option<(f64, (u64, u64))> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let numbers: Vec<u64> =
        text.lines().next()?.split_ascii_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let (idle, all) = (numbers.get(3)? + numbers.get(4)?, numbers.iter().sum::<u64>());
    let (idle_before, all_before) = before.unwrap_or((idle, all));
    let passed = all.saturating_sub(all_before);
    let share = if passed == 0 { 1.0 } else { idle.saturating_sub(idle_before) as f64 / passed as f64 };
    Some((share, (idle, all)))
}

/// Processes of which one word of the command line says what they are and another is `marker`: how the planes of one
/// `uprtc run` are found, by the folder that they share.
pub(super) fn find(words: &[&str], marker: &Path) -> Vec<Process> {
    let process = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let mut arguments = line.split(|&byte| byte == 0).map(String::from_utf8_lossy).skip(1);
        let name = arguments.next().filter(|word| words.contains(&word.as_ref()))?.into_owned();
        arguments.any(|word| Path::new(&*word) == marker).then_some(Process { name, pid })
    };
    let mut found: Vec<Process> = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(process).collect();
    found.sort_by(|a, b| b.name.cmp(&a.name));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_ourselves_use_cpu_and_memory() {
        let me = Process { name: "me".into(), pid: std::process::id() };
        let before = me.usage().unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        let after = me.usage().unwrap();
        assert!(after.cpu > before.cpu && after.rss > 0);
        assert!(stat_time(Path::new("/proc/self")).is_some());
        assert_eq!(Process { name: "nobody".into(), pid: u32::MAX }.usage(), None);
        let (_, counters) = machine_idle(None).unwrap();
        assert!((0.0..=1.0).contains(&machine_idle(Some(counters)).unwrap().0));
    }
}
