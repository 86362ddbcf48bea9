//! Transactions (RFC 3261 §17): what is sent again until it is answered, and what is answered again as it was. In virtual
//! time: the agent asks what is due.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::message::Message;

/// Estimate of a round trip, and the first interval of retransmissions.
pub(crate) const T1: Duration = Duration::from_millis(500);
/// Longest interval of retransmissions.
pub(crate) const T2: Duration = Duration::from_secs(4);
/// How long a message lives in the network.
const T4: Duration = Duration::from_secs(5);
/// How long somebody is asked: timers B, F and H.
pub(crate) const TIMEOUT: Duration = T1.saturating_mul(64);
/// Transactions of each side at most; at 32 s each that is 128 new ones a second, for ever.
pub(crate) const TRANSACTIONS_MAX: usize = 4096;

/// Bytes of the responses that are kept for retransmissions; a response repeats what a stranger wrote, so it may be as long as a datagram.
pub(crate) const RESPONSES_LEN_MAX: usize = 16 << 20;

/// Where a message goes, or comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Hop {
    pub(crate) address: SocketAddr,
    /// The connection, if it is no UDP.
    pub(crate) connection: Option<Connection>,
}

/// A connection of TCP, or of TLS over it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) is_tls: bool,
}

impl Connection {
    /// The connection to the trunk, whichever it is at the time: it is opened when something is to be sent.
    pub(crate) const TRUNK: u64 = 0;
}

impl Hop {
    /// A trunk that is reached by a connection.
    pub(crate) fn trunk(address: SocketAddr, is_tls: bool) -> Hop {
        Hop { address, connection: Some(Connection { id: Connection::TRUNK, is_tls }) }
    }

    pub(crate) fn is_trunk(&self) -> bool {
        self.connection.is_some_and(|connection| connection.id == Connection::TRUNK)
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.connection.is_some_and(|connection| connection.is_tls)
    }

    /// Its name in a Via.
    pub(crate) fn transport(&self) -> &'static str {
        match self.connection {
            None => "UDP",
            Some(connection) if connection.is_tls => "TLS",
            Some(_) => "TCP",
        }
    }
}

/// Sends the same bytes again and again.
#[derive(Clone, Debug)]
pub(crate) struct Repeat {
    pub(crate) hop: Hop,
    pub(crate) bytes: Vec<u8>,
    interval: Duration,
    /// No further ones without it.
    next: Option<Instant>,
    interval_max: Duration,
    pub(crate) until: Instant,
}

impl Repeat {
    /// On UDP alone: others lose nothing between two hops.
    pub(crate) fn new(now: Instant, hop: Hop, bytes: Vec<u8>, interval_max: Duration) -> Repeat {
        let mut repeat = Repeat::end_to_end(now, hop, bytes, interval_max);
        repeat.next = repeat.next.filter(|_| hop.connection.is_none());
        repeat
    }

    /// The same by every way: a 2xx to INVITE and a reliable provisional response are acknowledged by the other end, not by the
    /// next proxy (RFC 3261 §13.3.1.4, RFC 3262 §3).
    pub(crate) fn end_to_end(now: Instant, hop: Hop, bytes: Vec<u8>, interval_max: Duration) -> Repeat {
        Repeat { hop, bytes, interval: T1, next: Some(now + T1), interval_max, until: now + TIMEOUT }
    }

    pub(crate) fn stop(&mut self) {
        self.next = None;
    }

    /// The bytes, if they are due.
    pub(crate) fn due(&mut self, now: Instant) -> Option<(Hop, Vec<u8>)> {
        if self.next.is_none_or(|next| next > now) {
            return None;
        }
        self.interval = (self.interval * 2).min(self.interval_max);
        self.next = Some(now + self.interval);
        Some((self.hop, self.bytes.clone()))
    }
}

/// What makes two messages one transaction (RFC 3261 §17.2.3): also for branches that are not unique, as those of RFC 2543.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key {
    branch: String,
    sent_by: String,
    call: String,
    cseq: u32,
    is_invite: bool,
}

impl Key {
    /// INVITE, its ACK and its CANCEL have one key.
    pub(crate) fn of(request: &Message) -> Option<Key> {
        let via = request.via()?;
        Some(Key {
            branch: via.branch.to_owned(),
            sent_by: format!("{}:{}", via.host.to_ascii_lowercase(), via.port.unwrap_or(5060)),
            call: request.call_id().to_owned(),
            cseq: request.cseq(),
            is_invite: matches!(request.method(), "INVITE" | "ACK" | "CANCEL"),
        })
    }
}

/// A request that we answer.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) hop: Hop,
    /// Whose INVITE it is.
    pub(crate) call: Option<u64>,
    /// The last response.
    response: Option<Vec<u8>>,
    pub(crate) is_final: bool,
    /// The final response of an INVITE until its ACK.
    repeat: Option<Repeat>,
    until: Instant,
}

impl Server {
    fn len(&self) -> usize {
        self.response.as_ref().map_or(0, Vec::len) + self.repeat.as_ref().map_or(0, |repeat| repeat.bytes.len())
    }
}

/// All that others have asked us.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    all: HashMap<Key, Server>,
    /// Bytes of all responses, when [`Servers::due`] looked last, and of those since.
    len: usize,
}

