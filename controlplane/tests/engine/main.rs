//! The controlplane without sockets, in virtual time: what peers and workers say, and what they are answered. One executable, because each takes seconds to build.

mod absence;
#[path = "../answering/mod.rs"]
mod answering;
#[path = "../cluster/mod.rs"]
mod cluster;
mod codecs;
mod cores;
mod data;
mod edges;
mod grants;
mod happenings;
mod hostile_sdp;
mod last_n;
mod moving;
mod negotiation;
mod opus;
mod quality;
mod renegotiation;
mod resources;
mod restart;
mod rooms;
mod settings;
mod shown;
mod simulcast;
mod speakers;
mod strangers;
#[path = "../world/mod.rs"]
mod world;
