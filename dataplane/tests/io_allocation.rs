//! The turn does not allocate: not in io, not in the worker, not in the forwarder, not when parking, on neither
//! driver. A running dataplane is driven through real sockets and its real link, and every allocation that happens
//! in one of its threads is counted.

#![allow(unsafe_code)] // A global allocator cannot be written without.

mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::srtp::Crypto;
use proto::plane::{Counter, DatagramHeader, DatagramKind};
use rig::tcp::TcpClient;
use rig::{Client, Rig, on_every_ground, write_packet};

/// Counts what threads other than the test's own allocate.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Set in the test's thread, which plays the clients and the controlplane.
    static IS_EXEMPT: Cell<bool> = const { Cell::new(false) };
}

fn note() {
    if !IS_EXEMPT.try_with(Cell::get).unwrap_or(true) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is the system allocator's; counting neither allocates nor touches what it returns.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A DTLS record that could be one.
const DTLS: &[u8] = &[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 9, 9];

/// A publisher with a microphone, and its subscriber.
struct Call {
    alice: Client,
    bob: Client,
    /// She is there over TCP, hears bob, and is heard by alice.
    carol: Option<TcpClient>,
    sender: Crypto,
    ssrc: u32,
    seq: u16,
}

/// A bit of everything that a worker does: checks, media, DTLS up and down, strangers' junk, and parking in between.
fn round(rig: &mut Rig, call: &mut Call, strangers: &[UdpSocket]) {
    let mut buffer = [0; 1500];
    for client in [&call.alice, &call.bob] {
        client.check();
    }
    for _ in 0..20 {
        call.seq += 1;
        let len = write_packet(&mut buffer, &call.sender, call.ssrc, call.seq, &[call.seq as u8; 80]);
        call.alice.socket.send(&buffer[..len]).unwrap();
    }
    for _ in 0..20 {
        call.bob.receive_rtp(&mut buffer);
    }
    if let Some(carol) = &mut call.carol {
        carol.check();
        for (sender, ssrc) in [(carol.client.sender(), 0x1003), (call.bob.sender(), 0x1002)] {
            for packet in 0..20 {
                let len = write_packet(&mut buffer, &sender, ssrc, call.seq + packet, &[packet as u8; 700]);
                match ssrc {
                    0x1003 => carol.send(&buffer[..len]),
                    _ => drop(call.bob.socket.send(&buffer[..len]).unwrap()),
                }
            }
        }
        for _ in 0..20 {
            carol.receive_rtp(&mut buffer);
            call.alice.receive_rtp(&mut buffer);
        }
    }
    for (stranger, address) in strangers.iter().zip(rig.addresses()) {
        for junk in [&b""[..], &[0xff; 9], &[0x80; 40], &[0; 20], DTLS] {
            stranger.send_to(junk, address).unwrap();
        }
    }
    call.alice.socket.send(DTLS).unwrap();
    let remote = call.alice.socket.local_addr().unwrap();
    let header = DatagramHeader { kind: DatagramKind::Dtls, peer: call.alice.id, remote, len: 4 };
    assert!(rig.link().push_inject(&header, b"\x16down"));
    rig.link().notify();
    call.alice.receive(&mut buffer, |bytes| bytes[0] == 0x16);
    rig.commit(&[]);
    while rig.link().pop_punt().is_some() {}
}

#[test]
fn a_turn_does_not_allocate() {
    IS_EXEMPT.set(true);
    on_every_ground(|ground| {
        IS_EXEMPT.set(true);
        let mut rig = Rig::start(ground);
        let (alice, bob) =
            (rig.connect(1, IpAddr::V4(Ipv4Addr::LOCALHOST)), rig.connect(2, IpAddr::V6(Ipv6Addr::LOCALHOST)));
        let (ssrc, _) = rig.carry(&alice, &bob);
        let sender = alice.sender();
        let carol = (!ground.are_frames()).then(|| rig.connect_tcp(3, IpAddr::V4(Ipv4Addr::LOCALHOST)));
        if let Some(carol) = &carol {
            assert_eq!(rig.carry(&bob, &carol.client).0, 0x1002);
            assert_eq!(rig.carry(&carol.client, &alice).0, 0x1003);
        }
        let mut call = Call { alice, bob, carol, sender, ssrc, seq: 0 };
        let strangers = [Ipv4Addr::LOCALHOST.into(), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            .map(|family: IpAddr| UdpSocket::bind((ground.clients(family), 0)).unwrap());
        // What is taken on first use is taken in the first rounds. Now and then a timer takes memory for good (its wheel
        // grows with the number of peers); what a turn takes would show in every one of these windows.
        let windows: Vec<u64> = (0..8)
            .map(|_| {
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                for _ in 0..25 {
                    round(&mut rig, &mut call, &strangers);
                }
                ALLOCATIONS.load(Ordering::Relaxed) - before
            })
            .collect();
        rig.wait_for_counter(Counter::Sent, 8 * 25 * 20 * if call.carol.is_some() { 3 } else { 1 });
        assert!(
            windows[2..].contains(&0),
            "{:?}, {:?}: allocations in windows of 25 rounds: {windows:?}",
            ground.driver,
            ground.backend
        );
    });
    // The counter counts: starting a dataplane in other threads allocates.
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 100);
}
