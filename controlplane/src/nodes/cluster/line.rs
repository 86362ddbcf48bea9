//! What nodes say to each other: publish and subscribe over the cluster's connection, beside its buckets.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, HeaderName, HeaderValue, Subscriber, jetstream};
use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::ClusterError;

/// How long something may take to be handed to the connection's task. It takes that long only while the server does not read.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an echo may take. It takes part of a millisecond.
const ECHO_TIMEOUT: Duration = Duration::from_secs(2);

/// How the connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::nodes) struct Standing {
    pub(in crate::nodes) is_up: bool,
    /// How often it was made: another number says that there was a time without it.
    pub(in crate::nodes) connections: u64,
    /// Messages that were lost because this node did not take them in time.
    pub(in crate::nodes) overruns: u64,
    /// When it was last made.
    pub(in crate::nodes) up_at: Option<Instant>,
}

/// The connection, for those who speak over it.
#[derive(Clone, Debug)]
pub(in crate::nodes) struct Line {
    pub(super) client: Client,
    pub(super) jetstream: jetstream::Context,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) denied: Arc<Mutex<Option<String>>>,
}

/// The server does not take what is said to it: as if the connection were lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::nodes) struct Stuck;

impl Line {
    /// How it stands, and how that changes.
    pub(in crate::nodes) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Hears what is said on a subject from now on: what is said on this line after it is said to whoever is heard on it.
    pub(in crate::nodes) async fn hear(&self, subject: String) -> Result<Heard, Stuck> {
        let subscribed = timeout(HAND_OVER_TIMEOUT, self.client.subscribe(subject)).await;
        subscribed.map_err(|_| Stuck)?.map(Heard).map_err(|_| Stuck)
    }

    /// Says something on a subject.
    pub(in crate::nodes) async fn say(
        &self,
        subject: String,
        headers: Vec<(&'static str, String)>,
        payload: Vec<u8>,
    ) -> Result<(), Stuck> {
        let said = self.client.publish_with_headers(subject, map(headers)?, payload.into());
        let said = timeout(HAND_OVER_TIMEOUT, said).await;
        said.map_err(|_| Stuck)?.map_err(|_| Stuck)
    }

    /// Whether what is said on a subject is heard there, or why not: what nodes say to each other may be forbidden to this user.
    pub(in crate::nodes) async fn echo(&self, subject: String) -> Result<(), ClusterError> {
        let heard = async {
            let mut heard = self.hear(subject.clone()).await?;
            self.say(subject, Vec::new(), Vec::new()).await?;
            heard.next().await.map(drop).ok_or(Stuck)
        };
        match timeout(ECHO_TIMEOUT, heard).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(self.denied().map_or_else(
                || ClusterError::Engine("what this node says on its own subject does not come back".into()),
                ClusterError::NotPermitted,
            )),
        }
    }

    /// Asks something, and waits for the answer on the subject `back`.
    pub(in crate::nodes) async fn ask(
        &self,
        subject: String,
        headers: Vec<(&'static str, String)>,
        payload: Vec<u8>,
        back: String,
        patience: Duration,
    ) -> Result<Vec<u8>, Stuck> {
        let mut request = async_nats::Request::new().payload(payload.into()).inbox(back).timeout(Some(patience));
        request = request.headers(map(headers)?);
        let asked = timeout(patience + HAND_OVER_TIMEOUT, self.client.send_request(subject, request)).await;
        asked.map_err(|_| Stuck)?.map(|message| message.payload.to_vec()).map_err(|_| Stuck)
    }

    /// Waits until what was said has left this process.
    pub(in crate::nodes) async fn flush(&self) {
        let _ = timeout(HAND_OVER_TIMEOUT, self.client.flush()).await; // A server that is away gets nothing more.
    }

    /// What the server said last that this user may not do.
    pub(in crate::nodes) fn denied(&self) -> Option<String> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn map(headers: Vec<(&'static str, String)>) -> Result<HeaderMap, Stuck> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        // No value has a line break: they are names, digits, and a room's name, which was checked.
        let value: HeaderValue = value.parse().map_err(|_| Stuck)?;
        map.insert(HeaderName::from_static(name), value);
    }
    Ok(map)
}

/// What is said on a subject. Not heard any more when it is dropped.
#[derive(Debug)]
pub(in crate::nodes) struct Heard(Subscriber);

impl Stream for Heard {
    type Item = Message;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        std::pin::Pin::new(&mut self.0).poll_next(cx).map(|message| message.map(Message))
    }
}

/// Something that was said.
#[derive(Debug)]
pub(in crate::nodes) struct Message(async_nats::Message);

impl Message {
    pub(in crate::nodes) fn header(&self, name: &str) -> Option<&str> {
        self.0.headers.as_ref()?.get(name).map(HeaderValue::as_str)
    }

    /// Where an answer is wanted.
    pub(in crate::nodes) fn reply(&self) -> Option<&str> {
        self.0.reply.as_deref()
    }

    pub(in crate::nodes) fn payload(&self) -> &[u8] {
        &self.0.payload
    }
}
