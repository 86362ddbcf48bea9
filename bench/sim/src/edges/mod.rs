//! Many edges and the paths between them, in virtual time: carriers' networks with peering points, outages and congestion; the workers' probes and
//! choices (`dataplane::overlay`) and the controlplanes' orders (`controlplane::overlay`), as they ship.
//!
//! `world` says what a packet meets between two edges, `flow` is what one edge does to reach another, `run` is the clock, `score` the figures.

mod flow;
mod run;
mod score;
mod world;

pub use run::run;
pub use score::{DEAD_MAX, Score};
pub use world::Plan;
