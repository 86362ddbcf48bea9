//! One call as a task: its RTP socket, its leg and its peer in the room. What SIP has to say comes from the gateway, and goes
//! to it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::http::Server;
use client::random::Random;
use client::room::{self, EndReason, JoinError, Room};
use proto::signal::{ErrorCode, LeaveReason};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::bridge::{Bridge, Place};
use crate::counters::Counters;
use crate::entry::{Entry, Step, is_equal, sound};
use crate::known::Known;
use crate::leg::{Leg, Quality, Received, Srtp};
use crate::sdp::{Direction, KEY_LEN, Ours, Remote};
use crate::settings::{Number, Settings};

/// How long a room may take to be joined.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A telephone that sends nothing at all after its call began has no way for its media.
const FIRST_MEDIA_TIMEOUT: Duration = Duration::from_secs(30);
/// One that was heard may be silent for so long; telephones that leave out silence are.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// Frames that are made up for at once when this task was late. Where it stood still for longer, what was not said then is left out.
const FRAME: Duration = Duration::from_millis(20);
const LATE_MAX: u32 = 10;
/// Datagrams that are taken before a frame is played: a fifth of a second at 10 ms each.
const DATAGRAMS_MAX: usize = 20;

/// Makes the token of a room for a name.
pub type Tokens = Arc<dyn Fn(&str, &str) -> Result<String, String> + Send + Sync>;

/// What the gateway tells a call.
#[derive(Debug)]
pub(crate) enum Order {
    /// The ACK came; with the answer to our offer.
    Confirmed(Option<String>),
    /// A new offer, or a wish for ours.
    Offered(Option<String>),
    /// Who is called may be heard before it answers.
    Early(String),
    /// Our INVITE is answered.
    Accepted(String),
    Digit(u8),
    /// They want this number called into the room.
    Referred {
        number: String,
        replaces: Option<String>,
    },
    /// The other end has gone, or the gateway stops.
    End,
}

/// What a call tells the gateway.
#[derive(Debug)]
pub(crate) enum Word {
    Ring,
    Accept(String),
    Refuse(u16, &'static str),
    HangUp,
    WrongPin,
    /// Where the number that they want called comes to, if they are in a room themselves.
    Refer {
        into: Option<Number>,
        number: String,
        replaces: Option<String>,
    },
    Done(Box<Counters>),
}

/// What a call is made of.
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) settings: Arc<Settings>,
    pub(crate) server: Server,
    pub(crate) tokens: Tokens,
    /// What the other calls say.
    pub(crate) known: Known,
    pub(crate) socket: UdpSocket,
    /// At the next port, for RTCP where it has one of its own.
    pub(crate) rtcp: UdpSocket,
    /// Where we receive, as SDP says it.
    pub(crate) media: SocketAddr,
    /// Who signals.
    pub(crate) from: SocketAddr,
    /// The caller's name, for the room to see.
    pub(crate) name: String,
    /// Where the call leads; None is the lobby.
    pub(crate) number: Option<Number>,
    /// Of `X-Pin`.
    pub(crate) pin: Option<String>,
    /// The other end, if it has offered.
    pub(crate) remote: Option<Remote>,
    /// Of a call of ours, what is dialled when it is up.
    pub(crate) digits: Option<String>,
    pub(crate) random: Random,
    pub(crate) key: Option<[u8; KEY_LEN]>,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) words: mpsc::Sender<(u64, Word)>,
}

/// The media of a call: toward its telephone, and between that and the room.
struct Media {
    leg: Leg,
    bridge: Bridge,
}

impl Media {
    fn play(&mut self, step: &Step) {
        self.bridge.play(sound(step, self.leg.rate()));
    }

    fn finish(self, counters: &mut Counters) {
        self.leg.finish(counters);
        self.bridge.finish(counters);
    }
}

/// Why a call ends from our side, as the log says it.
type Reason = &'static str;

