//! `uprtc rooms`, `peers`, `nodes`, `kick` and `move`: an operator's look at a server and hand in it, over its REST interface. The
//! token is made on the spot with the key in the state folder, good for a minute; or it is `UPRTC_TOKEN`. Which server is meant,
//! [`crate::running`] says.

use std::io::Write;
use std::time::Duration;

use controlplane::auth::{Claims, is_room_name};
use serde_json::{Value, json};

use crate::Failure;
use crate::cli::{Common, Remote, Shown};
use crate::options::Sources;
use crate::remote::Server;
use crate::running::{self, Running};

/// How long one request may take in all.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A column of a table: its title, where its value is (RFC 6901), and how it is shown.
type Column = (&'static str, &'static str, fn(&Value) -> String);

/// `uprtc rooms`
pub(crate) fn rooms(common: &Common, remote: &Remote, shown: &Shown) -> Result<(), Failure> {
    let rooms = Api::find(common, remote)?.all("/v1/rooms", "rooms")?;
    show(
        shown,
        rooms,
        &[
            ("ROOM", "/room", cell),
            ("PEERS", "/peers", cell),
            ("OF", "/peers_max", cell),
            ("LOCKED", "/locked", cell),
            ("WORKER", "/workers", numbers),
        ],
    )
}

/// `uprtc peers ROOM`
pub(crate) fn peers(common: &Common, remote: &Remote, shown: &Shown, room: &str) -> Result<(), Failure> {
    let path = format!("/v1/rooms/{}", room_name(room)?);
    let api = Api::find(common, remote)?;
    api.ask("GET", &path, None)?; // A list of nobody would not tell a room that is empty from one that is not there.
    let peers = api.all(&format!("{path}/peers"), "peers")?;
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

/// `uprtc nodes`
pub(crate) fn nodes(common: &Common, remote: &Remote, shown: &Shown) -> Result<(), Failure> {
    let api = Api::find(common, remote)?;
    let cluster = api.ask("GET", "/v1/nodes?limit=1", None)?;
    if cluster["cluster"].is_null() {
        return Err("this server is in no cluster: the setting `cluster` names one (docs/EDGES.md)".into());
    }
    if let Some(problem) = cluster["problem"].as_str() {
        eprintln!("uprtc: {}", cell(&json!(problem)));
    }
    for refused in cluster["refused"].as_array().into_iter().flatten() {
        eprintln!("uprtc: the record {} is refused: {}", cell(&refused["key"]), cell(&refused["detail"]));
    }
    show(
        shown,
        api.all("/v1/nodes", "nodes")?,
        &[
            ("NODE", "/node", cell),
            ("REGION", "/region", word),
            ("CARRIER", "/carrier", word),
            ("STATE", "/state", cell),
            ("HEARD", "/heard_s", ago),
            ("PEERS", "/peers", cell),
            ("BUSY", "/busy_permille", permille),
            ("WORKERS", "/workers", count),
            ("RTT", "/paths", direct_round_trip),
            ("LOST", "/paths", direct_loss),
            ("URL", "/url", cell),
        ],
    )
}

/// `uprtc kick ROOM PEER`
pub(crate) fn kick(common: &Common, remote: &Remote, room: &str, peer: &str) -> Result<(), Failure> {
    let path = format!("/v1/rooms/{}/peers/{}", room_name(room)?, peer_id(room, peer)?);
    Api::find(common, remote)?.ask("DELETE", &path, None).map(|_| ())
}

/// `uprtc move ROOM PEER TO`
pub(crate) fn relocate(common: &Common, remote: &Remote, room: &str, peer: &str, to: &str) -> Result<(), Failure> {
    let path = format!("/v1/rooms/{}/peers/{}/move", room_name(room)?, peer_id(room, peer)?);
    let to = json!({"room": room_name(to)?});
    Api::find(common, remote)?.ask("POST", &path, Some(to)).map(|_| ())
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

/// A server and the token that opens its REST interface.
struct Api {
    server: Server,
    token: String,
}

impl Api {
    /// The server that is named, or the one that runs with the state folder.
    fn find(common: &Common, remote: &Remote) -> Result<Api, Failure> {
        let server = match &remote.server {
            Some(server) => {
                let options = || Sources { common: common.clone(), ..Sources::default() }.read();
                Server::named(server, remote.ca.as_deref(), options)?
            }
            None => {
                let elsewhere = "--server HOST:PORT or https://HOST names one elsewhere";
                let running = running::state(common).and_then(|state| Running::find(&state));
                Server::running(&running.map_err(|failure| format!("{failure}; {elsewhere}"))?)
            }
        };
        Ok(Api { server, token: token(common)? })
    }

    /// Every page of a list.
    fn all(&self, path: &str, field: &str) -> Result<Vec<Value>, Failure> {
        let (mut entries, mut after) = (Vec::new(), String::new());
        loop {
            let mut page = self.ask("GET", &format!("{path}?limit=100{after}"), None)?;
            entries.extend(page[field].as_array_mut().map(std::mem::take).unwrap_or_default());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(entries),
            }
        }
    }

    /// One request and its answer; a refusal is reported in the server's words.
    fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let name = self.server.name();
        let answer =
            self.server.ask(method, path, Some(&self.token), body.as_ref(), REQUEST_TIMEOUT).map_err(|error| {
                format!("cannot ask {name}: {error}; --server HOST:PORT or https://HOST says where it is")
            })?;
        let status = answer.status;
        let body: Value = match answer.body.as_str() {
            "" => Value::Null,
            body => {
                serde_json::from_str(body).map_err(|_| format!("{name} answers {status} and no JSON: is it uprtc?"))?
            }
        };
        match status {
            200..=299 => Ok(body),
            _ => {
                let detail = body["detail"].as_str().unwrap_or("without a word");
                Err(format!("{name} refuses ({status}): {detail}").into())
            }
        }
    }
}

