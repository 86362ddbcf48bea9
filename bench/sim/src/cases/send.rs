//! The sending side of a client: a microphone, a camera in several encodings, and libwebrtc's congestion control, which the crate
//! `goog_cc` is a port of. It follows the server's transport-cc feedback, sends probes, and repairs what the server asks for.
//!
//! The rate that `goog_cc` permits goes to sound first and then to the encodings, the lowest first; an encoding whose least rate is
//! not left is off. Packets leave at 2.5 times that rate (libwebrtc `kDefaultPaceMultiplier`).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use dataplane::Micros;
use goog_cc::experiments::{CongestionWindowConfig, FieldTrials};
use goog_cc::network_control::{NetworkControllerConfig, NetworkControllerInterface};
use goog_cc::transport::{
    NetworkAvailability, NetworkControlUpdate, PacedPacketInfo, PacketResult, ProbeClusterConfig, ProcessInterval,
    SentPacket, StreamsConfig, TransportPacketsFeedback,
};
use goog_cc::units::{DataRate, DataSize, TimeDelta, Timestamp};
use goog_cc::{AlrDetectorConfig, GoogCcConfig, GoogCcNetworkController, LossBasedBweV2Config};
use rtcp::sender_report::SenderReport;
use rtcp::transport_feedbacks::transport_layer_cc::{
    PacketStatusChunk, StatusChunkTypeTcc, SymbolTypeTcc, TransportLayerCc,
};
use rtp::packet::Packet;

use super::content::{self, Mark, Vp8};
use super::path::HEADERS_LEN;
use crate::random::Random;

const MILLISECOND: Micros = 1000;
const SECOND: Micros = 1_000_000;
const AUDIO_INTERVAL: Micros = 20 * MILLISECOND;
/// Opus at 32 kb/s.
const AUDIO_LEN: usize = 80;
/// 25 frames a second.
const VIDEO_INTERVAL: Micros = 40 * MILLISECOND;
const PROCESS_INTERVAL: Micros = 25 * MILLISECOND;
/// A keyframe is so many times as long as another frame, and what follows it is shorter until that is made up for.
const KEYFRAME_FACTOR: f64 = 4.0;
const REPAYING: f64 = 0.75;
const PACING_FACTOR: f64 = 2.5;
/// Who sends less than this part of the estimate is limited by what there is to send, and probes so often.
const ALR_RATIO: f64 = 0.8;
const ALR_PROBE_SECONDS: u32 = 5;
/// An encoding is raised up to this part of the next one's rate (`RAISED_MAX` of the client module).
const RAISED_MAX: f64 = 0.7;
/// An encoder that was made anew is taken for one that exceeds its rate by this, until it has encoded 30 frames (libwebrtc
/// `EncoderBitrateAdjuster::kDefaultUtilizationFactor`, `kMinFramesSinceLayoutChange`).
const OVERSHOOT: f64 = 1.2;
const ADJUSTED_AFTER: Micros = 30 * VIDEO_INTERVAL;
/// Above all ids that `goog_cc` gives to its own probes.
const PROBE_ID_FIRST: i32 = 1 << 20;
/// The tag of AEAD_AES_128_GCM (RFC 7714).
const TAG_LEN: usize = 16;
/// libwebrtc's first estimate and least rate.
const START_BPS: i64 = 300_000;
const MIN_BPS: i64 = 30_000;
/// Packets that can be sent again, of each stream.
const HISTORY_MAX: usize = 600;

/// libwebrtc's pattern of three temporal layers: the layer, and whether the frame names the base alone.
const PATTERN: [(u8, bool); 4] = [(0, false), (2, true), (1, true), (2, false)];

/// As Chromium's offer numbers them.
const TRANSPORT_CC_EXTENSION: u8 = 3;
const MID_EXTENSION: u8 = 4;
const RID_EXTENSION: u8 = 10;
const REPAIRED_RID_EXTENSION: u8 = 11;

