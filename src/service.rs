//! What `uprtc record`, `live`, `feed` and `sip` have in common: which server's rooms they join and with what token, when they end, and how they
//! wait for orders (docs/SERVICES.md).

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use client::service::Task;
use client::{http, service};
use controlplane::auth::{ANY_ROOM, Claims};
use proto::work::Role;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Common, Remote};
use crate::running::{self, Running};
use crate::{Failure, remote};

/// How long a token is good that is made here: as long a peer comes back by itself after its server was replaced. That of a service is refused
/// after that, and whoever supervises the process starts it anew.
pub(crate) const TTL: Duration = Duration::from_secs(30 * 86_400);

/// The server that is named, or the one that runs with the state folder.
pub(crate) fn server(common: &Common, named: &Remote) -> Result<http::Server, Failure> {
    let server = match &named.server {
        Some(text) => remote::Server::named(text, named.ca.as_deref(), || Ok(Default::default()))?,
        None => remote::Server::running(&Running::find(&running::state(common)?)?),
    };
    server.resolve()
}

/// `UPRTC_TOKEN`, or one with these claims, made with the key in the state folder.
pub(crate) fn token(common: &Common, claims: &Claims) -> Result<String, Failure> {
    match std::env::var("UPRTC_TOKEN") {
        Ok(token) => Ok(token),
        Err(_) => Ok(running::keys(&running::state(common)?)?.sign(claims)?),
    }
}

/// Back with SIGINT or SIGTERM, which end the process no longer by themselves from now on.
pub(crate) fn told_to_end() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => (),
            _ = terminated.recv() => (),
        }
    })
}

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
    Ok(service::serve(settings, run, told_to_end()?).await?)
}
