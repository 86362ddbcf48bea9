//! What a worker says of streams and peers that fall silent and come back, and what it does not: pauses that are normal, and a
//! worker that was held up.

use proto::id::{PeerId, StreamId};
use proto::plane::*;

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const MILLISECOND: u64 = 1_000;
const SECOND: u64 = 1_000_000;

struct Publisher {
    world: World,
    peer: Peer,
    stream: StreamId,
    seq: u16,
}

impl Publisher {
    fn new() -> Publisher {
        let mut world = World::new();
        let peer = world.connect(GCM);
        let stream = world.publish(&peer, Codec::H264);
        world.advance(SECOND / 2);
        world.take_reports();
        Publisher { world, peer, stream, seq: 100 }
    }

    /// One packet now.
    fn packet(&mut self) {
        let packet = packet(self.world.ssrc_of(self.stream), H264_PT, self.seq, u32::from(self.seq) * 3000, DELTA);
        self.seq += 1;
        let protected = self.peer.protect(&packet);
        self.world.receive(self.peer.remote, &protected);
    }

    /// A packet each so often, for so long.
    fn sends(&mut self, every: u64, long: u64) {
        for _ in 0..long / every {
            self.packet();
            self.world.advance(every);
        }
    }

    /// A check each so often, and no media.
    fn checks(&mut self, every: u64, long: u64) {
        for _ in 0..long / every {
            let check = self.peer.check(false);
            self.world.receive(self.peer.remote, &check);
            self.world.advance(every);
        }
    }

    /// What was said of silence since the last call.
    fn said(&mut self) -> Vec<Event> {
        silences(&mut self.world)
    }
}

fn silences(world: &mut World) -> Vec<Event> {
    let event = |report| match report {
        Report::Event(
            event @ (Event::StreamSilent(_) | Event::StreamResumed(_) | Event::PeerSilent(_) | Event::PeerResumed(_)),
        ) => Some(event),
        _ => None,
    };
    world.take_reports().into_iter().filter_map(event).collect()
}

fn stream_silent(stream: StreamId) -> Event {
    StreamSilent { stream }.into()
}

fn peer_silent(peer: PeerId) -> Event {
    PeerSilent { peer }.into()
}

#[test]
fn a_stream_that_stops_is_silent_after_two_seconds_and_back_with_its_first_packet() {
    let mut publisher = Publisher::new();
    publisher.sends(20 * MILLISECOND, 5 * SECOND);
    assert_eq!(publisher.said(), []);
    publisher.checks(SECOND / 2, SECOND + SECOND / 2);
    assert_eq!(publisher.said(), [], "not yet");
    publisher.checks(SECOND / 2, 2 * SECOND);
    assert_eq!(publisher.said(), [stream_silent(publisher.stream)]);
    publisher.checks(SECOND / 2, 60 * SECOND);
    assert_eq!(publisher.said(), [], "it is said once, and its peer is there");
    publisher.packet();
    assert_eq!(publisher.said(), [StreamResumed { stream: publisher.stream }.into()]);
    publisher.sends(20 * MILLISECOND, 5 * SECOND);
    assert_eq!(publisher.said(), []);
}

#[test]
fn a_stream_that_never_began_is_silent_too_and_begins_like_any_other() {
    let mut publisher = Publisher::new();
    publisher.checks(SECOND / 2, 5 * SECOND);
    assert_eq!(publisher.said(), [stream_silent(publisher.stream)]);
    publisher.packet();
    let events = [Event::from(StreamResumed { stream: publisher.stream })];
    assert_eq!(publisher.world.take_reports(), events.map(Report::Event));
}

#[test]
fn what_comes_once_a_second_is_not_silent() {
    for every in [400 * MILLISECOND, SECOND] {
        let mut publisher = Publisher::new();
        publisher.sends(every, 120 * SECOND);
        assert_eq!(publisher.said(), [], "a packet each {every} µs");
    }
}

