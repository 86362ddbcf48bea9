//! Edits of a worker's tables: staged in order, visible whole at `Commit`, refused by name, and described to whoever
//! adopts them.

use std::net::SocketAddr;

use proto::id::{PeerId, RouteId, SlotId, StreamId};
use proto::plane::*;

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;

/// Alice's microphone, and Bob, who has a slot.
struct Call {
    world: World,
    alice: Peer,
    bob: Peer,
    stream: StreamId,
    slot: SlotId,
    seq: u16,
}

impl Call {
    fn new() -> Call {
        let mut world = World::new();
        let alice = world.connect(GCM);
        let bob = world.connect(GCM);
        let stream = world.publish(&alice, Codec::Opus);
        let slot = world.slot(&bob);
        world.take_reports();
        Call { world, alice, bob, stream, slot, seq: 0 }
    }

    /// Alice says a word; how many packets Bob hears of it.
    fn word(&mut self) -> usize {
        self.seq += 1;
        let ssrc = self.world.ssrc_of(self.stream);
        let protected = self.alice.protect(&packet(ssrc, OPUS_PT, self.seq, u32::from(self.seq) * 960, b"word"));
        self.world.receive(self.alice.remote, &protected);
        let datagrams = self.world.take_sent(self.bob.remote);
        self.bob.unprotect(&datagrams).len()
    }