impl Call {
    /// Carries the call to its end.
    pub(crate) async fn run(mut self) {
        let mut counters = Counters::default();
        let began = Instant::now();
        if let Some(reason) = self.carry(&mut counters).await {
            tracing::info!(call = self.id, reason, seconds = began.elapsed().as_secs(), "call_ended");
            self.say(Word::HangUp).await;
        }
        self.say(Word::Done(Box::new(counters))).await;
    }

    async fn say(&self, word: Word) {
        // The gateway ends only with all calls.
        let _ = self.words.send((self.id, word)).await;
    }

    fn ours(&self, version: u32) -> Ours {
        Ours { address: self.media, id: self.id, version, key: self.key }
    }

    /// None if the other end has ended it, or it was refused.
    async fn carry(&mut self, counters: &mut Counters) -> Option<Reason> {
        // With a PIN to be entered, or none to be known, the call is answered first or last.
        let is_known = self.number.as_ref().is_some_and(|number| match (&number.pin, &self.pin) {
            (None, _) => true,
            (Some(pin), Some(given)) => is_equal(pin.as_bytes(), given.as_bytes()),
            (Some(_), None) => false,
        });
        if self.pin.is_some() && !is_known && self.number.is_some() {
            self.say(Word::WrongPin).await;
            self.say(Word::Refuse(403, "Wrong PIN")).await;
            return None;
        }
        let mut room = None;
        if is_known && self.digits.is_none() {
            self.say(Word::Ring).await;
            let number = self.number.clone()?;
            tokio::select! {
                joined = join(&self.settings, &self.server, &self.tokens, &number, &self.name) => match joined {
                    Ok(joined) => room = Some(joined),
                    Err((status, reason)) => {
                        self.say(Word::Refuse(status, reason)).await;
                        return None;
                    }
                },
                // Cancelled while it rang.
                () = ended(&mut self.orders) => return None,
            }
        }
        let (remote, is_answered) = self.connected().await?;
        let Some(mut media) = self.media(remote) else { return Some("no_codec") };
        let reason = self.converse(&mut media, room, is_known, is_answered, counters).await;
        if let Some((to, report)) = media.leg.goodbye(Instant::now()) {
            self.tell(&media.leg, to, &report);
        }
        self.log_quality(&media.leg);
        media.finish(counters);
        reason
    }

    /// None if libopus cannot be had.
    fn media(&mut self, remote: Remote) -> Option<Media> {
        let srtp = self.key.as_ref().map(Srtp);
        let leg = Leg::new(Instant::now(), remote, self.from.ip(), srtp.as_ref(), &mut self.random)?;
        let bridge = Bridge::new(leg.rate(), self.settings.audio_slots as usize, self.known.clone())?;
        Some(Media { leg, bridge })
    }

    /// Takes what who is called says of its media: another address, or other media altogether. False if it cannot be used.
    fn redirect(&mut self, media: &mut Media, sdp: &str, counters: &mut Counters) -> bool {
        let remote = match Remote::parse(sdp, self.settings.needs_srtp) {
            Ok(remote) => remote,
            Err(error) => {
                tracing::warn!(call = self.id, %error, "call_answer_unusable");
                return false;
            }
        };
        if !media.leg.retarget(Instant::now(), &remote) {
            let Some(other) = self.media(remote) else { return false };
            std::mem::replace(media, other).finish(counters);
        }
        true
    }

    /// Sends a report; one that is lost is followed by another.
    fn tell(&self, leg: &Leg, to: SocketAddr, report: &[u8]) {
        let socket = if leg.is_muxed() { &self.socket } else { &self.rtcp };
        let _ = socket.try_send_to(report, to);
    }

    fn log_quality(&self, leg: &Leg) {
        let Quality { received, lost, jitter, sent, there, round_trip } = leg.quality();
        let ms = |time: Duration| time.as_millis() as u64;
        tracing::info!(
            call = self.id,
            received,
            lost,
            jitter_ms = ms(jitter),
            sent,
            lost_there = there.map(|there| there.lost),
            jitter_there_ms = there.map(|there| ms(there.jitter)),
            round_trip_ms = round_trip.map(ms),
            "call_media"
        );
    }