#[test]
fn a_peer_of_which_nothing_comes_is_silent_long_before_its_consent_ends() {
    let mut publisher = Publisher::new();
    publisher.world.mute.insert(publisher.peer.remote);
    publisher.sends(20 * MILLISECOND, 5 * SECOND);
    publisher.world.advance(6 * SECOND);
    assert_eq!(publisher.said(), [stream_silent(publisher.stream)], "a check may be this late");
    publisher.world.advance(4 * SECOND);
    assert_eq!(publisher.said(), [peer_silent(publisher.peer.id)]);
    publisher.checks(SECOND, SECOND);
    assert_eq!(publisher.said(), [PeerResumed { peer: publisher.peer.id }.into()]);
    publisher.world.advance(60 * SECOND);
    let reports = publisher.world.take_reports();
    assert!(reports.contains(&Report::Event(peer_silent(publisher.peer.id))));
    assert!(reports.contains(&Report::Event(PeerExpired { peer: publisher.peer.id }.into())));
}

#[test]
fn media_alone_brings_a_peer_back_too() {
    let mut publisher = Publisher::new();
    publisher.world.mute.insert(publisher.peer.remote);
    publisher.packet();
    publisher.world.advance(11 * SECOND);
    assert_eq!(publisher.said(), [stream_silent(publisher.stream), peer_silent(publisher.peer.id)]);
    publisher.packet();
    let back: [Event; 2] =
        [StreamResumed { stream: publisher.stream }.into(), PeerResumed { peer: publisher.peer.id }.into()];
    assert_eq!(publisher.said(), back);
}

#[test]
fn checks_six_seconds_apart_keep_a_peer_that_only_listens_from_being_silent() {
    let mut publisher = Publisher::new();
    publisher.checks(6 * SECOND, 120 * SECOND);
    assert_eq!(publisher.said(), [stream_silent(publisher.stream)]);
}

#[test]
fn a_worker_that_was_held_up_takes_nobody_for_silent() {
    let mut publisher = Publisher::new();
    publisher.sends(20 * MILLISECOND, 2 * SECOND);
    // Stopped for twelve seconds: what is due runs before what has come meanwhile is read.
    publisher.world.now += 12 * SECOND;
    publisher.world.forwarder.tick(publisher.world.now, &mut publisher.world.egress);
    publisher.world.collect();
    publisher.sends(20 * MILLISECOND, 5 * SECOND);
    assert_eq!(publisher.said(), []);
}

#[test]
fn forged_packets_end_no_silence() {
    let mut publisher = Publisher::new();
    publisher.world.mute.insert(publisher.peer.remote);
    publisher.packet();
    publisher.world.advance(11 * SECOND);
    publisher.said();
    let packet = packet(publisher.world.ssrc_of(publisher.stream), H264_PT, publisher.seq, 0, DELTA);
    let mut forged = publisher.peer.protect(&packet);
    *forged.last_mut().unwrap() ^= 1;
    publisher.world.receive(publisher.peer.remote, &forged);
    assert_eq!(publisher.said(), []);
}

#[test]
fn a_stream_that_comes_and_goes_is_told_at_most_once_in_its_time() {
    let mut publisher = Publisher::new();
    // A packet each 1.8 s: the most that a hostile publisher could make of it.
    publisher.sends(1_800 * MILLISECOND, 180 * SECOND);
    let said = publisher.said().len();
    assert!(said <= 2 * 100, "{said} events in 180 s");
}

#[test]
fn a_description_repeats_who_is_silent() {
    let mut publisher = Publisher::new();
    publisher.world.mute.insert(publisher.peer.remote);
    publisher.world.advance(11 * SECOND);
    publisher.said();
    publisher.world.commit(&[Describe {}.into()]);
    publisher.world.forwarder.describe(1000, &mut publisher.world.egress.outbox);
    publisher.world.collect();
    let reports = publisher.world.take_reports();
    let described = reports.iter().find_map(|report| match report {
        Report::Event(Event::Described(described)) => Some(described.count as usize),
        _ => None,
    });
    let echoes = reports.iter().filter(|report| matches!(report, Report::Echo(_))).count();
    assert_eq!(described, Some(echoes), "what is silent is no echo");
    for event in [stream_silent(publisher.stream), peer_silent(publisher.peer.id)] {
        assert!(reports.contains(&Report::Event(event)), "{event:?} in {reports:?}");
    }
}
