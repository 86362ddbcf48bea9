//! What REST shows and takes, as JSON. Everything that a request may say has its bounds here, and the document shows
//! them.

use proto::work::{Order, State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, SchemaType, Type};

use super::Problem;
use super::limits::said;
use super::media::{DownMedia, PathView, TotalMedia, UpMedia};
use crate::auth::{NAME_PATTERN, NAME_RULE, id_of, is_participant_name};
use crate::engine::PeerMeasured;
use crate::revocations::{Revocation, Whose};
use crate::services::Task;

/// A refusal (RFC 9457).
#[derive(Serialize, ToSchema)]
pub(super) struct ProblemDetails {
    /// `urn:uprtc:problem:{code}`
    r#type: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// Stable name of what is wrong.
    code: String,
    /// One sentence for a developer.
    detail: String,
    /// Of a change that was not done whole: whether it holds now, and who is concerned was told or removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    acted: Option<bool>,
    /// And whether it holds after a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    kept: Option<bool>,
}

/// A peer.
#[derive(Serialize, ToSchema)]
pub(super) struct PeerView {
    /// Its id in the room.
    pub(super) peer: String,
    /// The node that it is connected to, in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    node: Option<String>,
    /// Its name.
    name: String,
    /// Whether somebody else in the room, by another token, has a name that looks the same.
    lookalike: bool,
    /// What it is, if it is no person's device: `recorder`, `streamer`, `telephone` or `feed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    role: Option<String>,
    /// How good its connection is, as everybody in the room is shown: `good`, `weak`, or `lost` while nothing comes from it.
    #[schema(pattern = "^(good|weak|lost)$")]
    quality: String,
    /// What stands for the token that it came by: a revocation may name it.
    token: Option<String>,
    /// The same of the tokens that made that one, the oldest first: of a guest, the last one is the invitation.
    made_by: Vec<String>,
    /// How far its transport is: `new`, `connecting`, `connected`, or `interrupted` while nothing at all comes from it.
    #[schema(pattern = "^(new|connecting|connected|interrupted)$")]
    state: String,
    /// Whether it speaks, as everybody in the room is told.
    speaking: bool,
    /// Whether its signalling socket is open now.
    has_socket: bool,
    /// Sections through which it can receive.
    slots: usize,
    /// Those that carry a track.
    slots_used: usize,
    /// Round trip between server and peer, milliseconds. Known of who receives and reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    rtt_ms: Option<f64>,
    /// What comes from it, all tracks together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    up: Option<TotalMedia>,
    /// What goes to it, all slots together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    down: Option<TotalMedia>,
    /// What the path towards it carries. Known of who sends transport-cc feedback.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    path: Option<PathView>,
    /// What it publishes.
    pub(super) tracks: Vec<TrackView>,
    /// What it receives.
    receives: Vec<SlotView>,
}

impl PeerView {
    /// As the engine sees it.
    pub(super) fn of(measured: &PeerMeasured, node: Option<String>) -> PeerView {
        let PeerMeasured { peer, path, streams, slots } = measured;
        let track = |(n, (track, tally)): (usize, (&proto::signal::TrackInfo, &Option<_>))| TrackView {
            mid: track.track.split_once('/').map_or("", |(_, mid)| mid).to_owned(),
            kind: word(&track.kind),
            source: word(&track.source),
            active: track.active,
            muted: track.muted,
            silent: peer.silent_tracks.get(n).copied().unwrap_or_default(),
            media: tally.as_ref().map(UpMedia::of),
        };
        let slot = |(slot, tally): &(proto::signal::SlotInfo, Option<_>)| SlotView {
            mid: slot.mid.clone(),
            kind: word(&slot.kind),
            from: slot.peer.clone(),
            track: slot.track.clone(),
            media: tally.as_ref().map(DownMedia::of),
        };
        PeerView {
            peer: peer.info.peer.clone(),
            node,
            name: peer.info.name.clone(),
            lookalike: peer.info.lookalike,
            role: peer.info.role.map(|role| role.name().to_owned()),
            quality: word(&peer.info.quality),
            token: peer.token.clone(),
            made_by: peer.made_by.clone(),
            state: word(&peer.state),
            speaking: peer.is_speaking,
            has_socket: peer.has_socket,
            slots: peer.slots,
            slots_used: peer.slots_used,
            rtt_ms: DownMedia::rtt_ms(measured),
            up: UpMedia::total(measured),
            down: DownMedia::total(measured),
            path: path.as_ref().and_then(PathView::of),
            tracks: peer.info.tracks.iter().zip(streams).enumerate().map(track).collect(),
            receives: slots.iter().map(slot).collect(),
        }
    }
}

