//! From the settings to a peer with keys: socket, welcome, offer, answer, checks, DTLS.

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::time::{Duration, Instant};

use proto::signal::{ClientSignal, ErrorCode, Kind, ServerSignal, Source, TrackDescription, VideoCodec};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::slot::Slot;
use super::track::Track;
use super::{Codec, JoinError, SLOTS_MAX, Settings};
use crate::dtls::Identity;
use crate::ice::Credentials;
use crate::random::Random;
use crate::sdp::{self, Answer, OfferSection};
use crate::signal::{SignalError, Socket};
use crate::transport::Transport;
use crate::udp::{self, ConnectError};

/// How long a join may take in all.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes peers of one room.
pub(super) struct Joiner {
    pub(super) settings: Settings,
    pub(super) identity: Identity,
}

/// A peer with keys.
pub(super) struct Joined {
    pub(super) socket: Socket,
    pub(super) session: String,
    pub(super) peer: String,
    pub(super) room: String,
    /// What came between the answer and the keys.
    pub(super) signals: Vec<ServerSignal>,
    pub(super) udp: UdpSocket,
    pub(super) to: SocketAddr,
    pub(super) transport: Transport,
    /// By the number that users know; None: the server does not send in it.
    pub(super) slots: Vec<Option<Slot>>,
    pub(super) audio: Option<Track>,
    pub(super) video: Option<Track>,
}

/// Whether another attempt would come to the same.
pub fn is_final(error: &JoinError) -> bool {
    match error {
        JoinError::Signal(SignalError::Refused { status, .. }) => (400..500).contains(status),
        JoinError::Refused { code, .. } => !matches!(
            code,
            ErrorCode::NoDataplane | ErrorCode::ServerFull | ErrorCode::RoomFull | ErrorCode::UnknownSession
        ),
        JoinError::Answer(_) | JoinError::NotTaken(_) | JoinError::Identity(_) => true,
        _ => false,
    }
}

/// By the name in `a=rtpmap`.
fn codec_of(name: &str) -> Option<Codec> {
    let name = name.split('/').next()?.to_ascii_lowercase();
    if name == "opus" {
        return Some(Codec::Opus);
    }
    VideoCodec::ALL.into_iter().find(|codec| codec.name() == name).map(Codec::Video)
}

impl Joiner {
    pub(super) async fn join(&self) -> Result<Joined, JoinError> {
        timeout(JOIN_TIMEOUT, self.try_join()).await.unwrap_or(Err(JoinError::TimedOut(JOIN_TIMEOUT)))
    }

    async fn try_join(&self) -> Result<Joined, JoinError> {
        let settings = &self.settings;
        let mut socket = Socket::open(&settings.server, &settings.room, &settings.token).await?;
        let (session, peer, room, counts) = loop {
            match next(&mut socket).await? {
                ServerSignal::Welcome { session, peer, room, slots, .. } => break (session, peer, room, slots),
                _ => continue,
            }
        };
        let mut random = Random::from_system();
        let ice = Credentials::generate(&mut random);
        let audio = settings.audio_slots.unwrap_or(counts.audio).min(SLOTS_MAX);
        let video = settings.video_slots.unwrap_or(counts.video).min(SLOTS_MAX);
        let sections = sections(settings, audio, video, &mut random);
        let offer = sdp::Offer { ice: &ice, fingerprint: self.identity.fingerprint(), sections: &sections };
        let text = sdp::write_offer_of_all_codecs(&offer);
        socket.send(&ClientSignal::Offer { sdp: text, tracks: descriptions(&sections) }).await?;
        let mut signals = Vec::new();
        let text = loop {
            match next(&mut socket).await? {
                ServerSignal::Answer { sdp } => break sdp,
                signal => signals.push(signal),
            }
        };
        let answer = sdp::parse_answer(&text, &sections)?;
        let to = *answer.candidates.first().ok_or(JoinError::NoCandidate)?;
        let udp = open(to).map_err(ConnectError::Udp)?;
        let mut transport = Transport::new(Instant::now(), ice, &self.identity, random.fork());
        transport.set_answer(&answer);
        // The socket is read meanwhile: what waits for its reader is what a server closes it for.
        tokio::select! {
            connected = udp::connect(&mut transport, &udp) => drop(connected?),
            error = collect(&mut socket, &mut signals) => return Err(error),
        }
        let to = transport.ice().selected().unwrap_or(to);
        let (audio, video) = self.tracks(&sections, &answer, &mut random)?;
        let slots = slots(&sections, &answer);
        Ok(Joined { socket, session, peer, room, signals, udp, to, transport, slots, audio, video })
    }

