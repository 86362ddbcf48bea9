//! What the kernel and the hardware give: version, io_uring, what packets cost, UDP offloads, buffers, limits, cores and clocks.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dataplane::config::{Backend, Driver, SOCKET_BUFFER_BYTES};
use dataplane::io::probe::Probe;
use dataplane::io::{Socket, block_on};
use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::options::Options;

/// Oldest kernel that both planes run on.
const KERNEL_MIN: (u32, u32) = (5, 11);

/// From here on io_uring's memory is not counted against RLIMIT_MEMLOCK.
const KERNEL_FREE_RINGS: (u32, u32) = (5, 12);

/// Locked memory that a worker's ring may take on older kernels, bytes.
const MEMLOCK_PER_WORKER: u64 = 1 << 20;

/// Descriptors beside those of sockets and connections: workers, links, logs.
const DESCRIPTORS_SPARE: usize = 256;

/// 2025-01-01, seconds since 1970. Nothing of this program is older.
const CLOCK_MIN: u64 = 1_735_689_600;

pub(super) fn look(options: &Options) -> Vec<Finding> {
    let release = read("/proc/sys/kernel/osrelease");
    let mut findings = vec![kernel(&release), io_uring(options.driver)];
    findings.extend(io(options));
    findings.extend(udp());
    findings.push(descriptors(options, getrlimit(Resource::Nofile).maximum));
    findings.push(memlock(options, parse_version(&release), getrlimit(Resource::Memlock).maximum));
    findings.push(cores(options.workers, std::thread::available_parallelism().map_or(1, usize::from)));
    findings.push(governor(&read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")));
    findings.push(clock_source(&read("/sys/devices/system/clocksource/clocksource0/current_clocksource")));
    findings.push(clock(SystemTime::now(), own_age()));
    findings
}

/// A small file of the kernel's, trimmed; empty where there is none.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// `6.18.5-foo` is (6, 18).
fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(release: &str) -> Finding {
    const CHECK: &str = "kernel";
    let (major, minor) = KERNEL_MIN;
    match parse_version(release) {
        Some(version) if version >= KERNEL_MIN => Finding::ok(CHECK, format!("Linux {release}")),
        _ => Finding::fail(
            CHECK,
            format!("Linux {release:?}, and {major}.{minor} is the oldest that works"),
            "apt install linux-image-amd64, and reboot",
        ),
    }
}

/// Which way through the sockets `auto` takes, and what each costs; none if packets leave as frames.
fn io(options: &Options) -> Option<Finding> {
    let probe = match options.backend {
        Some(Backend::Frames) => return None,
        _ => Probe::run(options.driver),
    };
    Some(way(options.backend, &probe))
}

fn way(asked: Option<Backend>, probe: &Probe) -> Finding {
    const CHECK: &str = "io";
    let mend = format!("io = \"{}\"", probe.backend().name());
    match (asked, probe) {
        (Some(Backend::Uring), Probe::Refused(why)) => {
            Finding::warn(CHECK, format!("io = \"uring\", but: {why}; udp serves"), mend)
        }
        (_, Probe::Failed(error)) => Finding::warn(
            CHECK,
            format!("the probe on 127.0.0.1 failed: {error}"),
            format!("ip link set lo up, or {mend}"),
        ),
        (None, _) => Finding::ok(CHECK, format!("auto takes {probe}; {mend} would set it")),
        (Some(asked), _) => Finding::ok(CHECK, format!("{}, as set; auto would take {probe}", asked.name())),
    }
}

/// Whether a worker can wait by io_uring, tried by doing it.
fn io_uring(driver: Driver) -> Finding {
    const CHECK: &str = "io_uring";
    if driver == Driver::Epoll {
        return Finding::ok(CHECK, "not used: driver = \"epoll\"");
    }
    let tried = std::thread::spawn(|| block_on(Driver::Uring, async {})).join();
    let why = match tried {
        Ok(Ok(())) => return Finding::ok(CHECK, "workers wait by io_uring"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the kernel takes it apart".to_owned(),
    };
    let mend = match read("/proc/sys/kernel/io_uring_disabled").as_str() {
        "1" | "2" => "sysctl -w kernel.io_uring_disabled=0",
        _ => "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile",
    };
    match driver {
        Driver::Uring => Finding::fail(CHECK, format!("driver = \"uring\", but: {why}"), mend),
        _ => Finding::warn(CHECK, format!("{why}; workers wait by epoll, which costs an idle one a little more"), mend),
    }
}

/// What a media socket gets.
fn udp() -> Vec<Finding> {
    const CHECK: &str = "udp";
    let socket = match Socket::bind((Ipv4Addr::LOCALHOST, 0).into()) {
        Ok(socket) => socket,
        Err(error) => return vec![Finding::fail(CHECK, error.to_string(), "give the process a network")],
    };
    let granted = socket.granted();
    vec![
        offload("udp-gso", socket.has_gso(), "UDP_SEGMENT (trains out)", "4.18"),
        offload("udp-gro", socket.has_gro(), "UDP_GRO (trains in)", "5.0"),
        buffer("receive-buffer", granted.receive, "rmem_max", read("/proc/sys/net/core/rmem_max").parse().ok()),
        buffer("send-buffer", granted.send, "wmem_max", read("/proc/sys/net/core/wmem_max").parse().ok()),
    ]
}

fn offload(check: &'static str, is_there: bool, name: &str, since: &str) -> Finding {
    match is_there {
        true => Finding::ok(check, name),
        false => Finding::warn(
            check,
            format!("no {name}: packets cost up to five times as much"),
            format!("run on Linux {since} or later, outside of sandboxes that filter socket options (gVisor)"),
        ),
    }
}

/// What a socket of ours was granted, and what the setting of the kernel's leaves to a user without privileges.
fn buffer(check: &'static str, granted: usize, setting: &str, limit: Option<usize>) -> Finding {
    let wanted = SOCKET_BUFFER_BYTES;
    let mend = format!("sysctl -w net.core.{setting}={wanted}, and deploy/sysctl.conf for the next start");
    match limit {
        _ if granted < wanted => {
            let finding = format!("{} kB of {} kB: bursts may be lost", granted / 1024, wanted / 1024);
            Finding::warn(check, finding, mend)
        }
        Some(limit) if limit < wanted => {
            let finding = format!("{} kB, but without root's privileges {} kB", granted / 1024, limit / 1024);
            Finding::warn(check, finding, mend)
        }
        _ => Finding::ok(check, format!("{} kB", granted / 1024)),
    }
}

fn descriptors(options: &Options, limit: Option<u64>) -> Finding {
    const CHECK: &str = "descriptors";
    let needed = options.limits.sockets_max
        + options.limits.connections_max
        + options.workers * options.media_ips.len()
        + DESCRIPTORS_SPARE;
    match limit {
        Some(limit) if limit < needed as u64 => Finding::warn(
            CHECK,
            format!("{limit} may be open, and sockets-max and connections-max want {needed}"),
            format!("LimitNOFILE={0} in the unit, or ulimit -Hn {0}", needed.next_power_of_two()),
        ),
        Some(limit) => Finding::ok(CHECK, format!("{limit} may be open, {needed} are wanted at most")),
        None => Finding::ok(CHECK, "no limit"),
    }
}

fn memlock(options: &Options, kernel: Option<(u32, u32)>, limit: Option<u64>) -> Finding {
    const CHECK: &str = "memlock";
    let needed = options.workers as u64 * MEMLOCK_PER_WORKER;
    match limit {
        _ if kernel >= Some(KERNEL_FREE_RINGS) => Finding::ok(CHECK, "not needed by this kernel's io_uring"),
        Some(limit) if limit < needed && options.driver != Driver::Epoll => Finding::warn(
            CHECK,
            format!("{} kB may be locked, and {} workers want {} kB", limit / 1024, options.workers, needed / 1024),
            "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited",
        ),
        _ => Finding::ok(CHECK, "enough"),
    }
}

fn cores(workers: usize, cores: usize) -> Finding {
    const CHECK: &str = "cores";
    match workers > cores {
        true => Finding::warn(
            CHECK,
            format!("{workers} workers share {cores} cores"),
            format!("--workers {cores}, or a wider CPUAffinity= or cpuset for this process"),
        ),
        false => Finding::ok(CHECK, format!("{cores} cores for {workers} workers")),
    }
}

fn governor(governor: &str) -> Finding {
    const CHECK: &str = "governor";
    match governor {
        "" => Finding::ok(CHECK, "the clock speed is not this system's to set"),
        "performance" => Finding::ok(CHECK, "performance"),
        other => Finding::warn(
            CHECK,
            format!("{other}: a core that slept is slow when a packet wakes it"),
            "cpupower frequency-set -g performance",
        ),
    }
}

fn clock_source(source: &str) -> Finding {
    const CHECK: &str = "clock-source";
    match source {
        "hpet" | "acpi_pm" | "jiffies" | "pit" => Finding::warn(
            CHECK,
            format!("{source}: reading the time is a slow system call"),
            "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource, if tsc is available there",
        ),
        "" => Finding::ok(CHECK, "not shown by this kernel"),
        source => Finding::ok(CHECK, source),
    }
}

/// When this executable was written; the clock cannot be before that.
fn own_age() -> Option<SystemTime> {
    fs::metadata(std::env::current_exe().ok()?).ok()?.modified().ok()
}

fn clock(now: SystemTime, executable: Option<SystemTime>) -> Finding {
    const CHECK: &str = "clock";
    let sane_since = UNIX_EPOCH + Duration::from_secs(CLOCK_MIN);
    // A day off: file systems and images are made in other time zones by careless tools.
    let executable = executable.map(|written| written - Duration::from_secs(86_400));
    if now < executable.map_or(sane_since, |written| written.max(sane_since)) {
        let finding = "the clock is in the past: tokens would be good too long or not yet";
        return Finding::fail(CHECK, finding, "timedatectl set-ntp true");
    }
    Finding::ok(CHECK, "plausible; tokens allow 30 s between issuer and edge")
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use dataplane::io::Refused;
    use dataplane::io::probe::Costs;

    #[test]
    fn kernels_are_told_apart() {
        assert_eq!(parse_version("6.18.5-generic"), Some((6, 18)));
        assert_eq!(parse_version("5.4"), Some((5, 4)));
        assert_eq!(parse_version("plan9"), None);
        assert_eq!(kernel("5.11.0").level, Level::Ok);
        assert_eq!(kernel("5.10.209-amd64").level, Level::Fail);
        assert_eq!(kernel("").level, Level::Fail);
    }

    #[test]
    fn what_is_short_is_named_with_the_line_that_mends_it() {
        let options = Options { workers: 8, ..Options::default() };
        let small = buffer("receive-buffer", 208 << 10, "rmem_max", Some(208 << 10));
        assert!(small.mend.as_deref().unwrap().contains("sysctl -w net.core.rmem_max=4194304"), "{small}");
        assert_eq!(buffer("receive-buffer", 4 << 20, "rmem_max", Some(208 << 10)).level, Level::Warn, "as root");
        assert_eq!(buffer("receive-buffer", 4 << 20, "rmem_max", Some(4 << 20)).level, Level::Ok);
        assert_eq!(buffer("receive-buffer", 4 << 20, "rmem_max", None).level, Level::Ok);

        let few = descriptors(&options, Some(1024));
        assert!(few.level == Level::Warn && few.mend.as_deref().unwrap().contains("LimitNOFILE=8192"), "{few}");
        assert_eq!(descriptors(&options, Some(65_536)).level, Level::Ok);
        assert_eq!(descriptors(&options, None).level, Level::Ok);

        assert_eq!(memlock(&options, Some((5, 11)), Some(64 << 10)).level, Level::Warn);
        assert_eq!(memlock(&options, Some((6, 1)), Some(64 << 10)).level, Level::Ok);
        assert_eq!(memlock(&options, Some((5, 11)), None).level, Level::Ok);

        let crowded = cores(8, 2);
        assert!(crowded.level == Level::Warn && crowded.mend.as_deref().unwrap().contains("--workers 2"), "{crowded}");
        assert_eq!(
            (cores(2, 2).level, governor("").level, governor("powersave").level),
            (Level::Ok, Level::Ok, Level::Warn)
        );
        assert_eq!((clock_source("tsc").level, clock_source("hpet").level), (Level::Ok, Level::Warn));
        assert_eq!(offload("udp-gso", false, "UDP_SEGMENT", "4.18").level, Level::Warn);
    }

    #[test]
    fn the_way_of_packets_is_told_with_the_line_that_sets_it() {
        let measured = Probe::Measured(Costs { udp_ns: 900.0, uring_ns: 990.0, ratio: 1.1 });
        let found = way(None, &measured);
        assert_eq!(found.level, Level::Ok);
        assert!(found.finding.contains("auto takes udp, 900 ns a packet"), "{found}");
        assert!(found.finding.contains("io = \"udp\""), "{found}");
        let found = way(Some(Backend::Uring), &measured);
        assert!(found.level == Level::Ok && found.finding.starts_with("uring, as set; auto would take udp"), "{found}");

        let refused = Probe::Refused(Refused::Forbidden);
        assert_eq!((way(None, &refused).level, way(Some(Backend::Udp), &refused).level), (Level::Ok, Level::Ok));
        let found = way(Some(Backend::Uring), &refused);
        assert!(found.level == Level::Warn && found.mend.as_deref() == Some("io = \"udp\""), "{found}");
        assert_eq!(way(None, &Probe::Failed(std::io::Error::other("nothing"))).level, Level::Warn);
    }

    #[test]
    fn the_delivered_sysctls_are_those_that_mend() {
        const SYSCTL: &str = include_str!("../../deploy/sysctl.conf");
        for setting in ["rmem_max", "wmem_max"] {
            assert!(SYSCTL.contains(&format!("net.core.{setting} = {SOCKET_BUFFER_BYTES}\n")), "{setting}");
        }
    }

    #[test]
    fn a_clock_before_the_program_is_wrong() {
        let now = SystemTime::now();
        assert_eq!(clock(now, Some(now)).level, Level::Ok);
        assert_eq!(clock(now, None).level, Level::Ok);
        assert_eq!(clock(UNIX_EPOCH, None).level, Level::Fail);
        assert_eq!(clock(now, Some(now + Duration::from_secs(200_000))).level, Level::Fail);
    }
}
