//! Peers that are gone without a word, in virtual time: who takes their place, who does not, and what the others are told.

use std::time::Duration;

use controlplane::engine::{
    Engine, Grant, OperatorRequest, ResourceError, ResourceReply, ResourceRequest, RoomPolicy, Settings,
};
use proto::plane::{Event, PeerResumed, StreamResumed};
use proto::signal::{ClientSignal, ErrorCode, PeerState, ServerSignal};

use crate::world::{self, Client, PAGE, World, grant, is_state, page_tracks};

/// A microphone and a camera, each both ways.
const PAIR: &str = include_str!("../offers/chromium_sendrecv.sdp");

/// Who comes by this token.
fn by(token: &str, name: &str) -> Grant {
    Grant { token: Some(token.into()), ..grant(name) }
}

fn room_of(peers_max: u32) -> World {
    World::with(Settings { peers_max, ..Settings::default() }, 1)
}

/// The whole way of a browser, or why it is refused.
fn come(world: &mut World, room: &str, grant: Grant) -> Result<Client, ErrorCode> {
    let mut client = world.guest(room, grant);
    world.offer(&mut client, PAGE, page_tracks())?;
    world.connect(&mut client);
    Ok(client)
}

/// The tab of a client crashes: the kernel closes its socket, and nothing comes any more.
fn crash(world: &mut World, client: &Client) {
    world.close(client.socket);
}

/// A resource, connected.
fn resource(world: &mut World, grant: Grant) -> Result<(Client, String), ResourceError> {
    let mut client = world.guest("elsewhere", grant.clone());
    world.close(client.socket);
    let sdp = world::with_fingerprint(PAIR, &client.identity);
    let reply = world.ask(ResourceRequest::Open { room: "blue".into(), grant, from: Vec::new(), sdp })?;
    world.carry();
    let ResourceReply::Opened { resource, sdp, tag, .. } = reply else { panic!("{reply:?}") };
    client.answer = sdp;
    let opens = world.worker().peers.values().map(|peer| peer.open);
    client.peer = opens.filter(|open| open.ufrag == tag.as_bytes()).map(|open| open.peer).next();
    world.connect(&mut client);
    Ok((client, resource))
}

fn encoder(token: &str, name: &str) -> Grant {
    Grant { subscribe: false, ..by(token, name) }
}

fn player(token: &str, name: &str) -> Grant {
    Grant { publish: false, ..by(token, name) }
}

/// Who is in a room, by id.
fn ids(engine: &Engine, name: &str) -> Vec<String> {
    let snapshot = engine.snapshot();
    let room = snapshot.rooms.iter().find(|room| room.room == name);
    room.map(|room| room.peers.iter().map(|peer| peer.info.peer.clone()).collect()).unwrap_or_default()
}

