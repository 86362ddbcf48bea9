//! `uprtc rooms`, `peers`, `kick` and `move`: an operator's look at a server and hand in it, over its REST interface. The
//! token is made on the spot with the key in the state folder, good for a minute; or it is `UPRTC_TOKEN`.

use std::io::Write;
use std::time::Duration;

use controlplane::auth::{Claims, TokenKeys, is_room_name};
use serde_json::{Value, json};

use crate::cli::{Remote, Shown};
use crate::client::Server;
use crate::options::Sources;
use crate::{Failure, options};

/// How long a server may take to connect, and to each part of its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A column of a table: its title, where its value is (RFC 6901), and how it is shown.
type Column = (&'static str, &'static str, fn(&Value) -> String);

/// `uprtc rooms`
pub(crate) fn rooms(remote: &Remote, shown: &Shown) -> Result<(), Failure> {
    let rooms = all(remote, "/v1/rooms", "rooms")?;
    show(
        shown,
        rooms,
        &[
            ("ROOM", "/room", cell),
            ("PEERS", "/peers", cell),
            ("OF", "/peers_max", cell),
            ("LOCKED", "/locked", cell),
            ("WORKER", "/worker", cell),
        ],
    )
}

/// `uprtc peers ROOM`
pub(crate) fn peers(remote: &Remote, shown: &Shown, room: &str) -> Result<(), Failure> {
    let peers = all(remote, &format!("/v1/rooms/{}/peers", room_name(room)?), "peers")?;
    show(
        shown,
        peers,
        &[
            ("PEER", "/peer", cell),
            ("NAME", "/name", cell),
            ("STATE", "/state", cell),
            ("SOCKET", "/has_socket", cell),
            ("UP", "/up/bps", rate),
            ("LOST", "/up/loss", percent),
            ("DOWN", "/down/bps", rate),
            ("LOST", "/down/loss", percent),
            ("RTT", "/rtt_ms", milliseconds),
            ("TRACKS", "/tracks", cell),
        ],
    )
}

/// `uprtc kick ROOM PEER`
pub(crate) fn kick(remote: &Remote, room: &str, peer: &str) -> Result<(), Failure> {
    let path = format!("/v1/rooms/{}/peers/{}", room_name(room)?, peer_id(room, peer)?);
    ask(remote, "DELETE", &path, None).map(|_| ())
}

/// `uprtc move ROOM PEER TO`
pub(crate) fn relocate(remote: &Remote, room: &str, peer: &str, to: &str) -> Result<(), Failure> {
    let path = format!("/v1/rooms/{}/peers/{}/move", room_name(room)?, peer_id(room, peer)?);
    ask(remote, "POST", &path, Some(json!({"room": room_name(to)?}))).map(|_| ())
}

/// Ids are of the letters that rooms' names are of.
fn peer_id<'a>(room: &str, peer: &'a str) -> Result<&'a str, Failure> {
    match is_room_name(peer) {
        true => Ok(peer),
        false => Err(format!("{peer:?} is not the id of a peer: `uprtc peers {room}` shows them").into()),
    }
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
        let mut page = ask(remote, "GET", &format!("{path}?limit=100{after}"), None)?;
        entries.extend(page[field].as_array_mut().map(std::mem::take).unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(entries),
        }
    }
}

/// One request and its answer; a refusal is said in the server's words.
fn ask(remote: &Remote, method: &str, path: &str, body: Option<Value>) -> Result<Value, Failure> {
    let (server, token) = (server(remote)?, token(remote)?);
    let name = server.name();
    let answer = server
        .ask(method, path, Some(&token), body.as_ref(), PATIENCE)
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
fn show(shown: &Shown, entries: Vec<Value>, columns: &[Column]) -> Result<(), Failure> {
    let text = match shown.json {
        true => serde_json::to_string_pretty(&entries)? + "\n",
        false => table(&entries, columns),
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn table(entries: &[Value], columns: &[Column]) -> String {
    let title: Vec<String> = columns.iter().map(|(title, ..)| (*title).to_owned()).collect();
    let shown = |entry: &Value, (_, place, form): &Column| form(entry.pointer(place).unwrap_or(&Value::Null));
    let row = |entry: &Value| columns.iter().map(|column| shown(entry, column)).collect();
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

/// Bits per second in three digits.
fn rate(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(bps) if bps < 1e3 => format!("{bps:.0}"),
        Some(bps) if bps < 1e6 => format!("{:.0}k", bps / 1e3),
        Some(bps) => format!("{:.1}M", bps / 1e6),
    }
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or("-".to_owned(), |fraction| format!("{:.1}%", fraction * 100.0))
}

fn milliseconds(value: &Value) -> String {
    value.as_f64().map_or("-".to_owned(), |ms| format!("{ms:.0}ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_for_people() {
        let peer = json!({"peer": "0a1b", "name": "Ada\u{1b}[2J", "tracks": [
            {"mid": "0", "source": "microphone", "active": false, "muted": true},
            {"mid": "1", "source": "camera", "active": true, "muted": false},
            {"mid": "2", "source": "screen", "active": false, "muted": false}
        ]});
        let columns: [Column; 4] = [
            ("PEER", "/peer", cell),
            ("NAME", "/name", cell),
            ("WORKER", "/worker", cell),
            ("TRACKS", "/tracks", cell),
        ];
        let text = table(&[peer], &columns);
        assert_eq!(
            text,
            "PEER  NAME     WORKER  TRACKS\n0a1b  Ada?[2J  -       0:microphone (muted), 1:camera, 2:screen (off)\n"
        );
        assert_eq!(table(&[], &[("ROOM", "/room", cell)]), "ROOM\n");
    }

    #[test]
    fn numbers_are_short_and_what_is_not_known_is_a_dash() {
        let peer = json!({"up": {"bps": 1_234_567, "loss": 0.0123}, "down": {"bps": 32_100}, "rtt_ms": 12.3});
        let columns: [Column; 5] = [
            ("UP", "/up/bps", rate),
            ("LOST", "/up/loss", percent),
            ("DOWN", "/down/bps", rate),
            ("LOST", "/down/loss", percent),
            ("RTT", "/rtt_ms", milliseconds),
        ];
        assert_eq!(table(&[peer], &columns), "UP    LOST  DOWN  LOST  RTT\n1.2M  1.2%  32k   -     12ms\n");
    }
}
