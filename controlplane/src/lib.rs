//! controlplane

pub mod engine;
#[allow(dead_code)]
mod ids;
pub mod policy;
mod random;
#[allow(dead_code)]
mod reconcile;
#[allow(dead_code)]
mod slots;
pub mod snapshot;
