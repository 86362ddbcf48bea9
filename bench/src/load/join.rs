//! From an offer to keys: how a load peer joins, through the signalling socket or by one HTTP request.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use proto::signal::{ClientSignal, Kind, ServerSignal, Source as Shows, TrackDescription};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::door::Door;
use super::peer::Joined;
use super::source::{Media, Source};
use super::tally::Slot;
use super::{LoadError, Settings, wire};
use crate::ice::{Agent, Credentials, random};
use crate::sdp::{self, Answer, OfferSection};
use crate::secure::{Dtls, DtlsEvent, Identity, Session};
use crate::send::{Stream, WallClock};
use crate::signal::Socket;

/// How long a join may take in all.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than any datagram of a handshake.
const DATAGRAM_MAX: usize = 2048;
/// Bytes of a socket's receive buffer; the kernel grants what `net.core.rmem_max` allows.
const RECEIVE_BUFFER_LEN: usize = 2 << 20;

/// How a peer comes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Through the signalling socket; sends if told to, and receives so many others.
    Socket {
        /// Whether it sends.
        sends: bool,
        /// How many others it has slots for.
        others: usize,
    },
    /// By WHIP: it sends.
    Whip,
    /// By WHEP: it receives one microphone and one camera.
    Whep,
}

/// A place to be taken by a peer.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Which room.
    pub room: String,
    /// The peer's name.
    pub name: String,
    /// How it comes in.
    pub way: Way,
}

/// How a peer that came in goes again.
pub enum Leave {
    /// Its signalling socket, in a task that ends when it is told so.
    Socket(oneshot::Sender<()>, JoinHandle<()>),
    /// The path of its resource.
    Resource(String, Seat),
}

impl Leave {
    /// Says that the peer leaves.
    pub async fn leave(self, door: &Door) -> Result<(), LoadError> {
        match self {
            Leave::Socket(leave, task) => {
                // A socket that the server closed has left.
                let _ = leave.send(());
                let _ = task.await;
                Ok(())
            }
            Leave::Resource(path, seat) => door.end(&path, &seat.room, &seat.name).await,
        }
    }
}

/// A peer with keys.
pub struct Arrival {
    /// For the crew.
    pub joined: Joined,
    /// How it goes again.
    pub leave: Leave,
    /// From the first byte to keys.
    pub took: Duration,
    /// Streams that the peer could receive: its slots.
    pub slots: usize,
}

/// Takes a seat. All peers of a run may share one identity: the server does not compare certificates.
pub async fn join(door: &Door, seat: &Seat, identity: &Identity, settings: &Settings) -> Result<Arrival, LoadError> {
    let failed = |error: String| LoadError::Join(format!("{} could not join {}: {error}", seat.name, seat.room));
    match timeout(PATIENCE, try_join(door, seat, identity, settings)).await {
        Ok(Ok(arrival)) => Ok(arrival),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("nothing came for {} s", PATIENCE.as_secs()))),
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn try_join(door: &Door, seat: &Seat, identity: &Identity, settings: &Settings) -> Result<Arrival, Failure> {
    let begun = Instant::now();
    let ice = Credentials::generate();
    let sections = sections(seat.way);
    let offer = sdp::write_offer(&sdp::Offer { ice: &ice, fingerprint: identity.fingerprint(), sections: &sections });
    let (text, leave) = match seat.way {
        Way::Whip | Way::Whep => {
            let name = if seat.way == Way::Whip { "whip" } else { "whep" };
            let (text, resource) = door.offer(name, &seat.room, &seat.name, &offer).await?;
            (text, Leave::Resource(resource, seat.clone()))
        }
        Way::Socket { sends, .. } => {
            let mut socket = Socket::connect(&door.link(&seat.room, &seat.name)?).await?;
            let text = converse(&mut socket, offer, sends).await?;
            let (leave, told) = oneshot::channel();
            (text, Leave::Socket(leave, tokio::spawn(attend(socket, told))))
        }
    };
    let answer = sdp::parse_answer(&text, &sections)?;
    let (udp, to, agent, session, dtls) = connect(ice, &answer, identity, settings).await?;
    let took = begun.elapsed();
    let slots: Vec<Slot> = sections
        .iter()
        .zip(&answer.sections)
        .filter(|(offered, _)| offered.ssrcs.is_none())
        .filter_map(|(offered, answered)| Slot::new(offered.kind, answered))
        .collect();
    let (audio, video) = sources(seat.way, &settings.media, &sections, &answer);
    let udp = udp.into_std()?;
    wire::prepare(&udp)?;
    let slots_len = slots.len();
    let joined = Joined { udp, to, agent, session, _dtls: dtls, audio, video, slots, begun };
    Ok(Arrival { joined, leave, took, slots: slots_len })
}

/// Two senders and the slots, of what the way has.
fn sections(way: Way) -> Vec<OfferSection> {
    let ssrc = || u32::from_ne_bytes(random());
    let mut sections = Vec::new();
    let (sends, others) = match way {
        Way::Socket { others, .. } => (true, others),
        Way::Whip => (true, 0),
        Way::Whep => (false, 1),
    };
    if sends {
        for (kind, rtx) in [(Kind::Audio, None), (Kind::Video, Some(ssrc()))] {
            let mid = sections.len().to_string();
            sections.push(OfferSection { mid, kind, ssrcs: Some((ssrc(), rtx)), has_track: true });
        }
    }
    for kind in [Kind::Audio, Kind::Video] {
        for _ in 0..others {
            let mid = sections.len().to_string();
            sections.push(OfferSection { mid, kind, ssrcs: None, has_track: false });
        }
    }
    sections
}

