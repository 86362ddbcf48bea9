//! A complete WebRTC client in one task and on one UDP socket: joins a room, sends proved media, checks what it gets.
//!
//! ```text
//! Peer::join ─▶ welcome ─▶ offer, candidates ─▶ answer ─▶ checks ─▶ DTLS ─▶ media both ways ─▶ Report
//! ```
//! The handle here says what to do and shows the [`Report`]; the task is `drive.rs`.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use client::ice::Credentials;
use client::random::Random;
use client::sdp::{self, OfferSection};
use client::signal::{Link, SignalError, Socket};
use proto::signal::{Candidate, ClientSignal, Kind, ServerSignal, SlotCount, Source, TrackDescription};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::drive::{Command, Driver, Parts};
use crate::dtls_srtp::{Identity, SecureError};
use crate::report::Report;
use crate::settings;
pub use crate::settings::{Loss, Settings};

/// How long the server may take to say `welcome`.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of the socket's receive buffer: a second of a full room, with the kernel's own for each packet.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;

/// Why a peer cannot join or go on.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The socket.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// Our own certificate.
    #[error(transparent)]
    Secure(#[from] SecureError),
    /// Our UDP socket.
    #[error("UDP: {0}")]
    Udp(#[from] std::io::Error),
    /// Something else than `welcome` came first, or nothing.
    #[error("the server did not say welcome: {0}")]
    NoWelcome(String),
    /// What was waited for did not happen.
    #[error("waited {waited:?} for {what}; seen: {seen:#?}")]
    TimedOut {
        /// For what.
        what: String,
        /// How long.
        waited: Duration,
        /// The report at the end.
        seen: Box<Report>,
    },
}

/// Handle of a peer. Dropping it ends the peer as a crash would: the server is sent nothing.
#[derive(Debug)]
pub struct Peer {
    ip: IpAddr,
    commands: mpsc::UnboundedSender<Command>,
    reports: watch::Receiver<Report>,
    task: JoinHandle<()>,
}

impl Peer {
    /// MID of the microphone.
    pub const MICROPHONE: &str = settings::MICROPHONE;
    /// MID of the camera.
    pub const CAMERA: &str = settings::CAMERA;
    /// MID of the empty screen sender.
    pub const SCREEN: &str = settings::SCREEN;

    /// Opens the signalling socket, offers, and starts the task. What follows shows in the report.
    pub async fn join(link: &Link, settings: Settings) -> Result<Peer, PeerError> {
        let mut socket = Socket::connect(link).await?;
        let mut report = Report { is_signalled: true, offers: 1, ..Report::default() };
        let advised = welcome(&mut socket, &mut report).await?;
        let slots = settings.slots.unwrap_or(advised);
        let udp = bind(settings.ip).await?;
        let mut random = Random::from_system();
        let (identity, ice) = (Identity::generate()?, Credentials::generate(&mut random));
        let sections = sections(slots, &mut random);
        let offer = sdp::Offer { ice: &ice, fingerprint: identity.fingerprint(), sections: &sections };
        let sdp = sdp::write_offer(&offer);
        socket.send(&ClientSignal::Offer { sdp, tracks: tracks(settings.sends) }).await?;
        trickle(&mut socket, udp.local_addr()?, &ice.ufrag).await?;

        let ip = settings.ip;
        let (publish, reports) = watch::channel(report.clone());
        let (commands, received) = mpsc::unbounded_channel();
        let parts = Parts { settings, socket, udp, identity, ice, random, sections, report, reports: publish };
        let task = tokio::spawn(Driver::new(Instant::now(), parts).run(received));
        Ok(Peer { ip, commands, reports, task })
    }

    /// Everything until now.
    pub fn report(&self) -> Report {
        self.reports.borrow().clone()
    }

    /// Waits until the report satisfies `is_met`, and returns it.
    pub async fn wait(
        &self,
        what: &str,
        timeout: Duration,
        mut is_met: impl FnMut(&Report) -> bool,
    ) -> Result<Report, PeerError> {
        let mut reports = self.reports.clone();
        let met = tokio::time::timeout(timeout, reports.wait_for(|report| is_met(report))).await;
        match met {
            Ok(Ok(report)) => Ok(report.clone()),
            _ => Err(PeerError::TimedOut { what: what.into(), waited: timeout, seen: Box::new(self.report()) }),
        }
    }

    /// Mutes or unmutes, and says so.
    pub fn set_microphone(&self, is_on: bool) {
        self.command(Command::Microphone(is_on));
    }

    /// Switches the camera on or off, and says so.
    pub fn set_camera(&self, is_on: bool) {
        self.command(Command::Camera(is_on));
    }

    /// Changes the loss on its socket.
    pub fn set_loss(&self, loss: Loss) {
        self.command(Command::SetLoss(loss));
    }

    /// Goes on from another UDP port, as after a NAT rebinding: nobody is told but by a check from there.
    pub async fn change_address(&self) -> Result<SocketAddr, PeerError> {
        let udp = bind(self.ip).await?;
        let address = udp.local_addr()?;
        self.command(Command::Move(udp));
        Ok(address)
    }

    /// Loses the signalling socket; media goes on.
    pub fn close_socket(&self) {
        self.command(Command::CloseSocket);
    }

    /// Opens a new signalling socket and takes the peer back by its session.
    pub async fn resume(&self, link: &Link) -> Result<(), PeerError> {
        let mut socket = Socket::connect(link).await?;
        let session = self.reports.borrow().session.clone();
        socket.send(&ClientSignal::Resume { session }).await?;
        self.command(Command::Reattach(Box::new(socket)));
        Ok(())
    }

    /// Sends `leave` and ends.
    pub async fn leave(self) -> Report {
        self.command(Command::Leave);
        // A task that panicked has left, too; its report says how far it came.
        let _ = self.task.await;
        self.reports.borrow().clone()
    }

    fn command(&self, command: Command) {
        // If the task has ended, the report tells.
        let _ = self.commands.send(command);
    }
}

/// A UDP socket with room for what arrives while a busy machine runs something else.
async fn bind(ip: IpAddr) -> std::io::Result<UdpSocket> {
    let udp = UdpSocket::bind((ip, 0)).await?;
    // The kernel grants what `net.core.rmem_max` allows.
    rustix::net::sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER_LEN)?;
    Ok(udp)
}

