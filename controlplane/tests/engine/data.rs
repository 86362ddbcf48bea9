//! Messages between peers by their signalling sockets: acknowledged from end to end, over the death of a controlplane, and bounded.

use controlplane::engine::{Grant, OperatorError, OperatorRequest, Settings};
use proto::signal::{
    ClientSignal, DataEndReason, DataReceived, DataSent, ErrorCode, LeaveReason, MESSAGE_LEN_MAX, ServerSignal,
};

use crate::world::{Client, PAGE, World, error_of, grant, page_tracks};

fn sent(id: u64, text: &str) -> DataSent {
    DataSent {
        label: "l".into(),
        to: None,
        reliable: true,
        id: Some(id),
        text: Some(text.into()),
        binary: None,
        more: false,
    }
}

fn sends(name: &str) -> Grant {
    Grant { data: true, ..grant(name) }
}

fn enter(world: &mut World, grant: Grant) -> Client {
    let mut client = world.guest("blue", grant);
    world.offer(&mut client, PAGE, page_tracks()).unwrap();
    world.connect(&mut client);
    client
}

/// Joins and says, as the client module does, that it acknowledges.
fn join(world: &mut World, name: &str) -> Client {
    let client = enter(world, sends(name));
    world.say(client.socket, ClientSignal::DataAck { from: None, id: 0 });
    client
}

fn three(world: &mut World) -> [Client; 3] {
    let clients = ["Ada", "Bob", "Cyd"].map(|name| join(world, name));
    clients.iter().for_each(|client| drop(world.drain(client.socket)));
    clients
}

fn ack(world: &mut World, client: &Client, from: &Client, id: u64) {
    world.say(client.socket, ClientSignal::DataAck { from: Some(from.id.clone()), id });
}

/// The numbers and texts of the messages that came.
fn received(world: &mut World, client: &Client) -> Vec<(Option<u64>, String)> {
    let data = world.drain(client.socket).into_iter().filter_map(|signal| match signal {
        ServerSignal::Data(DataReceived { id, text, .. }) => Some((id, text.unwrap_or_default())),
        _ => None,
    });
    data.collect()
}

/// What a sender was told that all have.
fn acked(world: &mut World, client: &Client) -> Vec<u64> {
    let acked = world.drain(client.socket).into_iter().filter_map(|signal| match signal {
        ServerSignal::DataAcked { id } => Some(id),
        _ => None,
    });
    acked.collect()
}

#[test]
fn a_message_is_acknowledged_when_all_have_it() {
    let mut world = World::new();
    let [ada, bob, cyd] = three(&mut world);
    world.say(ada.socket, ClientSignal::Data(Box::new(sent(1, "hello"))));
    let expected = ServerSignal::Data(DataReceived {
        from: Some(ada.id.clone()),
        label: "l".into(),
        reliable: true,
        id: Some(1),
        text: Some("hello".into()),
        ..DataReceived::default()
    });
    assert_eq!((world.drain(bob.socket), world.drain(cyd.socket)), (vec![expected.clone()], vec![expected]));
    assert!(world.drain(ada.socket).is_empty(), "nothing comes back, and nobody has it for sure");
    ack(&mut world, &bob, &ada, 1);
    assert!(acked(&mut world, &ada).is_empty());
    ack(&mut world, &cyd, &ada, 1);
    assert_eq!(acked(&mut world, &ada), [1]);

    world.say(ada.socket, ClientSignal::Data(Box::new(sent(2, "again"))));
    ack(&mut world, &bob, &ada, 2);
    world.say(cyd.socket, ClientSignal::Leave {});
    assert_eq!(acked(&mut world, &ada), [2], "who has left is not waited for");

    world.say(ada.socket, ClientSignal::Data(Box::new(sent(2, "again"))));
    assert_eq!(acked(&mut world, &ada), [2], "what is said again is told again");
    assert_eq!(received(&mut world, &bob).len(), 1);
}

#[test]
fn a_message_comes_to_those_whom_it_names_and_alone_to_nobody() {
    let mut world = World::new();
    let [ada, bob, cyd] = three(&mut world);
    let to = Some(vec![cyd.id.clone(), "nobody".into()]);
    world.say(ada.socket, ClientSignal::Data(Box::new(DataSent { to, ..sent(1, "for Cyd") })));
    assert!(received(&mut world, &bob).is_empty());
    assert_eq!(received(&mut world, &cyd), [(Some(1), "for Cyd".into())]);
    let lossy = DataSent { reliable: false, id: None, ..sent(0, "now") };
    world.say(ada.socket, ClientSignal::Data(Box::new(lossy)));
    assert_eq!(received(&mut world, &bob), [(None, "now".into())]);
    ack(&mut world, &cyd, &ada, 1);
    world.say(ada.socket, ClientSignal::Data(Box::new(DataSent { to: Some(vec![]), ..sent(2, "") })));
    assert_eq!(acked(&mut world, &ada), [1, 2], "nobody is to have it, so all have");
}

