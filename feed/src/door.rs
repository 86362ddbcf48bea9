//! Where feeds come in. RTMP ends here: nothing of a connection goes further before it has said the stream key. SRT ends in a child of
//! ffmpeg, whose library refuses who has not the passphrase. One feed is on at a time, the newest.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::child::Starter;
use crate::flv::{Reader, Tag};
use crate::key::Key;
use crate::rtmp::{Said, Session};

/// Frames that wait. More wait in the encoder, as on a slow network.
const TAGS_MAX: usize = 32;
/// Connections at once; of one source (an IPv4 address, an IPv6 /64).
const CONNECTIONS_MAX: usize = 64;
const CONNECTIONS_PER_SOURCE_MAX: usize = 4;
/// Until the stream key was said.
const KEY_TIMEOUT: Duration = Duration::from_secs(10);
/// Who is silent for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// What a wrong key costs.
const WRONG_KEY_PAUSE: Duration = Duration::from_secs(1);
/// Bytes that are read at once.
const PIECE_LEN: usize = 32 * 1024;
/// Until a child that ended at once is started again.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Why a feed ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FeedEnd {
    /// The encoder said so.
    #[error("the encoder ended it")]
    Unpublished,
    /// It is gone: closed, silent, or without sense.
    #[error("the encoder is gone: {0}")]
    Gone(String),
    /// Another one with the same key came.
    #[error("another one took its place")]
    Replaced,
    /// The caller stopped all.
    #[error("stopped")]
    Stopped,
}

/// What comes from the doors.
#[derive(Debug)]
pub(crate) enum Source {
    /// Somebody with the key begins to send.
    Begun {
        id: u64,
        from: String,
    },
    Tag {
        id: u64,
        tag: Tag,
    },
    Ended {
        id: u64,
        end: FeedEnd,
    },
}

/// Where doors hand on what comes in.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    sources: mpsc::Sender<Source>,
    newest: Arc<watch::Sender<u64>>,
}

impl Desk {
    pub(crate) fn new() -> (Desk, mpsc::Receiver<Source>) {
        let (sources, receiver) = mpsc::channel(TAGS_MAX);
        (Desk { sources, newest: Arc::new(watch::channel(0).0) }, receiver)
    }

    /// Another feed is the newest: its number.
    async fn begin(&self, from: String) -> u64 {
        let mut id = 0;
        self.newest.send_modify(|newest| {
            *newest += 1;
            id = *newest;
        });
        self.say(Source::Begun { id, from }).await;
        id
    }

    /// Waits while much waits already. Nobody hears it any more when all ends.
    async fn say(&self, source: Source) {
        let _ = self.sources.send(source).await;
    }

    /// Until a newer one begins.
    async fn replaced(&self, id: Option<u64>) {
        let Some(id) = id else { return std::future::pending().await };
        let _ = self.newest.subscribe().wait_for(|&newest| newest != id).await;
    }
}

/// One connection to the door.
struct Visitor {
    task: AbortHandle,
    source: IpAddr,
    has_key: Arc<AtomicBool>,
}

/// An IPv6 network of one customer counts as one address.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
        ip => ip,
    }
}

/// Takes connections of RTMP.
pub(crate) async fn rtmp(listener: TcpListener, key: Key, desk: Desk) {
    let mut visitors: VecDeque<Visitor> = VecDeque::new();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, from)) = accepted else {
                    // Without descriptors: later.
                    sleep(BACKOFF_MIN).await;
                    continue;
                };
                let source = source_of(from.ip());
                let of_source = visitors.iter().filter(|visitor| visitor.source == source).count();
                if of_source >= CONNECTIONS_PER_SOURCE_MAX {
                    continue;
                }
                if visitors.len() >= CONNECTIONS_MAX {
                    // Who has been here longest without the key gives way.
                    let oldest = visitors.iter().find(|visitor| !visitor.has_key.load(Ordering::Relaxed));
                    oldest.into_iter().for_each(|visitor| visitor.task.abort());
                }
                let has_key = Arc::new(AtomicBool::new(false));
                let task = tasks.spawn(visit(stream, from, key.clone(), desk.clone(), Arc::clone(&has_key)));
                visitors.push_back(Visitor { task, source, has_key });
            }
            Some(_) = tasks.join_next() => visitors.retain(|visitor| !visitor.task.is_finished()),
        }
    }
}