impl Servers {
    pub(crate) fn is_full(&self) -> bool {
        self.all.len() >= TRANSACTIONS_MAX || self.len >= RESPONSES_LEN_MAX
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Server> {
        self.all.get(key)
    }

    pub(crate) fn open(&mut self, now: Instant, key: Key, hop: Hop, call: Option<u64>) {
        // An INVITE may ring for as long as a call is waited for; others are answered at once.
        let until = now + if key.is_invite { Duration::from_secs(300) } else { TIMEOUT };
        self.all.insert(key, Server { hop, call, response: None, is_final: false, repeat: None, until });
    }

    /// What was answered before, again.
    pub(crate) fn again(&self, key: &Key) -> Option<(Hop, Vec<u8>)> {
        let server = self.all.get(key)?;
        Some((server.hop, server.response.clone()?))
    }

    /// Keeps a response. Where it goes; None when the transaction is over.
    pub(crate) fn respond(&mut self, now: Instant, key: &Key, status: u16, bytes: &[u8]) -> Option<Hop> {
        let server = self.all.get_mut(key).filter(|server| !server.is_final)?;
        server.response = Some(bytes.to_vec());
        self.len += bytes.len();
        if status >= 200 {
            server.is_final = true;
            server.until = now + TIMEOUT;
            // The dialog repeats a 2xx itself (§13.3.1.4).
            let is_repeated = key.is_invite && status >= 300;
            server.repeat = is_repeated.then(|| Repeat::new(now, server.hop, bytes.to_vec(), T2));
            self.len += server.repeat.as_ref().map_or(0, |repeat| repeat.bytes.len());
        }
        Some(server.hop)
    }

    /// The ACK of a response that is no 2xx. Whether there was one.
    pub(crate) fn acknowledged(&mut self, now: Instant, key: &Key) -> bool {
        let Some(server) = self.all.get_mut(key).filter(|server| server.repeat.is_some()) else { return false };
        server.repeat = None;
        server.until = now + T4;
        true
    }

    pub(crate) fn due(&mut self, now: Instant) -> Vec<(Hop, Vec<u8>)> {
        self.all.retain(|_, server| server.until > now);
        self.len = self.all.values().map(Server::len).sum();
        self.all.values_mut().filter_map(|server| server.repeat.as_mut()?.due(now)).collect()
    }
}

/// What we asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Invite(u64),
    /// A re-INVITE that refreshes the session.
    Refresh(u64),
    Bye(u64),
    Cancel,
    Prack,
    /// What a transfer has become, told to the call that asked for it by this REFER.
    Notify(u64, u32),
    Register,
}

/// A request of ours.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) request: Message,
    pub(crate) purpose: Purpose,
    repeat: Repeat,
}

/// All that we have asked others; by branch and method.
#[derive(Debug, Default)]
pub(crate) struct Clients(HashMap<(String, String), Client>);

impl Clients {
    /// Whether there was room for it.
    pub(crate) fn open(&mut self, now: Instant, request: Message, hop: Hop, purpose: Purpose) -> bool {
        let Some(branch) = request.via().map(|via| via.branch.to_owned()) else { return false };
        if self.0.len() >= TRANSACTIONS_MAX {
            return false;
        }
        let interval_max = if request.method() == "INVITE" { TIMEOUT } else { T2 };
        let repeat = Repeat::new(now, hop, request.write(), interval_max);
        self.0.insert((branch, request.method().to_owned()), Client { request, purpose, repeat });
        true
    }

    /// The request that this response answers. A provisional one ends its repetition, a final one the transaction.
    pub(crate) fn answered(&mut self, now: Instant, response: &Message) -> Option<(Message, Purpose, Hop)> {
        let key = (response.via()?.branch.to_owned(), response.method().to_owned());
        let client = self.0.get_mut(&key)?;
        if response.status() < 200 {
            if response.method() == "INVITE" {
                client.repeat.stop();
                // It rings: for three minutes at most (§13.3.1.1).
                client.repeat.until = now + Duration::from_secs(180);
            }
            return Some((client.request.clone(), client.purpose, client.repeat.hop));
        }
        let client = self.0.remove(&key)?;
        Some((client.request, client.purpose, client.repeat.hop))
    }

    /// Ends what was sent to a trunk that cannot be reached (RFC 3261 §8.1.3.1).
    pub(crate) fn not_reached(&mut self) -> Vec<Purpose> {
        let failed: Vec<_> = self.0.extract_if(|_, client| client.repeat.hop.is_trunk()).collect();
        failed.into_iter().map(|(_, client)| client.purpose).collect()
    }

    /// What is sent again, and what nobody answered.
    pub(crate) fn due(&mut self, now: Instant) -> (Vec<(Hop, Vec<u8>)>, Vec<Purpose>) {
        let mut unanswered = Vec::new();
        self.0.retain(|_, client| {
            let is_kept = client.repeat.until > now;
            if !is_kept {
                unanswered.push(client.purpose);
            }
            is_kept
        });
        (self.0.values_mut().filter_map(|client| client.repeat.due(now)).collect(), unanswered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_responses_are_bounded() {
        let (mut servers, mut now) = (Servers::default(), Instant::now());
        let hop = Hop { address: "192.0.2.1:5060".parse().unwrap(), connection: None };
        let response = vec![0; 60_000];
        let fill = |servers: &mut Servers, now| {
            let mut taken = 0;
            while !servers.is_full() {
                let key = Key {
                    branch: format!("{now:?}{taken}"),
                    sent_by: String::new(),
                    call: String::new(),
                    cseq: 1,
                    is_invite: taken % 2 == 0,
                };
                servers.open(now, key.clone(), hop, None);
                servers.respond(now, &key, 400, &response);
                taken += 1;
            }
            taken
        };
        // An INVITE's is kept twice, until its ACK.
        let taken = fill(&mut servers, now);
        assert!((taken - 1) * 90_000 <= RESPONSES_LEN_MAX && taken * 90_000 + 60_000 >= RESPONSES_LEN_MAX, "{taken}");
        assert!(!servers.due(now + T1).is_empty() && servers.is_full());
        now += TIMEOUT;
        assert!(servers.due(now).is_empty() && !servers.is_full(), "all are over");
        assert_eq!(fill(&mut servers, now), taken);
    }
}
