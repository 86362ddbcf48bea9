//! Which services wait for orders, and what they do: recordings, streams, telephone calls and feeds of rooms (docs/SERVICES.md).
//!
//! A service is a process of its own that asks again and again, and says each time what it is doing; its answer is what is to be begun
//! and ended. What a service says is the truth, so nothing is kept on disk here: a controlplane that begins anew knows all after the next
//! report of each. Nothing in here has a clock or a socket.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::work::{DETAIL_LEN_MAX, Order, Orders, REASON_LEN_MAX, Report, Role, Start, State, TASKS_MAX, Told};
use serde_json::{Map, Value};

use crate::auth::{ANY_ROOM, is_participant_name, is_room_name};

/// Services at once.
const SERVICES_MAX: usize = 64;
/// Of these, such whose tokens are for one and the same room.
const SERVICES_PER_ROOM_MAX: usize = 4;
/// A service that has said nothing for so long is gone. It asks every [`WAIT`].
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// How long a question waits for an order.
pub(crate) const WAIT: Duration = Duration::from_secs(8);
/// How long a task that has ended is shown.
const ENDED_FOR: Duration = Duration::from_secs(600);
/// Tasks that have ended, of one room and in all. The oldest go first.
const ENDED_PER_ROOM_MAX: usize = 32;
const ENDED_MAX: usize = 1_024;
/// Tasks of one room that have not ended.
const TASKS_PER_ROOM_MAX: usize = 32;
/// Characters of the ids of services and tasks.
const ID_LEN_MAX: usize = 32;

/// The reason of a task whose service has said nothing for too long. It may come back.
const SERVICE_GONE: &str = "service_gone";

/// Why a service is not heard.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ReportError {
    /// There are too many.
    #[error(
        "there are {SERVICES_MAX} services already, or {SERVICES_PER_ROOM_MAX} whose tokens are for this room alone"
    )]
    TooMany,
    /// Somebody else has this name.
    #[error("another token reports for a service of this name")]
    NameTaken,
    /// A field is out of its bounds.
    #[error("{0}")]
    Invalid(String),
}

/// Why nothing is begun or ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum TaskError {
    /// Nobody waits for such an order.
    #[error("no service for this kind of work is there")]
    NoService,
    /// All that wait have as many tasks as they can have.
    #[error("each service for this kind of work has as many tasks as it can have")]
    Busy,
    /// A room is recorded once.
    #[error("the room is being recorded already")]
    Already,
    /// The room has many.
    #[error("the room has {TASKS_PER_ROOM_MAX} tasks already")]
    TooMany,
    /// There is no such task.
    #[error("there is no such task")]
    NoTask,
}

/// A task, as it is shown.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Task {
    pub(crate) role: Role,
    pub(crate) order: Order,
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
    pub(crate) detail: Map<String, Value>,
    /// Whether it is to end.
    pub(crate) is_stopping: bool,
    /// Who does it.
    service: String,
    /// Whether that one has said that it has the order.
    is_known: bool,
    ended_at: Option<Instant>,
}

impl Task {
    fn new(role: Role, order: Order, service: &str) -> Task {
        let service = service.to_owned();
        let (state, reason, detail, ended_at) = (State::Starting, None, Map::new(), None);
        Task { role, order, state, reason, detail, is_stopping: false, service, is_known: false, ended_at }
    }

    fn end(&mut self, now: Instant, reason: &str) {
        self.state = State::Ended;
        self.reason.get_or_insert_with(|| reason.to_owned());
        self.ended_at.get_or_insert(now);
    }

    fn is_over(&self) -> bool {
        self.state == State::Ended
    }

    fn is_of(&self, role: Role, room: &str) -> bool {
        self.role == role && self.order.room == room
    }
}

/// A process that waits for orders.
#[derive(Debug)]
struct Service {
    role: Role,
    /// What its token is for: a room, or all.
    room: String,
    /// What stands for its token.
    token: String,
    tasks_max: usize,
    is_leaving: bool,
    heard_at: Instant,
    /// The number of its latest report.
    seq: u64,
}

/// By whose token a service reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct By<'a> {
    pub(crate) role: Role,
    /// What the token is for: a room, or `*`.
    pub(crate) room: &'a str,
    /// What stands for the token.
    pub(crate) token: &'a str,
}

/// All services and their tasks.
#[derive(Debug, Default)]
pub(crate) struct Services {
    services: BTreeMap<String, Service>,
    tasks: BTreeMap<String, Task>,
}

