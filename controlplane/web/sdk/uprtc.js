// @ts-check
/**
 * uprtc's client: a room in a few lines, in any browser with WebRTC. One ES module without dependencies.
 *
 *     import { connect } from '/sdk/uprtc.js';
 *
 *     const room = await connect({ room: 'demo', token, microphone: true, camera: true });
 *     for (const participant of room.participants.values()) show(participant);
 *     room.on('peer-joined', ({ participant }) => show(participant));
 *     room.on('peer-left', ({ participant }) => hide(participant));
 *
 *     function show(participant) {
 *       const video = document.createElement('video');
 *       video.autoplay = video.playsInline = true;
 *       video.srcObject = participant.stream;   // the same MediaStream for as long as the participant is there
 *       document.body.append(video);
 *     }
 *
 * How it works (docs/PROTOCOL.md): one RTCPeerConnection, one offer, one answer. The offer holds three senders
 * (microphone, camera, screen) and enough receive slots for the whole room; who is in which slot comes later by
 * signals, and tracks move between the participants' streams. Devices are switched by `replaceTrack`, so no section is
 * ever negotiated again. When the signalling socket is lost the media runs on and the socket is taken up again; when
 * the media is lost, ICE is restarted, and if that does not help the room is entered anew, with the same streams in the
 * page's elements.
 */

import { Device, openDevices } from './device.js';
import { asUprtcError, UprtcError } from './error.js';
import { Socket } from './socket.js';
import { Transport } from './transport.js';

export { openDevices, UprtcError };

/** @import { PeerInfo, ServerSignal, SlotInfo, TrackInfo } from './socket.js' */

const LISTEN_MS = 150;
/** Speech lies above it, a quiet room below: about -36 dBov. */
const LOUD = 0.016;
/** Longer than the pauses within a sentence. */
const HOLD_MS = 600;
const RETRY_MS_MIN = 250;
const RETRY_MS_MAX = 3_000;
const TOKEN_CODES = /^(token_|wrong_room)/;

/** @typedef {'microphone' | 'camera' | 'screen' | 'screen_audio'} Source What a track shows. */
/** @typedef {'microphone' | 'camera' | 'screen'} SendSource What this client can send. */

/**
 * How the room is doing.
 * - `new`: not asked to join yet; `connecting`: joining for the first time;
 * - `connected`: signals and media flow;
 * - `reconnecting`: the signalling socket is lost, media still flows;
 * - `interrupted`: media does not flow now; it is being restored;
 * - `closed`: left, or ended by an error. Final.
 * @typedef {'new' | 'connecting' | 'connected' | 'reconnecting' | 'interrupted' | 'closed'} RoomState
 */

/** @typedef {'left' | 'timed_out' | 'transport_failed' | 'replaced' | 'media_restarted' | 'server_stopping' | 'removed' | 'moved' | 'token_expired'} LeaveReason */

/**
 * @typedef {object} RoomOptions
 * @property {string} room Name of the room.
 * @property {string | (() => string | Promise<string>)} token A JWT, or a function that brings a fresh one: it is asked
 *   each time a socket is opened, and a minute before the last one expires.
 * @property {string} [server] `https://…` of the uprtc edge. The page's own origin by default.
 * @property {boolean | MediaTrackConstraints | MediaStreamTrack} [microphone] Send audio from the start. A track that
 *   is passed in stays yours: it is never stopped here.
 * @property {boolean | MediaTrackConstraints | MediaStreamTrack} [camera] Send video from the start.
 * @property {number} [joinTimeout] Milliseconds for which an unreachable server is tried before `join` fails; 15000
 *   by default.
 */

/**
 * Most that this client should send, bit/s. The senders obey without your help.
 * @typedef {object} Limits
 * @property {number} total
 * @property {number} video Each video track.
 * @property {number} audio Each audio track.
 */

