//! What signalling sockets cost in memory: idle ones, and those whose client begins a message of the largest size and leaves it, and
//! reads nothing of what it is told.
//!
//! Bytes as Rust asked for them are counted in this process; the clients are sockets of the kernel's and hold none.
#![allow(unsafe_code, reason = "a global allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use controlplane::auth::{Claims, KEY_LEN, TokenKey, TokenKeys};
use controlplane::driver::{self, OUTGOING_LEN_FREE, Request, ToSocket};
use controlplane::http::{Limits, Site, SiteSettings, serve};
use proto::signal::ServerSignal;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Adds up what is taken, less what is given back.
struct Counting;

static HELD: AtomicI64 = AtomicI64::new(0);

fn note(bytes: i64) {
    HELD.fetch_add(bytes, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; the counter needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(-(layout.size() as i64));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        note(len as i64 - layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn answer(len: usize) -> ToSocket {
    ToSocket::Signal(Box::new(ServerSignal::Answer { sdp: "x".repeat(len) }))
}

const SOCKETS: usize = 300;

/// Most for a socket, bytes.
const SOCKET_BYTES_MAX: i64 = 32 * 1024;

#[test]
fn a_socket_that_is_idle_or_slow_takes_at_most_32_kib() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let key = TokenKey::new(&[7; KEY_LEN]);
        let token = key.sign(&Claims::new("demo", "Ada", 600)).unwrap();
        let (handle, mut inbox) = driver::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let site = Site::with(handle, TokenKeys::from(key), Arc::default(), Limits::default(), SiteSettings::default());
        let (_stopping, is_stopping) = watch::channel(false);
        tokio::spawn(serve(listener, site, is_stopping));
        let mut sockets = Vec::with_capacity(SOCKETS);
        let head = format!(
            "GET /v1/rooms/demo/signal?token={token} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let before = HELD.load(Ordering::Relaxed);
        for _ in 0..SOCKETS {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(head.as_bytes()).unwrap();
            let Some(Request::Open { outgoing, .. }) = inbox.requests.recv().await else { panic!("no socket was opened") };
            sockets.push((client, outgoing));
        }
        let each = |held: i64| (held - before) / SOCKETS as i64;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let idle = each(HELD.load(Ordering::Relaxed));

        // A text of 500,000 bytes, of which as much comes as the kernel takes.
        let begin = [&[0x81, 0xff][..], &500_000u64.to_be_bytes(), &[0; 4], &[b'x'; 64 * 1024]].concat();
        for (client, _) in &mut sockets {
            client.set_nonblocking(true).unwrap();
            assert!(client.write(&begin).unwrap() > 10_000);
        }
        let mut slow = 0;
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            slow = slow.max(each(HELD.load(Ordering::Relaxed)));
        }
        // And signals wait for it, as many as each socket may have for itself: none of the tasks has its turn meanwhile.
        for (_, outgoing) in &sockets {
            for _ in 0..OUTGOING_LEN_FREE / 1100 {
                outgoing.push(answer(900)).unwrap();
            }
        }
        slow = slow.max(each(HELD.load(Ordering::Relaxed)));
        println!("{idle} bytes idle, {slow} bytes slow");
        assert!(idle <= SOCKET_BYTES_MAX / 2, "{idle} bytes");
        assert!(slow <= SOCKET_BYTES_MAX, "{slow} bytes");
        assert!(sockets.iter_mut().all(|(client, _)| client.read(&mut [0; 4096]).is_ok()), "all were let in");
    });
}
