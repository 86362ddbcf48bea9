//! What crosses a boundary in uprtc: two languages ([`plane`] between the planes, [`signal`] between client and
//! controlplane), the STUN wire format that both planes use, the [`flow`]s between edges, and the one medium, the shared-memory [`link`].
//! There is no policy here.

pub mod flow;
pub mod histogram;
pub mod id;
pub mod link;
pub mod plane;
pub mod signal;
pub mod stun;
pub mod work;
