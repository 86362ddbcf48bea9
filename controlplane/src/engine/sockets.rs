//! Signalling sockets: who is at each of them, and at which of them a peer is. Both directions are kept in step here, and
//! what a peer's client was told ([`View`]) lives exactly as long as its socket.

use std::collections::BTreeMap;

use super::Handle;
use crate::ids::SocketId;
use crate::policy::Grant;
use crate::session::SessionHash;
use crate::view::View;

/// Who is at a socket.
pub(super) enum Client {
    /// Somebody who was let in and has not offered yet.
    Guest(Guest),
    /// A peer.
    Peer(Handle),
}

/// A peer to be: what `welcome` said.
#[derive(Clone)]
pub(super) struct Guest {
    pub(super) room: String,
    pub(super) grant: Grant,
    pub(super) session: SessionHash,
    pub(super) id: String,
}

/// All sockets that are open.
#[derive(Default)]
pub(super) struct Sockets {
    clients: BTreeMap<SocketId, Client>,
    of_peers: BTreeMap<Handle, (SocketId, View)>,
}

impl Sockets {
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn all(&self) -> Vec<SocketId> {
        self.clients.keys().copied().collect()
    }

    pub(super) fn client(&self, socket: SocketId) -> Option<&Client> {
        self.clients.get(&socket)
    }

    pub(super) fn guest_mut(&mut self, socket: SocketId) -> Option<&mut Guest> {
        match self.clients.get_mut(&socket) {
            Some(Client::Guest(guest)) => Some(guest),
            _ => None,
        }
    }

    pub(super) fn guests(&self) -> impl Iterator<Item = (SocketId, &Guest)> {
        self.clients.iter().filter_map(|(&socket, client)| match client {
            Client::Guest(guest) => Some((socket, guest)),
            Client::Peer(_) => None,
        })
    }

    /// The socket of a peer, if it has one now.
    pub(super) fn of(&self, peer: Handle) -> Option<SocketId> {
        self.of_peers.get(&peer).map(|(socket, _)| *socket)
    }

    /// The same, with what its client was told.
    pub(super) fn view_mut(&mut self, peer: Handle) -> Option<(SocketId, &mut View)> {
        self.of_peers.get_mut(&peer).map(|(socket, view)| (*socket, view))
    }

    /// A guest is at a socket.
    pub(super) fn welcome(&mut self, socket: SocketId, guest: Guest) {
        self.clients.insert(socket, Client::Guest(guest));
    }

    /// A peer is at a socket, whose client was told this. Its socket before this one must be closed.
    pub(super) fn seat(&mut self, socket: SocketId, peer: Handle, view: View) {
        self.clients.insert(socket, Client::Peer(peer));
        self.of_peers.insert(peer, (socket, view));
    }

    /// A socket is gone.
    pub(super) fn close(&mut self, socket: SocketId) -> Option<Client> {
        let client = self.clients.remove(&socket)?;
        if let Client::Peer(peer) = client {
            self.of_peers.remove(&peer);
        }
        Some(client)
    }
}
