// @ts-check
/** The signalling socket: opening it and finding out why it was refused, signals in both directions, detecting a dead connection. */

import { UprtcError } from './error.js';
import { addressOf } from './invitation.js';

/** @import { DataSignal } from './messages.js' */
/** @import { ShownVideo } from './shown.js' */
/** @import { LeaveReason, Quality, Role, Source } from './uprtc.js' */

/** @typedef {{ mid: string, kind: 'audio' | 'video', peer?: string, track?: string, source?: Source }} SlotInfo */
/** @typedef {{ track: string, kind: 'audio' | 'video', source: Source, active: boolean, muted?: boolean }} TrackInfo */
/** @typedef {{ peer: string, name: string, lookalike?: boolean, quality?: Quality, role?: Role, tracks: TrackInfo[] }} PeerInfo */
/**
 * @typedef {{ type: 'welcome', session: string, peer: string, room: string, name: string, may_publish: boolean,
 *   may_subscribe: boolean, peers_max: number, slots: { audio: number, video: number }, stun?: string,
 *   codecs: VideoCodec[], resumed: boolean, muted?: string[], may_send_data?: boolean, data_channels?: boolean }} Welcome
 */
/** @typedef {'h264' | 'vp8' | 'vp9' | 'av1'} VideoCodec */
/**
 * Signals from the server (docs/PROTOCOL.md).
 * @typedef {Welcome
 *   | { type: 'answer', sdp: string }
 *   | { type: 'candidate' } & RTCIceCandidateInit
 *   | { type: 'peers', peers: PeerInfo[] }
 *   | { type: 'peer_joined', peer: PeerInfo }
 *   | { type: 'peer_changed', peer: PeerInfo }
 *   | { type: 'peer_left', peer: string, reason: LeaveReason }
 *   | { type: 'moved', room: string, peers_max: number }
 *   | { type: 'track_changed', peer: string, track: TrackInfo }
 *   | { type: 'quality', peers: { peer: string, quality: Quality }[] }
 *   | { type: 'speakers', peers: string[], dominant?: string }
 *   | { type: 'slots', slots: SlotInfo[] }
 *   | { type: 'limits', send_bps_max: number, video_bps_max: number, audio_bps_max: number }
 *   | { type: 'codec', video: VideoCodec }
 *   | { type: 'encodings', paused: { mid: string, rids: string[] }[], rates?: { mid: string, rid: string, bps: number }[] }
 *   | { type: 'redundancy', audio: boolean }
 *   | { type: 'granted', may_publish: boolean, may_subscribe: boolean, may_send_data?: boolean, expires_in_ms?: number }
 *   | { type: 'token_expiring', expires_in_ms: number }
 *   | { type: 'state', state: 'new' | 'connecting' | 'connected' | 'interrupted' }
 *   | { type: 'data', from?: string, label?: string, reliable?: boolean, id?: number, text?: string, binary?: string, more?: boolean }
 *   | { type: 'data_acked', id: number }
 *   | { type: 'data_ended', reason: 'slow' }
 *   | { type: 'error', code: string, message: string, fatal: boolean }
 *   | { type: 'bye', reason: LeaveReason, rejoin: boolean }
 *   | { type: 'pong' }} ServerSignal
 */
/**
 * Signals from the client.
 * @typedef {{ type: 'offer', sdp: string, tracks?: { mid: string | undefined, source: Source, active: boolean }[] }
 *   | { type: 'resume', session: string }
 *   | { type: 'candidates', candidates: RTCIceCandidateInit[] }
 *   | { type: 'track', mid: string, active: boolean }
 *   | { type: 'shown', videos: ShownVideo[] }
 *   | { type: 'token', token: string }
 *   | DataSignal
 *   | { type: 'data_ack', from?: string, id: number }
 *   | { type: 'ping' }
 *   | { type: 'leave' }} ClientSignal
 */

/** Reasons for which a newcomer is refused, and a client that resumes is not. */
const NEWCOMER_CODES = new Set(['room_full', 'room_locked', 'no_dataplane', 'engine_busy']);
const OPEN_MS_MAX = 8_000;
const PING_MS = 10_000;
/** Two pings without an answer: the connection is dead, also if TCP has not noticed. */
const SILENCE_MS_MAX = 25_000;

/**
 * Asks whether a newcomer could join now, before the user is asked for a camera.
 * @param {{ room: string, token: string, server?: string }} options
 * @returns {Promise<UprtcError | undefined>} The reason if not. If it `isTemporary`, ask again later.
 */
export async function mayJoin(options) {
  return Socket.ask(signalAddress(options));
}

/** @param {{ room: string, token: string, server?: string }} options */
export function signalAddress({ room, token, server }) {
  const url = addressOf(`v1/rooms/${encodeURIComponent(room)}/signal`, server);
  url.searchParams.set('token', token);
  return url;
}

