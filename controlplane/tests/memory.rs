//! What a connected peer costs the engine in memory, and that all of it comes back.
//!
//! Bytes as Rust asked for them are counted, not pages: the result is the same on each machine and in each run. BoringSSL
//! takes its own (7 KB for a connection; `cargo bench -p controlplane --bench dtls`); what a socket holds while nothing is
//! said is held by a test beside its code.
#![allow(unsafe_code, reason = "a global allocator cannot be written without")]

mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use world::World;

/// Adds up what this thread gives back, less what it takes.
struct Counting;

thread_local! {
    static GIVEN_BACK: Cell<i64> = const { Cell::new(0) };
}

fn note(bytes: i64) {
    GIVEN_BACK.set(GIVEN_BACK.get() + bytes);
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain thread-local cell that needs
// neither memory nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(-(layout.size() as i64));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        note(layout.size() as i64 - len as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that something held: what is given back when it ends.
fn held_by<T>(thing: T) -> i64 {
    let before = GIVEN_BACK.get();
    drop(thing);
    GIVEN_BACK.get() - before
}

/// Peers of a meeting.
const EIGHT: i64 = 8;

/// A world in which so many meetings of eight are connected, with everything said.
fn world_with(meetings: i64) -> World {
    let mut world = World::new();
    for meeting in 0..meetings {
        for peer in 0..EIGHT {
            let client = world.join(&format!("room-{meeting}"), &format!("peer-{peer}"));
            assert!(client.connected.is_some());
        }
    }
    world.pass(Duration::from_secs(1));
    world
}

#[test]
fn a_peer_in_a_meeting_of_eight_takes_the_engine_so_much_memory() {
    let [few, many] = [4, 8].map(|meetings| held_by(world_with(meetings).engine));
    let per_peer = (many - few) / (4 * EIGHT);
    println!("{per_peer} bytes");
    assert!(per_peer <= 8_100, "{per_peer} bytes");
}

#[test]
fn a_meeting_that_is_over_leaves_nothing() {
    let mut world = world_with(1);
    let before = held_by(std::mem::replace(&mut world, World::new()).engine);
    let mut once_more = world_with(2);
    for socket in (1..=EIGHT as u64).rev() {
        once_more.say(socket, proto::signal::ClientSignal::Leave {});
        once_more.close(socket);
    }
    once_more.pass(Duration::from_secs(60));
    let after = held_by(once_more.engine);
    println!("{before} bytes with one meeting, {after} with one after another");
    assert!(after <= before + before / 4, "{before} bytes with one meeting, {after} with one after another");
}