fn token(common: &Common) -> Result<String, Failure> {
    match std::env::var("UPRTC_TOKEN") {
        Ok(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(token),
        Ok(_) => Err("UPRTC_TOKEN is no token: it has characters that no token has".into()),
        Err(_) => {
            let keys = running::keys(&running::state(common)?)?;
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
    let shown = |entry: &Value, (_, pointer, form): &Column| form(entry.pointer(pointer).unwrap_or(&Value::Null));
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

/// A word that may be empty.
fn word(value: &Value) -> String {
    if value == "" { "-".to_owned() } else { cell(value) }
}

fn count(value: &Value) -> String {
    value.as_array().map_or("-".to_owned(), |all| all.len().to_string())
}

fn permille(value: &Value) -> String {
    value.as_f64().map_or("-".to_owned(), |permille| format!("{:.0}%", permille / 10.0))
}

fn ago(value: &Value) -> String {
    value.as_f64().map_or("-".to_owned(), |seconds| format!("{seconds:.0}s"))
}

/// A list of numbers.
fn numbers(value: &Value) -> String {
    match value.as_array().map(Vec::as_slice) {
        None | Some([]) => "-".to_owned(),
        Some(numbers) => numbers.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
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

/// The round trip of the direct one of several paths.
fn direct_round_trip(paths: &Value) -> String {
    milliseconds(&direct(paths)["rtt_ms"])
}

/// What is lost on it.
fn direct_loss(paths: &Value) -> String {
    percent(&direct(paths)["loss"])
}

fn direct(paths: &Value) -> &Value {
    let direct = paths.as_array().and_then(|paths| paths.iter().find(|path| path["through"].is_null()));
    direct.unwrap_or(&Value::Null)
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
            ("WORKER", "/workers", numbers),
            ("TRACKS", "/tracks", cell),
        ];
        let text = table(&[peer], &columns);
        assert_eq!(
            text,
            "PEER  NAME     WORKER  TRACKS\n0a1b  Ada?[2J  -       0:microphone (muted), 1:camera, 2:screen (off)\n"
        );
        assert_eq!(table(&[], &[("ROOM", "/room", cell)]), "ROOM\n");
        let rooms = [json!({"room": "a", "workers": [0, 3]}), json!({"room": "b", "workers": []})];
        let text = table(&rooms, &[("ROOM", "/room", cell), ("WORKER", "/workers", numbers)]);
        assert_eq!(text, "ROOM  WORKER\na     0,3\nb     -\n");
    }

    #[test]
    fn nodes_are_shown_in_one_line_each() {
        let node = json!({"node": "fra1", "region": "", "heard_s": 3.4, "busy_permille": 314, "workers": [["a"], ["b"]],
            "paths": [{"through": "lon1", "rtt_ms": 9, "loss": 0.5}, {"through": null, "rtt_ms": 31.2, "loss": 0.015}]});
        let columns: [Column; 7] = [
            ("NODE", "/node", cell),
            ("REGION", "/region", word),
            ("HEARD", "/heard_s", ago),
            ("BUSY", "/busy_permille", permille),
            ("WORKERS", "/workers", count),
            ("RTT", "/paths", direct_round_trip),
            ("LOST", "/paths", direct_loss),
        ];
        let text = "NODE  REGION  HEARD  BUSY  WORKERS  RTT   LOST\nfra1  -       3s     31%   2        31ms  1.5%\n";
        assert_eq!(table(&[node], &columns), text);
        assert_eq!(direct_round_trip(&json!([])), "-");
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
