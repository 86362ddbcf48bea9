//! One call as SIP sees it (RFC 3261 §12): the names of both ends, numbers, the way to the other end, and the timers of
//! its session (RFC 4028). Requests within it are made here; the agent sends them.

use std::time::{Duration, Instant};

use crate::message::{Address, Message, number, param};
use crate::transaction::{Hop, Key, Repeat};

/// Shortest session interval that we take (RFC 4028 §5), seconds.
pub(crate) const MIN_SE: u32 = 90;
/// What we ask for where nobody said otherwise, seconds.
const SESSION: u32 = 1800;
/// Longest INVITE header that a dialog keeps, of each list.
const ROUTES_MAX: usize = 16;

/// How far a call is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Their INVITE waits for our answer.
    Asked,
    /// Our INVITE waits for theirs.
    Asking,
    Up,
}

/// When a session ends, unless it is refreshed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionTimer {
    pub(crate) interval: u32,
    pub(crate) is_ours: bool,
    pub(crate) since: Instant,
}

impl SessionTimer {
    /// When we refresh it, if we do (§10).
    pub(crate) fn refresh_at(&self) -> Option<Instant> {
        self.is_ours.then(|| self.since + Duration::from_secs(u64::from(self.interval) / 2))
    }

    /// When it has ended: an interval, less the smaller of 32 s and a third.
    pub(crate) fn ends_at(&self) -> Instant {
        self.since + Duration::from_secs(u64::from(self.interval - (self.interval / 3).min(32)))
    }
}

/// A provisional response of ours that is to be acknowledged (RFC 3262).
#[derive(Debug)]
pub(crate) struct Provisional {
    pub(crate) rseq: u32,
    /// Of the INVITE.
    pub(crate) cseq: u32,
    pub(crate) repeat: Repeat,
}

/// An end that has answered our INVITE with provisional responses that we acknowledge.
#[derive(Debug)]
pub(crate) struct Early {
    pub(crate) tag: String,
    /// Number of the last one.
    pub(crate) rseq: u32,
    /// What they said of its media.
    pub(crate) sdp: Option<String>,
}

/// A transfer that the other end has asked for, and is told of.
#[derive(Debug)]
pub(crate) struct Referral {
    /// Number of its REFER.
    pub(crate) id: u32,
    /// The status that was told last.
    pub(crate) told: u16,
}

#[derive(Debug)]
pub(crate) struct Dialog {
    pub(crate) state: State,
    pub(crate) call_id: String,
    pub(crate) local_tag: String,
    /// `From` of our requests, with our tag.
    pub(crate) local: String,
    /// `To` of our requests, with their tag when there is one.
    pub(crate) remote: String,
    pub(crate) target: String,
    pub(crate) routes: Vec<String>,
    pub(crate) cseq: u32,
    pub(crate) remote_cseq: u32,
    pub(crate) hop: Hop,
    /// Whether it was called by `sips:`.
    pub(crate) is_sips: bool,
    /// The INVITE that waits for our response, and its transaction.
    pub(crate) pending: Option<(Message, Key)>,
    /// Our 2xx until its ACK.
    pub(crate) ok: Option<Repeat>,
    /// Number of the INVITE whose ACK is to come.
    pub(crate) ok_cseq: u32,
    /// Whether our 2xx offered, so that the ACK answers.
    pub(crate) awaits_answer: bool,
    pub(crate) timer: Option<SessionTimer>,
    /// What we said last.
    pub(crate) sdp: String,
    /// The INVITE that we sent last, until it is answered.
    pub(crate) asked: Option<Message>,
    pub(crate) is_cancelled: bool,
    /// Whether a provisional response came to our INVITE.
    pub(crate) is_ringing: bool,
    pub(crate) provisional: Option<Provisional>,
    pub(crate) early: Vec<Early>,
    /// What who is called has said of its media before the answer.
    pub(crate) early_sdp: Option<String>,
    pub(crate) referral: Option<Referral>,
    /// The call that has asked for this one by a transfer, until it is told how that ended.
    pub(crate) asked_by: Option<u64>,
    /// The call of the other end that this one replaces (RFC 3891).
    pub(crate) replaces: Option<String>,
}

