//! From an offer to keys: how a load peer joins, through the signalling socket or by one HTTP request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::dtls::Identity;
use client::ice::Credentials;
use client::random::Random;
use client::sdp::{self, Answer, AnswerSection, OfferSection};
use client::signal::Socket;
use client::transport::Transport;
use proto::signal::{ClientSignal, Kind, ServerSignal, Source as TrackSource, TrackDescription};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::api::Api;
use super::datagrams::Sockets;
use super::encodings::{Chosen, encodings};
use super::peer::Joined;
use super::settings::{LoadError, Settings};
use super::source::{Media, Rank, Source};
use super::tally::Slot;

/// How long a join may take in all.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How a peer joins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Through the signalling socket; sends if told to, and receives so many others.
    Meeting {
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

/// A peer that is to join.
#[derive(Clone, Debug)]
pub(super) struct NewPeer {
    /// Which room.
    pub(super) room: String,
    /// Its name.
    pub(super) name: String,
    /// How it joins.
    pub(super) role: Role,
    /// Its number in the run, which tells how it shows the others.
    pub(super) number: usize,
}

/// How a peer that joined leaves again.
pub(super) enum Leave {
    /// Its signalling socket, in a task that ends when it is told so.
    Socket(oneshot::Sender<()>, JoinHandle<()>),
    /// The path of its resource.
    Resource(String, NewPeer),
}

impl Leave {
    /// Tells the server that the peer leaves.
    pub(super) async fn leave(self, api: &Api) -> Result<(), LoadError> {
        match self {
            Leave::Socket(leave, task) => {
                // A socket that the server closed has left.
                let _ = leave.send(());
                let _ = task.await;
                Ok(())
            }
            Leave::Resource(path, peer) => api.delete_resource(&path, &peer.room, &peer.name).await,
        }
    }
}

/// A peer with keys.
pub(super) struct Arrival {
    /// For the media threads.
    pub(super) joined: Joined,
    /// How it leaves again.
    pub(super) leave: Leave,
    /// From the first byte to keys.
    pub(super) took: Duration,
}

/// What all joins of a run share.
#[derive(Clone)]
pub(super) struct Joiner {
    pub(super) api: Api,
    /// All peers may have one: the server does not compare certificates.
    pub(super) identity: Identity,
    pub(super) settings: Settings,
    pub(super) sockets: Sockets,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Joiner {
    /// Joins.
    pub(super) async fn join(&self, peer: &NewPeer) -> Result<Arrival, LoadError> {
        let failed = |error: String| LoadError::Join(format!("{} could not join {}: {error}", peer.name, peer.room));
        match timeout(JOIN_TIMEOUT, self.try_join(peer)).await {
            Ok(Ok(arrival)) => Ok(arrival),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("nothing came for {} s", JOIN_TIMEOUT.as_secs()))),
        }
    }

    async fn try_join(&self, peer: &NewPeer) -> Result<Arrival, Failure> {
        let begun = Instant::now();
        let mut random = Random::from_system();
        let ice = Credentials::generate(&mut random);
        let sections = sections(peer.role, self.settings.media.encodings, &mut random);
        let chosen = Arc::new(Chosen::new(self.settings.media.encodings));
        let fingerprint = self.identity.fingerprint();
        let offer = sdp::write_offer(&sdp::Offer { ice: &ice, fingerprint, sections: &sections });
        let (text, leave) = self.offer(peer, offer, (&sections, &chosen)).await?;
        let answer = sdp::parse_answer(&text, &sections)?;
        let to = *answer.candidates.first().ok_or("the answer has no candidate")?;
        let joining = self.sockets.open(to)?;
        let mut transport = Transport::new(Instant::now(), ice, &self.identity, random.fork());
        transport.set_answer(&answer);
        client::udp::connect(&mut transport, &joining.udp).await?;
        let took = begun.elapsed();
        let to = transport.ice().selected().unwrap_or(to);
        let video = video_slots(&sections);
        let slot = |(offered, answered): (&OfferSection, &AnswerSection)| {
            let mut slot = Slot::new(offered.kind, answered).filter(|_| offered.ssrcs.is_none())?;
            slot.video = video.iter().position(|mid| *mid == offered.mid);
            Some(slot)
        };
        let slots = sections.iter().zip(&answer.sections).filter_map(slot).collect();
        let sources = sources(peer.role, &self.settings.media, (&sections, &answer), &chosen, &mut random);
        let socket = joining.finish(to)?;
        Ok(Arrival { joined: Joined { socket, to, transport, sources, slots, chosen, begun }, leave, took })
    }

    /// The answer to an offer, and how to leave.
    async fn offer(
        &self,
        peer: &NewPeer,
        offer: String,
        (sections, chosen): (&[OfferSection], &Arc<Chosen>),
    ) -> Result<(String, Leave), Failure> {
        match peer.role {
            Role::Whip | Role::Whep => {
                let protocol = if peer.role == Role::Whip { "whip" } else { "whep" };
                let (text, resource) = self.api.offer(protocol, &peer.room, &peer.name, &offer).await?;
                Ok((text, Leave::Resource(resource, peer.clone())))
            }
            Role::Meeting { sends, .. } => {
                let mut socket = self.api.socket(&peer.room, &peer.name).await?;
                let text = negotiate(&mut socket, offer, sends).await?;
                let (leave, is_leaving) = oneshot::channel();
                let (chosen, slots, number) = (chosen.clone(), video_slots(sections), peer.number);
                let kept = Kept { socket, chosen, slots, number, has_encodings: self.settings.media.encodings > 1 };
                Ok((text, Leave::Socket(leave, tokio::spawn(kept.keep(is_leaving)))))
            }
        }
    }
}

