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
 *       room.attach(video, participant);   // its stream, and no larger picture than fits
 *       document.body.append(video);
 *     }
 *
 * How it works (docs/PROTOCOL.md): one RTCPeerConnection, one offer, one answer. The offer has three senders
 * (microphone, camera, screen) and enough receive slots for the whole room. Signals assign participants to slots
 * later, and the module moves tracks between the participants' streams. Devices are switched by `replaceTrack`, so no m-section
 * is negotiated again. If the signalling socket is lost, media continues and the socket is resumed. If
 * the media path is lost, ICE is restarted; if that fails, the module joins again and keeps the same streams in the
 * page's elements.
 */

import { Data } from './data.js';
import { openDevices } from './device.js';
import { Edges } from './edges.js';
import { asUprtcError, UprtcError } from './error.js';
import { RoomTarget } from './events.js';
import { acceptInvitation, invite } from './invitation.js';
import { Participant } from './participant.js';
import { People } from './people.js';
import { mayRetry, Retry, TOKEN_CODES, watchNetwork } from './retry.js';
import { canRecord, startRecording, stopRecording } from './recording.js';
import { Sending } from './sending.js';
import { Shown } from './shown.js';
import { mayJoin, signalAddress, Socket } from './socket.js';
import { Speaking } from './speaking.js';
import { Transport } from './transport.js';

export { acceptInvitation, canRecord, invite, mayJoin, openDevices, Participant, startRecording, stopRecording, UprtcError };

/** @import { ServerSignal, TrackInfo, Welcome } from './socket.js' */

/** @typedef {import('./types.js').Source} Source */
/** @typedef {import('./types.js').SendSource} SendSource */
/** @typedef {import('./types.js').Quality} Quality */
/** @typedef {import('./types.js').Role} Role */
/** @typedef {import('./types.js').RoomState} RoomState */
/** @typedef {import('./types.js').LeaveReason} LeaveReason */
/** @typedef {import('./types.js').RoomOptions} RoomOptions */
/** @typedef {import('./types.js').Edge} Edge */
/** @typedef {import('./types.js').AudioOptions} AudioOptions */
/** @typedef {import('./types.js').Limits} Limits */
/** @typedef {import('./types.js').RoomEvents} RoomEvents */
/** @typedef {import('./types.js').SendOptions} SendOptions */
/** @typedef {import('./types.js').ShownOptions} ShownOptions */
/** @typedef {import('./types.js').VideoStats} VideoStats */
/** @typedef {import('./types.js').AudioStats} AudioStats */
/** @typedef {import('./types.js').ParticipantStats} ParticipantStats */
/** @typedef {import('./types.js').RoomStats} RoomStats */

/**
 * Joins a room.
 * @param {RoomOptions} options
 * @returns {Promise<Room>} When we have joined and know the participants. Rejects with a {@link UprtcError}.
 */
export async function connect(options) {
  const room = new Room(options);
  await room.join();
  return room;
}

/** A room with this client in it. Created by {@link connect}, or directly, to listen to events before {@link Room.join}. */
export class Room extends RoomTarget {
  /** @param {RoomOptions} options */
  constructor(options) {
    super();
    if (typeof RTCPeerConnection === 'undefined') throw new UprtcError('unsupported_browser', '', { fatal: true });
    /** Its name. It changes with the event `moved`. */
    this.name = options.room;
    /** @type {Map<string, Participant>} The other participants by id, in the order in which they joined. */
    this.participants = this.#people.byId;
    /** @type {RoomState} */
    this.state = 'new';
    /** @type {Limits | undefined} */
    this.limits = undefined;
    /** Whether the token permits sending. Known after the join. */
    this.mayPublish = true;
    /** Whether the token permits receiving. */
    this.maySubscribe = true;
    /** Whether the server announced its stop and is not back yet. The module tries to reconnect until it is. */
    this.isServerStopping = false;
    this.#options = options;
    this.#edges = new Edges(options.server, options.edges);
  }

