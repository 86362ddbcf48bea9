// @ts-check
/** Size, frame rate, bit rate and codec of our senders: applies the room's limits and corrects the browser's adaptation. */

import { codecs } from './codecs.js';
import { Modes } from './layers.js';

/** @import { VideoCodec } from './socket.js' */
/** @import { Limits, SendSource } from './uprtc.js' */

/** Lines of a camera's video (its shorter side) that are useful with H.264 at a bit rate, the best first. */
const LINES = [
  { bps: 700_000, lines: 720 },
  { bps: 400_000, lines: 540 },
  { bps: 150_000, lines: 360 },
  { bps: 0, lines: 180 },
];

/** The camera's encodings, the smallest first. The browser fixes their number when the connection begins; which are sent is decided here. */
export const RIDS = ['l', 'm', 'h'];
/** Shorter sides of the picture from which libwebrtc sends so many encodings (`kSimulcastFormats`): of more it leaves out the last. */
const ENCODINGS_MIN = [
  { lines: 540, count: 3 },
  { lines: 270, count: 2 },
  { lines: 0, count: 1 },
];
/** Others in the room from which on they may need different encodings: with one other, the one that is sent is for that one. */
const OTHERS_MIN = 2;
/** Shares from which a second and a third encoding leave enough for the largest. */
const TWO_BPS_MIN = 280_000;
const THREE_BPS_MIN = 1_200_000;
/** Lines and bit rates of the encodings below the largest: enough for a tile, and for links that carry no more. */
const SMALL = [
  { lines: 180, bps: 100_000 },
  { lines: 360, bps: 350_000 },
];

/**
 * The server may say that the receivers of a small encoding have room for more than that: it is then sent at that rate, up to this part of the next one's,
 * and in the same size, because another size costs everybody a keyframe.
 */
const RAISED_MAX = 0.7;

/** How often the camera's sender is checked: at most this long after the network allows it, the video has its full size. */
const CHECK_MS = 500;
/**
 * Share of `maxBitrate` that the encoder's target must reach: then the network can carry what the room allows. libwebrtc sets
 * the target up to a fifth below its estimate, to compensate for an encoder that overshoots.
 */
const CARRIED = 0.7;
/** Below this share the network is the limit; the browser's reductions in this state may be reverted after it has recovered. */
const SHORT = 0.5;
/** If the browser reduces the video because of a change of ours, it does so within this time. */
const SETTLED_MS = 4_000;
/** On an unstable network the video is enlarged at most once in this time, because this costs a keyframe. */
const RECOVERY_MS = 10_000;

/** Duration of libwebrtc's own first probes, with a margin. */
const PROBED_MS = 1_000;
/** How often libwebrtc is made to probe again, at the start and when the share has grown. */
const PROBES_MAX = 2;
/** How long video is limited for that: longer than the 500 ms in which libwebrtc checks whether it sends less than it could. */
const PROBE_MS = 800;
/** The rate during that time: with audio still far below the first estimate of 300 kb/s, and enough for video. */
const PROBE_BPS = 50_000;

/** Keeps the senders of a transport within the limits of the room. */
export class Shaper {
  /**
   * @param {Map<SendSource, RTCRtpTransceiver>} senders
   * @param {VideoCodec[]} codecs Those of the room, the preferred first.
   */
  constructor(senders, codecs) {
    this.#senders = senders;
    this.#codecs = codecs;
  }

  #codecs;
  /** The scalability modes of this browser. */
  #modes = new Modes();

  #senders;
  /** @type {Limits | undefined} */
  #limits;
  /** @type {VideoCodec | undefined} */
  #codec;
  /** Serialises reading and writing of a sender's parameters. @type {Promise<void>} */
  #shaping = Promise.resolve();
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #checking;
  /** The last parameters of the camera, to detect changes. */
  #lastParameters = '';
  #changedAt = -Infinity;
  /** Whether a reduction of the video may have a cause that no longer exists. */
  #mayRevert = false;
  #revertedAt = -Infinity;
  /** Whether the network carried the share at the last check. */
  #isCarried = false;
  #probesLeft = 0;
  #probedAt = -Infinity;
  /** Video is limited for a probe. */
  #isProbing = false;
  /** Statistics can take longer than `CHECK_MS` on a busy machine. */
  #isChecking = false;

