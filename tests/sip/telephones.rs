//! A hundred telephones that all speak, five in each of twenty rooms, with a peer that listens there too: what the gateway
//! costs, how long a sound takes from one to the other, and what is lost. `make telephones` runs it in full against the release
//! executable, prints the figures (docs/MEASURING.md) and asserts them; `make test` runs a short form, which asserts that all hear all.

use std::cell::{Cell, RefCell};
use std::f32::consts::TAU;
use std::rc::Rc;
use std::time::{Duration, Instant};

use client::room::{Event, Room};
use client::rtp::Header;
use futures_util::future::join_all;
use opusic_c::{Application, Channels, Decoder, Encoder, SampleRate};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::measure::amplitude;
use super::{Scene, harness};

const IN_A_ROOM: usize = 5;
/// Rooms in which something is measured at the same time.
const AT_ONCE: usize = 4;
/// What `Scene::peer` asks for.
const SLOTS: usize = 8;
const FRAME: Duration = Duration::from_millis(20);
/// Samples of a frame at the rate of a telephone.
const SAMPLES: usize = 160;
/// Each telephone of a room says a tone of its own beside its voice.
const MARKS: [f32; IN_A_ROOM] = [1600.0, 1700.0, 1800.0, 1900.0, 2000.0];
/// The sound whose way is measured, and how long it is.
const PROBE: f32 = 2700.0;
const PROBE_FRAMES: u32 = 10;

const SETTLING: Duration = Duration::from_secs(3);

/// How much is measured.
struct Form {
    rooms: usize,
    /// How often in each room a telephone says the probe, and the peer.
    probes: usize,
    /// How long it is waited for each, in which it is heard also where the machine is busy with other tests.
    rest: Duration,
    is_full: bool,
}

const FULL: Form = Form { rooms: 20, probes: 3, rest: Duration::from_millis(700), is_full: true };
const SHORT: Form = Form { rooms: 2, probes: 1, rest: Duration::from_millis(1500), is_full: false };

/// Cores that the gateway may take, milliseconds that 95 of 100 sounds may take, and the part of all packets that may be lost.
const CORES_MAX: f64 = 1.0;
const WAY_MS_MAX: f64 = 80.0;
const LOST_MAX: f64 = 0.001;

/// µ-law by its definition (G.711).
pub(crate) fn mu(sample: f32) -> u8 {
    let value = (sample * 32_768.0) as i32;
    let (sign, magnitude) = (if value < 0 { 0x80 } else { 0 }, (value.abs() + 132).min(32_767));
    let exponent = 31 - (magnitude as u32).leading_zeros() - 7;
    !(sign | (exponent << 4) as u8 | (magnitude >> (exponent + 3) & 0xF) as u8)
}

pub(crate) fn unmu(code: u8) -> f32 {
    let code = !code;
    let magnitude = ((i32::from(code & 0xF) << 3) + 132) << (code >> 4 & 7);
    let value = (magnitude - 132) as f32 / 32_768.0;
    if code & 0x80 == 0 { value } else { -value }
}

/// Two seconds of somebody who speaks without a pause: a gliding pitch with its harmonics, in syllables, and a tone.
fn voice(of: usize) -> Vec<f32> {
    let mut phase = 0.0;
    let sample = |at: usize| {
        let time = at as f32 / 8000.0;
        phase += TAU * (100.0 + 15.0 * of as f32 + 20.0 * (TAU * time).sin()) / 8000.0;
        let harmonics: f32 = (1..=8).map(|n| (phase * n as f32).sin() / n as f32).sum();
        let syllable = 0.6 + 0.4 * (TAU * 4.0 * time).sin();
        0.06 * syllable * harmonics + 0.04 * (TAU * MARKS[of] * time).sin()
    };
    (0..16_000).map(sample).collect()
}

fn probe(at: usize, rate: u32) -> f32 {
    0.25 * (TAU * PROBE * at as f32 / rate as f32).sin()
}

/// What a stream is in.
#[derive(Clone, Copy)]
enum Codec {
    Pcmu,
    Opus,
}

/// What an ear has received of one stream, packet by packet as they came. They are decoded when somebody wants to know: that a
/// hundred telephones decode would cost the machine more than the gateway does.
#[derive(Clone)]
struct Heard {
    codec: Codec,
    packets: Vec<(Instant, Vec<u8>)>,
    /// How many have come, and the first and the last sequence number, counted on.
    count: u64,
    seqs: Option<(u64, u64)>,
}

