//! What operators watch: the workers' counters, rooms, peers and sockets as Prometheus text (exposition format 0.0.4).
//!
//! Nothing is registered and nothing is counted twice: the workers count on their stats pages, the engine counts in
//! its snapshot, and a scrape writes down what they say. No room, name or address is in it. Names and units are as
//! Prometheus wants them: seconds and bytes, `_total` for what only grows.

mod process;

use std::fmt::{Display, Write};
use std::time::Duration;

use proto::histogram::Histogram;
use proto::plane::{CONTRACT_VERSION, Counter, LAYOUT_HASH, PathState};
use proto::signal::{PeerState, Quality};
use proto::work::Role;

use self::process::Usage;
use crate::engine::{EdgePath, Snapshot, WorkerSnapshot};
use crate::limited::Limited;
use crate::stun_server;
use crate::tls::{Fate, Figures};

/// `Content-Type` of [`render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the engine's task knows at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The engine's own view.
    pub snapshot: Snapshot,
    /// What is measured of the paths to other edges.
    pub edge_paths: Vec<EdgePath>,
    /// Whether a dataplane is attached.
    pub is_linked: bool,
    /// The dataplane's process, if one is attached and can be seen.
    pub dataplane_pid: Option<u32>,
    /// Counters of each worker, in worker order.
    pub workers: Vec<[u64; Counter::COUNT]>,
    /// How long packets took through each worker, microseconds, in worker order.
    pub latencies: Vec<Histogram>,
    /// Datagrams for a peer that found the ring full or the dataplane gone.
    pub injects_lost: u64,
    /// Records from a worker that are not of the contract.
    pub records_malformed: u64,
    /// Sockets that were cut off because they did not read.
    pub sockets_slow: u64,
    /// What operators decided.
    pub registry: RegistryFigures,
    /// The cluster, if this node is in one.
    pub cluster: Option<ClusterFigures>,
    /// Of each role: how many services wait for orders, and how many tasks they have.
    pub services: Vec<(Role, usize, usize)>,
}

