//! Who speaks, by the levels in the packets (RFC 6464), and what of a stream of audio is passed on in a room with many voices.

use bytes::Bytes;
use proto::plane::*;

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const MS: u64 = 1000;
const AUDIO_LEVEL: u8 = 1;
const SILENCE: u8 = 127;
/// A voice, −25 dBov, with the bit V set.
const VOICE: u8 = 0x80 | 25;

/// Alice's microphone in Bob's slot, on one worker or from one to another.
struct Call {
    worlds: Vec<World>,
    alice: Peer,
    bob: Peer,
    stream: StreamOpen,
    seq: u16,
}

impl Call {
    fn new(workers: usize) -> Call {
        let mut worlds: Vec<World> = (0..workers).map(|index| World::among(index, workers)).collect();
        let alice = worlds[0].connect_unlimited(GCM);
        let stream = worlds[0].stream_open(&alice, Codec::Opus);
        worlds[0].commit(&[stream.into()]);
        let there = worlds.last_mut().unwrap();
        let bob = there.connect_unlimited(GCM);
        let slot = there.slot(&bob);
        if workers == 1 {
            there.route(stream.stream, slot);
        } else {
            let (mirror, tap) = there.mirror_open(&stream, 1);
            there.commit(&[mirror.into()]);
            there.route(mirror.stream, slot);
            worlds[0].commit(&[tap.into()]);
        }
        exchange(&mut worlds);
        let mut call = Call { worlds, alice, bob, stream, seq: 100 };
        call.told();
        call
    }

    fn gate(&mut self, gate: Gate) {
        self.worlds[0].commit(&[StreamGate { stream: self.stream.stream, gate }.into()]);
    }

    /// Alice sends so many packets, one each 20 ms, of this level; those that Bob gets: their sequence numbers, timestamps and first bytes.
    fn says(&mut self, level: Option<u8>, packets: usize) -> Vec<(u16, u32, u8)> {
        for _ in 0..packets {
            let mut packet =
                packet(self.stream.ssrc, OPUS_PT, self.seq, u32::from(self.seq) * 960, &[self.seq as u8; 80]);
            if let Some(level) = level {
                packet.header.set_extension(AUDIO_LEVEL, Bytes::copy_from_slice(&[level])).unwrap();
            }
            self.seq += 1;
            let bytes = self.alice.protect(&packet);
            self.advance(20);
            self.worlds[0].receive(self.alice.remote, &bytes);
            exchange(&mut self.worlds);
        }
        let datagrams = self.worlds.last_mut().unwrap().take_sent(self.bob.remote);
        let got = self.bob.unprotect(&datagrams);
        got.iter().map(|packet| (packet.header.sequence_number, packet.header.timestamp, packet.payload[0])).collect()
    }

    fn advance(&mut self, ms: u64) {
        self.worlds.iter_mut().for_each(|world| world.advance(ms * MS));
        exchange(&mut self.worlds);
    }

    /// The worker of Alice says what it has.
    fn describe(&mut self) {
        let world = &mut self.worlds[0];
        world.commit(&[Describe {}.into()]);
        world.forwarder.describe(1000, &mut world.egress.outbox);
        world.collect();
    }

    /// What was told of who speaks: how loud, or that nobody does.
    fn told(&mut self) -> Vec<Option<u8>> {
        let mut reports: Vec<Report> = self.worlds.iter_mut().flat_map(World::take_reports).collect();
        reports.retain(|report| !matches!(report, Report::Echo(_)));
        let told = reports.iter().filter_map(|report| match report {
            Report::Event(Event::StreamSpeaks(event)) => Some((event.stream, Some(event.loudness))),
            Report::Event(Event::StreamQuiet(event)) => Some((event.stream, None)),
            _ => None,
        });
        told.inspect(|(stream, _)| assert_eq!(*stream, self.stream.stream)).map(|(_, loudness)| loudness).collect()
    }
}