/// Where a stream's packets go: what the answer and the offer say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// Its m-section.
    pub mid: &'static str,
    /// Of an encoding, its RID.
    pub rid: Option<&'static str>,
    /// Its SSRC and that of its repairs.
    pub ssrc: u32,
    /// … of its repairs.
    pub rtx_ssrc: u32,
    /// Its payload type, and that of its repairs; 0 until the answer.
    pub pt: u8,
    /// … of its repairs.
    pub rtx_pt: u8,
}

/// One stream.
struct Stream {
    line: Line,
    seq: u16,
    rtx_seq: u16,
    timestamp: u32,
    packets: u32,
    octets: u32,
    sent: BTreeMap<u64, Packet>,
    count: u64,
}

impl Stream {
    fn new(line: Line, random: &mut Random) -> Stream {
        Stream {
            line,
            seq: random.below(1 << 16) as u16,
            rtx_seq: random.below(1 << 16) as u16,
            timestamp: random.below(1 << 32) as u32,
            packets: 0,
            octets: 0,
            sent: BTreeMap::new(),
            count: 0,
        }
    }

    fn packet(&mut self, payload: Vec<u8>, marker: bool) -> Packet {
        let mut packet = Packet::default();
        let header = &mut packet.header;
        (header.version, header.marker, header.payload_type) = (2, marker, self.line.pt);
        (header.sequence_number, header.timestamp, header.ssrc) = (self.seq, self.timestamp, self.line.ssrc);
        header.set_extension(MID_EXTENSION, Bytes::from_static(self.line.mid.as_bytes())).expect("one byte");
        if let Some(rid) = self.line.rid {
            header.set_extension(RID_EXTENSION, Bytes::from_static(rid.as_bytes())).expect("one byte");
        }
        self.seq = self.seq.wrapping_add(1);
        self.packets += 1;
        self.octets = self.octets.wrapping_add(payload.len() as u32);
        packet.payload = payload.into();
        self.sent.insert(self.count, packet.clone());
        self.count += 1;
        while self.sent.len() > HISTORY_MAX {
            self.sent.pop_first();
        }
        packet
    }

    /// A packet that was sent, again: of video as RTX, of audio as itself.
    fn again(&mut self, of: impl Fn(&Packet) -> bool) -> Option<Packet> {
        let original = self.sent.values().rev().find(|packet| of(packet))?;
        let mut again = original.clone();
        if self.line.rtx_pt != 0 {
            let seq = original.header.sequence_number;
            again.payload = Bytes::from([&seq.to_be_bytes()[..], &original.payload].concat());
            (again.header.ssrc, again.header.payload_type) = (self.line.rtx_ssrc, self.line.rtx_pt);
            again.header.sequence_number = self.rtx_seq;
            self.rtx_seq = self.rtx_seq.wrapping_add(1);
            if let Some(rid) = self.line.rid {
                let _ = again.header.del_extension(RID_EXTENSION);
                again
                    .header
                    .set_extension(REPAIRED_RID_EXTENSION, Bytes::from_static(rid.as_bytes()))
                    .expect("one byte");
            }
        }
        Some(again)
    }

    fn report(&self, ntp_time: u64) -> SenderReport {
        SenderReport {
            ssrc: self.line.ssrc,
            ntp_time,
            rtp_time: self.timestamp,
            packet_count: self.packets,
            octet_count: self.octets,
            ..SenderReport::default()
        }
    }
}

/// One encoding of the camera.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encoding {
    /// Its RID.
    pub rid: &'static str,
    /// Lines of its pictures.
    pub height: u32,
    /// The rate that it has if nothing limits it, kilobits per second. With less than a third of it, it is off.
    pub kbps: u64,
}

struct Encoder {
    encoding: Encoding,
    stream: Stream,
    /// What it is given, bit/s; 0 is off.
    bps: f64,
    is_paused: bool,
    /// What its receivers have room for, bit/s; 0 if nobody said it.
    told_bps: f64,
    wants_keyframe: bool,
    frame: u32,
    /// Bytes by which its frames were longer than its rate.
    debt: f64,
    /// With temporal layers: the place in [`PATTERN`], TL0PICIDX, and the last frame of the base and of the next layer.
    place: usize,
    base: u8,
    last: [u32; 2],
}

