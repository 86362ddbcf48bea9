//! Peers that come by an HTTP resource instead of a signalling socket (WHIP, WHEP): each request is answered at once,
//! and no signal is ever sent to them.
//!
//! Such a peer lives as long as its ICE consent, until it is deleted, or until ICE and DTLS did not complete in time.
//! Its resource's id is a secret like a session, kept as a hash, so the journal keeps it good at a successor.

use std::time::Instant;

use proto::plane::PeerOpen;
use proto::signal::{ErrorCode, LeaveReason};

use super::sockets::Guest;
use super::{Engine, Handle};
use crate::happening::Access;
use crate::ice::Credentials;
use crate::negotiation::{Before, Negotiation};
use crate::policy::{FROM_LEN_MAX, FROM_MAX, Grant, ROOM_CHARS_MAX};
use crate::refusal::Refusal;
use crate::room::Room;
use crate::sdp::Fragment;
use crate::session::{SESSION_RANDOM_LEN, SessionHash};

/// To an offer in which nothing flows in the direction of the protocol.
const OTHER_DIRECTION: &str =
    "no m-section goes the way of this address: WHIP takes what is sent, WHEP gives what is received";

/// What a client of WHIP or WHEP asks.
#[derive(Debug)]
pub enum ResourceRequest {
    /// Take a peer in.
    Open {
        /// The room of the address.
        room: String,
        /// What the token allows, narrowed to what the protocol is for.
        grant: Grant,
        /// Names or ids of those to receive, in the order of the slots. Empty: everybody.
        from: Vec<String>,
        /// The offer.
        sdp: String,
    },
    /// Candidates of the ICE session that `tags` names.
    Trickle {
        /// The resource's room.
        room: String,
        /// Its id.
        resource: String,
        /// Of these entity tags one must be the present one.
        tags: Vec<String>,
    },
    /// Other ICE credentials, for a client that has others too: they stand in the fragment.
    Restart {
        /// The resource's room.
        room: String,
        /// Its id.
        resource: String,
        /// What was gathered.
        fragment: Fragment,
    },
    /// Let the peer go.
    Close {
        /// The resource's room.
        room: String,
        /// Its id.
        resource: String,
    },
}

/// What it is answered.
#[derive(Debug)]
pub enum ResourceReply {
    /// The peer is in.
    Opened {
        /// The id of its resource: a client that has it can end the peer.
        resource: String,
        /// The answer, with all candidates.
        sdp: String,
        /// Names the ICE session.
        tag: String,
        /// The STUN server to tell.
        stun: Option<String>,
    },
    /// The candidates were taken.
    Trickled,
    /// The credentials are others now.
    Restarted {
        /// Names the new ICE session.
        tag: String,
        /// Our username fragment.
        ufrag: String,
        /// Our password.
        pwd: String,
        /// Our candidates.
        candidates: Vec<String>,
    },
    /// The peer is gone.
    Closed,
}

/// Why it does not get what it asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResourceError {
    /// As a signalling socket would be told.
    Refused {
        /// Its stable name.
        code: ErrorCode,
        /// One sentence for a developer.
        message: String,
    },
    /// No peer has this resource, or has it any more.
    UnknownResource,
    /// The ICE session is another by now.
    OtherTag,
}

impl From<Refusal> for ResourceError {
    fn from(Refusal { code, message }: Refusal) -> Self {
        ResourceError::Refused { code, message }
    }
}

impl Engine {
    /// Does what a client of WHIP or WHEP asks.
    pub(super) fn resource_request(
        &mut self,
        now: Instant,
        request: ResourceRequest,
    ) -> Result<ResourceReply, ResourceError> {
        match request {
            ResourceRequest::Open { room, grant, from, sdp } => {
                let opened = self.open_resource(now, room, grant, from, &sdp);
                self.totals.offers_refused += u64::from(opened.is_err());
                Ok(opened?)
            }
            ResourceRequest::Trickle { room, resource, tags } => {
                let handle = self.resource(&room, &resource)?;
                match self.tag_of(handle) {
                    Some(tag) if tags.contains(&tag) => Ok(ResourceReply::Trickled),
                    _ => Err(ResourceError::OtherTag),
                }
            }
            ResourceRequest::Restart { room, resource, fragment } => {
                let handle = self.resource(&room, &resource)?;
                self.restart_ice(handle, &fragment)
            }
            ResourceRequest::Close { room, resource } => match self.resource(&room, &resource) {
                Ok(handle) => {
                    self.end_peer(handle, LeaveReason::Left, false);
                    Ok(ResourceReply::Closed)
                }
                // The peer is gone, which is what is asked: the client closed its connection first, or got no answer.
                Err(_) if self.ended.knows(now, SessionHash::of(&resource), &room) => Ok(ResourceReply::Closed),
                Err(error) => Err(error),
            },
        }
    }