/// Takes `welcome` into the report; returns the slots that the server advises.
async fn welcome(socket: &mut Socket, report: &mut Report) -> Result<SlotCount, PeerError> {
    match tokio::time::timeout(WELCOME_TIMEOUT, socket.next()).await {
        Ok(Some(Ok(ServerSignal::Welcome { session, peer, slots, .. }))) => {
            (report.session, report.peer) = (session, peer);
            Ok(slots)
        }
        Ok(Some(Err(error))) => Err(error.into()),
        other => Err(PeerError::NoWelcome(format!("{other:?}"))),
    }
}

/// Microphone, camera, empty screen sender, then the slots: the page's order.
fn sections(slots: SlotCount, random: &mut Random) -> Vec<OfferSection> {
    let mut sender = |mid: &str, kind, has_track| {
        let rtx = (kind == Kind::Video).then(|| random.ssrc());
        OfferSection { mid: mid.into(), kind, ssrcs: Some((random.ssrc(), rtx)), has_track, rids: Vec::new() }
    };
    let mut sections = vec![
        sender(Peer::MICROPHONE, Kind::Audio, true),
        sender(Peer::CAMERA, Kind::Video, true),
        sender(Peer::SCREEN, Kind::Video, false),
    ];
    for (kind, count) in [(Kind::Audio, slots.audio), (Kind::Video, slots.video)] {
        for _ in 0..count {
            sections.push(OfferSection {
                mid: sections.len().to_string(),
                kind,
                ssrcs: None,
                has_track: false,
                rids: Vec::new(),
            });
        }
    }
    sections
}

fn tracks(sends: bool) -> Vec<TrackDescription> {
    let track = |mid: &str, source, active| TrackDescription { mid: mid.into(), source, active };
    vec![
        track(Peer::MICROPHONE, Source::Microphone, sends),
        track(Peer::CAMERA, Source::Camera, sends),
        track(Peer::SCREEN, Source::Screen, false),
    ]
}

/// Our one host candidate, and the end of them (RFC 8838 §8.2).
async fn trickle(socket: &mut Socket, local: SocketAddr, ufrag: &str) -> Result<(), SignalError> {
    let host = format!("candidate:1 1 udp 2122260223 {} {} typ host generation 0", local.ip(), local.port());
    for candidate in [host, String::new()] {
        let candidate = Candidate {
            candidate,
            sdp_mid: Some(Peer::MICROPHONE.into()),
            sdp_m_line_index: Some(0),
            username_fragment: Some(ufrag.into()),
        };
        socket.send(&ClientSignal::Candidate(candidate)).await?;
    }
    Ok(())
}
