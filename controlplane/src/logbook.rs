//! The operator's log of people: one line for each who came, left, was moved or could not join, with stable keys
//! (docs/OPERATING.md lists them). How many lines a second is bounded, because clients without a token cause some of them; how many were
//! left out is a line, too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::signal::{LeaveReason, Source};
use serde::Serialize;

use crate::bucket::TokenBucket;
use crate::happening::{Access, Happening, Who};

/// Lines of people who had a token. At the end of a large event hundreds leave at once, which is worth its lines; sustained,
/// this is less than 500 MB a day.
const PEOPLE: TokenBucket = TokenBucket::new(1000.0, 20.0);

/// Lines of those who were turned away. Anybody can cause them without a token: less than 120 MB a day.
const REFUSALS: TokenBucket = TokenBucket::new(50.0, 5.0);

/// How long lines are counted that are left out, before that is said.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);

/// Longest text of a refusal that is written, characters: some sentences quote what a client sent.
const DETAIL_CHARS_MAX: usize = 200;

/// Where lines are counted and written. One for a controlplane.
#[derive(Debug)]
pub struct Logbook {
    allowed: Mutex<[TokenBucket; 2]>,
    /// Lines left out since the last summary.
    left_out: AtomicU64,
}

impl Default for Logbook {
    fn default() -> Self {
        Logbook { allowed: Mutex::new([PEOPLE, REFUSALS]), left_out: AtomicU64::new(0) }
    }
}

impl Logbook {
    /// Writes down what the engine says.
    pub(crate) fn write(self: &Arc<Self>, happening: Happening) {
        let is_of_strangers = matches!(happening, Happening::Refused { .. });
        if self.may_write(is_of_strangers) {
            write(happening);
        }
    }

    /// Writes down that somebody was turned away before the engine was asked. A `room` is shown if it can be one.
    pub(crate) fn refused(
        self: &Arc<Self>,
        access: Access,
        room: Option<&str>,
        name: Option<&str>,
        (code, detail): (&str, &str),
    ) {
        if self.may_write(true) {
            let detail = shortened(detail);
            tracing::info!(
                event = "refused",
                door = access.name(),
                room,
                name,
                code,
                detail,
                "somebody could not join"
            );
        }
    }

    /// Whether there may be another line. Of those that may not be, the first begins to count.
    fn may_write(self: &Arc<Self>, is_of_strangers: bool) -> bool {
        let mut allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        let [people, refusals] = &mut *allowed;
        let now = Instant::now();
        let may = if is_of_strangers { refusals.take(now) } else { people.take(now) };
        if !may && self.left_out.fetch_add(1, Ordering::Relaxed) == 0 {
            let logbook = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(SUMMARY_INTERVAL).await;
                let lines = logbook.left_out.swap(0, Ordering::Relaxed);
                let seconds = SUMMARY_INTERVAL.as_secs();
                tracing::warn!(event = "left_out", lines, seconds, "so many lines about people were left out");
            });
        }
        may
    }
}

fn write(happening: Happening) {
    match happening {
        Happening::Joined { who: Who { room, peer, name }, access, worker, codec, may_publish, may_subscribe } => {
            let (door, codec) = (access.name(), codec.map(|codec| codec.name()));
            let (publish, subscribe) = (may_publish, may_subscribe);
            tracing::info!(
                event = "joined",
                room,
                peer,
                name,
                door,
                worker,
                codec,
                publish,
                subscribe,
                "a peer joined"
            );
        }
        Happening::Connected { who: Who { room, peer, name }, after, dtls } => {
            tracing::debug!(
                event = "connected",
                room,
                peer,
                name,
                seconds = seconds(after),
                dtls,
                "a peer is connected"
            );
        }
        Happening::Resumed { who: Who { room, peer, name } } => {
            tracing::info!(event = "resumed", room, peer, name, "a peer came back on another socket");
        }
        Happening::Adopted { worker, peers } => {
            tracing::info!(event = "adopted", worker, peers, "peers of an earlier controlplane were taken over");
        }
        Happening::Left { who: Who { room, peer, name }, reason, detail, stayed } => {
            let (seconds, detail) = (seconds(stayed), detail.as_deref().map(shortened));
            match reason {
                LeaveReason::Removed => {
                    tracing::info!(event = "kicked", room, peer, name, seconds, "an operator removed a peer");
                }
                _ => {
                    let reason = word(&reason);
                    tracing::info!(event = "left", room, peer, name, reason, detail, seconds, "a peer left");
                }
            }
        }
        Happening::Moved { who: Who { room, peer, name }, to } => {
            tracing::info!(event = "moved", room, peer, name, to, "an operator moved a peer");
        }
        Happening::Muted { who, mid, source, is_muted } => {
            let (Who { room, peer, name }, source) = (who, word::<Source>(&source));
            match is_muted {
                true => tracing::info!(event = "muted", room, peer, name, mid, source, "an operator muted a track"),
                false => {
                    tracing::info!(event = "unmuted", room, peer, name, mid, source, "an operator unmuted a track")
                }
            }
        }
        Happening::Refused { room, name, code, message } => {
            let (access, code, detail) = (Access::Socket.name(), word(&code), shortened(&message));
            tracing::info!(event = "refused", access, room, name, code, detail, "somebody could not join");
        }
        Happening::HandshakesOverShare { room, count } => {
            tracing::warn!(event = "dtls_over_share", room, count, "a room has its part of the DTLS handshakes");
        }
        Happening::DataGivenUp { who: Who { room, peer, name } } => {
            tracing::info!(
                event = "data_given_up",
                room,
                peer,
                name,
                "messages for a peer were given up: it is too slow"
            );
        }
        Happening::CommandRefused { worker, peer, refusal } => {
            tracing::warn!(event = "command_refused", worker, ?peer, ?refusal, "a worker refused a command");
        }
    }
}

/// A name of the protocol, as it is on the wire.
fn word<T: Serialize>(name: &T) -> String {
    let value = serde_json::to_value(name).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

fn shortened(text: &str) -> &str {
    text.char_indices().nth(DETAIL_CHARS_MAX).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_the_allowance_comes_back() {
        let now = Instant::now();
        let mut allowance = REFUSALS;
        assert_eq!((0..1000).filter(|_| allowance.take(now)).count(), 50);
        let later = now + Duration::from_secs(3);
        assert_eq!((0..1000).filter(|_| allowance.take(later)).count(), 15);
        let much_later = now + Duration::from_secs(86_400);
        assert_eq!((0..1000).filter(|_| allowance.take(much_later)).count(), 50);
    }

    #[test]
    fn texts_are_short_and_names_are_those_of_the_protocol() {
        assert_eq!(shortened(&"ä".repeat(300)).chars().count(), DETAIL_CHARS_MAX);
        assert_eq!((shortened("short"), word(&LeaveReason::TimedOut).as_str()), ("short", "timed_out"));
        assert_eq!(seconds(Duration::from_millis(12_345)), 12.3);
    }
}
