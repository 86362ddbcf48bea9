//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01), both ways.
//!
//! A publisher's packets carry a transport-wide sequence number. [`ArrivalLog`] notes when each arrived, by the kernel's
//! timestamp and after SRTP authentication, and writes the feedback from which the publisher estimates its
//! bandwidth. [`TransportCc`] reads the feedback that subscribers send about our packets.
//!
//! Both deal in the body of an RTCP packet (PT 205, FMT 15); [`crate::rtcp`] frames it.

mod arrivals;
mod chunk;
mod received;

use crate::config::Micros;

pub use arrivals::{ArrivalLog, FEEDBACK_LEN_MAX, Noted};
pub use received::{Statuses, TransportCc, TransportCcError};

/// One tick of a receive delta, µs.
pub const DELTA_TICK: Micros = 250;

/// One tick of the reference time, µs: 64 ms.
pub const REFERENCE_TICK: Micros = 256 * DELTA_TICK;
