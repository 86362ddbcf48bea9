//! A message of the application's server into a room.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::signal::MESSAGE_LEN_MAX;

use super::views::DataRequest;
use super::{Admin, At, Body, Problem, Site, ask_engine};
use crate::data::{LABEL_LEN_MAX, TO_MAX};
use crate::engine::OperatorRequest;

/// Bytes of a body: the longest message in base64, and what is said of it; text of control characters takes six times its length.
pub(super) const BODY_LEN_MAX: usize = 2 * 1024 * 1024;

/// Send a message to everybody in a room, or to some.
///
/// It comes as messages of peers do, by data channel or by the signalling socket, without a sender. A reliable one waits for those who are
/// slow or away, up to half a megabyte for each. Answered as soon as it is on its way. The edge that is asked must have somebody in the room.
#[utoipa::path(post, path = "/v1/rooms/{room}/data", tag = "rooms", operation_id = "send_data", params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$")), request_body = DataRequest,
    responses((status = 202, description = "It is on its way")))]
pub(super) async fn send(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
    Body(DataRequest { label, to, reliable, text, binary }): Body<DataRequest>,
) -> Result<StatusCode, Problem> {
    admin.of_room(&room)?;
    if label.len() > LABEL_LEN_MAX {
        return Err(Problem::invalid(format!("label is longer than {LABEL_LEN_MAX} bytes")));
    }
    if to.as_ref().is_some_and(|to| to.len() > TO_MAX) {
        return Err(Problem::invalid(format!("to names more than {TO_MAX} peers")));
    }
    let said = match (text, binary) {
        (Some(text), None) => Ok(text),
        (None, Some(binary)) => {
            Err(STANDARD.decode(&binary).map_err(|_| Problem::invalid("binary is not base64 (RFC 4648 section 4)"))?)
        }
        _ => return Err(Problem::invalid("a message has either text or binary")),
    };
    if said.as_ref().map_or_else(Vec::len, String::len) > MESSAGE_LEN_MAX {
        return Err(Problem::invalid(format!("the message is longer than {MESSAGE_LEN_MAX} bytes")));
    }
    ask_engine(&site, OperatorRequest::SendData { room, to, label, is_reliable: reliable, said }).await?;
    Ok(StatusCode::ACCEPTED)
}
