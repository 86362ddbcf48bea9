//! Work for rooms that runs in processes of its own, which are called *services*: recordings, streams, telephone calls, feeds. A service
//! asks the controlplane for orders (`POST /v1/services`, docs/SERVICES.md) and says each time what it is doing, so both sides agree
//! again after either was replaced.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Tasks that one service may have.
pub const TASKS_MAX: usize = 256;
/// Bytes of what an order says besides its room and name, and of what a service tells of a task, as JSON.
pub const DETAIL_LEN_MAX: usize = 1024;
/// Bytes of the reason for which a task has ended.
pub const REASON_LEN_MAX: usize = 256;
/// Bytes of a report: twice [`TASKS_MAX`] tasks with names and reasons of which each byte is escaped fit into it.
pub const REPORT_LEN_MAX: usize = 3 * 1024 * 1024;

/// What a peer is that is no person's device. Others see it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Keeps what the room sends.
    Recorder,
    /// Sends what the room sends on to an audience outside of it.
    Streamer,
    /// A telephone.
    Telephone,
    /// Brings a feed from outside into the room.
    Feed,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 4] = [Role::Recorder, Role::Streamer, Role::Telephone, Role::Feed];

    /// As tokens and signals name it.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Recorder => "recorder",
            Role::Streamer => "streamer",
            Role::Telephone => "telephone",
            Role::Feed => "feed",
        }
    }

    /// What the tasks of such a service are called in the addresses of REST.
    pub const fn collection(self) -> &'static str {
        match self {
            Role::Recorder => "recordings",
            Role::Streamer => "streams",
            Role::Telephone => "calls",
            Role::Feed => "feeds",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether a peer of it has something to send.
    pub const fn publishes(self) -> bool {
        matches!(self, Role::Telephone | Role::Feed)
    }

    /// Whether a peer of it receives.
    pub const fn subscribes(self) -> bool {
        !matches!(self, Role::Feed)
    }
}

/// What a service is to do. It tells it back with each report, so that a controlplane that does not know of it learns all of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Its id.
    pub task: String,
    /// In which room.
    pub room: String,
    /// The name that others see there.
    pub name: String,
    /// The name in the token of whoever ordered it.
    pub ordered_by: String,
    /// When, seconds since 1970.
    pub ordered_at: u64,
    /// What is peculiar to the kind of work.
    #[serde(default)]
    pub parameters: Map<String, Value>,
}

impl Order {
    /// Whether it says nothing peculiar but these; else what a task that is not begun for it ends with.
    pub fn has_only(&self, names: &[&str]) -> Result<(), String> {
        match self.parameters.keys().find(|key| !names.contains(&key.as_str())) {
            Some(key) => {
                let known = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                Err(format!(
                    "bad_parameters: {} is not known here, {known} is",
                    key.escape_default().take(64).collect::<String>()
                ))
            }
            None => Ok(()),
        }
    }

    /// A text that is peculiar to the kind of work.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).and_then(Value::as_str)
    }
}

/// How far a task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is being begun.
    Starting,
    /// It is under way.
    Running,
    /// It is over.
    Ended,
}

/// What a service says of one of its tasks.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Told {
    /// What was ordered.
    pub order: Order,
    /// How far it is.
    pub state: State,
    /// Why it has ended: a stable name, a colon and a sentence, or the name alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What whoever ordered it is to know: an address, a folder.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub detail: Map<String, Value>,
}

/// What a service says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Its name, random, the same for as long as the process lives.
    pub service: String,
    /// One more than that of the report before.
    pub seq: u64,
    /// How many tasks it can have at once.
    pub tasks_max: usize,
    /// All that it has, and what has ended since its last report that was answered.
    pub tasks: Vec<Told>,
    /// Whether it is about to end, and takes nothing more.
    #[serde(default)]
    pub is_leaving: bool,
}

/// A task to begin.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Start {
    /// What.
    pub order: Order,
    /// A token for the room.
    pub token: String,
}

/// What a service is answered. It says what is to be and not what has changed: an answer that is lost is said again.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Orders {
    /// What it has not begun yet.
    #[serde(default)]
    pub start: Vec<Start>,
    /// Ids of tasks to end.
    #[serde(default)]
    pub stop: Vec<String>,
}