impl Heard {
    fn new(codec: Codec) -> Heard {
        Heard { codec, packets: Vec::new(), count: 0, seqs: None }
    }

    /// Keeps two seconds.
    fn put(&mut self, at: Instant, seq: u16, payload: &[u8]) {
        self.count += 1;
        let (first, last) = self.seqs.unwrap_or((1 << 16 | u64::from(seq), 1 << 16 | u64::from(seq)));
        let seq = last.wrapping_add_signed(i64::from(seq.wrapping_sub(last as u16).cast_signed()));
        self.seqs = Some((first, last.max(seq)));
        self.packets.push((at, payload.to_vec()));
        let surplus = self.packets.len().saturating_sub(100);
        self.packets.drain(..surplus);
    }

    /// Packets that did not come between the first and the last one.
    fn lost(&self) -> u64 {
        self.seqs.map_or(0, |(first, last)| (last - first + 1).saturating_sub(self.count))
    }

    fn rate(&self) -> u32 {
        match self.codec {
            Codec::Pcmu => 8000,
            Codec::Opus => 48_000,
        }
    }

    /// All of it as samples.
    fn frames(&self) -> Vec<(Instant, Vec<f32>)> {
        let mut decoder = Decoder::new(Channels::Mono, SampleRate::Hz48000).unwrap();
        let mut decode = |payload: &[u8]| match self.codec {
            Codec::Pcmu => payload.iter().map(|code| unmu(*code)).collect(),
            Codec::Opus => {
                let mut frame = [0.0; 5760];
                let len = decoder.decode_float_to_slice(payload, &mut frame, false).unwrap();
                frame[..len].to_vec()
            }
        };
        self.packets.iter().map(|(at, payload)| (*at, decode(payload))).collect()
    }

    /// When the probe was heard first after this time: the first 5 ms in which half of its amplitude is, to the millisecond.
    fn onset(&self, since: Instant) -> Option<Instant> {
        let rate = self.rate();
        let (window, hop) = ((rate / 200) as usize, (rate / 1000) as usize);
        let frames = self.frames().into_iter().filter(|(at, _)| *at >= since);
        let (mut samples, mut begins) = (Vec::new(), Vec::new());
        for (at, frame) in frames {
            begins.push((samples.len(), at));
            samples.extend(frame);
        }
        let loudness = |at: usize| amplitude_of(&samples[at..at + window], rate);
        let onset = (0..samples.len().checked_sub(window)?).step_by(hop).find(|&at| loudness(at) > 0.1)? + window / 2;
        let (begin, at) = begins.iter().rev().find(|(begin, _)| *begin <= onset)?;
        Some(*at + Duration::from_secs_f64((onset - begin) as f64 / f64::from(rate)))
    }

    /// How loud a tone was in the last second.
    fn loudness(&self, hertz: f32) -> f32 {
        let frames = self.frames();
        let last: Vec<f32> = frames.iter().rev().take(50).rev().flat_map(|(_, frame)| frame).copied().collect();
        amplitude(&last, self.rate(), hertz)
    }
}

fn amplitude_of(samples: &[f32], rate: u32) -> f32 {
    let parts = samples.iter().enumerate().map(|(at, sample)| {
        let (sin, cos) = (TAU * PROBE * at as f32 / rate as f32).sin_cos();
        (sample * cos, sample * sin)
    });
    let (re, im) = parts.fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    2.0 * f32::hypot(re, im) / samples.len() as f32
}

/// Whoever is in a room: what it hears, and where it is told to say the probe. It says when it began.
struct Voice {
    heard: Rc<RefCell<Vec<Heard>>>,
    /// Packets of RTP that it has sent.
    sent: Rc<Cell<u64>>,
    say: mpsc::UnboundedSender<()>,
    said: mpsc::UnboundedReceiver<Instant>,
    task: JoinHandle<()>,
}

/// What a task of a voice has of it.
struct Inside {
    heard: Rc<RefCell<Vec<Heard>>>,
    say: mpsc::UnboundedReceiver<()>,
    said: mpsc::UnboundedSender<Instant>,
    sent: Rc<Cell<u64>>,
    /// Frames of the probe that are still to be said.
    left: u32,
}

