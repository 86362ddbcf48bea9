//! A bucket whose entries stay until they are removed: which node admits peers to which room. What stands in it is read and written by
//! key, with the word of its leader, and removed without a trace: the mark that NATS would leave would stay for ever.

use std::time::Duration;

use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::{self, LastRawMessageErrorKind, StorageType};
use async_nats::{HeaderMap, HeaderValue};

use super::{Cluster, ClusterError, REPLICAS, WriteError, failed};
use crate::nodes::cluster::line::Line;
use crate::nodes::settings::Settings;

/// Such a bucket.
#[derive(Clone, Debug)]
pub(in crate::nodes) struct Shelf {
    cluster: Cluster,
    config: stream::Config,
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
            ..Default::default()
        };
        Shelf { cluster: Cluster::of(line.clone()), config }
    }

    /// Makes it, if it is not there, and mends it, if it is not as it should be.
    pub(in crate::nodes) async fn make(&self) -> Result<(), ClusterError> {
        match self.cluster.stream(&self.config.name).await? {
            Some(info) => self.cluster.mend(&info.config, self.config.clone()).await,
            None => self.cluster.make(self.config.clone()).await,
        }
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

    /// Puts something in the place of a revision, 0 for none, and gives back its own.
    pub(in crate::nodes) async fn write(&self, key: &str, bytes: &[u8], replaced: u64) -> Result<u64, WriteError> {
        let mut headers = HeaderMap::new();
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
