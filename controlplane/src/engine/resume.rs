//! A client takes its peer back on a new socket.

use std::time::Instant;

use proto::signal::{ErrorCode, LeaveReason, ServerSignal};

use super::{Engine, SocketId, Timer};
use crate::happening::Happening;
use crate::member::Member;
use crate::policy::Grant;
use crate::refusal::Refusal;
use crate::session::SessionHash;
use crate::view::View;

impl Engine {
    /// Takes a peer back by its session. The token of the new socket takes the place of the peer's, if it is for the same
    /// name. The client was told nothing yet on this socket but `welcome`, so it is told everything.
    pub(super) fn resume(
        &mut self,
        now: Instant,
        socket: SocketId,
        room: &str,
        grant: Grant,
        session: String,
    ) -> Result<(), Refusal> {
        let handle = self.sessions.get(&SessionHash::of(&session)).copied();
        let found = handle.and_then(|handle| Some((handle, self.peers.get_mut(&handle)?)));
        let Some((handle, peer)) = found.filter(|(_, peer)| peer.is_at(room) && !peer.is_resource) else {
            // A session of our predecessor is known as soon as its worker has told what is installed.
            if !self.is_ready() {
                return Err(Refusal::no_dataplane());
            }
            return Err(Refusal::new(ErrorCode::UnknownSession, "the session is not known here: offer anew"));
        };
        peer.transport.resumed();
        peer.socket_lost_at = None;
        let room = peer.room.clone();
        if let Some(before) = self.sockets.of(handle) {
            self.send(before, ServerSignal::Bye { reason: LeaveReason::Replaced, rejoin: false });
            self.close_socket(before);
        }
        self.sockets.seat(socket, handle, View::resumed(&room));
        self.timers.set(Timer::Guest(socket), None);
        self.set_clock(handle);
        self.totals.resumed += 1;
        if let Some(who) = self.who(handle) {
            self.happened(Happening::Resumed { who });
        }
        if self.regrant(now, handle, grant).is_err() {
            self.watch_token(now, handle); // Whose token it is does not matter to who shows the session.
        }
        let Some(Member { id, grant, .. }) = self.member(handle) else { return Ok(()) };
        let (id, grant) = (id.clone(), grant.clone());
        let muted = self.member(handle).map(Member::muted_mids).unwrap_or_default();
        self.welcome(socket, session, id, room.clone(), &grant, Some(muted));
        self.data_resumed(now, handle);
        self.room_changed(&room);
        self.preference_changed(&room);
        Ok(())
    }
}