#[test]
fn what_was_not_acknowledged_is_said_again_to_a_successor_and_comes_once() {
    let mut world = World::new();
    let [mut ada, mut bob, mut cyd] = three(&mut world);
    for id in 1..=3 {
        world.say(ada.socket, ClientSignal::Data(Box::new(sent(id, "text"))));
    }
    assert_eq!((received(&mut world, &bob).len(), received(&mut world, &cyd).len()), (3, 3));
    ack(&mut world, &bob, &ada, 3);
    ack(&mut world, &cyd, &ada, 1);
    assert_eq!(acked(&mut world, &ada), [1]);

    world.restart_controlplane();
    for client in [&mut ada, &mut bob] {
        client.socket = world.open("blue", grant("whoever"));
        world.say(client.socket, ClientSignal::Resume { session: client.session.clone() });
        let told = world.drain(client.socket);
        let is_by_socket =
            |s: &ServerSignal| matches!(s, ServerSignal::Welcome { data_channels: false, may_send_data: true, .. });
        assert!(told.iter().any(is_by_socket), "{told:?}");
    }
    for id in 2..=4 {
        world.say(ada.socket, ClientSignal::Data(Box::new(sent(id, "text"))));
    }
    // Bob knows by the numbers what it has; the edge does not.
    assert_eq!(received(&mut world, &bob).iter().map(|(id, _)| id.unwrap()).collect::<Vec<_>>(), [2, 3, 4]);
    ack(&mut world, &bob, &ada, 4);
    assert!(acked(&mut world, &ada).is_empty(), "Cyd is not back");
    cyd.socket = world.open("blue", grant("whoever"));
    world.say(cyd.socket, ClientSignal::Resume { session: cyd.session.clone() });
    assert_eq!(received(&mut world, &cyd).iter().map(|(id, _)| id.unwrap()).collect::<Vec<_>>(), [2, 3, 4]);
    ack(&mut world, &cyd, &ada, 4);
    assert_eq!(acked(&mut world, &ada), [4]);
}

#[test]
fn who_is_slow_holds_up_nobody_and_is_told_what_it_lost() {
    let mut world = World::new();
    let [ada, bob, cyd] = three(&mut world);
    let text = "x".repeat(40_000);
    let mut given_up = Vec::new();
    for id in 1..=40 {
        world.say(ada.socket, ClientSignal::Data(Box::new(sent(id, &text))));
        assert_eq!(received(&mut world, &bob), [(Some(id), text.clone())]);
        ack(&mut world, &bob, &ada, id);
        // Cyd reads, and acknowledges nothing.
        given_up.extend(world.drain(cyd.socket).into_iter().filter(|s| matches!(s, ServerSignal::DataEnded { .. })));
    }
    let slow = ServerSignal::DataEnded { reason: DataEndReason::Slow };
    assert_eq!(given_up, vec![slow; 2], "512 KiB are 13 of them");
    let told = acked(&mut world, &ada);
    assert!(told.last().is_some_and(|last| *last >= 26), "{told:?}");
    assert_eq!(world.engine.snapshot().totals.data_given_up, 2);
}

#[test]
fn a_sender_that_does_not_wait_is_refused_and_nothing_of_it_is_reordered() {
    let mut world = World::new();
    let [ada, bob, _cyd] = three(&mut world);
    for id in 1..=600 {
        world.say(ada.socket, ClientSignal::Data(Box::new(sent(id, ""))));
    }
    let told = world.drain(ada.socket);
    let refused: Vec<_> = told.into_iter().map(error_of).collect();
    assert_eq!(refused, [(ErrorCode::TooMuch, false)], "once: what is behind the refused one is out of order");
    let mut all = Vec::new();
    for _ in 0..4 {
        let came: Vec<_> = received(&mut world, &bob).into_iter().filter_map(|(id, _)| id).collect();
        assert_eq!(came.len(), 128, "as many are on their way to a socket; the others wait for its acknowledgement");
        ack(&mut world, &bob, &ada, *came.last().unwrap());
        all.extend(came);
    }
    assert_eq!(all, Vec::from_iter(1..=512));
    assert!(received(&mut world, &bob).is_empty());
}

