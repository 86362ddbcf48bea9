//! The server's HTTP interface as a load uses it: rooms by REST, peers by WHIP and WHEP, metrics; and the tokens for all
//! of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use client::http::{Request, Response, Server};
use client::signal::Socket;

use super::settings::LoadError;

/// How long one request may take in all.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes a token for a room (or `*`) and a name, with all rights in it.
pub(super) type Tokens = Arc<dyn Fn(&str, &str) -> Result<String, String> + Send + Sync>;

/// A server, and the tokens that it accepts.
#[derive(Clone)]
pub(super) struct Api {
    server: Server,
    tokens: Tokens,
}

impl fmt::Debug for Api {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Api").field("authority", &self.server.authority).finish_non_exhaustive()
    }
}

/// Counters of all workers together, as `/metrics` has them.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Workers {
    /// Packets that left by routes.
    pub(super) sent: u64,
    /// Sends that the kernel was asked for.
    pub(super) trains: u64,
    /// Packets that the kernel refused.
    pub(super) failed: u64,
    /// How many packets took at most so many microseconds through a worker.
    pub(super) latency: Vec<(f64, u64)>,
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
    pub(super) fn since(&self, earlier: &Workers) -> Workers {
        let before = |bound: f64| earlier.latency.iter().find(|known| known.0 == bound).map_or(0, |known| known.1);
        Workers {
            sent: self.sent.saturating_sub(earlier.sent),
            trains: self.trains.saturating_sub(earlier.trains),
            failed: self.failed.saturating_sub(earlier.failed),
            latency: self.latency.iter().map(|&(bound, n)| (bound, n.saturating_sub(before(bound)))).collect(),
        }
    }

    /// The bound, microseconds, that this share of all packets kept to.
    pub(super) fn latency_bound(&self, share: f64) -> Option<f64> {
        let all = self.latency.last()?.1;
        self.latency.iter().find(|(_, n)| *n > 0 && *n as f64 >= share * all as f64).map(|(bound, _)| *bound)
    }
}

impl Api {
    pub(super) fn new(server: Server, tokens: Tokens) -> Api {
        Api { server, tokens }
    }

    /// Opens the signalling socket of a room.
    pub(super) async fn socket(&self, room: &str, name: &str) -> Result<Socket, LoadError> {
        let token = self.token(room, name)?;
        Socket::open(&self.server, room, &token).await.map_err(|error| LoadError::Server(error.to_string()))
    }

    /// Makes a room that admits so many peers, or gives it this limit.
    pub(super) async fn make_room(&self, room: &str, peers_max: usize) -> Result<(), LoadError> {
        // The highest that a room may have: a load measures the server, and not what it lets pass of one client.
        let body = format!("{{\"peers_max\":{peers_max},\"client_bps_max\":100000000}}");
        let path = format!("/v1/rooms/{room}");
        let response = self.request("PUT", &path, ("*", "load"), Some(("application/json", &body))).await?;
        self.expect_success(&response, "a room")
    }

    /// Removes a room and everybody in it.
    pub(super) async fn delete_room(&self, room: &str) -> Result<(), LoadError> {
        let response = self.request("DELETE", &format!("/v1/rooms/{room}"), ("*", "load"), None).await?;
        self.expect_success(&response, "a room's end")
    }

    /// Offers by `whip` or `whep`: the answer's SDP and the path of the resource.
    pub(super) async fn offer(
        &self,
        protocol: &str,
        room: &str,
        name: &str,
        sdp: &str,
    ) -> Result<(String, String), LoadError> {
        let path = format!("/{protocol}/{room}");
        let response = self.request("POST", &path, (room, name), Some(("application/sdp", sdp))).await?;
        self.expect_success(&response, "a peer")?;
        let location = response.location.ok_or_else(|| LoadError::Server(format!("POST {path} names no resource")))?;
        let path = match location.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]).to_owned(),
            None => location,
        };
        let resource = path.strip_prefix(&self.server.prefix).map(str::to_owned).unwrap_or(path);
        Ok((response.body, resource))
    }

    /// Ends a resource of [`Api::offer`].
    pub(super) async fn delete_resource(&self, resource: &str, room: &str, name: &str) -> Result<(), LoadError> {
        let response = self.request("DELETE", resource, (room, name), None).await?;
        self.expect_success(&response, "a peer's end")
    }

    /// What an uprtc says of its workers at `/metrics`; None from another server.
    pub(super) async fn workers(&self) -> Option<Workers> {
        let response = self.request("GET", "/metrics", ("*", "load"), None).await.ok()?;
        Workers::parse(&response.body).filter(|_| response.status == 200)
    }

    fn token(&self, room: &str, name: &str) -> Result<String, LoadError> {
        (self.tokens)(room, name).map_err(LoadError::Server)
    }

    fn expect_success(&self, response: &Response, what: &str) -> Result<(), LoadError> {
        match response.status {
            200..=299 => Ok(()),
            status => {
                let (server, words) = (&self.server.authority, response.body.trim());
                Err(LoadError::Server(format!("{server} does not give us {what} ({status}): {words}")))
            }
        }
    }

    async fn request(
        &self,
        method: &str,
        path: &str,
        (room, name): (&str, &str),
        content: Option<(&str, &str)>,
    ) -> Result<Response, LoadError> {
        let token = self.token(room, name)?;
        let request = Request { method, path, token: Some(&token), content };
        let response = self.server.request(request, REQUEST_TIMEOUT).await;
        response.map_err(|error| LoadError::Server(format!("cannot ask {}: {error}", self.server.authority)))
    }
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
}