/// An enum's name on the wire.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// A page of peers, by id.
#[derive(Serialize, ToSchema)]
pub(super) struct PeerPage {
    /// The peers.
    #[schema(value_type = Vec<PeerView>)]
    pub(super) peers: Vec<Value>,
    /// Nodes of the cluster that did not answer: who is connected to them is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) unanswered: Vec<String>,
    /// `after` of the next page, if there is one.
    pub(super) next: Option<String>,
}

/// A track that a peer publishes.
#[derive(Serialize, ToSchema)]
pub(super) struct TrackView {
    /// The section of its owner's offer.
    pub(super) mid: String,
    /// `audio` or `video`.
    #[schema(pattern = "^(audio|video)$")]
    kind: String,
    /// What it shows.
    #[schema(pattern = "^(microphone|camera|screen|screen_audio)$")]
    source: String,
    /// Whether media is being sent and passed on.
    active: bool,
    /// Whether an operator keeps it from being passed on.
    muted: bool,
    /// Whether nothing of it has come for about two seconds although it is active.
    silent: bool,
    /// What comes in it, once the worker has counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    media: Option<UpMedia>,
}

/// A section through which a peer receives a track.
#[derive(Serialize, ToSchema)]
pub(super) struct SlotView {
    /// The section of its offer.
    mid: String,
    /// `audio` or `video`.
    #[schema(pattern = "^(audio|video)$")]
    kind: String,
    /// Whose track, by the peer's id.
    from: Option<String>,
    /// Which one: the peer's id, a slash, and the track's `mid`.
    track: Option<String>,
    /// What goes through it, once the worker has counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    media: Option<DownMedia>,
}

/// What to do with a track.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TrackChange {
    /// Whether it is not to be passed on.
    pub(super) muted: bool,
}

/// Where a peer is to go.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerMove {
    /// The other room.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,64}$", example = "breakout-2")]
    pub(super) room: String,
}

/// Longest `jti` that is taken, characters.
const JTI_LEN_MAX: usize = 256;

/// Whose tokens to revoke: those of a name or of everybody, or a single one.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, try_from = "RevocationFields")]
pub(super) enum RevocationRequest {
    /// All tokens until now.
    Named(NamedTokens),
    /// One token.
    Single(SingleToken),
    /// One token.
    Known(KnownToken),
}

/// All tokens until now.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedTokens {
    /// Tokens with this name; everybody's if it is left out or null.
    #[schema(schema_with = name_or_everybody, required = false)]
    pub(super) name: Option<String>,
}

/// One token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SingleToken {
    /// The `jti` of the one that is meant.
    #[schema(min_length = 1, max_length = 256)]
    pub(super) jti: String,
}

/// One token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KnownToken {
    /// What stands for it: a peer's `token`, or one of its `made_by`.
    #[schema(pattern = "^[0-9a-f]{16}$")]
    pub(super) token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevocationFields {
    #[serde(default, deserialize_with = "said")]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "said")]
    jti: Option<Option<String>>,
    #[serde(default, deserialize_with = "said")]
    token: Option<Option<String>>,
}

impl TryFrom<RevocationFields> for RevocationRequest {
    type Error = String;

