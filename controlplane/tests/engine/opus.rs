//! Opus between peers (RFC 7587 §7): what those who are in a room declare of it is told to whoever comes to publish.

use proto::signal::{LeaveReason, ServerSignal};

use crate::cluster::Edges;
use crate::world::{Client, PAGE, World, grant};

const PLAIN: &str = "minptime=10;useinbandfec=1";

/// Joins with more parameters of Opus than a browser has by itself.
fn join(world: &mut World, name: &str, more: &str) -> Client {
    let mut client = world.guest("blue", grant(name));
    let sdp = PAGE.replace("useinbandfec=1", &format!("useinbandfec=1{more}"));
    world.offer(&mut client, &sdp, Vec::new()).unwrap();
    world.connect(&mut client);
    client
}

/// The format parameters in the audio sections of that direction, which must be the same in all of them.
fn declared(client: &Client, direction: &str) -> String {
    let sections = client.answer.split("\r\nm=").filter(|section| section.starts_with("audio"));
    let mut found: Vec<&str> = sections
        .filter(|section| section.contains(&format!("\r\na={direction}\r\n")))
        .map(|section| section.split("\r\n").find_map(|line| line.strip_prefix("a=fmtp:111 ")).unwrap())
        .collect();
    found.dedup();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].to_owned()
}

fn told_audio_bps(world: &mut World, client: &Client) -> u32 {
    let limits = world.drain(client.socket).into_iter().rev().find_map(|signal| match signal {
        ServerSignal::Limits { audio_bps_max, .. } => Some(audio_bps_max),
        _ => None,
    });
    limits.expect("a peer that joins is told its limits")
}

#[test]
fn what_receivers_declare_is_told_to_publishers_who_come() {
    let mut world = World::new();
    let plain = join(&mut world, "Plain", "");
    assert_eq!((declared(&plain, "recvonly"), declared(&plain, "sendonly")), (PLAIN.into(), PLAIN.into()));
    let ada = join(&mut world, "Ada", ";stereo=1");
    assert_eq!(declared(&ada, "recvonly"), format!("{PLAIN};stereo=1"), "her own wish");
    assert_eq!(declared(&ada, "sendonly"), format!("{PLAIN};sprop-stereo=1"), "it may come to her");
    let bob = join(&mut world, "Bob", "");
    assert_eq!(declared(&bob, "recvonly"), format!("{PLAIN};stereo=1"), "for Ada hears him");
    assert_eq!(declared(&bob, "sendonly"), PLAIN);

    world.restart_controlplane();
    world.pass(std::time::Duration::from_millis(10));
    let cyd = join(&mut world, "Cyd", "");
    assert_eq!(declared(&cyd, "recvonly"), format!("{PLAIN};stereo=1"), "a successor knows it");
}

#[test]
fn who_has_left_or_may_not_hear_is_not_asked() {
    let mut world = World::new();
    let ada = join(&mut world, "Ada", ";stereo=1;cbr=1");
    world.say(ada.socket, proto::signal::ClientSignal::Leave {});
    let told = world.drain(ada.socket);
    assert!(
        told.iter().all(|signal| !matches!(signal, ServerSignal::Bye { reason, .. } if *reason != LeaveReason::Left))
    );
    let bob = join(&mut world, "Bob", "");
    assert_eq!(declared(&bob, "recvonly"), PLAIN);
}

#[test]
fn limits_are_the_widest_of_all_and_are_told_by_signals_too() {
    let mut world = World::new();
    let ada = join(&mut world, "Ada", ";maxaveragebitrate=20000;usedtx=1;maxplaybackrate=16000");
    assert_eq!(declared(&ada, "recvonly"), format!("{PLAIN};usedtx=1;maxaveragebitrate=20000;maxplaybackrate=16000"));
    assert_eq!(told_audio_bps(&mut world, &ada), 20_000);
    let bob = join(&mut world, "Bob", "");
    assert_eq!(declared(&bob, "recvonly"), format!("{PLAIN};usedtx=1;maxaveragebitrate=20000;maxplaybackrate=16000"));
    let cyd = join(&mut world, "Cyd", ";maxaveragebitrate=128000");
    assert_eq!(declared(&cyd, "recvonly"), format!("{PLAIN};maxaveragebitrate=128000"), "Bob set no limit");
    assert_eq!(told_audio_bps(&mut world, &cyd), 128_000);
}

#[test]
fn what_receivers_at_other_edges_declare_is_told_to_publishers_who_come() {
    let mut edges = Edges::new(3);
    let mut join = |edge: usize, name: &str, more: &str| {
        let sdp = PAGE.replace("useinbandfec=1", &format!("useinbandfec=1{more}"));
        let client = edges.try_join_with(edge, "blue", name, &sdp).expect("there is a seat");
        declared(&client, "recvonly")
    };
    assert_eq!(
        join(0, "Ada", ";usedtx=1;maxaveragebitrate=20000"),
        format!("{PLAIN};usedtx=1;maxaveragebitrate=20000")
    );
    // The first at an edge knows nobody yet; the owner of the room has said it with the seat.
    assert_eq!(join(1, "Bob", ";usedtx=1"), format!("{PLAIN};usedtx=1;maxaveragebitrate=20000"));
    assert_eq!(join(1, "Cyd", ";stereo=1"), format!("{PLAIN};stereo=1;usedtx=1"), "Bob has no limit");
    assert_eq!(join(0, "Dan", ""), format!("{PLAIN};stereo=1"), "Cyd, at the other edge, wants silence sent");
    assert_eq!(join(2, "Eve", ""), format!("{PLAIN};stereo=1"), "the owner knows of all edges");
    // Whoever takes over knows it when the others have said who is there.
    edges.restart_controlplane(0);
    edges.pass(std::time::Duration::from_secs(1));
    let fay = edges.try_join_with(0, "blue", "Fay", PAGE).expect("there is a seat");
    assert_eq!(declared(&fay, "recvonly"), format!("{PLAIN};stereo=1"));
}
