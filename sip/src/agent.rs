//! The SIP user agent (RFC 3261), without sockets and clock: messages come in with their time and way, messages go out, and
//! the gateway hears what became of calls. Everything that a stranger can make it keep is bounded.

mod refer;
mod reliable;
mod requests;
mod responses;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod torture;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use client::random::Random;

use crate::counters::{Counter, Counters};
use crate::dialog::{Dialog, State};
use crate::digest::Credentials;
use crate::limits::{Rate, Sources};
use crate::message::{Malformed, Message, Start, is_dialable};
use crate::transaction::{Clients, Hop, Key, Purpose, Repeat, Servers, T2};

/// What we understand (RFC 3261 §20.5).
const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, PRACK";
const ALLOW_WITH_TRANSFERS: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, PRACK, REFER";
pub(crate) const SUPPORTED: &str = "timer, 100rel";
/// Who we are to telephones.
const USER: &str = "uprtc";
/// How long a trunk's registration is asked to stand, seconds.
const REGISTERED_FOR: u32 = 300;
/// When a registration that failed is tried again, and when one whose connection was closed.
const REGISTER_AGAIN: Duration = Duration::from_secs(30);
const REGISTER_ANEW: Duration = Duration::from_secs(5);

/// A trunk: the registrar that calls come from, and where we call.
#[derive(Clone, Debug)]
pub(crate) struct Trunk {
    pub(crate) hop: Hop,
    /// What stands in its URIs.
    pub(crate) domain: String,
    pub(crate) credentials: Credentials,
    pub(crate) registers: bool,
}

impl Trunk {
    /// Whether it is known where it is.
    pub(crate) fn is_found(&self) -> bool {
        !self.hop.address.ip().is_unspecified()
    }
}

/// What a call is made for that another one has asked for.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) by: u64,
    /// The call of the number that it replaces (RFC 3891).
    pub(crate) replaces: Option<String>,
}

/// What does not change.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where others reach us, in `Contact` and `Via`; by TLS, if we have it.
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<SocketAddr>,
    pub(crate) calls_max: usize,
    pub(crate) calls_per_source_max: usize,
    pub(crate) invites: Rate,
    /// Whether who is in a room may have another number called into it.
    pub(crate) transfers: bool,
    pub(crate) trunk: Option<Trunk>,
}

/// What the gateway hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// Somebody calls.
    Incoming(Box<Incoming>),
    /// Their ACK came; with SDP if we had offered.
    Confirmed { call: u64, sdp: Option<String> },
    /// A re-INVITE waits for `accept` or `refuse`. Without an offer we offer.
    Offered { call: u64, offer: Option<String> },
    /// Ours rings, and the other end may be heard before it answers.
    Early { call: u64, sdp: String },
    /// Ours is answered.
    Accepted { call: u64, sdp: String },
    /// They want this number called, in the place of a call that it has or beside theirs: `dial` it, and `tell_referrer` if that cannot be.
    Referred { call: u64, number: String, replaces: Option<String> },
    /// A digit by INFO.
    Digit { call: u64, digit: u8 },
    /// The call is over.
    Ended { call: u64, reason: Ended },
}

/// An INVITE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Incoming {
    pub(crate) call: u64,
    pub(crate) from: SocketAddr,
    /// The dialled number: the user of the Request-URI.
    pub(crate) number: String,
    /// Who calls, for the room to see.
    pub(crate) name: String,
    /// `X-Room`
    pub(crate) room: Option<String>,
    /// `X-Pin`
    pub(crate) pin: Option<String>,
    pub(crate) offer: Option<String>,
}

/// Why a call is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// They hung up.
    Bye,
    /// They no longer want it.
    Cancelled,
    /// Our INVITE was refused with this status.
    Refused(u16),
    /// No ACK, or no answer at all.
    TimedOut,
    /// The session was not refreshed.
    Expired,
}

