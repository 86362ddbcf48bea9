// @ts-check
/**
 * Messages in the room. They go by two data channels, one reliable and one lossy; and by the signalling socket as long as there is no channel, or
 * where it no longer leads anywhere: the successor of a server process that died knows the room and not the channels.
 *
 * A reliable message is kept until the server says that all whom it was for have it (`data_acked`). What is kept is sent again, in order and with the
 * same ids, whenever the way changes. Receivers know by the ids what they have already.
 */

import { UprtcError } from './error.js';
import { bodyOf, bytesOf, frameOf, MESSAGE_BYTES_MAX, readFrame, signalsOf, wellFormed } from './messages.js';
import { Participant } from './participant.js';

/** @import { Body, DataSignal } from './messages.js' */
/** @import { ServerSignal, Socket, Welcome } from './socket.js' */
/** @import { RoomEvents, SendOptions } from './uprtc.js' */

/** @typedef {Extract<ServerSignal, { type: 'data' }>} Received */
/** @typedef {{ header: DataSignal & { id: number }, body: Body, size: number, isLone: boolean, resolve: () => void, reject: (error: UprtcError) => void }} Kept */
/** @typedef {{ seen: number, isUnacked: boolean, parts: Received[] }} Sender What is known of who sends to us. */
/**
 * What messages need from their room.
 * @typedef {object} Host
 * @property {<K extends keyof RoomEvents>(type: K, detail: RoomEvents[K]) => void} emit
 * @property {(error: unknown) => void} report
 * @property {(id: string) => Participant | undefined} find A participant that is here, or was.
 * @property {() => Socket | undefined} socket
 * @property {() => boolean} isConnected Whether the media path, and so the channels, work.
 */

/** What may be on its way to the others: more is refused here, as the server would. */
const WINDOW_BYTES_MAX = 1_048_576;
const WINDOW_MESSAGES_MAX = 512;
/** Lossy messages that the network has not taken yet. */
const LOSSY_BUFFERED_MAX = 65_536;
const LOSSY_BYTES_MAX = 16_384;
const LABEL_BYTES_MAX = 64;
const RECIPIENTS_MAX = 64;
/** What was received is acknowledged after this time, or after so many bytes. */
const ACK_MS = 50;
const ACK_BYTES = 65_536;
/** How long to wait after the server has taken nothing because of its window. */
const HELD_MS = 250;
/** How long a message waits for the signal that tells who its sender is: that comes by the socket. */
const STRANGER_MS = 2_000;
/** Senders whose ids are remembered. */
const SENDERS_MAX = 1_024;

const PROTOCOL = 'uprtc.data.1';

export class Data {
  /** @param {Host} host */
  constructor(host) {
    this.#host = host;
  }

  #host;
  /** Whether the token permits to send data. */
  maySend = true;
  /** @type {RTCDataChannel | undefined} */
  #channel;
  /** @type {RTCDataChannel | undefined} */
  #lossy;
  /** Whether the server knows our channels. */
  #isCarried = false;
  /** Whether the server knows what messages are. */
  #isServed = false;
  /** Whether there is a session in which messages can be sent. */
  #isReady = false;
  #isClosed = false;
  /** Whether the server's window was full a moment ago. @type {ReturnType<typeof setTimeout> | undefined} */
  #held;

  /** @type {Kept[]} In the order of their ids. */
  #kept = [];
  #bytes = 0;
  #lastId = 0;
  /** The way by which messages are sent, and how many of those that are kept it was given. @type {RTCDataChannel | Socket | undefined} */
  #way;
  #given = 0;
  /** Whether much is kept, or was refused: then `drain` follows. */
  #isFull = false;

  /** @type {Map<string, Sender>} By the sender's id; that of the application's server is empty. */
  #senders = new Map();
  #unackedBytes = 0;
  #ackedAt = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #acking;
  /** @type {Map<string, (RoomEvents['data'])[]>} Messages of those of whom we do not know yet who they are. */
  #strangers = new Map();

  /** Bytes that are not acknowledged, or not sent yet. */
  get buffered() {
    return this.#bytes + (this.#lossy?.bufferedAmount ?? 0);
  }

