//! Drives uprtc from outside, as its users do, with none of its code on the way of a packet.
//!
//! The heart is [`peer`]: a complete WebRTC client made of another stack (the `dtls`, `webrtc-srtp`, `rtp` and `rtcp`
//! crates), which joins a room over the signalling socket, sends media that carries its own proof, and checks what it
//! receives to the byte. A mistake that uprtc makes on both of its ends is thus seen here. Shared with uprtc are only
//! the words on the wire that have no second meaning: the signals of `proto::signal` and the STUN writer.
//!
//! In the order in which a call meets them: [`signal`] (the socket), [`sdp`] (offer and answer), [`ice`] (checks and
//! consent), [`secure`] (DTLS, SRTP), [`media`] (what is sent and how it is proved), [`send`] and [`receive`]
//! (streams), [`arrivals`] (congestion feedback), [`report`] (what a peer saw), and [`peer`], whose task drives them all.

pub mod arrivals;
mod drive;
pub mod ice;
pub mod load;
pub mod media;
pub mod peer;
pub mod receive;
pub mod report;
pub mod sdp;
pub mod secure;
pub mod send;
pub mod signal;
