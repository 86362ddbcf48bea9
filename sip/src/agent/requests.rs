//! Requests that come: to existing calls, to none, and to nobody.

use std::time::Instant;

use super::{Agent, Ended, Event, Incoming, SUPPORTED};
use crate::counters::Counter;
use crate::dialog::{Dialog, MIN_SE, State, seconds};
use crate::message::{Address, Message, Uri, shown};
use crate::transaction::{Hop, Key};

/// Methods that exist, and that we do not have: 405. Others: 501.
const KNOWN: &[&str] = &["REGISTER", "SUBSCRIBE", "NOTIFY", "PUBLISH", "MESSAGE", "REFER", "UPDATE"];

impl Agent {
    pub(super) fn request(&mut self, now: Instant, hop: Hop, mut request: Message) {
        let Some(key) = Agent::key(&request) else { return };
        let to = super::responses::mark_via(&mut request, hop);
        match request.method() {
            "ACK" => return self.ack(now, &key, &request),
            "CANCEL" => return self.cancelled(now, &key, to, request),
            _ => (),
        }
        if self.servers.get(&key).is_some() {
            // A retransmission, or a copy that came by another way.
            self.out.extend(self.servers.again(&key));
            return;
        }
        if self.servers.is_full() {
            return self.counters.add(Counter::DroppedFull);
        }
        if let Some((status, reason, extra)) = refusal(&request, self.allow()) {
            return self.answer_once(hop, request, status, reason, &extra);
        }
        match request.tag("To").map(str::to_owned) {
            Some(tag) => self.within(now, hop, to, key, request, &tag),
            None if request.method() == "INVITE" => self.invited(now, hop, to, key, request),
            None if request.method() == "OPTIONS" => {
                let extra = [
                    ("Allow", self.allow().to_owned()),
                    ("Accept", "application/sdp".to_owned()),
                    ("Supported", SUPPORTED.to_owned()),
                ];
                self.respond(now, key, to, &request, 200, "OK", &extra);
            }
            None => self.respond(now, key, to, &request, 481, "Call/Transaction Does Not Exist", &[]),
        }
    }

    /// Answers a request that is no INVITE, once and for its retransmissions.
    #[allow(clippy::too_many_arguments, reason = "a response has that many parts")]
    pub(super) fn respond(
        &mut self,
        now: Instant,
        key: Key,
        to: Hop,
        request: &Message,
        status: u16,
        reason: &str,
        extra: &[(&str, String)],
    ) {
        let mut response = Message::response(request, status, reason);
        if response.tag("To").is_none() {
            let tagged = format!("{};tag={}", response.header("To").unwrap_or(""), self.tag());
            response.set("To", tagged);
        }
        for (name, value) in extra {
            response = response.with(name, &**value);
        }
        let bytes = response.write();
        self.servers.open(now, key.clone(), to, None);
        self.servers.respond(now, &key, status, &bytes);
        self.out.push_back((to, bytes));
    }

    fn ack(&mut self, now: Instant, key: &Key, ack: &Message) {
        if self.servers.acknowledged(now, key) {
            return;
        }
        let call = ack.tag("To").and_then(|tag| self.tags.get(tag)).copied();
        let dialog = call.and_then(|call| Some((call, self.dialogs.get_mut(&call)?)));
        let Some((call, dialog)) = dialog.filter(|(_, dialog)| dialog.is_of(ack) && dialog.ok_cseq == ack.cseq())
        else {
            return self.counters.add(Counter::DroppedStray);
        };
        if dialog.ok.take().is_some() {
            let sdp =
                (dialog.awaits_answer && !ack.body.is_empty()).then(|| String::from_utf8_lossy(&ack.body).into_owned());
            self.events.push_back(Event::Confirmed { call, sdp });
        }
    }

    fn cancelled(&mut self, now: Instant, key: &Key, to: Hop, cancel: Message) {
        let Some(server) = self.servers.get(key) else {
            return self.answer_once(to, cancel, 481, "Call/Transaction Does Not Exist", &[]);
        };
        let (call, is_final) = (server.call, server.is_final);
        self.answer_once(to, cancel, 200, "OK", &[]);
        let Some(call) = call.filter(|_| !is_final) else { return };
        // A re-INVITE that is cancelled leaves the call as it was.
        let is_new = self.dialogs.get(&call).is_some_and(|dialog| dialog.state == State::Asked);
        self.answer_invite(now, call, 487, "Request Terminated", &[], None);
        if is_new {
            self.end(now, call, Ended::Cancelled);
        }
    }