impl Encoder {
    /// The payloads of the next frame, if the camera has temporal layers.
    fn layered(&mut self, mark: Mark, len: usize) -> Vec<Vec<u8>> {
        self.place = if mark.is_keyframe() { 0 } else { self.place + 1 };
        let (layer, is_sync) = PATTERN[self.place % PATTERN.len()];
        let refers_to = match (layer, is_sync) {
            _ if mark.is_keyframe() => mark.frame,
            (2, false) => self.last[1],
            _ => self.last[0],
        };
        self.base = self.base.wrapping_add(u8::from(layer == 0));
        if let Some(last) = self.last.get_mut(usize::from(layer)) {
            *last = mark.frame;
        }
        let vp8 = Vp8 { id: mark.frame as u16 & 0x7fff, base: self.base, layer, is_sync };
        content::vp8_frame(Mark { refers_to, ..mark }, vp8, self.encoding.height, len)
    }
}

struct Probe {
    config: ProbeClusterConfig,
    began_at: Micros,
    bytes: i64,
    packets: i64,
}

/// See the module.
pub struct Sender {
    publisher: u16,
    random: Random,
    audio: Stream,
    encoders: Vec<Encoder>,
    goog: GoogCcNetworkController,
    /// What `goog_cc` permits, bit/s.
    target_bps: f64,
    probes: VecDeque<ProbeClusterConfig>,
    probe: Option<Probe>,
    probe_id: i32,
    probe_seconds: u32,
    /// Bytes that were sent since it was last looked whether to probe.
    sent_bytes: usize,
    /// Packets of video and repairs that wait for the pacer.
    queue: VecDeque<Packet>,
    budget: f64,
    /// Packets that are to be sent again, when each was last, and bytes that may be.
    again: VecDeque<Packet>,
    again_at: BTreeMap<(u32, u16), Micros>,
    again_credit: f64,
    /// From a packet's departure to the feedback on it.
    rtt: Micros,
    /// Of the transport-wide sequence numbers.
    seq: u64,
    unreported: BTreeMap<u64, SentPacket>,
    clock: Option<(u32, i64)>,
    audio_at: Micros,
    video_at: Micros,
    process_at: Micros,
    demand_at: Micros,
    paced_at: Micros,
    /// When it was last told what to send: its encoders are made anew then.
    reconfigured_at: Option<Micros>,
    /// Whether the camera is on.
    pub is_on: bool,
    /// Whether it is VP8 with three temporal layers (L1T3), and not H.264.
    pub has_layers: bool,
    /// Packets that leave now.
    pub out: Vec<Packet>,
}

impl Sender {
    /// A microphone, and a camera in these encodings.
    pub fn new(publisher: u16, audio: Line, video: &[(Line, Encoding)], now: Micros, mut random: Random) -> Sender {
        let encoder = |&(line, encoding): &(Line, Encoding)| Encoder {
            encoding,
            stream: Stream::new(line, &mut random),
            bps: 0.0,
            is_paused: false,
            told_bps: 0.0,
            wants_keyframe: true,
            frame: 0,
            debt: 0.0,
            place: 0,
            base: 0,
            last: [0; 2],
        };
        let encoders = video.iter().map(encoder).collect();
        let begin = now + random.below(VIDEO_INTERVAL);
        let mut goog = controller(now);
        let up = NetworkAvailability { at_time: timestamp(now), network_available: true };
        let update = goog.on_network_availability(up);
        Sender {
            publisher,
            audio: Stream::new(audio, &mut random),
            encoders,
            goog,
            target_bps: START_BPS as f64,
            probes: update.probe_cluster_configs.into(),
            probe: None,
            probe_id: PROBE_ID_FIRST,
            probe_seconds: 0,
            sent_bytes: 0,
            queue: VecDeque::new(),
            budget: 0.0,
            again: VecDeque::new(),
            again_at: BTreeMap::new(),
            again_credit: 0.0,
            rtt: 100 * MILLISECOND,
            seq: 1 << 16,
            unreported: BTreeMap::new(),
            clock: None,
            audio_at: begin,
            video_at: begin,
            process_at: now,
            demand_at: now,
            paced_at: now,
            reconfigured_at: None,
            is_on: true,
            has_layers: false,
            out: Vec::new(),
            random,
        }
    }

