//! controlplane

pub mod auth;
pub mod engine;
pub mod policy;
mod random;
pub mod snapshot;
