//! How clients show the videos of others: what they say becomes part of the slots on their worker, and stays over a resume, another
//! slot, another worker's death and another controlplane.

use proto::plane::{RouteOpen, SHOWN_LINES_ANY, weight};
use proto::signal::{ClientSignal, ErrorCode, ServerSignal, ShownVideo, Source};

use crate::world::{Client, World, error_of, grant};

fn video(of: &Client, source: Source, lines: Option<u16>, pinned: bool) -> ShownVideo {
    ShownVideo { peer: of.id.clone(), source, lines, pinned }
}

fn camera(of: &Client, lines: u16) -> ShownVideo {
    video(of, Source::Camera, Some(lines), false)
}

fn show(world: &mut World, client: &Client, videos: &[ShownVideo]) {
    world.say(client.socket, ClientSignal::Shown { videos: videos.to_vec() });
}

/// Lines and weight of what a client's worker knows of the slot in which it receives a video of another one.
fn shown(world: &World, client: &Client, of: &Client, source: Source) -> Option<(u16, u8)> {
    let worker = &world.workers[&client.worker];
    let mid = if source == Source::Camera { "1" } else { "2" };
    let stream = worker.streams.values().find(|open| Some(open.peer) == of.peer && open.mid.as_str() == mid);
    let stream = stream.expect("it is open").stream;
    let is_its =
        |route: &&RouteOpen| route.stream == stream && Some(worker.slots[&route.slot.index].peer) == client.peer;
    let slot = worker.routes.values().find(is_its).expect("it is received").slot;
    worker.shown.get(&slot.index).filter(|shown| shown.slot == slot).map(|shown| (shown.lines, shown.weight))
}

#[test]
fn a_worker_is_told_how_large_its_receivers_show_what() {
    let mut world = World::new();
    let [ada, bob, cyd] = ["Ada", "Bob", "Cyd"].map(|name| world.join("blue", name));
    assert_eq!(shown(&world, &ada, &bob, Source::Camera), None, "nothing needs to be told");
    show(&mut world, &ada, &[camera(&bob, 180), video(&cyd, Source::Camera, Some(720), true)]);
    assert_eq!(shown(&world, &ada, &bob, Source::Camera), Some((180, weight::OTHER)));
    assert_eq!(shown(&world, &ada, &cyd, Source::Camera), Some((720, weight::PINNED)));
    assert_eq!(shown(&world, &bob, &cyd, Source::Camera), None, "it is Ada's alone");
    show(&mut world, &ada, &[video(&bob, Source::Camera, None, true), camera(&cyd, 0)]);
    assert_eq!(shown(&world, &ada, &bob, Source::Camera), Some((SHOWN_LINES_ANY, weight::PINNED)));
    assert_eq!(shown(&world, &ada, &cyd, Source::Camera), Some((0, weight::OTHER)));
    let batches = world.worker().batches.len();
    show(&mut world, &ada, &[video(&bob, Source::Camera, None, true), camera(&cyd, 0)]);
    assert_eq!(world.worker().batches.len(), batches, "the same again is nothing");
    show(&mut world, &ada, &[]);
    assert_eq!(shown(&world, &ada, &cyd, Source::Camera), Some((SHOWN_LINES_ANY, weight::OTHER)));
    assert!(world.worker().refused.is_empty());
}

#[test]
fn a_screen_weighs_most_and_whatever_is_said_goes_with_the_video() {
    let mut world = World::new();
    let [ada, bob] = ["Ada", "Bob"].map(|name| world.join("blue", name));
    show(&mut world, &ada, &[camera(&bob, 90), video(&bob, Source::Screen, Some(1080), true)]);
    world.say(bob.socket, ClientSignal::Track { mid: "2".into(), active: true });
    assert_eq!(shown(&world, &ada, &bob, Source::Screen), Some((1080, weight::SCREEN)), "it was said before it came");
    assert_eq!(shown(&world, &ada, &bob, Source::Camera), Some((90, weight::OTHER)));
    // Its slot is taken by somebody else's camera.
    world.say(bob.socket, ClientSignal::Leave {});
    let cyd = world.join("blue", "Cyd");
    world.say(cyd.socket, ClientSignal::Track { mid: "2".into(), active: true });
    assert_eq!(shown(&world, &ada, &cyd, Source::Camera), Some((SHOWN_LINES_ANY, weight::OTHER)));
    assert_eq!(shown(&world, &ada, &cyd, Source::Screen), Some((SHOWN_LINES_ANY, weight::SCREEN)));
}

#[test]
fn it_is_remembered_over_a_resume_and_by_the_next_controlplane() {
    let mut world = World::new();
    let mut ada = world.join("blue", "Ada");
    let bob = world.join("blue", "Bob");
    show(&mut world, &ada, &[video(&bob, Source::Camera, Some(0), true)]);
    let resume = |world: &mut World, client: &mut Client| {
        client.socket = world.open(&client.room, grant("Ada"));
        world.say(client.socket, ClientSignal::Resume { session: client.session.clone() });
    };
    world.close(ada.socket);
    resume(&mut world, &mut ada);
    assert_eq!(shown(&world, &ada, &bob, Source::Camera), Some((0, weight::PINNED)));
    let batches = world.worker().batches.len();
    world.restart_controlplane();
    assert_eq!(world.worker().batches.len(), batches + 1, "it asks what is there, and changes nothing");
    resume(&mut world, &mut ada);
    assert_eq!(shown(&world, &ada, &bob, Source::Camera), Some((0, weight::PINNED)));
    let cyd = world.join("blue", "Cyd");
    assert_eq!(shown(&world, &ada, &bob, Source::Camera), Some((0, weight::PINNED)), "another assignment");
    show(&mut world, &ada, &[camera(&cyd, 360)]);
    assert_eq!(shown(&world, &ada, &bob, Source::Camera), Some((SHOWN_LINES_ANY, weight::OTHER)));
    assert_eq!(shown(&world, &ada, &cyd, Source::Camera), Some((360, weight::OTHER)));
}

#[test]
fn what_is_no_sensible_list_is_refused_and_changes_nothing() {
    let mut world = World::new();
    let [ada, bob] = ["Ada", "Bob"].map(|name| world.join("blue", name));
    show(&mut world, &ada, &[camera(&bob, 180)]);
    let many: Vec<_> = (0..49).map(|n| ShownVideo { peer: n.to_string(), ..camera(&bob, 1) }).collect();
    let audio = video(&bob, Source::Microphone, Some(1), false);
    for bad in [many, vec![audio], vec![camera(&bob, 1), camera(&bob, 2)]] {
        world.drain(ada.socket);
        show(&mut world, &ada, &bad);
        assert_eq!(error_of(world.next(ada.socket)), (ErrorCode::BadSignal, false));
    }
    // Who is not there, or oneself, is nobody.
    let nobody = ShownVideo { peer: "nobody".into(), ..camera(&bob, 7) };
    show(&mut world, &ada, &[nobody, camera(&ada, 7), camera(&bob, 180)]);
    assert_eq!(world.drain(ada.socket), Vec::<ServerSignal>::new());
    assert_eq!(shown(&world, &ada, &bob, Source::Camera), Some((180, weight::OTHER)));
    let guest = world.open("blue", grant("Eve"));
    world.drain(guest);
    world.say(guest, ClientSignal::Shown { videos: Vec::new() });
    assert_eq!(error_of(world.next(guest)), (ErrorCode::NotJoined, false));
}
