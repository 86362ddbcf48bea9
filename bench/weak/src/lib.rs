//! One direction of a link, without a kernel and without a clock: packets and the time in, packets and a deadline out. The program
//! `weak-link` (`main.rs`) gives it two TUN interfaces; bench/weak/*.mjs put browsers behind them.
//!
//! In the order a packet meets it: `settings` is what the link is like, `direction` carries packets, `counts` is what is
//! reported, and `command` is what the program reads from its input.

pub mod command;
pub mod counts;
pub mod direction;
pub mod settings;

pub use command::{Command, Which};
pub use counts::Counts;
pub use direction::Direction;
pub use settings::{Change, Loss, Settings};
