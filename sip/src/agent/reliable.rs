//! Provisional responses that are acknowledged (RFC 3262): ours to who requires it, and theirs to our INVITE.

use std::time::Instant;

use super::{Agent, Ended};
use crate::counters::Counter;
use crate::dialog::{Early, Provisional, State};
use crate::message::{Message, number};
use crate::transaction::{Hop, Key, Purpose, Repeat, TIMEOUT};

/// Ends that may answer one INVITE of ours with provisional responses, where a proxy calls several; further ones are not acknowledged.
const EARLY_MAX: usize = 8;
/// Largest first number of a response (§3).
const RSEQ_FIRST_MAX: u64 = (1 << 31) - 1;

impl Agent {
    /// Says that it rings, to who requires it so that it must be acknowledged (§3).
    pub(crate) fn ring(&mut self, now: Instant, call: u64) {
        let Some(dialog) = self.dialogs.get(&call) else { return };
        let Some((invite, _)) = &dialog.pending else { return };
        if !invite.lists("Require", "100rel") {
            return self.answer_invite(now, call, 180, "Ringing", &[], None);
        }
        // The first of them would have to have our offer (§5), which comes with the 2xx; and one is enough.
        if invite.body.is_empty() || dialog.provisional.is_some() {
            return;
        }
        let cseq = invite.cseq();
        let rseq = (self.random.u64() % RSEQ_FIRST_MAX) as u32 + 1;
        let extra = [("Require", "100rel".to_owned()), ("RSeq", rseq.to_string())];
        self.answer_invite(now, call, 180, "Ringing", &extra, None);
        let sent = self.out.back().cloned();
        if let (Some(dialog), Some((hop, bytes))) = (self.dialogs.get_mut(&call), sent) {
            let repeat = Repeat::end_to_end(now, hop, bytes, TIMEOUT);
            dialog.provisional = Some(Provisional { rseq, cseq, repeat });
        }
    }

    /// A PRACK within a call.
    pub(super) fn acknowledged(&mut self, now: Instant, call: u64, key: Key, to: Hop, request: &Message) {
        let Some(rack) = request.header("RAck").and_then(rack) else {
            return self.respond(now, key, to, request, 400, "Bad RAck", &[]);
        };
        let Some(dialog) = self.dialogs.get_mut(&call) else { return };
        let is_this =
            dialog.provisional.as_ref().is_some_and(|sent| rack == (sent.rseq, sent.cseq, "INVITE".to_owned()));
        if !is_this {
            return self.respond(now, key, to, request, 481, "Call/Transaction Does Not Exist", &[]);
        }
        dialog.provisional = None;
        self.respond(now, key, to, request, 200, "OK", &[]);
    }

    /// Repeats what nobody has acknowledged yet, and gives up who does not in time.
    pub(super) fn repeat_provisional(&mut self, now: Instant) {
        let mut over = Vec::new();
        for (&call, dialog) in &mut self.dialogs {
            // After the final response the provisional one is no longer said (§3), but its PRACK may come.
            let Some(sent) = dialog.provisional.as_mut().filter(|_| dialog.pending.is_some()) else { continue };
            if sent.repeat.until <= now {
                over.push(call);
            }
            self.out.extend(sent.repeat.due(now));
        }
        for call in over {
            self.answer_invite(now, call, 504, "Provisional Response Not Acknowledged", &[], None);
            self.end(now, call, Ended::TimedOut);
        }
    }

    /// Acknowledges a provisional response to our INVITE, if it asks for that and is the next one of its end (§4).
    pub(super) fn acknowledge(&mut self, now: Instant, hop: Hop, call: u64, response: &Message) {
        if response.status() == 100 || !response.lists("Require", "100rel") {
            return;
        }
        let rseq = response.header("RSeq").and_then(number).filter(|&rseq| rseq > 0);
        let (Some(rseq), Some(tag)) = (rseq, response.tag("To").map(str::to_owned)) else {
            return self.counters.add(Counter::DroppedMalformed);
        };
        let Some(dialog) = self.dialogs.get_mut(&call) else { return };
        let said = (!response.body.is_empty()).then(|| String::from_utf8_lossy(&response.body).into_owned());
        match dialog.early.iter().position(|early| early.tag == tag) {
            // Again, or one that was overtaken: the one in between is repeated.
            Some(at) if dialog.early[at].rseq.checked_add(1) != Some(rseq) => return,
            Some(at) => {
                let early = &mut dialog.early[at];
                early.rseq = rseq;
                early.sdp = said.or(early.sdp.take());
            }
            None if dialog.early.len() < EARLY_MAX => dialog.early.push(Early { tag, rseq, sdp: said }),
            None => return,
        }
        let rack = format!("{rseq} {} INVITE", response.cseq());
        let prack = dialog.early_request("PRACK", response).with("RAck", rack);
        self.send(now, prack, hop, Purpose::Prack);
    }
}

/// The numbers of a response and its request, and the request's method (§7.2).
fn rack(value: &str) -> Option<(u32, u32, String)> {
    let mut words = value.split_whitespace();
    let rack = (number(words.next()?)?, number(words.next()?)?, words.next()?.to_owned());
    words.next().is_none().then_some(rack)
}

impl crate::dialog::Dialog {
    /// What a 2xx to our INVITE says of their media; where it says nothing, what an acknowledged response of that end did (§5), or any:
    /// some ends say it once.
    pub(super) fn answer_in(&self, response: &Message) -> String {
        let of_this_end = || self.early.iter().find(|early| Some(&*early.tag) == response.tag("To"))?.sdp.clone();
        let early = || of_this_end().or_else(|| self.early_sdp.clone());
        match early().filter(|_| response.body.is_empty() && self.state == State::Up) {
            Some(sdp) => sdp,
            None => String::from_utf8_lossy(&response.body).into_owned(),
        }
    }
}
