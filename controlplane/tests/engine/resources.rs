//! Peers without a socket in the engine's hands, in virtual time: how long they live, whom they receive, and what a
//! successor knows of them. The HTTP around it is in whip.rs.

use std::time::Duration;

use controlplane::engine::{Grant, ResourceError, ResourceReply, ResourceRequest};
use controlplane::sdp::parse_fragment;
use proto::signal::{ClientSignal, ErrorCode, LeaveReason, ServerSignal};

use crate::world::{self, Client, World, error_of, grant};

/// A microphone and a camera, each both ways.
const PAIR: &str = include_str!("../offers/chromium_sendrecv.sdp");

/// Chromium's page would receive in 15 slots.
const PAGE: &str = world::PAGE;

fn publisher(name: &str) -> Grant {
    Grant { subscribe: false, ..grant(name) }
}

fn player(name: &str) -> Grant {
    Grant { publish: false, ..grant(name) }
}

/// Opens a resource; the client and the resource's id.
fn open(world: &mut World, grant: Grant, from: &[&str], sdp: &str) -> Result<(Client, String), ResourceError> {
    let mut client = world.guest("elsewhere", grant.clone());
    world.close(client.socket);
    let sdp = world::with_fingerprint(sdp, &client.identity);
    let from = from.iter().map(|name| (*name).to_owned()).collect();
    let reply = world.ask(ResourceRequest::Open { room: "blue".into(), grant, from, sdp })?;
    world.carry();
    let ResourceReply::Opened { resource, sdp, tag, .. } = reply else { panic!("{reply:?}") };
    client.answer = sdp;
    client.peer =
        world.worker().peers.values().map(|peer| peer.open).find(|open| open.ufrag == tag.as_bytes()).map(|o| o.peer);
    Ok((client, resource))
}

fn joined(world: &mut World, grant: Grant, from: &[&str], sdp: &str) -> (Client, String) {
    let (mut client, resource) = open(world, grant, from, sdp).expect("a resource");
    world.connect(&mut client);
    (client, resource)
}

fn close(world: &mut World, resource: &str) -> Result<ResourceReply, ResourceError> {
    let closed = world.ask(ResourceRequest::Close { room: "blue".into(), resource: resource.into() });
    world.carry();
    closed
}

/// Names of those whose tracks a player has in its slots, in the slots' order; `-` for an empty slot.
fn receives(world: &mut World, player: &Client) -> Vec<String> {
    let snapshot = world.engine.snapshot();
    let peers: Vec<_> = snapshot.rooms.iter().flat_map(|room| &room.peers).cloned().collect();
    let worker = world.worker();
    let mut slots: Vec<_> = worker.slots.values().filter(|slot| slot.peer == player.peer.unwrap()).copied().collect();
    slots.sort_by_key(|slot| slot.slot.index);
    let name = |slot: &proto::plane::SlotOpen| {
        let route = worker.routes.values().find(|route| route.slot == slot.slot)?;
        let owner = worker.streams[&route.stream.index].peer;
        // The room lists its members in the order of joining, and so are ids given out on one worker here.
        let mut owners: Vec<u32> = worker.peers.keys().copied().collect();
        owners.sort_unstable();
        Some(peers[owners.iter().position(|index| *index == owner.index)?].info.name.clone())
    };
    slots.iter().map(|slot| name(slot).unwrap_or_else(|| "-".into())).collect()
}

#[test]
fn it_is_a_member_like_any_other_and_leaves_when_it_is_deleted() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    world.drain(ada.socket);
    let (_, resource) = joined(&mut world, publisher("Encoder"), &[], PAIR);
    let told = world.drain(ada.socket);
    assert!(told.iter().any(|s| matches!(s, ServerSignal::PeerJoined { peer } if peer.name == "Encoder")), "{told:?}");
    assert!(told.iter().any(|s| matches!(s, ServerSignal::Slots { slots } if world::carried(slots).len() == 2)));
    assert!(matches!(close(&mut world, &resource), Ok(ResourceReply::Closed)));
    let told = world.drain(ada.socket);
    assert!(told.iter().any(|s| matches!(s, ServerSignal::PeerLeft { reason: LeaveReason::Left, .. })), "{told:?}");
    assert_eq!(world.worker().peers.len(), 1);
    assert!(matches!(close(&mut world, &resource), Ok(ResourceReply::Closed)), "asked again for want of an answer");
    assert_eq!(world.drain(ada.socket), [], "nobody is told twice");
}