impl Inside {
    /// Which frame of the probe is in the packet that is sent now.
    fn frame(&mut self) -> Option<usize> {
        if self.left == 0 && self.say.try_recv().is_ok() {
            self.left = PROBE_FRAMES;
            self.said.send(Instant::now()).unwrap();
        }
        self.left = self.left.checked_sub(1)?;
        Some((PROBE_FRAMES - 1 - self.left) as usize)
    }
}

fn voices(heard: Vec<Heard>) -> (impl FnOnce(JoinHandle<()>) -> Voice, Inside) {
    let (heard, sent) = (Rc::new(RefCell::new(heard)), Rc::new(Cell::new(0)));
    let ((say, told), (said, hears)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let inside = Inside { heard: Rc::clone(&heard), say: told, said, sent: Rc::clone(&sent), left: 0 };
    (move |task| Voice { heard, sent, say, said: hears, task }, inside)
}

/// Calls a number by UDP with PCMU, and speaks as the `of`-th of its room until nobody can tell it to say anything; then it hangs up.
async fn telephone(scene: &Scene, number: &str, of: usize) -> Voice {
    let (sip, rtp) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    sip.connect(scene.sip).await.unwrap();
    let (own, port) = (sip.local_addr().unwrap(), rtp.local_addr().unwrap().port());
    let sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
    );
    let request = |method: &str, to: &str, body: &str| {
        format!(
            "{method} sip:{number}@{0} SIP/2.0\r\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{port}{method}\r\n\
             From: <sip:t{port}@{own}>;tag={port}\r\nTo: {to}\r\nCall-ID: c{port}\r\nCSeq: {1} {method}\r\n\
             Contact: <sip:t@{own}>\r\nMax-Forwards: 70\r\nContent-Type: application/sdp\r\nContent-Length: {2}\r\n\r\n{body}",
            scene.sip,
            if method == "BYE" { 2 } else { 1 },
            body.len()
        )
    };
    sip.send(request("INVITE", &format!("<sip:{number}@{}>", scene.sip), &sdp).as_bytes()).await.unwrap();
    let answer = async {
        let mut datagram = [0; 4096];
        loop {
            let len = sip.recv(&mut datagram).await.unwrap();
            let text = String::from_utf8_lossy(&datagram[..len]).into_owned();
            assert!(text.starts_with("SIP/2.0 1") || text.starts_with("SIP/2.0 200"), "{text}");
            if text.starts_with("SIP/2.0 200") {
                return text;
            }
        }
    };
    let answer = timeout(harness::DEADLINE, answer).await.expect("an answer");
    let line = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)).expect(name);
    sip.send(request("ACK", line("To: "), "").as_bytes()).await.unwrap();
    let bye = request("BYE", line("To: "), "");
    let there: u16 = line("m=audio ").split(' ').next().unwrap().parse().unwrap();
    rtp.connect((scene.sip.ip(), there)).await.unwrap();
    let (made, mut inside) = voices(vec![Heard::new(Codec::Pcmu)]);
    let spoken = voice(of);
    let coded: Vec<u8> = spoken.iter().map(|sample| mu(*sample)).collect();
    made(spawn_local(async move {
        let mut ticks = interval(FRAME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut number, mut datagram) = (0u32, [0; 2048]);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if inside.say.is_closed() {
                        break;
                    }
                    let mut packet = vec![0x80, 0];
                    packet.extend((number as u16).to_be_bytes());
                    packet.extend((number * SAMPLES as u32).to_be_bytes());
                    packet.extend(u32::from(port).to_be_bytes());
                    let begin = number as usize * SAMPLES % spoken.len();
                    match inside.frame() {
                        None => packet.extend(&coded[begin..begin + SAMPLES]),
                        Some(frame) => packet.extend((0..SAMPLES).map(|at| {
                            mu(spoken[begin + at] + probe(frame * SAMPLES + at, 8000))
                        })),
                    }
                    rtp.send(&packet).await.unwrap();
                    number += 1;
                    inside.sent.set(number.into());
                }
                received = rtp.recv(&mut datagram) => {
                    let datagram = &datagram[..received.unwrap()];
                    let header = Header::parse(datagram).unwrap();
                    inside.heard.borrow_mut()[0].put(Instant::now(), header.seq, &datagram[header.len..]);
                }
            }
        }
        sip.send(bye.as_bytes()).await.unwrap();
        let len = timeout(harness::DEADLINE, sip.recv(&mut datagram)).await.expect("an answer to BYE").unwrap();
        assert!(datagram[..len].starts_with(b"SIP/2.0 200"), "{}", String::from_utf8_lossy(&datagram[..len]));
    }))
}

