//! controlplane

pub mod engine;
pub mod policy;
mod random;
pub mod snapshot;