/// Who came and left as a socket was told it, in order: `+name` and `-reason`.
fn comings(world: &mut World, socket: u64) -> Vec<String> {
    let told = world.drain(socket).into_iter().filter_map(|signal| match signal {
        ServerSignal::PeerJoined { peer } => Some(format!("+{}", peer.name)),
        ServerSignal::PeerLeft { reason, .. } => Some(format!("-{}", serde_json::to_value(reason).unwrap())),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_crashed_tab_opened_again_by_its_link_takes_its_own_place_at_once() {
    let mut world = room_of(2);
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    let bob = come(&mut world, "blue", by("b", "Bob")).unwrap();
    world.drain(bob.socket);
    assert!(world.engine.may_join("blue", &by("a", "Ada")).is_err(), "a second tab of hers is one too many");
    crash(&mut world, &ada);
    assert_eq!(world.engine.may_join("blue", &by("a", "Ada")), Ok(()), "as the page asks before its camera");
    assert!(world.engine.may_join("blue", &by("e", "Eve")).is_err());
    world.pass(Duration::from_millis(300));
    let again = come(&mut world, "blue", by("a", "Ada")).expect("its own place is free");
    assert_eq!(comings(&mut world, bob.socket), ["-\"replaced\"", "+Ada"], "never two of them");
    assert_eq!(ids(&world.engine, "blue"), [bob.id.clone(), again.id.clone()]);
    assert_eq!((world.worker().peers.len(), world.journal.len()), (2, 2));
    assert_eq!(world.engine.snapshot().totals.replaced, 1);
    assert!(world.worker().refused.is_empty());
}

#[test]
fn where_there_is_room_the_crashed_one_is_replaced_all_the_same() {
    let mut world = World::new();
    let bob = come(&mut world, "blue", by("b", "Bob")).unwrap();
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    world.drain(bob.socket);
    crash(&mut world, &ada);
    let again = come(&mut world, "blue", by("a", "Ada")).unwrap();
    assert_eq!(comings(&mut world, bob.socket), ["-\"replaced\"", "+Ada"]);
    assert_eq!(ids(&world.engine, "blue"), [bob.id, again.id]);
}

#[test]
fn two_tabs_of_one_link_are_two_peers() {
    let mut world = World::new();
    let first = come(&mut world, "blue", by("a", "Ada")).unwrap();
    let second = come(&mut world, "blue", by("a", "Ada")).unwrap();
    world.fall_silent(&first);
    world.pass(Duration::from_secs(5));
    assert_eq!(ids(&world.engine, "blue"), [first.id, second.id], "as long as both have their socket");
}

#[test]
fn who_only_lost_the_socket_is_not_thrown_out_for_a_stranger_and_resumes() {
    let mut world = room_of(2);
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    come(&mut world, "blue", by("b", "Bob")).unwrap();
    crash(&mut world, &ada);
    world.pass(Duration::from_secs(2));
    assert_eq!(come(&mut world, "blue", by("e", "Eve")).err(), Some(ErrorCode::RoomFull));
    // Nor when its media falters for a moment.
    world.streams_silent(&ada);
    assert_eq!(come(&mut world, "blue", by("e", "Eve")).err(), Some(ErrorCode::RoomFull));
    let socket = world.open("blue", by("a", "Ada"));
    world.drain(socket);
    world.say(socket, ClientSignal::Resume { session: ada.session.clone() });
    assert!(matches!(world.next(socket), ServerSignal::Welcome { resumed: true, .. }));
    world.fall_silent(&ada);
    assert_eq!(come(&mut world, "blue", by("e", "Eve")).err(), Some(ErrorCode::RoomFull), "it has a socket");
}

#[test]
fn who_has_neither_socket_nor_media_gives_way_to_a_newcomer_who_would_be_refused() {
    let mut world = room_of(2);
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    let bob = come(&mut world, "blue", by("b", "Bob")).unwrap();
    crash(&mut world, &ada);
    world.fall_silent(&ada);
    world.drain(bob.socket);
    assert_eq!(world.engine.may_join("blue", &by("e", "Eve")), Ok(()));
    let eve = come(&mut world, "blue", by("e", "Eve")).expect("Ada gives way");
    assert_eq!(comings(&mut world, bob.socket), ["-\"timed_out\"", "+Eve"]);
    assert_eq!(ids(&world.engine, "blue"), [bob.id, eve.id]);
    assert_eq!(world.engine.snapshot().totals.gave_way, 1);
    // Ada was only in a tunnel: her session is gone, and her client offers anew.
    let socket = world.open("blue", by("a", "Ada"));
    world.drain(socket);
    world.say(socket, ClientSignal::Resume { session: ada.session });
    assert_eq!(world::error_of(world.next(socket)), (ErrorCode::UnknownSession, false));
}

#[test]
fn nobody_gives_way_where_nobody_is_refused() {
    let mut world = World::new();
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    crash(&mut world, &ada);
    world.fall_silent(&ada);
    let eve = come(&mut world, "blue", by("e", "Eve")).unwrap();
    assert_eq!(ids(&world.engine, "blue"), [ada.id.clone(), eve.id.clone()]);
    world.silence(0, PeerResumed { peer: ada.peer.unwrap() }.into());
    world.streams_resume(&ada);
    assert_eq!(ids(&world.engine, "blue"), [ada.id, eve.id], "and it may be back");
}

#[test]
fn a_peer_that_is_heard_again_gives_way_no_more() {
    let mut world = room_of(1);
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    crash(&mut world, &ada);
    world.fall_silent(&ada);
    world.silence(0, PeerResumed { peer: ada.peer.unwrap() }.into());
    assert_eq!(come(&mut world, "blue", by("e", "Eve")).err(), Some(ErrorCode::RoomFull));
}

#[test]
fn the_socket_of_a_vanished_machine_is_probed_and_its_client_is_told_while_it_may_hear_it() {
    let mut world = room_of(1);
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    world.drain(ada.socket);
    world.fall_silent(&ada);
    assert_eq!(world.probed, [ada.socket], "once");
    assert!(world.drain(ada.socket).iter().any(|signal| is_state(signal, PeerState::Interrupted)));
    assert_eq!(world.engine.snapshot().rooms[0].peers[0].state, PeerState::Interrupted);
    assert_eq!(come(&mut world, "blue", by("e", "Eve")).err(), Some(ErrorCode::RoomFull));
    world.silence(0, PeerResumed { peer: ada.peer.unwrap() }.into());
    assert!(world.drain(ada.socket).iter().any(|signal| is_state(signal, PeerState::Connected)));
    assert_eq!(world.engine.snapshot().rooms[0].peers[0].state, PeerState::Connected);
    // Nobody answered: the door closes the socket.
    world.fall_silent(&ada);
    world.close(ada.socket);
    come(&mut world, "blue", by("e", "Eve")).expect("it is gone");
}

#[test]
fn a_name_alone_needs_silence_and_both_stay_until_then() {
    let mut world = World::new();
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    let bob = come(&mut world, "blue", by("b", "Bob")).unwrap();
    crash(&mut world, &ada);
    // An application makes a token for each visit.
    let again = come(&mut world, "blue", by("a2", "Ada")).unwrap();
    assert_eq!(ids(&world.engine, "blue").len(), 3, "it may be another of that name");
    world.drain(bob.socket);
    world.pass(Duration::from_secs(2));
    world.streams_silent(&ada);
    assert_eq!(comings(&mut world, bob.socket), ["-\"replaced\""]);
    assert_eq!(ids(&world.engine, "blue"), [bob.id, again.id]);
}

#[test]
fn a_link_that_was_given_to_several_says_little_of_who_somebody_is() {
    let mut world = World::new();
    let guests: Vec<Client> = (0..3).map(|_| come(&mut world, "blue", by("open", "Guest")).unwrap()).collect();
    // One's socket is lost for a moment, while another guest comes.
    crash(&mut world, &guests[0]);
    come(&mut world, "blue", by("open", "Guest")).unwrap();
    assert_eq!(ids(&world.engine, "blue").len(), 4);
    world.pass(Duration::from_secs(30));
    crash(&mut world, &guests[1]);
    world.streams_silent(&guests[1]);
    assert_eq!(ids(&world.engine, "blue").len(), 4, "nobody has come in its place");
    come(&mut world, "blue", by("open", "Guest")).unwrap();
    assert_eq!(ids(&world.engine, "blue").len(), 4);
    assert!(!ids(&world.engine, "blue").contains(&guests[1].id));
}

#[test]
fn an_encoder_that_was_killed_is_replaced_when_it_is_back() {
    let mut world = World::new();
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    let (former, former_resource) = resource(&mut world, encoder("e", "OBS")).unwrap();
    world.drain(ada.socket);
    // Back before anybody knows that it was gone.
    resource(&mut world, encoder("e", "OBS")).unwrap();
    assert_eq!(comings(&mut world, ada.socket), ["+OBS"]);
    world.pass(Duration::from_secs(2));
    world.streams_silent(&former);
    assert_eq!(comings(&mut world, ada.socket), ["-\"replaced\""]);
    assert_eq!(ids(&world.engine, "blue").len(), 2);
    let close = ResourceRequest::Close { room: "blue".into(), resource: former_resource };
    assert!(matches!(world.ask(close), Ok(ResourceReply::Closed)), "its DELETE is answered all the same");
}

#[test]
fn an_encoder_that_is_back_later_finds_its_former_gone_with_its_offer() {
    let mut world = room_of(2);
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    let (former, _) = resource(&mut world, encoder("e", "OBS")).unwrap();
    world.drain(ada.socket);
    world.streams_silent(&former);
    resource(&mut world, encoder("e", "OBS")).expect("the room is not full with it");
    assert_eq!(comings(&mut world, ada.socket), ["-\"replaced\"", "+OBS"]);
}

#[test]
fn two_encoders_of_one_token_and_name_that_both_send_are_two_peers() {
    let mut world = World::new();
    resource(&mut world, encoder("e", "OBS")).unwrap();
    resource(&mut world, encoder("e", "OBS")).unwrap();
    world.pass(Duration::from_secs(20));
    assert_eq!(ids(&world.engine, "blue").len(), 2);
}

#[test]
fn a_player_that_was_killed_is_known_by_its_silence() {
    let mut world = World::new();
    let (former, _) = resource(&mut world, player("p", "Wall")).unwrap();
    resource(&mut world, player("p", "Wall")).unwrap();
    assert_eq!(ids(&world.engine, "blue").len(), 2);
    world.pass(Duration::from_secs(8));
    world.fall_silent(&former);
    assert_eq!(ids(&world.engine, "blue").len(), 1);
}

#[test]
fn an_offer_that_is_no_good_throws_nobody_out() {
    let mut world = room_of(1);
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    crash(&mut world, &ada);
    world.fall_silent(&ada);
    for name in ["Ada", "Eve"] {
        let mut client = world.guest("blue", by("a", name));
        assert!(world.offer(&mut client, "v=0\r\nnonsense", page_tracks()).is_err());
    }
    assert_eq!(ids(&world.engine, "blue"), [ada.id]);
}

#[test]
fn a_locked_room_stays_as_it_is() {
    let mut world = World::new();
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    let policy = RoomPolicy { locked: true, ..RoomPolicy::default() };
    world.operate(OperatorRequest::SetRoom { room: "blue".into(), policy }).unwrap();
    crash(&mut world, &ada);
    world.fall_silent(&ada);
    assert_eq!(come(&mut world, "blue", by("a", "Ada")).err(), Some(ErrorCode::RoomLocked));
    assert!(world.engine.may_join("blue", &by("a", "Ada")).is_err());
    assert_eq!(ids(&world.engine, "blue"), [ada.id]);
}

#[test]
fn a_full_worker_and_a_full_server_make_room_as_well() {
    let settings = Settings { peers_per_worker_max: 2, ..Settings::default() };
    let mut world = World::with(settings, 1);
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    let bob = come(&mut world, "blue", by("b", "Bob")).unwrap();
    assert_eq!(come(&mut world, "red", by("c", "Cyd")).err(), Some(ErrorCode::ServerFull));
    crash(&mut world, &ada);
    world.fall_silent(&ada);
    come(&mut world, "red", by("c", "Cyd")).expect("Ada gives way to a peer of another room");
    assert_eq!(ids(&world.engine, "blue"), [bob.id]);

    let mut world = World::with(Settings { rooms_max: 1, ..Settings::default() }, 1);
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    let bob = come(&mut world, "blue", by("b", "Bob")).unwrap();
    crash(&mut world, &ada);
    world.fall_silent(&ada);
    assert_eq!(come(&mut world, "red", by("c", "Cyd")).err(), Some(ErrorCode::ServerFull), "Bob is in the room");
    assert!(world.engine.may_join("red", &by("c", "Cyd")).is_err());
    crash(&mut world, &bob);
    world.fall_silent(&bob);
    assert_eq!(world.engine.may_join("red", &by("c", "Cyd")), Ok(()));
    come(&mut world, "red", by("c", "Cyd")).expect("nobody is left in the other room");
    assert!(ids(&world.engine, "blue").is_empty());
    assert!(world.worker().refused.is_empty());
}

#[test]
fn after_a_restart_who_has_not_resumed_yet_is_nobodys_former_while_its_media_comes() {
    let mut world = World::new();
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    world.restart_controlplane();
    let second = come(&mut world, "blue", by("a", "Ada")).unwrap();
    assert_eq!(ids(&world.engine, "blue"), [ada.id.clone(), second.id.clone()]);
    let socket = world.open("blue", by("a", "Ada"));
    world.drain(socket);
    world.say(socket, ClientSignal::Resume { session: ada.session.clone() });
    assert!(matches!(world.next(socket), ServerSignal::Welcome { resumed: true, .. }));
    assert_eq!(ids(&world.engine, "blue"), [ada.id, second.id]);
}

#[test]
fn a_successor_of_the_controlplane_knows_who_is_silent() {
    let mut world = room_of(2);
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    let bob = come(&mut world, "blue", by("b", "Bob")).unwrap();
    world.fall_silent(&ada);
    world.restart_controlplane();
    let states: Vec<PeerState> = world.engine.snapshot().rooms[0].peers.iter().map(|peer| peer.state).collect();
    assert_eq!(states, [PeerState::Interrupted, PeerState::Connected]);
    let eve = come(&mut world, "blue", by("e", "Eve")).expect("Ada gives way");
    assert_eq!(ids(&world.engine, "blue"), [bob.id, eve.id]);
}

#[test]
fn what_was_lost_of_it_is_said_again() {
    let mut world = room_of(1);
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    crash(&mut world, &ada);
    world.fall_silent(&ada);
    // That it is back was lost with a full ring.
    let peer = ada.peer.unwrap();
    world.worker().note_silence(&Event::PeerResumed(PeerResumed { peer }));
    world.input(controlplane::engine::Input::Resync { worker: 0 });
    assert_eq!(come(&mut world, "blue", by("e", "Eve")).err(), Some(ErrorCode::RoomFull));
}

/// Whose tracks go into a peer's slots: owners of the routes' streams, by id.
fn received(world: &mut World, receiver: &Client) -> Vec<u32> {
    let worker = world.worker();
    let mut slots: Vec<_> = worker.slots.values().filter(|slot| slot.peer == receiver.peer.unwrap()).copied().collect();
    slots.sort_by_key(|slot| slot.slot.index);
    let owner = |slot: &proto::plane::SlotOpen| {
        let route = worker.routes.values().find(|route| route.slot == slot.slot)?;
        Some(worker.streams[&route.stream.index].peer.index)
    };
    slots.iter().filter_map(owner).collect()
}

#[test]
fn a_player_of_the_room_sees_the_live_one_and_not_what_is_left_of_the_former() {
    let mut world = World::new();
    let (former, _) = resource(&mut world, encoder("e1", "OBS")).unwrap();
    let (player_client, _) = resource(&mut world, player("p", "Wall")).unwrap();
    assert_eq!(received(&mut world, &player_client), [former.peer.unwrap().index; 2]);
    // Under another name and token, so that only its silence says that the first is gone.
    let (live, _) = resource(&mut world, encoder("e2", "Backup")).unwrap();
    assert_eq!(received(&mut world, &player_client), [former.peer.unwrap().index; 2], "both send: nobody is moved");
    world.streams_silent(&former);
    assert_eq!(received(&mut world, &player_client), [live.peer.unwrap().index; 2]);
    // Who comes now gets the live one, and nothing of the other, though it has slots to spare.
    let late = come(&mut world, "blue", by("l", "Late")).unwrap();
    assert_eq!(received(&mut world, &late), [live.peer.unwrap().index; 2]);
    // Heard again, it is shown where there is room, and takes nothing back.
    world.streams_resume(&former);
    assert_eq!(received(&mut world, &player_client), [live.peer.unwrap().index; 2]);
    assert_eq!(received(&mut world, &late).len(), 4);
    assert!(world.worker().refused.is_empty());
}

#[test]
fn silence_of_a_track_that_is_off_means_nothing() {
    let mut world = World::new();
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    let (player_client, _) = resource(&mut world, player("p", "Wall")).unwrap();
    world.say(ada.socket, ClientSignal::Track { mid: "1".into(), active: false });
    world.streams_silent(&ada);
    for stream in world.workers[&0].streams_of(ada.peer.unwrap()) {
        if world.workers[&0].streams[&stream.index].mid.as_bytes() == b"0" {
            world.silence(0, StreamResumed { stream }.into());
        }
    }
    let before = received(&mut world, &player_client);
    assert_eq!(before, [ada.peer.unwrap().index; 2]);
    let snapshot = world.engine.snapshot();
    assert_eq!(snapshot.rooms[0].peers[0].silent_tracks, [false; 3]);
    world.say(ada.socket, ClientSignal::Track { mid: "1".into(), active: true });
    assert_eq!(world.engine.snapshot().rooms[0].peers[0].silent_tracks, [false, true, false]);
}

#[test]
fn a_silent_track_keeps_its_slot_while_nobody_else_wants_it() {
    let mut world = World::new();
    let ada = come(&mut world, "blue", by("a", "Ada")).unwrap();
    let bob = come(&mut world, "blue", by("b", "Bob")).unwrap();
    let before = received(&mut world, &bob);
    world.drain(bob.socket);
    world.fall_silent(&ada);
    assert_eq!(received(&mut world, &bob), before);
    assert_eq!(world.drain(bob.socket), [], "nobody is told anything");
}
