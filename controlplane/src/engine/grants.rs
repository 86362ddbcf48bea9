//! Tokens of those who are in: another one that is brought over the socket, the word before one expires, and what
//! happens when it has.
//!
//! A token is needed to join, and another one may change what a peer may do afterwards: a peer whose right to publish is
//! withdrawn is not passed on, one whose right to subscribe is withdrawn receives nothing, from the next packet on and
//! without SDP. What is granted anew holds for the m-sections that were answered.

use std::time::{Duration, Instant};

use proto::signal::{ErrorCode, LeaveReason, ServerSignal};

use super::sockets::Client;
use super::{Engine, Handle, SocketId, Timer};
use crate::auth::LEEWAY_S;
use crate::policy::Grant;
use crate::refusal::Refusal;

/// How long before its token expires a client is told. Enough to ask an application's server twice.
const WARNING: Duration = Duration::from_secs(60);

/// Clocks may differ, so a token is good for that much longer.
const LEEWAY: Duration = Duration::from_secs(LEEWAY_S);

impl Engine {
    /// The client at a socket brought another token, which is good for its room.
    pub(super) fn granted(&mut self, now: Instant, socket: SocketId, grant: Grant) {
        let grant = grant.with_plain_name();
        let result = match self.sockets.client(socket) {
            None => return,
            Some(Client::Guest(guest)) => fit(&guest.grant, &[&guest.room], &grant),
            Some(&Client::Peer(handle)) => self.regrant(now, handle, grant.clone()),
        };
        match result {
            Ok(()) => {
                let expires_in_ms = self.left_of(now, &grant).map(in_ms);
                let (may_publish, may_subscribe, may_send_data) = (grant.publish, grant.subscribe, grant.data);
                let granted = ServerSignal::Granted { may_publish, may_subscribe, may_send_data, expires_in_ms };
                self.answer_last(socket, granted);
                if let Some(guest) = self.sockets.guest_mut(socket) {
                    guest.grant = grant;
                }
            }
            Err(refusal) => self.refuse(socket, refusal, false),
        }
    }

    /// A peer goes on with another grant. Rights that are others now change which tracks are passed on.
    pub(super) fn regrant(&mut self, now: Instant, handle: Handle, grant: Grant) -> Result<(), Refusal> {
        let Some(peer) = self.peers.get(&handle) else { return Ok(()) };
        let (home, room) = (peer.home.clone(), peer.room.clone());
        let Some(member) = self.member_mut(handle) else { return Ok(()) };
        fit(&member.grant, &[&home, &room], &grant)?;
        let rights = (grant.publish, grant.subscribe);
        let before = std::mem::replace(&mut member.grant, grant);
        if rights != (before.publish, before.subscribe) {
            self.slots_changed(&room);
        }
        self.watch_token(now, handle);
        self.journal(handle);
        Ok(())
    }

    /// Notes when to look at a peer's token. Its client is to be told (again) before it expires.
    pub(super) fn watch_token(&mut self, now: Instant, handle: Handle) {
        let Some(grant) = self.member(handle).map(|member| member.grant.clone()) else { return };
        if let Some(peer) = self.peers.get_mut(&handle) {
            peer.is_warned = false;
        }
        let at = self.left_of(now, &grant).and_then(|left| now.checked_add(left.saturating_sub(WARNING)));
        self.timers.set(Timer::Token(handle), at);
    }

    /// It is time to look at a peer's token.
    pub(super) fn token_due(&mut self, now: Instant, handle: Handle) {
        let Some(peer) = self.peers.get(&handle) else { return };
        let (is_warned, has_socket) = (peer.is_warned, self.sockets.of(handle).is_some());
        let Some(grant) = self.member(handle).map(|member| member.grant.clone()) else { return };
        let Some(left) = self.left_of(now, &grant) else { return };
        if left > WARNING {
            return self.watch_token(now, handle); // The clock was set back.
        }
        let lapses_in = self.lapse_of(now, &grant).unwrap_or_default();
        if self.settings.expire_peers && lapses_in.is_zero() {
            return self.end_peer(handle, LeaveReason::TokenExpired, true);
        }
        if has_socket && !is_warned {
            self.tell(handle, ServerSignal::TokenExpiring { expires_in_ms: in_ms(left) });
            if let Some(peer) = self.peers.get_mut(&handle) {
                peer.is_warned = true;
            }
        }
        if self.settings.expire_peers {
            self.timers.set(Timer::Token(handle), now.checked_add(lapses_in));
        }
    }

    /// Looks at every peer's token again: what follows from one that expires has changed.
    pub(super) fn watch_tokens(&mut self, now: Instant) {
        let handles: Vec<Handle> = self.peers.keys().copied().collect();
        for handle in handles {
            self.watch_token(now, handle);
        }
    }

    /// How long a grant is good yet, as its token says; `None` without an end or without a clock.
    fn left_of(&self, now: Instant, grant: &Grant) -> Option<Duration> {
        let (then, wall) = self.wall_clock?;
        let wall = wall + now.saturating_duration_since(then);
        Some(Duration::from_secs(grant.expires_at?).saturating_sub(wall))
    }

    /// The same until we hold that it has expired.
    fn lapse_of(&self, now: Instant, grant: &Grant) -> Option<Duration> {
        let later = Grant { expires_at: grant.expires_at?.checked_add(LEEWAY.as_secs()), ..grant.clone() };
        self.left_of(now, &later)
    }
}

/// Whether a token may take the place of another: the name that others see stays, and of the rooms it is for one.
fn fit(before: &Grant, rooms: &[&str], grant: &Grant) -> Result<(), Refusal> {
    match () {
        () if !rooms.iter().any(|room| grant.admits(room)) => {
            Err(Refusal::new(ErrorCode::TokenRefused, "wrong_room: the token is for another room"))
        }
        () if grant.name != before.name => {
            let message = "other_name: the token is for another name, and a peer keeps the one that it came with";
            Err(Refusal::new(ErrorCode::TokenRefused, message))
        }
        () => Ok(()),
    }
}

fn in_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
