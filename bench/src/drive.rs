//! The task of a peer: one loop over its UDP socket, its signalling socket, DTLS, its clock and its handle.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::ice::{Agent, Credentials};
use client::random::Random;
use client::sdp::{self, OfferSection};
use client::signal::{SignalError, Socket};
use proto::signal::{ClientSignal, PeerQuality, ServerSignal};
use rtcp::packet::Packet as RtcpPacket;
use rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::receiver_report::ReceiverReport;
use rtcp::reception_report::ReceptionReport;
use rtcp::sender_report::SenderReport;
use rtcp::source_description::{SdesType, SourceDescription, SourceDescriptionChunk, SourceDescriptionItem};
use rtcp::transport_feedbacks::transport_layer_cc::{PacketStatusChunk, SymbolTypeTcc, TransportLayerCc};
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};
use rtp::packet::Packet;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use webrtc_util::marshal::{Marshal, Unmarshal};

use crate::dtls_srtp::{Dtls, DtlsEvent, Identity, Session};
use crate::framed;
use crate::receive::Slot;
use crate::report::Report;
use crate::send::{Camera, Microphone, Stream, TransportSeq, WallClock};
use crate::settings::{CAMERA, Loss, MICROPHONE, Settings};
use crate::twcc::Arrivals;

/// Between two looks at missing packets, and two updates of the report.
const TICK: Duration = Duration::from_millis(10);
/// Between two sender and receiver reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Between two transport-wide feedbacks, as in libwebrtc.
const ARRIVALS_INTERVAL: Duration = Duration::from_millis(100);
/// The socket of before a move still takes what was on its way.
const OLD_SOCKET_TIME: Duration = Duration::from_secs(1);
/// Datagrams taken from the socket before anything else is looked at.
const BATCH_MAX: usize = 64;
/// More than any datagram of the server: it keeps to 1,200 bytes and a few.
const DATAGRAM_MAX: usize = 2048;
/// Report blocks in one RTCP packet (RFC 3550 §6.4.1: five bits).
const REPORT_BLOCKS_MAX: usize = 31;

/// What the handle asks of the task.
pub(crate) enum Command {
    Microphone(bool),
    Camera(bool),
    SetLoss(Loss),
    Move(UdpSocket),
    Reattach(Box<Socket>),
    CloseSocket,
    Leave,
}

/// What a joined peer starts with.
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) socket: Socket,
    pub(crate) udp: UdpSocket,
    pub(crate) identity: Identity,
    pub(crate) ice: Credentials,
    pub(crate) random: Random,
    pub(crate) sections: Vec<OfferSection>,
    pub(crate) report: Report,
    pub(crate) reports: watch::Sender<Report>,
}

pub(crate) struct Driver {
    settings: Settings,
    socket: Option<Socket>,
    udp: UdpSocket,
    old_udp: Option<(UdpSocket, Instant)>,
    identity: Identity,
    sections: Vec<OfferSection>,
    agent: Agent,
    random: Random,
    fingerprint: Option<[u8; 32]>,
    dtls: Option<Dtls>,
    session: Option<Box<Session>>,
    microphone: Option<Microphone>,
    camera: Option<Camera>,
    transport: TransportSeq,
    arrivals: Arrivals,
    wall: WallClock,
    slots: Vec<Slot>,
    slot_of_ssrc: HashMap<u32, usize>,
    sent: u32,
    received: u32,
    next_tick: Instant,
    next_report: Instant,
    next_arrivals: Instant,
    report: Report,
    reports: watch::Sender<Report>,
}

/// What ended the loop's wait.
enum Wake {
    Time,
    Command(Option<Command>),
    Signal(Option<Result<ServerSignal, SignalError>>),
    Dtls(DtlsEvent),
    DtlsDatagram(Vec<u8>),
    Datagram(usize, SocketAddr),
    Nothing,
}

