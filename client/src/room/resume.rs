//! The signalling socket of a peer that is in: when it is lost, another one and `resume`, again and again.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use proto::signal::{ClientSignal, ErrorCode, LeaveReason, ServerSignal};
use tokio::time::{sleep, timeout};

use super::{JoinError, Settings, is_final};
use crate::random::Random;
use crate::signal::{SignalError, Socket};

/// Until the first attempt, doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(4);
/// One attempt in all. A controlplane that was stopped takes connections and says nothing.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// What comes of the socket.
pub(super) enum Signalled {
    Signal(Box<ServerSignal>),
    /// It is lost, and another one is being opened.
    Lost,
    /// There is another one, and the peer is ours still.
    Resumed,
    /// The server does not know the peer any more.
    Unknown,
    /// The server wants no peer of ours.
    Refused(JoinError),
}

type Resuming = Pin<Box<dyn Future<Output = Result<Socket, Unresumed>> + Send>>;

enum Unresumed {
    Unknown,
    Refused(JoinError),
}

enum State {
    Open(Box<Socket>),
    Resuming(Resuming),
    Over,
}

/// A socket that comes back.
pub(super) struct Signalling {
    settings: Settings,
    session: String,
    state: State,
}

impl Signalling {
    pub(super) fn new(settings: Settings, session: String, socket: Socket) -> Signalling {
        Signalling { settings, session, state: State::Open(Box::new(socket)) }
    }

    /// What comes next. May be cancelled and called again.
    pub(super) async fn next(&mut self) -> Signalled {
        match &mut self.state {
            State::Open(socket) => match signal(socket).await {
                Some(signal) => Signalled::Signal(Box::new(signal)),
                None => {
                    let resuming = resume(self.settings.clone(), self.session.clone());
                    self.state = State::Resuming(Box::pin(resuming));
                    Signalled::Lost
                }
            },
            State::Resuming(resuming) => match resuming.as_mut().await {
                Ok(socket) => {
                    self.state = State::Open(Box::new(socket));
                    Signalled::Resumed
                }
                Err(unresumed) => {
                    self.state = State::Over;
                    match unresumed {
                        Unresumed::Unknown => Signalled::Unknown,
                        Unresumed::Refused(error) => Signalled::Refused(error),
                    }
                }
            },
            State::Over => std::future::pending().await,
        }
    }

    /// Tells the server that the peer leaves, if there is a socket.
    pub(super) async fn leave(self) {
        if let State::Open(mut socket) = self.state {
            // The server may have gone before us.
            let _ = socket.send(&ClientSignal::Leave {}).await;
            socket.close().await;
        }
    }
}

/// The next signal; None: the socket is lost. Where its machine has vanished nothing says so; then the media path ends the peer.
async fn signal(socket: &mut Socket) -> Option<ServerSignal> {
    loop {
        return match socket.next().await {
            Some(Ok(signal)) => Some(signal),
            // A later server may say more than we know.
            Some(Err(SignalError::Unknown { .. })) => continue,
            Some(Err(_)) | None => None,
        };
    }
}

async fn resume(settings: Settings, session: String) -> Result<Socket, Unresumed> {
    let mut random = Random::from_system();
    let mut backoff = BACKOFF_MIN;
    loop {
        sleep(jittered(backoff, &mut random)).await;
        match timeout(ATTEMPT_TIMEOUT, attempt(&settings, &session)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(JoinError::Refused { code: ErrorCode::UnknownSession, .. })) => return Err(Unresumed::Unknown),
            // Somebody else has our session.
            Ok(Err(error @ JoinError::Bye(LeaveReason::Replaced))) => return Err(Unresumed::Refused(error)),
            Ok(Err(error)) if is_final(&error) => return Err(Unresumed::Refused(error)),
            Ok(Err(_)) | Err(_) => backoff = (backoff * 2).min(BACKOFF_MAX),
        }
    }
}

/// A half more or less: peers do not come back in step.
pub(super) fn jittered(backoff: Duration, random: &mut Random) -> Duration {
    backoff / 2 + backoff.mul_f64(random.u64() as f64 / u64::MAX as f64)
}

async fn attempt(settings: &Settings, session: &str) -> Result<Socket, JoinError> {
    let mut socket = Socket::open(&settings.server, &settings.room, &settings.token).await?;
    let mut is_asked = false;
    loop {
        match socket.next().await {
            Some(Ok(ServerSignal::Welcome { resumed: true, .. })) => return Ok(socket),
            Some(Ok(ServerSignal::Welcome { .. })) if !is_asked => {
                is_asked = true;
                socket.send(&ClientSignal::Resume { session: session.to_owned() }).await?;
            }
            Some(Ok(ServerSignal::Error { code, message, .. })) => return Err(JoinError::Refused { code, message }),
            Some(Ok(ServerSignal::Bye { reason, .. })) => return Err(JoinError::Bye(reason)),
            Some(Ok(_)) | Some(Err(SignalError::Unknown { .. })) => (),
            Some(Err(error)) => return Err(error.into()),
            None => return Err(JoinError::Closed),
        }
    }
}
