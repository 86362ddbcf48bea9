//! A WebRTC client of uprtc: for the load generator, the doctor, tests, and processes that join rooms as peers do.
//!
//! The core is sans-IO: bytes and the time go in; bytes, events and a deadline come out. It reads no clock, opens no
//! socket, and takes its randomness from a seed if it is given one, so that a simulator can run it in virtual time.
//! It shares no code with either plane: DTLS is `dimpl`, SRTP, RTP and RTCP are written here
//! (docs/decisions/0033-one-client.md). Shared with uprtc are only the words on the wire that have no second meaning:
//! the signals of `proto::signal` and the STUN writer.
//!
//! In the order in which a call meets them: [`random`], [`sdp`] (offer and answer), [`ice`] (checks and consent),
//! [`dtls`] (keys), [`srtp`], [`transport`] (these on one UDP path: the core), [`rtp`], [`rtcp`] and [`twcc`] (what
//! goes through it). [`http`], [`signal`] and [`udp`] are the driver, on tokio; [`room`] is a whole peer on it.

pub mod dtls;
pub mod http;
pub mod ice;
pub mod random;
pub mod room;
pub mod rtcp;
pub mod rtp;
pub mod sdp;
pub mod service;
pub mod signal;
pub mod srtp;
pub mod transport;
pub mod twcc;
pub mod udp;
