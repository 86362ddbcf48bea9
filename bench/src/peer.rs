//! A complete WebRTC client in one task and on one UDP socket: joins a room, sends proved media, checks what it gets.
//!
//! ```text
//! Peer::join ─▶ welcome ─▶ offer, candidates ─▶ answer ─▶ checks ─▶ DTLS ─▶ media both ways ─▶ Report
//! ```
//! The handle here says what to do and shows the [`Report`]; the task is `drive.rs`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use proto::signal::{Candidate, ClientSignal, Kind, ServerSignal, SlotCount, Source, TrackDescription};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::drive::{Driver, Parts};
use crate::ice::{Credentials, random};
use crate::report::Report;
use crate::sdp::{self, OfferSection};
use crate::secure::{Identity, Profile, SecureError};
use crate::send::CameraSettings;
use crate::signal::{Link, SignalError, Socket};

/// How long the server may take to say `welcome`.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of the socket's receive buffer: a second of a full room, with the kernel's own for each packet.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;

/// Takes every n-th RTP or RTCP datagram; STUN and DTLS pass.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Loss {
    /// Of those that this peer sends.
    pub sent_every: Option<u32>,
    /// Of those that it receives.
    pub received_every: Option<u32>,
}

/// How a peer behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number in the marks of its media. Different for each peer of a test.
    pub publisher: u32,
    /// SRTP profiles offered, in this order.
    pub profiles: Vec<Profile>,
    /// Receive slots to offer; those of `welcome` if None.
    pub slots: Option<SlotCount>,
    /// Whether it sends a microphone and a camera. The m-sections are there in any case.
    pub sends: bool,
    /// What the camera sends.
    pub camera: CameraSettings,
    /// First sequence number of its streams; random below 2^15 if None (RFC 3711 §3.3.1 advises that half).
    pub first_seq: Option<u16>,
    /// Loss on its own socket.
    pub loss: Loss,
    /// Local address of its UDP socket.
    pub ip: IpAddr,
}

impl Settings {
    /// The usual one: offers SRTP profiles as Chromium does, sends both, loses nothing.
    pub fn new(publisher: u32) -> Settings {
        Settings {
            publisher,
            profiles: Profile::CHROMIUM.to_vec(),
            slots: None,
            sends: true,
            camera: CameraSettings::default(),
            first_seq: None,
            loss: Loss::default(),
            ip: Ipv4Addr::LOCALHOST.into(),
        }
    }
}

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

/// Handle of a peer. Dropping it ends the peer as a crash would: nothing is said to anybody.
#[derive(Debug)]
pub struct Peer {
    ip: IpAddr,
    commands: mpsc::UnboundedSender<Command>,
    reports: watch::Receiver<Report>,
    task: JoinHandle<()>,
}

impl Peer {
    /// MID of the microphone.
    pub const MICROPHONE: &str = "0";
    /// MID of the camera.
    pub const CAMERA: &str = "1";
    /// MID of the empty screen sender.
    pub const SCREEN: &str = "2";

    /// Opens the signalling socket, offers, and starts the task. What follows shows in the report.
    pub async fn join(link: &Link, settings: Settings) -> Result<Peer, PeerError> {
        let mut socket = Socket::connect(link).await?;
        let mut report = Report { is_signalled: true, offers: 1, ..Report::default() };
        let asked = welcome(&mut socket, &mut report).await?;
        let slots = settings.slots.unwrap_or(asked);
        let udp = bind(settings.ip).await?;
        let (identity, ice) = (Identity::generate()?, Credentials::generate());
        let sections = sections(slots);
        let offer = sdp::Offer { ice: &ice, fingerprint: identity.fingerprint(), sections: &sections };
        let sdp = sdp::write_offer(&offer);
        socket.send(&ClientSignal::Offer { sdp, tracks: tracks(settings.sends) }).await?;
        trickle(&mut socket, udp.local_addr()?, &ice.ufrag).await?;

        let ip = settings.ip;
        let (tell, reports) = watch::channel(report.clone());
        let (commands, asked) = mpsc::unbounded_channel();
        let parts = Parts { settings, socket, udp, identity, ice, sections, report, reports: tell };
        let task = tokio::spawn(Driver::new(Instant::now(), parts).run(asked));
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

    /// Says `leave` and ends.
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
fn sections(slots: SlotCount) -> Vec<OfferSection> {
    let ssrc = || u32::from_ne_bytes(random());
    let sender =
        |mid: &str, kind, rtx, has_track| OfferSection { mid: mid.into(), kind, ssrcs: Some((ssrc(), rtx)), has_track };
    let mut sections = vec![
        sender(Peer::MICROPHONE, Kind::Audio, None, true),
        sender(Peer::CAMERA, Kind::Video, Some(ssrc()), true),
        sender(Peer::SCREEN, Kind::Video, Some(ssrc()), false),
    ];
    for (kind, count) in [(Kind::Audio, slots.audio), (Kind::Video, slots.video)] {
        for _ in 0..count {
            sections.push(OfferSection { mid: sections.len().to_string(), kind, ssrcs: None, has_track: false });
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
