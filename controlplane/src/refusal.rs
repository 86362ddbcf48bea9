//! Why something that a client asked for is not done: the error of the signalling socket, and the problem of HTTP.

use proto::signal::ErrorCode;

/// Why something that a client asked for is not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    /// Its stable name.
    pub(crate) code: ErrorCode,
    /// One sentence for a developer.
    pub(crate) message: String,
}

impl Refusal {
    /// A refusal with a sentence.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// No worker can take the peer now, or it is not known yet whom the workers carry.
    pub(crate) fn no_dataplane() -> Self {
        Self::new(ErrorCode::NoDataplane, "no dataplane is linked; try again shortly")
    }
}