/// MIDs of the slots of video.
fn video_slots(sections: &[OfferSection]) -> Vec<String> {
    let slots = sections.iter().filter(|section| section.kind == Kind::Video && section.ssrcs.is_none());
    slots.map(|section| section.mid.clone()).collect()
}

/// Two senders and the slots, of what the role has; a camera in so many encodings.
fn sections(role: Role, count: usize, random: &mut Random) -> Vec<OfferSection> {
    let mut sections = Vec::new();
    let (sends, others) = match role {
        Role::Meeting { others, .. } => (true, others),
        Role::Whip => (true, 0),
        Role::Whep => (false, 1),
    };
    if sends {
        for kind in [Kind::Audio, Kind::Video] {
            let rtx = (kind == Kind::Video).then(|| random.ssrc());
            let mid = sections.len().to_string();
            let rids = if kind == Kind::Video { encodings(count) } else { &[] };
            let rids = rids.iter().map(|encoding| encoding.rid.to_owned()).collect();
            sections.push(OfferSection { mid, kind, ssrcs: Some((random.ssrc(), rtx)), has_track: true, rids });
        }
    }
    for kind in [Kind::Audio, Kind::Video] {
        for _ in 0..others {
            let mid = sections.len().to_string();
            sections.push(OfferSection { mid, kind, ssrcs: None, has_track: false, rids: Vec::new() });
        }
    }
    sections
}

/// Offers and waits for the answer.
async fn negotiate(socket: &mut Socket, sdp: String, sends: bool) -> Result<String, Failure> {
    let track = |mid: &str, source| TrackDescription { mid: mid.into(), source, active: sends };
    let tracks = vec![track("0", TrackSource::Microphone), track("1", TrackSource::Camera)];
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

/// A socket that is kept alive.
struct Kept {
    socket: Socket,
    chosen: Arc<Chosen>,
    /// MIDs of our slots of video.
    slots: Vec<String>,
    number: usize,
    /// Whether cameras have several encodings.
    has_encodings: bool,
}

impl Kept {
    /// Reads what the socket brings, until the peer leaves.
    async fn keep(mut self, mut is_leaving: oneshot::Receiver<()>) {
        let mut shown = Vec::new();
        loop {
            tokio::select! {
                signal = self.socket.next() => match signal {
                    Some(Ok(ServerSignal::Slots { slots })) if self.has_encodings => {
                        let videos = self.chosen.show(&slots, &self.slots, self.number);
                        if videos != shown {
                            shown.clone_from(&videos);
                            // A socket that is closed says so at the next look.
                            let _ = self.socket.send(&ClientSignal::Shown { videos }).await;
                        }
                    }
                    Some(Ok(ServerSignal::Encodings { paused, .. })) => self.chosen.pause(&paused),
                    Some(Ok(_)) => (),
                    _ => return,
                },
                _ = &mut is_leaving => {
                    // The server may have gone before us.
                    let _ = self.socket.send(&ClientSignal::Leave {}).await;
                    return self.socket.close().await;
                }
            }
        }
    }
}

/// What the peer sends, beginning at a moment of its own so that peers do not send in step.
fn sources(
    role: Role,
    media: &Media,
    (offered, answer): (&[OfferSection], &Answer),
    chosen: &Arc<Chosen>,
    random: &mut Random,
) -> Vec<Source> {
    if matches!(role, Role::Whep | Role::Meeting { sends: false, .. }) {
        return Vec::new();
    }
    let first = Instant::now() + Duration::from_micros(random.u64() % 40_000);
    let mut sources = Vec::new();
    for (offered, answered) in offered.iter().zip(&answer.sections) {
        let Some(ssrcs) = offered.ssrcs else { continue };
        if offered.rids.is_empty() {
            sources.extend(Source::new(media, (offered.kind, None), ssrcs, answered, first, random));
        }
        for rank in 0..offered.rids.len() {
            let rank = Some(Rank { rank, chosen: chosen.clone() });
            let ssrcs = (random.ssrc(), Some(random.ssrc()));
            sources.extend(Source::new(media, (offered.kind, rank), ssrcs, answered, first, random));
        }
    }
    sources
}
