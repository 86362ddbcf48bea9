//! Tests and measures uprtc from outside, as its users do. Nothing here ships.
//!
//! The heart is [`peer`]: a complete WebRTC client of another stack (the `dtls`, `webrtc-srtp`, `rtp` and `rtcp` crates),
//! which joins a room over the signalling socket, sends media that carries its own proof, and checks what it receives to
//! the byte. It is the independent oracle: a mistake that uprtc makes on both of its ends is seen here, and so is one that
//! uprtc and the crate `client` share. From `client` it has what neither keys nor media pass through: SDP, checks, and the
//! signalling socket.
//!
//! In the order in which a call meets them: [`settings`] (how a peer behaves), [`dtls_srtp`] (keys), [`media`] (what is
//! sent and how it is proved), [`send`] and [`receive`] (streams), [`twcc`] (congestion feedback), [`report`] (what a peer
//! saw), `framed` (the network that lets TCP through alone), `drive` (the task), and [`peer`] (its handle).

mod drive;
pub mod dtls_srtp;
mod framed;
pub mod media;
pub mod peer;
pub mod receive;
pub mod report;
pub mod send;
pub mod settings;
pub mod twcc;

pub use client::signal;