    /// What `goog_cc` permits, bit/s.
    pub fn target_bps(&self) -> u64 {
        self.target_bps as u64
    }

    /// Time passes: what is due is in `out`.
    pub fn step(&mut self, now: Micros) {
        while self.process_at <= now {
            let at_time = timestamp(self.process_at);
            if self.process_at >= self.demand_at {
                self.demand_at = self.process_at + SECOND;
                self.tell_demand(at_time);
            }
            let update = self.goog.on_process_interval(ProcessInterval { at_time, pacer_queue: None });
            self.take(update);
            self.process_at += PROCESS_INTERVAL;
        }
        if self.audio_at <= now {
            self.audio_at += AUDIO_INTERVAL;
            self.audio.timestamp = self.audio.timestamp.wrapping_add(960);
            let packet = self.audio.packet(vec![0x7e; AUDIO_LEN], false);
            self.leave(now, packet, None);
        }
        if self.video_at <= now {
            self.video_at += VIDEO_INTERVAL;
            self.capture(now);
        }
        self.pace(now);
    }

    /// What all of it would take.
    fn tell_demand(&mut self, at_time: Timestamp) {
        let video = self.encoders.iter().filter(|encoder| self.is_on && !encoder.is_paused);
        let kbps: u64 = video.map(|encoder| encoder.encoding.kbps).sum();
        let update = self.goog.on_streams_config(StreamsConfig {
            at_time,
            requests_alr_probing: Some(false),
            max_total_allocated_bitrate: Some(DataRate::from_kilobits_per_sec(kbps as i64 + 64)),
            ..StreamsConfig::default()
        });
        self.take(update);
        self.probe_further(at_time, kbps as f64 * 1000.0);
    }

    /// In the application-limited region libwebrtc probes each 5 s at twice the estimate. `goog_cc` measures that region by the clock
    /// of the machine, so these probes are made here.
    fn probe_further(&mut self, at_time: Timestamp, wanted_bps: f64) {
        let sent_bps = std::mem::take(&mut self.sent_bytes) as f64 * 8.0;
        self.probe_seconds += 1;
        let is_limited = sent_bps < ALR_RATIO * self.target_bps && self.target_bps < wanted_bps;
        if self.probe_seconds >= ALR_PROBE_SECONDS && is_limited {
            self.probe_seconds = 0;
            self.probe_id += 1;
            self.probes.push_back(ProbeClusterConfig {
                at_time,
                target_data_rate: DataRate::from_bits_per_sec((2.0 * self.target_bps) as i64),
                target_duration: TimeDelta::from_millis(15),
                min_probe_delta: TimeDelta::from_millis(2),
                target_probe_count: 5,
                id: self.probe_id,
            });
        }
    }

    fn take(&mut self, update: NetworkControlUpdate) {
        if let Some(target) = update.target_rate {
            self.target_bps = target.target_rate.bps_float();
        }
        self.probes.extend(update.probe_cluster_configs);
    }

    /// Divides what is permitted among the encodings.
    fn allocate(&mut self, now: Micros) {
        let is_new = self.reconfigured_at.is_some_and(|at| now < at + ADJUSTED_AFTER);
        let audio = ((AUDIO_LEN + 60) * 8) as f64 * (SECOND / AUDIO_INTERVAL) as f64;
        // Headers of video take about a twelfth.
        let mut left = ((self.target_bps - audio) * 0.92).max(0.0);
        let own: Vec<f64> = self.encoders.iter().map(|encoder| encoder.encoding.kbps as f64 * 1000.0).collect();
        for (at, encoder) in self.encoders.iter_mut().enumerate() {
            // As the client module: it stays below the next one.
            let limit = own.get(at + 1).map_or(0.0, |next| next * RAISED_MAX);
            let most = encoder.told_bps.min(limit).max(own[at]);
            let least = if at == 0 { 0.0 } else { most / 3.0 * if encoder.bps > 0.0 { 1.0 } else { 1.2 } };
            let bps = if encoder.is_paused || !self.is_on || left < least { 0.0 } else { left.min(most).max(20_000.0) };
            let bps = if is_new { bps / OVERSHOOT } else { bps };
            encoder.wants_keyframe |= encoder.bps == 0.0;
            encoder.bps = bps;
            left = (left - bps).max(0.0);
        }
    }

