//! The results of a run: a few lines for people, JSON for programs.

use std::fmt::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::api::Workers;
use super::encodings::{Encoding, encodings};
use super::process::Usage;
use super::scenario::Scenario;
use super::source::Media;
use super::tally::Totals;

/// Loss at which a ramp ends, percent.
const KNEE_LOSS_PERCENT: f64 = 1.0;
/// Share of a CPU from which on a thread of the generator is at its end.
const BUSY: f64 = 0.9;
/// How late the generator may send, microseconds at p99, before it is said.
const LATENESS_MAX: u64 = 20_000;
/// Share of the machine's CPU that should be idle.
const IDLE_MIN: f64 = 0.03;

/// How joining went.
#[derive(Clone, Debug, Default)]
pub(super) struct Joins {
    /// From the first byte to keys, of each who came in.
    pub(super) took: Vec<Duration>,
    /// From the first byte to the first packet of media.
    pub(super) first_media: Vec<Duration>,
    /// Who did not come in.
    pub(super) failed: u64,
    /// Why, of the first of them.
    pub(super) failures: Vec<String>,
}

/// One process of the server in a window.
#[derive(Clone, Debug)]
pub(super) struct Plane {
    /// Its name.
    pub(super) name: String,
    /// User and kernel time in the window.
    pub(super) cpu: Duration,
    /// What it had used before anybody joined.
    pub(super) at_start: Usage,
    /// And at the end of the window.
    pub(super) at_end: Usage,
}

/// Everything that was measured in one window.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// Who joined where.
    pub(super) scenario: Scenario,
    /// What each sender sent.
    pub(super) media: Media,
    /// Loss that the peers made themselves.
    pub(super) loss_percent: f64,
    /// Length of the window.
    pub(super) elapsed: Duration,
    /// Peers that were in at its end.
    pub(super) peers: usize,
    /// How they came in.
    pub(super) joins: Joins,
    /// What the peers counted in the window.
    pub(super) totals: Totals,
    /// Streams that were received, and that should have been.
    pub(super) streams: (u64, u64),
    /// The server's processes.
    pub(super) planes: Vec<Plane>,
    /// What the server says of its workers, if it is an uprtc.
    pub(super) workers: Option<Workers>,
    /// Threads that carried the peers' media.
    pub(super) threads: usize,
    /// CPU time of the generator, joins and all.
    pub(super) own_cpu: Duration,
    /// Share of the machine's CPU that was idle.
    pub(super) idle: Option<f64>,
}

impl Report {
    /// Packets that all peers together received a second.
    pub(super) fn packets_per_second(&self) -> f64 {
        self.totals.received as f64 / self.elapsed.as_secs_f64()
    }

    /// CPU time of a process for each packet that a peer received, nanoseconds.
    pub(super) fn ns_per_packet(&self, plane: &Plane) -> f64 {
        plane.cpu.as_nanos() as f64 / self.totals.received.max(1) as f64
    }

    /// Whether more is lost, or more joins fail, than a server in its good range has.
    pub(super) fn is_beyond_knee(&self) -> bool {
        let joins = self.joins.took.len() as u64 + self.joins.failed;
        // What the peers throw away themselves, in both directions, and is not repaired in audio, is not the server's.
        let made = 2.0 * self.loss_percent;
        self.totals.loss_percent() > KNEE_LOSS_PERCENT + made
            || (self.joins.failed * 100) as f64 > KNEE_LOSS_PERCENT * joins as f64
            || self.streams.0 < self.streams.1
    }

    /// Whether the generator, and not the server, is at its end.
    pub(super) fn is_generator_limit(&self) -> bool {
        self.generator_share() > BUSY || self.totals.overflowed * 1000 > self.totals.received
    }

    /// Share of a CPU that each of the generator's threads used.
    fn generator_share(&self) -> f64 {
        self.totals.cpu.as_secs_f64() / self.elapsed.as_secs_f64() / self.threads as f64
    }

