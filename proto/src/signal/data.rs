//! Data between the peers of a room: the same on the signalling socket and on the client module's data channels.

use serde::{Deserialize, Serialize};

/// Bytes of a message at most; what `a=max-message-size` says (RFC 8841 §6).
pub const MESSAGE_LEN_MAX: usize = 256 * 1024;

/// Bytes of text or base64 in one part of a message on the socket, at most.
pub const PART_LEN_MAX: usize = 48 * 1024;

/// A message to others in the room, or a part of one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSent {
    /// What the message is about, at most 64 bytes: the name of a channel for the application.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// The ids of the peers that it is for. Absent: everybody else in the room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<String>>,
    /// Whether it must arrive, once and in order. If not, it is sent once, and dropped where it would come late.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub reliable: bool,
    /// The number of a reliable message: from 1, one more for each, counted by the sender for one session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The message, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The message in base64 (RFC 4648 §4), if it is binary. On a data channel the bytes follow the signal instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
    /// Whether further parts of the same message follow: on the socket a message of more than [`PART_LEN_MAX`] comes in parts.
    #[serde(default, skip_serializing_if = "is_no")]
    pub more: bool,
}

/// A message of somebody else, or a part of one. Fields as in [`DataSent`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataReceived {
    /// Who sent it. Absent: the application's server, by REST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Whether the sender was to know that it arrived.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub reliable: bool,
    /// The sender's number of a reliable message. One that is not above the last of this sender was here before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The message, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The message in base64, if it is binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
    /// Whether further parts follow.
    #[serde(default, skip_serializing_if = "is_no")]
    pub more: bool,
}

/// Why messages for a peer, or one message, were given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataEndReason {
    /// It took them more slowly than they came: it was half a megabyte behind others, or a megabyte waited.
    Slow,
    /// It was longer than its description says that it takes (`a=max-message-size`, RFC 8841 §6). Told to clients of another kind than the client module, the
    /// first time.
    TooLong,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

fn is_no(value: &bool) -> bool {
    !*value
}
