//! The server's doors that speak HTTP: rooms by REST, peers by WHIP and WHEP. And the tokens that open all of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::LoadError;
use crate::signal::Link;

/// How long one request may take in all.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest answer that is read, bytes.
const ANSWER_LEN_MAX: u64 = 4 << 20;

/// Makes a token for a room (or `*`) and a name, with all rights in it.
pub type Tokens = Arc<dyn Fn(&str, &str) -> Result<String, String> + Send + Sync>;

/// A server, and what opens it.
#[derive(Clone)]
pub struct Door {
    authority: String,
    tokens: Tokens,
}

impl fmt::Debug for Door {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Door").field("authority", &self.authority).finish_non_exhaustive()
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Location`, if there is one.
    pub location: Option<String>,
    /// The body.
    pub body: String,
}

/// Counters of all workers together, as `/metrics` has them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Workers {
    /// Packets that left by routes.
    pub sent: u64,
    /// Sends that the kernel was asked for.
    pub trains: u64,
    /// Packets that the kernel refused.
    pub failed: u64,
    /// How many packets took at most so many microseconds through a worker.
    pub latency: Vec<(f64, u64)>,
}

impl Workers {
    fn parse(text: &str) -> Option<Workers> {
        let mut workers = Workers::default();
        let mut is_uprtc = false;
        for line in text.lines() {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let (family, labels) = name.split_once('{').unwrap_or((name, ""));
            let Ok(value) = value.parse::<u64>() else { continue };
            match family {
                "uprtc_worker_sent_total" => (workers.sent, is_uprtc) = (workers.sent + value, true),
                "uprtc_worker_sent_trains_total" => workers.trains += value,
                "uprtc_worker_send_failed_total" => workers.failed += value,
                "uprtc_latency_seconds_bucket" => {
                    let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
                    let bound = bound.parse::<f64>().unwrap_or(f64::INFINITY) * 1e6;
                    match workers.latency.iter_mut().find(|known| known.0 == bound) {
                        Some(known) => known.1 += value,
                        None => workers.latency.push((bound, value)),
                    }
                }
                _ => {}
            }
        }
        is_uprtc.then_some(workers)
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Workers) -> Workers {
        let before = |bound: f64| earlier.latency.iter().find(|known| known.0 == bound).map_or(0, |known| known.1);
        Workers {
            sent: self.sent.saturating_sub(earlier.sent),
            trains: self.trains.saturating_sub(earlier.trains),
            failed: self.failed.saturating_sub(earlier.failed),
            latency: self.latency.iter().map(|&(bound, n)| (bound, n.saturating_sub(before(bound)))).collect(),
        }
    }

    /// The bound, microseconds, that this share of all packets kept to.
    pub fn latency_bound(&self, share: f64) -> Option<f64> {
        let all = self.latency.last()?.1;
        self.latency.iter().find(|(_, n)| *n > 0 && *n as f64 >= share * all as f64).map(|(bound, _)| *bound)
    }
}

impl Door {
    /// The server that serves HTTP at `HOST:PORT`.
    pub fn new(authority: impl Into<String>, tokens: Tokens) -> Door {
        Door { authority: authority.into(), tokens }
    }

    /// A link by which a peer enters a room through the signalling socket.
    pub fn link(&self, room: &str, name: &str) -> Result<Link, LoadError> {
        let text = format!("http://{}/r/{room}?token={}", self.authority, self.token(room, name)?);
        Link::parse(&text).map_err(|error| LoadError::Door(error.to_string()))
    }

    /// Makes a room that admits so many peers, or gives it this limit.
    pub async fn make_room(&self, room: &str, peers_max: usize) -> Result<(), LoadError> {
        let body = format!("{{\"peers_max\":{peers_max}}}");
        let path = format!("/v1/rooms/{room}");
        let answer = self.ask("PUT", &path, ("*", "load"), Some(("application/json", &body))).await?;
        self.expect(&answer, "a room")
    }

    /// Removes a room and everybody in it.
    pub async fn delete_room(&self, room: &str) -> Result<(), LoadError> {
        let answer = self.ask("DELETE", &format!("/v1/rooms/{room}"), ("*", "load"), None).await?;
        self.expect(&answer, "a room's end")
    }

    /// Offers at `/whip/{room}` or `/whep/{room}`: the answer's SDP and the path of the resource.
    pub async fn offer(&self, door: &str, room: &str, name: &str, sdp: &str) -> Result<(String, String), LoadError> {
        let path = format!("/{door}/{room}");
        let answer = self.ask("POST", &path, (room, name), Some(("application/sdp", sdp))).await?;
        self.expect(&answer, "a peer")?;
        let location = answer.location.ok_or_else(|| LoadError::Door(format!("POST {path} names no resource")))?;
        let path = match location.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]).to_owned(),
            None => location,
        };
        Ok((answer.body, path))
    }

    /// Ends a resource of [`Door::offer`].
    pub async fn end(&self, resource: &str, room: &str, name: &str) -> Result<(), LoadError> {
        let answer = self.ask("DELETE", resource, (room, name), None).await?;
        self.expect(&answer, "a peer's end")
    }

    /// What an uprtc says of its workers at `/metrics`; None from another server.
    pub async fn workers(&self) -> Option<Workers> {
        let answer = self.ask("GET", "/metrics", ("*", "load"), None).await.ok()?;
        Workers::parse(&answer.body)
    }

    fn token(&self, room: &str, name: &str) -> Result<String, LoadError> {
        (self.tokens)(room, name).map_err(LoadError::Door)
    }

    fn expect(&self, answer: &Answer, what: &str) -> Result<(), LoadError> {
        match answer.status {
            200..=299 => Ok(()),
            status => {
                let (server, words) = (&self.authority, answer.body.trim());
                Err(LoadError::Door(format!("{server} does not give us {what} ({status}): {words}")))
            }
        }
    }

    /// One request on a connection of its own.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        (room, name): (&str, &str),
        content: Option<(&str, &str)>,
    ) -> Result<Answer, LoadError> {
        let (authority, token) = (&self.authority, self.token(room, name)?);
        let (kind, body) = content.unwrap_or(("text/plain", ""));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let exchange = async {
            let mut stream = TcpStream::connect(authority).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(ANSWER_LEN_MAX).read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = match timeout(PATIENCE, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(LoadError::Door(format!("cannot ask {authority}: {error}"))),
            Err(_) => return Err(LoadError::Door(format!("{authority} does not answer {method} {path}"))),
        };
        parse(&String::from_utf8_lossy(&answer))
            .ok_or_else(|| LoadError::Door(format!("{authority} does not speak HTTP")))
    }
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    let location = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
    });
    Some(Answer { status, location, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_workers_are_added() {
        let text = "# HELP x\nuprtc_worker_sent_total{worker=\"0\"} 5\nuprtc_worker_sent_total{worker=\"1\"} 6\n\
                    uprtc_worker_sent_trains_total{worker=\"0\"} 2\n\
                    uprtc_latency_seconds_bucket{worker=\"0\",le=\"0.000064\"} 10\n\
                    uprtc_latency_seconds_bucket{worker=\"0\",le=\"0.000128\"} 99\n\
                    uprtc_latency_seconds_bucket{worker=\"0\",le=\"+Inf\"} 100\n";
        let workers = Workers::parse(text).unwrap();
        assert_eq!((workers.sent, workers.trains, workers.failed), (11, 2, 0));
        let bounds = [0.1, 0.99, 0.999].map(|share| workers.latency_bound(share));
        assert_eq!(bounds, [Some(64.0), Some(128.0), Some(f64::INFINITY)]);
        assert_eq!(workers.since(&workers).latency_bound(0.5), None);
        assert_eq!(Workers::parse("other_metric 7\n"), None);
    }

    #[test]
    fn an_answer_is_taken_apart() {
        let text = "HTTP/1.1 201 Created\r\ncontent-type: application/sdp\r\nLocation: http://h:1/whep/r/sessions/x\r\n\r\nv=0";
        let answer = parse(text).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (201, "v=0"));
        assert_eq!(answer.location.as_deref(), Some("http://h:1/whep/r/sessions/x"));
        assert!(parse("").is_none() && parse("SSH-2.0\r\n\r\n").is_none());
    }
}