    /// Frames of all encodings that are on, of the same moment.
    fn capture(&mut self, now: Micros) {
        self.allocate(now);
        for (at, encoder) in self.encoders.iter_mut().enumerate() {
            encoder.stream.timestamp =
                encoder.stream.timestamp.wrapping_add(90 * (VIDEO_INTERVAL / MILLISECOND) as u32);
            let varies = 0.8 + self.random.below(401) as f64 / 1000.0;
            if encoder.bps == 0.0 {
                continue;
            }
            let even = encoder.bps / 8.0 * VIDEO_INTERVAL as f64 / SECOND as f64;
            let is_keyframe = std::mem::take(&mut encoder.wants_keyframe);
            let factor = match is_keyframe {
                true => KEYFRAME_FACTOR,
                false if encoder.debt > 0.0 => REPAYING,
                false => 1.0,
            };
            let len = even * factor * varies;
            encoder.debt = (encoder.debt + even * (factor - 1.0)).max(0.0);
            encoder.frame += 1;
            let refers_to = if is_keyframe { encoder.frame } else { encoder.frame - 1 };
            let (frame, encoding) = (encoder.frame, at as u8);
            let mark = Mark { publisher: self.publisher, encoding, n: 0, count: 0, frame, refers_to };
            let payloads = match self.has_layers {
                true => encoder.layered(mark, len as usize),
                false => content::frame(mark, encoder.encoding.height, len as usize),
            };
            let last = payloads.len() - 1;
            for (n, payload) in payloads.into_iter().enumerate() {
                self.queue.push_back(encoder.stream.packet(payload, n == last));
            }
        }
    }

    fn pace(&mut self, now: Micros) {
        let elapsed = (now - self.paced_at) as f64 / SECOND as f64;
        self.paced_at = now;
        let bps = self.target_bps * PACING_FACTOR;
        self.budget = (self.budget + bps * elapsed / 8.0).min(bps * 0.005 / 8.0 + 1500.0);
        self.again_credit = (self.again_credit + self.target_bps * elapsed / 8.0).min(self.target_bps / 8.0);
        self.probe(now);
        while self.budget > 0.0
            && let Some(packet) = self.again.pop_front().or_else(|| self.queue.pop_front())
        {
            self.budget -= self.leave(now, packet, None) as f64;
        }
    }

    /// Sends what a probe needs at this moment: media if there is some, else what was sent before.
    fn probe(&mut self, now: Micros) {
        if self.probe.is_none() {
            self.probe = self.probes.pop_front().map(|config| Probe { config, began_at: now, bytes: 0, packets: 0 });
        }
        while let Some(probe) = &self.probe {
            let bps = probe.config.target_data_rate.bps_float();
            let seconds = (now - probe.began_at + MILLISECOND) as f64 / SECOND as f64;
            if probe.bytes as f64 * 8.0 > bps * seconds {
                return;
            }
            let bytes_min = (bps * probe.config.target_duration.seconds_float() / 8.0) as i64;
            let info = PacedPacketInfo::new(probe.config.id, probe.config.target_probe_count.into(), bytes_min);
            let packets_min = i64::from(probe.config.target_probe_count);
            let padding = |sender: &mut Sender| sender.encoders.iter_mut().find_map(|e| e.stream.again(|_| true));
            let media = self.again.pop_front().or_else(|| self.queue.pop_front());
            let Some(packet) = media.or_else(|| padding(self)) else {
                // It begins with the first packets of video.
                self.probes.push_front(self.probe.take().expect("it is being sent").config);
                return;
            };
            let len = self.leave(now, packet, Some(info)) as i64;
            if let Some(probe) = &mut self.probe {
                (probe.bytes, probe.packets) = (probe.bytes + len, probe.packets + 1);
                if probe.bytes >= bytes_min && probe.packets >= packets_min {
                    self.probe = None;
                }
            }
        }
    }