  /** This client. */
  local = new Participant('', '', true);
  /** @type {RoomOptions} */
  #options;
  #edges;
  #sending = new Sending({
    local: this.local,
    emit: (type, detail) => this.#emit(type, detail),
    report: (error) => this.#report(error),
    isClosed: () => this.#isClosed(),
    mayPublish: () => this.mayPublish,
    carry: (device) => this.#transport?.carry(device),
    announce: (source, active) => {
      const mid = this.#transport?.midOf(source);
      if (mid) this.#socket?.send({ type: 'track', mid, active });
    },
  });
  /** @type {Socket | undefined} The socket, after the join or resume on it. */
  #socket;
  /** @type {Transport | undefined} */
  #transport;
  /** @type {Transport | undefined} The previous transport, whose last pictures stay until the new one is in use. */
  #former;
  #session = '';
  #hasJoined = false;
  /** @type {string | undefined} */
  #checkedToken;
  #deadline = 0;
  #retry = new Retry();
  #people = new People((type, detail) => this.#emit(type, detail));
  #shown = new Shown(
    (participant) => this.participants.get(participant.id) === participant,
    (videos) => this.#socket?.send({ type: 'shown', videos }),
  );
  #data = new Data({
    emit: (type, detail) => this.#emit(type, detail),
    report: (error) => this.#report(error),
    find: (id) => this.#people.find(id),
    socket: () => this.#socket,
    isConnected: () => this.#transport?.isConnected === true && !this.#transport.isRetired,
  });
  /** @type {Speaking | undefined} */
  #speaking;
  #onPageHide = () => this.leave();
  #ignoreNetwork = () => {};

  /** Who speaks now, the loudest first, perhaps this client too. */
  get speakers() {
    return this.#people.speakers;
  }

  /** The edge in use, where there are several: see {@link RoomOptions.edges}. @returns {Edge | undefined} */
  get edge() {
    return this.#edges.current;
  }

  /** Whether the token permits sending messages. Known after the join. */
  get maySendData() {
    return this.#data.maySend;
  }

  /** Bytes of messages that are not acknowledged, or not sent yet: 1 MiB at most. */
  get buffered() {
    return this.#data.buffered;
  }

  /** The RTCPeerConnection, for features that this module does not have. It is replaced when the module joins again. */
  get peerConnection() {
    return this.#transport?.pc;
  }

  /** Joins the room. If a microphone or camera cannot be opened, there is an `error` event, and the join continues. */
  async join() {
    if (this.state !== 'new') throw new Error('a Room is joined once');
    this.#deadline = Date.now() + (this.#options.joinTimeout ?? 15_000);
    this.#setState('connecting');
    await this.#edges.choose();
    await this.#checkFirst();
    await this.#sending.open(this.#options);
    if (this.#isClosed()) throw new UprtcError('left', 'while joining', { fatal: true });
    addEventListener('pagehide', this.#onPageHide);
    this.#ignoreNetwork = watchNetwork(() => this.retryNow());
    this.#speaking = new Speaking(
      () => this.#levels(),
      (participant, speaking) => this.#emit('speaking', { participant, speaking }),
    );
    /** @type {Promise<void>} */
    const joined = new Promise((resolve, reject) => this.#run(resolve, reject));
    await joined;
  }

  /** Makes the next attempt now, after a `retrying` event. */
  retryNow() {
    this.#retry.wake();
    this.#transport?.restartIfLost();
  }

  /** The device that is in use, or that will be used when the source is switched on. @param {SendSource} source */
  deviceIdOf(source) {
    return this.#sending.devices[source].deviceId;
  }

  /** Leaves the room, and closes the devices that the module opened. */
  leave() {
    this.#socket?.send({ type: 'leave' });
    this.#end(undefined);
  }

  /**
   * Sends a message to the others, who get the event `data`. At most 256 KiB; and at most 512 reliable messages or 1 MiB that are not yet with
   * the others: {@link Room.buffered}, the event `drain`.
   * @param {string | ArrayBuffer | ArrayBufferView} data
   * @param {SendOptions} [options]
   * @returns {Promise<void>} When all whom it was for have it, or have left; a lossy one when it was handed to the network. Rejects with `data_refused`,
   *   `too_much` (wait for `drain`), `too_large` or `left`; a lossy one without a connection with `unreachable`.
   */
  send(data, options) {
    return this.#data.send(data, options);
  }

  /**
   * Shows a participant's video in a `<video>`, or in an element that contains one to which the application has given the stream. The server then
   * sends no larger picture than fits, and none while nobody sees it: page hidden, element scrolled away or not displayed. Of several
   * elements the largest counts; a video that was attached and is in no element any more is not received.
   * @param {Element} element
   * @param {Participant} participant
   * @param {'camera' | 'screen'} [source]
   * @returns {() => void} Detaches it.
   */
  attach(element, participant, source = 'camera') {
    if (element instanceof HTMLVideoElement) element.srcObject = participant.streamOf(source);
    return this.#shown.attach(element, participant, source);
  }

  /**
   * Tells the server how a participant's video is shown, for what {@link Room.attach} cannot see. What is left out stays as it was.
   * @param {Participant} participant
   * @param {ShownOptions} options
   * @param {'camera' | 'screen'} [source]
   */
  setShown(participant, options, source = 'camera') {
    this.#shown.set(participant, source, options);
  }

  /**
   * Mutes or unmutes. The device stays open while muted, so that unmuting is immediate.
   * @param {boolean} on
   * @param {MediaTrackConstraints | MediaStreamTrack} [choice] Which device, or a track of your own.
   */
  async setMicrophone(on, choice) {
    await this.#sending.switch('microphone', on, choice);
  }

  /**
   * Switches the camera. When it is off, the device is closed.
   * @param {boolean} on
   * @param {MediaTrackConstraints | MediaStreamTrack} [choice]
   */
  async setCamera(on, choice) {
    await this.#sending.switch('camera', on, choice);
  }

  /**
   * Asks the user for a screen or window and shares it. Call it in a click handler.
   * @param {MediaStreamTrack} [track] A track of your own instead.
   */
  async shareScreen(track) {
    await this.#sending.switch('screen', true, track);
  }

  async stopScreen() {
    await this.#sending.switch('screen', false);
  }

  /**
   * Changes to another token for the same room and name; its rights take effect at once. If the server refuses it, the promise
   * rejects with `token_refused`, and the former token stays in effect.
   * @param {string} token
   */
  async setToken(token) {
    if (this.state === 'closed') throw new UprtcError('left');
    if (typeof this.#options.token !== 'function') this.#options = { ...this.#options, token };
    await this.#socket?.setToken(token); // Without one: the next socket is opened with it.
  }

  /** Statistics of sending and receiving. Rates are means since the last call. @returns {Promise<RoomStats>} */
  async getStats() {
    /** @type {RoomStats} */
    const stats = { rttMs: undefined, availableBps: undefined, outgoing: {}, incoming: new Map() };
    if (!this.#transport) return stats;
    for (const id of this.participants.keys()) stats.incoming.set(id, {});
    return this.#transport.stats(stats, this.#people.slots);
  }

  /** The join check before the user is asked for a camera. */
  async #checkFirst() {
    const { microphone, camera } = this.#options;
    if (![microphone, camera].some((wish) => wish && !(wish instanceof MediaStreamTrack))) return;
    while (!this.#isClosed()) {
      let refusal;
      try {
        const token = await this.#freshToken();
        refusal = await mayJoin({ ...this.#options, server: this.#edges.server, token });
        this.#checkedToken = token;
      } catch (error) {
        refusal = asUprtcError(error);
      }
      if (!refusal) return;
      this.#checkedToken = undefined;
      if (!this.#mayRetry(refusal) || Date.now() > this.#deadline) throw this.#end(refusal);
      await this.#edges.avoid(refusal);
      await this.#retry.pause((inMs) => this.#emit('retrying', { inMs }));
    }
  }

  // Joining and reconnecting

  /**
   * Keeps us in the room until the call ends: one iteration per socket.
   * @param {() => void} resolve
   * @param {(error: UprtcError) => void} reject
   */
  async #run(resolve, reject) {
    while (this.state !== 'closed') {
      try {
        const socket = await this.#joinOrResume();
        resolve();
        await socket.closed;
      } catch (error) {
        const why = asUprtcError(error);
        const mayWait = this.#hasJoined || Date.now() < this.#deadline;
        if (!this.#mayRetry(why) || !mayWait) return reject(this.#end(why));
        if (TOKEN_CODES.test(why.code)) this.#report(why);
        if (!this.#session) await this.#edges.avoid(why);
      }
      this.#socket = undefined;
      if (this.#transport) this.#transport.isCutOff = true;
      this.#refresh();
      if (!this.#isClosed()) await this.#retry.pause((inMs) => this.#emit('retrying', { inMs }));
    }
    reject(new UprtcError('left', 'while joining', { fatal: true }));
  }

  #isClosed() {
    return this.state === 'closed';
  }

  /** @param {UprtcError} error */
  #mayRetry({ code }) {
    return mayRetry(code, this.#retry.attempt, this.#hasJoined, this.#transport?.isConnected === true);
  }

  /** A valid token. A failure of the application's server does not end a call while media flows. */
  async #freshToken() {
    const { token } = this.#options;
    if (typeof token !== 'function') return token;
    try {
      return await token();
    } catch (error) {
      throw new UprtcError('token_unavailable', error instanceof Error ? error.message : String(error), { cause: error });
    }
  }

  /** The token expires soon. @param {number} expiresInMs */
  async #renewToken(expiresInMs) {
    this.#emit('token-expiring', { expiresInMs });
    if (typeof this.#options.token !== 'function') return;
    try {
      await this.setToken(await this.#freshToken());
    } catch (error) {
      // If the socket closed meanwhile, it is opened again with a new token.
      if (!this.#isClosed() && asUprtcError(error).code !== 'unreachable') this.#report(error);
    }
  }

  /** Sets the rights of this client's token. @param {Pick<Welcome, 'may_publish' | 'may_subscribe' | 'may_send_data'>} rights */
  async #setRights({ may_publish: mayPublish, may_subscribe: maySubscribe, may_send_data: maySendData = false }) {
    this.mayPublish = this.local.publishes = mayPublish;
    this.maySubscribe = maySubscribe;
    this.#data.grant(maySendData);
    if (mayPublish) return;
    await Promise.all(this.#sending.all.map(({ source }) => this.#sending.switch(source, false)));
    this.#sending.close();
  }

  /** The address with a new token, or with the token of the join check just made. */
  async #address() {
    const token = this.#checkedToken ?? (await this.#freshToken());
    this.#checkedToken = undefined;
    return signalAddress({ ...this.#options, server: this.#edges.server, token });
  }

  /** Ends the present socket, be it open or not yet. */
  #abandon = () => {};

  /** Nothing arrives any more. If our edge does not answer either, and another one does, we go there. @param {Transport} transport */
  async #lookElsewhere(transport) {
    const isLost = () => transport === this.#transport && transport.isQuiet && !transport.isRetired && !this.#isClosed();
    if (!(await this.#edges.leave(isLost))) return;
    this.#retry.skip();
    this.#retire();
    this.#abandon();
  }

  /** Opens a socket, and resumes the session if the media connection still exists, or joins by an offer if not. */
  async #joinOrResume() {
    const opening = Socket.open(await this.#address(), (signal, socket) => this.#handle(signal, socket));
    /** @type {Promise<never>} */
    const abandoned = new Promise((_, reject) => (this.#abandon = () => {
      reject(new UprtcError('unreachable', 'the edge died'));
      opening.then((socket) => socket.close(), () => {});
    }));
    const socket = await Promise.race([opening, abandoned]);
    try {
      if (this.#isClosed()) throw new UprtcError('unreachable', 'left while joining');
      if (this.#transport && !this.#transport.isRetired && this.#session) await this.#resume(socket);
      else await this.#joinAnew(socket);
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
    if (this.#transport) this.#transport.isCutOff = false;
    if (welcome.type === 'welcome') {
      this.#data.resume(welcome);
      await this.#setRights(welcome);
    }
    if (this.#transport?.isConnected) this.#retry.attempt = 0;
    // Sources that were switched while there was no socket.
    for (const { source, isActive } of this.#sending.all) {
      const mid = this.#transport?.midOf(source);
      if (mid) socket.send({ type: 'track', mid, active: isActive });
    }
    this.#transport?.restartIfLost();
    this.#shown.begin();
    this.#refresh();
  }

  /** The media path is lost. @param {Transport} transport */
  #restartIce(transport) {
    if (this.#socket && transport === this.#transport) void transport.restartOn(this.#socket);
  }

  /** @param {Socket} socket */
  async #joinAnew(socket) {
    const welcome = await socket.next((signal) => signal.type === 'welcome');
    if (welcome.type !== 'welcome') return;
    if (!welcome.may_publish && !welcome.may_subscribe) {
      throw new UprtcError('forbidden', 'the token allows neither to publish nor to subscribe');
    }
    await this.#setRights(welcome);
    // A transport whose offer was never answered.
    if (this.#transport !== this.#former) this.#transport?.close();
    this.#people.slots = [];
    const transport = new Transport(welcome, {
      oncandidates: (candidates) => {
        if (this.#transport === transport) (this.#socket ?? socket).send({ type: 'candidates', candidates });
      },
      onstate: () => this.#transportChanged(transport),
      onlost: () => this.#restartIce(transport),
    }, this.#options.audio, this.#edges.hasOthers);
    this.#transport = transport;
    this.#data.open(transport.pc, welcome);
    if (transport.lacksVideo) this.#report(new UprtcError('codec_missing'));
    const sdp = await transport.offer(this.#sending.all);
    const tracks = this.#sending.all
      .map(({ source, isActive }) => ({ mid: transport.midOf(source), source, active: isActive }))
      .filter(({ mid }) => mid);
    socket.send({ type: 'offer', sdp, tracks });
    const answer = await socket.next((signal) => signal.type === 'answer');
    if (answer.type === 'answer') await transport.accept(answer.sdp);
    this.#session = welcome.session;
    this.#socket = socket;
    this.#setRoom(welcome.room);
    this.local.id = welcome.peer;
    this.local.name = welcome.name;
    const rejoined = this.#hasJoined;
    this.#hasJoined = true;
    this.#former?.close();
    this.#former = undefined;
    if (this.limits) transport.limit(this.limits, this.participants.size);
    this.#shown.begin();
    this.#data.begin();
    const change = this.#edges.arrive();
    if (change) this.#emit('edge-changed', change);
    this.#refresh();
    this.#emit('joined', { rejoined });
  }

  /** Stops using the transport: the next iteration offers a new one. */
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
    if (transport.isConnected) this.#retry.attempt = 0;
    if (transport.isQuiet) void this.#lookElsewhere(transport);
    if (transport.hasFailed) {
      if (!transport.wasConnected) this.#report(new UprtcError('media_failed'));
      this.#socket?.send({ type: 'leave' });
      this.#retire();
      this.#socket?.close();
    }
    this.#refresh();
  }

  /**
   * Ends the call, by `leave` or by an error.
   * @template {UprtcError | undefined} E
   * @param {E} error
   * @returns {E}
   */
  #end(error) {
    if (this.state === 'closed') return error;
    removeEventListener('pagehide', this.#onPageHide);
    this.#ignoreNetwork();
    this.#speaking?.close();
    this.#shown.close();
    this.#edges.close();
    const previous = this.state;
    this.state = 'closed';
    this.#transport?.close();
    this.#former?.close();
    this.#socket?.close();
    this.#retry.wake();
    this.#sending.close();
    this.#data.close();
    // The error event comes before the state event.
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
  #handle(signal, socket) {
    if (this.state === 'closed' || this.#data.handle(signal)) return;
    if (this.#people.follow(signal, this.local)) this.#placeTracks();
    this.#data.introduceAll();
    switch (signal.type) {
      case 'welcome':
        // We may have been moved while the socket was lost.
        if (signal.resumed) this.#setRoom(signal.room);
        this.isServerStopping = false;
        this.#sending.setMutes((source) => signal.muted?.includes(this.#transport?.midOf(source) ?? '') ?? false);
        break;
      case 'candidate':
        this.#transport?.addCandidate(signal);
        break;
      case 'moved':
        this.#setRoom(signal.room);
        break;
      case 'track_changed':
        this.#trackChanged(signal.peer, signal.track);
        break;
      case 'limits':
        this.limits = { total: signal.send_bps_max, video: signal.video_bps_max, audio: signal.audio_bps_max };
        this.#transport?.limit(this.limits, this.participants.size);
        this.#emit('limits', this.limits);
        break;
      case 'token_expiring':
        this.#renewToken(signal.expires_in_ms);
        break;
      case 'granted':
        this.#setRights(signal).then(
          () => this.#emit('granted', { mayPublish: this.mayPublish, maySubscribe: this.maySubscribe, maySendData: this.maySendData }),
          (error) => this.#report(error),
        );
        break;
      case 'codec':
      case 'encodings':
      case 'redundancy':
        this.#transport?.follow(signal);
        break;
      case 'state':
        if (this.#transport) this.#transport.isServed = signal.state !== 'interrupted';
        this.#refresh();
        break;
      case 'error':
        // A fatal error before the join, and an unknown session, end the attempt that waits for an answer.
        if (signal.code === 'unknown_session') this.#retire();
        else if (signal.code === 'token_refused') break; // `setToken` waits for it.
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
    // Media may continue, and the restarted server may know our session: try it when it is back.
    if (reason === 'server_stopping') {
      this.isServerStopping = true;
      return;
    }
    if (reason === 'transport_failed' && !this.#transport?.wasConnected) this.#report(new UprtcError('media_failed'));
    if (rejoin) this.#retire();
    else this.#end(reason === 'replaced' ? new UprtcError('replaced') : new UprtcError('removed', reason));
  }

  /** Notes the room that we are in. If it changed, all other participants are in another room. @param {string} room */
  #setRoom(room) {
    const previous = this.name;
    if (room === previous) return;
    this.name = room;
    this.#emit('moved', { room, previous });
    this.#people.clear();
  }

  /** @param {string} peer @param {TrackInfo} track */
  #trackChanged(peer, track) {
    const participant = this.participants.get(peer);
    if (participant) this.#people.setTrack(participant, track);
    else if (peer === this.local.id) this.#sending.setMute(track.source, track.muted ?? false);
  }

  /** Updates the streams of all participants to the slots. */
  #placeTracks() {
    const transport = this.#transport;
    if (transport && !transport.isRetired) this.#people.place((mid) => transport.trackOf(mid));
  }

  // State and events

  #refresh() {
    if (this.#isClosed() || this.state === 'new') return;
    this.#data.changed();
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

  /** All participants with their audio levels. @returns {Iterable<[Participant, number | Promise<number>]>} */
  *#levels() {
    if (this.#transport) yield [this.local, this.#transport.ownLevel()];
    for (const participant of this.participants.values()) {
      const mid = this.#people.microphoneOf(participant);
      yield [participant, (mid && participant.active.microphone && this.#transport?.levelOf(mid)) || 0];
    }
  }
}