/// A peer of the room, which sends the probe and nothing else.
async fn peer(scene: &Scene, room: &str) -> Voice {
    let mut peer: Room = scene.peer(room, "peer", true).await;
    let (made, mut inside) = voices((0..SLOTS).map(|_| Heard::new(Codec::Opus)).collect());
    made(spawn_local(async move {
        let mut encoder = Encoder::new(Channels::Mono, SampleRate::Hz48000, Application::Voip).unwrap();
        let mut ticks = interval(FRAME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut timestamp = 0;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if inside.say.is_closed() {
                        break;
                    }
                    timestamp += 960;
                    let Some(frame) = inside.frame() else { continue };
                    let sound: Vec<f32> = (0..960).map(|at| probe(frame * 960 + at, 48_000)).collect();
                    let mut packet = [0; 1000];
                    let len = encoder.encode_float_to_slice(&sound, &mut packet).unwrap();
                    let _ = peer.send_audio(timestamp, packet[..len].to_vec());
                }
                event = peer.next() => match event {
                    Event::Packet(packet) => {
                        let heard = &mut inside.heard.borrow_mut()[packet.slot];
                        heard.put(packet.arrival, packet.header.seq, &packet.payload);
                    }
                    Event::Ended(reason) => panic!("{reason}"),
                    _ => (),
                },
            }
        }
        assert_eq!(peer.overflowed(), 0);
        peer.leave().await;
    }))
}

/// When a probe was said, and what an ear has received about then.
struct Said(Instant, Vec<Heard>);

impl Said {
    /// Milliseconds until it was heard. The ear of a peer has several streams, and hears it where it comes first.
    fn way(&self) -> Option<f64> {
        let heard = self.1.iter().filter_map(|stream| stream.onset(self.0)).min()?;
        Some((heard - self.0).as_secs_f64() * 1000.0)
    }
}

/// Has one of them say the probe, and takes down what the others hear. It is looked at when all is over, as looking takes time
/// that the gateway would wait for.
async fn measure(mouth: &mut Voice, ears: &[Rc<RefCell<Vec<Heard>>>], rest: Duration) -> Vec<Said> {
    mouth.say.send(()).unwrap();
    let said = mouth.said.recv().await.expect("it speaks");
    sleep(rest).await;
    ears.iter().map(|ear| Said(said, ear.borrow().clone())).collect()
}

/// Prints how long these took, and says what 95 of 100 did not exceed, and how many were not heard.
fn print(name: &str, said: &[Said]) -> (f64, usize) {
    let mut ways: Vec<f64> = said.iter().filter_map(Said::way).collect();
    assert!(!ways.is_empty(), "{name}: nothing is heard");
    ways.sort_by(f64::total_cmp);
    let at = |part: f64| ways[((ways.len() - 1) as f64 * part).ceil() as usize];
    let (median, most, longest) = (at(0.5), at(0.95), at(1.0));
    let unheard = said.len() - ways.len();
    println!("{name}: median {median:.0} ms, 95 % {most:.0} ms, longest {longest:.0} ms, of {}", ways.len());
    (most, unheard)
}

/// From a telephone to the others, from it to the peer, and from the peer to the telephones.
async fn probe_room((peer, telephones): &mut (Voice, Vec<Voice>), rest: Duration) -> [Vec<Said>; 3] {
    let ears = |telephones: &[Voice]| telephones.iter().map(|one| Rc::clone(&one.heard)).collect::<Vec<_>>();
    let others = ears(&telephones[1..]);
    [
        measure(&mut telephones[0], &others, rest).await,
        measure(&mut telephones[0], &[Rc::clone(&peer.heard)], rest).await,
        measure(peer, &ears(telephones), rest).await,
    ]
}