impl Driver {
    pub(crate) fn new(now: Instant, mut parts: Parts) -> Driver {
        Driver {
            settings: parts.settings,
            socket: Some(parts.socket),
            udp: parts.udp,
            old_udp: None,
            identity: parts.identity,
            sections: parts.sections,
            agent: Agent::new(now, parts.ice, parts.random.fork()),
            random: parts.random,
            fingerprint: None,
            dtls: None,
            session: None,
            microphone: None,
            camera: None,
            transport: TransportSeq::default(),
            arrivals: Arrivals::new(now),
            wall: WallClock::now(),
            slots: Vec::new(),
            slot_of_ssrc: HashMap::new(),
            sent: 0,
            received: 0,
            next_tick: now,
            next_report: now + REPORT_INTERVAL,
            next_arrivals: now,
            report: parts.report,
            reports: parts.reports,
        }
    }

    pub(crate) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut buf = vec![0; DATAGRAM_MAX];
        loop {
            self.handle_due(Instant::now()).await;
            let wake = self.wait(&mut commands, &mut buf).await;
            let now = Instant::now();
            match wake {
                Wake::Command(None) => break,
                Wake::Command(Some(Command::Leave)) => {
                    self.send_signal(&ClientSignal::Leave {}).await;
                    if let Some(socket) = self.socket.take() {
                        socket.close().await;
                    }
                    break;
                }
                Wake::Command(Some(command)) => self.handle_command(now, command).await,
                Wake::Signal(signal) => self.handle_signal(now, signal).await,
                Wake::Dtls(event) => self.handle_dtls(now, event),
                Wake::DtlsDatagram(datagram) => self.transmit(&datagram).await,
                Wake::Datagram(len, from) => {
                    self.receive(now, from, &buf[..len]).await;
                    for _ in 1..BATCH_MAX {
                        let Ok((len, from)) = self.udp.try_recv_from(&mut buf) else { break };
                        self.receive(now, from, &buf[..len]).await;
                    }
                }
                Wake::Time | Wake::Nothing => (),
            }
        }
        self.publish();
    }

    async fn wait(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>, buf: &mut [u8]) -> Wake {
        let until = self.deadline().into();
        let mut old_buf = [0; DATAGRAM_MAX];
        tokio::select! {
            command = commands.recv() => Wake::Command(command),
            received = self.udp.recv_from(buf) => match received {
                Ok((len, from)) => Wake::Datagram(len, from),
                // ICMP says that the server is gone: signals and consent tell the same in better words.
                Err(_) => Wake::Nothing,
            },
            received = receive_old(&self.old_udp, &mut old_buf) => {
                buf[..received.0].copy_from_slice(&old_buf[..received.0]);
                Wake::Datagram(received.0, received.1)
            }
            signal = next_signal(&mut self.socket) => Wake::Signal(signal),
            wake = next_dtls(&mut self.dtls) => wake,
            () = tokio::time::sleep_until(until) => Wake::Time,
        }
    }

    fn deadline(&self) -> Instant {
        let microphone = self.microphone.as_ref().map(Microphone::poll_timeout);
        let camera = self.camera.as_ref().map(Camera::poll_timeout);
        let media = [microphone, camera].into_iter().flatten().filter(|_| self.session.is_some());
        media.chain(self.agent.poll_timeout()).chain([self.next_tick]).min().expect("there is always a tick")
    }

    async fn handle_due(&mut self, now: Instant) {
        while let Some((to, check)) = self.agent.poll_transmit(now) {
            self.send_to(&check, to).await;
        }
        if self.session.is_some() {
            self.send_media(now).await;
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.request_missing(now).await;
            self.send_arrivals(now).await;
            self.old_udp.take_if(|(_, until)| now > *until);
            self.report.ice.is_expired = self.agent.is_expired(now);
            self.publish();
        }
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            self.send_reports(now).await;
        }
    }

    fn publish(&mut self) {
        (self.report.ice.checks, self.report.ice.answers) = self.agent.counts();
        self.report.ice.mapped = self.agent.mapped();
        self.report.ice.selected = self.agent.selected();
        self.report.transport_missing = self.arrivals.missing();
        if let Some(camera) = &self.camera {
            (self.report.sent.frames, self.report.sent.keyframes) = camera.counts();
        }
        self.report.sent.audio = self.microphone.as_ref().map_or(0, Microphone::count);
        for slot in &self.slots {
            self.report.streams.insert(slot.mid.clone(), slot.report.clone());
        }
        self.reports.send_replace(self.report.clone());
    }

    // From the handle.

    async fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Microphone(active) => {
                if let Some(microphone) = &mut self.microphone {
                    microphone.is_on = active;
                }
                self.send_signal(&ClientSignal::Track { mid: MICROPHONE.into(), active }).await;
            }
            Command::Camera(active) => {
                if let Some(camera) = &mut self.camera {
                    camera.is_on = active;
                }
                self.send_signal(&ClientSignal::Track { mid: CAMERA.into(), active }).await;
            }
            Command::SetLoss(loss) => self.settings.loss = loss,
            Command::Move(udp) => {
                let old = std::mem::replace(&mut self.udp, udp);
                self.old_udp = Some((old, now + OLD_SOCKET_TIME));
                self.agent.moved(now);
            }
            Command::Reattach(socket) => {
                self.socket = Some(*socket);
                self.report.is_signalled = true;
            }
            Command::CloseSocket => {
                if let Some(socket) = self.socket.take() {
                    socket.close().await;
                }
                self.report.is_signalled = false;
            }
            Command::Leave => unreachable!("the loop ends by it"),
        }
    }

    async fn send_signal(&mut self, signal: &ClientSignal) {
        if let Some(socket) = &mut self.socket
            && let Err(error) = socket.send(signal).await
        {
            self.lose_socket(Some(error));
        }
    }

    fn lose_socket(&mut self, error: Option<SignalError>) {
        self.socket = None;
        self.report.is_signalled = false;
        self.report.failures.extend(error.map(|error| error.to_string()));
    }

    // From the signalling socket.

    async fn handle_signal(&mut self, now: Instant, signal: Option<Result<ServerSignal, SignalError>>) {
        let signal = match signal {
            Some(Ok(signal)) => signal,
            Some(Err(error)) => return self.lose_socket(Some(error)),
            None => return self.lose_socket(None),
        };
        let report = &mut self.report;
        match signal {
            ServerSignal::Welcome { session, peer, resumed, .. } => {
                (report.session, report.peer) = (session, peer);
                report.resumed += u32::from(resumed);
            }
            ServerSignal::Answer { sdp } => self.set_answer(now, &sdp).await,
            ServerSignal::Candidate(candidate) => {
                // The answer had those of TCP, too.
                if let Some(sdp::Candidate::Udp(address)) = sdp::parse_candidate(&candidate.candidate)
                    && !self.settings.is_tcp
                {
                    self.agent.add_candidate(address);
                }
            }
            ServerSignal::Peers { peers } => {
                report.others = peers.into_iter().map(|info| (info.peer.clone(), info)).collect();
            }
            ServerSignal::PeerJoined { peer } | ServerSignal::PeerChanged { peer } => {
                report.others.insert(peer.peer.clone(), peer);
            }
            ServerSignal::PeerLeft { peer, reason } => {
                report.others.remove(&peer);
                report.left.push((peer, reason));
            }
            ServerSignal::TrackChanged { peer, track } => {
                report.switched.push((track.track.clone(), track.active));
                let tracks = report.others.get_mut(&peer).into_iter().flat_map(|info| &mut info.tracks);
                tracks.filter(|known| known.track == track.track).for_each(|known| *known = track.clone());
            }
            // Who speaks is of no matter here, and our own audio has no RED.
            ServerSignal::Speakers { .. } | ServerSignal::Redundancy { .. } => {}
            ServerSignal::Quality { peers } => {
                for PeerQuality { peer, quality } in peers {
                    report.others.entry(peer).and_modify(|info| info.quality = quality);
                }
            }
            ServerSignal::Slots { slots } => report.slots = slots,
            ServerSignal::Limits { send_bps_max, video_bps_max, audio_bps_max } => {
                report.limits = Some((send_bps_max, video_bps_max, audio_bps_max));
            }
            // This peer sends H.264 alone, and so does the room of its kind.
            ServerSignal::Codec { .. } | ServerSignal::Granted { .. } | ServerSignal::TokenExpiring { .. } => (),
            ServerSignal::State { state } => report.state = Some(state),
            ServerSignal::Error { code, message, .. } => report.errors.push((code, message)),
            ServerSignal::Bye { reason, rejoin } => report.bye = Some((reason, rejoin)),
            // `Moved`: whom it has left, `Peers` replaces.
            ServerSignal::Encodings { paused, .. } => report.paused = paused,
            // This peer negotiates no data channels; messages have tests of their own.
            ServerSignal::Data(_) | ServerSignal::DataAcked { .. } | ServerSignal::DataEnded { .. } => (),
            ServerSignal::Moved { .. } | ServerSignal::Pong {} => (),
        }
    }

    async fn set_answer(&mut self, now: Instant, text: &str) {
        self.report.answers += 1;
        let answer = match sdp::parse_answer(text, &self.sections) {
            Ok(answer) => answer,
            Err(error) => return self.report.failures.push(error.to_string()),
        };
        self.agent.set_remote(&answer.ice);
        let ours = SocketAddr::new(self.settings.ip, self.udp.local_addr().map_or(0, |ours| ours.port()));
        match (self.settings.is_tcp, answer.tcp_candidates.first()) {
            (false, _) => answer.candidates.iter().for_each(|&address| self.agent.add_candidate(address)),
            (true, Some(&server)) => match framed::connect(server, ours).await {
                Ok(address) => self.agent.add_candidate(address),
                Err(error) => self.report.failures.push(format!("TCP: {error}")),
            },
            (true, None) => self.report.failures.push("the answer has no TCP candidate".into()),
        }
        self.fingerprint = Some(answer.fingerprint);
        if answer.setup != "passive" {
            self.report.failures.push(format!("a=setup:{} is no answer to actpass that we can serve", answer.setup));
        }
        let (settings, wall) = (&self.settings, self.wall);
        let random = &mut self.random;
        let mut first_seq = || settings.first_seq.unwrap_or_else(|| random.first_seq());
        for (offered, section) in self.sections.iter().zip(&answer.sections) {
            match (offered.mid.as_str(), offered.ssrcs.filter(|_| settings.sends)) {
                (MICROPHONE, Some(ssrcs)) => {
                    let stream = Stream::new(ssrcs, section, 48_000, wall, first_seq());
                    self.microphone = stream.map(|stream| Microphone::new(now, settings.publisher, stream));
                }
                (CAMERA, Some(ssrcs)) => {
                    let stream = Stream::new(ssrcs, section, 90_000, wall, first_seq());
                    self.camera = stream.map(|stream| Camera::new(now, settings.publisher, stream, settings.camera));
                }
                _ if offered.ssrcs.is_none() => self.slots.extend(Slot::new(offered.kind, section)),
                _ => (),
            }
        }
        for (i, slot) in self.slots.iter().enumerate() {
            self.slot_of_ssrc.insert(slot.ssrc, i);
            self.slot_of_ssrc.extend(slot.rtx_ssrc.map(|ssrc| (ssrc, i)));
        }
    }

    // From DTLS.

    fn handle_dtls(&mut self, now: Instant, event: DtlsEvent) {
        match event {
            DtlsEvent::Connected(session) => {
                self.report.handshakes += 1;
                self.report.profile = Some(session.profile);
                self.session = Some(session);
                // Media that was due while there were no keys is not sent late.
                self.next_report = now + REPORT_INTERVAL;
            }
            DtlsEvent::Failed(error) => self.report.failures.push(error.to_string()),
            DtlsEvent::Closed => self.report.is_dtls_closed = true,
        }
    }

    // From the network.

    async fn receive(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        // RFC 7983 §7; RTCP among RTP by its packet type (RFC 5761 §4).
        match datagram {
            [0..=3, ..] => {
                if let Some(answer) = self.agent.handle(now, from, datagram) {
                    self.send_to(&answer, from).await;
                }
                self.start_dtls();
            }
            [20..=63, ..] => self.dtls.iter().for_each(|dtls| dtls.handle(datagram)),
            [128..=191, second, ..] => {
                self.received += 1;
                if is_lost(self.settings.loss.received_every, self.received) {
                    self.report.sent.dropped += 1;
                } else if (192..=223).contains(second) {
                    self.receive_rtcp(now, datagram).await;
                } else {
                    self.receive_rtp(now, datagram);
                }
            }
            _ => self.report.odd.unknown += 1,
        }
    }

    /// As Chromium: with the first answered check, before nomination.
    fn start_dtls(&mut self) {
        if self.dtls.is_none()
            && let (Some(_), Some(fingerprint)) = (self.agent.selected(), self.fingerprint)
        {
            self.dtls = Some(Dtls::connect(&self.identity, &self.settings.profiles, fingerprint));
        }
    }

    fn receive_rtp(&mut self, now: Instant, datagram: &[u8]) {
        let odd = &mut self.report.odd;
        let Some(session) = &mut self.session else { return odd.early += 1 };
        let Ok(mut plain) = session.unprotect_rtp(datagram) else { return odd.unauthentic += 1 };
        let Ok(packet) = Packet::unmarshal(&mut plain) else { return odd.malformed += 1 };
        let Some(&i) = self.slot_of_ssrc.get(&packet.header.ssrc) else { return odd.unknown_ssrc += 1 };
        if let Some(seq) = self.slots[i].transport_seq(&packet.header) {
            self.arrivals.push(now, seq);
        }
        self.slots[i].receive(now, packet);
        self.collect(now, i);
    }

    /// Brings what the slot proved into the report of its publisher.
    fn collect(&mut self, now: Instant, i: usize) {
        let slot = &mut self.slots[i];
        for proof in slot.take_proved() {
            let publisher = proof.mark.publisher;
            let track = self.report.tracks.entry((publisher, slot.kind)).or_default();
            track.prove(now, &self.wall, &slot.mid, &proof);
            if slot.report.publishers.last() != Some(&publisher) {
                slot.report.publishers.push(publisher);
            }
        }
    }

    async fn receive_rtcp(&mut self, now: Instant, datagram: &[u8]) {
        let odd = &mut self.report.odd;
        let Some(session) = &mut self.session else { return odd.early += 1 };
        let Ok(mut plain) = session.unprotect_rtcp(datagram) else { return odd.unauthentic += 1 };
        let Ok(packets) = rtcp::packet::unmarshal(&mut plain) else { return odd.malformed += 1 };
        for packet in packets {
            let packet = packet.as_any();
            if let Some(report) = packet.downcast_ref::<SenderReport>() {
                if let Some(&i) = self.slot_of_ssrc.get(&report.ssrc) {
                    self.slots[i].sender_report(now, report.ntp_time, report.rtp_time);
                }
                self.read_report_blocks(&report.reports);
            } else if let Some(report) = packet.downcast_ref::<ReceiverReport>() {
                self.read_report_blocks(&report.reports);
            } else if let Some(nack) = packet.downcast_ref::<TransportLayerNack>() {
                self.answer_nack(now, nack).await;
            } else if let Some(pli) = packet.downcast_ref::<PictureLossIndication>() {
                self.make_keyframe(pli.media_ssrc);
            } else if let Some(fir) = packet.downcast_ref::<FullIntraRequest>() {
                fir.fir.iter().for_each(|entry| self.make_keyframe(entry.ssrc));
            } else if let Some(feedback) = packet.downcast_ref::<TransportLayerCc>() {
                let (arrived, lost) = count_arrivals(feedback);
                self.report.sent.arrivals += arrived;
                self.report.sent.arrivals_lost += lost;
            }
        }
    }

    fn read_report_blocks(&mut self, blocks: &[ReceptionReport]) {
        let ours = [self.microphone.as_ref().map(|m| m.stream.ssrc), self.camera.as_ref().map(|c| c.stream.ssrc)];
        for block in blocks.iter().filter(|block| ours.contains(&Some(block.ssrc))) {
            self.report.sent.reported += 1;
            self.report.sent.reported_lost = self.report.sent.reported_lost.max(block.total_lost);
        }
    }

    async fn answer_nack(&mut self, now: Instant, nack: &TransportLayerNack) {
        let Some(camera) = self.camera.as_mut().filter(|camera| camera.stream.ssrc == nack.media_ssrc) else { return };
        let asked: Vec<u16> = nack.nacks.iter().flat_map(|pair| pair.packet_list()).collect();
        let repairs: Vec<Packet> =
            asked.iter().filter_map(|&seq| camera.stream.repair(now, seq, &mut self.transport)).collect();
        self.report.sent.nacked += asked.len() as u64;
        self.report.sent.nacked_in_vain += (asked.len() - repairs.len()) as u64;
        self.report.sent.repairs += repairs.len() as u64;
        for packet in repairs {
            self.send_rtp(&packet).await;
        }
    }

    fn make_keyframe(&mut self, ssrc: u32) {
        if let Some(camera) = self.camera.as_mut().filter(|camera| camera.stream.ssrc == ssrc) {
            self.report.sent.keyframe_requests += 1;
            camera.request_keyframe();
        }
    }

    // To the network.

    async fn send_media(&mut self, now: Instant) {
        let mut packets = Vec::new();
        if let Some(microphone) = &mut self.microphone {
            packets.extend(microphone.poll(now, &mut self.transport));
        }
        if let Some(camera) = &mut self.camera {
            packets.extend(camera.poll(now, &mut self.transport));
        }
        self.report.sent.packets += packets.len() as u64;
        for packet in packets {
            self.send_rtp(&packet).await;
        }
    }

    async fn request_missing(&mut self, now: Instant) {
        let sender_ssrc = self.rtcp_ssrc();
        let mut feedback: Vec<Box<dyn RtcpPacket + Send + Sync>> = Vec::new();
        for i in 0..self.slots.len() {
            let slot = &mut self.slots[i];
            let (requests, media_ssrc) = (slot.poll(now), slot.ssrc);
            if !requests.missing.is_empty() {
                let nacks = nack_pairs_from_sequence_numbers(&requests.missing);
                feedback.push(Box::new(TransportLayerNack { sender_ssrc, media_ssrc, nacks }));
            }
            if requests.keyframe {
                feedback.push(Box::new(PictureLossIndication { sender_ssrc, media_ssrc }));
            }
            self.collect(now, i);
        }
        if !feedback.is_empty() {
            self.send_rtcp(&feedback).await;
        }
    }

    async fn send_arrivals(&mut self, now: Instant) {
        let Some(media_ssrc) = self.slots.first().map(|slot| slot.ssrc) else { return };
        if now < self.next_arrivals || !self.settings.tells_arrivals {
            return;
        }
        self.next_arrivals = now + ARRIVALS_INTERVAL;
        if let Some(feedback) = self.arrivals.poll(self.rtcp_ssrc(), media_ssrc) {
            self.send_rtcp(&[Box::new(feedback)]).await;
        }
    }

    /// A compound of sender reports, a receiver report and our CNAME (RFC 3550 §6.1).
    async fn send_reports(&mut self, now: Instant) {
        let ssrc = self.rtcp_ssrc();
        let mut compound: Vec<Box<dyn RtcpPacket + Send + Sync>> = Vec::new();
        let streams = [self.microphone.as_ref().map(|m| &m.stream), self.camera.as_ref().map(|c| &c.stream)];
        for report in streams.into_iter().flatten().filter_map(|stream| stream.sender_report(now)) {
            compound.push(Box::new(report));
        }
        let reports = self.slots.iter_mut().filter_map(|slot| slot.reception_report(now));
        let reports = reports.take(REPORT_BLOCKS_MAX).collect();
        compound.push(Box::new(ReceiverReport { ssrc, reports, ..ReceiverReport::default() }));
        let cname = SourceDescriptionItem { sdes_type: SdesType::SdesCname, text: Bytes::from_static(b"bench") };
        let chunks = vec![SourceDescriptionChunk { source: ssrc, items: vec![cname] }];
        compound.push(Box::new(SourceDescription { chunks }));
        self.send_rtcp(&compound).await;
    }

    /// The SSRC that speaks RTCP for us: one that we send with, or 1 as libwebrtc.
    fn rtcp_ssrc(&self) -> u32 {
        self.microphone.as_ref().map_or(1, |microphone| microphone.stream.ssrc)
    }

    async fn send_rtp(&mut self, packet: &Packet) {
        let Some(session) = &mut self.session else { return };
        let plain = packet.marshal().expect("our own packet has a form");
        let protected = session.protect_rtp(&plain).expect("our own packet can be protected");
        self.transmit_media(&protected).await;
    }

    async fn send_rtcp(&mut self, packets: &[Box<dyn RtcpPacket + Send + Sync>]) {
        let Some(session) = &mut self.session else { return };
        let plain = rtcp::packet::marshal(packets).expect("our own RTCP has a form");
        let protected = session.protect_rtcp(&plain).expect("our own RTCP can be protected");
        self.transmit_media(&protected).await;
    }

    async fn transmit_media(&mut self, datagram: &[u8]) {
        self.sent += 1;
        if is_lost(self.settings.loss.sent_every, self.sent) {
            self.report.sent.dropped += 1;
        } else {
            self.transmit(datagram).await;
        }
    }

    async fn transmit(&mut self, datagram: &[u8]) {
        if let Some(to) = self.agent.selected() {
            self.send_to(datagram, to).await;
        }
    }

    async fn send_to(&mut self, datagram: &[u8], to: SocketAddr) {
        // A network may lose what it is given.
        let _ = self.udp.send_to(datagram, to).await;
    }
}

