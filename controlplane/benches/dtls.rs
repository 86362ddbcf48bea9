//! What a DTLS handshake and a live connection cost: `cargo bench -p controlplane --bench dtls`.

#[path = "../tests/dtls/pair.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use the rest of it")]
mod pair;

use std::time::{Duration, Instant};

use controlplane::dtls::{Dtls, Identity};

use pair::{End, Pair, arrives};

fn main() {
    handshakes_per_second();
    memory_of_a_live_connection();
}

/// CPU time of this thread, from the scheduler.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Bytes of memory that the process holds.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn handshakes_per_second() {
    const COUNT: u32 = 2000;
    let [client, server] = [(); 2].map(|()| Identity::generate().unwrap());
    let mut server_time = Duration::ZERO;
    let begin = cpu_time();
    for _ in 0..COUNT {
        let now = Instant::now();
        let mut client = End::new(Dtls::connect(&client, now).unwrap());
        let before = cpu_time();
        let mut server = End::new(Dtls::accept(&server, now).unwrap());
        server_time += cpu_time() - before;
        while client.connected.is_none() || server.connected.is_none() {
            while let Some(datagram) = client.dtls.poll_transmit() {
                let before = cpu_time();
                server.dtls.handle(now, &datagram);
                server_time += cpu_time() - before;
            }
            while let Some(datagram) = server.dtls.poll_transmit() {
                client.dtls.handle(now, &datagram);
            }
            client.drain_events();
            server.drain_events();
        }
    }
    let both = cpu_time() - begin;
    println!(
        "server: {:?} a handshake, {:.0} a second and core",
        server_time / COUNT,
        f64::from(COUNT) / server_time.as_secs_f64()
    );
    println!("both ends: {:?} a handshake", both / COUNT);
}

fn memory_of_a_live_connection() {
    const COUNT: usize = 2000;
    let [client, server] = [(); 2].map(|()| Identity::generate().unwrap());
    let connect = || {
        let mut pair = Pair::with_identities(client.clone(), server.clone(), |_, _, _| arrives());
        pair.run(Duration::from_secs(5));
        pair.assert_agree();
        pair.server.dtls
    };
    let warm: Vec<Dtls> = (0..100).map(|_| connect()).collect();
    let before = resident();
    let live: Vec<Dtls> = (0..COUNT).map(|_| connect()).collect();
    println!("{} bytes a live connection", (resident() - before) / COUNT);
    drop((warm, live));
    let now = Instant::now();
    let before = resident();
    let half_open: Vec<Dtls> = (0..COUNT * 4).map(|_| Dtls::accept(&server, now).unwrap()).collect();
    println!(
        "{} bytes an unused one (a lower bound: freed memory is used again)",
        (resident().saturating_sub(before)) / half_open.len()
    );
}
