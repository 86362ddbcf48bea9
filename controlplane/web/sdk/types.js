// @ts-check
/** The types of the client module: options, events and statistics. */

/** @import { UprtcError } from './error.js' */
/** @import { Participant } from './participant.js' */

/** @typedef {'microphone' | 'camera' | 'screen' | 'screen_audio'} Source What a track shows. */
/** @typedef {'microphone' | 'camera' | 'screen'} SendSource What this client can send. */

/**
 * How good the connection between a participant and the server is, as the server sees it: everybody in the room is told the same.
 * - `weak`: 5 % or more of the packets are lost one way or the other, before repairs, or the round trip takes 400 ms or more;
 * - `lost`: nothing comes from the participant, or nothing of a microphone and a camera that are on;
 * - `good`: everything else, also while nothing is known yet.
 * @typedef {'good' | 'weak' | 'lost'} Quality
 */

/**
 * What a participant is, if it is not a person's device: the server says it from its token.
 * - `recorder` keeps what the room sends; `streamer` sends it on to an audience; `telephone`; `feed` brings something from outside.
 * @typedef {'recorder' | 'streamer' | 'telephone' | 'feed'} Role
 */

/**
 * State of the connection to the room.
 * - `new`: `join` has not been called; `connecting`: joining for the first time;
 * - `connected`: signals and media flow;
 * - `reconnecting`: the signalling socket is lost, media still flows;
 * - `interrupted`: media does not flow now, or nothing has arrived from the server for 3 s; the module restores it;
 * - `closed`: left, or ended by an error. Final.
 * @typedef {'new' | 'connecting' | 'connected' | 'reconnecting' | 'interrupted' | 'closed'} RoomState
 */

/** @typedef {'left' | 'timed_out' | 'transport_failed' | 'replaced' | 'media_restarted' | 'server_stopping' | 'removed' | 'moved' | 'token_expired'} LeaveReason */

/**
 * @typedef {object} RoomOptions
 * @property {string} room Name of the room.
 * @property {string | (() => string | Promise<string>)} token A JWT, or a function that returns a valid one: it is called
 *   each time a socket is opened, and a minute before the current token expires.
 * @property {string | string[]} [server] `https://…` of the uprtc edge, with the path prefix of a proxy if there is one.
 *   The page's own origin by default. Several addresses of one cluster: the list of edges is got from the first that answers.
 * @property {boolean} [edges] Whether the server is one of several edges: the module gets their list, joins at the nearest one, and goes to
 *   another one when that dies (docs/EDGES.md). By default only if `server` names several. The token must be good at all of them.
 * @property {boolean | MediaTrackConstraints | MediaStreamTrack} [microphone] Send audio from the start. A track that
 *   you pass in stays yours: the module never stops it.
 * @property {boolean | MediaTrackConstraints | MediaStreamTrack} [camera] Send video from the start.
 * @property {AudioOptions} [audio] Settings for music instead of speech. Receivers must set `stereo` too: it applies to sending and playing.
 * @property {number} [joinTimeout] How long `join` tries to reach the server before it fails, milliseconds; 15000
 *   by default.
 */

/**
 * An edge of a cluster.
 * @typedef {object} Edge
 * @property {string} url `https://…`, perhaps with a path prefix.
 * @property {string} name The name of its node; empty if it is not known.
 * @property {string} region Where it is, in its operator's words; may be empty.
 * @property {number | undefined} rttMs How long a small request took there, milliseconds, if it was measured.
 */

/**
 * How audio is sent and played. A microphone gives two channels only with constraints such as `{ channelCount: 2,
 * echoCancellation: false, noiseSuppression: false, autoGainControl: false }`.
 * @typedef {object} AudioOptions
 * @property {boolean} [stereo] Send two channels, if the source has them, and play two.
 * @property {number} [bps] Bit rate of audio, 6000 to 510000 bit/s; 32000 by default, which is for speech. The server permits up to half of
 *   what this client may send.
 */

/**
 * How a participant's video is shown.
 * @typedef {object} ShownOptions
 * @property {number} [lines] Shorter side of the picture as it is shown, in device pixels (CSS pixels times `devicePixelRatio`): the server sends the
 *   smallest encoding that has as many, less a tenth. 0: not at all, and nothing is sent. `undefined`: as the attached elements
 *   say, and without any as large as it comes.
 * @property {boolean} [pinned] Whether the person looks at this one above all, as in a stage view. Where bandwidth is short it comes
 *   before the others, after shared screens only.
 */

