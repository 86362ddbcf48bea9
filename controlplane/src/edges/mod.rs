//! One room on many edges, as far as it needs no engine: what edges say to each other ([`message`]), what one edge knows of the people of
//! another ([`part`]), and in which numbers media crosses between two edges ([`media`]).
//!
//! **Who is in a room.** Each edge says who is in the room through it, to all edges that listen to the room: whole when it begins to,
//! when somebody asks, and when the cluster is there again; what has changed otherwise. The others have these people as members, too
//! ([`crate::member::Elsewhere`]), so signals, slots, speakers and the page know no difference.
//!
//! **Media.** Two edges that share a room have a *link*: a path that the workers check by STUN in both directions, and a DTLS
//! connection over it. Each publisher has a *transport* of its own over it to each edge that wants something of it, with SRTP keys that
//! both ends export from that connection. The edge that receives decides: it opens the streams, under SSRCs that it chooses, and tells
//! the other edge which of them it wants now. The one that sends has a slot for each of them.
//!
//! docs/EDGES.md says how it behaves, docs/decisions/0066 why it is so.

pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod journal;
pub(crate) mod link;
pub(crate) mod media;
pub(crate) mod message;
pub(crate) mod part;
pub(crate) mod paths;
pub(crate) mod relay;
pub(crate) mod seats;
