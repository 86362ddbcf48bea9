//! Calls that are handed on (RFC 3515): a telephone in a room has us call another number into it, and is told how far that is.

use std::time::Instant;

use super::{Agent, Event};
use crate::counters::Counter;
use crate::dialog::{Referral, State};
use crate::message::{Address, Message, Uri, is_dialable, unescape};
use crate::transaction::{Hop, Key, Purpose};

/// How long progress is told at most, seconds: a call rings for three minutes.
const TOLD_FOR: u32 = 180;
/// Longest `Replaces`, which names a call of the other end by a Call-ID and two tags.
const REPLACES_LEN_MAX: usize = 512;

/// A refusal: its status, reason and further header fields.
type Refusal = (u16, &'static str, &'static [(&'static str, &'static str)]);

impl Agent {
    /// A REFER within a call. It is accepted at once, and what becomes of it is told by NOTIFY.
    pub(super) fn referred(&mut self, now: Instant, call: u64, key: Key, to: Hop, request: &Message) {
        let (number, replaces) = match self.wanted(now, call, request) {
            Ok(wanted) => wanted,
            Err((status, reason, extra)) => {
                self.counters.add(Counter::TransfersRefused);
                let extra: Vec<(&str, String)> = extra.iter().map(|(name, value)| (*name, (*value).into())).collect();
                return self.respond(now, key, to, request, status, reason, &extra);
            }
        };
        let Some(dialog) = self.dialogs.get_mut(&call) else { return };
        dialog.referral = Some(Referral { id: request.cseq(), told: 0 });
        let contact = self.own_contact(call);
        self.respond(now, key, to, request, 202, "Accepted", &[("Contact", contact)]);
        self.tell_referrer(now, call, 100);
        self.counters.add(Counter::Transfers);
        self.events.push_back(Event::Referred { call, number, replaces });
    }

    /// The number that a REFER wants called, and which call of that end ours replaces.
    fn wanted(&mut self, now: Instant, call: u64, request: &Message) -> Result<(String, Option<String>), Refusal> {
        let dialog = self.dialogs.get(&call).filter(|dialog| dialog.state == State::Up);
        let dialog = dialog.ok_or((403, "Not Answered Yet", &[] as &[_]))?;
        if dialog.referral.is_some() {
            return Err((491, "Request Pending", &[]));
        }
        let source = dialog.hop.address.ip();
        // RFC 3515 §2.4.1: exactly one.
        let mut targets = request.list("Refer-To");
        let (Some(target), None) = (targets.next(), targets.next()) else {
            return Err((400, "One Refer-To Is Needed", &[]));
        };
        let uri = Address::parse(target).ok_or((400, "Bad Refer-To", &[] as &[_]))?.uri;
        let number = Uri::parse(uri).ok_or((416, "Unsupported URI Scheme", &[] as &[_]))?.user;
        if !is_dialable(&number) {
            return Err((400, "No Number In Refer-To", &[]));
        }
        let headers =
            uri.rsplit_once('@').and_then(|(_, rest)| rest.split_once('?')).map_or("", |(_, headers)| headers);
        let mut fields = headers.split('&').filter_map(|field| field.split_once('='));
        let replaces = fields.find(|(name, _)| name.eq_ignore_ascii_case("Replaces")).map(|(_, value)| unescape(value));
        let is_text =
            |value: &String| value.len() <= REPLACES_LEN_MAX && value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !replaces.as_ref().is_none_or(is_text) {
            return Err((400, "Bad Replaces", &[]));
        }
        if self.dialogs.len() >= self.settings.calls_max || !self.sources.may_invite(now, source) {
            return Err((503, "Too Many Calls", &[("Retry-After", "10")]));
        }
        Ok((number, replaces))
    }

    /// Tells who asked for a transfer how far it is (§2.4.4); a final status ends it.
    pub(crate) fn tell_referrer(&mut self, now: Instant, call: u64, status: u16) {
        let contact = self.own_contact(call);
        let Some(dialog) = self.dialogs.get_mut(&call) else { return };
        let Some(referral) = dialog.referral.as_mut().filter(|referral| referral.told != status) else { return };
        referral.told = status;
        let id = referral.id;
        let event = format!("refer;id={}", id);
        let state = match status {
            ..200 => format!("active;expires={TOLD_FOR}"),
            _ => "terminated;reason=noresource".to_owned(),
        };
        if status >= 200 {
            dialog.referral = None;
        }
        let mut notify = dialog
            .request("NOTIFY")
            .with("Contact", contact)
            .with("Event", event)
            .with("Subscription-State", state)
            .with("Content-Type", "message/sipfrag;version=2.0");
        notify.body = format!("SIP/2.0 {status} {}\r\n", phrase(status)).into_bytes();
        let hop = dialog.hop;
        self.send(now, notify, hop, Purpose::Notify(call, id));
    }

    /// The answer to a NOTIFY: who does not want to know is told no more.
    pub(super) fn told(&mut self, call: u64, id: u32, status: u16) {
        if let Some(dialog) = self.dialogs.get_mut(&call).filter(|_| status >= 300) {
            dialog.referral.take_if(|referral| referral.id == id);
        }
    }

    fn own_contact(&self, call: u64) -> String {
        let dialog = self.dialogs.get(&call);
        dialog.map(|dialog| self.contact(super::USER, dialog.hop, dialog.is_sips)).unwrap_or_default()
    }
}

/// Of RFC 3261 §21, for the statuses that calls end with most.
fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        200 => "OK",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        480 => "Temporarily Unavailable",
        486 => "Busy Here",
        487 => "Request Terminated",
        503 => "Service Unavailable",
        603 => "Decline",
        ..200 => "Progress",
        _ => "Failed",
    }
}
