//! The cases: RFC 8867 §5, what broke in other servers, and those of `bench/weak`, by the same names where they are the same.
//!
//! Numbers of RFC 8867 are its own where they fit a server: the flow is what a server sends to one receiver, of five cameras in three
//! encodings each unless it says otherwise. A flow with a room of its own can pause.

use super::path::{Conditions, Loss};
use super::score::Window;
use super::send::Encoding;
use super::tcp::Load;

/// A receiver behind the path.
#[derive(Clone, Copy, Debug)]
pub struct Reception {
    /// Which room it is in.
    pub room: usize,
    /// Propagation, one way, milliseconds.
    pub delay_ms: u64,
    /// When it joins, seconds.
    pub joins_at: u64,
}

/// Whose way to the server is not good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Uplink {
    /// Everybody's is.
    Good,
    /// The first publisher's.
    OfPublisher(Conditions),
    /// Each receiver's own.
    OfReceivers(Conditions),
}

/// What is promised of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// At least.
    Least(&'static str, f64),
    /// At most.
    Most(&'static str, f64),
}

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    /// How long it takes, seconds.
    pub seconds: u64,
    /// The path to all receivers.
    pub down: Conditions,
    /// Who is behind it.
    pub receivers: Vec<Reception>,
    /// Whose way to the server is not good.
    pub up: Uplink,
    /// How many others send in each room, on good paths.
    pub publishers: usize,
    /// How many others receive in each room, on good paths.
    pub watchers: usize,
    /// Whether the receivers send as well.
    pub receivers_send: bool,
    /// The encodings of each camera, the lowest first.
    pub encodings: Vec<Encoding>,
    /// Whether cameras are VP8 with three temporal layers, and not H.264.
    pub has_layers: bool,
    /// Cameras of a room that are switched: room, second, on or off. They begin as on.
    pub cameras: Vec<(usize, u64, bool)>,
    /// TCP flows in the same queue, and their propagation one way, milliseconds.
    pub tcp: Vec<(Load, u64)>,
    /// What is judged.
    pub window: Window,
    /// What the medians of all seeds should be.
    pub targets: Vec<Target>,
}

const USED: &str = "capacity used by media, %";
const QUEUE: &str = "queue p95, ms";
const JAIN: &str = "Jain's index";
const LONGEST: &str = "longest freeze, ms";

fn encodings(kbps: &[u64]) -> Vec<Encoding> {
    let all = [("l", 180), ("m", 360), ("h", 720)];
    kbps.iter().zip(all).map(|(&kbps, (rid, height))| Encoding { rid, height, kbps }).collect()
}

fn one(seconds: u64, capacity: &'static [(u64, u64)]) -> Case {
    Case {
        name: "",
        about: "",
        seconds,
        down: Conditions { capacity, ..Conditions::GOOD },
        receivers: vec![Reception { room: 0, delay_ms: 50, joins_at: 0 }],
        up: Uplink::Good,
        publishers: 5,
        watchers: 0,
        receivers_send: false,
        encodings: encodings(&[50, 150, 450]),
        has_layers: false,
        cameras: Vec::new(),
        tcp: Vec::new(),
        window: Window { from: 0, to: seconds, timed_from: 0 },
        targets: Vec::new(),
    }
}

/// As in `bench/weak`: two others, whose cameras are sent in 100 and 350 kb/s.
fn weak(seconds: u64, capacity: &'static [(u64, u64)]) -> Case {
    let window = Window { from: 10, to: seconds, timed_from: 0 };
    Case { publishers: 2, encodings: encodings(&[100, 350]), window, ..one(seconds, capacity) }
}

fn flows(delays_ms: &[u64], joins_at: &[u64]) -> Vec<Reception> {
    let of = |(&delay_ms, &joins_at)| Reception { room: 0, delay_ms, joins_at };
    delays_ms.iter().zip(joins_at).map(of).collect()
}

/// All of them, in the order in which they are printed.
pub fn all() -> Vec<Case> {
    let mut cases = rfc_8867();
    cases.extend(as_weak());
    cases.extend(broke_elsewhere());
    cases
}

