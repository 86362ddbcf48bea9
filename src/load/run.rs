//! A run: its peers join, their streams are waited for, and what they receive is measured.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use client::dtls::Identity;
use client::random::Random;
use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::api::{Api, Workers};
use super::datagrams::Sockets;
use super::join::{Arrival, Joiner, Leave, NewPeer, Role};
use super::process::{Process, Usage, machine_idle};
use super::report::{Joins, Plane, Report};
use super::scenario::Scenario;
use super::settings::{LoadError, Settings};
use super::source::Media;
use super::tally::Totals;
use super::threads::MediaThreads;

/// How long all streams may take to be there after the last join.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// After the last stream is there: what joins cause is over.
const CALM: Duration = Duration::from_millis(1500);
/// What a peer may send in a room that is not made for more, bit/s: less than a quarter of the least `client-bps-max` that is
/// of use for video.
const BPS_USUAL: u64 = 400_000;

/// Peers that a room admits without being made for more.
const PEERS_USUAL: usize = 8;
/// Others whom a peer has slots for: as many as clients are advised to (PROTOCOL 1.4).
const OTHERS_MAX: usize = 23;
/// Failures that the report tells of.
const FAILURES_MAX: usize = 5;

/// A server as it is measured.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// Its HTTP interface.
    pub(super) api: Api,
    /// Its processes, if they run here.
    pub(super) processes: Vec<Process>,
}

/// How far a run is, for whoever shows it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Progress {
    /// What is being done.
    pub(super) what: String,
    /// Between 0 and 1.
    pub(super) share: f64,
    /// What can be said meanwhile.
    pub(super) note: String,
}

