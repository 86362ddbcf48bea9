//! Tokens of those who are in: another one that is brought over the socket, the word before one expires, and what
//! happens when it has.
//!
//! A token opens the door, and may change what its bearer may do once inside: a peer whose right to publish is
//! withdrawn is not passed on, one whose right to subscribe is withdrawn receives nothing, from the next packet on and
//! without SDP. What is granted anew holds for the m-sections that were answered.

use std::time::{Duration, Instant};

use proto::signal::{ErrorCode, LeaveReason, ServerSignal};

use super::{Engine, Handle, Seat, SocketId, Timer};
use crate::auth::LEEWAY_S;
use crate::negotiation::Refusal;
use crate::policy::Grant;

/// How long before its token expires a client is told. Enough to ask an application's server twice.
const WARNING: Duration = Duration::from_secs(60);

/// Clocks may differ, so a token is good for that much longer.
const LEEWAY: Duration = Duration::from_secs(LEEWAY_S);

impl Engine {
    /// What the wall clock says, since 1970. Tokens expire by it; without it none does.
    pub(super) fn set_wall_clock(&mut self, now: Instant, since_epoch: Duration) {
        self.wall_clock = Some((now, since_epoch));
    }

    /// The client at a socket brought another token, which is good for its room.
    pub(super) fn granted(&mut self, now: Instant, socket: SocketId, grant: Grant) {
        let grant = grant.with_plain_name();
        let result = match self.sockets.get_mut(&socket) {
            None => return,
            Some(Seat::Guest(guest)) => fit(&guest.grant, &[&guest.room], &grant).map(|()| guest.grant = grant.clone()),
            Some(&mut Seat::Peer(handle)) => self.regrant(now, handle, grant.clone()),
        };
        match result {
            Ok(()) => {
                let expires_in_ms = self.left_of(now, &grant).map(in_ms);
                let (may_publish, may_subscribe) = (grant.publish, grant.subscribe);
                self.send(socket, ServerSignal::Granted { may_publish, may_subscribe, expires_in_ms });
            }
            Err(refusal) => self.refuse(socket, refusal, false),
        }
    }

    /// A peer goes on with another grant.
    pub(super) fn regrant(&mut self, now: Instant, handle: Handle, grant: Grant) -> Result<(), Refusal> {
        let Some(peer) = self.peers.get_mut(&handle) else { return Ok(()) };
        fit(&peer.grant, &[&peer.home, &peer.room], &grant)?;
        let rights = (grant.publish, grant.subscribe);
        let before = std::mem::replace(&mut peer.grant, grant);
        if rights != (before.publish, before.subscribe) {
            self.apply_rights(handle, rights);
        }
        self.watch_token(now, handle);
        self.journal(handle);
        Ok(())
    }

    /// Everybody is told which tracks are passed on now, and the slots follow.
    fn apply_rights(&mut self, handle: Handle, (may_publish, may_subscribe): (bool, bool)) {
        let Some(name) = self.peers.get(&handle).map(|peer| peer.room.clone()) else { return };
        let Some(member) = self.rooms.get_mut(&name).and_then(|room| room.member_mut(handle.peer)) else { return };
        let before = member.info().tracks;
        (member.may_publish, member.may_subscribe) = (may_publish, may_subscribe);
        let (id, after) = (member.id.clone(), member.info().tracks);
        let members = self.members_of(&name);
        for (_, track) in before.into_iter().zip(after).filter(|(before, after)| before != after) {
            for &other in &members {
                self.tell(other, ServerSignal::TrackChanged { peer: id.clone(), track: track.clone() });
            }
        }
        self.settle(&name);
    }

    /// Notes when to look at a peer's token. Its client is to be told (again) before it expires.
    pub(super) fn watch_token(&mut self, now: Instant, handle: Handle) {
        let Some(peer) = self.peers.get_mut(&handle) else { return };
        peer.is_warned = false;
        let grant = peer.grant.clone();
        let at = self.left_of(now, &grant).and_then(|left| now.checked_add(left.saturating_sub(WARNING)));
        self.timers.set(Timer::Token(handle), at);
    }

    /// It is time to look at a peer's token.
    pub(super) fn token_due(&mut self, now: Instant, handle: Handle) {
        let Some(peer) = self.peers.get(&handle) else { return };
        let (is_warned, has_socket) = (peer.is_warned, peer.socket.is_some());
        let grant = peer.grant.clone();
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