fn memory_kib(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("PSS");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn many_telephones_hear_each_other() {
    let is_full = std::env::var_os("TELEPHONES").is_some_and(|value| value == "full");
    let form = if is_full { FULL } else { SHORT };
    let numbers: String =
        (0..form.rooms).map(|room| format!("[[number]]\nnumber = \"{}\"\nroom = \"r{room}\"\n", 200 + room)).collect();
    let scene = Scene::start(&format!("calls-per-source-max = 100\ninvites-per-second = 100.0\n{numbers}"));
    LocalSet::new().block_on(&super::runtime(), measure_all(&scene, &form));
}

async fn measure_all(scene: &Scene, form: &Form) {
    let mut all = Vec::new();
    for room in 0..form.rooms {
        let peer = peer(scene, &format!("r{room}")).await;
        let mut telephones = Vec::new();
        for of in 0..IN_A_ROOM {
            telephones.push(telephone(scene, &(200 + room).to_string(), of).await);
            // So that their frames begin at different times.
            sleep(Duration::from_micros(20_300 + 700 * room as u64)).await;
        }
        all.push((peer, telephones));
    }
    // What was late while all of them joined has gone after that.
    sleep(SETTLING).await;
    let gateway = scene.gateway.id();
    let (begun, before) = (Instant::now(), harness::cpu(gateway));
    let mut ways: [Vec<Said>; 3] = Default::default();
    for _ in 0..form.probes {
        // Some at a time, so that what measures does not weigh.
        for rooms in all.chunks_mut(AT_ONCE) {
            for measured in join_all(rooms.iter_mut().map(|room| probe_room(room, form.rest))).await {
                ways.iter_mut().zip(measured).for_each(|(all, more)| all.extend(more));
            }
        }
    }
    let (seconds, used) = (begun.elapsed().as_secs_f64(), harness::cpu(gateway) - before);
    let (cores, kib, calls) = (used / seconds, memory_kib(gateway), form.rooms * IN_A_ROOM);
    println!("{calls} telephones in {} rooms, {seconds:.0} s: {cores:.2} cores, {kib} KiB", form.rooms);
    let names = ["telephone to telephone", "telephone to peer", "peer to telephone"];
    let printed: Vec<(f64, usize)> = ways.iter().zip(names).map(|(ways, name)| print(name, ways)).collect();
    let longest = printed.iter().map(|(most, _)| *most).fold(0.0, f64::max);
    let unheard: usize = printed.iter().map(|(_, unheard)| unheard).sum();
    assert_eq!(unheard, 0, "sounds that were not heard");
    for (_, telephones) in &all {
        for (of, telephone) in telephones.iter().enumerate() {
            let heard = telephone.heard.borrow();
            let marks = MARKS.map(|hertz| heard[0].loudness(hertz));
            for (other, loudness) in marks.into_iter().enumerate() {
                assert!(if other == of { loudness < 0.003 } else { loudness > 0.006 }, "{of} hears {marks:?}");
            }
        }
    }
    let lost = lost(scene, all).await;
    if form.is_full {
        assert!(cores <= CORES_MAX && longest <= WAY_MS_MAX && lost <= LOST_MAX, "{cores} {longest} {lost}");
    }
}

/// All hang up; what part of all packets was lost on the way, or came too late.
async fn lost(scene: &Scene, all: Vec<(Voice, Vec<Voice>)>) -> f64 {
    let (mut sent, mut heard, mut lost) = (0, 0, 0);
    for (peer, telephones) in all {
        for (voice, is_telephone) in telephones.into_iter().map(|one| (one, true)).chain([(peer, false)]) {
            drop(voice.say);
            voice.task.await.unwrap();
            sent += if is_telephone { voice.sent.get() } else { 0 };
            heard += voice.heard.borrow().iter().map(|stream| stream.count).sum::<u64>();
            lost += voice.heard.borrow().iter().map(Heard::lost).sum::<u64>();
        }
    }
    let is_over = async {
        while scene.metric("calls") > 0 {
            sleep(FRAME).await;
        }
    };
    timeout(harness::DEADLINE, is_over).await.expect("all have hung up");
    // The last calls count a moment later.
    sleep(Duration::from_millis(200)).await;
    let names = ["rtp_received", "rtp_lost", "rtp_dropped_late", "room_packets_lost", "room_packets_late"];
    let [received, missing, late, room_lost, room_late] = names.map(|name| scene.metric(&format!("{name}_total")));
    println!(
        "telephones sent {sent} packets; the gateway received {received}, missed {missing}, and {late} came too late"
    );
    println!("of the rooms' packets the gateway missed {room_lost}, and {room_late} came too late");
    println!("telephones and peers received {heard} packets, and missed {lost}");
    assert!(received <= sent && received > 0, "{received} of {sent}");
    let gone = sent - received + late + room_late + room_lost + lost;
    gone as f64 / (sent + heard) as f64
}
