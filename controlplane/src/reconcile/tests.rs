//! Plans against a worker that keeps the rules of the real one.

use super::worker::Worker;
use super::*;
use proptest::prelude::*;
use proto::id::Mid;
use proto::plane::{
    Codec, Direction, Event, PWD_LEN, PeerExtensions, PeerIce, Report, RouteCodec, SrtpProfile, StreamCodec, UFRAG_LEN,
};

const CAPACITY: Capacity = Capacity { peers: 4, remote: 0, streams: 8, slots: 8 };

fn linked() -> (Plan, Worker) {
    let (mut plan, mut worker) = (Plan::new(0, CAPACITY, 1), Worker::default());
    plan.link();
    converge(&mut plan, &mut worker, 100);
    (plan, worker)
}

/// Pulls and applies until nothing is left; returns how many pulls it took.
fn converge(plan: &mut Plan, worker: &mut Worker, space: usize) -> usize {
    for pulls in 0.. {
        let mut commands = Vec::new();
        plan.reconcile(space, &mut commands);
        if commands.is_empty() {
            assert_eq!(plan.pending(), 0);
            return pulls;
        }
        assert!(commands.len() <= space && matches!(commands.last(), Some(Command::Commit(_))));
        for command in commands {
            handle_reports(plan, worker.apply(command));
        }
    }
    unreachable!("the difference shrinks with each pull")
}

fn handle_reports(plan: &mut Plan, reports: Vec<Report>) {
    for report in reports {
        match report {
            Report::Echo(command) => plan.echo(command),
            Report::Event(Event::Described(described)) => {
                plan.described(described.count);
            }
            Report::Event(_) => {}
        }
    }
}

#[test]
fn other_credentials_change_a_peer_and_close_nothing() {
    let (mut plan, mut worker) = linked();
    let (peer, ..) = want_peer(&mut plan, 1);
    let restart = |plan: &mut Plan, fill: u8| {
        plan.want(PeerOpen { peer, ufrag: [fill; UFRAG_LEN], pwd: [fill; PWD_LEN] });
    };
    restart(&mut plan, b'0'); // before the peer was ever sent: it is opened with these
    converge(&mut plan, &mut worker, 100);
    let before = worker.dump();
    restart(&mut plan, b'1');
    let mut commands = Vec::new();
    plan.reconcile(100, &mut commands);
    assert!(matches!(commands[..], [Command::PeerIce(ice), Command::Commit(_)] if ice.ufrag == [b'1'; UFRAG_LEN]));
    commands.into_iter().for_each(|command| handle_reports(&mut plan, worker.apply(command)));
    plan.resync();
    converge(&mut plan, &mut worker, 100);
    assert_eq!((worker.dump(), plan.pending()), (before, 0));
    assert_eq!(worker.peers[&peer.index].open, plan.credentials(peer).unwrap());
    let tag = Command::from(PeerIce { peer, ufrag: [0; UFRAG_LEN], pwd: [0; PWD_LEN] }).tag();
    assert_eq!(plan.owner_of_refused(tag, peer.index), Some(peer));
    assert!(worker.refused.is_empty());
}

/// A peer with a stream and a slot.
fn want_peer(plan: &mut Plan, key: u8) -> (PeerId, StreamId, SlotId) {
    let peer = plan.issue_peer().unwrap();
    plan.want(PeerOpen { peer, ufrag: [b'u'; UFRAG_LEN], pwd: [b'p'; PWD_LEN] });
    plan.want(PeerExtensions { peer, ids: [1; 16] });
    for (direction, key) in [(Direction::Rx, key), (Direction::Tx, key | 0x80)] {
        let profile = SrtpProfile::AeadAes128Gcm;
        plan.want(PeerKeys { peer, direction, profile, key: [key; KEY_LEN_MAX], salt: [key; SALT_LEN_MAX] });
    }
    let stream = plan.want_stream(|stream| StreamOpen {
        stream,
        peer,
        ssrc: 1,
        rtx_ssrc: 0,
        mid: Mid::NONE,
        pt: 111,
        rtx_pt: 0,
        codec: Codec::H264,
        feedback: 0,
        red_pt: 0,
    });
    plan.want(StreamCodec { stream: stream.unwrap(), codec: Codec::Vp8, pt: 96, rtx_pt: 97 });
    let slot = plan.want_slot(|slot| SlotOpen {
        slot,
        peer,
        ssrc: 2,
        rtx_ssrc: 0,
        mid: Mid::NONE,
        seq_first: 0,
        rtx_seq_first: 0,
        timestamp_first: 0,
    });
    (peer, stream.unwrap(), slot.unwrap())
}

fn want_route(plan: &mut Plan, stream: StreamId, slot: SlotId) -> RouteId {
    let open = |route| RouteOpen { route, stream, slot, pt: 111, rtx_pt: 0, red_pt: 0 };
    let route = plan.want_route(open).unwrap();
    plan.want(RouteCodec { route, codec: Codec::Vp8, pt: 98, rtx_pt: 99 });
    route
}

