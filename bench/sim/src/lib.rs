//! The simulator: the engine of the controlplane and the forwarders of the dataplane, joined in virtual time without a
//! process, a socket or a clock, with scripted peers around them and a network that loses, delays, reorders and duplicates.
//! Everything that happens follows from one seed, so a run that breaks a law is run again by its number.
//!
//! - [`script`] draws from the seed what happens when: who joins and leaves, which network they have, which plane is killed.
//! - [`world`] steps through it a millisecond at a time, and carries datagrams and signals.
//! - [`server`] is the server: one engine, its workers, and the link between them.
//! - [`peer`] is a client: signalling, ICE, DTLS, SRTP of another implementation (`webrtc-srtp`), and media that says of
//!   itself what it is.
//! - `model` are the tables of a worker with which the tests of the controlplane work. Here they are given each command that
//!   the real worker is given, and must refuse, commit and describe what it does: so those tests are about the real one.
//! - [`wire`] is what clients say beside media.
//! - [`network`] is the way of a datagram; [`laws`] are what must hold of what arrives.
//!
//! One thing is not drawn from the seed: BoringSSL takes its keys from the kernel. Nothing that happens depends on them; the
//! network counts each DTLS record as long as the longest, because the length of a signature varies by a few bytes.
//!
//! [`cases`] measures instead: calls on networks that are narrow, lossy or shared. [`edges`] measures the paths between many edges.
//!
//! `cargo run -p sim -- --seeds 500` runs seeds 0 to 499; `--seed 17` runs one and tells what happened.

pub mod cases;
pub mod edges;
pub mod laws;
#[path = "../../../controlplane/tests/world/worker.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "the tests of the controlplane use the rest of it")]
mod model;
pub mod network;
pub mod peer;
pub mod random;
pub mod script;
pub mod server;
pub mod wire;
pub mod world;

pub use world::{Summary, run};
