//! What a change in a large room costs the engine: `cargo bench -p controlplane --bench settle`.
//!
//! A room of N peers, all of whom publish with the offer of the meeting page, so that almost everybody lacks slots for almost
//! everybody. One camera is switched off and on. Measured is the engine alone: the input, the signals to all others as they are
//! given to the driver, and the commands to the worker; not JSON and not the sockets.

#[path = "../tests/world/mod.rs"]
mod world;

use std::time::{Duration, Instant};

use controlplane::engine::{Input, Settings, SocketId};
use proto::signal::ClientSignal;

use world::{World, grant};

/// How often the camera is switched.
const TOGGLES: u32 = 280;

fn main() {
    println!("{:>6} {:>14} {:>14} {:>14}", "peers", "toggle µs", "per peer ns", "last join µs");
    for peers in [8, 100, 300, 1000] {
        let settings = Settings { peers_max: peers, peers_per_worker_max: 2000, ..Settings::default() };
        let mut world = World::with(settings, 1);
        let mut sockets = Vec::new();
        let mut last_join = Duration::ZERO;
        for n in 0..peers {
            let mut client = world.guest("hall", grant(&format!("peer {n}")));
            let begun = Instant::now();
            world.offer(&mut client, world::PAGE, world::page_tracks()).expect("an answer");
            last_join = begun.elapsed();
            world.check(&client);
            world.signals.clear();
            sockets.push(client.socket);
        }
        let begun = cpu_time();
        (0..TOGGLES).for_each(|n| toggle(&mut world, sockets[0], n % 2 == 1));
        let mean = (cpu_time() - begun) / TOGGLES;
        println!(
            "{peers:>6} {:>14.1} {:>14} {:>14}",
            mean.as_secs_f64() * 1e6,
            mean.as_nanos() / u128::from(peers),
            last_join.as_micros(),
        );
    }
}

/// Switches the camera, and takes what the engine does.
fn toggle(world: &mut World, socket: u64, active: bool) {
    let signal = ClientSignal::Track { mid: "1".into(), active };
    world.engine.handle(world.now, Input::Signal { socket: SocketId(socket), signal });
    let mut signals = 0;
    while world.engine.poll_output().is_some() {
        signals += 1;
    }
    let mut commands = Vec::new();
    world.engine.reconcile(0, world.space, &mut commands);
    assert!(signals > 0, "others are told");
    assert!(commands.is_empty(), "a camera keeps its slots");
}

/// CPU time of this thread, from the scheduler.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}