    fn tracks(
        &self,
        offered: &[OfferSection],
        answer: &Answer,
        random: &mut Random,
    ) -> Result<(Option<Track>, Option<Track>), JoinError> {
        let mut track = |kind, codec| {
            let mut both = offered.iter().zip(&answer.sections);
            let (offered, answered) = both.find(|(offered, _)| offered.kind == kind && offered.ssrcs.is_some())?;
            let pt = answered.payload_types.iter().find(|(_, name)| codec_of(name) == Some(codec))?.0;
            Track::new(kind, pt, offered.ssrcs?, answered, random)
        };
        let audio = self.settings.sends_audio.then_some(Codec::Opus);
        let audio = audio.map(|codec| track(Kind::Audio, codec).ok_or(JoinError::NotTaken(Kind::Audio)));
        let video = self.settings.sends_video.map(Codec::Video);
        let video = video.map(|codec| track(Kind::Video, codec).ok_or(JoinError::NotTaken(Kind::Video)));
        Ok((audio.transpose()?, video.transpose()?))
    }
}

fn open(to: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = StdSocket::bind(udp::local_for(to))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// The next signal that is no end.
async fn next(socket: &mut Socket) -> Result<ServerSignal, JoinError> {
    match socket.next().await {
        Some(Ok(ServerSignal::Error { code, message, .. })) => Err(JoinError::Refused { code, message }),
        Some(Ok(ServerSignal::Bye { reason, .. })) => Err(JoinError::Bye(reason)),
        Some(Ok(signal)) => Ok(signal),
        // A later server may say more than we know.
        Some(Err(SignalError::Unknown { .. })) => Ok(ServerSignal::Pong {}),
        Some(Err(error)) => Err(error.into()),
        None => Err(JoinError::Closed),
    }
}

/// Keeps what is signalled, until that fails.
async fn collect(socket: &mut Socket, signals: &mut Vec<ServerSignal>) -> JoinError {
    loop {
        match next(socket).await {
            Ok(signal) => signals.push(signal),
            Err(error) => return error,
        }
    }
}

/// The senders, then the slots.
fn sections(settings: &Settings, audio: u32, video: u32, random: &mut Random) -> Vec<OfferSection> {
    let mut sections = Vec::new();
    for (kind, is_sent) in [(Kind::Audio, settings.sends_audio), (Kind::Video, settings.sends_video.is_some())] {
        if is_sent {
            let ssrcs = Some((random.ssrc(), (kind == Kind::Video).then(|| random.ssrc())));
            sections.push(OfferSection {
                mid: sections.len().to_string(),
                kind,
                ssrcs,
                has_track: true,
                rids: Vec::new(),
            });
        }
    }
    for (kind, count) in [(Kind::Audio, audio), (Kind::Video, video)] {
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

fn descriptions(sections: &[OfferSection]) -> Vec<TrackDescription> {
    let sent = sections.iter().filter(|section| section.ssrcs.is_some());
    sent.map(|section| {
        let source = if section.kind == Kind::Audio { Source::Microphone } else { Source::Camera };
        TrackDescription { mid: section.mid.clone(), source, active: true }
    })
    .collect()
}

fn slots(offered: &[OfferSection], answer: &Answer) -> Vec<Option<Slot>> {
    let received = offered.iter().zip(&answer.sections).filter(|(offered, _)| offered.ssrcs.is_none());
    received.map(|(offered, answered)| Slot::new(offered.kind, answered, codec_of)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_not_change_is_told_from_what_may() {
        let refused = |code| JoinError::Refused { code, message: String::new() };
        assert!(is_final(&refused(ErrorCode::Forbidden)) && is_final(&refused(ErrorCode::RoomLocked)));
        assert!(!is_final(&refused(ErrorCode::NoDataplane)) && !is_final(&JoinError::Closed));
        let status = |status| JoinError::Signal(SignalError::Refused { status, body: String::new() });
        assert!(is_final(&status(401)) && !is_final(&status(503)));
    }

    #[test]
    fn codecs_are_known_by_their_names() {
        assert_eq!(codec_of("opus/48000/2"), Some(Codec::Opus));
        assert_eq!(codec_of("H264/90000"), Some(Codec::Video(VideoCodec::H264)));
        assert_eq!(codec_of("AV1/90000"), Some(Codec::Video(VideoCodec::Av1)));
        assert_eq!((codec_of("rtx/90000"), codec_of("")), (None, None));
    }
}
