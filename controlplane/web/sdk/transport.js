// @ts-check
/** The RTCPeerConnection of a call: its offer, its slots, its senders, its statistics. */

import { codecs, declareOpus, preferred, preferRed } from './codecs.js';
import { offerLayers } from './layers.js';
import { RIDS, Shaper } from './shaper.js';

/** @import { Device } from './device.js' */
/** @import { ServerSignal, SlotInfo, Socket, Welcome } from './socket.js' */
/** @typedef {Extract<ServerSignal, { type: 'codec' | 'encodings' | 'redundancy' }>} Told */
/** @import { AudioOptions, AudioStats, Limits, ParticipantStats, RoomStats, SendSource, VideoStats } from './uprtc.js' */

/** How long ICE may take to recover by itself before it is restarted. */
const RESTART_MS = 3_000;
/** How long candidates are collected before they are sent together: a browser finds those of all its networks at once. */
const GATHER_MS = 20;
/** How long recovery may take before the module joins again. */
const DISCONNECTED_MS_MAX = 12_000;

/** How often to check whether anything arrives. */
const CHECK_MS = 1_000;
/** If nothing arrives for this long while media is sent, the path is dead: media is answered by RTCP several times per second. */
const SILENCE_MS_MAX = 3_000;
/** The same while only ICE checks are sent, of which a browser may send only one in 2.5 s (RFC 7675). */
const IDLE_SILENCE_MS_MAX = 8_000;
/** The same where there is another edge to go to: the check is made more often, and after a shorter silence the edge is asked whether it lives. */
const QUICK_CHECK_MS = 400;
const QUIET_MS_MAX = 1_200;
const IDLE_QUIET_MS_MAX = 3_000;
/** The same if the signalling socket is lost, too, whatever is sent: something has happened, and asking costs little. */
const CUT_OFF_QUIET_MS_MAX = 800;

/** Codecs with which the server takes several encodings of a track (docs/PROTOCOL.md, 1.6). */
const SIMULCAST_CODECS = ['video/h264', 'video/vp8'];

/** The browser's side of a peer. Its m-sections are created once; only ICE is negotiated again. */
export class Transport {
  /**
   * @param {Welcome} welcome
   * @param {{ oncandidates: (candidates: RTCIceCandidateInit[]) => void, onstate: () => void, onlost: () => void }} handlers
   *   `onlost`: ICE did not recover by itself; try {@link Transport.restartOn} next.
   * @param {AudioOptions} [audio]
   * @param {boolean} [isQuick] Whether a silence is to be noticed sooner, because there is another edge to go to.
   */
  constructor(welcome, { oncandidates, onstate, onlost }, audio = {}, isQuick = false) {
    this.#audio = audio;
    this.pc = new RTCPeerConnection({
      bundlePolicy: 'max-bundle',
      rtcpMuxPolicy: 'require',
      iceServers: welcome.stun ? [{ urls: welcome.stun }] : [],
    });
    /** No longer used: its replacement is being set up. */
    this.isRetired = false;
    /** Whether the edge forwards our media now. */
    this.isServed = true;
    this.wasConnected = false;
    this.hasFailed = false;
    this.#onstate = onstate;
    this.#oncandidates = oncandidates;
    this.#onlost = onlost;
    this.pc.onconnectionstatechange = () => this.#stateChanged();
    this.pc.onicecandidate = ({ candidate }) => this.#trickle(candidate);
    this.#wanted = { video: welcome.codecs.map((codec) => `video/${codec}`), audio: ['audio/opus'] };
    this.#shaper = new Shaper(this.#senders, welcome.codecs);
    this.#addSections(welcome);
    this.#checking = setInterval(() => this.#check().catch(() => {}), isQuick ? QUICK_CHECK_MS : CHECK_MS);
  }

