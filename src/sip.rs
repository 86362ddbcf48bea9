//! `uprtc sip`: the telephone gateway, a process of its own (docs/SIP.md). Which rooms there are says its file; where their
//! server is, and what its tokens are signed with, the state folder, as for other commands.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use controlplane::auth::{Claims, is_name_char, is_participant_name};
use proto::work::{Role, TASKS_MAX};

use crate::Failure;
use crate::cli::{Common, Sip};
use crate::options::Sources;
use crate::remote::{Server, system_roots};
use crate::running::{self, Running};
use crate::service;

/// How long the token of a call is good; a call may not last longer.
const TTL: Duration = Duration::from_secs(24 * 3600);
/// Longest name that is kept of a caller's.
const NAME_LEN_MAX: usize = 32;
/// Longest file that is read, bytes: that of ten thousand numbers.
const FILE_LEN_MAX: u64 = 4 * 1024 * 1024;

/// Runs until SIGINT or SIGTERM.
pub(crate) fn run(common: &Common, request: &Sip) -> Result<(), Failure> {
    let named = |failure: String| format!("{}: {failure}", request.file.display());
    let len = std::fs::metadata(&request.file).map_err(|error| named(error.to_string()))?.len();
    if len > FILE_LEN_MAX {
        return Err(named(format!("it has {len} bytes, and may have {FILE_LEN_MAX}")).into());
    }
    let text = std::fs::read_to_string(&request.file).map_err(|error| named(error.to_string()))?;
    let mut settings = ::sip::Settings::parse(&text).map_err(|error| named(error.to_string()))?;
    if settings.needs_roots() {
        let none = |_| {
            named(
                "trunk: this system keeps no trusted certificates where they are looked for: tls-ca names some".into(),
            )
        };
        settings.trust(system_roots().map_err(none)?);
    }
    let server = request.remote.server.as_deref().or(settings.server());
    let server = match server {
        Some(text) => {
            let sources = Sources { common: common.clone(), ..Sources::default() };
            Server::named(text, request.remote.ca.as_deref(), || sources.read())?
        }
        None => Server::running(&Running::find(&running::state(common)?)?),
    };
    let server = server.resolve()?;
    let orders = settings.takes_orders().then(|| {
        let token = settings.orders_token().map(str::to_owned).or_else(|| std::env::var("UPRTC_TOKEN").ok());
        let tasks_max = settings.calls_max().min(TASKS_MAX);
        service::settings(server.clone(), || running::state(common), token, Role::Telephone, tasks_max)
    });
    let orders = orders.transpose()?;
    let tokens = tokens(running::state(common), settings.needs_tokens())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let announce = |::sip::Listening { sip, tls, http }| {
            let tls = tls.map(|tls| format!(" tls={tls}")).unwrap_or_default();
            let http = http.map(|http| format!(" http={http}")).unwrap_or_default();
            let mut out = std::io::stdout().lock();
            // Nobody may be listening, and that is fine.
            let _ = writeln!(out, "sip={sip}{tls}{http}").and_then(|()| out.flush());
        };
        ::sip::run(settings, server, tokens, orders, announce, service::told_to_end()?).await?;
        Ok(())
    })
}

/// Tokens of `UPRTC_TOKEN`, or made with the key in the state folder, if a number has none of its own.
fn tokens(state: Result<PathBuf, Failure>, is_needed: bool) -> Result<::sip::Tokens, Failure> {
    if let Ok(token) = std::env::var("UPRTC_TOKEN") {
        return Ok(Arc::new(move |_, _| Ok(token.clone())));
    }
    if !is_needed {
        return Ok(Arc::new(|_, _| Err("the number has no token".to_owned())));
    }
    let keys = running::keys(&state?)?;
    Ok(Arc::new(move |room, name| {
        let shown: String = name.chars().filter(|char| is_name_char(*char)).take(NAME_LEN_MAX).collect();
        let name = if is_participant_name(&shown) { &shown } else { "Telephone" };
        let role = Some(Role::Telephone);
        let claims = Claims { publish: true, subscribe: true, role, ..Claims::new(room, name, TTL.as_secs()) };
        keys.sign(&claims).map_err(|error| error.to_string())
    }))
}