/** One signalling socket, from its opening to its end. */
export class Socket {
  /**
   * Asks by plain HTTP whether a newcomer could join now (RFC 9457 problems; docs/PROTOCOL.md, 1.1).
   * @param {URL} url Of http or https.
   * @returns {Promise<UprtcError | undefined>} The reason if not.
   */
  static async ask(url) {
    const asking = new URL(url);
    asking.searchParams.set('ask', '1');
    try {
      const response = await fetch(asking, { cache: 'no-store', signal: AbortSignal.timeout(OPEN_MS_MAX) });
      if (response.ok) return undefined;
      const problem = await response.json();
      if (typeof problem.code === 'string') return new UprtcError(problem.code, problem.detail);
    } catch {
      // No answer, or not an answer of uprtc: it is unreachable.
    }
    return new UprtcError('unreachable');
  }

  /**
   * @param {URL} url Of http or https.
   * @param {(signal: ServerSignal, socket: Socket) => void} onsignal
   * @returns {Promise<Socket>}
   */
  static async open(url, onsignal) {
    const address = new URL(url);
    address.protocol = url.protocol.replace('http', 'ws');
    const ws = new WebSocket(address);
    const socket = new Socket(ws, onsignal);
    const isOpen = await new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), OPEN_MS_MAX);
      ws.onopen = () => resolve(true);
      socket.closed.then(() => resolve(false)).finally(() => clearTimeout(timer));
    });
    if (isOpen) return socket;
    socket.close();
    throw await Socket.#refusalOf(url);
  }

  /** A WebSocket does not tell why it was refused. A plain HTTP request to the same address does. @param {URL} url */
  static async #refusalOf(url) {
    const refusal = await Socket.ask(url);
    // These reasons refuse offers and not WebSockets: this one failed for another reason.
    return refusal && !NEWCOMER_CODES.has(refusal.code) ? refusal : new UprtcError('unreachable');
  }

  /** @type {WebSocket} */
  #ws;
  /** @type {{ wants: (signal: ServerSignal) => boolean, resolve: (signal: ServerSignal) => void,
   *   reject: (error: UprtcError) => void }[]} */
  #waiting = [];

  /**
   * @param {WebSocket} ws
   * @param {(signal: ServerSignal, socket: Socket) => void} onsignal
   */
  constructor(ws, onsignal) {
    this.#ws = ws;
    let receivedAt = performance.now();
    const pings = setInterval(() => {
      if (performance.now() - receivedAt > SILENCE_MS_MAX) this.close();
      else this.send({ type: 'ping' });
    }, PING_MS);
    ws.onmessage = ({ data }) => {
      receivedAt = performance.now();
      this.#dispatch(/** @type {ServerSignal} */ (JSON.parse(data)), onsignal);
    };
    /** Resolves when the socket is closed, for any reason. @type {Promise<void>} */
    this.closed = new Promise((resolve) => (this.#resolveClosed = resolve));
    ws.onclose = () => this.#resolveClosed();
    this.closed.then(() => {
      clearInterval(pings);
      ws.onmessage = null;
      this.#isClosed = true;
      for (const { reject } of this.#waiting.splice(0)) reject(this.#refusal);
    });
  }

  #resolveClosed = () => {};
  #isClosed = false;
  /** The error with which pending waits end when the socket is closed. */
  #refusal = new UprtcError('unreachable', 'the socket was closed');

  /**
   * @param {ServerSignal} signal
   * @param {(signal: ServerSignal, socket: Socket) => void} onsignal
   */
  #dispatch(signal, onsignal) {
    onsignal(signal, this);
    const waiting = this.#waiting;
    if (signal.type === 'error' && (signal.fatal || signal.code === 'unknown_session')) {
      this.#refusal = new UprtcError(signal.code, signal.message);
      for (const { reject } of waiting.splice(0)) reject(this.#refusal);
    }
    const index = waiting.findIndex(({ wants }) => wants(signal));
    if (index >= 0) waiting.splice(index, 1)[0]?.resolve(signal);
  }

  /**
   * The next signal that `wants` selects. Rejects if the server refuses or the socket closes before.
   * @param {(signal: ServerSignal) => boolean} wants
   * @returns {Promise<ServerSignal>}
   */
  next(wants) {
    if (this.#isClosed) return Promise.reject(this.#refusal);
    return new Promise((resolve, reject) => this.#waiting.push({ wants, resolve, reject }));
  }

  /** Changes to another token. Rejects if the server refuses it. @param {string} token */
  async setToken(token) {
    const answer = this.next(
      (signal) => signal.type === 'granted' || (signal.type === 'error' && signal.code === 'token_refused'),
    );
    this.send({ type: 'token', token });
    const signal = await answer;
    if (signal.type === 'error') throw new UprtcError(signal.code, signal.message);
  }

  /** @param {ClientSignal} signal */
  send(signal) {
    if (this.#ws.readyState === WebSocket.OPEN) this.#ws.send(JSON.stringify(signal));
  }

  /** Bytes that the network has not taken yet. */
  get bufferedAmount() {
    return this.#ws.bufferedAmount;
  }

  /** Closed at once for us; the closing handshake may take longer. */
  close() {
    this.#ws.close();
    this.#resolveClosed();
  }
}
