//! `uprtc record`: peers that write what rooms send to files (the crate `record`). Each joins by the server's public doors, with a token
//! that allows it to receive and nothing else.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::room;
use client::service::{Settings as Service, Task};
use controlplane::auth::Claims;
use controlplane::http::PublicUrl;
use proto::work::Role;
use record::disk::Quota;
use record::store::outbox::Sending;
use record::store::{self, Credentials, Place, Store};
use record::{End, Recorder, Settings};
use serde_json::Map;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::{Common, Record, To};
use crate::running;
use crate::{Failure, process, remote, service};

/// For how long it tries to come back.
pub(crate) const REJOIN_FOR: Duration = Duration::from_secs(300);
/// How long the end waits for what other processes left for the store.
const LEFT_FOR: Duration = Duration::from_secs(1);

/// Records until it is told to end, or nothing is left to record.
pub(crate) fn run(common: &Common, request: &Record) -> Result<(), Failure> {
    let server = service::server(common, &request.remote)?;
    let (option, folder, place) = match (&request.to, &request.spool) {
        (To::Folder(_), Some(_)) => return Err("--spool is for --to s3://BUCKET/PREFIX".into()),
        (To::Folder(folder), None) => ("--to", folder.clone(), None),
        (To::Store(place), Some(folder)) => ("--spool", folder.clone(), Some(place)),
        (To::Store(place), None) => ("--spool", running::state(common)?.join("recordings"), Some(place)),
    };
    let failed = |error| format!("{option} {}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    let quota = Quota::measure(&folder, request.quota_mb.map(|megabytes| megabytes * 1_000_000)).map_err(failed)?;
    let store = place.map(|place| store_settings(place, |name| std::env::var(name).ok())).transpose()?;
    let settings = |room: &String| -> Result<Settings, Failure> {
        let role = Some(Role::Recorder);
        let claims = Claims { subscribe: true, role, ..Claims::new(room, &request.name, service::TTL.as_secs()) };
        let peer = room::Settings::new(server.clone(), room, &service::token(common, &claims)?);
        let room = room::Settings { rejoin_for: REJOIN_FOR, ..peer };
        Ok(Settings { room, folder: folder.clone(), quota: quota.clone(), store: None })
    };
    let settings = request.rooms.iter().map(settings).collect::<Result<Vec<_>, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let service = request.orders.then(|| {
        let token = std::env::var("UPRTC_TOKEN").ok();
        let tasks_max = request.tasks_max.into();
        service::settings(server.clone(), || running::state(common), token, Role::Recorder, tasks_max)
    });
    let service = service.transpose()?;
    runtime.block_on(async {
        let work = async |store: Option<Arc<Store>>| match service {
            Some(service) => {
                let of = |room| Settings { room, folder: folder.clone(), quota: quota.clone(), store: store.clone() };
                wait(service, of).await
            }
            None => record_all(settings.into_iter().map(|of| Settings { store: store.clone(), ..of }).collect()).await,
        };
        let Some(store) = store else { return work(None).await };
        // Before anything is joined it is known that the store takes what is recorded.
        let place = store.place.to_string();
        let store = Arc::new(Store::open(store).await.map_err(|error| format!("--to {place}: {error}"))?);
        let left = Sending::take_up(&store, &folder, &quota).map_err(failed)?;
        let outcome = work(Some(store)).await;
        // What is left for the third time waits for the fourth; it is in the log what the store says.
        for sending in left {
            sending.finish(LEFT_FOR).await;
        }
        outcome
    })
}

/// The store that the environment describes, as other programs of S3 read it.
pub(crate) fn store_settings(
    place: &Place,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<store::Settings, Failure> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let wanted = |name: &str| variable(name).ok_or_else(|| format!("--to {place}: {name} is not set"));
    let key_id = wanted("AWS_ACCESS_KEY_ID")?;
    let secret = wanted("AWS_SECRET_ACCESS_KEY")?;
    let credentials = Credentials { key_id, secret, session: variable("AWS_SESSION_TOKEN") };
    let endpoint = variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL"));
    let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
    let is_amazon = endpoint.is_none();
    let region = match (region, is_amazon) {
        (Some(region), _) => region,
        (None, false) => "us-east-1".to_owned(),
        (None, true) => wanted("AWS_REGION")?,
    };
    // A certificate of Amazon's covers no bucket with dots in its name.
    let is_path_style = !is_amazon || place.bucket.contains('.');
    let host = if is_path_style { String::new() } else { format!("{}.", place.bucket) };
    let url = endpoint.unwrap_or_else(|| format!("https://{host}s3.{region}.amazonaws.com"));
    let parsed = PublicUrl::parse(&url).ok_or_else(|| format!("AWS_ENDPOINT_URL {url}: not https://HOST[:PORT]"))?;
    let server = remote::Server::at(&parsed, None::<&Path>)?.resolve()?;
    Ok(store::Settings { server, is_path_style, place: place.clone(), region, credentials })
}

/// Records the rooms that the server says.
async fn wait(service: Service, of: impl Fn(room::Settings) -> Settings) -> Result<(), Failure> {
    let server = service.server.clone();
    let run = |task: Task| {
        let peer = room::Settings::new(server.clone(), &task.order.room, &task.token);
        record_one(of(room::Settings { rejoin_for: REJOIN_FOR, ..peer }), task)
    };
    service::wait(service, run).await
}

/// Why it ended.
async fn record_one(settings: Settings, task: Task) -> String {
    if let Err(reason) = task.order.has_only(&[]) {
        return reason;
    }
    let recorder = match Recorder::start(settings).await {
        Ok(recorder) => recorder,
        Err(error) => return format!("{}: {error}", error.name()),
    };
    task.running(Map::from_iter([("place".to_owned(), recorder.place().into())])).await;
    match recorder.run(task.stopped()).await {
        End::Stopped => End::Stopped.name().to_owned(),
        end => format!("{}: {end}", end.name()),
    }
}

async fn record_all(settings: Vec<Settings>) -> Result<(), Failure> {
    let mut told_to_end = std::pin::pin!(service::told_to_end()?);
    let (stop, stopped) = watch::channel(false);
    let mut recordings = JoinSet::new();
    for settings in settings {
        let room = settings.room.room.clone();
        let recorder = Recorder::start(settings).await.map_err(|error| format!("{room}: {error}"))?;
        let (folder, place) = (recorder.folder().display(), recorder.place());
        tracing::info!(event = "records", room, %folder, place, "records a room");
        // The place alone on standard output, for a script; who does not read it is recorded all the same.
        let _ = process::print(&format!("{place}\n"));
        let mut stopped = stopped.clone();
        recordings.spawn(async move {
            let end = recorder.run(async move { drop(stopped.wait_for(|&is_stopped| is_stopped).await) }).await;
            (room, end)
        });
    }
    let mut failures = Vec::new();
    loop {
        tokio::select! {
            ended = recordings.join_next() => match ended {
                Some(Ok((room, end))) => {
                    tracing::info!(event = "recorded", room, reason = end.name(), "a recording ended: {end}");
                    failures.extend((end != End::Stopped).then(|| format!("{room}: {end}")));
                }
                Some(Err(error)) => return Err(error.into()),
                None => break,
            },
            () = &mut told_to_end, if !*stop.borrow() => drop(stop.send(true)),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_described_by_the_usual_variables() {
        let place = Place::parse("s3://bucket/p").unwrap();
        let of = |pairs: &[(&str, &str)]| {
            let keys = [("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")];
            let all = [&keys[..], pairs].concat();
            let find = |name: &str| all.iter().rev().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned());
            let settings = store_settings(&place, find).map_err(|failure| failure.to_string())?;
            Ok::<_, String>((settings.server.authority, settings.region, settings.is_path_style))
        };
        let is =
            |authority: &str, region: &str, is_path_style| Ok((authority.to_owned(), region.to_owned(), is_path_style));
        assert_eq!(of(&[("AWS_ENDPOINT_URL", "http://[::1]:9000")]), is("[::1]:9000", "us-east-1", true));
        assert_eq!(
            of(&[("AWS_ENDPOINT_URL", "http://a"), ("AWS_ENDPOINT_URL_S3", "http://b"), ("AWS_REGION", "r")]),
            is("b:80", "r", true)
        );
        assert_eq!(of(&[]).unwrap_err(), "--to s3://bucket/p: AWS_REGION is not set");
        assert!(of(&[("AWS_ENDPOINT_URL", "store")]).unwrap_err().contains("AWS_ENDPOINT_URL store"));
        assert!(of(&[("AWS_SECRET_ACCESS_KEY", "")]).unwrap_err().contains("AWS_SECRET_ACCESS_KEY is not set"));
    }
}