    fn try_from(fields: RevocationFields) -> Result<Self, String> {
        let is_id =
            |id: &String| id.len() == 16 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match (fields.name, fields.jti, fields.token) {
            (None, None, Some(token)) => match token.filter(is_id) {
                Some(token) => Ok(RevocationRequest::Known(KnownToken { token })),
                None => Err("token is not 16 hexadecimal digits".into()),
            },
            (name, jti, token)
                if [name.is_some(), jti.is_some(), token.is_some()].iter().filter(|&&is| is).count() > 1 =>
            {
                Err("name, jti and token: one of them says whose tokens are meant".into())
            }
            (None, Some(jti), _) => match jti.filter(|jti| (1..=JTI_LEN_MAX).contains(&jti.chars().count())) {
                Some(jti) => Ok(RevocationRequest::Single(SingleToken { jti })),
                None => Err(format!("jti is not 1 to {JTI_LEN_MAX} characters")),
            },
            (name, ..) => Ok(RevocationRequest::Named(NamedTokens { name: name.flatten() })),
        }
    }
}

impl RevocationRequest {
    /// Whose tokens are meant, if they can be such.
    pub(super) fn whose(self) -> Result<Whose, Problem> {
        match self {
            RevocationRequest::Single(SingleToken { jti }) => Ok(Whose::Token(id_of(&jti))),
            RevocationRequest::Known(KnownToken { token }) => Ok(Whose::Token(token)),
            RevocationRequest::Named(NamedTokens { name: None }) => Ok(Whose::Everybody),
            RevocationRequest::Named(NamedTokens { name: Some(name) }) if is_participant_name(&name) => {
                Ok(Whose::Name(name))
            }
            RevocationRequest::Named(_) => Err(bad_name()),
        }
    }
}

/// Whose tokens to revoke everywhere: those of a name, or a single one.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, try_from = "RevocationFields")]
pub(super) enum AnyRevocationRequest {
    /// All tokens until now with a name.
    Named(TokensOfName),
    /// One token.
    Single(SingleToken),
    /// One token.
    Known(KnownToken),
}

/// All tokens until now with a name.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokensOfName {
    /// Tokens with this name.
    #[schema(schema_with = name_of_tokens)]
    pub(super) name: String,
}

impl TryFrom<RevocationFields> for AnyRevocationRequest {
    type Error = String;

    fn try_from(fields: RevocationFields) -> Result<Self, String> {
        match RevocationRequest::try_from(fields)? {
            RevocationRequest::Single(single) => Ok(AnyRevocationRequest::Single(single)),
            RevocationRequest::Known(known) => Ok(AnyRevocationRequest::Known(known)),
            RevocationRequest::Named(NamedTokens { name: Some(name) }) => {
                Ok(AnyRevocationRequest::Named(TokensOfName { name }))
            }
            RevocationRequest::Named(_) => Err("name, jti or token: one of them says whose tokens are meant".into()),
        }
    }
}

impl AnyRevocationRequest {
    /// Whose tokens are meant, if they can be such.
    pub(super) fn whose(self) -> Result<Whose, Problem> {
        match self {
            AnyRevocationRequest::Single(single) => RevocationRequest::Single(single).whose(),
            AnyRevocationRequest::Known(known) => RevocationRequest::Known(known).whose(),
            AnyRevocationRequest::Named(TokensOfName { name }) => {
                RevocationRequest::Named(NamedTokens { name: Some(name) }).whose()
            }
        }
    }
}

/// Tokens that are not good any more.
#[derive(Serialize, ToSchema)]
pub(super) struct RevocationView {
    /// By what it is found: `everybody`, or `name.` or `token.` with the first 16 hexadecimal digits of the SHA-256 of the name
    /// or the `jti`.
    #[schema(max_length = 64)]
    id: String,
    /// With this name, or with any.
    name: Option<String>,
    /// Issued until then, seconds since 1970. Of a revocation by `jti`: when it was made.
    issued_until: u64,
}

impl From<Revocation> for RevocationView {
    fn from(Revocation { whose, issued_until, .. }: Revocation) -> Self {
        let id = whose.id();
        let name = if let Whose::Name(name) = whose { Some(name) } else { None };
        RevocationView { id, name, issued_until }
    }
}