#[test]
fn who_speaks_is_told_and_who_does_not_any_more() {
    let mut call = Call::new(2);
    call.says(Some(SILENCE), 50);
    call.says(Some(80), 50);
    assert!(call.told().is_empty(), "a quiet room");
    call.says(Some(VOICE), 2);
    assert_eq!(call.told(), [Some(127 - 25)], "by the worker that receives it, after 40 ms");
    call.says(Some(VOICE), 100);
    call.says(Some(SILENCE), 10);
    assert!(call.told().is_empty());
    call.says(Some(SILENCE), 20);
    assert_eq!(call.told(), [None], "half a second of silence");
    call.says(Some(VOICE), 50);
    call.told();
    // A controlplane that lost something is told again who speaks.
    call.describe();
    assert_eq!(call.told(), [Some(102)]);
    call.advance(3_000);
    assert_eq!(call.told(), [None], "nothing comes any more");
    call.says(None, 50);
    assert!(call.told().is_empty(), "what tells no level is no voice");
}

#[test]
fn only_who_speaks_is_passed_on_and_for_two_seconds_more() {
    for workers in [1, 2] {
        let mut call = Call::new(workers);
        let first = call.says(Some(SILENCE), 10);
        assert_eq!(first.len(), 10, "without a gate all are");
        call.gate(Gate::Speech);
        assert!(call.says(Some(SILENCE), 500).is_empty());
        assert_eq!(call.worlds[0].counter(Counter::AudioNotPassed), 500);
        let began = call.says(Some(VOICE), 50);
        assert_eq!(began.len(), 49, "after the second packet it is speech, and that is passed on");
        let (last, next) = (first[9], began[0]);
        assert_eq!(next.0, last.0.wrapping_add(1), "nothing seems to be missing: Bob asks for nothing");
        let elapsed = next.1.wrapping_sub(last.1);
        assert_eq!(elapsed, 502 * 960, "but time has passed");
        assert!(began.windows(2).all(|two| (two[1].0, two[1].1) == (two[0].0 + 1, two[0].1 + 960)));
        assert_eq!(began[0].2, (call.seq - 49) as u8);
        // The pauses within and after a sentence.
        assert_eq!(call.says(Some(SILENCE), 95).len(), 95);
        assert!((5..=30).contains(&call.says(Some(SILENCE), 200).len()), "2 s after half a second that ended the word");
        call.says(Some(VOICE), 10);
        call.gate(Gate::Closed);
        assert!(call.says(Some(VOICE), 100).is_empty(), "others are louder");
        call.gate(Gate::Speech);
        assert_eq!(call.says(Some(VOICE), 3).len(), 3);
        call.gate(Gate::Open);
        assert_eq!(call.says(Some(SILENCE), 500).len(), 500);
    }
}

#[test]
fn a_stream_that_tells_no_level_passes_unless_it_is_closed() {
    let mut call = Call::new(1);
    call.gate(Gate::Speech);
    assert_eq!(call.says(None, 10).len(), 10);
    call.gate(Gate::Closed);
    assert!(call.says(None, 10).is_empty());
}

#[test]
fn a_gate_is_of_audio_and_of_a_stream_that_is_there() {
    let mut call = Call::new(2);
    let camera = call.worlds[0].publish(&call.alice, Codec::H264);
    call.worlds[0].take_reports();
    for stream in [camera, proto::id::StreamId::new(99, 1)] {
        call.worlds[0].commit(&[StreamGate { stream, gate: Gate::Closed }.into()]);
    }
    let refused = |report: &Report| match report {
        Report::Event(Event::Refused(refused)) => Some(refused.refusal),
        _ => None,
    };
    let refusals: Vec<Refusal> = call.worlds[0].take_reports().iter().filter_map(refused).collect();
    assert_eq!(refusals, [Refusal::Malformed, Refusal::Unknown]);
    // It is described with its stream.
    call.gate(Gate::Speech);
    call.describe();
    let gate = Command::from(StreamGate { stream: call.stream.stream, gate: Gate::Speech });
    assert!(call.worlds[0].take_reports().contains(&Report::Echo(gate)));
}
