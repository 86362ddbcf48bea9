//! What `uprtc record`, `uprtc sip` and others have in common where they wait for orders of the server (docs/SERVICES.md).

use std::path::PathBuf;
use std::time::Duration;

use client::service::Task;
use client::{http, service};
use controlplane::auth::{ANY_ROOM, Claims};
use proto::work::Role;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Failure, running};

/// How long the token of a service is good that is made here. After that it is refused, and whoever supervises the process starts it anew.
const TTL: Duration = Duration::from_secs(30 * 86_400);

/// A service of every room of the server, by this token, or by one that is made with the key in the state folder.
pub(crate) fn settings(
    server: http::Server,
    state: impl FnOnce() -> Result<PathBuf, Failure>,
    token: Option<String>,
    role: Role,
    tasks_max: usize,
) -> Result<service::Settings, Failure> {
    let token = match token {
        Some(token) => token,
        None => {
            let claims = Claims { role: Some(role), ..Claims::new(ANY_ROOM, role.name(), TTL.as_secs()) };
            running::keys(&state()?)?.sign(&claims)?
        }
    };
    Ok(service::Settings { server, token, tasks_max })
}

/// Does what the server orders until SIGINT or SIGTERM.
pub(crate) async fn wait<F>(settings: service::Settings, run: impl Fn(Task) -> F) -> Result<(), Failure>
where
    F: Future<Output = String> + Send + 'static,
{
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    };
    Ok(service::serve(settings, run, stop).await?)
}