#[test]
fn keys_go_down_once_and_are_forgotten() {
    let (mut plan, mut worker) = linked();
    let (peer, ..) = want_peer(&mut plan, 7);
    assert_eq!(plan.secrets.len(), 2);
    converge(&mut plan, &mut worker, 100);
    assert_eq!(worker.peers[&0].rx.unwrap().key, [7; KEY_LEN_MAX]);
    assert!(plan.secrets.is_empty());
    let shown = format!("{:?} {:?}", plan.desired, plan.installed(|command| Some(*command)));
    assert!(!shown.contains("[7, 7,"), "{shown}");
    plan.resync();
    converge(&mut plan, &mut worker, 100);
    assert!(plan.broken_peers().is_empty());
    worker.peers.get_mut(&0).unwrap().rx = None;
    plan.resync();
    let mut commands = Vec::new();
    plan.reconcile(100, &mut commands);
    commands.into_iter().for_each(|command| handle_reports(&mut plan, worker.apply(command)));
    assert_eq!(plan.broken_peers(), [peer]);
}

#[test]
fn keys_of_who_is_gone_before_they_were_sent_never_leave() {
    let (mut plan, mut worker) = linked();
    let (peer, stream, slot) = want_peer(&mut plan, 7);
    plan.unwant_slot(slot);
    plan.unwant_stream(stream);
    plan.unwant_peer(peer);
    assert!(plan.secrets.is_empty());
    assert_eq!(converge(&mut plan, &mut worker, 100), 0);
}

#[test]
fn an_answer_that_comes_up_short_is_asked_for_again() {
    let (mut plan, mut worker) = linked();
    want_peer(&mut plan, 7);
    converge(&mut plan, &mut worker, 100);
    plan.resync();
    let mut asked = 0;
    for lose in [true, true, false] {
        let mut commands = Vec::new();
        plan.reconcile(100, &mut commands);
        assert!(matches!(commands[0], Command::Describe(_)));
        asked += 1;
        for command in commands {
            let mut reports = worker.apply(command);
            if lose && reports.len() > 2 {
                reports.remove(1);
            }
            handle_reports(&mut plan, reports);
        }
    }
    assert_eq!((asked, converge(&mut plan, &mut worker, 100)), (3, 0));
}

#[test]
fn a_batch_has_a_length_that_a_worker_can_hold() {
    let capacity = Capacity { peers: 1000, remote: 0, streams: 1000, slots: 1000 };
    let mut plan = Plan::new(0, capacity, 1);
    let mut worker = Worker::default();
    plan.link();
    for _ in 0..BATCH_LEN_MAX {
        let peer = plan.issue_peer().unwrap();
        plan.want(PeerOpen { peer, ufrag: [0; UFRAG_LEN], pwd: [0; PWD_LEN] });
        plan.want(PeerExtensions { peer, ids: [0; 16] });
    }
    converge(&mut plan, &mut worker, 1 << 20);
    assert!(worker.batches.iter().all(|&len| len < BATCH_LEN_MAX));
    assert_eq!(worker.peers.len(), BATCH_LEN_MAX);
}

proptest! {
    /// Whatever is wanted and unwanted between pulls of whatever size, the worker refuses nothing and ends with
    /// what is desired.
    #[test]
    fn the_difference_always_leads_there(steps in prop::collection::vec((0u8..6, any::<prop::sample::Index>(), 2usize..9), 1..80)) {
        let (mut plan, mut worker) = linked();
        let mut peers: Vec<(PeerId, StreamId, SlotId)> = Vec::new();
        let mut routes: Vec<RouteOpen> = Vec::new();
        for (n, (step, index, space)) in steps.into_iter().enumerate() {
            match step {
                0 | 1 if plan.has_room(1, 1) => peers.push(want_peer(&mut plan, n as u8 + 1)),
                2 if !peers.is_empty() => {
                    let (peer, stream, slot) = peers.remove(index.index(peers.len()));
                    routes.retain(|route| {
                        let stays = route.stream != stream && route.slot != slot;
                        if !stays {
                            plan.unwant_route(route.route);
                        }
                        stays
                    });
                    plan.unwant_slot(slot);
                    plan.unwant_stream(stream);
                    plan.unwant_peer(peer);
                }
                3 if !peers.is_empty() => {
                    let (stream, slot) = (peers[index.index(peers.len())].1, peers[n % peers.len()].2);
                    if routes.iter().all(|route| route.slot != slot) {
                        let route = want_route(&mut plan, stream, slot);
                        routes.push(RouteOpen { route, stream, slot, pt: 111, rtx_pt: 0, red_pt: 0 });
                    }
                }
                4 => plan.resync(),
                _ => {
                    let mut commands = Vec::new();
                    plan.reconcile(space, &mut commands);
                    prop_assert!(commands.len() <= space);
                    commands.into_iter().for_each(|command| handle_reports(&mut plan, worker.apply(command)));
                }
            }
        }
        converge(&mut plan, &mut worker, 5);
        prop_assert!(worker.refused.is_empty(), "{:?}", worker.refused);
        prop_assert_eq!(worker.peers.len(), peers.len());
        let mut desired: Vec<RouteId> = routes.iter().map(|route| route.route).collect();
        desired.sort();
        prop_assert_eq!(worker.dump().3, desired);
        prop_assert_eq!((worker.stream_codecs.len(), worker.route_codecs.len()), (peers.len(), routes.len()));
    }
}