/**
 * Events of a {@link Room}; each comes as a CustomEvent whose `detail` is given here. `room.on` hands over the detail.
 * @typedef {object} RoomEvents
 * @property {{ rejoined: boolean }} joined The room was entered; `rejoined` if it had been before.
 * @property {{ participant: Participant }} peer-joined Somebody came.
 * @property {{ participant: Participant, reason: LeaveReason }} peer-left Somebody is gone.
 * @property {{ room: string, previous: string }} moved An operator moved us to another room; who was with us is told by
 *   `peer-left` with the reason `moved`, who is there by `peer-joined`. Media and devices go on.
 * @property {{ participant: Participant, source: Source, active: boolean }} track-changed Somebody, or this client
 *   itself, switched a microphone, camera or screen on or off.
 * @property {{ participant: Participant, stream: MediaStream }} stream-changed A track moved into or out of a stream.
 * @property {{ participant: Participant, speaking: boolean }} speaking Somebody begins or stops to speak.
 * @property {{ state: RoomState, previous: RoomState }} state
 * @property {Limits} limits
 * @property {{ expiresInMs: number }} token-expiring The token runs out. With `token` a function, another one is brought
 *   by itself; with a string, {@link Room.setToken} takes one.
 * @property {{ mayPublish: boolean, maySubscribe: boolean }} granted Another token holds, with these rights.
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

/** Somebody in the room: another participant, or this client itself (`room.local`). */
export class Participant {
  /**
   * @param {string} id
   * @param {string} name
   * @param {boolean} isLocal
   */
  constructor(id, name, isLocal) {
    /** Unique in the room. */
    this.id = id;
    /** From the token. */
    this.name = name;
    this.isLocal = isLocal;
    /** Microphone and camera. The object stays the same; its tracks come and go. */
    this.stream = new MediaStream();
    /** The shared screen. The object stays the same too. */
    this.screen = new MediaStream();
    /** Which sources are on. What is on may still lack a track in the stream, if there are too few slots. */
    this.active = { microphone: false, camera: false, screen: false, screen_audio: false };
    /** How loud, 0 to 1. */
    this.audioLevel = 0;
    this.speaking = false;
  }

  /** @param {Source} source */
  streamOf(source) {
    return source === 'screen' || source === 'screen_audio' ? this.screen : this.stream;
  }
}

/**
 * @typedef {object} TypedTarget
 * @property {<K extends keyof RoomEvents>(type: K,
 *   listener: ((event: CustomEvent<RoomEvents[K]>) => void) | null,
 *   options?: boolean | AddEventListenerOptions) => void} addEventListener
 * @property {<K extends keyof RoomEvents>(type: K,
 *   listener: ((event: CustomEvent<RoomEvents[K]>) => void) | null,
 *   options?: boolean | EventListenerOptions) => void} removeEventListener
 * @property {(event: Event) => boolean} dispatchEvent
 */

const RoomTarget = /** @type {new () => TypedTarget} */ (/** @type {unknown} */ (EventTarget));

/**
 * Joins a room.
 * @param {RoomOptions} options
 * @returns {Promise<Room>} Once the server has let us in and said who is there. Rejects with an {@link UprtcError}.
 */
export async function connect(options) {
  const room = new Room(options);
  await room.join();
  return room;
}

/** A room that this client is in. Made by {@link connect}, or by hand to listen to events before {@link Room.join}. */
export class Room extends RoomTarget {
  /** @param {RoomOptions} options */
  constructor(options) {
    super();
    if (typeof RTCPeerConnection === 'undefined') throw new UprtcError('unsupported_browser', '', { fatal: true });
    /** Its name. Another one than was asked for after a `moved`. */
    this.name = options.room;
    /** This client. */
    this.local = new Participant('', '', true);
    /** @type {Map<string, Participant>} The others, by id, in the order in which they came. */
    this.participants = new Map();
    /** @type {RoomState} */
    this.state = 'new';
    /** @type {Limits | undefined} */
    this.limits = undefined;
    /** Whether the token lets this client send. Known once joined. */
    this.mayPublish = true;
    /** Whether it lets this client receive. */
    this.maySubscribe = true;
    this.#options = options;
    this.#devices = {
      microphone: new Device('microphone'),
      camera: new Device('camera'),
      screen: new Device('screen'),
    };
    for (const device of Object.values(this.#devices)) device.onlost = () => this.#lost(device.source);
  }

  /** @type {RoomOptions} */
  #options;
  /** @type {Record<SendSource, Device>} */
  #devices;
  /** @type {Socket | undefined} The socket, once the server has greeted us on it. */
  #socket;
  /** @type {Transport | undefined} */
  #transport;
  /** @type {Transport | undefined} The one before, whose last pictures stay until the new one has taken over. */
  #former;
  #session = '';
  #hasJoined = false;
  #attempt = 0;
  /** @type {SlotInfo[]} */
  #slots = [];
  #wake = () => {};
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #listening;
  #onPageHide = () => this.leave();
  #onOnline = () => {
    this.#wake();
    this.#transport?.hurry();
  };