#[test]
fn a_delete_that_comes_after_the_end_is_answered_for_a_minute() {
    let mut world = World::new();
    let (client, resource) = joined(&mut world, publisher("Encoder"), &[], PAIR);
    // The client closes its connection (RFC 8446 §6.1) and then its resource.
    let mut client = client;
    client.dtls.as_mut().unwrap().close();
    world.exchange(&mut client);
    assert!(world.worker().peers.is_empty());
    let elsewhere = ResourceRequest::Close { room: "red".into(), resource: resource.clone() };
    assert_eq!(world.ask(elsewhere).unwrap_err(), ResourceError::UnknownResource);
    let fragment = parse_fragment("a=ice-ufrag:later\r\na=ice-pwd:0123456789012345678901\r\n").unwrap();
    let restart = ResourceRequest::Restart { room: "blue".into(), resource: resource.clone(), fragment };
    assert_eq!(world.ask(restart).unwrap_err(), ResourceError::UnknownResource, "there is nothing to change");
    assert!(matches!(close(&mut world, &resource), Ok(ResourceReply::Closed)));
    world.pass(Duration::from_secs(59));
    assert!(matches!(close(&mut world, &resource), Ok(ResourceReply::Closed)));
    world.pass(Duration::from_secs(1));
    assert_eq!(close(&mut world, &resource).unwrap_err(), ResourceError::UnknownResource);
}

#[test]
fn it_lives_as_long_as_its_consent_and_no_longer() {
    let mut world = World::new();
    let (client, resource) = joined(&mut world, publisher("Encoder"), &[], PAIR);
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.worker().peers.len(), 1);
    world.expire(&client);
    assert!(world.worker().peers.is_empty() && world.journal.is_empty());
    assert!(matches!(close(&mut world, &resource), Ok(ResourceReply::Closed)), "a late DELETE gets what it asks for");
}

#[test]
fn who_does_not_complete_ice_and_dtls_in_time_is_let_go() {
    let mut world = World::new();
    let (_, resource) = open(&mut world, publisher("Encoder"), &[], PAIR).unwrap();
    world.pass(Duration::from_secs(11));
    assert!(world.worker().peers.is_empty());
    assert!(matches!(close(&mut world, &resource), Ok(ResourceReply::Closed)));
}

#[test]
fn everybody_is_filled_into_what_the_offer_can_receive() {
    let mut world = World::new();
    joined(&mut world, publisher("Ada"), &[], PAIR);
    joined(&mut world, publisher("Bob"), &[], PAIR);
    let (two, _) = joined(&mut world, player("Player"), &[], PAIR);
    assert_eq!(receives(&mut world, &two), ["Ada", "Ada"]);
    let (page, _) = joined(&mut world, player("Wall"), &[], PAGE);
    let slots = receives(&mut world, &page);
    assert_eq!((slots.len(), slots.iter().filter(|name| *name != "-").count()), (15, 4), "{slots:?}");
    joined(&mut world, publisher("Cyd"), &[], PAIR);
    assert_eq!(receives(&mut world, &page).iter().filter(|name| *name == "Cyd").count(), 2, "later arrivals too");
    assert_eq!(receives(&mut world, &two), ["Ada", "Ada"]);
    assert!(world.worker().refused.is_empty());
}

