//! Scenarios: who joins where, what is waited for, and what is measured meanwhile.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::crew::Crew;
use super::door::{Door, Workers};
use super::join::{self, Arrival, Leave, Seat, Way};
use super::process::{Process, Usage, machine_idle};
use super::report::{Joins, Plane, Report};
use super::source::Media;
use super::tally::Totals;
use super::{LoadError, Settings};
use crate::ice::random;
use crate::secure::Identity;

/// How long all streams may take to be there after the last join.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// After the last stream is there: what joins cause is over.
const CALM: Duration = Duration::from_millis(1500);
/// Peers that a room admits without being made for more.
const PEERS_USUAL: usize = 8;
/// Failures that the report tells of.
const FAILURES_MAX: usize = 5;
/// Loss at which a ramp ends, percent.
pub const KNEE_LOSS_PERCENT: f64 = 1.0;

/// A server as it is measured.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its doors.
    pub door: Door,
    /// Its processes, if they run here.
    pub processes: Vec<Process>,
}

/// Who joins where.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Scenario {
    /// One sends by WHIP, `viewers` receive by WHEP.
    Broadcast {
        /// How many receive.
        viewers: usize,
    },
    /// Rooms in which everybody sends and receives, through the signalling socket.
    Meetings {
        /// How many rooms.
        rooms: usize,
        /// Peers of each.
        peers: usize,
    },
    /// Peers that come, send and receive for a while, and go, in rooms of three.
    Churn {
        /// Joins a second.
        rate: f64,
        /// How long each stays.
        stay: Duration,
    },
    /// Peers that joined and send nothing, in rooms of eight.
    Idle {
        /// How many.
        peers: usize,
    },
}

impl Scenario {
    /// Its word on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Scenario::Broadcast { .. } => "broadcast",
            Scenario::Meetings { .. } => "meetings",
            Scenario::Churn { .. } => "churn",
            Scenario::Idle { .. } => "idle",
        }
    }

    /// How large it is, and of what.
    pub fn size(&self) -> (f64, &'static str) {
        match *self {
            Scenario::Broadcast { viewers } => (viewers as f64, "viewers"),
            Scenario::Meetings { rooms, .. } => (rooms as f64, "rooms"),
            Scenario::Churn { rate, .. } => (rate, "joins per second"),
            Scenario::Idle { peers } => (peers as f64, "peers"),
        }
    }

    /// The next step of a ramp: a quarter more.
    fn grown(self) -> Scenario {
        let more = |count: usize| (count + count / 4).max(count + 1);
        match self {
            Scenario::Broadcast { viewers } => Scenario::Broadcast { viewers: more(viewers) },
            Scenario::Meetings { rooms, peers } => Scenario::Meetings { rooms: more(rooms), peers },
            Scenario::Churn { rate, stay } => Scenario::Churn { rate: rate * 1.25, stay },
            Scenario::Idle { peers } => Scenario::Idle { peers: more(peers) },
        }
    }
}

/// How far a run is, for whoever shows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Progress {
    /// What is being done.
    pub what: String,
    /// Between 0 and 1.
    pub share: f64,
    /// What can be said meanwhile.
    pub note: String,
}

/// Runs a scenario once.
pub async fn run(
    server: Server,
    scenario: Scenario,
    settings: Settings,
    show: &dyn Fn(&Progress),
) -> Result<Report, LoadError> {
    let mut run = Run::start(server, settings)?;
    let report = run.step(scenario, show).await;
    run.end().await;
    report
}

/// Runs a scenario again and again, each time with a quarter more, until packets are lost, joins fail, or the
/// generator itself is at its end. All steps, the last of which is beyond the knee; `told` hears each.
pub async fn ramp(
    server: Server,
    mut scenario: Scenario,
    settings: Settings,
    show: &dyn Fn(&Progress),
    told: &mut dyn FnMut(&Report),
) -> Result<Vec<Report>, LoadError> {
    let mut run = Run::start(server, settings)?;
    let mut steps: Vec<Report> = Vec::new();
    loop {
        let step = run.step(scenario, show).await;
        let report = match step {
            Ok(report) => report,
            Err(error) => {
                run.end().await;
                return Err(error);
            }
        };
        told(&report);
        let is_over = report.is_beyond_knee() || report.is_generator_limit();
        steps.push(report);
        if is_over {
            run.end().await;
            return Ok(steps);
        }
        scenario = scenario.grown();
    }
}

