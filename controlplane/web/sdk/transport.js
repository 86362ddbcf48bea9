// @ts-check
/** The one RTCPeerConnection of a stay in the room: its offer, its slots, its senders, its statistics. */

import { Shaper } from './shaper.js';

/** @import { Device } from './device.js' */
/** @import { SlotInfo, VideoCodec, Welcome } from './socket.js' */
/** @import { AudioOptions, AudioStats, Limits, ParticipantStats, RoomStats, SendSource, VideoStats } from './uprtc.js' */

/** How long ICE may look for its way back by itself before it is restarted. */
const RESTART_MS = 3_000;
/** How long candidates are gathered before they are sent together: a browser finds those of all its networks at once. */
const GATHER_MS = 20;
/** How long all of that may take before the room is entered anew. */
const DISCONNECTED_MS_MAX = 12_000;

/** How often it is looked whether anything arrives. */
const LOOK_MS = 1_000;
/** Nothing arrives for so long although media leaves, which is answered by RTCP several times a second: there is no way. */
const SILENCE_MS_MAX = 3_000;
/** The same while nothing leaves but ICE's checks, of which a browser may send one in 2.5 s only (RFC 7675). */
const IDLE_SILENCE_MS_MAX = 8_000;

/** A peer as the browser has it. Its sections are made once; what may be negotiated again is the way of its packets. */
export class Transport {
  /**
   * @param {Welcome} welcome
   * @param {{ oncandidates: (candidates: RTCIceCandidateInit[]) => void, onstate: () => void, onlost: () => void }} handlers
   *   `onlost`: ICE does not find its way back by itself; {@link Transport.restart} is the next thing to try.
   * @param {AudioOptions} [audio]
   */
  constructor(welcome, { oncandidates, onstate, onlost }, audio = {}) {
    this.#audio = audio;
    this.pc = new RTCPeerConnection({
      bundlePolicy: 'max-bundle',
      rtcpMuxPolicy: 'require',
      iceServers: welcome.stun ? [{ urls: welcome.stun }] : [],
    });
    /** Of no more use: what takes its place is under way. */
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
    this.#addSections(welcome);
    this.#looking = setInterval(() => this.#look().catch(() => {}), LOOK_MS);
  }

  /** What the room uses, the best first, in lower case. @type {{ video: string[], audio: string[] }} */
  #wanted;
  #onstate;
  #audio;
  #oncandidates;
  #onlost;
  #isAnswered = false;
  #isLastCandidate = false;
  /** @type {RTCIceCandidateInit[]} Ours, to be sent together. */
  #gathered = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #gathering;
  /** @type {RTCIceCandidateInit[]} Came before the answer. */
  #early = [];
  /** @type {Map<SendSource, RTCRtpTransceiver>} */
  #senders = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #patience;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #restarting;
  #shaper = new Shaper(this.#senders);
  /** @type {Map<string, Sample>} By the statistics object's id. */
  #samples = new Map();

  get isConnected() {
    return this.pc.connectionState === 'connected' && this.isServed && !this.isSilent;
  }

  /** Nothing has been heard of the server for a while: ICE takes longer to say so. */
  isSilent = false;
  #looking;
  #heard = { at: performance.now(), received: -1, sent: 0 };

  /** Whether anything arrives at all: media, RTCP or answers to checks. */
  async #look() {
    if (!this.wasConnected || this.isRetired) return;
    let [received, sent] = [0, 0];
    for (const report of (await this.pc.getStats()).values()) {
      if (report.type === 'candidate-pair') received += (report.bytesReceived ?? 0) + (report.responsesReceived ?? 0);
      if (report.type === 'inbound-rtp') received += report.packetsReceived ?? 0;
      if (report.type === 'outbound-rtp') sent += report.packetsSent ?? 0;
    }
    const now = performance.now();
    if (received !== this.#heard.received) this.#heard = { at: now, received, sent };
    const most = sent > this.#heard.sent ? SILENCE_MS_MAX : IDLE_SILENCE_MS_MAX;
    const isSilent = now - this.#heard.at >= most;
    if (isSilent === this.isSilent) return;
    this.isSilent = isSilent;
    this.#onstate();
  }

