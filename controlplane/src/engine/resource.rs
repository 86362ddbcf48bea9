//! Peers that come by an HTTP resource instead of a signalling socket (WHIP, WHEP): a door answers each request at once,
//! and nothing is ever told to them.
//!
//! Such a peer lives as long as its ICE consent, until it is deleted, or until ICE and DTLS did not complete in time.
//! Its resource's id is a secret like a session, kept as a hash, so the journal keeps it good at a successor.

use std::time::Instant;

use proto::plane::PeerOpen;
use proto::signal::{ErrorCode, LeaveReason};

use super::signalling::no_dataplane;
use super::{Engine, Guest, Handle};
use crate::happening::Door;
use crate::ice::Credentials;
use crate::negotiation::{Before, Negotiation, Refusal};
use crate::policy::{FROM_LEN_MAX, FROM_MAX, Grant, ROOM_CHARS_MAX};
use crate::room::Room;
use crate::sdp::Fragment;
use crate::session::{SESSION_RANDOM_LEN, SessionHash};

/// To an offer in which nothing flows as the door has it.
const OTHER_WAY: &str =
    "no m-section goes the way of this address: WHIP takes what is sent, WHEP gives what is received";

/// What a door asks.
#[derive(Debug)]
pub enum Ask {
    /// Take a peer in.
    Open {
        /// The room of the address.
        room: String,
        /// What the token allows, narrowed to what the door is for.
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

/// What a door is answered.
#[derive(Debug)]
pub enum Reply {
    /// The peer is in.
    Opened {
        /// The id of its resource: whoever has it, and a token, can end the peer.
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

/// Why a door is denied what it asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Denial {
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

impl From<Refusal> for Denial {
    fn from(Refusal { code, message }: Refusal) -> Self {
        Denial::Refused { code, message }
    }
}

impl Engine {
    /// Answers a door. What follows for others comes out of [`Engine::poll_output`] as always.
    pub fn ask(&mut self, now: Instant, ask: Ask) -> Result<Reply, Denial> {
        self.now = Some(now);
        match ask {
            Ask::Open { room, grant, from, sdp } => {
                let opened = self.open_resource(now, room, grant, from, &sdp);
                self.totals.offers_refused += u64::from(opened.is_err());
                Ok(opened?)
            }
            Ask::Trickle { room, resource, tags } => {
                let handle = self.resource(&room, &resource)?;
                match self.tag_of(handle) {
                    Some(tag) if tags.contains(&tag) => Ok(Reply::Trickled),
                    _ => Err(Denial::OtherTag),
                }
            }
            Ask::Restart { room, resource, fragment } => {
                let handle = self.resource(&room, &resource)?;
                self.restart_ice(handle, &fragment)
            }
            Ask::Close { room, resource } => match self.resource(&room, &resource) {
                Ok(handle) => {
                    self.end_peer(handle, LeaveReason::Left, false);
                    Ok(Reply::Closed)
                }
                // What the client wants is so: it closed its connection first, or asks again for want of an answer.
                Err(_) if self.ended.knows(now, SessionHash::of(&resource), &room) => Ok(Reply::Closed),
                Err(denial) => Err(denial),
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
    ) -> Result<Reply, Refusal> {
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
        (admitted.peer.since, admitted.peer.joined_at) = (Some(now), Some(now));
        let door = if admitted.peer.grant.publish { Door::Whip } else { Door::Whep };
        admitted.member.from = from;
        let handle = admitted.handle;
        self.sessions.insert(admitted.peer.session, handle);
        self.peers.insert(handle, admitted.peer);
        self.set_clock(handle);
        self.watch_token(now, handle);
        self.join(handle, &room, admitted.member);
        self.has_joined(handle, door);
        let tag = self.tag_of(handle).expect("the peer was opened just now");
        Ok(Reply::Opened { resource, sdp: admitted.sdp, tag, stun: self.settings.stun.clone() })
    }

    /// An offer that is served in every m-section of media: the client is told nothing later (RFC 9725 §4.4.3).
    fn read_whole(&self, sdp: &str, grant: &Grant, room: &str) -> Result<Negotiation, Refusal> {
        let codecs = self.codecs_of(room);
        let negotiation = Negotiation::read(sdp, &[], grant, &self.settings, codecs, Before::default());
        let negotiation = negotiation.map_err(|refusal| {
            match refusal.code == ErrorCode::Forbidden && (grant.publish || grant.subscribe) {
                true => Refusal::new(ErrorCode::UnsupportedOffer, OTHER_WAY),
                false => refusal,
            }
        })?;
        let mut negotiation = negotiation;
        negotiation.fix_video(self.rooms.get(room).map(Room::video));
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
    fn resource(&self, room: &str, resource: &str) -> Result<Handle, Denial> {
        let handle = self.sessions.get(&SessionHash::of(resource)).copied();
        let is_it = |handle: &Handle| self.peers.get(handle).is_some_and(|peer| peer.is_resource && peer.is_at(room));
        match handle.filter(is_it) {
            Some(handle) => Ok(handle),
            // One of our predecessor is known as soon as its worker has told what is installed.
            None if !self.is_ready() => Err(no_dataplane().into()),
            None => Err(Denial::UnknownResource),
        }
    }

    /// The username fragment that we issued names the ICE session (RFC 9725 §4.3.1), and the worker knows it.
    fn tag_of(&self, handle: Handle) -> Option<String> {
        let open = self.workers.get(&handle.worker)?.plan.credentials(handle.peer)?;
        Some(String::from_utf8_lossy(&open.ufrag).into_owned())
    }

    /// The worker takes other credentials for the peer; SRTP and DTLS stand (RFC 8842 §5.5).
    fn restart_ice(&mut self, handle: Handle, fragment: &Fragment) -> Result<Reply, Denial> {
        let Some(peer) = self.peers.get_mut(&handle) else { return Err(Denial::UnknownResource) };
        let Some(ice) = fragment.ice.as_ref().filter(|ice| peer.terms.is_restart(ice)) else {
            // Not another ICE session: some clients name any tag for want of one.
            return Ok(Reply::Trickled);
        };
        peer.terms.restarted(ice);
        self.journal(handle);
        let credentials = Credentials::from_random(&self.random.bytes());
        let Some(worker) = self.workers.get_mut(&handle.worker) else { return Err(no_dataplane().into()) };
        worker.plan.want(PeerOpen { peer: handle.peer, ufrag: credentials.ufrag, pwd: credentials.pwd });
        Ok(Reply::Restarted {
            tag: credentials.ufrag_str().to_owned(),
            ufrag: credentials.ufrag_str().to_owned(),
            pwd: credentials.pwd_str().to_owned(),
            candidates: worker.candidates.clone(),
        })
    }
}