/// Runs a scenario once.
pub(super) async fn run(
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
/// generator itself is at its end. All steps, the last of which is beyond the knee; `report_step` is called with each.
pub(super) async fn ramp(
    server: Server,
    mut scenario: Scenario,
    settings: Settings,
    show: &dyn Fn(&Progress),
    report_step: &mut dyn FnMut(&Report),
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
        report_step(&report);
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
    joiner: Joiner,
    threads: MediaThreads,
    /// What the names of its rooms begin with: those who are still in rooms of a run before are not in its way.
    mark: String,
    /// Who has joined.
    peers: Vec<(u32, Leave)>,
    /// How many peers were told to join.
    begun: usize,
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
        let threads = MediaThreads::start(&settings)?;
        let (api, sockets) = (server.api.clone(), Sockets::default());
        let joiner = Joiner { api, identity, settings: settings.clone(), sockets };
        let before = usages(&server.processes);
        Ok(Run {
            server,
            settings,
            joiner,
            threads,
            mark: format!("load-{:04x}", Random::from_system().ssrc() >> 16),
            peers: Vec::new(),
            begun: 0,
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
        let new = self.new_peers(scenario).await?;
        self.join_all(new, show).await;
        if self.peers.is_empty() {
            let why = self.joins.failures.first().cloned().unwrap_or_else(|| "nobody was to join".to_owned());
            return Err(LoadError::Join(why));
        }
        self.settle(show).await;
        let window = Window::open(self).await;
        window.pass(self, show).await;
        Ok(window.close(self, scenario).await)
    }

    /// The peers that this scenario has beyond those that have joined.
    async fn new_peers(&mut self, scenario: Scenario) -> Result<Vec<NewPeer>, LoadError> {
        let kinds = kinds(&self.settings.media);
        match scenario {
            Scenario::Broadcast { viewers } => {
                let room = format!("{}-broadcast", self.mark);
                self.make_room(&room, viewers + 1).await?;
                let publisher = (self.begun == 0).then_some(("publisher".to_owned(), Role::Whip));
                let new = (self.begun.max(1)..=viewers).map(|n| (format!("viewer-{n}"), Role::Whep));
                let peer = |(name, role)| NewPeer { room: room.clone(), name, role, number: 0 };
                let peers: Vec<NewPeer> = publisher.into_iter().chain(new).map(peer).collect();
                self.begun = viewers + 1;
                self.streams_expected = viewers as u64 * kinds;
                Ok(peers)
            }
            Scenario::Meetings { rooms, peers } => {
                let others = peers.saturating_sub(1).min(OTHERS_MAX);
                // In larger rooms it depends on who speaks whose voices come.
                let kinds = if peers <= PEERS_USUAL { kinds } else { u64::from(self.settings.media.fps > 0) };
                self.streams_expected = (rooms * peers * others) as u64 * kinds;
                self.members(rooms * peers, peers, Role::Meeting { sends: true, others }).await
            }
            Scenario::Idle { peers } => {
                self.streams_expected = 0;
                let role = Role::Meeting { sends: false, others: PEERS_USUAL - 1 };
                self.members(peers, PEERS_USUAL, role).await
            }
            Scenario::Churn { .. } => Ok(Vec::new()),
        }
    }

    async fn members(&mut self, count: usize, room_len: usize, role: Role) -> Result<Vec<NewPeer>, LoadError> {
        let from = self.begun;
        for room in from.div_ceil(room_len)..count.div_ceil(room_len) {
            self.make_room(&format!("{}-{room}", self.mark), room_len).await?;
        }
        self.begun = count;
        let room = |n: usize| format!("{}-{}", self.mark, n / room_len);
        let peer = |n: usize| NewPeer { room: room(n), name: format!("peer-{n}"), role, number: n };
        Ok((from..count).map(peer).collect())
    }

    /// Makes a room, if it is larger than those of which any server has as many as are joined, or if its peers send more than
    /// those let pass.
    async fn make_room(&mut self, room: &str, peers_max: usize) -> Result<(), LoadError> {
        if peers_max <= PEERS_USUAL && self.settings.media.bps() <= BPS_USUAL {
            return Ok(());
        }
        self.server.api.make_room(room, peers_max).await?;
        if !self.rooms.iter().any(|known| known == room) {
            self.rooms.push(room.to_owned());
        }
        Ok(())
    }

    async fn join_all(&mut self, new: Vec<NewPeer>, show: &dyn Fn(&Progress)) {
        let joiner = self.joiner.clone();
        let count = new.len();
        let joins = new.iter().map(|peer| joiner.join(peer));
        let mut joins = futures_util::stream::iter(joins).buffer_unordered(self.settings.joins_at_once);
        let mut done = 0;
        while let Some(joined) = joins.next().await {
            done += 1;
            self.add(joined);
            let note = format!("{done} of {count}, {} failed", self.joins.failed);
            show(&Progress { what: "joining".into(), share: done as f64 / count as f64, note });
        }
    }

    fn add(&mut self, joined: Result<Arrival, LoadError>) {
        match joined {
            Ok(arrival) => {
                let number = self.next_number;
                self.next_number += 1;
                self.joins.took.push(arrival.took);
                self.threads.add(number, arrival.joined);
                self.peers.push((number, arrival.leave));
            }
            Err(error) => {
                self.joins.failed += 1;
                if self.joins.failures.len() < FAILURES_MAX {
                    self.joins.failures.push(error.to_string());
                }
            }
        }
    }

    /// Waits until every stream has brought a packet, and a little longer.
    async fn settle(&mut self, show: &dyn Fn(&Progress)) {
        let begun = Instant::now();
        loop {
            let totals = self.threads.counters();
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

    fn totals(&mut self) -> Totals {
        let (totals, first_media) = self.threads.totals();
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
                let n = self.begun;
                self.begun += 1;
                let peer = NewPeer {
                    room: format!("{}-churn-{}", self.mark, n / 3),
                    name: format!("peer-{n}"),
                    role: Role::Meeting { sends: true, others: 2 },
                    number: n,
                };
                let joiner = self.joiner.clone();
                joining.spawn(async move { joiner.join(&peer).await });
                asked += 1;
                next += interval;
            }
            while staying.front().is_some_and(|(until, ..)| *until <= now) {
                let Some((_, number, leave)) = staying.pop_front() else { break };
                self.threads.remove(number);
                let api = self.server.api.clone();
                leaving.spawn(async move { leave.leave(&api).await });
            }
            tokio::select! {
                Some(joined) = joining.join_next() => {
                    let joined = joined.unwrap_or_else(|error| Err(LoadError::Join(error.to_string())));
                    self.add(joined);
                    staying.extend(self.peers.drain(..).map(|(number, leave)| (Instant::now() + stay, number, leave)));
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
            self.threads.remove(number);
            let _ = leave.leave(&self.server.api).await;
        }
        while leaving.join_next().await.is_some() {}
        Ok(report)
    }

    /// Everybody leaves, and the rooms that were made are removed.
    async fn end(mut self) {
        for (number, _) in &self.peers {
            self.threads.remove(*number);
        }
        let api = &self.server.api;
        let leaves = self.peers.drain(..).map(|(_, leave)| leave.leave(api));
        let mut leaves = futures_util::stream::iter(leaves).buffer_unordered(16);
        // A server that has ended has no rooms, either.
        while leaves.next().await.is_some() {}
        for room in &self.rooms {
            let _ = api.delete_room(room).await;
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
            workers: run.server.api.workers().await,
            machine: machine_idle(None).map(|(_, counters)| counters),
            usages: usages(&run.server.processes),
            own: own_usage(),
            totals: run.totals(),
            begun: Instant::now(),
            elapsed: None,
        }
    }

    async fn pass(&self, run: &mut Run, show: &dyn Fn(&Progress)) {
        let length = run.settings.window;
        while self.begun.elapsed() < length {
            sleep(LOOK.min(length.saturating_sub(self.begun.elapsed()))).await;
            let passed = self.begun.elapsed().as_secs_f64();
            let totals = run.threads.counters().since(&self.totals);
            let rate = totals.received as f64 / passed / 1000.0;
            let note = format!("{rate:.1} thousand packets a second, {:.3} % lost", totals.loss_percent());
            show(&Progress { what: "measuring".into(), share: (passed / length.as_secs_f64()).min(1.0), note });
        }
    }

    async fn close(self, run: &mut Run, scenario: Scenario) -> Report {
        let elapsed = self.elapsed.unwrap_or_else(|| self.begun.elapsed());
        let all = run.totals();
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
        let workers = run.server.api.workers().await;
        Report {
            workers: workers.zip(self.workers).map(|(after, before)| after.since(&before)),
            scenario,
            media: run.settings.media,
            loss_percent: run.settings.loss_percent,
            elapsed,
            peers: run.peers.len(),
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