impl Ended {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Ended::Bye => "bye",
            Ended::Cancelled => "cancelled",
            Ended::Refused(_) => "refused",
            Ended::TimedOut => "timed_out",
            Ended::Expired => "expired",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Agent {
    settings: Settings,
    random: Random,
    pub(crate) counters: Counters,
    pub(crate) sources: Sources,
    servers: Servers,
    clients: Clients,
    dialogs: HashMap<u64, Dialog>,
    /// By our tag.
    tags: HashMap<String, u64>,
    next_call: u64,
    out: VecDeque<(Hop, Vec<u8>)>,
    events: VecDeque<Event>,
    register: Register,
}

#[derive(Debug)]
struct Register {
    next: Option<Instant>,
    call_id: String,
    cseq: u32,
    is_up: bool,
}

impl Agent {
    pub(crate) fn new(now: Instant, settings: Settings, mut random: Random) -> Agent {
        let registers = settings.trunk.as_ref().is_some_and(|trunk| trunk.registers && trunk.is_found());
        let call_id = format!("{:016x}", random.u64());
        Agent {
            sources: Sources::new(settings.invites),
            register: Register { next: registers.then_some(now), call_id, cseq: 0, is_up: false },
            settings,
            random,
            counters: Counters::default(),
            servers: Servers::default(),
            clients: Clients::default(),
            dialogs: HashMap::new(),
            tags: HashMap::new(),
            next_call: 1,
            out: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes one message: a datagram, or what was cut off a stream.
    pub(crate) fn receive(&mut self, now: Instant, hop: Hop, bytes: &[u8]) {
        self.counters.add(Counter::Messages);
        if !self.sources.may_send(now, hop.address.ip()) {
            return self.counters.add(Counter::DroppedRate);
        }
        match Message::parse(bytes) {
            Ok(message) if matches!(message.start, Start::Request { .. }) => self.request(now, hop, message),
            Ok(message) => self.response(now, hop, &message),
            Err(Malformed::Drop) => self.counters.add(Counter::DroppedMalformed),
            Err(Malformed::Refuse(request, status, reason)) => {
                self.counters.add(Counter::RefusedMalformed);
                self.answer_once(hop, *request, status, reason, &[]);
            }
        }
    }

    /// Does what is due. Called some twenty times a second.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.out.extend(self.servers.due(now));
        let (again, unanswered) = self.clients.due(now);
        self.out.extend(again);
        for purpose in unanswered {
            match purpose {
                Purpose::Invite(call) => self.end(now, call, Ended::TimedOut),
                Purpose::Refresh(call) => self.hang_up_for(now, call, Ended::TimedOut),
                Purpose::Register => self.register_failed(now, 408),
                Purpose::Notify(call, id) => self.told(call, id, 408),
                Purpose::Bye(_) | Purpose::Cancel | Purpose::Prack => (),
            }
        }
        self.repeat_provisional(now);
        let mut refresh = Vec::new();
        let mut over = Vec::new();
        for (&call, dialog) in &mut self.dialogs {
            if let Some(ok) = &mut dialog.ok {
                if ok.until <= now {
                    over.push((call, Ended::TimedOut));
                }
                self.out.extend(ok.due(now));
            }
            if let Some(timer) = dialog.timer.filter(|_| dialog.state == State::Up) {
                if timer.ends_at() <= now {
                    over.push((call, Ended::Expired));
                } else if timer.refresh_at().is_some_and(|at| at <= now) && dialog.asked.is_none() {
                    refresh.push(call);
                }
            }
        }
        for call in refresh {
            self.invite(now, call, Purpose::Refresh(call), None);
        }
        for (call, reason) in over {
            self.hang_up_for(now, call, reason);
        }
        if self.register.next.is_some_and(|next| next <= now) {
            self.register(now, None);
        }
    }

    /// The trunk cannot be reached: what waits for its answer has failed, as by 503.
    pub(crate) fn trunk_not_reached(&mut self, now: Instant) {
        for purpose in self.clients.not_reached() {
            match purpose {
                Purpose::Invite(call) | Purpose::Refresh(call) => self.invite_failed(now, call, purpose, 503),
                Purpose::Register => self.register_failed(now, 503),
                Purpose::Notify(call, id) => self.told(call, id, 503),
                Purpose::Bye(_) | Purpose::Cancel | Purpose::Prack => (),
            }
        }
    }

    /// The trunk is at this address now: new calls go there, and it is registered there. Whether that is new.
    pub(crate) fn trunk_is_at(&mut self, now: Instant, address: SocketAddr) -> bool {
        let Some(trunk) = self.settings.trunk.as_mut().filter(|trunk| trunk.hop.address != address) else {
            return false;
        };
        trunk.hop.address = address;
        if trunk.registers {
            self.register.next = Some(now);
        }
        true
    }

    /// The trunk, if it is known where it is.
    pub(crate) fn trunk(&self) -> Option<&Trunk> {
        self.settings.trunk.as_ref().filter(|trunk| trunk.is_found())
    }

    /// The connection to the trunk is closed: calls do not come by it any more, until we register by another one.
    pub(crate) fn trunk_closed(&mut self, now: Instant) {
        if std::mem::take(&mut self.register.is_up) {
            tracing::warn!("trunk_closed: it has closed the connection; registered again");
            self.register.next = self.register.next.map(|next| next.min(now + REGISTER_ANEW));
        }
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<(Hop, Vec<u8>)> {
        self.out.pop_front()
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(crate) fn calls(&self) -> usize {
        self.dialogs.len()
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.register.is_up
    }

    /// Takes a call or a new offer with this SDP; without an offer of theirs it is ours.
    pub(crate) fn accept(&mut self, now: Instant, call: u64, sdp: String) {
        let Some(dialog) = self.dialogs.get_mut(&call) else { return };
        let Some((invite, _)) = dialog.pending.clone() else { return };
        dialog.sdp.clone_from(&sdp);
        dialog.state = State::Up;
        dialog.ok_cseq = invite.cseq();
        dialog.awaits_answer = invite.body.is_empty();
        let mut extra = vec![("Supported", SUPPORTED.to_owned())];
        if let Some(timer) = dialog.agree_timer(now, &invite) {
            extra.push(("Session-Expires", timer));
            if invite.lists("Supported", "timer") {
                extra.push(("Require", "timer".to_owned()));
            }
        }
        self.answer_invite(now, call, 200, "OK", &extra, Some(sdp));
    }

    /// Refuses a call, which is then over, or a new offer, after which all is as it was.
    pub(crate) fn refuse(&mut self, now: Instant, call: u64, status: u16, reason: &str) {
        self.answer_invite(now, call, status, reason, &[], None);
        if self.dialogs.get(&call).is_some_and(|dialog| dialog.state == State::Asked) {
            self.forget(now, call, 487);
        }
    }

    /// Ends a call from our side, however far it is.
    pub(crate) fn hang_up(&mut self, now: Instant, call: u64) {
        let Some(dialog) = self.dialogs.get_mut(&call) else { return };
        match dialog.state {
            State::Asked => self.refuse(now, call, 480, "Temporarily Unavailable"),
            State::Asking => self.cancel(now, call),
            State::Up => {
                if dialog.pending.is_some() {
                    self.answer_invite(now, call, 487, "Request Terminated", &[], None);
                }
                let Some(dialog) = self.dialogs.get_mut(&call) else { return };
                let bye = dialog.request("BYE");
                let hop = dialog.hop;
                self.send(now, bye, hop, Purpose::Bye(call));
                self.forget(now, call, 487);
            }
        }
    }

    fn hang_up_for(&mut self, now: Instant, call: u64, reason: Ended) {
        if self.dialogs.contains_key(&call) {
            self.hang_up(now, call);
            self.events.push_back(Event::Ended { call, reason });
        }
    }

    fn end(&mut self, now: Instant, call: u64, reason: Ended) {
        let status = match reason {
            Ended::Refused(status) => status,
            Ended::TimedOut => 408,
            _ => 487,
        };
        if self.forget(now, call, status) {
            self.events.push_back(Event::Ended { call, reason });
        }
    }

    /// Who asked for the call is told this status, if it was never answered.
    fn forget(&mut self, now: Instant, call: u64, status: u16) -> bool {
        let Some(dialog) = self.dialogs.remove(&call) else { return false };
        self.tags.remove(&dialog.local_tag);
        if let Some(by) = dialog.asked_by {
            self.tell_referrer(now, by, status);
        }
        true
    }

    /// Calls a number over the trunk, for a transfer that a call has asked for if there is one. None without a trunk, or when there are too many calls.
    pub(crate) fn dial(&mut self, now: Instant, number: &str, sdp: String, transfer: Option<Transfer>) -> Option<u64> {
        let trunk = self.trunk()?.clone();
        if self.dialogs.len() >= self.settings.calls_max || !is_dialable(number) {
            return None;
        }
        let (call_id, tag) =
            (format!("{:032x}", u128::from(self.random.u64()) << 64 | u128::from(self.random.u64())), self.tag());
        let from = format!("sip:{}@{}", trunk.credentials.user, trunk.domain);
        let to = format!("sip:{}@{}", number.replace('#', "%23"), trunk.domain);
        let mut dialog = Dialog::outgoing(call_id, tag, &from, &to, trunk.hop, sdp);
        if let Some(Transfer { by, replaces }) = transfer {
            (dialog.asked_by, dialog.replaces) = (Some(by), replaces);
        }
        let call = self.keep(dialog);
        self.invite(now, call, Purpose::Invite(call), None);
        Some(call)
    }

    fn keep(&mut self, dialog: Dialog) -> u64 {
        let call = self.next_call;
        self.next_call += 1;
        self.tags.insert(dialog.local_tag.clone(), call);
        self.dialogs.insert(call, dialog);
        call
    }

    fn tag(&mut self) -> String {
        format!("{:016x}", self.random.u64())
    }

    fn calls_of(&self, address: IpAddr) -> usize {
        self.dialogs.values().filter(|dialog| dialog.hop.address.ip() == address).count()
    }

    /// Where the other end of a call on this way reaches us; by `sips:` alone where it calls so (RFC 3261 §12.1.1).
    fn contact(&self, user: &str, hop: Hop, is_sips: bool) -> String {
        match (self.own(hop), hop.transport()) {
            (address, _) if is_sips => format!("<sips:{user}@{address}>"),
            (address, "UDP") => format!("<sip:{user}@{address}>"),
            (address, transport) => format!("<sip:{user}@{address};transport={}>", transport.to_ascii_lowercase()),
        }
    }

    fn allow(&self) -> &'static str {
        if self.settings.transfers { ALLOW_WITH_TRANSFERS } else { ALLOW }
    }

    fn own(&self, hop: Hop) -> SocketAddr {
        self.settings.tls.filter(|_| hop.is_tls()).unwrap_or(self.settings.address)
    }

    /// Sends a request of ours, with its Via.
    fn send(&mut self, now: Instant, mut request: Message, hop: Hop, purpose: Purpose) {
        let via = self.via(hop);
        request.headers.insert(0, ("Via".to_owned(), via));
        if self.clients.open(now, request.clone(), hop, purpose) {
            self.out.push_back((hop, request.write()));
        }
    }

    fn via(&mut self, hop: Hop) -> String {
        format!("SIP/2.0/{} {};rport;branch=z9hG4bK{:016x}", hop.transport(), self.own(hop), self.random.u64())
    }

    /// Responds once, without a transaction.
    fn answer_once(&mut self, hop: Hop, mut request: Message, status: u16, reason: &str, extra: &[(&str, String)]) {
        let to = responses::mark_via(&mut request, hop);
        let mut response = Message::response(&request, status, reason);
        if response.tag("To").is_none() {
            let tagged = format!("{};tag={}", response.header("To").unwrap_or(""), self.tag());
            response.set("To", tagged);
        }
        for (name, value) in extra {
            response = response.with(name, &**value);
        }
        self.out.push_back((to, response.write()));
    }

    /// Responds to the INVITE that waits in a call.
    fn answer_invite(
        &mut self,
        now: Instant,
        call: u64,
        status: u16,
        reason: &str,
        extra: &[(&str, String)],
        sdp: Option<String>,
    ) {
        let Some(dialog) = self.dialogs.get(&call) else { return };
        let Some((invite, key)) = dialog.pending.clone() else { return };
        let (contact, allow) = (self.contact(USER, dialog.hop, dialog.is_sips), self.allow());
        let Some(dialog) = self.dialogs.get_mut(&call) else { return };
        let mut response = Message::response(&invite, status, reason);
        if response.tag("To").is_none() && status > 100 {
            response.set("To", dialog.local.clone());
        }
        response = response.with("Contact", contact).with("Allow", allow);
        for (name, value) in extra {
            response = response.with(name, &**value);
        }
        if let Some(sdp) = sdp {
            response = response.with("Content-Type", "application/sdp");
            response.body = sdp.into_bytes();
        }
        let bytes = response.write();
        if status >= 200 {
            dialog.pending = None;
        }
        let Some(hop) = self.servers.respond(now, &key, status, &bytes) else { return };
        if (200..300).contains(&status) {
            dialog.ok = Some(Repeat::end_to_end(now, hop, bytes.clone(), T2));
        }
        self.out.push_back((hop, bytes));
    }

    fn key(request: &Message) -> Option<Key> {
        Key::of(request)
    }
}