    /// A packet leaves under the next transport-wide number. Its length on the network.
    fn leave(&mut self, now: Micros, mut packet: Packet, probe: Option<PacedPacketInfo>) -> usize {
        self.seq += 1;
        let number = Bytes::copy_from_slice(&(self.seq as u16).to_be_bytes());
        packet.header.set_extension(TRANSPORT_CC_EXTENSION, number).expect("a one-byte extension");
        let len = webrtc_util::marshal::MarshalSize::marshal_size(&packet) + TAG_LEN + HEADERS_LEN;
        let sent = SentPacket {
            send_time: timestamp(now),
            size: DataSize::from_bytes(len as i64),
            sequence_number: self.seq as i64,
            pacing_info: probe.unwrap_or_default(),
            ..SentPacket::default()
        };
        self.sent_bytes += len;
        self.unreported.insert(self.seq, sent);
        while self.unreported.len() > 4096 {
            self.unreported.pop_first();
        }
        let update = self.goog.on_sent_packet(sent);
        self.take(update);
        self.out.push(packet);
        len
    }

    /// Transport-cc feedback of the server.
    pub fn feedback(&mut self, now: Micros, feedback: &TransportLayerCc) {
        // As libwebrtc's TransportFeedbackAdapter unwraps the receiver's clock.
        let reference = feedback.reference_time;
        let start = self.clock.map_or(now as i64, |(before, at)| {
            at + i64::from((reference.wrapping_sub(before) << 8) as i32 >> 8) * 64_000
        });
        self.clock = Some((reference, start));
        let mut at = start;
        let mut report =
            TransportPacketsFeedback { feedback_time: timestamp(now), ..TransportPacketsFeedback::default() };
        let mut deltas = feedback.recv_deltas.iter();
        for (n, symbol) in symbols(feedback).take(feedback.packet_status_count.into()).enumerate() {
            let is_received = symbol != SymbolTypeTcc::PacketNotReceived;
            if is_received {
                at += deltas.next().map_or(0, |delta| delta.delta);
            }
            let seq = feedback.base_sequence_number.wrapping_add(n as u16);
            let seq = self.seq.wrapping_add_signed(i64::from(seq.wrapping_sub(self.seq as u16) as i16));
            let Some(&sent_packet) = self.unreported.get(&seq) else { continue };
            let mut result = PacketResult { sent_packet, ..PacketResult::default() };
            if is_received {
                self.rtt = now - sent_packet.send_time.us() as Micros;
                result.receive_time = timestamp(at as Micros);
                self.unreported.remove(&seq);
            }
            report.packet_feedbacks.push(result);
        }
        if report.packet_feedbacks.iter().any(PacketResult::is_received) {
            let update = self.goog.on_transport_packets_feedback(report);
            self.take(update);
        }
    }

    /// The server lacks packets of a stream. As libwebrtc does, a packet is sent again once in a round trip, and all of them together
    /// at the target's rate at most (`retransmission_rate_limiter`), behind what was asked for before and before what is new.
    pub fn nacked(&mut self, now: Micros, ssrc: u32, seqs: impl Iterator<Item = u16>) {
        for seq in seqs {
            let of = |packet: &Packet| packet.header.sequence_number == seq;
            let before = self.again_at.get(&(ssrc, seq)).copied();
            if before.is_some_and(|at| now < at + self.rtt) || self.again_credit <= 0.0 {
                continue;
            }
            let video = self.encoders.iter_mut().map(|encoder| &mut encoder.stream);
            let mut streams = std::iter::once(&mut self.audio).chain(video);
            let packet = streams.find(|stream| stream.line.ssrc == ssrc).and_then(|stream| stream.again(of));
            let Some(packet) = packet else { continue };
            self.again_credit -= (packet.payload.len() + 60) as f64;
            self.again_at.insert((ssrc, seq), now);
            self.again.push_back(packet);
        }
        self.again_at.retain(|_, at| now < *at + SECOND);
    }

