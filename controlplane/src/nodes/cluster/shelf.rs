//! A bucket whose entries stay until they are removed, or until a time of their own is over: which node admits peers to which room, and
//! what operators decided. What stands in it is read and written by key, with the word of its leader, and removed without a trace:
//! the mark that NATS would leave would stay for ever.

use std::time::Duration;

use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_TTL};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::{self, LastRawMessageErrorKind, StorageType};
use async_nats::{HeaderMap, HeaderValue};
use tokio::time::timeout;

use super::{ANSWER_TIMEOUT, Cluster, ClusterError, REPLICAS, Watch, WriteError, failed};
use crate::nodes::cluster::line::Line;
use crate::nodes::settings::Settings;

/// Such a bucket.
#[derive(Clone, Debug)]
pub(in crate::nodes) struct Shelf {
    cluster: Cluster,
    config: stream::Config,
}

/// How such a bucket is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::nodes) struct Made {
    /// When it was made. One that is made anew has nothing of what was in it.
    pub(in crate::nodes) at: String,
    /// Entries.
    pub(in crate::nodes) count: u64,
}

impl Made {
    fn of(info: &stream::Info) -> Made {
        Made { at: format!("{:?}", info.created), count: info.state.messages }
    }
}

impl Shelf {
    /// The bucket `uprtc-CLUSTER-NAME`, of so many bytes in entries of so many. It is not asked for yet.
    pub(in crate::nodes) fn new(line: &Line, settings: &Settings, name: &str, limits: (i64, usize)) -> Shelf {
        let bucket = format!("uprtc-{}-{name}", settings.name);
        let config = stream::Config {
            name: format!("KV_{bucket}"),
            description: Some(format!("{name} of uprtc")),
            subjects: vec![format!("$KV.{bucket}.>")],
            max_messages_per_subject: 1,
            max_bytes: limits.0,
            max_message_size: limits.1 as i32,
            max_age: Duration::ZERO,
            storage: StorageType::File,
            num_replicas: REPLICAS,
            discard: stream::DiscardPolicy::New,
            allow_rollup: true,
            allow_direct: true,
            allow_message_ttl: true,
            ..Default::default()
        };
        Shelf { cluster: Cluster::of(line.clone()), config }
    }

    /// Makes it, if it is not there, and mends it, if it is not as it should be.
    pub(in crate::nodes) async fn make(&self) -> Result<Made, ClusterError> {
        if let Some(info) = self.cluster.stream(&self.config.name).await? {
            self.cluster.mend(&info.config, self.config.clone()).await?;
            return Ok(Made::of(&info));
        }
        self.cluster.make(self.config.clone()).await?;
        let made = self.found().await?;
        made.ok_or_else(|| ClusterError::Engine("the bucket that was made is not there".into()))
    }

    /// How it is, if it is there.
    pub(in crate::nodes) async fn found(&self) -> Result<Option<Made>, ClusterError> {
        Ok(self.cluster.stream(&self.config.name).await?.as_ref().map(Made::of))
    }

    /// Tells all that stands there, and then whatever is put.
    pub(in crate::nodes) async fn watch(&self) -> Result<Watch, ClusterError> {
        let name = self.config.name.trim_start_matches("KV_");
        let watch = async {
            let store = self.cluster.line.jetstream.get_key_value(name).await;
            let store = store.map_err(|error| failed(&self.cluster.line.denied, &error))?;
            let watch = store.watch_with_history(">").await;
            watch.map(Watch).map_err(|error| failed(&self.cluster.line.denied, &error))
        };
        timeout(ANSWER_TIMEOUT, watch).await.map_err(|_| ClusterError::Engine("no answer in time".into()))?
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.config.name.trim_start_matches("KV_"))
    }

    /// What stands under a key, and its revision.
    pub(in crate::nodes) async fn look(&self, key: &str) -> Result<Option<(u64, Vec<u8>)>, ClusterError> {
        let stream = self.cluster.line.jetstream.get_stream_no_info(&self.config.name).await;
        let stream = stream.map_err(|error| failed(&self.cluster.line.denied, &error))?;
        match stream.get_last_raw_message_by_subject(&self.subject(key)).await {
            Ok(message) => Ok(Some((message.sequence, message.payload.to_vec()))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed(&self.cluster.line.denied, &error)),
        }
    }

    /// Puts something in the place of a revision, 0 for none, and gives back its own. `stays`: for how long; none: until it is removed.
    ///
    /// `Store::update` of the library has no such time, and `Store::create_with_ttl` loses it over a key that was there.
    pub(in crate::nodes) async fn write(
        &self,
        key: &str,
        bytes: &[u8],
        replaced: u64,
        stays: Option<Duration>,
    ) -> Result<u64, WriteError> {
        let mut headers = HeaderMap::new();
        if let Some(stays) = stays {
            headers.insert(NATS_MESSAGE_TTL, HeaderValue::from(stays.as_secs()));
        }
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(replaced));
        let jetstream = &self.cluster.line.jetstream;
        let written =
            async { jetstream.publish_with_headers(self.subject(key), headers, bytes.to_vec().into()).await?.await };
        match written.await {
            Ok(ack) => Ok(ack.sequence),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Err(WriteError::Outrun),
            Err(error) if error.kind() == PublishErrorKind::StreamNotFound => Err(WriteError::NoBucket),
            Err(error) => Err(WriteError::Failed(failed(&self.cluster.line.denied, &error))),
        }
    }

    /// Removes what has this revision, if it still stands.
    pub(in crate::nodes) async fn remove(&self, revision: u64) -> Result<(), ClusterError> {
        let stream = self.cluster.line.jetstream.get_stream_no_info(&self.config.name).await;
        let stream = stream.map_err(|error| failed(&self.cluster.line.denied, &error))?;
        match stream.delete_message(revision).await {
            Ok(_) => Ok(()),
            // It is not there any more.
            Err(error) if matches!(error.kind(), stream::DeleteMessageErrorKind::JetStream(_)) => Ok(()),
            Err(error) => Err(failed(&self.cluster.line.denied, &error)),
        }
    }
}