impl Services {
    /// Takes what a service says. One that is older than another that was heard changes nothing.
    pub(crate) fn report(&mut self, now: Instant, by: By<'_>, report: Report) -> Result<(), ReportError> {
        check(by, &report)?;
        self.expire(now);
        let Report { service, seq, tasks_max, tasks, is_leaving } = report;
        match self.services.get(&service) {
            Some(known) if known.token != by.token || known.role != by.role => return Err(ReportError::NameTaken),
            Some(known) if known.seq >= seq => return Ok(()),
            Some(_) => {}
            None => {
                let is_rival = |other: &&Service| by.room != ANY_ROOM && other.room == by.room;
                let rivals = self.services.values().filter(is_rival).count();
                if self.services.len() >= SERVICES_MAX || rivals >= SERVICES_PER_ROOM_MAX {
                    return Err(ReportError::TooMany);
                }
            }
        }
        let (room, token) = (by.room.to_owned(), by.token.to_owned());
        let known = Service { role: by.role, room, token, tasks_max, is_leaving, heard_at: now, seq };
        self.services.insert(service.clone(), known);
        for task in self.tasks.values_mut().filter(|task| task.service == service && task.is_known) {
            if !tasks.iter().any(|told| told.order.task == task.order.task) {
                task.end(now, "forgotten");
            }
        }
        tasks.into_iter().for_each(|told| self.tell(now, by.role, &service, told));
        self.forget(now);
        Ok(())
    }

    fn tell(&mut self, now: Instant, role: Role, service: &str, told: Told) {
        let Told { order, state, reason, detail } = told;
        let id = order.task.clone();
        let task = self.tasks.entry(id).or_insert_with(|| Task::new(role, order, service));
        let is_back = task.reason.as_deref() == Some(SERVICE_GONE);
        if task.service != service || task.role != role || (task.is_over() && !is_back) {
            return;
        }
        (task.state, task.reason, task.detail, task.ended_at, task.is_known) = (state, reason, detail, None, true);
        if state == State::Ended {
            task.end(now, "ended");
        }
    }

    /// What a service is to be told now, and whether `seq` is its latest report. `sign` makes the token for a task.
    pub(crate) fn orders(
        &self,
        service: &str,
        seq: u64,
        sign: impl Fn(Role, &Order) -> Option<String>,
    ) -> (Orders, bool) {
        let mine = || self.tasks.values().filter(|task| task.service == service && !task.is_over());
        let start = mine().filter(|task| !task.is_known && !task.is_stopping).filter_map(|task| {
            let token = sign(task.role, &task.order)?;
            Some(Start { order: task.order.clone(), token })
        });
        let stop = mine().filter(|task| task.is_stopping).map(|task| task.order.task.clone());
        let is_latest = self.services.get(service).is_some_and(|service| service.seq == seq);
        (Orders { start: start.collect(), stop: stop.collect() }, is_latest)
    }

    /// Orders a task of whoever has fewest.
    pub(crate) fn start(&mut self, now: Instant, role: Role, order: Order) -> Result<Task, TaskError> {
        self.expire(now);
        let room = order.room.clone();
        let open = || self.tasks.values().filter(|task| !task.is_over());
        if role == Role::Recorder && open().any(|task| task.is_of(role, &order.room) && !task.is_stopping) {
            return Err(TaskError::Already);
        }
        if open().filter(|task| task.order.room == order.room).count() >= TASKS_PER_ROOM_MAX {
            return Err(TaskError::TooMany);
        }
        let task = Task::new(role, order, &self.free(now, role, &room)?);
        self.tasks.insert(task.order.task.clone(), task.clone());
        Ok(task)
    }

    /// The service that has least to do, of those that can have another task in this room.
    pub(crate) fn free(&mut self, now: Instant, role: Role, room: &str) -> Result<String, TaskError> {
        self.expire(now);
        let is_good = |service: &Service| {
            service.role == role && !service.is_leaving && (service.room == ANY_ROOM || service.room == room)
        };
        let mut is_there = false;
        let mut least = None;
        for (name, service) in self.services.iter().filter(|(_, service)| is_good(service)) {
            is_there = true;
            let tasks = self.tasks.values().filter(|task| !task.is_over() && task.service == *name).count();
            // One whose token is for this room alone is there for it.
            let rank = (service.room == ANY_ROOM, tasks);
            if tasks < service.tasks_max && least.as_ref().is_none_or(|(other, _)| rank < *other) {
                least = Some((rank, name.clone()));
            }
        }
        let missing = if is_there { TaskError::Busy } else { TaskError::NoService };
        least.map(|(_, name)| name).ok_or(missing)
    }