/// A run under way: peers that are in, and what was counted.
struct Run {
    server: Server,
    settings: Settings,
    identity: Identity,
    crew: Crew,
    /// What the names of its rooms begin with: those who are still in rooms of a run before are not in its way.
    mark: String,
    seated: Vec<(u32, Leave)>,
    /// Rooms and seats that the present scenario has filled: (whole rooms, peers of the room that grows).
    filled: usize,
    rooms: Vec<String>,
    next_number: u32,
    streams_expected: u64,
    joins: Joins,
    /// What each process used before anybody joined.
    before: Vec<Usage>,
}

impl Run {
    fn start(server: Server, settings: Settings) -> Result<Run, LoadError> {
        let identity = Identity::generate().map_err(|error| LoadError::Join(error.to_string()))?;
        let crew = Crew::start(&settings)?;
        let before = usages(&server.processes);
        Ok(Run {
            server,
            settings,
            identity,
            crew,
            mark: format!("load-{:04x}", u16::from_ne_bytes(random())),
            seated: Vec::new(),
            filled: 0,
            rooms: Vec::new(),
            next_number: 0,
            streams_expected: 0,
            joins: Joins::default(),
            before,
        })
    }

    /// Brings everybody in who is not yet, and measures for a window.
    async fn step(&mut self, scenario: Scenario, show: &dyn Fn(&Progress)) -> Result<Report, LoadError> {
        if let Scenario::Churn { rate, stay } = scenario {
            return self.churn(rate, stay, show).await;
        }
        let seats = self.seats(scenario).await?;
        self.fill(seats, show).await;
        if self.seated.is_empty() {
            let why = self.joins.failures.first().cloned().unwrap_or_else(|| "nobody was to join".to_owned());
            return Err(LoadError::Join(why));
        }
        self.settle(show).await;
        let window = Window::open(self).await;
        window.pass(self, show).await;
        Ok(window.close(self, scenario).await)
    }

    /// The seats that this scenario has beyond those that are filled.
    async fn seats(&mut self, scenario: Scenario) -> Result<Vec<Seat>, LoadError> {
        let kinds = kinds(&self.settings.media);
        match scenario {
            Scenario::Broadcast { viewers } => {
                let room = format!("{}-broadcast", self.mark);
                self.make_room(&room, viewers + 1).await?;
                let publisher = (self.filled == 0).then_some(("publisher".to_owned(), Way::Whip));
                let new = (self.filled.max(1)..=viewers).map(|n| (format!("viewer-{n}"), Way::Whep));
                let seat = |(name, way)| Seat { room: room.clone(), name, way };
                let seats: Vec<Seat> = publisher.into_iter().chain(new).map(seat).collect();
                self.filled = viewers + 1;
                self.streams_expected = viewers as u64 * kinds;
                Ok(seats)
            }
            Scenario::Meetings { rooms, peers } => {
                let others = peers.saturating_sub(1);
                self.streams_expected = (rooms * peers * others) as u64 * kinds;
                self.members(rooms * peers, peers, Way::Socket { sends: true, others }).await
            }
            Scenario::Idle { peers } => {
                self.streams_expected = 0;
                let way = Way::Socket { sends: false, others: PEERS_USUAL - 1 };
                self.members(peers, PEERS_USUAL, way).await
            }
            Scenario::Churn { .. } => Ok(Vec::new()),
        }
    }

    async fn members(&mut self, count: usize, room_len: usize, way: Way) -> Result<Vec<Seat>, LoadError> {
        let from = self.filled;
        for room in from.div_ceil(room_len)..count.div_ceil(room_len) {
            self.make_room(&format!("{}-{room}", self.mark), room_len).await?;
        }
        self.filled = count;
        let room = |n: usize| format!("{}-{}", self.mark, n / room_len);
        let seat = |n: usize| Seat { room: room(n), name: format!("peer-{n}"), way };
        Ok((from..count).map(seat).collect())
    }

