//! A process that waits for orders of the controlplane: recordings, streams, telephone calls, feeds (docs/SERVICES.md).
//!
//! ```text
//! serve ─▶ POST /v1/services { what I do } ─▶ { what to begin, what to end } ─▶ again
//!            └─ run(Task) for each that begins: Task::running, Task::stopped
//! ```
//! Each report says all that the process does, and each answer says all that it should do and does not, so one that was lost is
//! repaired by the next. While the server is away, tasks go on.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use proto::work::{DETAIL_LEN_MAX, Order, Orders, REASON_LEN_MAX, Report, Start, State, Told};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::http::{Request, Server};
use crate::random::Random;

/// A report is answered after 8 s at the latest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// After a report that was not answered.
const RETRY: Duration = Duration::from_secs(1);
/// For how long tasks that are told to end may take, when the process ends.
const FAREWELL: Duration = Duration::from_secs(10);
/// For how long the last report may wait for its answer, which comes only when there is something to be said.
const GOODBYE: Duration = Duration::from_secs(1);

/// What waits for orders.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of which server.
    pub server: Server,
    /// A token with the claim `role`.
    pub token: String,
    /// How many tasks it can have at once.
    pub tasks_max: usize,
}

/// Why it waits no longer.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The server does not take the token, or knows no services.
    #[error("the server refused with status {status}: {body}")]
    Refused {
        /// HTTP status code.
        status: u16,
        /// What it said.
        body: String,
    },
}

/// Something to do.
#[derive(Debug)]
pub struct Task {
    /// What was ordered.
    pub order: Order,
    /// A token for the room.
    pub token: String,
    news: mpsc::Sender<(String, Map<String, Value>)>,
    stop: watch::Receiver<bool>,
}

impl Task {
    /// Says that it is under way, and what whoever ordered it is to know: at most [`DETAIL_LEN_MAX`] bytes as JSON, more is left out.
    pub async fn running(&self, detail: Map<String, Value>) {
        // The server takes no more, and would refuse the report of all tasks.
        let detail = if len(&detail) <= DETAIL_LEN_MAX { detail } else { Map::new() };
        // Who waits for news is there as long as the task.
        let _ = self.news.send((self.order.task.clone(), detail)).await;
    }

    /// Waits until it is to end.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.stop.clone();
        async move { drop(stop.wait_for(|&is_stopping| is_stopping).await) }
    }
}

fn len(detail: &Map<String, Value>) -> usize {
    serde_json::to_string(detail).map_or(usize::MAX, |text| text.len())
}

/// One that was begun.
struct Begun {
    order: Order,
    work: Id,
    state: State,
    detail: Map<String, Value>,
    reason: Option<String>,
    stop: watch::Sender<bool>,
    /// Whether a report that said how it ended was answered, if so which.
    told_in: Option<u64>,
}

/// Waits for orders and has each done by `run`, which returns why it ended: a stable name, and perhaps a colon and a sentence. Ends when
/// `stop` does, after all tasks were told to, or when the server refuses; then all are told to end, too.
pub async fn serve<R, F>(settings: Settings, run: R, stop: impl Future<Output = ()>) -> Result<(), ServiceError>
where
    R: Fn(Task) -> F,
    F: Future<Output = String> + Send + 'static,
{
    let (news, mut said) = mpsc::channel(64);
    let Settings { tasks_max, .. } = settings;
    let mut service = Service {
        tasks_max,
        name: format!("{:016x}", Random::from_system().u64()),
        seq: 0,
        tasks: BTreeMap::new(),
        running: JoinSet::new(),
        news,
        is_leaving: false,
    };
    let mut stop = std::pin::pin!(stop);
    let mut retry_at = Instant::now();
    let refused = loop {
        let report = service.report();
        let answered = async {
            sleep_until(retry_at).await;
            settings.ask(&report).await
        };
        tokio::select! {
            answer = answered => match answer {
                Ok(orders) => {
                    service.tasks.retain(|_, task| task.told_in != Some(report.seq));
                    service.obey(orders, &run);
                }
                Err(Failed::Refused(error)) => break Some(error),
                Err(Failed::Later(why)) => {
                    tracing::warn!(event = "service_not_heard", why, "the server does not answer; its tasks go on");
                    retry_at = Instant::now() + RETRY;
                }
            },
            Some((id, detail)) = said.recv() => service.is_running(&id, detail),
            Some(ended) = service.running.join_next_with_id() => service.ended(ended),
            () = &mut stop => break None,
        }
    };
    service.end_all(&mut said).await;
    if refused.is_none() {
        // Who is not heard is given up after its silence.
        let _ = timeout(GOODBYE, settings.ask(&service.report())).await;
    }
    refused.map_or(Ok(()), Err)
}

