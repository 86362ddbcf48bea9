//! dataplane

pub mod srtp;
