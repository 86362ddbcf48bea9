//! The dataplane without sockets, in virtual time: what comes in, what goes out. One executable, because each takes seconds to build.

mod audio;
mod bursts;
mod bwe;
mod bwe_differential;
mod bwe_shared;
mod codecs;
mod consent;
mod descriptors;
#[path = "../edge/mod.rs"]
mod edge;
mod edge_media;
mod edge_paths;
mod edge_relays;
mod edges;
mod feedback;
mod forwarding;
mod hold;
mod hostile;
mod hostile_wire;
mod keyframes;
mod laws;
#[path = "../layered/mod.rs"]
mod layered;
mod layers;
mod layers_allocation;
#[path = "../link/mod.rs"]
mod link;
mod narrow;
mod pictures;
mod policing;
mod punting;
mod red;
mod relay;
mod remb;
mod roc;
mod routes;
mod sets;
mod shown;
mod silence;
mod simulcast;
mod simulcast_laws;
mod srtp_differential;
mod srtp_hostile;
mod ssrcs;
mod store;
#[path = "../studio/mod.rs"]
mod studio;
mod tallies;
mod vectors;
mod voices;
mod vp9_layers;
mod wire_differential;
#[path = "../world/mod.rs"]
mod world;