/// A page of revocations, by id.
#[derive(Serialize, ToSchema)]
pub(super) struct RevocationPage {
    /// The revocations of the room.
    pub(super) revocations: Vec<RevocationView>,
    /// `after` of the next page, if there is one.
    pub(super) next: Option<String>,
}

/// What a token is to say.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenRequest {
    /// The room, or `*` for every room.
    #[schema(pattern = "^([A-Za-z0-9._-]{1,64}|[*])$", example = "standup")]
    pub(super) room: String,
    /// The name that others see.
    #[schema(schema_with = name_of_person)]
    pub(super) name: String,
    /// May send media.
    #[serde(default)]
    pub(super) publish: bool,
    /// May receive media.
    #[serde(default)]
    pub(super) subscribe: bool,
    /// May send data; as `publish` if it is left out.
    #[serde(default)]
    pub(super) data: Option<bool>,
    /// May use this interface for that room.
    #[serde(default)]
    pub(super) admin: bool,
    /// May make invitations to that room.
    #[serde(default)]
    pub(super) invite: bool,
    /// May start and stop recordings of that room.
    #[serde(default)]
    pub(super) record: bool,
    /// What its bearer is, if it is no person's device: `recorder`, `streamer`, `telephone` or `feed`. Others see it, and it may wait
    /// for orders as such a service.
    #[serde(default)]
    #[schema(pattern = "^(recorder|streamer|telephone|feed)$")]
    pub(super) role: Option<String>,
    /// How long it is good, seconds.
    #[schema(minimum = 1, maximum = 2_592_000)]
    #[serde(default = "an_hour")]
    pub(super) ttl_s: u64,
}

/// A message to who is in a room: either `text` or `binary`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DataRequest {
    /// What it is about, at most 64 bytes.
    #[serde(default)]
    #[schema(max_length = 64)]
    pub(super) label: String,
    /// The ids of the peers that it is for; everybody in the room if it is left out.
    #[serde(default)]
    #[schema(max_items = 64)]
    pub(super) to: Option<Vec<String>>,
    /// Whether it must arrive. If not, it is sent once, and dropped where it would come late.
    #[serde(default = "yes")]
    pub(super) reliable: bool,
    /// Text, at most 256 KiB in UTF-8.
    #[serde(default)]
    pub(super) text: Option<String>,
    /// Bytes in base64, at most 256 KiB of them.
    #[serde(default)]
    #[schema(pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$")]
    pub(super) binary: Option<String>,
}

/// What to begin. Fields beside `name` depend on the kind of work: docs/SERVICES.md.
#[derive(Deserialize, ToSchema)]
pub(super) struct TaskRequest {
    /// The name that others in the room see.
    #[serde(default)]
    #[schema(schema_with = name_or_title)]
    pub(super) name: Option<String>,
    /// For the service.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub(super) parameters: Map<String, Value>,
}

/// Work for a room that a service does.
#[derive(Serialize, ToSchema)]
pub(super) struct TaskView {
    /// Its id.
    task: String,
    /// In which room.
    room: String,
    /// `recordings`, `streams`, `calls` or `feeds`.
    kind: String,
    /// The name that others in the room see.
    name: String,
    /// The name in the token of whoever ordered it.
    ordered_by: String,
    /// When, seconds since 1970.
    ordered_at: u64,
    /// `starting`, `running`, `stopping` or `ended`.
    #[schema(pattern = "^(starting|running|stopping|ended)$")]
    state: String,
    /// Why it has ended: a stable name, and perhaps a colon and a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// What the service tells of it: docs/SERVICES.md.
    #[schema(value_type = Object)]
    detail: Map<String, Value>,
}

impl TaskView {
    /// As it is now.
    pub(super) fn of(task: Task) -> TaskView {
        let state = match task.state {
            State::Starting | State::Running if task.is_stopping => "stopping",
            State::Starting => "starting",
            State::Running => "running",
            State::Ended => "ended",
        };
        let Order { task: id, room, name, ordered_by, ordered_at, .. } = task.order;
        let (kind, state) = (task.role.collection().to_owned(), state.to_owned());
        TaskView { task: id, room, kind, name, ordered_by, ordered_at, state, reason: task.reason, detail: task.detail }
    }
}