impl Dialog {
    /// Of an INVITE that came.
    pub(crate) fn incoming(invite: &Message, key: Key, hop: Hop, local_tag: String) -> Dialog {
        let to = invite.header("To").unwrap_or("");
        let target = invite.list("Contact").next().and_then(Address::parse).or_else(|| {
            // Without Contact there is From, as in RFC 2543.
            invite.header("From").and_then(Address::parse)
        });
        let (call_id, sdp) = (invite.call_id().to_owned(), String::new());
        Dialog {
            state: State::Asked,
            local: format!("{to};tag={local_tag}"),
            remote: invite.header("From").unwrap_or("").to_owned(),
            target: target.map(|address| address.uri.to_owned()).unwrap_or_default(),
            routes: invite.list("Record-Route").take(ROUTES_MAX).map(str::to_owned).collect(),
            remote_cseq: invite.cseq(),
            is_sips: invite.uri().get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("sips:")),
            pending: Some((invite.clone(), key)),
            ..Dialog::outgoing(call_id, local_tag, "", "", hop, sdp)
        }
    }

    /// Of an INVITE that we send.
    pub(crate) fn outgoing(call_id: String, local_tag: String, from: &str, to: &str, hop: Hop, sdp: String) -> Dialog {
        Dialog {
            state: State::Asking,
            call_id,
            local: format!("<{from}>;tag={local_tag}"),
            remote: format!("<{to}>"),
            target: to.to_owned(),
            routes: Vec::new(),
            cseq: 0,
            remote_cseq: 0,
            hop,
            is_sips: false,
            pending: None,
            ok: None,
            ok_cseq: 0,
            awaits_answer: false,
            timer: None,
            sdp,
            asked: None,
            is_cancelled: false,
            is_ringing: false,
            provisional: None,
            early: Vec::new(),
            early_sdp: None,
            referral: None,
            asked_by: None,
            replaces: None,
            local_tag,
        }
    }

    /// A request within it. The caller puts its Via in front.
    pub(crate) fn request(&mut self, method: &str) -> Message {
        self.cseq += 1;
        self.numbered(method, self.cseq)
    }

    /// One with the number of another: ACK and CANCEL.
    pub(crate) fn numbered(&self, method: &str, cseq: u32) -> Message {
        self.to_end((&self.remote, &self.target, &self.routes), method, cseq)
    }

    /// A request to an end that has answered our INVITE with this provisional response (RFC 3261 §12.1.2).
    pub(crate) fn early_request(&mut self, method: &str, response: &Message) -> Message {
        self.cseq += 1;
        let target = response.list("Contact").next().and_then(Address::parse).map(|contact| contact.uri);
        let remote = response.header("To").unwrap_or(&self.remote);
        self.to_end((remote, target.unwrap_or(&self.target), &routes(response)), method, self.cseq)
    }

    fn to_end(&self, (remote, target, routes): (&str, &str, &[String]), method: &str, cseq: u32) -> Message {
        let mut request = Message::request(method, target)
            .with("Max-Forwards", "70")
            .with("From", &*self.local)
            .with("To", remote)
            .with("Call-ID", &*self.call_id)
            .with("CSeq", format!("{cseq} {method}"));
        for route in routes {
            request = request.with("Route", &**route);
        }
        request
    }

    /// Takes what a 2xx to our INVITE says of the other end.
    pub(crate) fn established(&mut self, now: Instant, response: &Message, hop: Hop) {
        self.remote = response.header("To").unwrap_or(&self.remote).to_owned();
        if let Some(contact) = response.list("Contact").next().and_then(Address::parse) {
            self.target = contact.uri.to_owned();
        }
        if self.state == State::Asking {
            self.routes = routes(response);
        }
        self.hop = hop;
        self.state = State::Up;
        self.timer = response.header("Session-Expires").and_then(|value| {
            let interval = seconds(value)?.max(MIN_SE);
            let is_ours = param(value, "refresher").is_none_or(|refresher| refresher.eq_ignore_ascii_case("uac"));
            Some(SessionTimer { interval, is_ours, since: now })
        });
    }

    /// Agrees on a timer for an INVITE that we answer (§9): the field of our 2xx. None where the other end knows none.
    pub(crate) fn agree_timer(&mut self, now: Instant, invite: &Message) -> Option<String> {
        let wish = invite.header("Session-Expires");
        let is_known = invite.lists("Supported", "timer");
        if !is_known && wish.is_none() {
            self.timer = None;
            return None;
        }
        let interval = wish.and_then(seconds).unwrap_or(SESSION).max(MIN_SE);
        let refresher = wish.and_then(|wish| param(wish, "refresher"));
        let is_ours = !is_known || refresher.is_some_and(|refresher| refresher.eq_ignore_ascii_case("uas"));
        self.timer = Some(SessionTimer { interval, is_ours, since: now });
        Some(format!("{interval};refresher={}", if is_ours { "uas" } else { "uac" }))
    }
}

/// The way of requests to who has answered so (RFC 3261 §12.1.2).
fn routes(response: &Message) -> Vec<String> {
    let mut routes: Vec<String> = response.list("Record-Route").take(ROUTES_MAX).map(str::to_owned).collect();
    routes.reverse();
    routes
}

/// The number in front of the parameters of Session-Expires and Min-SE.
pub(crate) fn seconds(value: &str) -> Option<u32> {
    number(value.split(';').next()?).filter(|&seconds| seconds <= 86_400 * 7)
}