    /// Answers, or waits for the answer; the other end's media, and whether it has answered or can be heard before it does.
    async fn connected(&mut self) -> Option<(Remote, bool)> {
        if self.digits.is_some() {
            loop {
                match self.orders.recv().await? {
                    Order::Accepted(sdp) => match Remote::parse(&sdp, self.settings.needs_srtp) {
                        Ok(remote) => return Some((remote, true)),
                        Err(error) => {
                            tracing::warn!(call = self.id, %error, "call_answer_unusable");
                            self.say(Word::HangUp).await;
                            return None;
                        }
                    },
                    Order::Early(sdp) => match Remote::parse(&sdp, self.settings.needs_srtp) {
                        Ok(remote) => return Some((remote, false)),
                        Err(error) => tracing::info!(call = self.id, %error, "call_early_media_unusable"),
                    },
                    Order::End => return None,
                    _ => (),
                }
            }
        }
        if let Some(remote) = self.remote.take() {
            self.say(Word::Accept(remote.answer(&self.ours(1)))).await;
            return Some((remote, true));
        }
        // They did not offer, so we do, and the ACK answers.
        self.say(Word::Accept(self.ours(1).offer())).await;
        loop {
            match self.orders.recv().await? {
                Order::Confirmed(sdp) => match sdp.map(|sdp| Remote::parse(&sdp, self.settings.needs_srtp)) {
                    Some(Ok(remote)) => return Some((remote, true)),
                    _ => {
                        self.say(Word::HangUp).await;
                        return None;
                    }
                },
                Order::Referred { number, replaces } => self.say(Word::Refer { into: None, number, replaces }).await,
                Order::End => return None,
                _ => (),
            }
        }
    }