  /**
   * @param {string | ArrayBuffer | ArrayBufferView} data
   * @param {SendOptions} options
   * @returns {Promise<void>}
   */
  send(data, options = {}) {
    const sent = new Promise((/** @type {(value?: undefined) => void} */ resolve, reject) => this.#send(data, options, resolve, reject));
    // An application that does not wait for it does not want an "unhandled rejection" when the room is left.
    sent.catch(() => {});
    return sent;
  }

  /**
   * @param {string | ArrayBuffer | ArrayBufferView} data
   * @param {SendOptions} options
   * @param {() => void} resolve
   * @param {(error: UprtcError) => void} reject
   */
  #send(data, { to, reliable = true, label = '' }, resolve, reject) {
    const body = copyOf(data);
    const size = typeof body === 'string' ? bytesOf(body).length : body.length;
    const ids = to === undefined ? undefined : [to].flat().map((one) => (typeof one === 'string' ? one : one.id));
    if (this.#isClosed) throw new UprtcError('left');
    if (!this.maySend) throw new UprtcError('data_refused', 'the token does not allow to send data, or the server takes none');
    const most = reliable ? MESSAGE_BYTES_MAX : LOSSY_BYTES_MAX;
    if (size > most) throw new UprtcError('too_large', `${size} bytes, of ${most}`);
    if (bytesOf(label).length > LABEL_BYTES_MAX) throw new UprtcError('too_large', `the label has more than ${LABEL_BYTES_MAX} bytes`);
    if (ids && ids.length > RECIPIENTS_MAX) throw new UprtcError('too_large', `it is for more than ${RECIPIENTS_MAX} participants`);
    if (ids?.length === 0) return resolve();
    /** @type {DataSignal} */
    const header = { type: 'data', ...(label && { label }), ...(ids && { to: ids }) };
    if (!reliable) {
      this.#sendLossy({ ...header, reliable: false }, body);
      return resolve();
    }
    if (this.#bytes + size > WINDOW_BYTES_MAX || this.#kept.length >= WINDOW_MESSAGES_MAX) {
      this.#isFull = true;
      throw new UprtcError('too_much', `${this.#kept.length} messages with ${this.#bytes} bytes are not acknowledged: wait for "drain"`);
    }
    this.#lastId += 1;
    this.#kept.push({ header: { ...header, id: this.#lastId }, body, size, isLone: false, resolve, reject });
    this.#bytes += size;
    this.#isFull ||= this.#isAboveHalf;
    this.#pump();
  }

  /** @param {DataSignal} header @param {Body} body */
  #sendLossy(header, body) {
    const way = this.#isReady ? this.#best : undefined;
    if (!way) throw new UprtcError('unreachable', 'there is no connection for a lossy message now');
    const carrier = way === this.#channel && this.#lossy?.readyState === 'open' ? this.#lossy : undefined;
    const socket = this.#host.socket();
    if (((carrier ?? socket)?.bufferedAmount ?? 0) > LOSSY_BUFFERED_MAX) {
      this.#isFull = true;
      throw new UprtcError('too_much', 'the network does not take lossy messages as fast as they come');
    }
    const frame = carrier && frameOf(header, body);
    if (carrier && frame) sendOn(carrier, frame);
    else for (const signal of signalsOf(header, body)) socket?.send(signal);
  }

  // The session and its ways

  /** Opens the channels of a new connection, before its offer. @param {RTCPeerConnection} pc @param {Welcome} welcome */
  open(pc, { data_channels: areThere = false, may_send_data: right }) {
    this.#isReady = false;
    this.#isServed = right !== undefined;
    this.#shut();
    // What others are told of us begins anew; that of the application's server counts for each of us.
    this.#senders.delete('');
    for (const sender of this.#senders.values()) sender.isUnacked = false;
    this.#isCarried = areThere;
    if (!areThere) return;
    this.#channel = this.#listen(pc.createDataChannel('uprtc', { protocol: PROTOCOL }));
    this.#lossy = this.#listen(pc.createDataChannel('uprtc-lossy', { protocol: PROTOCOL, ordered: false, maxRetransmits: 0 }));
    this.#lossy.bufferedAmountLowThreshold = LOSSY_BUFFERED_MAX / 4;
    this.#lossy.onbufferedamountlow = () => this.#drain();
  }

  /** @param {RTCDataChannel} channel */
  #listen(channel) {
    channel.binaryType = 'arraybuffer';
    channel.onopen = channel.onclose = () => this.#pump();
    channel.onmessage = ({ data }) => {
      try {
        if (typeof data === 'string') return void this.handle(JSON.parse(data), true);
        const { header, payload } = readFrame(data);
        this.handle({ ...header, payload }, true);
      } catch (error) {
        this.#host.report(error);
      }
    };
    return channel;
  }