  /** This browser has no codec of video that the room uses. */
  get lacksVideo() {
    return !codecs('video').some(({ mimeType }) => this.#wanted.video.includes(mimeType.toLowerCase()));
  }

  /**
   * Three senders and as many slots as the room asks for, always in this order. A sender without a device is there
   * too, so that the device can come later without a new offer.
   * @param {Welcome} welcome
   */
  #addSections(welcome) {
    if (welcome.may_publish) {
      const [voice, screen] = [new MediaStream(), new MediaStream()];
      this.#senders.set('microphone', this.#add('audio', { direction: 'sendonly', streams: [voice] }));
      this.#senders.set('camera', this.#add('video', { direction: 'sendonly', streams: [voice] }));
      this.#senders.set('screen', this.#add('video', { direction: 'sendonly', streams: [screen] }));
    }
    if (!welcome.may_subscribe) return;
    for (let n = 0; n < welcome.slots.audio; n++) this.#add('audio', { direction: 'recvonly' });
    for (let n = 0; n < welcome.slots.video; n++) this.#add('video', { direction: 'recvonly' });
  }

  /**
   * @param {'audio' | 'video'} kind
   * @param {RTCRtpTransceiverInit} init
   */
  #add(kind, init) {
    const transceiver = this.pc.addTransceiver(kind, init);
    const wanted = preferred(kind, this.#wanted[kind]);
    if (wanted.length) transceiver.setCodecPreferences?.(wanted);
    return transceiver;
  }