  /** The RTCPeerConnection, for what this module has no method for. Another one after the room was entered anew. */
  get peerConnection() {
    return this.#transport?.pc;
  }

  /**
   * Like `addEventListener`, with the event's detail handed over and a function that ends it handed back.
   * @template {keyof RoomEvents} K
   * @param {K} type
   * @param {(detail: RoomEvents[K]) => void} listener
   */
  on(type, listener) {
    const wrapped = (/** @type {CustomEvent<RoomEvents[K]>} */ event) => listener(event.detail);
    this.addEventListener(type, wrapped);
    return () => this.removeEventListener(type, wrapped);
  }

  /** Enters the room. A microphone or camera that cannot be had is an `error` event, not a failure to join. */
  async join() {
    if (this.state !== 'new') throw new Error('a Room is joined once');
    this.#setState('connecting');
    await this.#openFirst();
    if (this.#isClosed()) throw new UprtcError('left', 'while joining', { fatal: true });
    addEventListener('pagehide', this.#onPageHide);
    addEventListener('online', this.#onOnline);
    networkOf(navigator)?.addEventListener('change', this.#onOnline);
    this.#listening = setInterval(() => this.#listen(), LISTEN_MS);
    /** @type {Promise<void>} */
    const joined = new Promise((resolve, reject) => this.#run(resolve, reject));
    await joined;
  }

  /** Leaves for good, and lets go of the devices that were opened here. */
  leave() {
    this.#socket?.send({ type: 'leave' });
    this.#end(undefined);
  }

  /**
   * Mutes or unmutes. The device stays open while muted, so that unmuting is instant.
   * @param {boolean} on
   * @param {MediaTrackConstraints | MediaStreamTrack} [choice] Which device, or a track of your own.
   */
  async setMicrophone(on, choice) {
    await this.#switch('microphone', on, choice);
  }

  /**
   * Switches the camera. Off means off: the device is let go.
   * @param {boolean} on
   * @param {MediaTrackConstraints | MediaStreamTrack} [choice]
   */
  async setCamera(on, choice) {
    await this.#switch('camera', on, choice);
  }

  /**
   * Asks the person for a screen or window and shows it to the others. Call it from a click.
   * @param {MediaStreamTrack} [track] A track of your own instead.
   */
  async shareScreen(track) {
    await this.#switch('screen', true, track);
  }

  async stopScreen() {
    await this.#switch('screen', false);
  }

  /**
   * Goes on with another token, for the same room and name: what it allows holds from now on. Rejects with
   * `token_refused`, and the former one stays.
   * @param {string} token
   */
  async setToken(token) {
    if (this.state === 'closed') throw new UprtcError('left');
    if (typeof this.#options.token !== 'function') this.#options = { ...this.#options, token };
    const socket = this.#socket;
    if (!socket) return; // The next one is opened with it.
    const answer = socket.next(
      (signal) => signal.type === 'granted' || (signal.type === 'error' && signal.code === 'token_refused'),
    );
    socket.send({ type: 'token', token });
    const signal = await answer;
    if (signal.type === 'error') throw new UprtcError(signal.code, signal.message);
  }

  /** What is being sent and received. Rates are means since the last call. @returns {Promise<RoomStats>} */
  async getStats() {
    /** @type {RoomStats} */
    const stats = { rttMs: undefined, availableBps: undefined, outgoing: {}, incoming: new Map() };
    if (!this.#transport) return stats;
    for (const id of this.participants.keys()) stats.incoming.set(id, {});
    return this.#transport.stats(stats, this.#slots);
  }

  // Devices

  /** What is to be sent from the start. */
  async #openFirst() {
    const { microphone, camera } = this.#options;
    const isTrack = (/** @type {unknown} */ wish) => wish instanceof MediaStreamTrack;
    const opened = await openDevices({
      ...(!isTrack(microphone) && { microphone }),
      ...(!isTrack(camera) && { camera }),
    });
    for (const error of opened.errors) this.#report(error);
    for (const source of /** @type {const} */ (['microphone', 'camera'])) {
      const given = this.#options[source];
      if (this.#isClosed()) opened[source]?.stop();
      else if (opened[source]) this.#devices[source].adopt(opened[source]);
      else if (given instanceof MediaStreamTrack) await this.#devices[source].switch(true, given);
      this.#showDevice(this.#devices[source]);
    }
  }

  /**
   * @param {SendSource} source
   * @param {boolean} on
   * @param {boolean | MediaTrackConstraints | MediaStreamTrack} [choice]
   */
  async #switch(source, on, choice) {
    if (this.state === 'closed') return;
    if (on && !this.mayPublish) throw new UprtcError('forbidden', 'the token does not allow to publish');
    const device = this.#devices[source];
    await device.switch(on, choice);
    if (/** @type {RoomState} */ (this.state) === 'closed') return device.close();
    await this.#transport?.carry(device);
    this.#showDevice(device);
  }

  /** @param {Device} device */
  #showDevice(device) {
    const { source, isActive } = device;
    // A muted microphone keeps its track, a camera that is off shows nothing.
    const shown = device.track ? [device.track] : [];
    const stream = this.local.streamOf(source);
    if (moveTracks(stream, source === 'microphone' ? 'audio' : 'video', shown)) {
      this.#emit('stream-changed', { participant: this.local, stream });
    }
    if (this.local.active[source] === isActive) return;
    this.local.active[source] = isActive;
    const mid = this.#transport?.midOf(source);
    if (mid) this.#socket?.send({ type: 'track', mid, active: isActive });
    this.#emit('track-changed', { participant: this.local, source, active: isActive });
  }

  /** The device ended by itself. @param {SendSource} source */
  #lost(source) {
    // Ending the share by the browser's own button is no accident.
    if (source !== 'screen') this.#report(new UprtcError(`${source}_lost`));
    this.#switch(source, false).catch((error) => this.#report(error));
  }

  // The way in, and in again

  /**
   * Keeps us in the room until the end: one round for each socket.
   * @param {() => void} resolve
   * @param {(error: UprtcError) => void} reject
   */
  async #run(resolve, reject) {
    const deadline = Date.now() + (this.#options.joinTimeout ?? 15_000);
    while (this.state !== 'closed') {
      try {
        const socket = await this.#greet();
        resolve();
        await socket.closed;
      } catch (error) {
        const why = asUprtcError(error);
        const isPatient = this.#hasJoined || Date.now() < deadline;
        if (!this.#mayRetry(why) || !isPatient) return reject(this.#end(why));
        if (TOKEN_CODES.test(why.code)) this.#report(why);
      }
      this.#socket = undefined;
      this.#refresh();
      if (!this.#isClosed()) await this.#pause();
    }
    reject(new UprtcError('left', 'while joining', { fatal: true }));
  }

  #isClosed() {
    return this.state === 'closed';
  }

  /** @param {UprtcError} error */
  #mayRetry({ code }) {
    if (code === 'unreachable' || code === 'no_dataplane' || code === 'unknown_session') return true;
    // After an interruption everybody comes back at once, and our own ghost may still hold our place.
    if (code === 'room_full' || code === 'server_full') return this.#hasJoined && this.#attempt < 10;
    // A door that closed behind us is no reason to hang up while media flows.
    return TOKEN_CODES.test(code) && this.#transport?.isConnected === true;
  }

  /** Waits longer each time, and never as long as the neighbour, so that a restarted server is not stormed. */
  async #pause() {
    const most = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** this.#attempt);
    this.#attempt += 1;
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, most * (0.5 + Math.random() / 2));
      this.#wake = () => {
        clearTimeout(timer);
        resolve(undefined);
      };
    });
  }

  /** A token that should be good. An application's server that fails is no reason to hang up while media flows. */
  async #freshToken() {
    const { token } = this.#options;
    if (typeof token !== 'function') return token;
    try {
      return await token();
    } catch (error) {
      throw new UprtcError('token_unavailable', error instanceof Error ? error.message : String(error), { cause: error });
    }
  }

  /** The token runs out. @param {number} expiresInMs */
  async #renewToken(expiresInMs) {
    this.#emit('token-expiring', { expiresInMs });
    if (typeof this.#options.token !== 'function') return;
    try {
      await this.setToken(await this.#freshToken());
    } catch (error) {
      // A socket that closes meanwhile is opened again with a fresh one.
      if (!this.#isClosed() && asUprtcError(error).code !== 'unreachable') this.#report(error);
    }
  }

  /** What the token of this client allows now. @param {boolean} mayPublish @param {boolean} maySubscribe */
  async #setRights(mayPublish, maySubscribe) {
    this.mayPublish = mayPublish;
    this.maySubscribe = maySubscribe;
    if (mayPublish) return;
    await Promise.all(Object.values(this.#devices).map((device) => this.#switch(device.source, false)));
    for (const device of Object.values(this.#devices)) device.close();
  }

  /** Opens a socket and gets in: by the session if our media still stands, by an offer if not. */
  async #greet() {
    const { server = location.origin, room } = this.#options;
    const url = new URL(`/v1/rooms/${encodeURIComponent(room)}/signal`, server);
    url.searchParams.set('token', await this.#freshToken());
    const socket = await Socket.open(url, (signal, socket) => this.#take(signal, socket));
    try {
      if (this.#isClosed()) throw new UprtcError('unreachable', 'left while joining');
      if (this.#transport && !this.#transport.isRetired && this.#session) await this.#resume(socket);
      else await this.#enter(socket);
      return socket;
    } catch (error) {
      socket.close();
      throw error;
    }
  }

  /** @param {Socket} socket */
  async #resume(socket) {
    socket.send({ type: 'resume', session: this.#session });
    const welcome = await socket.next((signal) => signal.type === 'welcome' && signal.resumed);
    this.#socket = socket;
    if (welcome.type === 'welcome') await this.#setRights(welcome.may_publish, welcome.may_subscribe);
    if (this.#transport?.isConnected) this.#attempt = 0;
    // What was switched while nobody listened.
    for (const { source, isActive } of Object.values(this.#devices)) {
      const mid = this.#transport?.midOf(source);
      if (mid) socket.send({ type: 'track', mid, active: isActive });
    }
    this.#transport?.hurry();
    this.#refresh();
  }

  /** The one that restarts ICE now. @type {Socket | undefined} */
  #restarting;

  /**
   * Media has lost its way: the same connection looks for another one (PROTOCOL.md, 1.10). Whatever goes wrong here, the
   * transport's patience ends, and the room is entered anew.
   * @param {Transport} transport
   */
  async #restartIce(transport) {
    const socket = this.#socket;
    if (!socket || socket === this.#restarting || transport !== this.#transport || transport.isRetired) return;
    this.#restarting = socket;
    try {
      const sdp = await transport.restart();
      const answered = socket.next(({ type }) => type === 'answer' || type === 'error');
      socket.send({ type: 'offer', sdp });
      const answer = await answered;
      if (answer.type === 'answer') await transport.accept(answer.sdp);
    } catch {
      // The socket is lost as well: when it is back, this is tried again.
    } finally {
      if (this.#restarting === socket) this.#restarting = undefined;
    }
  }

  /** @param {Socket} socket */
  async #enter(socket) {
    const welcome = await socket.next((signal) => signal.type === 'welcome');
    if (welcome.type !== 'welcome') return;
    if (!welcome.may_publish && !welcome.may_subscribe) {
      throw new UprtcError('forbidden', 'the token allows neither to publish nor to subscribe');
    }
    await this.#setRights(welcome.may_publish, welcome.may_subscribe);
    // One that was offered and never answered.
    if (this.#transport !== this.#former) this.#transport?.close();
    this.#slots = [];
    const transport = new Transport(welcome, {
      oncandidate: (candidate) => {
        if (this.#transport === transport) (this.#socket ?? socket).send({ type: 'candidate', ...candidate });
      },
      onstate: () => this.#transportChanged(transport),
      onlost: () => void this.#restartIce(transport),
    });
    this.#transport = transport;
    if (transport.lacksVideo) this.#report(new UprtcError('codec_missing'));
    const sdp = await transport.offer(Object.values(this.#devices));
    const tracks = Object.values(this.#devices)
      .map(({ source, isActive }) => ({ mid: transport.midOf(source), source, active: isActive }))
      .filter(({ mid }) => mid);
    socket.send({ type: 'offer', sdp, tracks });
    const answer = await socket.next((signal) => signal.type === 'answer');
    if (answer.type === 'answer') await transport.accept(answer.sdp);
    this.#session = welcome.session;
    this.#socket = socket;
    this.#isIn(welcome.room);
    this.local.id = welcome.peer;
    this.local.name = welcome.name;
    const rejoined = this.#hasJoined;
    this.#hasJoined = true;
    this.#former?.close();
    this.#former = undefined;
    if (this.limits) transport.limit(this.limits);
    this.#refresh();
    this.#emit('joined', { rejoined });
  }

  /** The transport is of no more use: the next round offers a new one. */
  #retire() {
    if (!this.#transport) return;
    this.#transport.isRetired = true;
    if (this.#former !== this.#transport) this.#former?.close();
    this.#former = this.#transport;
    this.#session = '';
    this.#refresh();
  }

  /** @param {Transport} transport */
  #transportChanged(transport) {
    if (transport !== this.#transport || transport.isRetired) return;
    if (transport.isConnected) this.#attempt = 0;
    if (transport.hasFailed) {
      if (!transport.wasConnected) this.#report(new UprtcError('media_failed'));
      this.#socket?.send({ type: 'leave' });
      this.#retire();
      this.#socket?.close();
    }
    this.#refresh();
  }

  /**
   * The end, by choice or by an error.
   * @template {UprtcError | undefined} E
   * @param {E} error
   * @returns {E}
   */
  #end(error) {
    if (this.state === 'closed') return error;
    removeEventListener('pagehide', this.#onPageHide);
    removeEventListener('online', this.#onOnline);
    networkOf(navigator)?.removeEventListener('change', this.#onOnline);
    clearInterval(this.#listening);
    const previous = this.state;
    this.state = 'closed';
    this.#transport?.close();
    this.#former?.close();
    this.#socket?.close();
    this.#wake();
    for (const device of Object.values(this.#devices)) device.close();
    // First the reason, then the end.
    if (error) {
      error.fatal = true;
      this.#report(error);
    }
    this.#emit('state', { state: 'closed', previous });
    return error;
  }

  // Signals

  /**
   * @param {ServerSignal} signal
   * @param {Socket} socket
   */
  #take(signal, socket) {
    if (this.state === 'closed') return;
    switch (signal.type) {
      case 'welcome':
        // One that was moved while its socket was lost.
        if (signal.resumed) this.#isIn(signal.room);
        break;
      case 'candidate':
        this.#transport?.addCandidate(signal);
        break;
      case 'peers':
        this.#setPeers(signal.peers);
        break;
      case 'peer_joined':
        this.#setPeer(signal.peer);
        this.#placeTracks();
        break;
      case 'peer_changed':
        this.#changePeer(signal.peer);
        break;
      case 'peer_left':
        this.#removePeer(signal.peer, signal.reason);
        break;
      case 'moved':
        this.#isIn(signal.room);
        break;
      case 'track_changed':
        this.#setTrack(signal.peer, signal.track);
        break;
      case 'slots':
        this.#slots = signal.slots;
        this.#placeTracks();
        break;
      case 'limits':
        this.limits = { total: signal.send_bps_max, video: signal.video_bps_max, audio: signal.audio_bps_max };
        this.#transport?.limit(this.limits);
        this.#emit('limits', this.limits);
        break;
      case 'token_expiring':
        this.#renewToken(signal.expires_in_ms);
        break;
      case 'granted':
        this.#setRights(signal.may_publish, signal.may_subscribe).then(
          () => this.#emit('granted', { mayPublish: this.mayPublish, maySubscribe: this.maySubscribe }),
          (error) => this.#report(error),
        );
        break;
      case 'codec':
        this.#transport?.sendIn(signal.video);
        break;
      case 'state':
        if (this.#transport) this.#transport.isServed = signal.state !== 'interrupted';
        this.#refresh();
        break;
      case 'error':
        // A fatal one before we are in, and a session that is gone, end the attempt that waits for an answer.
        if (signal.code === 'unknown_session') this.#retire();
        else if (signal.code === 'token_refused') break; // Who brought the token waits for it.
        else if (!signal.fatal) this.#report(new UprtcError(signal.code, signal.message));
        else if (socket === this.#socket) this.#refused(new UprtcError(signal.code, signal.message));
        break;
      case 'bye':
        this.#bye(signal.reason, signal.rejoin);
        socket.close();
        break;
    }
  }

  /** @param {UprtcError} error */
  #refused(error) {
    if (error.code === 'not_joined') this.#retire();
    else if (!this.#mayRetry(error)) this.#end(error);
  }

  /**
   * @param {LeaveReason} reason
   * @param {boolean} rejoin
   */
  #bye(reason, rejoin) {
    // A stopping server leaves the media to its successor, who knows our session.
    if (reason === 'server_stopping') return;
    if (reason === 'transport_failed' && !this.#transport?.wasConnected) this.#report(new UprtcError('media_failed'));
    if (rejoin) this.#retire();
    else this.#end(reason === 'replaced' ? new UprtcError('replaced') : new UprtcError('removed', reason));
  }

  /** Everybody else is somewhere else, if it is another room than before. @param {string} room */
  #isIn(room) {
    const previous = this.name;
    if (room === previous) return;
    this.name = room;
    this.#emit('moved', { room, previous });
    this.#slots = [];
    for (const id of [...this.participants.keys()]) this.#removePeer(id, 'moved');
  }

  /** @param {PeerInfo[]} peers */
  #setPeers(peers) {
    const here = new Set(peers.map(({ peer }) => peer));
    for (const id of [...this.participants.keys()]) if (!here.has(id)) this.#removePeer(id, 'left');
    for (const peer of peers) this.#setPeer(peer);
    this.#placeTracks();
  }

  /** @param {PeerInfo} info */
  #setPeer(info) {
    const known = this.participants.get(info.peer);
    const participant = known ?? new Participant(info.peer, info.name, false);
    participant.name = info.name;
    this.participants.set(info.peer, participant);
    if (!known) for (const { source, active } of info.tracks) participant.active[source] = active;
    if (!known) this.#emit('peer-joined', { participant });
    else for (const track of info.tracks) this.#setTrack(info.peer, track);
  }

  /** Other tracks than before, or fewer: what is not told of any more is off. @param {PeerInfo} info */
  #changePeer({ peer, tracks }) {
    for (const source of /** @type {Source[]} */ (['microphone', 'camera', 'screen', 'screen_audio'])) {
      const active = tracks.some((track) => track.source === source && track.active);
      this.#setTrack(peer, { source, active });
    }
  }

  /**
   * @param {string} id
   * @param {LeaveReason} reason
   */
  #removePeer(id, reason) {
    const participant = this.participants.get(id);
    if (!participant) return;
    this.participants.delete(id);
    for (const track of participant.stream.getTracks()) participant.stream.removeTrack(track);
    for (const track of participant.screen.getTracks()) participant.screen.removeTrack(track);
    this.#emit('peer-left', { participant, reason });
  }

  /**
   * @param {string} id
   * @param {Pick<TrackInfo, 'source' | 'active'>} track
   */
  #setTrack(id, { source, active }) {
    const participant = this.participants.get(id);
    if (!participant || participant.active[source] === active) return;
    participant.active[source] = active;
    this.#emit('track-changed', { participant, source, active });
  }

  /** Brings every participant's streams to what the slots say. */
  #placeTracks() {
    if (!this.#transport || this.#transport.isRetired) return;
    for (const participant of this.participants.values()) {
      for (const stream of [participant.stream, participant.screen]) {
        const slots = this.#slots.filter(
          ({ peer, source }) => peer === participant.id && source && participant.streamOf(source) === stream,
        );
        const tracks = slots.flatMap(({ mid }) => this.#transport?.trackOf(mid) ?? []);
        const hasMoved = [moveTracks(stream, 'audio', tracks), moveTracks(stream, 'video', tracks)];
        if (hasMoved.includes(true)) this.#emit('stream-changed', { participant, stream });
      }
    }
  }

  // What the page is told

  #refresh() {
    if (this.#isClosed() || this.state === 'new') return;
    const transport = this.#transport;
    if (!this.#hasJoined || !transport) this.#setState('connecting');
    else if (transport.isConnected && !transport.isRetired) this.#setState(this.#socket ? 'connected' : 'reconnecting');
    else if (this.state !== 'connecting' || transport.wasConnected) this.#setState('interrupted');
  }

  /** @param {RoomState} state */
  #setState(state) {
    const previous = this.state;
    if (state === previous) return;
    this.state = state;
    this.#emit('state', { state, previous });
  }

  /** @param {unknown} error */
  #report(error) {
    this.#emit('error', { error: asUprtcError(error) });
  }

  /**
   * @template {keyof RoomEvents} K
   * @param {K} type
   * @param {RoomEvents[K]} detail
   */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** Who speaks: from the audio level that every RTP packet carries (RFC 6464), or else from what is played. */
  #listen() {
    const now = performance.now();
    this.#transport?.ownLevel().then((level) => this.#hear(this.local, level, now), () => {});
    for (const participant of this.participants.values()) {
      const slot = this.#slots.find(({ peer, source }) => peer === participant.id && source === 'microphone');
      const level = slot && participant.active.microphone ? this.#transport?.levelOf(slot.mid) : 0;
      this.#hear(participant, level ?? 0, now);
    }
  }

  /** @type {WeakMap<Participant, number>} When each was last loud. */
  #loudAt = new WeakMap();

  /**
   * @param {Participant} participant
   * @param {number} level
   * @param {number} now
   */
  #hear(participant, level, now) {
    participant.audioLevel = level;
    if (level > LOUD) this.#loudAt.set(participant, now);
    const speaking = now - (this.#loudAt.get(participant) ?? -Infinity) < HOLD_MS;
    if (participant.speaking === speaking) return;
    participant.speaking = speaking;
    this.#emit('speaking', { participant, speaking });
  }
}

/**
 * Leaves exactly those of `tracks` that are of `kind` in the stream.
 * @param {MediaStream} stream
 * @param {'audio' | 'video'} kind
 * @param {MediaStreamTrack[]} tracks
 * @returns {boolean} Whether anything moved.
 */
function moveTracks(stream, kind, tracks) {
  const wanted = tracks.filter((track) => track.kind === kind);
  const present = kind === 'audio' ? stream.getAudioTracks() : stream.getVideoTracks();
  const gone = present.filter((track) => !wanted.includes(track));
  const fresh = wanted.filter((track) => !present.includes(track));
  for (const track of gone) stream.removeTrack(track);
  for (const track of fresh) stream.addTrack(track);
  return gone.length + fresh.length > 0;
}

/**
 * The network of this device, where the browser tells of it (Network Information API, not in TypeScript's library).
 * @param {Navigator & { connection?: EventTarget }} navigator
 */
function networkOf({ connection }) {
  return connection;
}