    /// The server wants a keyframe of a stream.
    pub fn keyframe_wanted(&mut self, ssrc: u32) {
        let encoders = self.encoders.iter_mut().filter(|encoder| encoder.stream.line.ssrc == ssrc);
        encoders.for_each(|encoder| encoder.wants_keyframe = true);
    }

    /// Nobody receives these encodings, and somebody all the others, of which some may have a higher rate, bit/s.
    pub fn follow(&mut self, now: Micros, paused: &[String], rates: &[(String, u32)]) {
        self.reconfigured_at = Some(now);
        for encoder in &mut self.encoders {
            encoder.is_paused = paused.iter().any(|rid| rid == encoder.encoding.rid);
            let told = rates.iter().find(|(rid, _)| rid == encoder.encoding.rid);
            encoder.told_bps = told.map_or(0.0, |(_, bps)| f64::from(*bps));
        }
    }

    /// Sender reports of what is being sent.
    pub fn reports(&self, ntp_time: u64) -> Vec<SenderReport> {
        let video = self.encoders.iter().filter(|encoder| encoder.bps > 0.0).map(|encoder| &encoder.stream);
        std::iter::once(&self.audio).chain(video).map(|stream| stream.report(ntp_time)).collect()
    }
}

fn symbols(feedback: &TransportLayerCc) -> impl Iterator<Item = SymbolTypeTcc> + '_ {
    feedback.packet_chunks.iter().flat_map(|chunk| match chunk {
        PacketStatusChunk::RunLengthChunk(run) => vec![run.packet_status_symbol; run.run_length.into()],
        PacketStatusChunk::StatusVectorChunk(vector) => {
            debug_assert_eq!(vector.type_tcc, StatusChunkTypeTcc::StatusVectorChunk);
            vector.symbol_list.clone()
        }
    })
}

fn timestamp(at: Micros) -> Timestamp {
    Timestamp::from_micros(at as i64)
}

/// `goog_cc` with the parameters that Chromium ships, where its own defaults are older.
fn controller(at: Micros) -> GoogCcNetworkController {
    let loss_based_bwe_v2 = LossBasedBweV2Config {
        bw_rampup_upper_bound_factor: 1.5,
        bw_rampup_upper_bound_in_hold_factor: 1.2,
        loss_threshold_of_high_bandwidth_preference: 0.2,
        inherent_loss_upper_bound_bw_balance: DataRate::from_kilobits_per_sec(100),
        instant_upper_bound_bw_balance: DataRate::from_kilobits_per_sec(100),
        observation_window_size: 15,
        use_in_start_phase: true,
        lower_bound_by_acked_rate_factor: 1.0,
        hold_duration_factor: 2.0,
        use_byte_loss_rate: true,
        padding_duration: TimeDelta::from_seconds(2),
        bound_best_candidate: true,
        ..LossBasedBweV2Config::default()
    };
    let alr_detector_parameters = AlrDetectorConfig {
        bandwidth_usage_ratio: 0.65,
        start_budget_level_ratio: 0.80,
        stop_budget_level_ratio: 0.50,
    };
    let congestion_window = CongestionWindowConfig { queue_size_ms: 0, ..CongestionWindowConfig::default() };
    let field_trials =
        FieldTrials { loss_based_bwe_v2, alr_detector_parameters, congestion_window, ..FieldTrials::default() };
    let mut config = NetworkControllerConfig { field_trials, ..NetworkControllerConfig::default() };
    config.constraints.at_time = timestamp(at);
    config.constraints.starting_rate = Some(DataRate::from_bits_per_sec(START_BPS));
    config.constraints.min_data_rate = Some(DataRate::from_bits_per_sec(MIN_BPS));
    config.constraints.max_data_rate = Some(DataRate::from_bits_per_sec(10_000_000));
    GoogCcNetworkController::new(config, GoogCcConfig { feedback_only: true })
}
