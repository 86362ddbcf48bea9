//! Attacks on TLS: handshakes that are begun and left.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::scene::{Attacker, Limits, Scene, connect, is_full};

/// Somebody on a slow link, who needs longer for a handshake than the attacker needs to begin hundreds.
const SLOW: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// A handshake whose first flight comes in two parts with a pause between, and a request after it.
fn slow_handshake(scene: &Scene) -> std::io::Result<bool> {
    let mut tls = scene.tls_client();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello)?;
    let mut stream = connect(SLOW, scene.http)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let (first, rest) = hello.split_at(hello.len() / 2);
    for part in [first, rest] {
        stream.write_all(part)?;
        std::thread::sleep(Duration::from_millis(400));
    }
    let mut stream = rustls::StreamOwned::new(tls, stream);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

/// One address begins 1,550 handshakes a second and ends none. Each displaced the oldest of all, and so everybody who needed longer than
/// a sixth of a second. The other address makes a new connection for each page it asks for.
#[test]
fn handshakes_without_end() {
    let scene = Scene::start_with_tls(&[]);
    let mut hello = Vec::new();
    scene.tls_client().write_tls(&mut hello).unwrap();
    let per_tick = if is_full() { 16 } else { 4 };
    let mut slow = Vec::new();
    let attack = |attacker: &Attacker<'_>| {
        std::thread::scope(|threads| {
            let on_a_slow_link = threads.spawn(|| {
                let mut ended = Vec::new();
                while attacker.goes_on() {
                    ended.push(slow_handshake(attacker.scene).map_err(|error| error.to_string()));
                }
                ended
            });
            let mut begun = VecDeque::new();
            let mut tick = Instant::now();
            while attacker.goes_on() {
                for _ in 0..per_tick {
                    let Ok(mut stream) = attacker.connect() else { continue };
                    let _ = stream.write(&hello);
                    begun.push_back(stream);
                }
                while begun.len() > 2000 {
                    begun.pop_front();
                }
                tick += Duration::from_millis(10);
                std::thread::sleep(tick.saturating_duration_since(Instant::now()));
            }
            slow = on_a_slow_link.join().unwrap();
        });
    };
    let report = scene.under(attack);
    report.assert_within(&Limits::default());
    assert!(!slow.is_empty() && slow.iter().all(|ended| *ended == Ok(true)), "{slow:?}");
    assert!(scene.counter("uprtc_limited_total") > 0.0, "{report:?}");
    assert!(scene.log().contains("source 127.0.0.66"), "the log names the source: {}", scene.log());
}