fn rfc_8867() -> Vec<Case> {
    vec![
        Case {
            name: "rfc-8867-5.1",
            about: "variable capacity, one flow: 1, 2.5, 0.6, 1 Mb/s at 0, 40, 60, 80 s",
            targets: vec![Target::Least(USED, 85.0), Target::Most(QUEUE, 100.0)],
            ..one(100, &[(0, 1_000), (40, 2_500), (60, 600), (80, 1_000)])
        },
        Case {
            name: "rfc-8867-5.2",
            about: "variable capacity, two flows: 4, 2, 3.5, 1, 2 Mb/s at 0, 25, 50, 75, 100 s",
            receivers: flows(&[50, 50], &[0, 0]),
            targets: vec![Target::Least(JAIN, 0.9), Target::Most(QUEUE, 150.0)],
            ..one(125, &[(0, 4_000), (25, 2_000), (50, 3_500), (75, 1_000), (100, 2_000)])
        },
        Case {
            name: "rfc-8867-5.3",
            about: "congested feedback, media both ways: forward 2, 1, 0.5, 2 Mb/s at 0, 20, 40, 60 s, back 2, 0.8, 2 at 0, 35, 70 s",
            up: Uplink::OfReceivers(Conditions { capacity: &[(0, 2_000), (35, 800), (70, 2_000)], ..Conditions::GOOD }),
            receivers_send: true,
            watchers: 1,
            targets: vec![Target::Most(QUEUE, 150.0)],
            ..one(100, &[(0, 2_000), (20, 1_000), (40, 500), (60, 2_000)])
        },
        Case {
            name: "rfc-8867-5.4",
            about: "three flows on 3.5 Mb/s, which begin at 0, 20 and 40 s; judged from 70 s on",
            receivers: flows(&[50; 3], &[0, 20, 40]),
            window: Window { from: 70, to: 120, timed_from: 0 },
            targets: vec![Target::Least(JAIN, 0.9)],
            ..one(120, &[(0, 3_500)])
        },
        Case {
            name: "rfc-8867-5.5",
            about: "five flows on 4 Mb/s, of 10, 25, 50, 100 and 150 ms one way, which begin 10 s apart; judged from 100 s on",
            receivers: flows(&[10, 25, 50, 100, 150], &[0, 10, 20, 30, 40]),
            window: Window { from: 100, to: 300, timed_from: 0 },
            targets: vec![Target::Least(JAIN, 0.8)],
            ..one(300, &[(0, 4_000)])
        },
        Case {
            name: "rfc-8867-5.6",
            about: "2 Mb/s, shared with a long TCP from 10 s on; judged from 30 s on",
            tcp: vec![(Load::Long(10), 50)],
            window: Window { from: 30, to: 120, timed_from: 0 },
            targets: vec![Target::Least(USED, 20.0)],
            ..one(120, &[(0, 2_000)])
        },
        Case {
            name: "rfc-8867-5.7",
            about: "two flows on 2 Mb/s, shared with ten short TCP: files of 0.1 to 1 MB, pauses of 10 s in the mean",
            receivers: flows(&[50, 50], &[0, 0]),
            tcp: vec![(Load::Files, 50); 10],
            window: Window { from: 30, to: 300, timed_from: 0 },
            ..one(300, &[(0, 2_000)])
        },
        Case {
            name: "rfc-8867-5.8",
            about: "three flows on 3.5 Mb/s, the second pauses from 40 to 60 s; judged from 70 s on",
            receivers: (0..3).map(|room| Reception { room, delay_ms: 50, joins_at: 0 }).collect(),
            cameras: vec![(1, 40, false), (1, 60, true)],
            window: Window { from: 70, to: 120, timed_from: 0 },
            targets: vec![Target::Least(JAIN, 0.9)],
            ..one(120, &[(0, 3_500)])
        },
    ]
}