/**
 * Whom a message is for, and how.
 * @typedef {object} SendOptions
 * @property {string | Participant | (string | Participant)[]} [to] Participants, or their ids; 64 at most. Everybody else in the room if left out. Those
 *   who are not there are ignored.
 * @property {boolean} [reliable] `true` by default: it arrives, in the order of sending, whatever happens to the network or the server in between. `false`:
 *   it is sent once, has 16 KiB at most, and is dropped where it would come late.
 * @property {string} [label] What the message is about, in the application's words; at most 64 bytes, none by default.
 */

/**
 * Maximum bit rates that this client should send, bit/s. The module applies them to its senders.
 * @typedef {object} Limits
 * @property {number} total
 * @property {number} video Each video track.
 * @property {number} audio Each audio track.
 */

/**
 * Events of a room: CustomEvents with this `detail`. `room.on` passes the detail to the listener.
 * @typedef {object} RoomEvents
 * @property {{ rejoined: boolean }} joined We joined the room; `rejoined` if not for the first time.
 * @property {{ participant: Participant }} peer-joined A participant joined.
 * @property {{ participant: Participant, reason: LeaveReason }} peer-left A participant left.
 * @property {{ participant: Participant }} peer-changed A participant started or stopped publishing, or another
 *   one has a name that looks the same, or not any more: see `publishes` and `lookalike`.
 * @property {{ room: string, previous: string }} moved An operator moved us to another room. `peer-left` with the reason
 *   `moved` follows for the participants of the former room, `peer-joined` for those of the new one. Media and devices continue.
 * @property {{ edge: Edge, previous: Edge }} edge-changed The edge in use has died or does not take us, and we are in the room at another one: with a
 *   new RTCPeerConnection and the same devices. `joined` follows.
 * @property {{ participant: Participant, source: Source, active: boolean, muted: boolean }} track-changed A participant, or
 *   this client itself, switched a microphone, camera or screen on or off; or an operator muted or unmuted one (`muted`).
 *   An application should show the `muted` of its own sources to the user, and switch the source off, so that
 *   the user decides when to be live again.
 * @property {{ participant: Participant, stream: MediaStream }} stream-changed A track moved into or out of a stream.
 * @property {{ participant: Participant, quality: Quality }} quality-changed The connection of a participant, or of this client itself
 *   (`room.local`), is better or worse than before.
 * @property {{ participant: Participant, speaking: boolean }} speaking A participant started or stopped speaking: the others as the server
 *   says, this client itself as it measures.
 * @property {{ participants: Participant[], dominant: Participant | undefined }} speakers Who speaks has changed: the loudest first, perhaps
 *   this client too; none if nobody does (also in `room.speakers`). `dominant` is to be shown first: it has spoken for a while, or did last.
 *   The same for all in the room, and a few times a second at most.
 * @property {{ state: RoomState, previous: RoomState }} state
 * @property {Limits} limits
 * @property {{ expiresInMs: number }} token-expiring The token expires soon. If `token` is a function, the module calls it for another one;
 *   if it is a string, use `room.setToken`.
 * @property {{ mayPublish: boolean, maySubscribe: boolean, maySendData: boolean }} granted Another token is in effect, with these rights.
 * @property {{ from: Participant | undefined, label: string, data: string | ArrayBuffer, reliable: boolean }} data A message came: of a participant, who
 *   may have left meanwhile, or of the application's server (`from` is `undefined`).
 * @property {{ buffered: number }} drain After `room.send` was refused with `too_much`, or more than half of what it takes was waiting: less than half is now.
 * @property {{ reason: 'slow' }} data-ended This client took reliable messages more slowly than they came: those that waited for it are lost.
 *   What comes later arrives again.
 * @property {{ inMs: number }} retrying The next attempt is in this time; `room.retryNow()` makes it at once.
 * @property {{ error: UprtcError }} error Something went wrong; if `error.fatal`, the room is closed.
 */

/**
 * @typedef {object} VideoStats
 * @property {number} width
 * @property {number} height
 * @property {number} fps
 * @property {number} bps Bits per second.
 * @property {number} loss Lost share of the packets since the last call, 0 to 1.
 * @property {number} jitterMs
 * @property {number} frames Frames decoded or encoded since the start.
 * @property {string} codec Such as `video/H264`.
 */

/**
 * @typedef {object} AudioStats
 * @property {number} bps
 * @property {number} loss
 * @property {number} jitterMs
 * @property {string} codec
 */

/** @typedef {{ microphone?: AudioStats, camera?: VideoStats, screen?: VideoStats }} ParticipantStats */

/**
 * @typedef {object} RoomStats
 * @property {number | undefined} rttMs Round-trip time to the server.
 * @property {number | undefined} availableBps Estimated bandwidth for sending.
 * @property {ParticipantStats} outgoing
 * @property {Map<string, ParticipantStats>} incoming By participant's id.
 */

export {};
