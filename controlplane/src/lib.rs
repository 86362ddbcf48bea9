//! controlplane

pub mod auth;
