//! How much a peer may send or receive: estimators, which know no packet and no table.
//!
//! Toward a receiver, [`Bwe`] estimates what the path carries (`estimator`): what was sent (`history`) and what feedback says
//! of it give the rate that arrives (`acknowledged`), the growth of queues (`groups`, `trendline`) and what they allow
//! (`aimd`; not where others keep the queue: `rivals`; `rtts`), what losses allow (`loss`), and whether more should be tried (`alr`, `probe`). A receiver without transport-cc
//! has reports (`reports`) and REMB. Without feedback the estimate falls (`silence`). From a publisher without transport-cc, `overuse` and `remb` estimate as the receiver.

mod acknowledged;
mod aimd;
mod alr;
mod estimator;
mod groups;
mod history;
mod loss;
mod overuse;
mod probe;
mod rate;
mod remb;
mod reports;
mod rivals;
mod rtts;
mod silence;
mod trendline;

pub use estimator::{Bwe, Facts, Limited};
pub use probe::{Probe, ProbeId};
pub use silence::Matched;
pub use trendline::Usage;

pub(crate) use overuse::Overuse;
pub(crate) use remb::{ABS_SEND_TIME_TICKS, Estimate};
