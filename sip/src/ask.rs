//! What the gateway is asked for, and what whoever asks is told.

use tokio::sync::{mpsc, oneshot};

/// What the gateway is asked for, by its HTTP and by the controlplane's orders.
#[derive(Debug)]
pub(crate) enum Ask {
    Metrics(oneshot::Sender<String>),
    Dial {
        room: String,
        number: String,
        digits: String,
        /// If the controlplane wants it.
        ordered: Option<Ordered>,
        reply: oneshot::Sender<Result<u64, &'static str>>,
    },
    HangUp(u64),
}

/// How far a call is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// It was answered.
    Answered,
    /// It is over: why.
    Ended(String),
}

/// Of a call that the controlplane ordered.
#[derive(Debug)]
pub(crate) struct Ordered {
    /// For the room, whichever it is.
    pub(crate) token: String,
    /// Who wants to know how far it is.
    pub(crate) progress: mpsc::Sender<Progress>,
}
