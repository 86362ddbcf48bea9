//! DTLS as the engine uses it: between two of our own ends in virtual time, against the `dtls` crate in both
//! roles and the `openssl` tool as independent stacks, and against hostile bytes.

mod handshake;
mod hostile;
mod interop;
mod loss;
mod openssl;
mod pair;