    fn invited(&mut self, now: Instant, hop: Hop, to: Hop, key: Key, invite: Message) {
        let source = hop.address.ip();
        let refuse = |agent: &mut Agent, counter, status, reason: &str, extra: &[(&str, String)]| {
            agent.counters.add(counter);
            agent.answer_once(hop, invite.clone(), status, reason, extra);
        };
        if !self.sources.may_invite(now, source) {
            let extra = [("Retry-After", "10".to_owned())];
            return refuse(self, Counter::RefusedFlood, 503, "Too Many Calls", &extra);
        }
        if self.sources.is_locked(now, source) {
            return refuse(self, Counter::Refused, 403, "Locked Out After Wrong PINs", &[]);
        }
        if self.dialogs.len() >= self.settings.calls_max {
            let extra = [("Retry-After", "60".to_owned())];
            return refuse(self, Counter::RefusedFull, 503, "All Lines Busy", &extra);
        }
        if self.calls_of(source) >= self.settings.calls_per_source_max {
            return refuse(self, Counter::RefusedFull, 486, "Busy Here", &[]);
        }
        let number = Uri::parse(invite.uri()).map(|uri| uri.user).unwrap_or_default();
        let caller = invite.header("From").and_then(Address::parse);
        let user = caller.and_then(|caller| Uri::parse(caller.uri)).map(|uri| uri.user).unwrap_or_default();
        let name = caller.map(|caller| shown(caller.name)).filter(|name| !name.is_empty()).unwrap_or(shown(&user));
        let short = |name: &str| invite.header(name).map(shown).filter(|value| !value.is_empty());
        let (room, pin) = (short("X-Room"), short("X-Pin"));
        let offer = (!invite.body.is_empty()).then(|| String::from_utf8_lossy(&invite.body).into_owned());
        // Within the dialog we answer where the message came from: the telephone, or the proxy that stays in between. A proxy
        // that does not stay is the second Via, and then the other end is where its Contact says, if that is an address.
        let mut way = hop;
        if invite.list("Via").nth(1).is_some()
            && invite.header("Record-Route").is_none()
            && let Some(uri) = invite.list("Contact").next().and_then(Address::parse).and_then(|c| Uri::parse(c.uri))
            && let Ok(ip) = uri.host.parse::<std::net::IpAddr>()
            && !uri.is_tcp
            && !hop.is_tls()
        {
            way = Hop { address: (ip, uri.port.unwrap_or(5060)).into(), connection: None };
        }
        let tag = self.tag();
        let call = self.keep(Dialog::incoming(&invite, key.clone(), way, tag));
        self.servers.open(now, key, to, Some(call));
        self.counters.add(Counter::Calls);
        self.answer_invite(now, call, 100, "Trying", &[], None);
        let incoming = Incoming { call, from: hop.address, number, name, room, pin, offer };
        self.events.push_back(Event::Incoming(Box::new(incoming)));
    }

    fn within(&mut self, now: Instant, hop: Hop, to: Hop, key: Key, request: Message, tag: &str) {
        let call = self.tags.get(tag).copied();
        let dialog = call.and_then(|call| Some((call, self.dialogs.get_mut(&call)?)));
        let Some((call, dialog)) = dialog.filter(|(_, dialog)| dialog.is_of(&request)) else {
            return self.respond(now, key, to, &request, 481, "Call/Transaction Does Not Exist", &[]);
        };
        if request.cseq() <= dialog.remote_cseq {
            // RFC 3261 §12.2.2.
            return self.respond(now, key, to, &request, 500, "CSeq Out Of Order", &[]);
        }
        dialog.remote_cseq = request.cseq();
        // Who has lost the connection comes by another one; over TLS by no other way. The one to the trunk is opened by us.
        let is_by_connection = hop.connection.is_some() && dialog.hop.connection.is_some();
        if is_by_connection && hop.is_tls() == dialog.hop.is_tls() && !dialog.hop.is_trunk() {
            dialog.hop = hop;
        }
        match request.method() {
            "BYE" => {
                let is_waiting = dialog.pending.is_some();
                if is_waiting {
                    self.answer_invite(now, call, 487, "Request Terminated", &[], None);
                }
                self.respond(now, key, to, &request, 200, "OK", &[]);
                self.end(now, call, Ended::Bye);
            }
            "INVITE" if dialog.pending.is_some() || dialog.asked.is_some() || dialog.ok.is_some() => {
                let extra = [("Retry-After", "1".to_owned())];
                self.answer_once(hop, request, 491, "Request Pending", &extra);
            }
            "INVITE" => {
                if let Some(contact) = request.list("Contact").next().and_then(Address::parse) {
                    dialog.target = contact.uri.to_owned();
                }
                let offer = (!request.body.is_empty()).then(|| String::from_utf8_lossy(&request.body).into_owned());
                dialog.pending = Some((request, key.clone()));
                self.servers.open(now, key, to, Some(call));
                self.events.push_back(Event::Offered { call, offer });
            }
            "PRACK" => self.acknowledged(now, call, key, to, &request),
            "REFER" => self.referred(now, call, key, to, &request),
            "INFO" => {
                let digit = digit(&request);
                self.respond(now, key, to, &request, 200, "OK", &[]);
                self.events.extend(digit.map(|digit| Event::Digit { call, digit }));
            }
            _ => self.respond(now, key, to, &request, 200, "OK", &[]),
        }
    }
}