/// The tasks of a room.
#[derive(Serialize, ToSchema)]
pub(super) struct TaskPage {
    /// The oldest first.
    pub(super) tasks: Vec<TaskView>,
    /// Whether a service for this kind of work waits for orders and can have another task.
    pub(super) available: bool,
}

fn yes() -> bool {
    true
}

/// What an invitation is to allow.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InvitationRequest {
    /// Whether guests may send media; as the one who invites if it is left out.
    #[serde(default)]
    pub(super) publish: Option<bool>,
    /// Whether guests may receive media; as the one who invites if it is left out.
    #[serde(default)]
    pub(super) subscribe: Option<bool>,
    /// Whether guests may send data; as the one who invites if it is left out.
    #[serde(default)]
    pub(super) data: Option<bool>,
    /// How long it is good, and what guests get for it, seconds. Twelve hours if it is left out.
    #[schema(minimum = 1, maximum = 604_800)]
    #[serde(default = "half_a_day")]
    pub(super) ttl_s: u64,
}

/// Who accepts an invitation.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GuestRequest {
    /// The name that others see.
    #[schema(schema_with = name_of_person)]
    pub(super) name: String,
}

fn half_a_day() -> u64 {
    12 * 3600
}

fn an_hour() -> u64 {
    3600
}

/// A token.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenView {
    /// The text of it.
    pub(super) token: String,
    /// Until when it is good, seconds since 1970.
    pub(super) expires_at: u64,
}

/// The server.
#[derive(Serialize, ToSchema)]
pub(super) struct ServerView {
    /// Version of uprtc.
    pub(super) version: String,
    /// Version of the contract between its planes.
    pub(super) contract: u32,
    /// Whether rooms can be joined.
    pub(super) is_ready: bool,
    /// Rooms with somebody in them.
    pub(super) rooms: usize,
    /// Peers in all rooms.
    pub(super) peers: usize,
    /// Signalling sockets.
    pub(super) sockets: usize,
    /// Load averages of the machine over 1, 5 and 15 minutes, where the kernel tells them.
    pub(super) load: Option<Vec<f64>>,
    /// The workers of the dataplane.
    pub(super) workers: Vec<WorkerView>,
}

/// One core that moves packets. Counts are since it started.
#[derive(Serialize, ToSchema)]
pub(super) struct WorkerView {
    /// Its index.
    pub(super) worker: usize,
    /// Whether it takes joins.
    pub(super) is_ready: bool,
    /// Peers that it carries.
    pub(super) peers: usize,
    /// Routes that are open.
    pub(super) routes: u64,
    /// Datagrams that came.
    pub(super) received: u64,
    /// Their bytes.
    pub(super) received_bytes: u64,
    /// Datagrams that left.
    pub(super) sent: u64,
    /// Their bytes.
    pub(super) sent_bytes: u64,
}

pub(super) fn bad_name() -> Problem {
    Problem::invalid(format!("name is not {NAME_RULE}"))
}

/// A name in the document: utoipa's attributes take the pattern as a literal only, and it has one place.
fn name_schema(description: &str, types: &[Type]) -> Object {
    let text = ObjectBuilder::new().schema_type(SchemaType::from_iter(types.iter().cloned()));
    let bounded = text.min_length(Some(1)).max_length(Some(64)).pattern(Some(NAME_PATTERN));
    bounded.description(Some(description)).build()
}

fn name_of_person() -> Object {
    name_schema("The name that others see.", &[Type::String])
}

fn name_or_title() -> Object {
    name_schema(
        "The name that others see; one for the kind of work if it is left out or null.",
        &[Type::String, Type::Null],
    )
}

fn name_of_tokens() -> Object {
    name_schema("Tokens with this name.", &[Type::String])
}

fn name_or_everybody() -> Object {
    name_schema("Tokens with this name; everybody's if it is left out or null.", &[Type::String, Type::Null])
}
