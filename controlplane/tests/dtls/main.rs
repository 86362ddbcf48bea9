//! DTLS as the engine uses it: between two of our own ends in virtual time, against the `dtls` crate as an
//! independent stack in both roles, and against hostile bytes.

mod handshake;
mod pair;
