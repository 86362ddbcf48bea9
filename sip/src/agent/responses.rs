//! Requests of ours and the responses to them: BYE, CANCEL, re-INVITE, calls by the trunk and its registration.

use std::time::{Duration, Instant};

use super::{Agent, Ended, Event, REGISTER_AGAIN, REGISTERED_FOR, SUPPORTED, USER};
use crate::counters::Counter;
use crate::dialog::{MIN_SE, State, seconds};
use crate::digest;
use crate::message::{Message, param, split_outside};
use crate::transaction::{Hop, Purpose};

/// Writes into the topmost Via where a request came from (RFC 3261 §18.2.1, RFC 3581). Where responses go.
pub(super) fn mark_via(request: &mut Message, hop: Hop) -> Hop {
    let Some(via) = request.via() else { return hop };
    let (has_rport, port) = (via.has_rport, via.port.unwrap_or(5060));
    let Some((_, value)) = request.headers.iter_mut().find(|(name, _)| name == "Via") else { return hop };
    let (first, rest) = value.split_at(split_outside(value, ',')[0].len());
    let mut params: Vec<String> = split_outside(first, ';').iter().map(|param| param.trim().to_owned()).collect();
    params.retain(|param| {
        !param.to_ascii_lowercase().starts_with("received") && !param.to_ascii_lowercase().starts_with("rport")
    });
    params.push(format!("received={}", hop.address.ip()));
    if has_rport {
        params.push(format!("rport={}", hop.address.port()));
    }
    *value = format!("{}{rest}", params.join(";"));
    if hop.connection.is_some() || has_rport {
        return hop;
    }
    // Only to the address that it came from, so that nobody has us answer somebody else.
    Hop { address: (hop.address.ip(), if port == 0 { 5060 } else { port }).into(), connection: None }
}

impl Agent {
    pub(super) fn response(&mut self, now: Instant, hop: Hop, response: &Message) {
        let Some((request, purpose, _)) = self.clients.answered(now, response) else {
            return self.late_response(hop, response);
        };
        match purpose {
            Purpose::Invite(call) | Purpose::Refresh(call) => {
                self.invite_answered(now, hop, call, purpose, &request, response)
            }
            Purpose::Register => self.registered(now, &request, response),
            Purpose::Notify(call, id) => self.told(call, id, response.status()),
            Purpose::Bye(_) | Purpose::Cancel | Purpose::Prack => (),
        }
    }

    /// A 2xx to INVITE again: its ACK was lost. Everything else belongs to nothing.
    fn late_response(&mut self, hop: Hop, response: &Message) {
        let call = response.tag("From").and_then(|tag| self.tags.get(tag)).copied();
        let is_again = response.method() == "INVITE" && (200..300).contains(&response.status());
        let dialog = call.filter(|_| is_again).and_then(|call| self.dialogs.get(&call));
        let Some(dialog) = dialog.filter(|dialog| dialog.call_id == response.call_id()) else {
            return self.counters.add(Counter::DroppedStray);
        };
        let ack = dialog.numbered("ACK", response.cseq());
        self.send_ack(ack, hop);
    }

    fn send_ack(&mut self, mut ack: Message, hop: Hop) {
        let via = self.via(hop);
        ack.headers.insert(0, ("Via".to_owned(), via));
        self.out.push_back((hop, ack.write()));
    }