    /// Commits and checks what is refused: which kind of command, the index it names, and why.
    #[track_caller]
    fn refused(&mut self, commands: &[Command], expected: &[(Command, u32, Refusal)]) {
        self.world.take_reports();
        let batch = self.world.commit(commands);
        let mut reports = self.world.take_reports();
        assert_eq!(reports.pop(), Some(Report::Event(Committed { batch }.into())), "the batch ends with its number");
        let refused: Vec<_> = reports
            .into_iter()
            .filter_map(|report| match report {
                Report::Event(Event::Refused(refused)) => Some(refused),
                _ => None,
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(command, index, refusal)| Refused { batch, tag: command.tag(), index: *index, refusal: *refusal })
            .collect();
        assert_eq!(refused, expected);
    }
}

fn close(route: RouteId) -> Command {
    RouteClose { route }.into()
}

#[test]
fn nothing_is_visible_before_its_commit() {
    let mut call = Call::new();
    let open = call.world.route_open(call.stream, call.slot);
    call.world.stage(&[open.into()]);
    assert!(call.world.take_reports().is_empty(), "staging says nothing");
    assert_eq!(call.word(), 0);
    assert_eq!(call.world.counter(Counter::RoutesOpen), 0);
    call.world.commit(&[]);
    assert_eq!(call.word(), 1);
    assert_eq!(call.world.counter(Counter::RoutesOpen), 1);
    call.world.stage(&[close(open.route)]);
    assert_eq!(call.word(), 1);
    call.world.commit(&[]);
    assert_eq!(call.word(), 0);

    let again = call.world.route_open(call.stream, call.slot);
    call.world.stage(&[again.into()]);
    call.world.forwarder.discard_staged();
    call.world.commit(&[]);
    assert_eq!(call.word(), 0, "what a dead controlplane staged is not committed by the next");
}

#[test]
fn a_batch_takes_effect_in_its_order() {
    let mut call = Call::new();
    let first = call.world.route_open(call.stream, call.slot);
    let second = call.world.route_open(call.stream, call.slot);
    call.refused(&[first.into(), second.into()], &[(second.into(), second.route.index, Refusal::Occupied)]);
    assert_eq!(call.word(), 1, "the rest of the batch stands");
    // The slot changes hands within one batch, and the place in the table with it.
    let reused = RouteOpen { route: RouteId::new(first.route.index, 2), ..second };
    call.refused(&[close(first.route), reused.into()], &[]);
    assert_eq!(call.word(), 1);
    call.refused(&[close(first.route)], &[(close(first.route), first.route.index, Refusal::Unknown)]);
    assert_eq!(call.word(), 1, "a late close of the former occupant does not reach the present one");
    call.refused(
        &[second.into(), close(reused.route), second.into()],
        &[(second.into(), second.route.index, Refusal::Occupied)],
    );
    assert_eq!(call.word(), 1);
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let mut call = Call::new();
    let (peer, stream, slot, route) =
        (PeerId::new(77, 1), StreamId::new(78, 1), SlotId::new(79, 1), RouteId::new(80, 1));
    let stale = PeerId::new(call.alice.id.index, 2);
    let open_stream = StreamOpen { peer, ..call.world.stream_open(&call.alice, Codec::Opus) };
    let open_slot = SlotOpen { peer: stale, ..call.world.slot_open(&call.bob) };
    let open_route = call.world.route_open(stream, call.slot);
    let open_stale = call.world.route_open(call.stream, SlotId::new(call.slot.index, 9));
    let Command::PeerKeys(keys) = call.alice.keys()[0] else { unreachable!() };
    let ice = PeerIce { peer: stale, ufrag: *b"another0", pwd: call.alice.pwd };
    let commands: [(Command, u32); 12] = [
        (ice.into(), stale.index),
        (PeerExtensions { peer, ids: IDS }.into(), 77),
        (PeerExtensions { peer: stale, ids: IDS }.into(), stale.index),
        (PeerKeys { peer: stale, ..keys }.into(), stale.index),
        (PeerClose { peer }.into(), 77),
        (open_stream.into(), open_stream.stream.index),
        (StreamClose { stream }.into(), 78),
        (open_slot.into(), open_slot.slot.index),
        (SlotClose { slot }.into(), 79),
        (open_route.into(), open_route.route.index),
        (open_stale.into(), open_stale.route.index),
        (close(route), 80),
    ];
    let expected = commands.map(|(command, index)| (command, index, Refusal::Unknown));
    call.refused(&commands.map(|(command, _)| command), &expected);
}

#[test]
fn what_is_taken_or_beyond_the_tables_is_refused_by_name() {
    let mut call = Call::new();
    let world = &mut call.world;
    let (alice, bob) = (&call.alice, &call.bob);
    let stream = world.stream_open(alice, Codec::H264);
    let slot = world.slot_open(bob);
    let other = world.slot_open(bob);
    let route = world.route_open(call.stream, call.slot);
    world.commit(&[stream.into(), slot.into(), route.into()]);
    let beyond = u32::MAX;
    let nobody = PeerOpen { peer: PeerId::new(900, 1), ufrag: *b"nobody00", pwd: alice.pwd };
    let cases: Vec<(Command, u32, Refusal)> = vec![
        (PeerOpen { peer: alice.id, ..nobody }.into(), alice.id.index, Refusal::Occupied),
        (PeerOpen { peer: PeerId::new(alice.id.index, 5), ..nobody }.into(), alice.id.index, Refusal::Occupied),
        // Two peers with one name: a check could not tell them apart.
        (PeerOpen { ufrag: bob.ufrag, ..nobody }.into(), 900, Refusal::Occupied),
        (PeerOpen { peer: PeerId::new(beyond, 1), ..nobody }.into(), beyond, Refusal::TableFull),
        (PeerIce { peer: alice.id, ufrag: bob.ufrag, pwd: alice.pwd }.into(), alice.id.index, Refusal::Occupied),
        // Keys are for the life of a peer: the same ones again would begin the index space again.
        (alice.keys()[0], alice.id.index, Refusal::Occupied),
        (bob.keys()[1], bob.id.index, Refusal::Occupied),
        (stream.into(), stream.stream.index, Refusal::Occupied),
        (StreamOpen { stream: StreamId::new(901, 1), ..stream }.into(), 901, Refusal::Occupied),
        (
            StreamOpen { stream: StreamId::new(902, 1), ssrc: 5, rtx_ssrc: stream.ssrc, ..stream }.into(),
            902,
            Refusal::Occupied,
        ),
        (StreamOpen { stream: StreamId::new(903, 1), ssrc: 5, rtx_ssrc: 5, ..stream }.into(), 903, Refusal::Occupied),
        (
            StreamOpen { stream: StreamId::new(beyond, 1), ssrc: 5, rtx_ssrc: 6, ..stream }.into(),
            beyond,
            Refusal::TableFull,
        ),
        (SlotOpen { slot: slot.slot, ..other }.into(), slot.slot.index, Refusal::Occupied),
        (SlotOpen { ssrc: slot.ssrc, ..other }.into(), other.slot.index, Refusal::Occupied),
        (SlotOpen { rtx_ssrc: slot.ssrc, ..other }.into(), other.slot.index, Refusal::Occupied),
        (SlotOpen { ssrc: slot.rtx_ssrc, ..other }.into(), other.slot.index, Refusal::Occupied),
        (SlotOpen { rtx_ssrc: other.ssrc, ..other }.into(), other.slot.index, Refusal::Occupied),
        (SlotOpen { ssrc: 0, ..other }.into(), other.slot.index, Refusal::Malformed),
        (RouteOpen { route: RouteId::new(904, 1), ..route }.into(), 904, Refusal::Occupied),
        (RouteOpen { route: RouteId::new(beyond, 1), slot: slot.slot, ..route }.into(), beyond, Refusal::TableFull),
    ];
    let before = call.world.forwarder.sizes();
    for case in &cases {
        call.refused(&[case.0], &[*case]);
    }
    assert_eq!(call.world.forwarder.sizes(), before, "a refused command leaves nothing behind");
    let commands: Vec<_> = cases.iter().map(|case| case.0).collect();
    call.refused(&commands, &cases);
    assert_eq!(call.word(), 1);
    call.refused(&[SlotOpen { rtx_ssrc: 0, ..other }.into()], &[]);
}

#[test]
fn a_slots_ssrc_is_used_once_in_a_peers_life() {
    let mut call = Call::new();
    let route = call.world.route(call.stream, call.slot);
    assert_eq!(call.word(), 1);
    // The same SSRC in a new slot would begin at seq_first again, under the same key: a keystream used twice.
    let again = SlotOpen { slot: SlotId::new(call.slot.index, 2), ..call.world.slot_open(&call.bob) };
    let again = SlotOpen { ssrc: 0x2000_0000 + call.slot.index, ..again };
    call.refused(
        &[SlotClose { slot: call.slot }.into(), again.into()],
        &[(again.into(), again.slot.index, Refusal::Occupied)],
    );
    call.refused(&[close(route)], &[(close(route), route.index, Refusal::Unknown)]);
    for n in 0..1000 {
        let open = SlotOpen { ssrc: 50_000 + n, rtx_ssrc: 60_000 + n, ..again };
        call.world.commit(&[open.into(), SlotClose { slot: open.slot }.into()]);
    }
    let fresh = SlotOpen { ssrc: 7, rtx_ssrc: 8, ..again };
    call.refused(&[fresh.into()], &[(fresh.into(), fresh.slot.index, Refusal::TableFull)]);
}

#[test]
fn a_stream_that_is_opened_again_goes_on_with_its_window_and_its_roll_over() {
    let mut call = Call::new();
    call.world.route(call.stream, call.slot);
    call.seq = 65_533;
    assert_eq!(call.word(), 1);
    let ssrc = call.world.ssrc_of(call.stream);
    let replayed = call.alice.protect(&packet(ssrc, OPUS_PT, 65_535, 0, b"once"));
    call.world.receive(call.alice.remote, &replayed);
    call.world.take_sent(call.bob.remote);
    call.alice.protect(&packet(ssrc, OPUS_PT, 0, 0, b"into the next round"));

    let reopened = StreamId::new(call.stream.index, 2);
    let open = StreamOpen { stream: reopened, ..call.world.stream_open(&call.alice, Codec::Opus) };
    let open = StreamOpen { ssrc, ..open };
    let route = call.world.route_open(reopened, call.slot);
    call.refused(&[StreamClose { stream: call.stream }.into(), open.into(), route.into()], &[]);
    call.world.receive(call.alice.remote, &replayed);
    assert_eq!(call.world.counter(Counter::DroppedSrtpReplay), 1);
    call.seq = 0;
    assert_eq!(call.word(), 1, "packet 1 of the second round is understood");
}

#[test]
fn an_ice_restart_leaves_path_keys_and_routes_standing() {
    let mut call = Call::new();
    call.world.route(call.stream, call.slot);
    assert_eq!(call.word(), 1);
    let before = call.alice.check(true);
    (call.alice.ufrag, call.alice.pwd) = (*b"restart0", [b'n'; PWD_LEN]);
    let ice = PeerIce { peer: call.alice.id, ufrag: call.alice.ufrag, pwd: call.alice.pwd };
    call.refused(&[ice.into()], &[]);
    assert_eq!(call.word(), 1, "media goes on by the old pair");
    // A check with the credentials before is nobody's; one with the new moves the path, and the same keys are good there.
    call.world.receive(call.alice.remote, &before);
    assert_eq!(call.world.counter(Counter::DroppedStunUnknownUfrag), 1);
    call.alice.remote = SocketAddr::from(([192, 0, 2, 200], 4242));
    let check = call.alice.check(true);
    call.world.receive(call.alice.remote, &check);
    assert_eq!(call.world.take_sent(call.alice.remote).len(), 1, "the check is answered");
    assert_eq!(call.word(), 1);
    assert_eq!(call.world.forwarder.sizes().ufrags, 2);
    // A successor of the controlplane is told the credentials of now, and the name before is free for others.
    let echo = PeerOpen { peer: ice.peer, ufrag: ice.ufrag, pwd: ice.pwd };
    assert!(describe(&mut call.world, 100, |_| {}).contains(&echo.into()));
}

#[test]
fn closing_a_peer_closes_all_that_hangs_on_it() {
    let mut call = Call::new();
    let video = call.world.publish(&call.alice, Codec::H264);
    let back = call.world.slot(&call.alice);
    let from_bob = call.world.publish(&call.bob, Codec::Opus);
    let other = call.world.slot(&call.bob);
    let routes =
        [(call.stream, call.slot), (video, other), (from_bob, back)].map(|(from, to)| call.world.route(from, to));
    assert_eq!(call.word(), 1);
    assert_eq!(call.world.forwarder.sizes().objects, [2, 3, 3, 3]);
    call.refused(&[PeerClose { peer: call.alice.id }.into()], &[]);
    let sizes = call.world.forwarder.sizes();
    assert_eq!((sizes.objects, sizes.paths, sizes.ufrags), ([1, 1, 2, 0], 1, 1));
    assert_eq!(call.word(), 0, "its address means nothing any more");
    assert_eq!(call.world.counter(Counter::DroppedUnknownAddress), 1);
    call.refused(&routes.map(close), &routes.map(|route| (close(route), route.index, Refusal::Unknown)));
    // Bob's slots are free for others.
    let open = call.world.route_open(from_bob, other);
    call.refused(&[open.into()], &[]);
}

#[test]
fn who_takes_a_closed_peers_place_does_not_inherit_its_timers() {
    let reports = |joins: u32| {
        let mut call = Call::new();
        let mut carol = call.world.connect(GCM);
        for generation in 2..2 + joins {
            let id = PeerId::new(carol.id.index, generation);
            let open = PeerOpen { peer: id, ufrag: carol.ufrag, pwd: carol.pwd };
            call.world.commit(&[PeerClose { peer: carol.id }.into(), open.into(), remote_of(id)]);
            carol.id = id;
            call.world.commit(&carol.keys());
            let check = carol.check(true);
            call.world.receive(carol.remote, &check);
        }
        let timers = call.world.forwarder.sizes().timers;
        let stream = call.world.publish(&carol, Codec::Opus);
        let ssrc = call.world.ssrc_of(stream);
        let protected = carol.protect(&packet(ssrc, OPUS_PT, 1, 0, b"word"));
        call.world.receive(carol.remote, &protected);
        call.world.take_sent(carol.remote);
        call.world.advance(10_000_000);
        let sent = call.world.take_sent(carol.remote).len();
        (sent, call.world.forwarder.sizes().timers, timers)
    };
    let (once, left, _) = reports(0);
    assert!(once >= 9, "a report a second");
    assert_eq!(reports(50).0, once);
    assert_eq!(reports(50).1, left, "timers of the departed end within seconds");
}

#[test]
fn reset_closes_everything_and_numbers_may_come_again() {
    let mut call = Call::new();
    call.world.route(call.stream, call.slot);
    assert_eq!(call.word(), 1);
    call.refused(&[Reset {}.into()], &[]);
    assert_eq!(call.world.forwarder.sizes(), Default::default());
    assert_eq!(call.world.forwarder.deadline(), None);
    assert_eq!(call.word(), 0);
    assert_eq!((call.world.counter(Counter::PeersOpen), call.world.counter(Counter::RoutesOpen)), (0, 0));
    let open = PeerOpen { peer: call.alice.id, ufrag: call.alice.ufrag, pwd: call.alice.pwd };
    call.refused(&[open.into()], &[]);
}

#[test]
fn a_batch_that_is_too_long_is_refused_beyond_its_limit() {
    let mut call = Call::new();
    let max = dataplane::config::STAGED_MAX;
    for _ in 0..max {
        call.world.stage(&[close(RouteId::new(5, 5))]);
    }
    call.world.take_reports();
    let route = call.world.route_open(call.stream, call.slot);
    call.world.stage(&[route.into()]);
    let reports = call.world.take_reports();
    assert!(matches!(reports[..], [Report::Event(Event::Refused(Refused { refusal: Refusal::BatchFull, index, .. }))]
            if index == route.route.index));
    assert_eq!(call.world.forwarder.sizes().staged, max);
    call.world.commit(&[]);
    assert_eq!(call.world.forwarder.sizes().staged, 0);
    assert_eq!(call.word(), 0);
    call.refused(&[route.into()], &[]);
    assert_eq!(call.word(), 1);
}

#[test]
fn a_record_that_is_none_is_refused_and_the_batch_goes_on() {
    let mut call = Call::new();
    let open = call.world.route_open(call.stream, call.slot);
    call.world.stage(&[open.into()]);
    let mut record = open.write_command();
    record[0] = 0xee;
    call.world.forwarder.apply(call.world.now, &record, &mut call.world.egress);
    call.world.collect();
    let reports = call.world.take_reports();
    assert!(matches!(
        reports[..],
        [Report::Event(Event::Refused(Refused { tag: 0, refusal: Refusal::Malformed, .. }))]
    ));
    call.world.commit(&[]);
    assert_eq!(call.word(), 1);
}

trait WriteCommand {
    fn write_command(self) -> Record;
}

impl<T: Into<Command>> WriteCommand for T {
    fn write_command(self) -> Record {
        self.into().write()
    }
}

/// Asks for a description and takes it in chunks of at most `space`.
fn describe(world: &mut World, space: usize, mut between: impl FnMut(&mut World)) -> Vec<Command> {
    world.commit(&[Describe {}.into()]);
    world.take_reports();
    let mut echoes = Vec::new();
    for _ in 0..100_000 {
        if !world.forwarder.is_describing() {
            break;
        }
        world.forwarder.describe(space, &mut world.egress.outbox);
        world.collect();
        let reports = world.take_reports();
        assert!(reports.len() <= space, "{} reports in a space of {space}", reports.len());
        for report in reports {
            match report {
                Report::Echo(command) => echoes.push(command),
                Report::Event(Event::Described(Described { count })) => {
                    assert_eq!(count, echoes.len() as u64);
                    assert!(!world.forwarder.is_describing());
                    return echoes;
                }
                Report::Event(_) => {}
            }
        }
        between(world);
    }
    panic!("the description does not end");
}

#[test]
fn a_description_echoes_what_is_installed_and_no_key() {
    let mut world = World::new();
    let mut expected: Vec<Command> = Vec::new();
    for _ in 0..5 {
        let peer = world.open(GCM);
        expected.push(PeerOpen { peer: peer.id, ufrag: peer.ufrag, pwd: peer.pwd }.into());
        expected.push(remote_of(peer.id));
        expected.push(PeerExtensions { peer: peer.id, ids: IDS }.into());
        world.commit(&peer.keys());
        for key in peer.keys() {
            let Command::PeerKeys(keys) = key else { unreachable!() };
            expected.push(PeerKeys { key: [0; KEY_LEN_MAX], salt: [0; SALT_LEN_MAX], ..keys }.into());
        }
        let stream = world.stream_open(&peer, Codec::H264);
        let slot = world.slot_open(&peer);
        let route = world.route_open(stream.stream, slot.slot);
        let commands = [stream.into(), slot.into(), route.into()];
        world.commit(&commands);
        expected.extend(commands);
    }
    let gone = world.open(GCM);
    world.commit(&[PeerClose { peer: gone.id }.into()]);
    let sorted = |mut commands: Vec<Command>| {
        commands.sort_by_key(|c| c.write());
        commands
    };
    let expected = sorted(expected);
    for space in [7, 8, 9, 64, 4096] {
        let echoes = describe(&mut world, space, |_| {});
        assert!(
            echoes.windows(2).all(|w| order(&w[0]) <= order(&w[1])),
            "peers before streams, before slots, before routes"
        );
        assert_eq!(sorted(echoes), expected, "in chunks of {space}");
    }
    world.commit(&[Describe {}.into()]);
    for space in 0..=6 {
        world.forwarder.describe(space, &mut world.egress.outbox);
    }
    world.collect();
    assert!(!world.take_reports().iter().any(|r| matches!(r, Report::Echo(_))), "no room for what one peer may need");
    world.forwarder.discard_staged();
    assert!(!world.forwarder.is_describing(), "who asked is gone");
}

/// In which order a description must come, for its reader to know each name before it is used.
fn order(command: &Command) -> u8 {
    match command {
        Command::PeerOpen(_) | Command::PeerRemote(_) | Command::PeerExtensions(_) | Command::PeerKeys(_) => 0,
        Command::StreamOpen(_) => 1,
        Command::SlotOpen(_) => 2,
        Command::RouteOpen(_) => 3,
        other => panic!("{other:?} is not installed"),
    }
}

#[test]
fn edits_go_on_while_a_description_is_under_way() {
    let mut world = World::new();
    let peers: Vec<Peer> = (0..6).map(|_| world.open(GCM)).collect();
    let streams: Vec<_> = peers.iter().map(|p| world.publish(p, Codec::Opus)).collect();
    let slots: Vec<_> = peers.iter().map(|p| world.slot(p)).collect();
    let stays = world.route(streams[5], slots[4]);
    let mut closed = peers.iter().take(4);
    let echoes = describe(&mut world, 8, |world| {
        if let Some(peer) = closed.next() {
            world.commit(&[PeerClose { peer: peer.id }.into()]);
        }
    });
    let has = |command: Command| echoes.contains(&command);
    assert!(has(PeerExtensions { peer: peers[5].id, ids: IDS }.into()));
    assert!(echoes.iter().any(|c| matches!(c, Command::RouteOpen(open) if open.route == stays)));
    let opened: Vec<_> = echoes.iter().filter(|c| matches!(c, Command::StreamOpen(_))).collect();
    assert!(opened.len() >= 2, "what stays is told: {opened:?}");

    let echoes = describe(&mut world, 7, |world| {
        world.commit(&[Reset {}.into()]);
    });
    assert!(!echoes.is_empty() && world.forwarder.sizes().objects == [0; 4]);
    let newcomer = world.open(GCM);
    world.commit(&[Describe {}.into(), PeerClose { peer: newcomer.id }.into()]);
    world.forwarder.describe(100, &mut world.egress.outbox);
    world.collect();
    assert!(world.take_reports().contains(&Report::Event(Described { count: 0 }.into())));
}

#[test]
fn expired_peers_are_told_of_again_within_the_space() {
    let mut world = World::new();
    let peers: Vec<Peer> = (0..40).map(|_| world.connect(GCM)).collect();
    world.mute.extend(peers.iter().map(|peer| peer.remote));
    world.advance(31_000_000);
    world.take_reports();
    for space in [7, 100] {
        let mut expired = Vec::new();
        world.commit(&[Describe {}.into()]);
        world.take_reports();
        while world.forwarder.is_describing() {
            world.forwarder.describe(space, &mut world.egress.outbox);
            world.collect();
            let reports = world.take_reports();
            assert!(reports.len() <= space, "{} reports in a space of {space}", reports.len());
            expired.extend(reports.iter().filter_map(|report| match report {
                Report::Event(Event::PeerExpired(event)) => Some(event.peer),
                _ => None,
            }));
        }
        assert_eq!(expired, peers.iter().map(|p| p.id).collect::<Vec<_>>());
    }
}
