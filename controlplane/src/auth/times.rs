//! Times in tokens: how far clocks may differ, and how long a token may be good.

/// How far the clocks of issuer and edge may differ, seconds.
pub const LEEWAY_S: u64 = 30;

/// How long a token may be good, seconds: 366 days, from its `iat`, or from now if it says none. A revocation is kept that long,
/// and what it concerns has expired by then.
pub const TTL_MAX_S: u64 = 366 * 24 * 3600;

/// The first time that is not taken for seconds since 1970: it would be in the year 33658, and is September 2001 in
/// milliseconds, the unit that `Date.now()` counts in.
pub const TIME_MAX_S: u64 = 1_000_000_000_000;