  /** @param {Limits} limits @param {number} others */
  limit(limits, others) {
    this.#others = others;
    // If the network did not carry the smaller share, it is useless to probe for a larger one.
    if (this.#isCarried && limits.video > (this.#limits?.video ?? 0)) this.#expectMore();
    this.#limits = limits;
  }

  /** The server says which encodings of the camera nobody receives. @type {string[]} */
  #paused = [];
  /** … and what the receivers of others have room for. @type {{ rid: string, bps: number }[]} */
  #rates = [];
  /** Others in the room. */
  #others = 0;

  /** @param {string[]} paused @param {{ rid: string, bps: number }[]} rates */
  followReceivers(paused, rates) {
    this.#paused = paused;
    this.#rates = rates;
  }

  /** Asks the browser for layers, before the offer: an encoder that begins with them need not begin again. */
  async askModes() {
    if (!this.#senders.has('camera')) return;
    await this.#modes.ask(this.#codecs);
    await this.shape('camera');
  }

  /** The codec that is sent: what the server said, or the room's first that this browser has. */
  get #sent() {
    const has = codecs('video').map(({ mimeType }) => mimeType.toLowerCase());
    return this.#codec ?? this.#codecs.find((codec) => has.includes(`video/${codec}`));
  }

  /** Sends video in another codec from now on; both are negotiated. @param {VideoCodec} codec */
  sendIn(codec) {
    this.#codec = codec;
  }

  /** Media flows, possibly over another path than before: starts checking the camera's sender. */
  start() {
    this.#expectMore();
    this.#checking ??= setInterval(() => this.#checkOnce(), CHECK_MS);
  }

  #expectMore() {
    this.#probesLeft = PROBES_MAX;
    this.#probedAt = performance.now();
  }