    /// What makes these numbers less than they seem.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let share = self.generator_share();
        if share > BUSY {
            warnings.push(format!(
                "the generator is the limit: each of its {} threads uses {:.0} % of a CPU; --threads, or another machine",
                self.threads,
                share * 100.0
            ));
        }
        if self.totals.overflowed > 0 {
            let (count, advice) = (self.totals.overflowed, "it lost them, not the server");
            warnings.push(format!("{count} datagrams found a full socket of the generator: {advice}"));
        }
        let late = self.totals.lateness.quantile(0.99).unwrap_or(0);
        if late > LATENESS_MAX {
            warnings.push(format!("the generator sends {} ms late at p99: it lacks CPU", late / 1000));
        }
        if self.idle.is_some_and(|idle| idle < IDLE_MIN) {
            warnings.push("the machine has no CPU left: latency and loss may be its neighbours'".to_owned());
        }
        if self.streams.0 < self.streams.1 {
            warnings.push(format!("{} of {} streams came", self.streams.0, self.streams.1));
        }
        if self.totals.wrong > 0 {
            warnings.push(format!("{} packets were not what was sent", self.totals.wrong));
        }
        if self.totals.expired > 0 {
            warnings.push(format!("the consent of {} peers ended", self.totals.expired));
        }
        warnings.extend(self.joins.failures.iter().cloned());
        warnings
    }

    /// For programs. Times say their unit.
    pub(super) fn json(&self) -> Value {
        let totals = &self.totals;
        let (size, of) = self.scenario.size();
        let planes: Vec<Value> = self.planes.iter().map(|plane| self.plane_json(plane)).collect();
        let media = &self.media;
        json!({
            "scenario": self.scenario.name(),
            "size": size,
            "of": of,
            "seconds": self.elapsed.as_secs_f64(),
            "media": {
                "encodings": media.encodings, "fps": media.fps, "frame_packets": media.frame_packets, "video_bytes": media.video_len,
                "spread_ms": millis(media.spread), "audio_rate": media.audio_rate, "audio_bytes": media.audio_len,
            },
            "peers": self.peers,
            "joins": {
                "done": self.joins.took.len(), "failed": self.joins.failed,
                "keys_ms": durations(&self.joins.took), "first_packet_ms": durations(&self.joins.first_media),
            },
            "streams": {"received": self.streams.0, "expected": self.streams.1},
            "packets": {
                "sent": totals.sent, "received": totals.received, "expected": totals.expected, "arrived": totals.arrived,
                "repaired": totals.repaired, "retransmissions": totals.rtx, "asked_for": totals.nacked,
                "thrown_on_purpose": totals.thrown, "loss_percent": totals.loss_percent(),
                "video_loss_percent": totals.loss_percent_by_kind().0, "audio_loss_percent": totals.loss_percent_by_kind().1,
                "per_second": self.packets_per_second(),
                "bits_per_second": totals.bytes as f64 * 8.0 / self.elapsed.as_secs_f64(),
                "verified": totals.verified, "wrong": totals.wrong,
            },
            "encodings": self.encodings_json(),
            "latency_us": {
                "p50": totals.latency.quantile(0.5), "p99": totals.latency.quantile(0.99),
                "p999": totals.latency.quantile(0.999), "samples": totals.latency.count(),
            },
            "processes": planes,
            "workers": self.workers.as_ref().map(|workers| json!({
                "sent": workers.sent, "trains": workers.trains, "refused_by_kernel": workers.failed,
                "latency_us_below": {
                    "p50": workers.latency_bound(0.5), "p99": workers.latency_bound(0.99), "p999": workers.latency_bound(0.999),
                },
            })),
            "generator": {
                "threads": self.threads, "thread_share": self.generator_share(),
                "cpus": self.own_cpu.as_secs_f64() / self.elapsed.as_secs_f64(),
                "late_us_p99": totals.lateness.quantile(0.99), "late_us_p999": totals.lateness.quantile(0.999),
                "overflowed": totals.overflowed,
                "is_limit": self.is_generator_limit(),
            },
            "machine_idle": self.idle,
            "warnings": self.warnings(),
        })
    }

    /// Of slots that want an encoding, which ones came, as parts of the packets of video that were compared. None of cameras in one encoding.
    fn came(&self) -> impl Iterator<Item = (&'static Encoding, u64, Vec<(&'static str, f64)>)> {
        let all = encodings(self.media.encodings);
        all.iter().zip(self.totals.by_encoding).map(move |(wanted, came)| {
            let count: u64 = came.iter().sum();
            let part = |(of, came): (&'static Encoding, u64)| (of.rid, came as f64 / count.max(1) as f64);
            (wanted, count, all.iter().zip(came).map(part).collect())
        })
    }

    fn encodings_json(&self) -> Vec<Value> {
        let wanted = self.came().map(|(wanted, count, came)| {
            let came: serde_json::Map<String, Value> =
                came.into_iter().map(|(rid, part)| (rid.to_owned(), json!(part))).collect();
            json!({"wanted": wanted.rid, "lines": wanted.lines, "verified": count, "came": came})
        });
        wanted.collect()
    }

    fn plane_json(&self, plane: &Plane) -> Value {
        let per_peer = |end: u64, start: u64| (self.peers > 0).then(|| end.saturating_sub(start) / self.peers as u64);
        let joins = self.joins.took.len();
        json!({
            "name": plane.name,
            "cpu_ns_per_packet": (self.totals.received > 0).then(|| self.ns_per_packet(plane)),
            "cpus": plane.cpu.as_secs_f64() / self.elapsed.as_secs_f64(),
            "cpu_ms_per_join": matches!(self.scenario, Scenario::Churn { .. }).then(|| millis(plane.cpu) / joins.max(1) as f64),
            "rss": plane.at_end.rss, "pss": plane.at_end.pss, "rss_before": plane.at_start.rss, "pss_before": plane.at_start.pss,
            "rss_per_peer": per_peer(plane.at_end.rss, plane.at_start.rss),
            "pss_per_peer": per_peer(plane.at_end.pss, plane.at_start.pss),
        })
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The duration that this share of all does not exceed.
fn quantile(durations: &[Duration], share: f64) -> Option<Duration> {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let rank = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(rank - 1).copied()
}

fn durations(durations: &[Duration]) -> Value {
    let at = |share| quantile(durations, share).map(millis);
    json!({"p50": at(0.5), "p99": at(0.99), "max": at(1.0), "count": durations.len()})
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = &self.totals;
        let (size, of) = self.scenario.size();
        writeln!(out, "{}: {size:.0} {of}, {:.1} s", self.scenario.name(), self.elapsed.as_secs_f64())?;
        let pair = |durations: &[Duration]| match (quantile(durations, 0.5), quantile(durations, 0.99)) {
            (Some(median), Some(high)) => format!("p50 {:.0} ms, p99 {:.0} ms", millis(median), millis(high)),
            _ => "none".to_owned(),
        };
        writeln!(out, "  joins      {} done, {} failed", self.joins.took.len(), self.joins.failed)?;
        writeln!(
            out,
            "             to keys {}; to the first packet {}",
            pair(&self.joins.took),
            pair(&self.joins.first_media)
        )?;
        writeln!(
            out,
            "  packets    {:.0} received a second ({:.1} Mb/s), {:.4} % lost, {} repaired",
            self.packets_per_second(),
            totals.bytes as f64 * 8e-6 / self.elapsed.as_secs_f64(),
            totals.loss_percent(),
            totals.repaired
        )?;
        if totals.thrown > 0 {
            let (video, audio) = totals.loss_percent_by_kind();
            let (nacked, thrown) = (totals.nacked, totals.thrown);
            writeln!(
                out,
                "  loss       {thrown} thrown away, {nacked} asked for; {video:.3} % of video and {audio:.3} % of audio never came"
            )?;
        }
        for (wanted, _, came) in self.came().filter(|(_, count, _)| *count > 0) {
            let came: Vec<String> = came.iter().map(|(rid, part)| format!("{:.1} % {rid}", 100.0 * part)).collect();
            writeln!(out, "  encodings  shown in {} lines: {}", wanted.lines, came.join(", "))?;
        }
        let latency = |share| totals.latency.quantile(share).map_or("-".to_owned(), |us| us.to_string());
        let (p50, p99, p999) = (latency(0.5), latency(0.99), latency(0.999));
        writeln!(out, "  latency    p50 {p50} µs, p99 {p99} µs, p99.9 {p999} µs, send call to kernel's receipt")?;
        for plane in &self.planes {
            let cpus = plane.cpu.as_secs_f64() / self.elapsed.as_secs_f64();
            let mut line = format!("  {:<10} {cpus:.3} CPUs", plane.name);
            if totals.received > 0 {
                write!(line, ", {:.0} ns for each received packet", self.ns_per_packet(plane))?;
            }
            let kib = |bytes: u64| bytes as f64 / 1024.0;
            let (end, start) = (plane.at_end, plane.at_start);
            write!(line, ", {:.1} MiB resident", kib(end.rss) / 1024.0)?;
            if self.peers > 0 {
                write!(
                    line,
                    ", {:.1} KiB more for each peer",
                    kib(end.pss.saturating_sub(start.pss)) / self.peers as f64
                )?;
            }
            writeln!(out, "{line}")?;
        }
        if let Some(workers) = &self.workers {
            let bound = |share| workers.latency_bound(share).map_or("-".to_owned(), |us| format!("{us:.0}"));
            writeln!(
                out,
                "  workers    {:.2} packets in a send; inside p50 below {} µs, p99 below {} µs, p99.9 below {} µs",
                workers.sent as f64 / workers.trains.max(1) as f64,
                bound(0.5),
                bound(0.99),
                bound(0.999)
            )?;
        }
        writeln!(
            out,
            "  generator  {:.3} CPUs, its threads {:.0} % busy, sends {} µs late at p99, {} at p99.9",
            self.own_cpu.as_secs_f64() / self.elapsed.as_secs_f64(),
            self.generator_share() * 100.0,
            totals.lateness.quantile(0.99).unwrap_or(0),
            totals.lateness.quantile(0.999).unwrap_or(0)
        )?;
        for warning in self.warnings() {
            writeln!(out, "  warning    {warning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_joins_are_exact() {
        let times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 0.5), Some(Duration::from_millis(50)));
        assert_eq!(quantile(&times, 0.99), Some(Duration::from_millis(99)));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