fn as_weak() -> Vec<Case> {
    let random = |permille| Conditions { loss: Loss::Random(permille), ..Conditions::GOOD };
    let frames = Target::Least("frames each second", 0.9 * 25.0);
    vec![
        Case {
            name: "down-500k",
            about: "500 kb/s to one of three",
            targets: vec![Target::Least(USED, 85.0), Target::Most(QUEUE, 100.0), Target::Most(LONGEST, 500.0)],
            ..weak(60, &[(0, 500)])
        },
        Case {
            name: "down-1M",
            about: "1 Mb/s to one of three",
            targets: vec![Target::Least(USED, 85.0), Target::Most(QUEUE, 100.0), Target::Most(LONGEST, 500.0)],
            ..weak(60, &[(0, 1_000)])
        },
        Case {
            name: "between",
            about: "1 Mb/s to one of three, whose cameras are in 100 and 490 kb/s: one large and one small leave a quarter",
            encodings: encodings(&[100, 490]),
            targets: vec![Target::Least(USED, 85.0), Target::Most(QUEUE, 100.0), Target::Most(LONGEST, 500.0)],
            ..weak(60, &[(0, 1_000)])
        },
        Case {
            name: "drop",
            about: "2.5 Mb/s to one of three, from 20 to 40 s 0.4, then 2.5 again; timed from 40 s on",
            encodings: encodings(&[100, 350, 900]),
            window: Window { from: 0, to: 60, timed_from: 40 },
            targets: vec![Target::Most("80 % of the share after, s", 10.0)],
            ..weak(60, &[(0, 2_500), (20, 400), (40, 2_500)])
        },
        Case {
            name: "loss-10-down",
            about: "10 % random loss to one of three, nothing else",
            down: random(100),
            targets: vec![frames, Target::Most(LONGEST, 500.0), Target::Most("sound not played, %", 1.0)],
            ..weak(60, &[])
        },
        Case {
            name: "loss-10-both",
            about: "10 % random loss to and from one of three",
            down: random(100),
            up: Uplink::OfReceivers(random(100)),
            targets: vec![frames, Target::Most(LONGEST, 500.0), Target::Most("sound not played, %", 1.0)],
            ..weak(60, &[])
        },
        Case {
            name: "loss-10-layers",
            about: "10 % random loss to one of three, whose cameras are VP8 with three temporal layers",
            down: random(100),
            encodings: encodings(&[160]),
            has_layers: true,
            targets: vec![frames, Target::Most(LONGEST, 500.0), Target::Most("sound not played, %", 1.0)],
            ..weak(60, &[])
        },
        Case {
            name: "loss-30",
            about: "30 % random loss to and from one of three",
            down: random(300),
            up: Uplink::OfReceivers(random(300)),
            targets: vec![Target::Least("frames each second", 10.0), Target::Most("sound not played, %", 5.0)],
            ..weak(60, &[])
        },
        Case {
            name: "bursts",
            about: "2 % loss in bursts of 10 packets to one of three",
            down: Conditions { loss: Loss::Bursts(20, 10), ..Conditions::GOOD },
            targets: vec![Target::Most(LONGEST, 500.0), Target::Most("sound not played, %", 2.0)],
            ..weak(60, &[])
        },
        Case { name: "weak-down", about: "150 kb/s to one of three", ..weak(60, &[(0, 150)]) },
        Case {
            name: "layers",
            about: "250 kb/s to one of three, whose cameras are VP8 with three temporal layers in one encoding of 100 kb/s",
            encodings: encodings(&[100]),
            has_layers: true,
            targets: vec![Target::Least("frames each second", 12.0), Target::Most(LONGEST, 500.0)],
            ..weak(60, &[(0, 250)])
        },
        Case {
            name: "weak-up",
            about: "150 kb/s from one of three others, good paths for the rest",
            publishers: 3,
            up: Uplink::OfPublisher(Conditions { capacity: &[(0, 150)], ..Conditions::GOOD }),
            ..weak(60, &[(0, 100_000)])
        },
    ]
}

fn broke_elsewhere() -> Vec<Case> {
    vec![
        Case {
            name: "late-feedback",
            about: "a queue of 3 s, 2 Mb/s until 20 s, then 300 kb/s: feedback may miss the history (jitsi-videobridge#2440)",
            down: Conditions { capacity: &[(0, 2_000), (20, 300)], queue_ms: 3_000, ..Conditions::GOOD },
            window: Window { from: 25, to: 60, timed_from: 0 },
            ..one(60, &[])
        },
        Case {
            name: "audio-first",
            about: "4 Mb/s, cameras are off until 20 s: how soon video has its share (str0m#506, #1045); timed from 20 s on",
            publishers: 3,
            encodings: encodings(&[100, 350, 900]),
            cameras: vec![(0, 1, false), (0, 20, true)],
            window: Window { from: 25, to: 40, timed_from: 20 },
            ..one(40, &[(0, 4_000)])
        },
        Case {
            name: "two-thirds",
            about: "4 Mb/s, cameras in one step of 300 and one of 1200 kb/s: nothing is between, and the estimate rises (str0m)",
            publishers: 2,
            encodings: encodings(&[300, 1_200]),
            window: Window { from: 20, to: 40, timed_from: 0 },
            ..one(40, &[(0, 4_000)])
        },
        Case {
            name: "lossy-publisher",
            about: "one of the publishers loses 10 % on its way to the server, nothing else: no receiver's estimate falls (mediasoup#962)",
            publishers: 3,
            encodings: encodings(&[100, 350]),
            up: Uplink::OfPublisher(Conditions { loss: Loss::Random(100), ..Conditions::GOOD }),
            window: Window { from: 10, to: 60, timed_from: 0 },
            ..one(60, &[(0, 2_000)])
        },
        Case {
            name: "reordering",
            about: "2 Mb/s, 5 % of the packets come 20 ms late: that is no congestion (str0m#599)",
            down: Conditions { capacity: &[(0, 2_000)], late: (50, 20), ..Conditions::GOOD },
            ..one(40, &[])
        },
        Case {
            name: "jitter",
            about: "2 Mb/s, each packet up to 20 ms later than the path makes it, in order",
            down: Conditions { capacity: &[(0, 2_000)], jitter_ms: 20, ..Conditions::GOOD },
            ..one(40, &[])
        },
        Case {
            name: "low-left-again",
            about: "300 kb/s until 20 s, then 3 Mb/s: the lowest encoding is left again (livekit#817, #1853); timed from 20 s on",
            publishers: 2,
            encodings: encodings(&[100, 350, 900]),
            window: Window { from: 30, to: 50, timed_from: 20 },
            ..one(50, &[(0, 300), (20, 3_000)])
        },
    ]
}
