//! Decides for uprtc: who may join, who hears whom, with which keys and ids. It touches no SRTP packet.
//!
//! The modules in the order in which a call meets them: a signalling socket brings an offer ([`sdp`], [`ice`]), the
//! [`engine`] makes a peer of it, punted DTLS ([`dtls`]) gives its keys, the room finds slots for its tracks, and
//! what is desired becomes commands for the worker.

pub mod dtls;
pub mod ice;
pub mod sdp;