#[test]
fn what_is_not_allowed_or_not_well_formed_is_refused() {
    let mut world = World::new();
    let mute = enter(&mut world, grant("Mute"));
    let bob = join(&mut world, "Bob");
    let mut refusal = |client: &Client, data: DataSent| {
        world.drain(client.socket);
        world.say(client.socket, ClientSignal::Data(Box::new(data)));
        error_of(world.next(client.socket))
    };
    let refused = (ErrorCode::DataRefused, false);
    assert_eq!(refusal(&mute, sent(1, "")), refused, "its token has not the right");
    assert_eq!(refusal(&bob, DataSent { id: None, ..sent(1, "") }), refused);
    assert_eq!(refusal(&bob, DataSent { label: "x".repeat(65), ..sent(1, "") }), refused);
    assert_eq!(refusal(&bob, DataSent { to: Some(vec![String::new(); 65]), ..sent(1, "") }), refused);
    assert_eq!(refusal(&bob, DataSent { text: None, binary: Some("%".into()), ..sent(1, "") }), refused);
    assert_eq!(refusal(&bob, DataSent { text: None, ..sent(1, "") }), refused);

    let mut world = World::with(Settings { data_bps_max: 0, ..Settings::default() }, 1);
    let bob = join(&mut world, "Bob");
    world.drain(bob.socket);
    world.say(bob.socket, ClientSignal::Data(Box::new(sent(1, ""))));
    assert_eq!(error_of(world.next(bob.socket)), refused);
}

#[test]
fn the_applications_server_sends_to_all_or_to_some() {
    let mut world = World::new();
    let [ada, bob, _cyd] = three(&mut world);
    let request = |to: Option<Vec<String>>, said| OperatorRequest::SendData {
        room: "blue".into(),
        to,
        label: "news".into(),
        is_reliable: true,
        said,
    };
    world.operate(request(None, Ok("all".into()))).unwrap();
    world.operate(request(Some(vec![bob.id.clone()]), Err(vec![1, 2, 3]))).unwrap();
    let (of_ada, of_bob) = (world.drain(ada.socket), world.drain(bob.socket));
    assert!(matches!(&of_ada[..], [ServerSignal::Data(DataReceived { from: None, .. })]), "{of_ada:?}");
    let [ServerSignal::Data(first), ServerSignal::Data(second)] = &of_bob[..] else { panic!("{of_bob:?}") };
    assert_eq!((first.text.as_deref(), second.binary.as_deref()), (Some("all"), Some("AQID")));
    assert!(second.id > first.id);
    let nowhere = OperatorRequest::SendData {
        room: "red".into(),
        to: None,
        label: String::new(),
        is_reliable: false,
        said: Ok(String::new()),
    };
    assert_eq!(world.operate(nowhere), Err(OperatorError::NoRoom));
}

#[test]
fn the_longest_message_comes_in_parts_both_ways() {
    let mut world = World::new();
    let [ada, bob, _cyd] = three(&mut world);
    let text = "é".repeat(MESSAGE_LEN_MAX / 2);
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.len().min(48 * 1024));
        parts.push(DataSent { more: !after.is_empty(), ..sent(1, part) });
        rest = after;
    }
    for part in parts {
        world.say(ada.socket, ClientSignal::Data(Box::new(part)));
    }
    let whole: String = received(&mut world, &bob).into_iter().map(|(_, text)| text).collect();
    assert!(whole == text);
    world.say(ada.socket, ClientSignal::Data(Box::new(DataSent { more: true, ..sent(2, "begun") })));
    world.say(ada.socket, ClientSignal::Leave {});
    assert!(received(&mut world, &bob).is_empty(), "what is not whole is not relayed");
    assert!(world.drain(bob.socket).is_empty());
}

#[test]
fn who_is_moved_gets_messages_of_its_new_room_alone() {
    let mut world = World::new();
    let [ada, bob, cyd] = three(&mut world);
    let to = OperatorRequest::MovePeer { room: "blue".into(), peer: cyd.id.clone(), to: "red".into() };
    world.say(ada.socket, ClientSignal::Data(Box::new(sent(1, "before"))));
    ack(&mut world, &bob, &ada, 1);
    world.operate(to).unwrap();
    assert_eq!(acked(&mut world, &ada), [1], "it has left this room");
    world.drain(cyd.socket);
    world.say(ada.socket, ClientSignal::Data(Box::new(sent(2, "after"))));
    assert!(received(&mut world, &cyd).is_empty());
    let left = |s: &ServerSignal| matches!(s, ServerSignal::PeerLeft { reason: LeaveReason::Moved, .. });
    assert!(world.drain(bob.socket).iter().any(left));
}