/// Offers and waits for the answer.
async fn converse(socket: &mut Socket, sdp: String, sends: bool) -> Result<String, Failure> {
    let track = |mid: &str, source| TrackDescription { mid: mid.into(), source, active: sends };
    let tracks = vec![track("0", Shows::Microphone), track("1", Shows::Camera)];
    socket.send(&ClientSignal::Offer { sdp, tracks }).await?;
    loop {
        match socket.next().await {
            Some(Ok(ServerSignal::Answer { sdp })) => return Ok(sdp),
            Some(Ok(ServerSignal::Error { code, message, .. })) => return Err(format!("{code:?}: {message}").into()),
            Some(Ok(ServerSignal::Bye { reason, .. })) => return Err(format!("bye: {reason:?}").into()),
            Some(Ok(_)) => (),
            Some(Err(error)) => return Err(error.into()),
            None => return Err("the signalling socket was closed".into()),
        }
    }
}

/// Keeps a socket alive and reads what it brings, until the peer leaves.
async fn attend(mut socket: Socket, mut leave: oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            signal = socket.next() => match signal {
                Some(Ok(_)) => (),
                _ => return,
            },
            _ = &mut leave => {
                // The server may have gone before us.
                let _ = socket.send(&ClientSignal::Leave {}).await;
                return socket.close().await;
            }
        }
    }
}

/// Checks, then DTLS, on one socket.
async fn connect(
    ice: Credentials,
    answer: &Answer,
    identity: &Identity,
    settings: &Settings,
) -> Result<(UdpSocket, SocketAddr, Agent, Box<Session>, Dtls), Failure> {
    let mut agent = Agent::new(Instant::now(), ice);
    agent.set_remote(&answer.ice);
    answer.candidates.iter().for_each(|&address| agent.add_candidate(address));
    let to = *answer.candidates.first().ok_or("the answer has no candidate")?;
    // The server's family, and from its own machine by loopback.
    let from: SocketAddr = match to {
        SocketAddr::V4(to) if to.ip().is_loopback() => (Ipv4Addr::LOCALHOST, 0).into(),
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let udp = UdpSocket::bind(from).await?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER_LEN)?;
    let mut dtls: Option<Dtls> = None;
    let mut datagram = [0; DATAGRAM_MAX];
    loop {
        while let Some((to, check)) = agent.poll_transmit(Instant::now()) {
            udp.send_to(&check, to).await?;
        }
        // As Chromium: with the first answered check, before nomination.
        if dtls.is_none() && agent.selected().is_some() {
            dtls = Some(Dtls::connect(identity, &settings.profiles, answer.fingerprint));
        }
        let due = agent.poll_timeout().unwrap_or_else(|| Instant::now() + PATIENCE);
        tokio::select! {
            received = udp.recv_from(&mut datagram) => {
                let (len, from) = received?;
                match &datagram[..len] {
                    stun @ [0..=3, ..] => {
                        if let Some(answer) = agent.handle(Instant::now(), from, stun) {
                            udp.send_to(&answer, from).await?;
                        }
                    }
                    hello @ [20..=63, ..] => dtls.iter().for_each(|dtls| dtls.handle(hello)),
                    _ => (),
                }
            }
            next = next(&mut dtls) => match next {
                Err(flight) => drop(udp.send_to(&flight, agent.selected().unwrap_or(to)).await?),
                Ok(DtlsEvent::Connected(session)) => {
                    let to = agent.selected().unwrap_or(to);
                    let dtls = dtls.take().ok_or("DTLS ended as it began")?;
                    return Ok((udp, to, agent, session, dtls));
                }
                Ok(DtlsEvent::Failed(error)) => return Err(error.into()),
                Ok(DtlsEvent::Closed) => return Err("the server closed DTLS".into()),
            },
            () = tokio::time::sleep_until(due.into()) => (),
        }
    }
}

async fn next(dtls: &mut Option<Dtls>) -> Result<DtlsEvent, Vec<u8>> {
    match dtls {
        Some(dtls) => dtls.next().await,
        None => std::future::pending().await,
    }
}

/// What the peer sends, beginning at a moment of its own so that peers do not send in step.
fn sources(way: Way, media: &Media, offered: &[OfferSection], answer: &Answer) -> (Option<Source>, Option<Source>) {
    if matches!(way, Way::Whep | Way::Socket { sends: false, .. }) {
        return (None, None);
    }
    let (wall, phase) =
        (WallClock::now(), Duration::from_micros(u64::from(u16::from_ne_bytes(random())) * 40_000 / 65_536));
    let first = Instant::now() + phase;
    let stream = |kind, clock| {
        let (offered, answered) = offered
            .iter()
            .zip(&answer.sections)
            .find(|(offered, _)| offered.kind == kind && offered.ssrcs.is_some())?;
        Stream::new(offered.ssrcs?, answered, clock, wall, u16::from_ne_bytes(random()) >> 1)
    };
    let audio = stream(Kind::Audio, 48_000).and_then(|stream| Source::audio(media, stream, first));
    let video = stream(Kind::Video, 90_000).and_then(|stream| Source::video(media, stream, first));
    (audio, video)
}