  /** A new session: everybody sees us as somebody new, and our ids begin again. */
  begin() {
    for (const [n, { header }] of this.#kept.entries()) header.id = n + 1;
    this.#lastId = this.#kept.length;
    // Before a channel is open, or where none can be: here is one who acknowledges.
    if (this.#isServed) this.#host.socket()?.send({ type: 'data_ack', id: 0 });
    this.#restart();
    // What came while our answer was being read.
    this.#acknowledge();
  }

  /** The session goes on, on another socket. @param {Welcome} welcome */
  resume({ data_channels: areThere = false }) {
    this.#isCarried = areThere;
    // What we acknowledged may have been lost with the socket, or the process.
    for (const sender of this.#senders.values()) sender.isUnacked = sender.seen > 0;
    this.#restart();
    this.#acknowledge();
  }

  #restart() {
    for (const sender of this.#senders.values()) sender.parts = [];
    this.#isReady = true;
    this.#way = undefined;
    this.#pump();
  }

  /** The connection works, or does not, or there is no socket any more. */
  changed() {
    if (this.#kept.length) this.#pump();
  }

  /** @param {boolean} maySend */
  grant(maySend) {
    this.maySend = maySend;
    if (!maySend) this.#refuse(new UprtcError('data_refused', 'the token no longer allows to send data'));
  }

  close() {
    this.#isClosed = true;
    this.#shut();
    for (const timer of [this.#held, this.#acking]) clearTimeout(timer);
    this.#strangers.clear();
    this.#refuse(new UprtcError('left'));
  }

  #shut() {
    for (const channel of [this.#channel, this.#lossy]) {
      if (channel) channel.onopen = channel.onclose = channel.onmessage = channel.onbufferedamountlow = null;
    }
    this.#channel = this.#lossy = undefined;
  }

  /** @param {UprtcError} error */
  #refuse(error) {
    this.#given = this.#bytes = 0;
    for (const { reject } of this.#kept.splice(0)) reject(error);
    this.#drain();
  }

  // Sending

  /** The channel if it leads to the server, else the socket. */
  get #best() {
    const leads = this.#isCarried && this.#channel?.readyState === 'open' && this.#host.isConnected();
    return leads ? this.#channel : this.#host.socket();
  }

  /** Gives what is kept to the network; after a change of the way all of it once more. */
  #pump() {
    if (!this.#isReady || this.#held || this.#isClosed) return;
    const way = this.#best;
    if (way !== this.#way) this.#given = 0;
    this.#way = way;
    while (way && this.#given < this.#kept.length) {
      const [first, next] = [this.#kept[0], this.#kept[this.#given]];
      if (!first || !next || (first.isLone && this.#given > 0)) return;
      const frame = way === this.#channel ? frameOf(next.header, next.body) : undefined;
      // One that is too large for the channel goes alone, by the socket: between the two nothing has an order.
      next.isLone = way === this.#channel && !frame;
      const socket = this.#host.socket();
      if (next.isLone && (this.#given > 0 || !socket)) return;
      if (frame && this.#channel) {
        if (!sendOn(this.#channel, frame)) return;
      } else {
        for (const signal of signalsOf(next.header, next.body)) socket?.send(signal);
      }
      this.#given += 1;
    }
  }

  /** @param {number} id */
  #release(id) {
    for (let first = this.#kept[0]; first && first.header.id <= id; first = this.#kept[0]) {
      this.#kept.shift();
      this.#given = Math.max(0, this.#given - 1);
      this.#bytes -= first.size;
      first.resolve();
    }
    this.#drain();
    this.#pump();
  }

  get #isAboveHalf() {
    return this.#bytes > WINDOW_BYTES_MAX / 2 || this.#kept.length > WINDOW_MESSAGES_MAX / 2;
  }

  #drain() {
    if (!this.#isFull || this.#isAboveHalf || this.#isClosed) return;
    this.#isFull = false;
    this.#host.emit('drain', { buffered: this.buffered });
  }

  // Receiving

  /**
   * @param {ServerSignal & { payload?: ArrayBuffer }} signal
   * @param {boolean} [isWhole] It came by a channel, where nothing is cut.
   * @returns {boolean} Whether it is about messages.
   */
  handle(signal, isWhole = false) {
    switch (signal.type) {
      case 'data':
        this.#receive(signal, isWhole);
        return true;
      case 'data_acked':
        this.#release(signal.id);
        return true;
      case 'data_ended':
        this.#host.emit('data-ended', { reason: signal.reason });
        return true;
      case 'error':
        return !signal.fatal && this.#failed(signal.code, signal.message);
      default:
        return false;
    }
  }

  /** @param {string} code @param {string} message */
  #failed(code, message) {
    if (code === 'data_refused') {
      if (this.#kept.length) this.#refuse(new UprtcError(code, message));
      else this.#host.report(new UprtcError(code, message));
      return true;
    }
    if (code !== 'too_much' || this.#kept.length === 0) return false;
    // It has taken nothing from some message on.
    this.#held ??= setTimeout(() => {
      this.#held = this.#way = undefined;
      this.#pump();
    }, HELD_MS);
    return true;
  }

  /** @param {Received & { payload?: ArrayBuffer }} signal @param {boolean} isWhole */
  #receive(signal, isWhole) {
    const { from = '', id = 0, reliable = true, label = '', more = false, payload } = signal;
    const sender = this.#senderOf(from);
    // It was here before, and what we said about it was lost.
    if (reliable && id <= sender.seen) return this.#received(sender, 0);
    if (isWhole || sender.parts[0]?.id !== signal.id) sender.parts = [];
    sender.parts.push(signal);
    if (more && !isWhole) return;
    const data = payload ?? bodyOf(sender.parts.splice(0));
    sender.parts = [];
    if (reliable) {
      sender.seen = id;
      this.#received(sender, typeof data === 'string' ? data.length : data.byteLength);
    }
    this.#deliver(from, { from: undefined, label, data, reliable });
  }

  /** @param {string} id @returns {Sender} */
  #senderOf(id) {
    const known = this.#senders.get(id);
    if (known) return known;
    const [oldest] = this.#senders.keys();
    if (this.#senders.size >= SENDERS_MAX && oldest !== undefined) this.#senders.delete(oldest);
    const sender = { seen: 0, isUnacked: false, parts: [] };
    this.#senders.set(id, sender);
    return sender;
  }

  /** @param {Sender} sender @param {number} size */
  #received(sender, size) {
    sender.isUnacked = true;
    this.#unackedBytes += size;
    const wait = this.#ackedAt + ACK_MS - performance.now();
    if (wait <= 0 || this.#unackedBytes >= ACK_BYTES) this.#acknowledge();
    else this.#acking ??= setTimeout(() => this.#acknowledge(), wait);
  }

  #acknowledge() {
    clearTimeout(this.#acking);
    this.#acking = undefined;
    const way = this.#isReady ? this.#best : undefined;
    if (!way) return; // When there is one again, all is acknowledged.
    this.#ackedAt = performance.now();
    this.#unackedBytes = 0;
    for (const [from, sender] of this.#senders) {
      if (!sender.isUnacked) continue;
      sender.isUnacked = false;
      const ack = /** @type {const} */ ({ type: 'data_ack', ...(from && { from }), id: sender.seen });
      if (way === this.#channel) sendOn(this.#channel, JSON.stringify(ack));
      else this.#host.socket()?.send(ack);
    }
  }

  /** @param {string} from @param {RoomEvents['data']} message */
  #deliver(from, message) {
    const participant = this.#host.find(from);
    if (!from || (participant && !this.#strangers.has(from))) return this.#host.emit('data', { ...message, from: participant });
    const waiting = this.#strangers.get(from) ?? [];
    waiting.push(message);
    if (waiting.length > 1) return;
    this.#strangers.set(from, waiting);
    setTimeout(() => this.#introduce(from, new Participant(from, '', false)), STRANGER_MS);
  }

  /** Who is in the room has changed. */
  introduceAll() {
    for (const id of [...this.#strangers.keys()]) {
      const participant = this.#host.find(id);
      if (participant) this.#introduce(id, participant);
    }
  }

  /** @param {string} id @param {Participant} participant */
  #introduce(id, participant) {
    const waiting = this.#strangers.get(id) ?? [];
    this.#strangers.delete(id);
    for (const message of waiting) this.#host.emit('data', { ...message, from: participant });
  }
}

/** @param {RTCDataChannel} channel @param {string | Uint8Array<ArrayBuffer>} frame @returns {boolean} Whether it took it. */
function sendOn(channel, frame) {
  try {
    if (typeof frame === 'string') channel.send(frame);
    else channel.send(frame);
    return true;
  } catch {
    return false; // It is closing, which is an event of its own.
  }
}

/** What the application may change afterwards does not change a message. @param {unknown} data @returns {Body} */
function copyOf(data) {
  if (typeof data === 'string') return wellFormed(data);
  if (data instanceof ArrayBuffer) return new Uint8Array(data.slice(0));
  if (ArrayBuffer.isView(data)) return new Uint8Array(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  throw new TypeError('a message is a string, an ArrayBuffer or a view of one');
}
