//! Attacks by one address or one token on a running server, while a call of three goes on and another address asks for a
//! page: the call loses nothing, the other address is answered, memory stays bounded, and the counters name what was
//! refused. `make attacks` runs them in full against the release executable; `make test` runs a short form of each.

mod door;
mod media;
mod peer;
mod rights;
mod scene;
mod tls;

#[path = "../harness/mod.rs"]
mod harness;

use scene::{Limits, Scene};

/// The frame itself: without an attack a call loses nothing, and the other address is answered.
#[test]
fn a_call_without_an_attack_loses_nothing() {
    let scene = Scene::start(&[]);
    let report = scene.under(|attacker| attacker.rest());
    report.assert_within(&Limits::default());
    assert!(report.answers > 0 && report.packets > 0.0, "{report:?}");
}