    fn invite_answered(
        &mut self,
        now: Instant,
        hop: Hop,
        call: u64,
        purpose: Purpose,
        request: &Message,
        response: &Message,
    ) {
        let status = response.status();
        if (300..).contains(&status) {
            // RFC 3261 §17.1.1.3: the same Via, and their To.
            let mut ack = Message::request("ACK", request.uri());
            let of_request = ["Via", "Max-Forwards", "From", "Call-ID", "Route"];
            ack.headers = request.headers.iter().filter(|(name, _)| of_request.contains(&&**name)).cloned().collect();
            let ack =
                ack.with("To", response.header("To").unwrap_or("")).with("CSeq", format!("{} ACK", request.cseq()));
            self.out.push_back((hop, ack.write()));
        }
        let Some(dialog) = self.dialogs.get_mut(&call) else { return };
        match status {
            ..200 => {
                let is_first = !std::mem::replace(&mut dialog.is_ringing, true);
                let asked_by = dialog.asked_by.filter(|_| status >= 180);
                if dialog.state == State::Asking && !dialog.is_cancelled && !response.body.is_empty() {
                    let sdp = String::from_utf8_lossy(&response.body).into_owned();
                    if dialog.early_sdp.replace(sdp.clone()).as_ref() != Some(&sdp) {
                        self.events.push_back(Event::Early { call, sdp });
                    }
                }
                if dialog.is_cancelled && is_first {
                    self.send_cancel(now, call);
                }
                self.acknowledge(now, hop, call, response);
                if let Some(by) = asked_by {
                    self.tell_referrer(now, by, status);
                }
            }
            200..300 => {
                let was_asking = dialog.state == State::Asking;
                dialog.established(now, response, hop);
                dialog.asked = None;
                let is_cancelled = dialog.is_cancelled;
                let asked_by = dialog.asked_by.take();
                let ack = dialog.numbered("ACK", request.cseq());
                self.send_ack(ack, hop);
                if let Some(by) = asked_by {
                    self.tell_referrer(now, by, if is_cancelled { 487 } else { 200 });
                }
                if is_cancelled {
                    // The 2xx and our CANCEL crossed.
                    self.hang_up(now, call);
                } else if was_asking {
                    let sdp = self.dialogs.get(&call).map(|dialog| dialog.answer_in(response)).unwrap_or_default();
                    self.events.push_back(Event::Accepted { call, sdp });
                }
            }
            401 | 407 if request.header("Authorization").or(request.header("Proxy-Authorization")).is_none() => {
                match self.authorized(request, response) {
                    Some(field) => self.invite(now, call, purpose, Some(field)),
                    None => self.invite_failed(now, call, purpose, status),
                }
            }
            _ => self.invite_failed(now, call, purpose, status),
        }
    }

    pub(super) fn invite_failed(&mut self, now: Instant, call: u64, purpose: Purpose, status: u16) {
        if matches!(purpose, Purpose::Invite(_)) {
            return self.end(now, call, Ended::Refused(status));
        }
        let Some(dialog) = self.dialogs.get_mut(&call) else { return };
        dialog.asked = None;
        match status {
            // RFC 4028 §10: the call is no longer there.
            408 | 481 => self.hang_up_for(now, call, Ended::Expired),
            // Tried again in a while; the timer ends the call if that does not help either.
            _ => {
                if let Some(timer) = &mut dialog.timer {
                    timer.is_ours = false;
                }
            }
        }
    }