    /// Makes a room, if it is larger than those of which any server has as many as are joined.
    async fn make_room(&mut self, room: &str, peers_max: usize) -> Result<(), LoadError> {
        if peers_max <= PEERS_USUAL {
            return Ok(());
        }
        self.server.door.make_room(room, peers_max).await?;
        if !self.rooms.iter().any(|known| known == room) {
            self.rooms.push(room.to_owned());
        }
        Ok(())
    }

    async fn fill(&mut self, seats: Vec<Seat>, show: &dyn Fn(&Progress)) {
        let (door, identity, settings) = (self.server.door.clone(), self.identity.clone(), self.settings.clone());
        let count = seats.len();
        let joins = seats.iter().map(|seat| join::join(&door, seat, &identity, &settings));
        let mut joins = futures_util::stream::iter(joins).buffer_unordered(settings.joins_at_once);
        let mut done = 0;
        while let Some(joined) = joins.next().await {
            done += 1;
            self.take(joined);
            let note = format!("{done} of {count}, {} failed", self.joins.failed);
            show(&Progress { what: "joining".into(), share: done as f64 / count as f64, note });
        }
    }

    fn take(&mut self, joined: Result<Arrival, LoadError>) -> Option<u32> {
        match joined {
            Ok(arrival) => {
                let number = self.next_number;
                self.next_number += 1;
                self.joins.took.push(arrival.took);
                self.crew.carry(number, arrival.joined);
                self.seated.push((number, arrival.leave));
                Some(number)
            }
            Err(error) => {
                self.joins.failed += 1;
                if self.joins.failures.len() < FAILURES_MAX {
                    self.joins.failures.push(error.to_string());
                }
                None
            }
        }
    }

    /// Waits until every stream has brought a packet, and a little longer.
    async fn settle(&mut self, show: &dyn Fn(&Progress)) {
        let begun = Instant::now();
        loop {
            let totals = self.crew.glance();
            let expected = self.streams_expected;
            let share = if expected == 0 { 1.0 } else { totals.streams as f64 / expected as f64 };
            let note = format!("{} of {expected} streams", totals.streams);
            show(&Progress { what: "settling".into(), share: share.min(1.0), note });
            if totals.streams >= expected || begun.elapsed() > SETTLE_TIMEOUT {
                break;
            }
            sleep(LOOK).await;
        }
        sleep(CALM).await;
    }

    fn tell(&mut self) -> Totals {
        let (totals, first_media) = self.crew.tell();
        self.joins.first_media.extend(first_media);
        totals
    }

    /// Joins at a steady rate for a window, each peer staying for a while.
    async fn churn(&mut self, rate: f64, stay: Duration, show: &dyn Fn(&Progress)) -> Result<Report, LoadError> {
        self.joins = Joins::default();
        let interval = Duration::from_secs_f64(1.0 / rate.max(0.01));
        let mut window = Window::open(self).await;
        let (mut joining, mut leaving) = (JoinSet::new(), JoinSet::new());
        let mut staying: VecDeque<(Instant, u32, Leave)> = VecDeque::new();
        let begun = Instant::now();
        let mut next = begun;
        let mut asked = 0;
        while begun.elapsed() < self.settings.window || !joining.is_empty() {
            let now = Instant::now();
            while next <= now && begun.elapsed() < self.settings.window {
                let n = self.next_seat();
                let seat = Seat {
                    room: format!("{}-churn-{}", self.mark, n / 3),
                    name: format!("peer-{n}"),
                    way: Way::Socket { sends: true, others: 2 },
                };
                let (door, identity, settings) =
                    (self.server.door.clone(), self.identity.clone(), self.settings.clone());
                joining.spawn(async move { join::join(&door, &seat, &identity, &settings).await });
                asked += 1;
                next += interval;
            }
            while staying.front().is_some_and(|(until, ..)| *until <= now) {
                let Some((_, number, leave)) = staying.pop_front() else { break };
                self.crew.drop(number);
                let door = self.server.door.clone();
                leaving.spawn(async move { leave.leave(&door).await });
            }
            tokio::select! {
                Some(joined) = joining.join_next() => {
                    let joined = joined.unwrap_or_else(|error| Err(LoadError::Join(error.to_string())));
                    self.take(joined);
                    staying.extend(self.seated.drain(..).map(|(number, leave)| (Instant::now() + stay, number, leave)));
                }
                Some(_) = leaving.join_next() => (),
                () = sleep(Duration::from_millis(2)) => (),
            }
            let share = (begun.elapsed().as_secs_f64() / self.settings.window.as_secs_f64()).min(1.0);
            let note = format!("{asked} joins, {} failed, {} in", self.joins.failed, staying.len());
            show(&Progress { what: "churning".into(), share, note });
        }
        window.elapsed = Some(begun.elapsed());
        let report = window.close(self, Scenario::Churn { rate, stay }).await;
        for (_, number, leave) in staying {
            self.crew.drop(number);
            let _ = leave.leave(&self.server.door).await;
        }
        while leaving.join_next().await.is_some() {}
        Ok(report)
    }

