//! One end of a link between a worker here and a worker of another edge: its place on the worker, and the DTLS connection that gives the
//! keys of the transports over it.

use std::net::SocketAddr;
use std::time::Instant;

use proto::id::PeerId;
use proto::plane::{PEER_CANDIDATES_MAX, PeerCandidate, PeerOpen};

use super::message::LinkSaid;
use super::paths::Ways;
use crate::bus::NodeNews;
use crate::dtls::TransportKeys;
use crate::hex;
use crate::ice::Credentials;
use crate::peer::Transport;
use crate::random::Random;
use crate::reconcile::Plan;
use crate::sdp::{Fingerprint, Setup};

/// Which link: to which node, between which worker here and which there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LinkKey {
    /// The name of the other node.
    pub(crate) node: String,
    /// The worker here.
    pub(crate) ours: usize,
    /// The worker there.
    pub(crate) theirs: u16,
}

/// See the module.
pub(crate) struct Link {
    /// Its place on the worker here.
    pub(crate) peer: PeerId,
    /// In which run the other node was when it last told its credentials.
    pub(crate) run: Option<String>,
    credentials: Credentials,
    /// Theirs.
    remote: Option<(String, String)>,
    /// The connection.
    pub(crate) transport: Transport,
    /// Where the path leads that has answered.
    path: Option<SocketAddr>,
    /// When it last was of use.
    pub(crate) used_at: Instant,
    /// By which ways the other end is reached.
    pub(crate) ways: Ways,
    /// Places of candidates that were ever filled.
    places: usize,
}

impl Link {
    /// The end of a link here. Nothing is sent before the other end has told its credentials.
    pub(crate) fn open(
        peer: PeerId,
        worker: usize,
        transport: Transport,
        plan: &mut Plan,
        random: &mut Random,
        now: Instant,
    ) -> Link {
        let Credentials { ufrag, pwd } = Credentials::from_random(worker, &random.bytes());
        let open = PeerOpen { peer, ufrag, pwd };
        plan.want(open);
        Link::of(open, transport, now)
    }

    /// The end of a link that an earlier controlplane had. The other end tells its credentials again, and the connection is made then.
    /// The worker goes on by the ways that it has until others are decided.
    pub(crate) fn adopted(open: PeerOpen, path: Option<SocketAddr>, ways: Ways, plan: &Plan, now: Instant) -> Link {
        Link { path, ways, places: plan.candidates(open.peer), ..Link::of(open, Transport::adopted(None), now) }
    }

    fn of(PeerOpen { peer, ufrag, pwd }: PeerOpen, transport: Transport, now: Instant) -> Link {
        Link {
            peer,
            run: None,
            credentials: Credentials { ufrag, pwd },
            remote: None,
            transport,
            path: None,
            used_at: now,
            ways: Ways::default(),
            places: 0,
        }
    }

    /// Where the path leads, if one was found.
    pub(crate) fn path(&self) -> Option<SocketAddr> {
        self.path
    }

    /// A connection that is to be made: the one whose name comes first is the client.
    pub(crate) fn transport(ours: &str, node: &NodeNews, deadline: Instant) -> Transport {
        let setup = if *ours < *node.node.node { Setup::Active } else { Setup::Passive };
        Transport::answered(vec![Fingerprint::sha256(node.fingerprint)], setup, deadline)
    }

    /// How it is reached at this end.
    pub(crate) fn said(&self, key: &LinkKey, asks: bool) -> LinkSaid {
        LinkSaid {
            ours: u16::try_from(key.ours).unwrap_or(u16::MAX),
            theirs: key.theirs,
            ufrag: self.credentials.ufrag_str().to_owned(),
            pwd: self.credentials.pwd_str().to_owned(),
            asks,
        }
    }

    /// How it is reached at the other end. Whether that end is another one than before, so that the connection has to be made anew.
    pub(crate) fn told(&mut self, said: &LinkSaid, run: &str, addresses: &[SocketAddr], plan: &mut Plan) -> bool {
        let remote = Some((said.ufrag.clone(), said.pwd.clone()));
        let is_other = self.remote != remote || self.run.as_deref() != Some(run);
        self.run = Some(run.to_owned());
        if self.remote != remote {
            plan.want_remote(self.peer, &said.ufrag, &said.pwd);
            self.remote = remote;
        }
        if let Some(&remote) = addresses.first().filter(|_| self.places == 0) {
            self.reach(&[(remote, (0, 0))], plan);
        }
        is_other
    }

    /// The worker asks these addresses, in the order in which they are preferred, each in its flows.
    pub(crate) fn reach(&mut self, ways: &[(SocketAddr, (u64, u64))], plan: &mut Plan) {
        for place in 0..PEER_CANDIDATES_MAX {
            let (remote, (send_flow, receive_flow)) = match ways.get(place) {
                Some(way) => *way,
                None if place < self.places => (SocketAddr::from(([0, 0, 0, 0], 0)), (0, 0)),
                None => break,
            };
            let place = place as u8;
            plan.want(PeerCandidate { peer: self.peer, place, remote, send_flow, receive_flow });
        }
        self.places = self.places.max(ways.len());
    }

    /// Whether the other end has told how it is reached.
    pub(crate) fn is_told(&self) -> bool {
        self.remote.is_some()
    }

    /// The connection is to be made anew, over the path that there is.
    pub(crate) fn restart(&mut self, transport: Transport) {
        self.transport = transport;
        if let Some(path) = self.path {
            self.transport.validated(path);
        }
    }

    /// Other credentials than before: the other end sees by them that the connection is to be made anew.
    pub(crate) fn renew(&mut self, worker: usize, plan: &mut Plan, random: &mut Random) {
        self.credentials = Credentials::from_random(worker, &random.bytes());
        plan.want(PeerOpen { peer: self.peer, ufrag: self.credentials.ufrag, pwd: self.credentials.pwd });
    }

    /// An address has answered.
    pub(crate) fn validated(&mut self, path: SocketAddr) {
        self.path = Some(path);
        self.transport.validated(path);
    }

    /// What both ends call the connection, once it is made.
    pub(crate) fn connection(&self) -> Option<String> {
        let dtls = self.transport.dtls().filter(|_| self.transport.is_connected())?;
        dtls.name().map(|name| hex::write(&name))
    }

    /// Keys of a transport over it.
    pub(crate) fn keys(&self, context: &[u8]) -> Option<TransportKeys> {
        self.transport.dtls().filter(|_| self.transport.is_connected())?.export(context)
    }
}