impl Dialog {
    /// Whether a request is of this dialog: their tag and the Call-ID, beside ours.
    fn is_of(&self, request: &Message) -> bool {
        self.call_id == request.call_id() && crate::message::param(&self.remote, "tag") == request.tag("From")
    }
}

/// A digit by INFO: `Signal=5` of application/dtmf-relay, or the body of application/dtmf.
fn digit(info: &Message) -> Option<u8> {
    let body = std::str::from_utf8(&info.body).ok()?;
    let text = match info.header("Content-Type")?.split(';').next()?.trim() {
        "application/dtmf-relay" => body.lines().find_map(|line| line.trim().strip_prefix("Signal="))?,
        "application/dtmf" => body,
        _ => return None,
    };
    text.trim().bytes().next().filter(|digit| digit.is_ascii_digit() || b"*#".contains(digit))
}

type Refusal = (u16, &'static str, Vec<(&'static str, String)>);

/// What we do not do, whoever asks (RFC 3261 §8.2).
fn refusal(request: &Message, allow: &str) -> Option<Refusal> {
    let method = request.method();
    if !allow.split(", ").any(|own| own == method) {
        let (status, reason) =
            if KNOWN.contains(&method) { (405, "Method Not Allowed") } else { (501, "Not Implemented") };
        return Some((status, reason, vec![("Allow", allow.to_owned())]));
    }
    if Uri::parse(request.uri()).is_none() {
        let has_scheme = request.uri().split_once(':').is_some_and(|(scheme, _)| !scheme.starts_with("sip"));
        let (status, reason) = if has_scheme { (416, "Unsupported URI Scheme") } else { (400, "Bad Request-URI") };
        return Some((status, reason, Vec::new()));
    }
    let is_known = |option: &&str| SUPPORTED.split(", ").any(|own| own.eq_ignore_ascii_case(option));
    let unknown: Vec<&str> = request.list("Require").filter(|option| !is_known(option)).collect();
    if !unknown.is_empty() {
        return Some((420, "Bad Extension", vec![("Unsupported", unknown.join(", "))]));
    }
    if method != "INVITE" {
        return None;
    }
    let kind = request.header("Content-Type").map(|kind| kind.split(';').next().unwrap_or("").trim().to_owned());
    let is_sdp = kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/sdp"));
    let is_encoded =
        request.header("Content-Encoding").is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity"));
    if !request.body.is_empty() && (!is_sdp || is_encoded) {
        let accepted = vec![("Accept", "application/sdp".to_owned()), ("Accept-Encoding", "identity".to_owned())];
        return Some((415, "Unsupported Media Type", accepted));
    }
    let takes_sdp = |accepted: &str| {
        let kind = accepted.split(';').next().unwrap_or("").trim();
        ["application/sdp", "application/*", "*/*"].iter().any(|own| kind.eq_ignore_ascii_case(own))
    };
    if request.header("Accept").is_some() && !request.list("Accept").any(takes_sdp) {
        return Some((406, "Not Acceptable", Vec::new()));
    }
    match request.header("Session-Expires").map(seconds) {
        Some(None) => Some((400, "Bad Session-Expires", Vec::new())),
        // RFC 4028 §6: who does not know timers is not told to know them.
        Some(Some(interval)) if interval < MIN_SE && request.lists("Supported", "timer") => {
            Some((422, "Session Interval Too Small", vec![("Min-SE", MIN_SE.to_string())]))
        }
        _ => None,
    }
}