    fn next_seat(&mut self) -> usize {
        self.filled += 1;
        self.filled - 1
    }

    /// Everybody leaves, and the rooms that were made are removed.
    async fn end(mut self) {
        for (number, _) in &self.seated {
            self.crew.drop(*number);
        }
        let door = &self.server.door;
        let leaves = self.seated.drain(..).map(|(_, leave)| leave.leave(door));
        let mut leaves = futures_util::stream::iter(leaves).buffer_unordered(16);
        // A server that has ended has no rooms, either.
        while leaves.next().await.is_some() {}
        for room in &self.rooms {
            let _ = door.delete_room(room).await;
        }
    }
}

/// Kinds of streams that a sender sends.
fn kinds(media: &Media) -> u64 {
    u64::from(media.fps > 0 && media.frame_packets > 0) + u64::from(media.audio_rate > 0)
}

fn usages(processes: &[Process]) -> Vec<Usage> {
    processes.iter().map(|process| process.usage().unwrap_or_default()).collect()
}

/// A stretch of time that is measured.
struct Window {
    begun: Instant,
    elapsed: Option<Duration>,
    totals: Totals,
    usages: Vec<Usage>,
    own: Usage,
    machine: Option<(u64, u64)>,
    workers: Option<Workers>,
}

impl Window {
    async fn open(run: &mut Run) -> Window {
        Window {
            workers: run.server.door.workers().await,
            machine: machine_idle(None).map(|(_, counters)| counters),
            usages: usages(&run.server.processes),
            own: own_usage(),
            totals: run.tell(),
            begun: Instant::now(),
            elapsed: None,
        }
    }

    async fn pass(&self, run: &mut Run, show: &dyn Fn(&Progress)) {
        let length = run.settings.window;
        while self.begun.elapsed() < length {
            sleep(LOOK.min(length.saturating_sub(self.begun.elapsed()))).await;
            let passed = self.begun.elapsed().as_secs_f64();
            let totals = run.crew.glance().since(&self.totals);
            let rate = totals.received as f64 / passed / 1000.0;
            let note = format!("{rate:.1} thousand packets a second, {:.3} % lost", totals.loss_percent());
            show(&Progress { what: "measuring".into(), share: (passed / length.as_secs_f64()).min(1.0), note });
        }
    }

    async fn close(self, run: &mut Run, scenario: Scenario) -> Report {
        let elapsed = self.elapsed.unwrap_or_else(|| self.begun.elapsed());
        let all = run.tell();
        let after = usages(&run.server.processes);
        let (own, idle) = (own_usage(), machine_idle(self.machine).map(|(share, _)| share));
        let planes = run.server.processes.iter().zip(after).zip(&self.usages).zip(&run.before);
        let planes: Vec<Plane> = planes
            .map(|(((process, after), at_open), at_start)| Plane {
                name: process.name.clone(),
                cpu: after.cpu.saturating_sub(at_open.cpu),
                at_start: *at_start,
                at_end: after,
            })
            .collect();
        let workers = run.server.door.workers().await;
        Report {
            workers: workers.zip(self.workers).map(|(after, before)| after.since(&before)),
            scenario,
            media: run.settings.media,
            loss_percent: run.settings.loss_percent,
            elapsed,
            peers: run.seated.len(),
            joins: run.joins.clone(),
            totals: all.since(&self.totals),
            streams: (all.streams, run.streams_expected),
            planes,
            threads: run.settings.threads.max(1),
            own_cpu: own.cpu.saturating_sub(self.own.cpu),
            idle,
        }
    }
}

fn own_usage() -> Usage {
    Process { name: String::new(), pid: std::process::id() }.usage().unwrap_or_default()
}