/// The cluster at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct ClusterFigures {
    /// Whether the engine is connected.
    pub is_connected: bool,
    /// Whether this node's own record is known to stand.
    pub has_joined: bool,
    /// Nodes that are here, this one too.
    pub nodes: usize,
    /// Since this node's record was last renewed; `None` if it never was.
    pub lease_age: Option<Duration>,
    /// Connections made again since the start.
    pub reconnects: u64,
    /// Records that were refused, by why.
    pub refusals: Vec<(&'static str, u64)>,
    /// Whether this node hears the others, and they it.
    pub is_speaking: bool,
    /// Rooms of which it hears what other nodes say.
    pub rooms: usize,
    /// Messages between nodes, by direction.
    pub messages: Vec<(&'static str, u64)>,
    /// Messages that were refused, by why.
    pub messages_refused: Vec<(&'static str, u64)>,
    /// What the engine wanted to say and was not said, by why.
    pub orders_dropped: Vec<(&'static str, u64)>,
    /// Times that messages were lost, so that everything was said anew.
    pub overruns: u64,
    /// What operators decided, as other nodes wrote it and as this one did.
    pub documents: Vec<(&'static str, u64)>,
    /// What others wrote of it and was refused, by why.
    pub documents_refused: Vec<(&'static str, u64)>,
    /// Claims of rooms, by their answer.
    pub claims: Vec<(&'static str, u64)>,
    /// Those in the bucket that are not believed, by why.
    pub claims_refused: Vec<(&'static str, u64)>,
}

/// The registry at the moment of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegistryFigures {
    /// Revocations that hold.
    pub revocations: usize,
    /// Whether something holds that could not be written down.
    pub is_unsaved: bool,
    /// Entries of its file that could not be read at the start.
    pub left_out: usize,
    /// What was decided here and other nodes may not know.
    pub unsaid: usize,
}

/// The metrics page.
pub fn render(sample: &Sample, stun: &stun_server::Counts, tls: Option<&Figures>, limited: &Limited) -> String {
    let mut page = Page { text: String::with_capacity(16 * 1024) };
    let build = format!(
        "version=\"{}\",contract=\"{CONTRACT_VERSION}\",layout=\"{LAYOUT_HASH:016x}\"",
        env!("CARGO_PKG_VERSION")
    );
    page.family("uprtc_build_info", "gauge", "Always 1; the labels say which build this is.");
    page.value("uprtc_build_info", &build, 1);
    engine(&mut page, sample);
    registry(&mut page, sample.registry);
    if let Some(figures) = &sample.cluster {
        cluster(&mut page, figures, sample.registry.unsaid);
        edges(&mut page, &sample.snapshot);
        edge_paths(&mut page, &sample.edge_paths);
    }
    services(&mut page, &sample.services);
    stun_server_counts(&mut page, stun);
    if let Some(figures) = tls {
        doors_tls(&mut page, figures);
    }
    limits(&mut page, limited);
    reconciliation(&mut page, &sample.snapshot.workers);
    workers(&mut page, &sample.workers);
    latencies(&mut page, &sample.latencies);
    let dataplane = sample.dataplane_pid.map(Usage::of_pid);
    processes(&mut page, [("controlplane", Some(Usage::of_this())), ("dataplane", dataplane)]);
    page.text
}

fn engine(page: &mut Page, sample: &Sample) {
    let snapshot = &sample.snapshot;
    let peers: usize = snapshot.rooms.iter().map(|room| room.peers.len()).sum();
    let totals = &snapshot.totals;
    page.gauge("uprtc_linked", "1 while a dataplane is attached, else 0.", u8::from(sample.is_linked));
    page.gauge("uprtc_rooms", "Rooms that somebody is in now.", snapshot.rooms.len());
    page.gauge("uprtc_peers", "Peers in rooms now.", peers);
    let silent = snapshot.rooms.iter().flat_map(|room| &room.peers).filter(|peer| peer.state == PeerState::Interrupted);
    page.gauge("uprtc_peers_silent", "Peers from which nothing has come for some eight seconds.", silent.count());
    let weak = snapshot.rooms.iter().flat_map(|room| &room.peers).filter(|peer| peer.info.quality == Quality::Weak);
    page.gauge(
        "uprtc_peers_weak",
        "Peers whose connection loses much or is slow, as all in their rooms are shown.",
        weak.count(),
    );
    page.gauge("uprtc_sockets", "Signalling sockets open now.", snapshot.sockets);
    page.gauge("uprtc_dtls_half_open", "DTLS handshakes under way now.", snapshot.half_open);
    for (name, help, value) in [
        ("uprtc_peers_joined_total", "Peers that joined: first offers that were answered.", totals.joined),
        ("uprtc_peers_left_total", "Peers that are gone, for whatever reason.", totals.left),
        ("uprtc_peers_replaced_total", "Peers that went because they had come back as another one.", totals.replaced),
        ("uprtc_peers_gave_way_total", "Silent peers that went because a newcomer needed the place.", totals.gave_way),
        ("uprtc_offers_refused_total", "Offers answered by an error.", totals.offers_refused),
        ("uprtc_renegotiations_total", "Subsequent offers of peers in a room that were answered.", totals.renegotiated),
        ("uprtc_peers_resumed_total", "Sessions resumed on a new signalling socket.", totals.resumed),
        ("uprtc_peers_adopted_total", "Peers taken over from an earlier controlplane.", totals.adopted),
        ("uprtc_dtls_begun_total", "DTLS handshakes begun.", totals.handshakes_begun),
        (
            "uprtc_dtls_completed_total",
            "DTLS handshakes completed with the certificate that signalling announced.",
            totals.handshakes_completed,
        ),
        ("uprtc_dtls_failed_total", "DTLS handshakes that failed or ran out of time.", totals.handshakes_failed),
        (
            "uprtc_dtls_passed_over_total",
            "DTLS ClientHellos not answered because a limit was reached (half-open-max, handshakes-per-second).",
            totals.handshakes_passed_over,
        ),
        (
            "uprtc_dtls_over_share_total",
            "DTLS ClientHellos not answered because their room had its part of the handshakes under way or of this second.",
            totals.handshakes_over_share,
        ),
        ("uprtc_data_messages_total", "Messages of data channels and sockets that were relayed.", totals.data_messages),
        (
            "uprtc_data_refused_total",
            "Messages that were refused: not allowed, not well formed, or too much without an acknowledgement.",
            totals.data_refused,
        ),
        (
            "uprtc_data_given_up_total",
            "How often what waited for a receiver was given up because it was too slow.",
            totals.data_given_up,
        ),
        (
            "uprtc_data_too_long_total",
            "How often a message was not sent to a receiver because it is longer than the receiver takes (its max-message-size).",
            totals.data_too_long,
        ),
        (
            "uprtc_data_over_rate_total",
            "Datagrams of data that were dropped because their peer, or all together, sent more than they may (data-bps-max).",
            totals.data_over_rate,
        ),
        ("uprtc_commands_refused_total", "Commands that a worker refused.", totals.commands_refused),
        (
            "uprtc_injects_lost_total",
            "Datagrams for a peer that could not be handed to its worker.",
            sample.injects_lost,
        ),
        (
            "uprtc_records_malformed_total",
            "Records of a worker that are not of the contract between the planes.",
            sample.records_malformed,
        ),
        ("uprtc_sockets_slow_total", "Signalling sockets closed because the client did not read.", sample.sockets_slow),
    ] {
        page.counter(name, help, value);
    }
}

fn registry(page: &mut Page, figures: RegistryFigures) {
    page.gauge("uprtc_revocations", "Revocations of tokens that hold now.", figures.revocations);
    let unsaved = "1 while what operators decided holds but could not be written down, else 0.";
    page.gauge("uprtc_registry_unsaved", unsaved, u8::from(figures.is_unsaved));
    let left_out = "Entries of registry.json that could not be read at the start and were set aside.";
    page.gauge("uprtc_registry_left_out", left_out, figures.left_out);
}

/// What is shared with other edges.
fn edges(page: &mut Page, snapshot: &Snapshot) {
    page.gauge("uprtc_edge_links", "Links to workers of other edges now.", snapshot.links);
    let transports = "Transports over links now: each of one publisher, to another edge or from one.";
    page.gauge("uprtc_edge_transports", transports, snapshot.edge_transports);
    let relays = "Pairs of workers of other edges between which this edge passes on what they send each other.";
    page.gauge("uprtc_edge_relays", relays, snapshot.edge_relays);
    page.gauge("uprtc_edge_people", "People who are in rooms here through other edges now.", snapshot.elsewhere);
    let totals = &snapshot.totals;
    for (name, help, value) in [
        ("uprtc_edge_connections_total", "DTLS connections to other edges that were made.", totals.links_connected),
        ("uprtc_edge_connections_failed_total", "DTLS connections to other edges that failed.", totals.links_failed),
        (
            "uprtc_edge_messages_refused_total",
            "Messages of other edges that were malformed or out of bounds.",
            totals.edge_messages_refused,
        ),
        (
            "uprtc_edge_people_left_out_total",
            "People elsewhere, or edges that want somebody's media, for whom a worker had no room.",
            totals.people_left_out,
        ),
    ] {
        page.counter(name, help, value);
    }
}

/// What is measured of the paths to other edges. The label `through` is empty for a direct path.
fn edge_paths(page: &mut Page, paths: &[EdgePath]) {
    let labels =
        |path: &EdgePath| format!("node=\"{}\",through=\"{}\"", path.node, path.through.as_deref().unwrap_or_default());
    let good = "1 while probes of a path to another edge are answered within the thresholds, else 0.";
    page.family("uprtc_edge_path_good", "gauge", good);
    for path in paths {
        page.value("uprtc_edge_path_good", &labels(path), u8::from(path.state == PathState::Good));
    }
    for (name, help, value) in [
        (
            "uprtc_edge_path_round_trip_seconds",
            "Round trip of a path to another edge, the median of five probes.",
            (|path| path.round_trip.map(|time| time.as_secs_f64())) as fn(&EdgePath) -> Option<f64>,
        ),
        (
            "uprtc_edge_path_jitter_seconds",
            "Mean difference of two round trips of a path to another edge that follow each other.",
            |path| Some(path.jitter.as_secs_f64()),
        ),
        ("uprtc_edge_path_loss_ratio", "Share of probes of a path to another edge that were lost.", |path| {
            Some(path.loss)
        }),
    ] {
        page.family(name, "gauge", help);
        for (path, value) in paths.iter().filter_map(|path| Some((path, value(path)?))) {
            page.value(name, &labels(path), value);
        }
    }
}

fn services(page: &mut Page, services: &[(Role, usize, usize)]) {
    page.family("uprtc_services", "gauge", "Processes that wait for orders of this kind of work.");
    for (role, count, _) in services {
        page.value("uprtc_services", &format!("role=\"{}\"", role.name()), count);
    }
    page.family(
        "uprtc_tasks",
        "gauge",
        "Recordings, streams, telephone calls and feeds that services have and that are not over.",
    );
    for (role, _, tasks) in services {
        page.value("uprtc_tasks", &format!("role=\"{}\"", role.name()), tasks);
    }
}

fn cluster(page: &mut Page, figures: &ClusterFigures, unsaid: usize) {
    let connected = "1 while the cluster's engine (NATS) is connected, else 0.";
    page.gauge("uprtc_cluster_connected", connected, u8::from(figures.is_connected));
    let joined = "1 while this node's record in the cluster is known to stand, else 0.";
    page.gauge("uprtc_cluster_joined", joined, u8::from(figures.has_joined));
    page.gauge("uprtc_cluster_nodes", "Nodes of the cluster that are here now, this one included.", figures.nodes);
    if let Some(age) = figures.lease_age {
        let help = "Seconds since this node last renewed its record in the cluster.";
        page.gauge("uprtc_cluster_lease_age_seconds", help, age.as_secs_f64());
    }
    let reconnects = "Connections to the cluster's engine that were made again after they were lost.";
    page.counter("uprtc_cluster_reconnects_total", reconnects, figures.reconnects);
    const NAME: &str = "uprtc_cluster_records_refused_total";
    page.family(NAME, "counter", "Records in the cluster's bucket that this node does not believe, by why.");
    for (reason, count) in &figures.refusals {
        page.value(NAME, &format!("reason=\"{reason}\""), count);
    }
    let speaking = "1 while this node hears what other nodes say, and its subscriptions are known to stand, else 0.";
    page.gauge("uprtc_cluster_speaking", speaking, u8::from(figures.is_speaking));
    page.gauge("uprtc_cluster_rooms", "Rooms of which this node hears what other nodes say.", figures.rooms);
    let overruns = "Times that messages between nodes were lost in a queue, so that everything was said anew.";
    page.counter("uprtc_cluster_overruns_total", overruns, figures.overruns);
    let pending = "What operators decided here and the other nodes may not know yet.";
    page.gauge("uprtc_cluster_documents_pending", pending, unsaid);
    for (name, help, label, counts) in [
        (
            "uprtc_cluster_messages_total",
            "Messages between nodes that this one said or heard.",
            "direction",
            &figures.messages[..],
        ),
        (
            "uprtc_cluster_messages_refused_total",
            "Messages of other nodes that this one does not believe, by why.",
            "reason",
            &figures.messages_refused,
        ),
        (
            "uprtc_cluster_orders_dropped_total",
            "What this node wanted to say to others, or to have in the cluster, and dropped, by why.",
            "reason",
            &figures.orders_dropped,
        ),
        (
            "uprtc_cluster_documents_total",
            "What operators decided: taken from other nodes, and written for them.",
            "direction",
            &figures.documents,
        ),
        (
            "uprtc_cluster_documents_refused_total",
            "What operators decided on other nodes and this one does not believe, by why.",
            "reason",
            &figures.documents_refused,
        ),
        ("uprtc_cluster_claims_total", "Claims of rooms, by whose the room was.", "answer", &figures.claims),
        (
            "uprtc_cluster_claims_refused_total",
            "Claims of rooms in the cluster's bucket that this node does not believe, by why.",
            "reason",
            &figures.claims_refused,
        ),
    ] {
        page.family(name, "counter", help);
        for (value, count) in counts {
            page.value(name, &format!("{label}=\"{value}\""), count);
        }
    }
}

fn stun_server_counts(page: &mut Page, stun: &stun_server::Counts) {
    const NAME: &str = "uprtc_stun_requests_total";
    page.family(NAME, "counter", "Datagrams received by the STUN server, by what became of them.");
    for (fate, count) in stun.read() {
        page.value(NAME, &format!("fate=\"{fate}\""), count);
    }
}

fn limits(page: &mut Page, limited: &Limited) {
    const NAME: &str = "uprtc_limited_total";
    page.family(
        NAME,
        "counter",
        "Uses that were refused, ended or put off because their owner had its part, by kind of owner.",
    );
    for (what, owner, count) in limited.read() {
        page.value(NAME, &format!("what=\"{what}\",owner=\"{owner}\""), count);
    }
}

fn doors_tls(page: &mut Page, figures: &Figures) {
    let expires = "When the certificate in use expires, in seconds since 1970.";
    page.gauge("uprtc_tls_certificate_expires_timestamp_seconds", expires, figures.expires_at);
    page.gauge("uprtc_tls_half_open", "TLS handshakes under way now.", figures.half_open);
    page.counter("uprtc_tls_reloads_total", "New certificates that were taken over.", figures.reloads);
    page.counter(
        "uprtc_tls_reloads_failed_total",
        "New certificates that could not be used, so that the one before stays.",
        figures.reloads_failed,
    );
    const NAME: &str = "uprtc_tls_handshakes_total";
    page.family(NAME, "counter", "TLS handshakes, by what became of them.");
    for (fate, count) in Fate::ALL.iter().zip(figures.handshakes) {
        page.value(NAME, &format!("fate=\"{}\"", fate.name()), count);
    }
}

/// How far each worker is behind what the controlplane wants.
fn reconciliation(page: &mut Page, workers: &[WorkerSnapshot]) {
    type Read = fn(&WorkerSnapshot) -> u64;
    let families: [(&str, &str, Read); 2] = [
        ("uprtc_objects_pending", "Objects whose desired state is not sent to the worker yet.", |w| w.pending as u64),
        (
            "uprtc_batches_in_flight",
            "Batches of commands that were sent to the worker and have not taken effect yet.",
            |w| w.batches_in_flight,
        ),
    ];
    for (name, help, value) in families {
        page.family(name, "gauge", help);
        for worker in workers {
            page.value(name, &format!("worker=\"{}\"", worker.worker), value(worker));
        }
    }
}

fn workers(page: &mut Page, workers: &[[u64; Counter::COUNT]]) {
    for (at, &counter) in Counter::ALL.iter().enumerate() {
        let (suffix, kind) = if counter.is_gauge() { ("", "gauge") } else { ("_total", "counter") };
        // Base units (https://prometheus.io/docs/practices/naming): the page counts microseconds, as whole numbers.
        let micros = counter.name().strip_suffix("_micros");
        let name = match micros {
            Some(what) => format!("uprtc_worker_{what}_seconds{suffix}"),
            None => format!("uprtc_worker_{}{suffix}", counter.name()),
        };
        page.family(&name, kind, counter.help());
        for (worker, counters) in workers.iter().enumerate() {
            let labels = format!("worker=\"{worker}\"");
            match micros {
                Some(_) => page.value(&name, &labels, counters[at] as f64 / 1e6),
                None => page.value(&name, &labels, counters[at]),
            }
        }
    }
}

fn processes(page: &mut Page, planes: [(&str, Option<Usage>); 2]) {
    type Read = fn(&Usage) -> Option<f64>;
    let families: [(&str, &str, &str, Read); 7] = [
        ("cpu_seconds_total", "counter", "Processor time of the process, user and kernel, in seconds.", |usage| {
            usage.cpu_seconds
        }),
        ("resident_memory_bytes", "gauge", "Resident memory of the process in bytes.", |usage| {
            usage.resident_bytes.map(|bytes| bytes as f64)
        }),
        ("virtual_memory_bytes", "gauge", "Virtual memory of the process in bytes.", |usage| {
            usage.virtual_bytes.map(|bytes| bytes as f64)
        }),
        ("threads", "gauge", "Threads of the process.", |usage| usage.threads.map(|count| count as f64)),
        ("open_fds", "gauge", "File descriptors that the process has open.", |usage| {
            usage.fds_open.map(|count| count as f64)
        }),
        ("max_fds", "gauge", "File descriptors that the process may have open.", |usage| {
            usage.fds_max.map(|count| count as f64)
        }),
        ("start_time_seconds", "gauge", "When the process started, in seconds since 1970.", |usage| usage.started_at),
    ];
    for (name, kind, help, read) in families {
        let name = format!("process_{name}");
        page.family(&name, kind, help);
        for (plane, usage) in &planes {
            if let Some(value) = usage.as_ref().and_then(read) {
                page.value(&name, &format!("plane=\"{plane}\""), value);
            }
        }
    }
}

/// Upper bounds that are shown, as powers of two of microseconds: 8 µs to 1 s. The page of the worker is finer.
const LATENCY_BOUNDS: std::ops::RangeInclusive<u32> = 3..=20;

fn latencies(page: &mut Page, workers: &[Histogram]) {
    const NAME: &str = "uprtc_latency_seconds";
    page.family(
        NAME,
        "histogram",
        "Seconds from a packet's arrival in the kernel until the send calls that it left in were done.",
    );
    for (worker, histogram) in workers.iter().enumerate() {
        let bucket = format!("{NAME}_bucket");
        for bound in LATENCY_BOUNDS {
            let (count, seconds) = (histogram.count_to((1 << bound) - 1), (1u64 << bound) as f64 / 1e6);
            page.value(&bucket, &format!("worker=\"{worker}\",le=\"{seconds}\""), count);
        }
        let labels = format!("worker=\"{worker}\"");
        page.value(&bucket, &format!("{labels},le=\"+Inf\""), histogram.count());
        page.value(&format!("{NAME}_sum"), &labels, histogram.sum as f64 / 1e6);
        page.value(&format!("{NAME}_count"), &labels, histogram.count());
    }
}

struct Page {
    text: String,
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.value(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.value(name, "", value);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn value(&mut self, name: &str, labels: &str, value: impl Display) {
        match labels {
            "" => self.line(format_args!("{name} {value}")),
            labels => self.line(format_args!("{name}{{{labels}}} {value}")),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a String does not fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_of_every_worker_is_there() {
        let mut counters = [0; Counter::COUNT];
        counters[Counter::Received as usize] = 7;
        counters[Counter::PeersOpen as usize] = 3;
        let sample = Sample { workers: vec![[0; Counter::COUNT], counters], is_linked: true, ..Sample::default() };
        let text = render(&sample, &stun_server::Counts::default(), Some(&Figures::default()), &Limited::default());
        for line in [
            "uprtc_linked 1",
            "uprtc_worker_received_total{worker=\"0\"} 0",
            "uprtc_worker_received_total{worker=\"1\"} 7",
            "uprtc_worker_peers_open{worker=\"1\"} 3",
            "uprtc_stun_requests_total{fate=\"answered\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        let samples = text.lines().filter(|line| line.starts_with("uprtc_worker_")).count();
        assert_eq!(samples, 2 * Counter::COUNT);
    }

    #[test]
    fn latencies_are_a_histogram() {
        let mut histogram = Histogram::default();
        for value in [5, 200, 250, 3_000_000] {
            histogram.record(value, 2);
        }
        let sample = Sample { latencies: vec![histogram], ..Sample::default() };
        let text = render(&sample, &stun_server::Counts::default(), None, &Limited::default());
        for line in [
            "uprtc_latency_seconds_bucket{worker=\"0\",le=\"0.000008\"} 2",
            "uprtc_latency_seconds_bucket{worker=\"0\",le=\"0.000128\"} 2",
            "uprtc_latency_seconds_bucket{worker=\"0\",le=\"0.000256\"} 6",
            "uprtc_latency_seconds_bucket{worker=\"0\",le=\"1.048576\"} 6",
            "uprtc_latency_seconds_bucket{worker=\"0\",le=\"+Inf\"} 8",
            "uprtc_latency_seconds_sum{worker=\"0\"} 6.00091",
            "uprtc_latency_seconds_count{worker=\"0\"} 8",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn every_family_is_explained_to_operators() {
        const OPERATING: &str = include_str!("../../docs/OPERATING.md");
        let text =
            render(&Sample::default(), &stun_server::Counts::default(), Some(&Figures::default()), &Limited::default());
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
            let short = name.strip_prefix("uprtc_worker_").unwrap_or(name);
            assert!(OPERATING.contains(&format!("`{short}`")), "docs/OPERATING.md does not explain {name}");
        }
    }

    #[test]
    fn each_family_is_declared_once_and_every_line_is_well_formed() {
        let text =
            render(&Sample::default(), &stun_server::Counts::default(), Some(&Figures::default()), &Limited::default());
        let mut names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(name.starts_with("uprtc_") || name.starts_with("process_"), "{line}");
        }
    }

    #[test]
    fn each_help_line_is_a_sentence_of_its_own() {
        let text =
            render(&Sample::default(), &stun_server::Counts::default(), Some(&Figures::default()), &Limited::default());
        let mut seen = std::collections::BTreeMap::new();
        for (name, help) in text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')) {
            let other = seen.insert(help, name);
            assert!(other.is_none(), "{name} and {other:?} have the same HELP: {help}");
            assert!(help.ends_with('.') && help.len() >= 15 && !help.contains("::"), "{name}: {help}");
        }
    }

    #[test]
    fn units_are_seconds_and_bytes_and_both_planes_are_there() {
        let mut counters = [0; Counter::COUNT];
        counters[Counter::BusyMicros as usize] = 1_500_000;
        counters[Counter::SpinMicros as usize] = 250;
        let sample = Sample { workers: vec![counters], dataplane_pid: Some(std::process::id()), ..Sample::default() };
        let text = render(&sample, &stun_server::Counts::default(), Some(&Figures::default()), &Limited::default());
        for line in [
            "uprtc_worker_busy_seconds_total{worker=\"0\"} 1.5",
            "uprtc_worker_spin_seconds_total{worker=\"0\"} 0.00025",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        for (name, kind) in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
            let other_unit = ["micros", "millis", "ms", "us", "kib", "kb", "percent"];
            assert!(!name.split('_').any(|word| other_unit.contains(&word)), "{name} is not in base units");
        }
        for name in ["cpu_seconds_total", "resident_memory_bytes", "virtual_memory_bytes", "threads", "open_fds"] {
            for plane in ["controlplane", "dataplane"] {
                let sample = format!("process_{name}{{plane=\"{plane}\"}} ");
                assert!(text.lines().any(|line| line.starts_with(&sample)), "{sample} is missing in\n{text}");
            }
        }
        let without = render(&Sample::default(), &stun_server::Counts::default(), None, &Limited::default());
        assert!(!without.contains("plane=\"dataplane\""), "no dataplane is attached");
    }
}
