//! The controlplane with its sockets. One executable, because each takes seconds to build.

mod auth;
mod driver;
#[path = "../edge/mod.rs"]
mod edge;
mod revocations;
mod shared;
mod stun;
mod tls;
mod whip;
#[path = "../world/mod.rs"]
mod world;