    fn open_resource(
        &mut self,
        now: Instant,
        room: String,
        grant: Grant,
        from: Vec<String>,
        sdp: &str,
    ) -> Result<ResourceReply, Refusal> {
        if self.is_stopping {
            return Err(Refusal::new(ErrorCode::ServerFull, "the server is stopping"));
        }
        if !grant.admits(&room) || room.len() > ROOM_CHARS_MAX {
            return Err(Refusal::new(ErrorCode::Forbidden, "the token is not for this room"));
        }
        if from.len() > FROM_MAX || from.iter().map(String::len).sum::<usize>() > FROM_LEN_MAX {
            let message = format!("more than {FROM_MAX} peers are named, or their names are too long together");
            return Err(Refusal::new(ErrorCode::TooMuch, message));
        }
        let grant = grant.with_plain_name();
        let resource = self.random.hex::<SESSION_RANDOM_LEN>();
        let id = self.random.hex::<6>();
        let guest = Guest { room: room.clone(), grant, session: SessionHash::of(&resource), id };
        let mut negotiation = self.read_whole(sdp, &guest.grant, &room);
        if let Ok(newcomer) = &negotiation
            && self.make_way(&room, &guest.grant, newcomer.needs())
        {
            negotiation = self.read_whole(sdp, &guest.grant, &room); // The room's codecs may be others now.
        }
        let mut admitted = self.admit(now, guest, negotiation)?;
        admitted.peer.is_resource = true;
        admitted.member.from = from;
        let access = if admitted.member.grant.publish { Access::Whip } else { Access::Whep };
        let handle = admitted.handle;
        self.enter(now, handle, admitted.peer, admitted.member);
        self.has_joined(handle, access);
        let tag = self.tag_of(handle).expect("the peer was opened just now");
        Ok(ResourceReply::Opened { resource, sdp: admitted.sdp, tag, stun: self.settings.stun.clone() })
    }

    /// An offer that is served in every m-section of media: the client is told nothing later (RFC 9725 §4.4.3).
    fn read_whole(&self, sdp: &str, grant: &Grant, room: &str) -> Result<Negotiation, Refusal> {
        let codecs = self.codecs_of(room);
        let negotiation = Negotiation::read(sdp, &[], grant, &self.settings, codecs, Before::default());
        let negotiation = negotiation.map_err(|refusal| {
            match refusal.code == ErrorCode::Forbidden && (grant.publish || grant.subscribe) {
                true => Refusal::new(ErrorCode::UnsupportedOffer, OTHER_DIRECTION),
                false => refusal,
            }
        })?;
        let mut negotiation = negotiation;
        negotiation.fix_video(self.room(room).map(Room::video));
        match negotiation.first_unserved() {
            None => Ok(negotiation),
            Some(index) => {
                let why = negotiation.why_unserved(sdp, index, codecs);
                let message = format!("{why}; by WHIP and WHEP an offer is served in all its sections or refused");
                Err(Refusal::new(ErrorCode::UnsupportedOffer, message))
            }
        }
    }

    /// The peer of a resource.
    fn resource(&self, room: &str, resource: &str) -> Result<Handle, ResourceError> {
        let handle = self.sessions.get(&SessionHash::of(resource)).copied();
        let is_it = |handle: &Handle| self.peers.get(handle).is_some_and(|peer| peer.is_resource && peer.is_at(room));
        match handle.filter(is_it) {
            Some(handle) => Ok(handle),
            // One of our predecessor is known as soon as its worker has told what is installed.
            None if !self.is_ready() => Err(Refusal::no_dataplane().into()),
            None => Err(ResourceError::UnknownResource),
        }
    }

    /// The username fragment that we issued names the ICE session (RFC 9725 §4.3.1), and the worker knows it.
    fn tag_of(&self, handle: Handle) -> Option<String> {
        let open = self.workers.get(&handle.worker)?.plan.credentials(handle.peer)?;
        Some(String::from_utf8_lossy(&open.ufrag).into_owned())
    }

    /// The worker takes other credentials for the peer; SRTP and DTLS stand (RFC 8842 §5.5).
    fn restart_ice(&mut self, handle: Handle, fragment: &Fragment) -> Result<ResourceReply, ResourceError> {
        let Some(peer) = self.peers.get_mut(&handle) else { return Err(ResourceError::UnknownResource) };
        let Some(ice) = fragment.ice.as_ref().filter(|ice| peer.negotiated.is_restart(ice)) else {
            // Not another ICE session: clients that have no tag name any.
            return Ok(ResourceReply::Trickled);
        };
        peer.negotiated.restarted(ice);
        self.journal(handle);
        let credentials = Credentials::from_random(handle.worker, &self.random.bytes());
        let Some(worker) = self.workers.get_mut(&handle.worker) else { return Err(Refusal::no_dataplane().into()) };
        worker.plan.want(PeerOpen { peer: handle.peer, ufrag: credentials.ufrag, pwd: credentials.pwd });
        worker.plan.want_remote(handle.peer, &ice.ufrag, &ice.pwd);
        Ok(ResourceReply::Restarted {
            tag: credentials.ufrag_str().to_owned(),
            ufrag: credentials.ufrag_str().to_owned(),
            pwd: credentials.pwd_str().to_owned(),
            candidates: worker.candidates.clone(),
        })
    }
}