  /**
   * @param {Device[]} devices
   * @returns {Promise<string>} The first offer.
   */
  async offer(devices) {
    await Promise.all(devices.map((device) => this.#senders.get(device.source)?.sender.replaceTrack(device.track)));
    return this.#describe();
  }

  /** ICE begins anew; media goes on by the old way until there is a new one. @returns {Promise<string>} A further offer. */
  restart() {
    this.pc.restartIce();
    this.#isAnswered = this.#isLastCandidate = false;
    return this.#describe();
  }

  async #describe() {
    const { type, sdp } = await this.pc.createOffer();
    await this.pc.setLocalDescription({ type, sdp: declareOpus(sdp ?? '', this.#audio) });
    return this.pc.localDescription?.sdp ?? '';
  }

  /** @param {string} sdp The answer. */
  async accept(sdp) {
    await this.pc.setRemoteDescription({ type: 'answer', sdp });
    this.#isAnswered = true;
    for (const candidate of this.#early.splice(0)) this.addCandidate(candidate);
    this.#shapeAll();
  }

  /** @param {RTCIceCandidateInit} candidate */
  addCandidate({ candidate, sdpMid, sdpMLineIndex, usernameFragment }) {
    const init = { candidate, sdpMid, sdpMLineIndex, usernameFragment };
    if (!this.#isAnswered) this.#early.push(init);
    // One that the browser cannot use is no loss: the answer has them all.
    else this.pc.addIceCandidate(init).catch(() => {});
  }

  /** @param {RTCIceCandidate | null} candidate */
  #trickle(candidate) {
    // Some browsers say the end twice: by an empty candidate and by null.
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
      // What has never worked, or what DTLS has ended, is not mended by another way.
      if (this.wasConnected && iceConnectionState === 'failed') this.#wait(0);
      else this.hasFailed = true;
    }
    this.#onstate();
  }

  /** Media has no way: ICE may find one by itself, then it is restarted, then it is given up. @param {number} ms */
  #wait(ms) {
    this.#patience ??= setTimeout(() => this.#giveUp(), DISCONNECTED_MS_MAX);
    this.#restarting ??= setTimeout(() => this.#onlost(), ms);
  }

  #endWait() {
    clearTimeout(this.#patience);
    clearTimeout(this.#restarting);
    this.#patience = this.#restarting = undefined;
  }

  /** The network is another one, or the socket is back: if media has no way, now is the time to look for one. */
  hurry() {
    if (this.isLost) this.#onlost();
  }

  /** Media had a way and has none now. */
  get isLost() {
    return this.wasConnected && !this.hasFailed && this.pc.connectionState !== 'connected';
  }

  #giveUp() {
    this.#endWait();
    // While the edge says that it is the one who is away, it is the one who ends the wait.
    if (!this.isServed) return;
    this.hasFailed = true;
    this.#onstate();
  }

  /** Sends what the device has now: its track, another one, or nothing. @param {Device} device */
  async carry(device) {
    const sender = this.#senders.get(device.source)?.sender;
    if (!sender || this.isRetired) return;
    await sender.replaceTrack(device.track);
    await this.#shaper.shape(device.source);
  }

  /** @param {Limits} limits */
  limit(limits) {
    this.#shaper.limit(limits);
    this.#shapeAll();
  }

  /** Sends video in another codec from now on; both are negotiated. @param {VideoCodec} codec */
  sendIn(codec) {
    this.#shaper.sendIn(codec);
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
        this.#measure(stats.outgoing, /** @type {SendSource} */ (sources.get(report.mid)), report, reports);
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
    clearInterval(this.#looking);
    clearTimeout(this.#gathering);
    this.#shaper.stop();
    this.isRetired = true;
    this.pc.onconnectionstatechange = this.pc.onicecandidate = null;
    this.pc.close();
  }
}

/** @typedef {{ at: number, bytes: number, packets: number, lost: number }} Sample */
/** @param {'audio' | 'video'} kind */
function codecs(kind) {
  return RTCRtpReceiver.getCapabilities?.(kind)?.codecs ?? [];
}

/**
 * Opus and the one or two codecs of video that the room uses: an offer of everything would be several times as long. The
 * forms of H.264 that every browser and phone can decode come first. Redundancy (RED, ULPFEC) is left out: packets that
 * are forwarded are repaired by retransmission.
 * @param {'audio' | 'video'} kind
 * @param {string[]} used Types that the room uses, the best first.
 */
function preferred(kind, used) {
  const all = codecs(kind).filter(({ mimeType }) => !/\/(red|ulpfec|flexfec-03|CN|telephone-event)$/i.test(mimeType));
  const place = (/** @type {RTCRtpCodec} */ { mimeType }) => used.indexOf(mimeType.toLowerCase());
  const wanted = all.filter((codec) => place(codec) >= 0);
  // A browser without any of them offers what it has; the server says what it makes of it.
  if (!wanted.length) return all;
  const order = (/** @type {RTCRtpCodec} */ codec) =>
    place(codec) * 10 + (codec.mimeType === 'video/H264' ? rank(codec.sdpFmtpLine) : 0);
  wanted.sort((a, b) => order(a) - order(b));
  return [...wanted, ...all.filter(({ mimeType }) => /\/rtx$/.test(mimeType))];
}

/** Constrained baseline first, single NAL unit mode last. @param {string} [fmtp] */
function rank(fmtp = '') {
  const profile = /profile-level-id=(42e0|4200|4d00)/i.exec(fmtp)?.[1]?.toLowerCase() ?? '';
  const order = ['42e0', '4200', '4d00'].indexOf(profile);
  return (order < 0 ? 3 : order) + (/packetization-mode=1/.test(fmtp) ? 0 : 4);
}

/**
 * Declares for Opus what the application wants to send and to hear (RFC 7587 §6.1). Browsers have no other way to say it.
 * @param {string} sdp
 * @param {AudioOptions} audio
 */
function declareOpus(sdp, { stereo, bps }) {
  const wishes = [...(stereo ? ['stereo=1', 'sprop-stereo=1'] : []), ...(bps ? [`maxaveragebitrate=${Math.round(bps)}`] : [])];
  if (!wishes.length) return sdp;
  const types = [...sdp.matchAll(/^a=rtpmap:(\d+) opus\/48000\/2/gim)].map(([, type]) => type);
  return sdp.replace(/^a=fmtp:(\d+) ([^\r\n]*)/gm, (line, type, parameters) => {
    const present = parameters.split(';');
    return types.includes(type) ? [line, ...wishes.filter((wish) => !present.includes(wish))].join(';') : line;
  });
}
