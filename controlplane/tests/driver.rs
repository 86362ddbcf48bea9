//! The whole controlplane as it runs: doors, driver, engine, and the real link to a strict worker on a thread of its
//! own, with a browser's DTLS behind it. The client is another WebSocket implementation with Chromium's offer.

mod world;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use controlplane::auth::{Claims, TokenKey};
use controlplane::dtls::{Dtls, DtlsEvent, Identity};
use controlplane::link::SOCKET_FILE;
use controlplane::{Config, Listening};
use futures_util::{SinkExt, StreamExt};
use proto::link::{LinkServer, WorkerLink};
use proto::plane::{Command, DatagramHeader, DatagramKind, Event, PeerPath, Report};
use proto::signal::{ClientSignal, ErrorCode, LeaveReason, PeerState, ServerSignal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use world::worker::Worker;

const DEADLINE: Duration = Duration::from_secs(20);

/// A state folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("uprtc-driver-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A dataplane of one strict worker, which behaves as if a browser with this certificate were behind it.
struct Dataplane {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Worker>>,
}

impl Dataplane {
    fn start(state: &Path, browser: Arc<Identity>) -> Dataplane {
        let addresses = vec![SocketAddr::from(([127, 0, 0, 1], 40_000))];
        let server = LinkServer::bind(&state.join(SOCKET_FILE), vec![addresses]).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopping = stop.clone();
        let thread = std::thread::spawn(move || serve_link(server, &browser, &is_stopping));
        Dataplane { stop, thread: Some(thread) }
    }

    /// What was installed when it ended.
    fn end(mut self) -> Worker {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn serve_link(mut server: LinkServer, browser: &Identity, stop: &AtomicBool) -> Worker {
    let (mut worker, mut link, mut dtls) = (Worker::default(), None::<WorkerLink>, None::<(DatagramHeader, Dtls)>);
    while !stop.load(Ordering::Relaxed) {
        let tick = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        if poll(&mut [PollFd::new(&server.as_fd(), PollFlags::IN)], Some(&tick)).unwrap() > 0 {
            link = server.accept().unwrap().pop();
        }
        let Some(link) = &mut link else { continue };
        while let Some(record) = link.pop_command() {
            let command = Command::read(&record).expect("a command of the contract");
            if let (Command::PeerOpen(open), None) = (command, &dtls) {
                let remote = SocketAddr::from(([127, 0, 0, 1], 50_000));
                let header = DatagramHeader { kind: DatagramKind::Dtls, peer: open.peer, remote, len: 0 };
                dtls = Some((header, Dtls::connect(browser, Instant::now()).unwrap()));
            }
            for report in worker.apply(command) {
                assert!(link.push_report(&report.write()));
                if let (Report::Event(Event::Committed(_)), Some((header, _))) = (report, &dtls)
                    && worker.peers.values().any(|peer| peer.open.peer == header.peer && peer.rx.is_none())
                {
                    let path = PeerPath { peer: header.peer, remote: header.remote, nominated: 1 };
                    assert!(link.push_report(&Report::Event(path.into()).write()));
                }
            }
        }
        if let Some((header, dtls)) = &mut dtls {
            exchange(link, header, dtls);
        }
        link.notify();
    }
    worker
}

/// Carries the browser's DTLS through the link.
fn exchange(link: &mut WorkerLink, header: &DatagramHeader, dtls: &mut Dtls) {
    while let Some(inject) = link.pop_inject() {
        let (to, payload) = inject.expect("a datagram of the contract");
        assert_eq!((to.peer, to.remote), (header.peer, header.remote));
        dtls.handle(Instant::now(), payload);
    }
    if dtls.poll_timeout().is_some_and(|at| at <= Instant::now()) {
        dtls.handle_timeout(Instant::now());
    }
    while let Some(datagram) = dtls.poll_transmit() {
        link.push_punt(header, &datagram);
    }
    while let Some(event) = dtls.poll_event() {
        assert!(!matches!(event, DtlsEvent::Failed(_)), "{event:?}");
    }
}

/// A controlplane on the test's runtime.
struct Controlplane {
    listening: Listening,
    stop: oneshot::Sender<bool>,
    task: tokio::task::JoinHandle<Result<(), controlplane::Error>>,
}

impl Controlplane {
    async fn start(state: &Path, http: SocketAddr) -> Controlplane {
        let config = Config::new(state.to_owned(), http, "127.0.0.1:0".parse().unwrap());
        let (stop, stopped) = oneshot::channel();
        let (announce, announced) = oneshot::channel();
        // Its future is local to a thread, so it gets one.
        let runtime = tokio::runtime::Handle::current();
        let task = tokio::task::spawn_blocking(move || {
            let announce = |listening: &Listening| announce.send(*listening).unwrap();
            runtime.block_on(controlplane::serve(config, async { stopped.await.unwrap_or(false) }, announce))
        });
        let listening = timeout(DEADLINE, announced).await.unwrap().unwrap();
        Controlplane { listening, stop, task }
    }

    async fn stop(self, for_good: bool) {
        self.stop.send(for_good).unwrap();
        timeout(DEADLINE, self.task).await.expect("it ends").unwrap().unwrap();
    }

    async fn readyz(&self) -> u16 {
        let mut stream = TcpStream::connect(self.listening.http).await.unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    async fn until_readyz(&self, status: u16) {
        let is = async {
            while self.readyz().await != status {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, is).await.unwrap_or_else(|_| panic!("/readyz never says {status}"));
    }
}

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn open(state: &Path, listening: Listening) -> Client {
        let claims = Claims { publish: true, subscribe: true, ..Claims::new("demo", "Ada", 60) };
        let token = TokenKey::load_or_create(state).unwrap().sign(&claims).unwrap();
        let address = format!("ws://{}/v1/rooms/demo/signal?token={token}", listening.http);
        Client(timeout(DEADLINE, connect_async(address)).await.unwrap().unwrap().0)
    }

    async fn say(&mut self, signal: ClientSignal) {
        self.0.send(Message::text(serde_json::to_string(&signal).unwrap())).await.unwrap();
    }

    async fn next(&mut self) -> Message {
        timeout(DEADLINE, self.0.next()).await.expect("a signal in time").expect("an open socket").unwrap()
    }

    /// The first signal of which `pick` makes something.
    async fn until<T>(&mut self, mut pick: impl FnMut(ServerSignal) -> Option<T>) -> T {
        loop {
            let text = match self.next().await {
                Message::Text(text) => text,
                Message::Ping(_) => continue,
                other => panic!("a signal is due, not {other:?}"),
            };
            if let Some(found) = pick(serde_json::from_str(&text).unwrap()) {
                return found;
            }
        }
    }

    async fn close_code(&mut self) -> CloseCode {
        loop {
            if let Message::Close(frame) = self.next().await {
                return frame.expect("a code").code;
            }
        }
    }

    /// Joins; the session and the moment when keys are agreed.
    async fn join(&mut self, browser: &Identity) -> String {
        let session = self.until(|signal| match signal {
            ServerSignal::Welcome { session, stun, resumed: false, .. } => Some((session, stun)),
            other => panic!("a welcome comes first, not {other:?}"),
        });
        let (session, stun) = session.await;
        assert!(stun.is_some_and(|stun| stun.starts_with("stun:127.0.0.1:")));
        let sdp = world::with_fingerprint(world::PAGE, browser);
        self.say(ClientSignal::Offer { sdp, tracks: world::page_tracks() }).await;
        let answer = self.until(|signal| match signal {
            ServerSignal::Answer { sdp } => Some(sdp),
            ServerSignal::Error { .. } => panic!("{signal:?}"),
            _ => None,
        });
        assert!(answer.await.contains(" 127.0.0.1 40000 typ host"));
        self.until(|signal| world::is_state(&signal, PeerState::Connected).then_some(())).await;
        session
    }
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[tokio::test]
async fn without_a_dataplane_an_offer_is_refused_by_name() {
    let folder = Folder::new();
    let controlplane = Controlplane::start(&folder.0, ANY).await;
    assert_eq!(controlplane.readyz().await, 503);
    let mut client = Client::open(&folder.0, controlplane.listening).await;
    let browser = Identity::generate().unwrap();
    let sdp = world::with_fingerprint(world::PAGE, &browser);
    client.say(ClientSignal::Offer { sdp, tracks: world::page_tracks() }).await;
    let code = client.until(|signal| match signal {
        ServerSignal::Error { code, .. } => Some(code),
        _ => None,
    });
    assert_eq!(code.await, ErrorCode::NoDataplane);
    controlplane.stop(false).await;
}

#[tokio::test]
async fn a_join_goes_through_the_link_and_survives_another_controlplane() {
    let folder = Folder::new();
    let browser = Arc::new(Identity::generate().unwrap());
    let first = Controlplane::start(&folder.0, ANY).await;
    let dataplane = Dataplane::start(&folder.0, browser.clone());
    first.until_readyz(200).await;
    let http = first.listening.http;
    let mut client = Client::open(&folder.0, first.listening).await;
    let session = client.join(&browser).await;

    first.stop(false).await;
    assert_eq!(client.close_code().await, CloseCode::Restart);
    drop(client);

    let second = Controlplane::start(&folder.0, http).await;
    second.until_readyz(200).await;
    let mut client = Client::open(&folder.0, second.listening).await;
    client.say(ClientSignal::Resume { session: session.clone() }).await;
    let resumed = client.until(|signal| match signal {
        ServerSignal::Welcome { session, resumed: true, .. } => Some(session),
        ServerSignal::Error { .. } => panic!("{signal:?}"),
        _ => None,
    });
    assert_eq!(resumed.await, session);
    second.stop(true).await;
    client.until(|signal| world::is_bye(&signal, LeaveReason::ServerStopping, true).then_some(())).await;
    let worker = dataplane.end();
    let peer = worker.peers.values().next().expect("the peer stands");
    assert!(peer.rx.is_some() && peer.tx.is_some());
    assert!(worker.refused.is_empty(), "{:?}", worker.refused);
    assert_eq!((worker.streams.len(), worker.slots.len()), (3, 15));
}

#[tokio::test]
async fn the_end_of_the_dataplane_is_told_and_another_is_taken() {
    let folder = Folder::new();
    let browser = Arc::new(Identity::generate().unwrap());
    let controlplane = Controlplane::start(&folder.0, ANY).await;
    let dataplane = Dataplane::start(&folder.0, browser.clone());
    controlplane.until_readyz(200).await;
    let mut client = Client::open(&folder.0, controlplane.listening).await;
    client.join(&browser).await;
    dataplane.end();
    client.until(|signal| world::is_bye(&signal, LeaveReason::MediaRestarted, true).then_some(())).await;
    controlplane.until_readyz(503).await;

    let dataplane = Dataplane::start(&folder.0, browser.clone());
    controlplane.until_readyz(200).await;
    let mut client = Client::open(&folder.0, controlplane.listening).await;
    client.join(&browser).await;
    controlplane.stop(true).await;
    assert_eq!(dataplane.end().peers.len(), 1);
}