  stop() {
    clearInterval(this.#checking);
    this.#checking = undefined;
  }

  shapeAll() {
    for (const source of this.#senders.keys()) this.shape(source);
  }

  /** Applies the limits and the codec to a sender. @param {SendSource} source */
  shape(source) {
    return this.#serialised(() => this.#setParameters(source));
  }

  /** @param {() => Promise<void>} change */
  #serialised(change) {
    this.#shaping = this.#shaping.then(change);
    return this.#shaping;
  }

  /** @param {SendSource} source */
  async #setParameters(source) {
    const sender = this.#senders.get(source)?.sender;
    const parameters = /** @type {SendParameters | undefined} */ (sender?.getParameters());
    if (!sender || !parameters?.encodings.length) return;
    if (this.#limits) this.#limit(parameters, source, this.#limits, sender.track);
    const mimeType = `video/${this.#codec}`;
    const codec = parameters.codecs.find((known) => known.mimeType.toLowerCase() === mimeType);
    for (const encoding of parameters.encodings) {
      if (source === 'camera' && this.#isProbing) encoding.maxBitrate = PROBE_BPS;
      if (codec && source !== 'microphone') {
        const { mimeType, clockRate, sdpFmtpLine } = codec;
        encoding.codec = sdpFmtpLine === undefined ? { mimeType, clockRate } : { mimeType, clockRate, sdpFmtpLine };
      }
    }
    if (source === 'camera') {
      this.#setModes(parameters.encodings, sender.track);
      this.#noteChange(sender.track, parameters.encodings);
    }
    const hasMode = parameters.encodings.some((/** @type {Encoding} */ { scalabilityMode }) => scalabilityMode);
    await sender.setParameters(parameters).catch((error) => {
      // A sender that was stopped meanwhile needs no parameters.
      if (!hasMode || error?.name === 'InvalidStateError') return;
      this.#modes.forget();
      return this.#setParameters(source);
    });
  }

  /**
   * Temporal layers, which the server leaves out for links that carry less; and in codecs that have them, spatial layers where encodings
   * would be of use.
   * @param {Encoding[]} encodings
   * @param {MediaStreamTrack | null} track
   */
  #setModes(encodings, track) {
    const codec = this.#sent;
    const spatial = encodings.length > 1 ? 1 : useful(track, this.#limits?.video ?? 0, this.#others);
    for (const encoding of encodings) {
      const mode = codec && this.#modes.of(codec, spatial);
      if (mode) encoding.scalabilityMode = mode;
      else delete encoding.scalabilityMode;
    }
  }

  /**
   * @param {SendParameters} parameters
   * @param {SendSource} source
   * @param {Limits} limits
   * @param {MediaStreamTrack | null} track
   */
  #limit(parameters, source, limits, track) {
    if (source === 'camera' && parameters.encodings.length > 1) {
      spread(parameters.encodings, track, limits.video, this.#others, this.#paused, this.#rates);
      parameters.degradationPreference = CAMERA_PREFERENCE;
    } else {
      limit(parameters, source, limits, track);
    }
  }

  /**
   * @param {MediaStreamTrack | null} track
   * @param {Encoding[]} encodings
   */
  #noteChange(track, encodings) {
    const of = encodings.filter(({ active }) => active).map(described);
    const current = [track?.id, this.#limits?.video, ...of].join();
    if (current === this.#lastParameters) return;
    this.#lastParameters = current;
    this.#mayRevert = true;
    this.#changedAt = performance.now();
  }

  async #checkOnce() {
    if (this.#isChecking) return;
    this.#isChecking = true;
    // A connection that was closed meanwhile has no statistics.
    await this.#check().catch(() => {});
    this.#isChecking = false;
  }

  /** Checks whether the network carries what the room allows, and whether the browser still reduces the video. */
  async #check() {
    const sender = this.#senders.get('camera')?.sender;
    const share = this.#limits?.video;
    if (!sender?.track || !share || this.#isProbing) return;
    const active = sender.getParameters().encodings.filter(({ active }) => active);
    const isActive = (/** @type {any} */ { type, rid }) =>
      type === 'outbound-rtp' && (rid === undefined || active.some((encoding) => encoding.rid === rid));
    const stats = [...(await sender.getStats()).values()].filter(isActive);
    const targetBitrate = stats.reduce((sum, of) => sum + (of.targetBitrate ?? 0), 0);
    const reasons = stats.map((of) => of.qualityLimitationReason);
    const qualityLimitationReason = reasons.find((reason) => reason !== 'none') ?? 'none';
    // What the room allows, less what encodings that nobody receives would have.
    const max = Math.min(share, active.reduce((sum, { maxBitrate = share }) => sum + maxBitrate, 0));
    if (!targetBitrate) return;
    const now = performance.now();
    this.#isCarried = targetBitrate >= CARRIED * max;
    if (!this.#isCarried) {
      if (targetBitrate < SHORT * max && now - this.#revertedAt > RECOVERY_MS) this.#mayRevert = true;
      if (this.#probesLeft && now - this.#probedAt > PROBED_MS) await this.#probe();
    } else if (this.#mayRevert && qualityLimitationReason === 'bandwidth') {
      await this.#serialised(() => this.#revertReductions(sender));
    } else if (now - this.#changedAt > SETTLED_MS && qualityLimitationReason !== 'cpu') {
      this.#mayRevert = false;
    }
  }

  /**
   * Makes libwebrtc probe the network again. It probes when a connection begins, but probably drops these probes if the machine is too
   * busy to send them in time; its estimate then grows from 300 kb/s by 8 % per second. It also probes
   * when `maxBitrate` rises while it sends much less than its estimate, so video is limited for a moment.
   */
  async #probe() {
    this.#probesLeft -= 1;
    this.#isProbing = true;
    await this.shape('camera');
    await new Promise((resolve) => setTimeout(resolve, PROBE_MS));
    this.#isProbing = false;
    await this.shape('camera');
    this.#probedAt = performance.now();
  }

  /**
   * Makes the browser revert its reductions. libwebrtc reduces video that is too large for the current bit rate: at
   * the start, at 300 kb/s, and when the size that we request changes. It reverts this in up to six steps of 2 s or
   * more, because each step waits for the quantisers of 60 frames. But it discards all reductions at once when `degradationPreference`
   * changes to or from `balanced`. This is done once per change, as soon as the network carries the share. A
   * reduction after that is caused by the content of the video.
   * @param {RTCRtpSender} sender
   */
  async #revertReductions(sender) {
    this.#mayRevert = false;
    this.#revertedAt = performance.now();
    for (const preference of /** @type {const} */ (['balanced', CAMERA_PREFERENCE])) {
      const parameters = sender.getParameters();
      parameters.degradationPreference = preference;
      await sender.setParameters(parameters).catch(() => {});
    }
  }
}

/** If bit rate or processor are not sufficient, the size is reduced and not the frame rate. */
const CAMERA_PREFERENCE = 'maintain-framerate';

/**
 * Types of WebRTC Extensions: TypeScript does not have the codec of an encoding yet.
 * @typedef {{ mimeType: string, clockRate: number, sdpFmtpLine?: string }} EncodingCodec
 * @typedef {RTCRtpEncodingParameters & { codec?: EncodingCodec, scalabilityMode?: string }} Encoding
 * @typedef {RTCRtpSendParameters & { encodings: Encoding[] }} SendParameters
 */

/**
 * @param {SendParameters} parameters
 * @param {SendSource} source
 * @param {Limits} limits
 * @param {MediaStreamTrack | null} track
 */
function limit(parameters, source, limits, track) {
  const encoding = parameters.encodings[0];
  if (!encoding) return;
  encoding.maxBitrate = source === 'microphone' ? limits.audio : limits.video;
  if (source === 'camera') {
    encoding.scaleResolutionDownBy = downscale(track, limits.video);
    parameters.degradationPreference = CAMERA_PREFERENCE;
  } else if (source === 'screen') {
    encoding.maxFramerate = 15;
    parameters.degradationPreference = 'maintain-resolution';
  }
}

/** What matters to the browser's adaptation. @param {Encoding} encoding */
function described({ rid, scaleResolutionDownBy, codec, scalabilityMode }) {
  return [rid, scaleResolutionDownBy, codec?.mimeType, scalabilityMode].join();
}

/**
 * How many encodings of a camera, or spatial layers, the room can make use of.
 * @param {MediaStreamTrack | null} track
 * @param {number} bps
 * @param {number} others
 */
function useful(track, bps, others) {
  if (others < OTHERS_MIN || bps < TWO_BPS_MIN) return 1;
  return Math.min(possible(track), bps >= THREE_BPS_MIN ? 3 : 2);
}

/** How many of them libwebrtc sends of a picture of this size. @param {MediaStreamTrack | null} track */
function possible(track) {
  return ENCODINGS_MIN.find((step) => linesOf(track) >= step.lines)?.count ?? 1;
}

/** Shorter side of the picture. @param {MediaStreamTrack | null} track */
function linesOf(track) {
  const { width, height } = track?.getSettings() ?? {};
  return width && height ? Math.min(width, height) : 720;
}

/**
 * Which encodings of a camera are sent, in which size, and at most at which rate: what everybody sends and receives stays within the shares. Encodings that
 * nobody receives are paused, but for the smallest of several, from which a receiver can go on when its link becomes narrow.
 * @param {Encoding[]} encodings The smallest first.
 * @param {MediaStreamTrack | null} track
 * @param {number} bps
 * @param {number} others
 * @param {string[]} paused
 * @param {{ rid: string, bps: number }[]} rates
 */
function spread(encodings, track, bps, others, paused, rates) {
  const lines = linesOf(track);
  const top = Math.min(possible(track), encodings.length) - 1;
  /** @type {number[]} */
  let used = [top];
  const count = useful(track, bps, others);
  if (count > 1 && top > 0) {
    used = count > 2 && top > 1 ? [0, 1, top] : [0, top];
    used = used.filter((at, n) => n === 0 || !paused.includes(encodings[at]?.rid ?? ''));
  }
  // A share is for everybody in the room: each receives one encoding, and only this client sends the small ones beside it.
  const restOf = (/** @type {(at: number) => number} */ rateOf) =>
    bps - used.filter((at) => at < top).reduce((sum, at) => sum + rateOf(at), 0) / (others + 1);
  const own = (/** @type {number} */ at) => SMALL[at]?.bps ?? 0;
  const raised = (/** @type {number} */ at) => {
    const told = rates.find(({ rid }) => rid === encodings[at]?.rid)?.bps ?? 0;
    const next = top > 1 && at === 0 && bps >= THREE_BPS_MIN ? own(1) : restOf(own);
    return Math.max(own(at), Math.min(told, RAISED_MAX * next));
  };
  encodings.forEach((encoding, at) => {
    const step = at < top ? SMALL[at] : undefined;
    encoding.active = used.includes(at);
    encoding.maxBitrate = step ? raised(at) : restOf(raised);
    // The size does not follow the rates of others' links.
    encoding.scaleResolutionDownBy = step ? Math.max(1, lines / step.lines) : downscale(track, restOf(own));
  });
}

/**
 * The scale factor of a camera's video: small and clear is better than large and blocky.
 * @param {MediaStreamTrack | null} track
 * @param {number} bps
 */
function downscale(track, bps) {
  const { width, height } = track?.getSettings() ?? {};
  const target = LINES.find((step) => bps >= step.bps)?.lines ?? 180;
  return width && height ? Math.max(1, Math.min(width, height) / target) : 1;
}
