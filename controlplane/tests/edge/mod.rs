//! A controlplane as it runs, and the real link to a strict worker on a thread of its own, with browsers' DTLS behind
//! it.

#![allow(dead_code, unreachable_pub, missing_docs)] // each test file uses a part of it

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use controlplane::driver::SOCKET_FILE;
use controlplane::dtls::{Dtls, DtlsEvent, Identity};
use controlplane::{Config, Listening};
use proto::id::PeerId;
use proto::link::{LinkServer, WorkerLink};
use proto::plane::{Command, DatagramHeader, DatagramKind, Event, PeerPath, Report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::world::worker::Worker;

/// Any port of this machine.
pub const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

pub const DEADLINE: Duration = Duration::from_secs(20);

/// A state folder of its own, removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
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
pub struct Dataplane {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Worker>>,
}

impl Dataplane {
    pub fn start(state: &Path, browser: Arc<Identity>) -> Dataplane {
        let addresses = vec![SocketAddr::from(([127, 0, 0, 1], 40_000))];
        let server = LinkServer::bind(&state.join(SOCKET_FILE), vec![addresses]).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopping = stop.clone();
        let thread = std::thread::spawn(move || serve_link(server, &browser, &is_stopping));
        Dataplane { stop, thread: Some(thread) }
    }

    /// What was installed when it ended.
    pub fn end(mut self) -> Worker {
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
    let (mut worker, mut link, mut calls) = (Worker::default(), None::<WorkerLink>, BTreeMap::<PeerId, Call>::new());
    loop {
        let is_last = stop.load(Ordering::Relaxed); // What was sent before the end is still taken.
        let tick = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        if poll(&mut [PollFd::new(&server.as_fd(), PollFlags::IN)], Some(&tick)).unwrap() > 0 {
            link = server.accept().unwrap().pop();
        }
        let Some(link) = &mut link else {
            if is_last {
                return worker;
            }
            continue;
        };
        while let Some(record) = link.pop_command() {
            let command = Command::read(&record).expect("a command of the contract");
            if let Command::PeerOpen(open) = command {
                calls.insert(open.peer, Call::new(open.peer, browser));
            }
            for report in worker.apply(command) {
                assert!(link.push_report(&report.write()));
                if let Report::Event(Event::Committed(_)) = report {
                    for peer in worker.peers.values().filter(|peer| peer.rx.is_none()) {
                        let remote = calls[&peer.open.peer].header.remote;
                        let path = PeerPath { peer: peer.open.peer, remote, nominated: 1 };
                        assert!(link.push_report(&Report::Event(path.into()).write()));
                    }
                }
            }
        }
        exchange(link, &mut calls);
        link.notify();
        if is_last {
            return worker;
        }
    }
}

/// A browser's DTLS behind the worker.
struct Call {
    header: DatagramHeader,
    dtls: Dtls,
}

impl Call {
    fn new(peer: PeerId, browser: &Identity) -> Call {
        let remote = SocketAddr::from(([127, 0, 0, 1], 50_000 + peer.index as u16));
        let header = DatagramHeader { kind: DatagramKind::Dtls, peer, remote, len: 0 };
        Call { header, dtls: Dtls::connect(browser, Instant::now()).unwrap() }
    }
}

/// Carries the browsers' DTLS through the link.
fn exchange(link: &mut WorkerLink, calls: &mut BTreeMap<PeerId, Call>) {
    while let Some(inject) = link.pop_inject() {
        let (to, payload) = inject.expect("a datagram of the contract");
        let call = calls.get_mut(&to.peer).expect("a peer that was opened");
        assert_eq!(to.remote, call.header.remote);
        call.dtls.handle(Instant::now(), payload);
    }
    for Call { header, dtls } in calls.values_mut() {
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
}

/// A controlplane on the test's runtime.
pub struct Controlplane {
    pub listening: Listening,
    stop: oneshot::Sender<bool>,
    task: tokio::task::JoinHandle<Result<(), controlplane::Error>>,
}

impl Controlplane {
    pub async fn start(state: &Path, http: SocketAddr) -> Controlplane {
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

    pub async fn stop(self, for_good: bool) {
        self.stop.send(for_good).unwrap();
        timeout(DEADLINE, self.task).await.expect("it ends").unwrap().unwrap();
    }

    pub async fn readyz(&self) -> u16 {
        let mut stream = TcpStream::connect(self.listening.http).await.unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub async fn until_readyz(&self, status: u16) {
        let is = async {
            while self.readyz().await != status {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, is).await.unwrap_or_else(|_| panic!("/readyz never says {status}"));
    }
}