    /// Sends an INVITE of ours, the first one or a refresh, with an answer to a challenge.
    pub(super) fn invite(&mut self, now: Instant, call: u64, purpose: Purpose, field: Option<(&'static str, String)>) {
        let Some(dialog) = self.dialogs.get(&call) else { return };
        let (contact, allow) = (self.contact(USER, dialog.hop, dialog.is_sips), self.allow());
        let Some(dialog) = self.dialogs.get_mut(&call) else { return };
        let mut request = dialog
            .request("INVITE")
            .with("Contact", contact)
            .with("Allow", allow)
            .with("Supported", SUPPORTED)
            .with("Content-Type", "application/sdp");
        let refreshed = dialog.timer.filter(|_| dialog.state == State::Up).map(|timer| timer.interval);
        request = match refreshed {
            Some(interval) => request.with("Session-Expires", format!("{interval};refresher=uac")),
            None => request.with("Session-Expires", "1800"),
        };
        request = request.with("Min-SE", MIN_SE.to_string());
        if let Some(replaces) = dialog.replaces.as_ref().filter(|_| dialog.state == State::Asking) {
            request = request.with("Replaces", &**replaces);
        }
        if let Some((name, value)) = field {
            request = request.with(name, value);
        }
        request.body = dialog.sdp.clone().into_bytes();
        let hop = dialog.hop;
        let via = self.via(hop);
        request.headers.insert(0, ("Via".to_owned(), via));
        if let Some(dialog) = self.dialogs.get_mut(&call) {
            dialog.asked = Some(request.clone());
        }
        if self.clients.open(now, request.clone(), hop, purpose) {
            self.out.push_back((hop, request.write()));
        } else {
            self.end(now, call, Ended::TimedOut);
        }
    }

    /// Gives up our INVITE. CANCEL may go only after a provisional response (RFC 3261 §9.1); it is sent now if one came, else with it.
    pub(super) fn cancel(&mut self, now: Instant, call: u64) {
        let Some(dialog) = self.dialogs.get_mut(&call) else { return };
        if !std::mem::replace(&mut dialog.is_cancelled, true) && dialog.is_ringing {
            self.send_cancel(now, call);
        }
    }

    fn send_cancel(&mut self, now: Instant, call: u64) {
        let Some(dialog) = self.dialogs.get(&call) else { return };
        let Some(asked) = &dialog.asked else { return };
        let mut cancel = Message::request("CANCEL", asked.uri());
        let copied = ["Via", "Max-Forwards", "From", "To", "Call-ID", "Route"];
        cancel.headers = asked.headers.iter().filter(|(name, _)| copied.contains(&&**name)).cloned().collect();
        let cancel = cancel.with("CSeq", format!("{} CANCEL", asked.cseq()));
        let hop = dialog.hop;
        if self.clients.open(now, cancel.clone(), hop, Purpose::Cancel) {
            self.out.push_back((hop, cancel.write()));
        }
    }

    /// The header field that answers a challenge of the trunk, and of nobody else.
    fn authorized(&mut self, request: &Message, response: &Message) -> Option<(&'static str, String)> {
        let trunk = self.settings.trunk.clone()?;
        let (asks, name) = match response.status() {
            401 => ("WWW-Authenticate", "Authorization"),
            _ => ("Proxy-Authenticate", "Proxy-Authorization"),
        };
        let cnonce = self.tag();
        let answer =
            |challenge: &str| digest::answer(challenge, &trunk.credentials, request.method(), request.uri(), &cnonce);
        // Whole fields: a challenge has commas of its own. The first one that we can answer (RFC 8760 §2.3).
        response.all(asks).find_map(answer).map(|value| (name, value))
    }

    pub(super) fn register(&mut self, now: Instant, field: Option<(&'static str, String)>) {
        let Some(trunk) = self.trunk().cloned() else { return };
        self.register.cseq += 1;
        // Until the answer; nobody answering is a failure too.
        self.register.next = None;
        let tag = self.tag();
        let own = format!("<sip:{}@{}>", trunk.credentials.user, trunk.domain);
        let contact = self.contact(&trunk.credentials.user, trunk.hop, false);
        let mut request = Message::request("REGISTER", &format!("sip:{}", trunk.domain))
            .with("Max-Forwards", "70")
            .with("From", format!("{own};tag={tag}"))
            .with("To", own)
            .with("Call-ID", &*self.register.call_id)
            .with("CSeq", format!("{} REGISTER", self.register.cseq))
            .with("Contact", contact)
            .with("Expires", REGISTERED_FOR.to_string());
        if let Some((name, value)) = field {
            request = request.with(name, value);
        }
        self.send(now, request, trunk.hop, Purpose::Register);
    }

    fn registered(&mut self, now: Instant, request: &Message, response: &Message) {
        let status = response.status();
        let is_first = request.header("Authorization").or(request.header("Proxy-Authorization")).is_none();
        match status {
            ..200 => (),
            200..300 => {
                let granted = response
                    .list("Contact")
                    .find_map(|contact| seconds(param(contact, "expires")?))
                    .or_else(|| seconds(response.header("Expires")?))
                    .unwrap_or(REGISTERED_FOR)
                    .max(30);
                // Well before it ends.
                self.register.next = Some(now + Duration::from_secs(u64::from(granted) / 2));
                if !std::mem::replace(&mut self.register.is_up, true) {
                    tracing::info!(seconds = granted, "trunk_registered");
                }
            }
            401 | 407 if is_first => match self.authorized(request, response) {
                Some(field) => self.register(now, Some(field)),
                None => self.register_failed(now, status),
            },
            _ => self.register_failed(now, status),
        }
    }

    pub(super) fn register_failed(&mut self, now: Instant, status: u16) {
        self.register.is_up = false;
        self.register.next = Some(now + REGISTER_AGAIN);
        tracing::warn!(
            status,
            "trunk_register_failed: tried again; with 401, 403 and 407 look at user and password in the settings"
        );
    }
}