  /** The codecs of the room, the preferred first, in lower case. @type {{ video: string[], audio: string[] }} */
  #wanted;
  #onstate;
  #audio;
  #oncandidates;
  #onlost;
  #isAnswered = false;
  #isLastCandidate = false;
  /** @type {RTCIceCandidateInit[]} Our candidates, to be sent together. */
  #gathered = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #gathering;
  /** @type {RTCIceCandidateInit[]} Candidates that arrived before the answer. */
  #early = [];
  /** @type {Map<SendSource, RTCRtpTransceiver>} */
  #senders = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #giveUpTimer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #restartTimer;
  #shaper;
  /** @type {Map<string, Sample>} By the statistics object's id. */
  #samples = new Map();

  get isConnected() {
    // A browser is `disconnected` when its ICE checks have had no answer for 5 s, also while media arrives: on a path that loses a third
    // of its packets this happens again and again.
    const { connectionState } = this.pc;
    const hasPath = connectionState === 'connected' || (connectionState === 'disconnected' && this.wasConnected && !this.isQuiet);
    return hasPath && this.isServed && !this.isSilent;
  }

  /** Nothing has arrived from the server for a while. ICE would report this later. */
  isSilent = false;
  /** Nothing has arrived for a shorter while. It may be nothing. */
  isQuiet = false;
  /** The signalling socket is lost. */
  isCutOff = false;
  #checking;
  #lastReceived = { at: performance.now(), received: -1, sent: 0 };

  /** Checks whether anything arrives: media, RTCP or answers to ICE checks. */
  async #check() {
    if (!this.wasConnected || this.isRetired) return;
    let [received, sent] = [0, 0];
    for (const report of (await this.pc.getStats()).values()) {
      if (report.type === 'candidate-pair') received += (report.bytesReceived ?? 0) + (report.responsesReceived ?? 0);
      if (report.type === 'inbound-rtp') received += report.packetsReceived ?? 0;
      if (report.type === 'outbound-rtp') sent += report.packetsSent ?? 0;
    }
    const now = performance.now();
    if (received !== this.#lastReceived.received) this.#lastReceived = { at: now, received, sent };
    const [isSending, silence] = [sent > this.#lastReceived.sent, now - this.#lastReceived.at];
    const isSilent = silence >= (isSending ? SILENCE_MS_MAX : IDLE_SILENCE_MS_MAX);
    const isQuiet = silence >= (this.isCutOff ? CUT_OFF_QUIET_MS_MAX : isSending ? QUIET_MS_MAX : IDLE_QUIET_MS_MAX);
    if (isQuiet === this.isQuiet && isSilent === this.isSilent) return;
    this.isQuiet = isQuiet;
    this.isSilent = isSilent;
    this.#onstate();
  }

  /** This browser supports no video codec of the room. */
  get lacksVideo() {
    return !codecs('video').some(({ mimeType }) => this.#wanted.video.includes(mimeType.toLowerCase()));
  }

  /**
   * Three senders and as many slots as the server proposes, always in this order. A sender without a device is created
   * too, so that a device can be added later without a new offer.
   * @param {Welcome} welcome
   */
  #addSections(welcome) {
    if (welcome.may_publish) {
      const [own, screen] = [new MediaStream(), new MediaStream()];
      this.#senders.set('microphone', this.#add('audio', { direction: 'sendonly', streams: [own] }));
      this.#senders.set('camera', this.#add('video', { direction: 'sendonly', streams: [own], ...this.#simulcast }));
      this.#senders.set('screen', this.#add('video', { direction: 'sendonly', streams: [screen] }));
    }
    if (!welcome.may_subscribe) return;
    for (let n = 0; n < welcome.slots.audio; n++) this.#add('audio', { direction: 'recvonly' });
    for (let n = 0; n < welcome.slots.video; n++) this.#add('video', { direction: 'recvonly' });
  }

  /** Several encodings of the camera, if the room's codecs are those with which the server takes them. */
  get #simulcast() {
    const isTaken = this.#wanted.video.every((codec) => SIMULCAST_CODECS.includes(codec));
    const encodings = RIDS.map((rid, n) => ({ rid, scaleResolutionDownBy: 2 ** (RIDS.length - 1 - n) }));
    return isTaken && { sendEncodings: encodings };
  }

