//! dataplane

pub mod codec;
pub mod rtcp;
pub mod rtp;
pub mod twcc;

/// Microseconds of the worker's own monotonic clock; its zero means nothing outside the worker.
pub type Micros = u64;