fn is_lost(every: Option<u32>, count: u32) -> bool {
    every.is_some_and(|every| count.is_multiple_of(every))
}

/// Packets that feedback says have arrived, and have not.
fn count_arrivals(feedback: &TransportLayerCc) -> (u64, u64) {
    let mut symbols = Vec::new();
    for chunk in &feedback.packet_chunks {
        match chunk {
            PacketStatusChunk::RunLengthChunk(run) => {
                symbols.extend(std::iter::repeat_n(run.packet_status_symbol, usize::from(run.run_length)));
            }
            PacketStatusChunk::StatusVectorChunk(vector) => symbols.extend_from_slice(&vector.symbol_list),
        }
    }
    symbols.truncate(usize::from(feedback.packet_status_count));
    let arrived = symbols.iter().filter(|&&symbol| symbol != SymbolTypeTcc::PacketNotReceived).count();
    (arrived as u64, (symbols.len() - arrived) as u64)
}

async fn next_signal(socket: &mut Option<Socket>) -> Option<Result<ServerSignal, SignalError>> {
    match socket {
        Some(socket) => socket.next().await,
        None => std::future::pending().await,
    }
}

async fn next_dtls(dtls: &mut Option<Dtls>) -> Wake {
    match dtls {
        Some(dtls) => dtls.next().await.map_or_else(Wake::DtlsDatagram, Wake::Dtls),
        None => std::future::pending().await,
    }
}

async fn receive_old(old: &Option<(UdpSocket, Instant)>, buf: &mut [u8]) -> (usize, SocketAddr) {
    if let Some((udp, _)) = old
        && let Ok(received) = udp.recv_from(buf).await
    {
        return received;
    }
    std::future::pending().await
}