async fn visit(mut stream: TcpStream, from: SocketAddr, key: Key, desk: Desk, has_key: Arc<AtomicBool>) {
    let mut id = None;
    let end = converse(&mut stream, from, key, &desk, &mut id, &has_key).await;
    match (id, end) {
        (Some(id), end) => desk.say(Source::Ended { id, end }).await,
        (None, FeedEnd::Gone(why)) => tracing::info!(event = "feed_refused", %from, "no feed: {why}"),
        (None, _) => (),
    }
}

async fn converse(
    stream: &mut TcpStream,
    from: SocketAddr,
    key: Key,
    desk: &Desk,
    id: &mut Option<u64>,
    has_key: &AtomicBool,
) -> FeedEnd {
    let (mut session, mut piece, mut said) = (Session::new(key), vec![0; PIECE_LEN], Vec::new());
    let deadline = Instant::now() + KEY_TIMEOUT;
    loop {
        let limit = if id.is_some() { SILENCE_MAX } else { deadline.duration_since(Instant::now()) };
        let read = tokio::select! {
            read = timeout(limit, stream.read(&mut piece)) => read,
            () = desk.replaced(*id) => return FeedEnd::Replaced,
        };
        let len = match read {
            Ok(Ok(len @ 1..)) => len,
            Ok(Ok(_)) => return FeedEnd::Gone("it closed the connection".to_owned()),
            Ok(Err(error)) => return FeedEnd::Gone(error.to_string()),
            Err(_) => return FeedEnd::Gone("it is silent".to_owned()),
        };
        let result = session.receive(&piece[..len], &mut said);
        if said.contains(&Said::WrongKey) {
            sleep(WRONG_KEY_PAUSE).await;
        }
        let out = std::mem::take(&mut session.out);
        if !matches!(timeout(KEY_TIMEOUT, stream.write_all(&out)).await, Ok(Ok(()))) {
            return FeedEnd::Gone("it takes no answers".to_owned());
        }
        for said in said.drain(..) {
            match (said, *id) {
                (Said::Published, _) => {
                    has_key.store(true, Ordering::Relaxed);
                    *id = Some(desk.begin(from.to_string()).await);
                }
                (Said::Tag(tag), Some(id)) => {
                    tokio::select! {
                        () = desk.say(Source::Tag { id, tag }) => (),
                        () = desk.replaced(Some(id)) => return FeedEnd::Replaced,
                    }
                }
                (Said::Tag(_), None) => (),
                (Said::Unpublished, _) => return FeedEnd::Unpublished,
                (Said::WrongKey, _) => return FeedEnd::Gone("a wrong stream key".to_owned()),
            }
        }
        if let Err(error) = result {
            return FeedEnd::Gone(error.to_string());
        }
    }
}

/// Keeps a child listening for SRT.
pub(crate) async fn srt(starter: Starter, address: SocketAddr, key: Key, desk: Desk) {
    let address = format!("srt://{address}?mode=listener&passphrase={}&pbkeylen=16", key.reveal());
    let mut backoff = BACKOFF_MIN;
    loop {
        let begun = Instant::now();
        match listen(&starter, &address, &desk).await {
            Ok(complaint) if begun.elapsed() < BACKOFF_MAX => {
                // What it complains about may have the passphrase in it.
                let complaint = complaint.replace(key.reveal(), "…");
                tracing::warn!(
                    event = "feed_child_ended",
                    kind = "srt",
                    complaint,
                    "the child that listens for SRT ended"
                );
            }
            Ok(_) => backoff = BACKOFF_MIN,
            Err(error) => tracing::warn!(event = "feed_child_ended", kind = "srt", %error, "a child does not start"),
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// One child's life: its complaint.
async fn listen(starter: &Starter, address: &str, desk: &Desk) -> std::io::Result<String> {
    let mut child = starter.srt(address)?;
    let (mut reader, mut tags, mut id) = (Reader::default(), Vec::new(), None);
    let end = loop {
        let piece = tokio::select! {
            piece = child.next() => piece,
            () = desk.replaced(id) => return Ok(String::new()),
        };
        let Some(piece) = piece else { break FeedEnd::Gone("the connection ended".to_owned()) };
        if let Err(error) = reader.read(&piece, &mut tags) {
            break FeedEnd::Gone(error.to_string());
        }
        for tag in tags.drain(..) {
            if id.is_none() {
                id = Some(desk.begin("SRT".to_owned()).await);
            }
            let Some(id) = id else { continue };
            tokio::select! {
                () = desk.say(Source::Tag { id, tag }) => (),
                () = desk.replaced(Some(id)) => return Ok(String::new()),
            }
        }
    };
    if let Some(id) = id {
        desk.say(Source::Ended { id, end }).await;
    }
    Ok(child.complaint().await)
}
