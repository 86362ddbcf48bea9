//! controlplane

pub mod ice;
pub mod sdp;
