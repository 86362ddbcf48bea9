// @ts-check
/** The words of the client module: what an application gives, gets and is told. */

/** @import { UprtcError } from './error.js' */
/** @import { Participant } from './participant.js' */

/** @typedef {'microphone' | 'camera' | 'screen' | 'screen_audio'} Source What a track shows. */
/** @typedef {'microphone' | 'camera' | 'screen'} SendSource What this client can send. */

/**
 * How the room is doing.
 * - `new`: not asked to join yet; `connecting`: joining for the first time;
 * - `connected`: signals and media flow;
 * - `reconnecting`: the signalling socket is lost, media still flows;
 * - `interrupted`: media does not flow now, or nothing has been heard of the server for 3 s; it is being restored;
 * - `closed`: left, or ended by an error. Final.
 * @typedef {'new' | 'connecting' | 'connected' | 'reconnecting' | 'interrupted' | 'closed'} RoomState
 */

/** @typedef {'left' | 'timed_out' | 'transport_failed' | 'replaced' | 'media_restarted' | 'server_stopping' | 'removed' | 'moved' | 'token_expired'} LeaveReason */

/**
 * @typedef {object} RoomOptions
 * @property {string} room Name of the room.
 * @property {string | (() => string | Promise<string>)} token A JWT, or a function that brings a fresh one: it is asked
 *   each time a socket is opened, and a minute before the last one expires.
 * @property {string} [server] `https://…` of the uprtc edge, with the path that a proxy may put before it.
 *   The page's own origin by default.
 * @property {boolean | MediaTrackConstraints | MediaStreamTrack} [microphone] Send audio from the start. A track that
 *   is passed in stays yours: it is never stopped here.
 * @property {boolean | MediaTrackConstraints | MediaStreamTrack} [camera] Send video from the start.
 * @property {AudioOptions} [audio] Music instead of speech. Who listens says so, too: `stereo` is what a browser sends and plays.
 * @property {number} [joinTimeout] Milliseconds for which an unreachable server is tried before `join` fails; 15000
 *   by default.
 */

/**
 * How audio is sent and heard. A microphone gives two channels only with constraints such as `{ channelCount: 2,
 * echoCancellation: false, noiseSuppression: false, autoGainControl: false }`.
 * @typedef {object} AudioOptions
 * @property {boolean} [stereo] Send two channels, if the source has them, and play two.
 * @property {number} [bps] Bit rate of audio, 6000 to 510000 bit/s; 32000 by default, which is for speech. The server grants up to half of
 *   what this client may send.
 */

/**
 * Most that this client should send, bit/s. The senders obey without your help.
 * @typedef {object} Limits
 * @property {number} total
 * @property {number} video Each video track.
 * @property {number} audio Each audio track.
 */

/**
 * Events of a room; each comes as a CustomEvent whose `detail` is given here. `room.on` hands over the detail.
 * @typedef {object} RoomEvents
 * @property {{ rejoined: boolean }} joined The room was entered; `rejoined` if it had been before.
 * @property {{ participant: Participant }} peer-joined Somebody came.
 * @property {{ participant: Participant, reason: LeaveReason }} peer-left Somebody is gone.
 * @property {{ participant: Participant }} peer-changed Somebody publishes now, or does not any more: see `publishes`.
 * @property {{ room: string, previous: string }} moved An operator moved us to another room; who was with us is told by
 *   `peer-left` with the reason `moved`, who is there by `peer-joined`. Media and devices go on.
 * @property {{ participant: Participant, source: Source, active: boolean, muted: boolean }} track-changed Somebody, or
 *   this client itself, switched a microphone, camera or screen on or off; or an operator muted or freed one (`muted`).
 *   An application that is told of its own `muted` shows it to the person, and switches the source off, so that
 *   nobody is live again by surprise.
 * @property {{ participant: Participant, stream: MediaStream }} stream-changed A track moved into or out of a stream.
 * @property {{ participant: Participant, speaking: boolean }} speaking Somebody begins or stops to speak.
 * @property {{ state: RoomState, previous: RoomState }} state
 * @property {Limits} limits
 * @property {{ expiresInMs: number }} token-expiring The token runs out. With `token` a function, another one is brought
 *   by itself; with a string, `room.setToken` takes one.
 * @property {{ mayPublish: boolean, maySubscribe: boolean }} granted Another token holds, with these rights.
 * @property {{ inMs: number }} retrying The server is tried again then; `room.retryNow()` does it at once.
 * @property {{ error: UprtcError }} error Something went wrong; if `error.fatal`, the room is closed.
 */

/**
 * @typedef {object} VideoStats
 * @property {number} width
 * @property {number} height
 * @property {number} fps
 * @property {number} bps Bits per second.
 * @property {number} loss Lost share of the packets since the last look, 0 to 1.
 * @property {number} jitterMs
 * @property {number} frames Frames decoded or encoded since the beginning.
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
 * @property {number | undefined} rttMs Round trip to the server.
 * @property {number | undefined} availableBps What the network is thought to carry outwards.
 * @property {ParticipantStats} outgoing
 * @property {Map<string, ParticipantStats>} incoming By participant's id.
 */

export {};
