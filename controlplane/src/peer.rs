//! A peer: how one is reached. Its session, and its transport from the answer to the keys. What it may do, sends and
//! receives is its [`Member`](crate::member::Member), and its socket is in the engine's table of them.
//!
//! It orders ICE and DTLS, which do not know each other: the worker validates an address and says so, DTLS runs over
//! punted datagrams to that address, and what comes out are SRTP keys, if the certificate is the one in the offer.

use std::net::SocketAddr;
use std::time::Instant;

use proto::id::PeerId;
use proto::plane::{Direction, PeerKeys, SrtpProfile};
use proto::signal::PeerState;

use crate::data::Exchange;
use crate::dtls::{Connected, Dtls, DtlsEvent, Identity, KeyMaterial, TransportKeys, fingerprint_matches};
use crate::negotiated::Negotiated;
use crate::sdp::{Fingerprint, Offer, Setup};
use crate::session::SessionHash;

/// One peer.
pub(crate) struct Peer {
    /// The room that it is in.
    pub(crate) room: String,
    /// The room that it joined by, which its client's address and token name. Another one if an operator has moved it.
    pub(crate) home: String,
    /// By what it is recognised.
    pub(crate) session: SessionHash,
    /// When its socket was lost. `None` of one that never had one here: a resource, or an adopted peer before it resumes.
    pub(crate) socket_lost_at: Option<Instant>,
    /// When it joined. `None` of an adopted one.
    pub(crate) joined_at: Option<Instant>,
    /// Whether it came by an HTTP resource, whose id is its session.
    pub(crate) is_resource: bool,
    /// What was negotiated with it.
    pub(crate) negotiated: Negotiated,
    /// When it was taken in here, for the operator's log.
    pub(crate) since: Option<Instant>,
    /// Whether its client was told that its token expires.
    pub(crate) is_warned: bool,
    /// Its way to the worker.
    pub(crate) transport: Transport,
    /// What it has of data, once there is some.
    pub(crate) data: Option<Box<Exchange>>,
}

impl Peer {
    /// A peer whose offer is answered just now.
    pub(crate) fn answered(
        room: &str,
        session: SessionHash,
        offer: &Offer,
        negotiated: Negotiated,
        deadline: Instant,
    ) -> Peer {
        Peer {
            room: room.to_owned(),
            home: room.to_owned(),
            session,
            socket_lost_at: None,
            joined_at: None,
            is_resource: false,
            since: None,
            is_warned: false,
            transport: Transport::answered(offer.fingerprints.clone(), negotiated.setup(), deadline),
            negotiated,
            data: None,
        }
    }

    /// A peer that an earlier controlplane connected. By the deadline it must be resumed, unless it has a resource: nobody
    /// resumes that, and it stays while its consent lives.
    pub(crate) fn adopted(
        (room, home): (String, Option<String>),
        session: SessionHash,
        negotiated: Negotiated,
        deadline: Option<Instant>,
    ) -> Peer {
        Peer {
            home: home.unwrap_or_else(|| room.clone()),
            room,
            session,
            socket_lost_at: None,
            joined_at: None,
            is_resource: deadline.is_none(),
            since: None,
            negotiated,
            is_warned: false,
            transport: Transport::adopted(deadline),
            data: None,
        }
    }

    /// What it has of data, if it has agreed on data channels, or speaks of data on its socket. It may send so much.
    pub(crate) fn exchange(&mut self, bps_max: u32) -> Option<&mut Exchange> {
        let has_some = self.negotiated.data.is_some() || self.negotiated.is_sdk;
        (bps_max > 0 && has_some).then(|| self.exchange_any(bps_max))
    }

    /// The same also of one that has none, and speaks on its socket.
    pub(crate) fn exchange_any(&mut self, bps_max: u32) -> &mut Exchange {
        let agreed = self.negotiated.data.map(|agreed| (agreed, self.negotiated.setup() == Setup::Active));
        let exchange = self.data.get_or_insert_with(|| Box::new(Exchange::new(bps_max)));
        exchange.agree(agreed); // A subsequent offer may have brought them.
        exchange
    }

    /// Whether its data channels are served: not where an earlier controlplane has made its DTLS.
    pub(crate) fn has_channels(&self) -> bool {
        self.negotiated.data.is_some() && (self.transport.dtls().is_some() || !self.transport.is_connected())
    }

    /// When to look at it again.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let data = self.data.as_ref().and_then(|exchange| exchange.poll_timeout());
        [self.transport.poll_timeout(), data].into_iter().flatten().min()
    }

    /// Whether it is found under a room's address.
    pub(crate) fn is_at(&self, room: &str) -> bool {
        self.room == room || self.home == room
    }
}

/// ICE and DTLS of a peer, as far as they are the controlplane's.
pub(crate) struct Transport {
    state: PeerState,
    /// Hashes of the certificate, of which one must match.
    fingerprints: Vec<Fingerprint>,
    /// Whether we are the DTLS client: only for a client that insists on being the server.
    is_client: bool,
    /// The address that was validated last.
    remote: Option<SocketAddr>,
    dtls: Option<Dtls>,
    /// By when it must be connected or, if it was adopted, resumed.
    deadline: Option<Instant>,
}

/// How a transport went on.
pub(crate) enum Progress {
    /// Keys are agreed with whom we expect.
    Connected(Box<Connected>),
    /// It cannot go on.
    Failed(String),
    /// The peer closed it.
    Closed,
}

