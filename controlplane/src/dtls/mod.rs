//! DTLS (RFC 6347, RFC 9147) as WebRTC uses it: a handshake over the media path whose only product is SRTP keys
//! (RFC 5764).
//!
//! Where it stands in a call: the worker has validated the peer's address by ICE and punts its DTLS records; the
//! engine hands each to the peer's [`Dtls`], sends what [`Dtls::poll_transmit`] gives back by inject, and gets
//! [`DtlsEvent::Connected`] with the keys and the peer's certificate. The certificate is self-signed by nature: what
//! proves the peer is that its hash stands in the offer ([`fingerprint_matches`], RFC 8122), which the engine must
//! check before it lets the keys out.
//!
//! [`Dtls`] is sans-IO: datagrams and `now` go in; datagrams, events and a deadline come out. BoringSSL does the
//! protocol; even its timers run on the `now` given, so a simulator may drive it in virtual time. (BoringSSL draws
//! its randomness from the kernel by itself; it is the one thing here that a seed does not decide.)
//!
//! A connection lives as long as its peer. After the handshake it must still be fed and ticked: the answer to a lost
//! last flight, the ACKs of DTLS 1.3 (RFC 9147 §7) and `close_notify` depend on it, and its application data is the SCTP of
//! data channels ([`Dtls::handle`], [`Dtls::send`]).
//!
//! ```no_run
//! # use std::time::Instant;
//! # fn send(_: Vec<u8>) {} fn receive() -> Vec<u8> { vec![] }
//! use controlplane::dtls::{Dtls, DtlsEvent, Identity};
//!
//! let identity = Identity::generate()?;
//! let mut dtls = Dtls::accept(&identity, Instant::now())?;
//! loop {
//!     dtls.handle(Instant::now(), &receive());
//!     while let Some(datagram) = dtls.poll_transmit() {
//!         send(datagram);
//!     }
//!     if let Some(DtlsEvent::Connected(connected)) = dtls.poll_event() {
//!         println!("{} with {:?}", connected.version, connected.profile);
//!         break;
//!     }
//! }
//! # Ok::<(), controlplane::dtls::DtlsError>(())
//! ```

mod connection;
mod context;
mod error;
mod ffi;
mod fingerprint;
mod identity;
mod keys;
mod wire;

pub use connection::{Connected, DATA_LEN_MAX, Dtls, DtlsEvent, DtlsVersion, TransportKeys};
pub use error::DtlsError;
pub use fingerprint::{FingerprintError, fingerprint_matches};
pub use identity::Identity;
pub use keys::{KeyMaterial, NAME_LEN};
