//! The dataplane with its sockets. One executable, because each takes seconds to build.

mod edge_running;
mod frames;
#[path = "../rig/mod.rs"]
mod rig;
mod running;
mod tcp;