/// Why a report was not answered.
enum Failed {
    Refused(ServiceError),
    Later(String),
}

impl Settings {
    async fn ask(&self, report: &Report) -> Result<Orders, Failed> {
        let later = |error: &dyn std::fmt::Display| Failed::Later(error.to_string());
        let body = serde_json::to_string(report).map_err(|error| later(&error))?;
        let request = Request {
            method: "POST",
            path: "/v1/services",
            token: Some(&self.token),
            content: Some(("application/json", &body)),
        };
        let response = self.server.request(request, ANSWER_TIMEOUT).await.map_err(|error| later(&error))?;
        match response.status {
            200 => serde_json::from_str(&response.body).map_err(|error| later(&error)),
            // What another report, or a later one, may be answered otherwise.
            408 | 409 | 429 | 500.. => Err(later(&response.body)),
            status => Err(Failed::Refused(ServiceError::Refused { status, body: response.body })),
        }
    }
}

struct Service {
    tasks_max: usize,
    name: String,
    seq: u64,
    tasks: BTreeMap<String, Begun>,
    running: JoinSet<String>,
    news: mpsc::Sender<(String, Map<String, Value>)>,
    is_leaving: bool,
}

impl Service {
    fn report(&mut self) -> Report {
        self.seq += 1;
        let tasks = self.tasks.values_mut().map(|task| {
            if task.state == State::Ended {
                task.told_in = Some(self.seq);
            }
            let (order, reason, detail) = (task.order.clone(), task.reason.clone(), task.detail.clone());
            Told { order, state: task.state, reason, detail }
        });
        let tasks = tasks.collect();
        let (tasks_max, is_leaving) = (self.tasks_max, self.is_leaving);
        Report { service: self.name.clone(), seq: self.seq, tasks_max, tasks, is_leaving }
    }

    fn obey<R, F>(&mut self, orders: Orders, run: &R)
    where
        R: Fn(Task) -> F,
        F: Future<Output = String> + Send + 'static,
    {
        for Start { order, token } in orders.start {
            if self.tasks.contains_key(&order.task) || self.running.len() >= self.tasks_max {
                continue;
            }
            let (stop, stopped) = watch::channel(false);
            let id = order.task.clone();
            tracing::info!(event = "task_begun", task = id, room = order.room, by = order.ordered_by, "was ordered");
            let done = run(Task { order: order.clone(), token, news: self.news.clone(), stop: stopped });
            let (state, detail) = (State::Starting, Map::new());
            let work = self.running.spawn(done).id();
            self.tasks.insert(id, Begun { order, work, state, detail, reason: None, stop, told_in: None });
        }
        for task in orders.stop.iter().filter_map(|id| self.tasks.get(id)) {
            task.stop.send_replace(true);
        }
    }

    fn is_running(&mut self, id: &str, detail: Map<String, Value>) {
        if let Some(task) = self.tasks.get_mut(id).filter(|task| task.state != State::Ended) {
            (task.state, task.detail) = (State::Running, detail);
        }
    }

    fn ended(&mut self, ended: Result<(Id, String), JoinError>) {
        let (work, mut reason) = ended.unwrap_or_else(|error| (error.id(), format!("failed: {error}")));
        let Some((id, task)) = self.tasks.iter_mut().find(|(_, task)| task.work == work) else { return };
        while reason.len() > REASON_LEN_MAX {
            reason.pop();
        }
        tracing::info!(event = "task_over", task = id, reason, "is over");
        (task.state, task.reason) = (State::Ended, Some(reason));
    }

    /// Ends all tasks.
    async fn end_all(&mut self, said: &mut mpsc::Receiver<(String, Map<String, Value>)>) {
        self.is_leaving = true;
        for task in self.tasks.values() {
            task.stop.send_replace(true);
        }
        let until = Instant::now() + FAREWELL;
        while !self.running.is_empty() {
            tokio::select! {
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                Some(_) = said.recv() => {}
                () = sleep_until(until) => break,
            }
        }
    }
}
