//! `uprtc rooms`, `peers` and `kick`: an operator's look at a server and hand in it, over its REST interface. The
//! token is made on the spot with the key in the state folder, good for a minute; or it is `UPRTC_TOKEN`.

use std::io::Write;
use std::time::Duration;

use controlplane::auth::{Claims, TokenKeys, is_room_name};
use serde_json::Value;

use crate::cli::{Remote, Shown};
use crate::client::Server;
use crate::options::Sources;
use crate::{Failure, options};

/// How long a server may take to connect, and to each part of its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// `uprtc rooms`
pub(crate) fn rooms(remote: &Remote, shown: &Shown) -> Result<(), Failure> {
    let rooms = all(remote, "/v1/rooms", "rooms")?;
    show(
        shown,
        rooms,
        &[("ROOM", "room"), ("PEERS", "peers"), ("OF", "peers_max"), ("LOCKED", "locked"), ("WORKER", "worker")],
    )
}

/// `uprtc peers ROOM`
pub(crate) fn peers(remote: &Remote, shown: &Shown, room: &str) -> Result<(), Failure> {
    let peers = all(remote, &format!("/v1/rooms/{}/peers", room_name(room)?), "peers")?;
    show(
        shown,
        peers,
        &[("PEER", "peer"), ("NAME", "name"), ("STATE", "state"), ("SOCKET", "has_socket"), ("TRACKS", "tracks")],
    )
}

/// `uprtc kick ROOM PEER`
pub(crate) fn kick(remote: &Remote, room: &str, peer: &str) -> Result<(), Failure> {
    if !is_room_name(peer) {
        return Err(format!("{peer:?} is not the id of a peer: `uprtc peers {room}` shows them").into());
    }
    ask(remote, "DELETE", &format!("/v1/rooms/{}/peers/{peer}", room_name(room)?)).map(|_| ())
}

fn room_name(room: &str) -> Result<&str, Failure> {
    match is_room_name(room) {
        true => Ok(room),
        false => Err(format!("{room:?} is not the name of a room: 1 to 64 of A-Z a-z 0-9 . _ -").into()),
    }
}

/// Every page of a list.
fn all(remote: &Remote, path: &str, field: &str) -> Result<Vec<Value>, Failure> {
    let (mut entries, mut after) = (Vec::new(), String::new());
    loop {
        let mut page = ask(remote, "GET", &format!("{path}?limit=100{after}"))?;
        entries.extend(page[field].as_array_mut().map(std::mem::take).unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(entries),
        }
    }
}

/// One request and its answer; a refusal is said in the server's words.
fn ask(remote: &Remote, method: &str, path: &str) -> Result<Value, Failure> {
    let (server, token) = (server(remote)?, token(remote)?);
    let name = server.name();
    let answer = server
        .ask(method, path, Some(&token), PATIENCE)
        .map_err(|error| format!("cannot ask {name}: {error}; --server HOST:PORT or https://HOST says where it is"))?;
    let status = answer.status;
    let body: Value = match answer.body.as_str() {
        "" => Value::Null,
        body => serde_json::from_str(body).map_err(|_| format!("{name} answers {status} and no JSON: is it uprtc?"))?,
    };
    match status {
        200..=299 => Ok(body),
        _ => Err(format!("{name} refuses ({status}): {}", body["detail"].as_str().unwrap_or("without a word")).into()),
    }
}

/// The server that is named, or the one of the settings.
fn server(remote: &Remote) -> Result<Server, Failure> {
    let options = || Sources { common: remote.common.clone(), ..Sources::default() }.read();
    match &remote.server {
        Some(server) => Server::named(server, remote.ca.as_deref(), options),
        None => {
            let options = options()?;
            Ok(Server::own(&options, options.listen))
        }
    }
}

fn token(remote: &Remote) -> Result<String, Failure> {
    match std::env::var("UPRTC_TOKEN") {
        Ok(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(token),
        Ok(_) => Err("UPRTC_TOKEN is no token: it has characters that no token has".into()),
        Err(_) => {
            let keys = TokenKeys::load_or_create(&options::resolve_state(&remote.common)?)?;
            Ok(keys.sign(&Claims { admin: true, ..Claims::new("*", "uprtc", 60) })?)
        }
    }
}

/// As a table for people, or as JSON for programs.
fn show(shown: &Shown, entries: Vec<Value>, columns: &[(&str, &str)]) -> Result<(), Failure> {
    let text = match shown.json {
        true => serde_json::to_string_pretty(&entries)? + "\n",
        false => table(&entries, columns),
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn table(entries: &[Value], columns: &[(&str, &str)]) -> String {
    let title: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let row = |entry: &Value| columns.iter().map(|(_, field)| cell(&entry[*field])).collect();
    let rows: Vec<Vec<String>> = std::iter::once(title).chain(entries.iter().map(row)).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let padded: String = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}  ")).collect();
        format!("{}\n", padded.trim_end())
    };
    rows.iter().map(line).collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(is) => if *is { "yes" } else { "no" }.to_owned(),
        // A name may hold what moves a terminal's cursor; JSON's escapes do not.
        Value::String(text) => text.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        Value::Array(tracks) => {
            let track = |track: &Value| {
                let state = match (&track["muted"], &track["active"]) {
                    (Value::Bool(true), _) => " (muted)",
                    (_, Value::Bool(true)) => "",
                    _ => " (off)",
                };
                format!("{}:{}{state}", cell(&track["mid"]), cell(&track["source"]))
            };
            tracks.iter().map(track).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_is_for_people() {
        let peer = json!({"peer": "0a1b", "name": "Ada\u{1b}[2J", "tracks": [
            {"mid": "0", "source": "microphone", "active": false, "muted": true},
            {"mid": "1", "source": "camera", "active": true, "muted": false},
            {"mid": "2", "source": "screen", "active": false, "muted": false}
        ]});
        let text = table(&[peer], &[("PEER", "peer"), ("NAME", "name"), ("WORKER", "worker"), ("TRACKS", "tracks")]);
        assert_eq!(
            text,
            "PEER  NAME     WORKER  TRACKS\n0a1b  Ada?[2J  -       0:microphone (muted), 1:camera, 2:screen (off)\n"
        );
        assert_eq!(table(&[], &[("ROOM", "room")]), "ROOM\n");
    }
}