#[test]
fn named_peers_are_received_in_their_order_and_nobody_else() {
    let mut world = World::new();
    let pairs = PAIR.to_owned();
    joined(&mut world, publisher("Ada"), &[], &pairs);
    let (_, bob) = joined(&mut world, publisher("Bob"), &[], &pairs);
    let (page, _) = joined(&mut world, player("Wall"), &["Cyd", "Bob"], PAGE);
    // Seven audio slots, then eight of video: the first of each kind is Cyd's, who is not there, the second is Bob's.
    let filled = |slots: &[String]| -> Vec<(usize, String)> {
        slots.iter().cloned().enumerate().filter(|(_, name)| name != "-").collect()
    };
    assert_eq!(filled(&receives(&mut world, &page)), [(1, "Bob".to_owned()), (8, "Bob".to_owned())]);
    let (former, _) = joined(&mut world, publisher("Cyd"), &[], &pairs);
    let both = [(0, "Cyd"), (1, "Bob"), (7, "Cyd"), (8, "Bob")].map(|(slot, name)| (slot, name.to_owned()));
    assert_eq!(filled(&receives(&mut world, &page)), both);
    // Cyd comes again after a crash, while the former is still there: the last one is meant.
    let (cyd, _) = joined(&mut world, publisher("Cyd"), &[], &pairs);
    let worker = world.worker();
    let carried = |peer| worker.routes.values().filter(|r| Some(worker.streams[&r.stream.index].peer) == peer).count();
    assert_eq!((carried(former.peer), carried(cyd.peer)), (0, 2));
    close(&mut world, &bob).unwrap();
    assert_eq!(world.worker().routes.len(), 2, "a free slot is kept for who is named");
    assert!(world.worker().refused.is_empty());
}

#[test]
fn a_successor_knows_it_by_the_hash_of_its_id_and_keeps_its_order() {
    let mut world = World::new();
    joined(&mut world, publisher("Ada"), &[], PAIR);
    let (_, encoder) = joined(&mut world, publisher("Bob"), &[], PAIR);
    let (player, resource) = joined(&mut world, player("Player"), &["Bob"], PAIR);
    for bytes in world.journal.values() {
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(!text.contains(&resource) && !text.contains(&encoder), "the id is a secret");
    }
    world.restart_controlplane();
    assert_eq!(receives(&mut world, &player), ["Bob", "Bob"]);
    // Nobody resumes it, so no deadline ends it.
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.worker().peers.len(), 3);
    // The successor restarts ICE under what its predecessor issued.
    let fragment = parse_fragment("a=ice-ufrag:later\r\na=ice-pwd:0123456789012345678901\r\n").unwrap();
    let ask = ResourceRequest::Restart { room: "blue".into(), resource: resource.clone(), fragment };
    let Ok(ResourceReply::Restarted { tag, .. }) = world.ask(ask) else { panic!("a restart") };
    world.carry();
    let index = player.peer.unwrap().index;
    assert_eq!(world.worker().peers[&index].open.ufrag, tag.as_bytes());
    assert!(world.worker().peers[&index].tx.is_some());
    close(&mut world, &resource).unwrap();
    close(&mut world, &encoder).unwrap();
    assert_eq!(world.worker().peers.len(), 1);
    assert!(world.worker().refused.is_empty());
}

#[test]
fn a_socket_cannot_take_a_resource_over_nor_a_door_a_session() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let (_, resource) = joined(&mut world, publisher("Encoder"), &[], PAIR);
    assert_eq!(close(&mut world, &ada.session).unwrap_err(), ResourceError::UnknownResource);
    let socket = world.open("blue", grant("Eve"));
    world.drain(socket);
    world.say(socket, ClientSignal::Resume { session: resource.clone() });
    assert_eq!(error_of(world.next(socket)), (ErrorCode::UnknownSession, false));
    let elsewhere = ResourceRequest::Close { room: "red".into(), resource };
    assert_eq!(world.ask(elsewhere).unwrap_err(), ResourceError::UnknownResource);
    assert_eq!(world.worker().peers.len(), 2);
}

#[test]
fn limits_hold_for_doors_too() {
    let mut world = World::new();
    let code = |denial| match denial {
        ResourceError::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    };
    let names: Vec<String> = (0..17).map(|k| format!("peer{k}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let refused = open(&mut world, player("Player"), &names, PAIR).err().unwrap();
    assert_eq!(code(refused), ErrorCode::TooMuch);
    for _ in 0..8 {
        open(&mut world, publisher("Encoder"), &[], PAIR).unwrap();
    }
    let refused = open(&mut world, publisher("Encoder"), &[], PAIR).err().unwrap();
    assert_eq!(code(refused), ErrorCode::RoomFull);
    assert_eq!(world.engine.snapshot().totals.offers_refused, 2);
}