    async fn converse(
        &mut self,
        media: &mut Media,
        mut room: Option<Room>,
        is_known: bool,
        mut is_answered: bool,
        counters: &mut Counters,
    ) -> Option<Reason> {
        let mut began = Instant::now();
        let mut entry = (!is_known).then(|| Entry::new(began, self.number.clone()));
        let mut joining: Option<Joining> = None;
        if entry.is_some() {
            media.play(&Step::Ask);
        } else if let Some(number) = self.number.clone().filter(|_| room.is_none()) {
            // We called.
            joining = Some(self.joining(number));
            if is_answered {
                self.dial(&mut media.leg);
            }
        }
        let mut version = 1;
        let mut end_after_sound = None;
        let mut ticks = interval(FRAME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut datagram, mut report) = ([0; 2048], [0; 2048]);
        loop {
            let mut digit = None;
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    None | Some(Order::End) => {
                        if let Some(room) = room.take() {
                            room.leave().await;
                        }
                        return None;
                    }
                    Some(Order::Digit(received)) => digit = Some(received),
                    Some(Order::Offered(offer)) => {
                        version += 1;
                        self.reoffered(&mut media.leg, offer, version).await;
                    }
                    Some(Order::Confirmed(Some(sdp))) => {
                        if let Ok(remote) = Remote::parse(&sdp, self.settings.needs_srtp) {
                            media.leg.retarget(Instant::now(), &remote);
                        }
                    }
                    Some(Order::Early(sdp)) if !is_answered => drop(self.redirect(media, &sdp, counters)),
                    Some(Order::Accepted(sdp)) if !is_answered => {
                        if !self.redirect(media, &sdp, counters) {
                            return Some("answer_unusable");
                        }
                        (is_answered, began) = (true, Instant::now());
                        self.dial(&mut media.leg);
                    }
                    Some(Order::Referred { number, replaces }) => {
                        let into = self.number.clone().filter(|_| room.is_some());
                        self.say(Word::Refer { into, number, replaces }).await;
                    }
                    Some(Order::Confirmed(None) | Order::Early(_) | Order::Accepted(_)) => (),
                },
                due = ticks.tick() => {
                    let Media { leg, bridge } = media;
                    let now = Instant::now();
                    let late = now.saturating_duration_since(due.into_std()).div_duration_f64(FRAME) as u32;
                    if late > LATE_MAX {
                        ticks.reset();
                        bridge.skip(leg, late);
                    }
                    // What has come by now is played by now, also where this task was late. The room's packets wait for it, as nothing else is
                    // done with them: a task that wakes for each costs a hundred calls a tenth of a core.
                    while let Some(event) = room.as_mut().and_then(Room::try_next) {
                        match event {
                            room::Event::Packet(packet) => {
                                let (seq, timestamp) = (packet.header.seq, packet.header.timestamp);
                                bridge.put(packet.arrival, packet.slot, seq, timestamp, &packet.payload);
                            }
                            room::Event::Joined { .. } => bridge.reset(),
                            room::Event::Ended(reason) => return Some(left(&reason)),
                            _ => (),
                        }
                    }
                    for _ in 0..DATAGRAMS_MAX {
                        let Ok((len, from)) = self.socket.try_recv_from(&mut datagram) else { break };
                        if let Received::Digit(received) = leg.receive(now, from, &mut datagram[..len]) {
                            digit = Some(received);
                            break;
                        }
                    }
                    let place = match room {
                        None => Place::Outside,
                        Some(_) if !is_answered => Place::Called,
                        Some(_) => Place::Inside,
                    };
                    let tick = bridge.tick(now, leg, place);
                    if let Some((to, packet)) = leg.send(now, &tick.frame) {
                        // A full socket loses one frame of voice.
                        let _ = self.socket.try_send_to(&packet, to);
                    }
                    if let Some((to, report)) = leg.report(now) {
                        self.tell(leg, to, &report);
                    }
                    if let (Some(room), Some((timestamp, packet))) = (&room, tick.packet) {
                        let _ = room.send_audio(timestamp, packet);
                    }
                    if let Some(reason) = end_after_sound.filter(|_| !bridge.is_playing()) {
                        return Some(reason);
                    }
                    if entry.as_ref().is_some_and(|entry| entry.is_late(now)) {
                        return Some("no_pin");
                    }
                    if let Some(reason) = silence(leg, now, began).filter(|_| is_answered) {
                        return Some(reason);
                    }
                }
                received = self.socket.recv_from(&mut datagram) => {
                    // An ICMP error of an earlier packet says nothing of this one.
                    let Ok((len, from)) = received else { continue };
                    if let Received::Digit(received) = media.leg.receive(Instant::now(), from, &mut datagram[..len]) {
                        digit = Some(received);
                    }
                }
                received = self.rtcp.recv_from(&mut report) => {
                    let Ok((len, from)) = received else { continue };
                    media.leg.receive_rtcp(Instant::now(), from, &mut report[..len]);
                }
                joined = arrived(&mut joining) => {
                    joining = None;
                    match joined {
                        Ok(joined) => room = Some(joined),
                        Err((_, reason)) => {
                            media.play(&Step::Over);
                            end_after_sound = Some(reason);
                        }
                    }
                }
            }
            let Some((digit, asking)) = digit.zip(entry.as_mut()).filter(|_| end_after_sound.is_none()) else {
                continue;
            };
            let step = asking.digit(digit, &self.settings);
            media.play(&step);
            match step {
                Step::Wait | Step::Ask => (),
                Step::Wrong => self.say(Word::WrongPin).await,
                Step::Over => {
                    self.say(Word::WrongPin).await;
                    end_after_sound = Some("wrong_pin");
                }
                Step::Enter(number) => {
                    entry = None;
                    self.number = Some((*number).clone());
                    joining = Some(self.joining(*number));
                }
            }
        }
    }

    /// Dials what was asked for, now that somebody has answered.
    fn dial(&self, leg: &mut Leg) {
        self.digits.iter().flat_map(|digits| digits.bytes()).for_each(|digit| leg.push_digit(digit));
    }

    fn joining(&self, number: Number) -> Joining {
        let (settings, server, tokens) = (Arc::clone(&self.settings), self.server.clone(), Arc::clone(&self.tokens));
        let name = self.name.clone();
        Box::pin(async move { join(&settings, &server, &tokens, &number, &name).await })
    }

    /// Answers a re-INVITE: hold, resume, another address. Another codec or key would be another call.
    async fn reoffered(&self, leg: &mut Leg, offer: Option<String>, version: u32) {
        let Some(offer) = offer else {
            return self.say(Word::Accept(leg.remote().answer(&self.ours(version)))).await;
        };
        match Remote::parse(&offer, self.settings.needs_srtp) {
            Ok(remote) if leg.retarget(Instant::now(), &remote) => {
                self.say(Word::Accept(remote.answer(&self.ours(version)))).await;
            }
            _ => self.say(Word::Refuse(488, "Not Acceptable Here")).await,
        }
    }
}