impl Transport {
    /// A transport that was answered just now.
    pub(crate) fn answered(fingerprints: Vec<Fingerprint>, ours: Setup, deadline: Instant) -> Self {
        Self {
            state: PeerState::New,
            fingerprints,
            is_client: ours == Setup::Active,
            remote: None,
            dtls: None,
            deadline: Some(deadline),
        }
    }

    /// A transport that an earlier controlplane connected. Its DTLS state is gone and not needed any more.
    pub(crate) fn adopted(deadline: Option<Instant>) -> Self {
        Self {
            state: PeerState::Connected,
            fingerprints: Vec::new(),
            is_client: false,
            remote: None,
            dtls: None,
            deadline,
        }
    }

    /// How far it is.
    pub(crate) fn state(&self) -> PeerState {
        self.state
    }

    /// Whether keys are agreed.
    pub(crate) fn is_connected(&self) -> bool {
        self.state == PeerState::Connected
    }

    /// The worker validated an address, or a datagram came from one that it had validated.
    pub(crate) fn validated(&mut self, remote: SocketAddr) {
        self.remote = Some(remote);
        if self.state == PeerState::New {
            self.state = PeerState::Connecting;
        }
    }

    /// Whether a handshake is to be begun: as the client at once, as the server when a datagram is there.
    pub(crate) fn wants_handshake(&self, has_datagram: bool) -> bool {
        self.state == PeerState::Connecting && self.dtls.is_none() && (self.is_client || has_datagram)
    }

    /// Begins the handshake.
    pub(crate) fn begin(&mut self, identity: &Identity, now: Instant) -> Result<(), String> {
        let dtls = if self.is_client { Dtls::connect(identity, now) } else { Dtls::accept(identity, now) };
        self.dtls = Some(dtls.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Takes a DTLS datagram, and gives the application data in it, a record each. Without a handshake it is discarded.
    pub(crate) fn handle(&mut self, now: Instant, payload: &[u8]) -> Vec<Vec<u8>> {
        self.dtls.as_mut().map(|dtls| dtls.handle(now, payload)).unwrap_or_default()
    }

    /// Sends application data. It is there to transmit then.
    pub(crate) fn send_data(&mut self, now: Instant, data: &[u8]) {
        // Without a connection it is as if it were lost on the way.
        let _ = self.dtls.as_mut().is_some_and(|dtls| dtls.send(now, data));
    }

    /// Whether a datagram came from the address that is known.
    pub(crate) fn is_at(&self, remote: SocketAddr) -> bool {
        self.remote == Some(remote) && self.is_connected()
    }

    /// Sends again what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(dtls) = &mut self.dtls
            && dtls.poll_timeout().is_some_and(|due| due <= now)
        {
            dtls.handle_timeout(now);
        }
    }

    /// The next datagram to inject, and where to.
    pub(crate) fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let remote = self.remote?;
        Some((remote, self.dtls.as_mut()?.poll_transmit()?))
    }

    /// How it went on, if it did.
    pub(crate) fn poll_progress(&mut self) -> Option<Progress> {
        Some(match self.dtls.as_mut()?.poll_event()? {
            DtlsEvent::Connected(connected) => match self.check_certificate(&connected) {
                Ok(()) => {
                    self.state = PeerState::Connected;
                    self.deadline = None;
                    Progress::Connected(connected)
                }
                Err(reason) => Progress::Failed(reason),
            },
            DtlsEvent::Failed(error) => Progress::Failed(error.to_string()),
            DtlsEvent::Closed => Progress::Closed,
        })
    }

    /// Whether the certificate of the handshake is the one of the offer (RFC 5763 §5).
    fn check_certificate(&self, connected: &Connected) -> Result<(), String> {
        let der = &connected.peer_certificate_der;
        let matches = |f: &Fingerprint| fingerprint_matches(der, &f.algorithm, &f.bytes).unwrap_or(false);
        if self.fingerprints.iter().any(matches) {
            Ok(())
        } else {
            Err("the certificate of the DTLS handshake is not the one of the offer".to_owned())
        }
    }

    /// The handshake's connection, once there is one.
    pub(crate) fn dtls(&self) -> Option<&Dtls> {
        self.dtls.as_ref()
    }

    /// The socket is back: an adopted peer has proved that it lives.
    pub(crate) fn resumed(&mut self) {
        if self.is_connected() {
            self.deadline = None;
        }
    }

    /// Whether it ran out of time.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// When to look at it again.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let dtls = self.dtls.as_ref().and_then(Dtls::poll_timeout);
        [self.deadline, dtls].into_iter().flatten().min()
    }
}

/// The keys of a handshake as the worker takes them, both ways.
pub(crate) fn keys_of(peer: PeerId, Connected { profile, rx, tx, .. }: &Connected) -> [PeerKeys; 2] {
    as_taken(peer, *profile, rx, tx)
}

/// The same of a transport over a link.
pub(crate) fn keys_of_transport(peer: PeerId, TransportKeys { profile, rx, tx }: &TransportKeys) -> [PeerKeys; 2] {
    as_taken(peer, *profile, rx, tx)
}

fn as_taken(peer: PeerId, profile: SrtpProfile, rx: &KeyMaterial, tx: &KeyMaterial) -> [PeerKeys; 2] {
    [(Direction::Rx, rx), (Direction::Tx, tx)].map(|(direction, KeyMaterial { key, salt })| PeerKeys {
        peer,
        direction,
        profile,
        key: *key,
        salt: *salt,
    })
}