    /// Orders the end of a task. One whose service is gone, or has not had the order, is over at once.
    pub(crate) fn stop(&mut self, now: Instant, role: Role, room: &str, id: &str) -> Result<Task, TaskError> {
        self.expire(now);
        let task = self.tasks.get_mut(id).filter(|task| task.is_of(role, room)).ok_or(TaskError::NoTask)?;
        task.is_stopping = true;
        if !task.is_known {
            task.end(now, "stopped");
        }
        Ok(task.clone())
    }

    /// The tasks of one kind in a room, the oldest first.
    pub(crate) fn list(&mut self, now: Instant, role: Role, room: &str) -> Vec<Task> {
        self.expire(now);
        let mut tasks: Vec<Task> = self.tasks.values().filter(|task| task.is_of(role, room)).cloned().collect();
        tasks.sort_by(|a, b| (a.order.ordered_at, &a.order.task).cmp(&(b.order.ordered_at, &b.order.task)));
        tasks
    }

    /// One of them.
    pub(crate) fn get(&mut self, now: Instant, role: Role, room: &str, id: &str) -> Result<Task, TaskError> {
        self.expire(now);
        self.tasks.get(id).filter(|task| task.is_of(role, room)).cloned().ok_or(TaskError::NoTask)
    }

    /// How many services of each role there are, and how many tasks they have.
    pub(crate) fn figures(&mut self, now: Instant) -> Vec<(Role, usize, usize)> {
        self.expire(now);
        let of_role = |role| {
            let services = self.services.values().filter(|service| service.role == role).count();
            let tasks = self.tasks.values().filter(|task| task.role == role && !task.is_over()).count();
            (role, services, tasks)
        };
        Role::ALL.into_iter().map(of_role).collect()
    }

    fn expire(&mut self, now: Instant) {
        let is_gone = |service: &Service| now.saturating_duration_since(service.heard_at) > SILENCE_MAX;
        self.services.retain(|_, service| !is_gone(service));
        let services = &self.services;
        let lost = |task: &&mut Task| !task.is_over() && !services.contains_key(&task.service);
        self.tasks.values_mut().filter(lost).for_each(|task| task.end(now, SERVICE_GONE));
        self.forget(now);
    }

    /// Forgets what ended long ago, and the oldest where there is too much.
    fn forget(&mut self, now: Instant) {
        let is_old = |at: Instant| now.saturating_duration_since(at) > ENDED_FOR;
        self.tasks.retain(|_, task| !task.ended_at.is_some_and(is_old));
        let mut ended: Vec<(Instant, String, String)> = Vec::new();
        for (id, task) in &self.tasks {
            ended.extend(task.ended_at.map(|at| (at, id.clone(), task.order.room.clone())));
        }
        ended.sort_by(|a, b| b.cmp(a));
        let mut of_rooms: BTreeMap<String, usize> = BTreeMap::new();
        for (n, (_, id, room)) in ended.into_iter().enumerate() {
            let of_room = of_rooms.entry(room).or_default();
            *of_room += 1;
            if n >= ENDED_MAX || *of_room > ENDED_PER_ROOM_MAX {
                self.tasks.remove(&id);
            }
        }
    }
}