/// A room that is being joined.
type Joining = Pin<Box<dyn Future<Output = Result<Room, (u16, &'static str)>> + Send>>;

/// What became of it; never, without one.
async fn arrived(joining: &mut Option<Joining>) -> Result<Room, (u16, &'static str)> {
    match joining {
        Some(joining) => joining.await,
        None => std::future::pending().await,
    }
}

/// Until the call is ended from outside.
async fn ended(orders: &mut mpsc::Receiver<Order>) {
    while !matches!(orders.recv().await, None | Some(Order::End)) {}
}

/// Why a telephone that says nothing is hung up on, if it is. One that is on hold says nothing.
fn silence(leg: &Leg, now: Instant, began: Instant) -> Option<Reason> {
    if !matches!(leg.remote().direction, Direction::Both) {
        return None;
    }
    match leg.heard_at() {
        None if now.saturating_duration_since(began) > FIRST_MEDIA_TIMEOUT => Some("no_media"),
        Some(at) if now.saturating_duration_since(at) > SILENCE_MAX => Some("silent"),
        _ => None,
    }
}

fn left(reason: &EndReason) -> Reason {
    match reason {
        EndReason::Bye(LeaveReason::Removed) => "removed",
        EndReason::Bye(_) | EndReason::Left => "room_ended",
        EndReason::Gone(_) => "server_gone",
        EndReason::TooSlow => "overloaded",
    }
}

/// Joins the room of a number; else a status and a reason for the telephone.
async fn join(
    settings: &Settings,
    server: &Server,
    tokens: &Tokens,
    number: &Number,
    name: &str,
) -> Result<Room, (u16, &'static str)> {
    let token = match &number.token {
        Some(token) => token.clone(),
        None => tokens(&number.room, name).map_err(|error| {
            tracing::warn!(room = number.room, error, "call_without_token");
            (500, "No Token For This Room")
        })?,
    };
    let wanted = room::Settings {
        audio_slots: Some(settings.audio_slots),
        video_slots: Some(0),
        sends_audio: true,
        ..room::Settings::new(server.clone(), &number.room, &token)
    };
    let error = match timeout(JOIN_TIMEOUT, Room::join(wanted)).await {
        Ok(Ok(room)) => return Ok(room),
        Ok(Err(error)) => error,
        Err(_) => JoinError::TimedOut(JOIN_TIMEOUT),
    };
    tracing::warn!(room = number.room, %error, "call_not_in_room");
    Err(status(&error))
}

/// What a telephone is told when the room is not to be had.
fn status(error: &JoinError) -> (u16, &'static str) {
    match error {
        JoinError::Refused { code: ErrorCode::RoomFull, .. } => (486, "Room Full"),
        JoinError::Signal(client::signal::SignalError::Refused { status, .. }) => match status {
            401 | 403 => (403, "Token Refused"),
            404 => (404, "No Such Room"),
            429 => (503, "Too Many Joins"),
            _ => (503, "Server Refuses"),
        },
        JoinError::Signal(_) | JoinError::Closed => (503, "Server Not Reached"),
        JoinError::TimedOut(_) | JoinError::Connect(_) => (504, "Server Does Not Answer"),
        JoinError::Refused { code: ErrorCode::RoomLocked | ErrorCode::Forbidden, .. } => (403, "Room Locked"),
        JoinError::Refused { code: ErrorCode::ServerFull | ErrorCode::NoDataplane, .. } => (503, "Server Full"),
        JoinError::Refused { .. } | JoinError::Bye(_) => (603, "Decline"),
        _ => (500, "Server Internal Error"),
    }
}