  /**
   * @param {'audio' | 'video'} kind
   * @param {RTCRtpTransceiverInit} init
   */
  #add(kind, init) {
    const transceiver = this.pc.addTransceiver(kind, init);
    const wanted = preferred(kind, this.#wanted[kind]);
    if (wanted.length) transceiver.setCodecPreferences?.(wanted);
    if (kind === 'video') offerLayers(transceiver);
    return transceiver;
  }

  /**
   * @param {Device[]} devices
   * @returns {Promise<string>} The initial offer.
   */
  async offer(devices) {
    const carried = devices.map((device) => this.#senders.get(device.source)?.sender.replaceTrack(device.track));
    await Promise.all([...carried, this.#shaper.askModes()]);
    return this.#describe();
  }

  /** The socket on which ICE is being restarted. @type {Socket | undefined} */
  #restarting;

  /**
   * Restarts ICE on the same connection (PROTOCOL.md, 1.10); media continues on the old path until there is a new one. If this fails, the
   * transport gives up after a time, and the module joins again.
   * @param {Socket} socket
   */
  async restartOn(socket) {
    if (socket === this.#restarting || this.isRetired) return;
    this.#restarting = socket;
    try {
      this.pc.restartIce();
      this.#isAnswered = this.#isLastCandidate = false;
      const sdp = await this.#describe();
      const answered = socket.next(({ type }) => type === 'answer' || type === 'error');
      socket.send({ type: 'offer', sdp });
      const answer = await answered;
      if (answer.type === 'answer') await this.accept(answer.sdp);
    } catch {
      // The socket is lost as well: the restart is tried again when it is back.
    } finally {
      if (this.#restarting === socket) this.#restarting = undefined;
    }
  }

  async #describe() {
    const { type, sdp } = await this.pc.createOffer();
    await this.pc.setLocalDescription({ type, sdp: declareOpus(sdp ?? '', this.#audio) });
    return this.pc.localDescription?.sdp ?? '';
  }

  /** @param {string} sdp The answer. */
  async accept(sdp) {
    this.#answer = sdp;
    await this.pc.setRemoteDescription({ type: 'answer', sdp: preferRed(sdp, this.midOf('microphone'), this.#isRedundant) });
    this.#isAnswered = true;
    for (const candidate of this.#early.splice(0)) this.addCandidate(candidate);
    this.#shapeAll();
  }

  /** The last answer, as it came. */
  #answer = '';
  /** Whether audio is sent with redundancy (RED). */
  #isRedundant = false;

  /**
   * Sends audio with redundancy from now on, or without. A sender takes the first codec of the answer, and nothing else decides, so the answer
   * is given once more in another order. The server has nothing to do with it: both are negotiated.
   * @param {boolean} isRedundant
   */
  async #sendRedundancy(isRedundant) {
    if (isRedundant === this.#isRedundant) return;
    this.#isRedundant = isRedundant;
    // An offer that is under way is answered in the new order.
    if (!this.#isAnswered || this.isRetired || this.pc.signalingState !== 'stable') return;
    await this.#describe();
    await this.accept(this.#answer).catch(() => this.pc.setLocalDescription({ type: 'rollback' }));
  }

  /** @param {RTCIceCandidateInit} candidate */
  addCandidate({ candidate, sdpMid, sdpMLineIndex, usernameFragment }) {
    const init = { candidate, sdpMid, sdpMLineIndex, usernameFragment };
    if (!this.#isAnswered) this.#early.push(init);
    // If the browser cannot use one, nothing is lost: the answer has all candidates.
    else this.pc.addIceCandidate(init).catch(() => {});
  }

  /** @param {RTCIceCandidate | null} candidate */
  #trickle(candidate) {
    // Some browsers report the end twice: by an empty candidate and by null.
    if (this.#isLastCandidate) return;
    this.#isLastCandidate = !candidate?.candidate;
    this.#gathered.push(candidate?.candidate ? candidate.toJSON() : { candidate: '' });
    if (this.#isLastCandidate) this.#sendGathered();
    else this.#gathering ??= setTimeout(() => this.#sendGathered(), GATHER_MS);
  }

  #sendGathered() {
    clearTimeout(this.#gathering);
    this.#gathering = undefined;
    this.#oncandidates(this.#gathered.splice(0));
  }

  #stateChanged() {
    const { connectionState, iceConnectionState } = this.pc;
    if (connectionState === 'connected') {
      this.wasConnected = true;
      this.#shaper.start();
      this.#endWait();
    } else if (connectionState === 'disconnected') {
      this.#wait(RESTART_MS);
    } else if (connectionState === 'failed') {
      // A connection that never worked, or that DTLS has ended, is not repaired by an ICE restart.
      if (this.wasConnected && iceConnectionState === 'failed') this.#wait(0);
      else this.hasFailed = true;
    }
    this.#onstate();
  }

  /** The path is lost: ICE may recover by itself, then it is restarted, then the connection is given up. @param {number} ms */
  #wait(ms) {
    this.#giveUpTimer ??= setTimeout(() => this.#giveUp(), DISCONNECTED_MS_MAX);
    this.#restartTimer ??= setTimeout(() => this.#restart(ms), ms);
  }

  /** @param {number} ms */
  #restart(ms) {
    if (!this.isConnected) return this.#onlost();
    // Media flows: both begin again when it does no longer.
    this.#endWait();
    this.#wait(ms);
  }

  #endWait() {
    clearTimeout(this.#giveUpTimer);
    clearTimeout(this.#restartTimer);
    this.#giveUpTimer = this.#restartTimer = undefined;
  }

  /** The network changed, or the socket is back: restarts ICE now if the path is lost. */
  restartIfLost() {
    if (this.isLost) this.#onlost();
  }

  /** Media had a path and has none now. */
  get isLost() {
    return this.wasConnected && !this.hasFailed && this.pc.connectionState !== 'connected';
  }

  #giveUp() {
    this.#endWait();
    // While the edge reports `interrupted`, it decides when to give up.
    if (!this.isServed) return;
    this.hasFailed = true;
    this.#onstate();
  }

  /** Sends the device's current track, or nothing. @param {Device} device */
  async carry(device) {
    const sender = this.#senders.get(device.source)?.sender;
    if (!sender || this.isRetired) return;
    await sender.replaceTrack(device.track);
    await this.#shaper.shape(device.source);
  }

  /**
   * @param {Limits} limits
   * @param {number} others How many others are in the room: for several of them several encodings may be of use.
   */
  limit(limits, others) {
    this.#shaper.limit(limits, others);
    this.#shapeAll();
  }

  /**
   * Sends as the server says: video in another codec from now on, of which both are negotiated; or not in the encodings that nobody
   * receives now, of which it names all; or audio with redundancy, because much is lost.
   * @param {Told} signal
   */
  follow(signal) {
    if (signal.type === 'redundancy') {
      this.#sendRedundancy(signal.audio).catch(() => {}); // The connection was closed meanwhile.
      return;
    }
    if (signal.type === 'codec') {
      this.#shaper.sendIn(signal.video);
    } else {
      const mine = signal.paused.filter(({ mid }) => mid === this.midOf('camera'));
      const rates = signal.rates?.filter(({ mid }) => mid === this.midOf('camera')) ?? [];
      this.#shaper.followReceivers(mine.flatMap(({ rids }) => rids), rates);
    }
    this.#shapeAll();
  }

  #shapeAll() {
    if (this.#isAnswered) this.#shaper.shapeAll();
  }

  /** @param {SendSource} source */
  midOf(source) {
    return this.#senders.get(source)?.mid ?? undefined;
  }

  /** @param {string} mid */
  trackOf(mid) {
    return this.#receiver(mid)?.track;
  }

  /** @param {string} mid @returns {number} Loudness of an audio slot, 0 to 1. */
  levelOf(mid) {
    return this.#receiver(mid)?.getSynchronizationSources()[0]?.audioLevel ?? 0;
  }

  /** @returns {Promise<number>} Loudness of our own microphone, 0 to 1. */
  async ownLevel() {
    const sender = this.#senders.get('microphone')?.sender;
    if (!sender?.track?.enabled) return 0;
    for (const report of (await sender.getStats()).values()) {
      if (report.type === 'media-source') return report.audioLevel ?? 0;
    }
    return 0;
  }

  /** @param {string} mid */
  #receiver(mid) {
    return this.pc.getTransceivers().find((transceiver) => transceiver.mid === mid)?.receiver;
  }

  /**
   * Fills in the statistics.
   * @param {RoomStats} stats
   * @param {SlotInfo[]} slots
   */
  async stats(stats, slots) {
    const reports = await this.pc.getStats();
    const sources = new Map([...this.#senders].map(([source, { mid }]) => [mid, source]));
    for (const report of reports.values()) {
      if (report.type === 'candidate-pair' && report.nominated && report.state === 'succeeded') {
        if (report.currentRoundTripTime !== undefined) stats.rttMs = report.currentRoundTripTime * 1000;
        stats.availableBps = report.availableOutgoingBitrate;
      } else if (report.type === 'outbound-rtp' && sources.has(report.mid)) {
        const source = /** @type {SendSource} */ (sources.get(report.mid));
        const others = stats.outgoing[source];
        this.#measure(stats.outgoing, source, report, reports);
        if (report.rid && others) stats.outgoing.camera = together(others, stats.outgoing.camera);
      } else if (report.type === 'inbound-rtp') {
        const slot = slots.find(({ mid }) => mid === report.mid);
        const into = slot?.peer && stats.incoming.get(slot.peer);
        if (into && slot.source && slot.source !== 'screen_audio') this.#measure(into, slot.source, report, reports);
      }
    }
    return stats;
  }

  /**
   * @param {ParticipantStats} into
   * @param {SendSource} source
   * @param {any} report
   * @param {RTCStatsReport} reports
   */
  #measure(into, source, report, reports) {
    const isOurs = report.type === 'outbound-rtp';
    const remote = isOurs ? reports.get(report.remoteId) : report;
    const now = {
      at: report.timestamp,
      bytes: isOurs ? report.bytesSent : report.bytesReceived,
      packets: isOurs ? report.packetsSent : report.packetsReceived,
      lost: remote?.packetsLost ?? 0,
    };
    const before = this.#samples.get(report.id) ?? { ...now, at: 0, bytes: 0, packets: 0, lost: 0 };
    this.#samples.set(report.id, now);
    const seconds = (now.at - before.at) / 1000;
    const lost = Math.max(0, now.lost - before.lost);
    const packets = Math.max(0, now.packets - before.packets);
    /** @type {AudioStats} */
    const audio = {
      bps: before.at && seconds > 0 ? Math.round(((now.bytes - before.bytes) * 8) / seconds) : 0,
      loss: lost / Math.max(1, isOurs ? packets : packets + lost),
      jitterMs: (remote?.jitter ?? 0) * 1000,
      codec: reports.get(report.codecId)?.mimeType ?? '',
    };
    if (source === 'microphone') {
      into.microphone = audio;
      return;
    }
    /** @type {VideoStats} */
    into[source] = {
      ...audio,
      width: report.frameWidth ?? 0,
      height: report.frameHeight ?? 0,
      fps: report.framesPerSecond ?? 0,
      frames: (isOurs ? report.framesEncoded : report.framesDecoded) ?? 0,
    };
  }

  close() {
    this.#endWait();
    clearInterval(this.#checking);
    clearTimeout(this.#gathering);
    this.#shaper.stop();
    this.isRetired = true;
    this.pc.onconnectionstatechange = this.pc.onicecandidate = null;
    this.pc.close();
  }
}

/**
 * The encodings of a camera as one: the size and frame rate are those of the largest.
 * @param {any} one
 * @param {any} other
 * @returns {VideoStats}
 */
function together(one, other) {
  const larger = other.fps > 0 && other.width > one.width ? other : one;
  return { ...larger, bps: one.bps + other.bps, loss: Math.max(one.loss, other.loss) };
}

/** @typedef {{ at: number, bytes: number, packets: number, lost: number }} Sample */