/// Whether a report is within its bounds, and about what its token is for.
fn check(by: By<'_>, report: &Report) -> Result<(), ReportError> {
    let invalid = |what: &str| Err(ReportError::Invalid(what.to_owned()));
    let is_id = |id: &str| (1..=ID_LEN_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let len = |map: &Map<String, Value>| serde_json::to_string(map).map_or(usize::MAX, |text| text.len());
    if !is_id(&report.service) {
        return invalid("service is not 1 to 32 letters and digits");
    }
    if report.tasks_max > TASKS_MAX || report.tasks.len() > 2 * TASKS_MAX {
        return invalid("tasks_max is above 256, or there are more than 512 tasks");
    }
    for Told { order, reason, detail, .. } in &report.tasks {
        if !is_id(&order.task) || !is_room_name(&order.room) {
            return invalid("a task has an id or a room that cannot be");
        }
        if by.room != ANY_ROOM && by.room != order.room {
            return Err(ReportError::Invalid(format!("task {} is in a room that the token is not for", order.task)));
        }
        if !is_participant_name(&order.name) || !is_participant_name(&order.ordered_by) {
            return invalid("a task has a name that cannot be");
        }
        if len(&order.parameters) > DETAIL_LEN_MAX || len(detail) > DETAIL_LEN_MAX {
            return invalid("parameters or detail of a task are longer than 1024 bytes");
        }
        if reason.as_ref().is_some_and(|reason| reason.len() > REASON_LEN_MAX) {
            return invalid("the reason of a task is longer than 256 bytes");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: By<'_> = By { role: Role::Recorder, room: ANY_ROOM, token: "t" };

    fn order(task: &str, room: &str) -> Order {
        let (task, room) = (task.to_owned(), room.to_owned());
        Order { task, room, name: "R".into(), ordered_by: "Ada".into(), ordered_at: 1, parameters: Map::new() }
    }

    fn told(task: &str, state: State) -> Told {
        Told { order: order(task, "red"), state, reason: None, detail: Map::new() }
    }

    fn report(service: &str, seq: u64, tasks: Vec<Told>) -> Report {
        Report { service: service.into(), seq, tasks_max: 2, tasks, is_leaving: false }
    }

    fn orders(services: &Services, service: &str, seq: u64) -> (Vec<String>, Vec<String>, bool) {
        let (Orders { start, stop }, is_latest) = services.orders(service, seq, |_, order| Some(order.room.clone()));
        (start.into_iter().map(|start| start.order.task).collect(), stop, is_latest)
    }

    #[test]
    fn an_order_is_said_until_it_is_known_and_a_stop_until_it_is_done() {
        let (mut services, now) = (Services::default(), Instant::now());
        assert_eq!(services.start(now, Role::Recorder, order("1", "red")).unwrap_err(), TaskError::NoService);
        services.report(now, ALL, report("a", 1, Vec::new())).unwrap();
        services.start(now, Role::Recorder, order("1", "red")).unwrap();
        assert_eq!(services.start(now, Role::Recorder, order("2", "red")).unwrap_err(), TaskError::Already);
        assert_eq!(services.start(now, Role::Telephone, order("2", "red")).unwrap_err(), TaskError::NoService);
        let first = (vec!["1".to_owned()], Vec::new(), true);
        assert_eq!(orders(&services, "a", 1), first);
        services.report(now, ALL, report("a", 2, Vec::new())).unwrap();
        assert_eq!(orders(&services, "a", 2).0, ["1"], "the answer did not arrive");
        assert!(!orders(&services, "a", 1).2, "a later report was heard");
        services.report(now, ALL, report("a", 3, vec![told("1", State::Running)])).unwrap();
        assert_eq!(orders(&services, "a", 3), (Vec::new(), Vec::new(), true));
        services.report(now, ALL, report("a", 2, Vec::new())).unwrap();
        assert_eq!(
            services.get(now, Role::Recorder, "red", "1").unwrap().state,
            State::Running,
            "an old report changes nothing"
        );
        services.stop(now, Role::Recorder, "red", "1").unwrap();
        services.report(now, ALL, report("a", 4, vec![told("1", State::Running)])).unwrap();
        assert_eq!(orders(&services, "a", 4).1, ["1"]);
        services.report(now, ALL, report("a", 5, vec![told("1", State::Ended)])).unwrap();
        assert_eq!(orders(&services, "a", 5).1, [""; 0]);
        assert_eq!(services.get(now, Role::Recorder, "red", "1").unwrap().reason.as_deref(), Some("ended"));
        assert_eq!(services.stop(now, Role::Recorder, "blue", "1").unwrap_err(), TaskError::NoTask);
    }

    #[test]
    fn a_task_is_adopted_and_one_that_is_told_no_more_is_over() {
        let (mut services, now) = (Services::default(), Instant::now());
        services.report(now, ALL, report("a", 7, vec![told("1", State::Running)])).unwrap();
        assert_eq!(services.list(now, Role::Recorder, "red").len(), 1, "an earlier controlplane ordered it");
        services.report(now, By { token: "u", ..ALL }, report("b", 1, vec![told("1", State::Ended)])).unwrap();
        assert_eq!(services.get(now, Role::Recorder, "red", "1").unwrap().state, State::Running, "it is not theirs");
        assert_eq!(
            services.report(now, By { token: "u", ..ALL }, report("a", 8, Vec::new())),
            Err(ReportError::NameTaken)
        );
        services.report(now, ALL, report("a", 8, Vec::new())).unwrap();
        assert_eq!(services.get(now, Role::Recorder, "red", "1").unwrap().reason.as_deref(), Some("forgotten"));
    }

    #[test]
    fn a_service_that_is_silent_is_gone_and_may_come_back() {
        let (mut services, now) = (Services::default(), Instant::now());
        services.report(now, ALL, report("a", 1, vec![told("1", State::Running)])).unwrap();
        let later = now + SILENCE_MAX + Duration::from_secs(1);
        assert_eq!(services.get(later, Role::Recorder, "red", "1").unwrap().reason.as_deref(), Some(SERVICE_GONE));
        assert_eq!(services.start(later, Role::Recorder, order("2", "red")).unwrap_err(), TaskError::NoService);
        services.report(later, ALL, report("a", 2, vec![told("1", State::Running)])).unwrap();
        let task = services.get(later, Role::Recorder, "red", "1").unwrap();
        assert_eq!((task.state, task.reason), (State::Running, None));
        let long_after = later + SILENCE_MAX + ENDED_FOR + Duration::from_secs(2);
        services.get(later + SILENCE_MAX + Duration::from_secs(1), Role::Recorder, "red", "1").unwrap();
        assert_eq!(services.get(long_after, Role::Recorder, "red", "1"), Err(TaskError::NoTask));
    }

    #[test]
    fn the_one_with_least_to_do_is_told_and_none_beyond_what_it_can_have() {
        let (mut services, now) = (Services::default(), Instant::now());
        for name in ["a", "b"] {
            services.report(now, ALL, report(name, 1, Vec::new())).unwrap();
        }
        let own = By { room: "blue", token: "u", ..ALL };
        services.report(now, own, report("c", 1, Vec::new())).unwrap();
        for room in ["r1", "r2", "r3", "r4"] {
            services.start(now, Role::Recorder, order(room, room)).unwrap();
        }
        assert_eq!((orders(&services, "a", 1).0.len(), orders(&services, "b", 1).0.len()), (2, 2));
        assert_eq!(services.start(now, Role::Recorder, order("5", "r5")).unwrap_err(), TaskError::Busy);
        services.start(now, Role::Recorder, order("6", "blue")).unwrap();
        assert_eq!(orders(&services, "c", 1).0, ["6"], "it is there for this room");
    }

    #[test]
    fn what_is_told_has_its_bounds() {
        let (mut services, now) = (Services::default(), Instant::now());
        let blue = By { room: "blue", ..ALL };
        let foreign = services.report(now, blue, report("a", 1, vec![told("1", State::Running)]));
        assert!(matches!(foreign, Err(ReportError::Invalid(what)) if what.contains("a room")));
        let long = Map::from_iter([("x".to_owned(), "x".repeat(DETAIL_LEN_MAX).into())]);
        for wrong in [
            report("", 1, Vec::new()),
            report("a/b", 1, Vec::new()),
            Report { tasks_max: TASKS_MAX + 1, ..report("a", 1, Vec::new()) },
            report("a", 1, vec![Told { detail: long, ..told("1", State::Running) }]),
            report("a", 1, vec![Told { reason: Some("x".repeat(257)), ..told("1", State::Running) }]),
            report("a", 1, vec![told("../1", State::Running)]),
            report("a", 1, vec![told("1", State::Running); 2 * TASKS_MAX + 1]),
        ] {
            assert!(matches!(services.report(now, ALL, wrong), Err(ReportError::Invalid(_))));
        }
        for n in 0..SERVICES_PER_ROOM_MAX {
            services.report(now, blue, report(&format!("a{n}"), 1, Vec::new())).unwrap();
        }
        assert_eq!(services.report(now, blue, report("b", 1, Vec::new())), Err(ReportError::TooMany));
        for n in 0..SERVICES_MAX - SERVICES_PER_ROOM_MAX {
            services.report(now, ALL, report(&format!("c{n}"), 1, Vec::new())).unwrap();
        }
        assert_eq!(services.report(now, ALL, report("d", 1, Vec::new())), Err(ReportError::TooMany));
        for n in 0..10 * ENDED_PER_ROOM_MAX {
            let ended = report("c0", 2 + n as u64, vec![told(&n.to_string(), State::Ended)]);
            services.report(now, ALL, ended).unwrap();
        }
        assert_eq!(services.list(now, Role::Recorder, "red").len(), ENDED_PER_ROOM_MAX);
        assert_eq!(services.figures(now)[0], (Role::Recorder, SERVICES_MAX, 0));
    }
}
