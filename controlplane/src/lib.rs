//! controlplane

pub mod dtls;
