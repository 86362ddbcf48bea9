// @ts-check
/** How large, how fast and in which codec our senders send: the room's limits, and what the browser makes of them. */

/** @import { VideoCodec } from './socket.js' */
/** @import { Limits, SendSource } from './uprtc.js' */

/** A camera's lines (its shorter side) that the bit rate can fill with H.264, from the best down. */
const LINES = [
  { bps: 700_000, lines: 720 },
  { bps: 400_000, lines: 540 },
  { bps: 180_000, lines: 360 },
  { bps: 0, lines: 180 },
];

/** How often the camera's sender is looked at: its picture is whole at most so long after the network allows it. */
const LOOK_MS = 500;
/**
 * The encoder's target, as a share of `maxBitrate`, from which on the network carries what the room allows. libwebrtc sets
 * the target up to a fifth below what it has, to make up for an encoder that overshoots.
 */
const CARRIED = 0.7;
/** Below this share the network has become the limit; what the browser adapts then may be undone when it has recovered. */
const SHORT = 0.5;
/** After a change of ours, the browser has reduced the picture by then if it does so because of that change. */
const SETTLED_MS = 4_000;
/** A network that comes and goes has the picture enlarged once in this time: it costs a keyframe. */
const RECOVERY_MS = 10_000;

/** What libwebrtc's own first probes take, with room. */
const PROBED_MS = 1_000;
/** How often it is made to probe again, at the start and when the share has grown. */
const PROBES_MAX = 2;
/** How long video is held back for that: longer than the 500 ms over which libwebrtc judges whether less is sent than could be. */
const QUIET_MS = 800;
/** And to what: with a voice much less than the 300 kb/s of the first estimate, and still a picture. */
const QUIET_BPS = 50_000;

/** Keeps the senders of a transport within the limits of the room. */
export class Shaper {
  /** @param {Map<SendSource, RTCRtpTransceiver>} senders */
  constructor(senders) {
    this.#senders = senders;
  }

  #senders;
  /** @type {Limits | undefined} */
  #limits;
  /** @type {VideoCodec | undefined} */
  #codec;
  /** A sender's parameters are read and written by one at a time. @type {Promise<void>} */
  #shaping = Promise.resolve();
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #looking;
  /** What was last wished for the camera, to see what is a change. */
  #wish = '';
  #changedAt = -Infinity;
  /** Whether the picture, if it is reduced, is so for a reason that may have gone. */
  #isFresh = false;
  #freedAt = -Infinity;
  /** Whether the network carried the share when the sender was last looked at. */
  #isCarried = false;
  #probesLeft = 0;
  #probedAt = -Infinity;
  /** Video is held back. */
  #isQuiet = false;
  /** Statistics can take longer than `LOOK_MS` on a busy machine. */
  #isLooking = false;

  /** @param {Limits} limits */
  limit(limits) {
    // Where the network has not carried the smaller share, there is no reason to look for a larger one.
    if (this.#isCarried && limits.video > (this.#limits?.video ?? 0)) this.#expectMore();
    this.#limits = limits;
  }

  /** Video goes out in another codec from now on; both are negotiated. @param {VideoCodec} codec */
  sendIn(codec) {
    this.#codec = codec;
  }

  /** Media flows, perhaps by another way than before: the camera's picture is looked after from now on. */
  start() {
    this.#expectMore();
    this.#looking ??= setInterval(() => this.#lookOnce(), LOOK_MS);
  }

  #expectMore() {
    this.#probesLeft = PROBES_MAX;
    this.#probedAt = performance.now();
  }

  stop() {
    clearInterval(this.#looking);
    this.#looking = undefined;
  }

  shapeAll() {
    for (const source of this.#senders.keys()) this.shape(source);
  }

  /** Makes a sender obey the limits and the codec. @param {SendSource} source */
  shape(source) {
    return this.#inTurn(() => this.#setParameters(source));
  }

  /** @param {() => Promise<void>} change */
  #inTurn(change) {
    this.#shaping = this.#shaping.then(change);
    return this.#shaping;
  }

  /** @param {SendSource} source */
  async #setParameters(source) {
    const sender = this.#senders.get(source)?.sender;
    const parameters = /** @type {SendParameters | undefined} */ (sender?.getParameters());
    const encoding = parameters?.encodings[0];
    if (!sender || !parameters || !encoding) return;
    if (this.#limits) limit(parameters, source, this.#limits, sender.track);
    if (source === 'camera' && this.#isQuiet) encoding.maxBitrate = QUIET_BPS;
    const mimeType = `video/${this.#codec}`;
    const codec = parameters.codecs.find((known) => known.mimeType.toLowerCase() === mimeType);
    if (codec && source !== 'microphone') {
      const { mimeType, clockRate, sdpFmtpLine } = codec;
      encoding.codec = sdpFmtpLine === undefined ? { mimeType, clockRate } : { mimeType, clockRate, sdpFmtpLine };
    }
    if (source === 'camera') this.#note(sender.track, encoding);
    // A sender that has ended meanwhile needs nothing any more.
    await sender.setParameters(parameters).catch(() => {});
  }

  /**
   * @param {MediaStreamTrack | null} track
   * @param {Encoding} encoding
   */
  #note(track, { scaleResolutionDownBy, codec }) {
    const wish = [track?.id, this.#limits?.video, scaleResolutionDownBy, codec?.mimeType].join();
    if (wish === this.#wish) return;
    this.#wish = wish;
    this.#isFresh = true;
    this.#changedAt = performance.now();
  }

  async #lookOnce() {
    if (this.#isLooking) return;
    this.#isLooking = true;
    // Of a connection that is closed meanwhile there is nothing to see.
    await this.#look().catch(() => {});
    this.#isLooking = false;
  }

  /** Whether the network carries what the room allows, and what the browser makes of it. */
  async #look() {
    const sender = this.#senders.get('camera')?.sender;
    const max = this.#limits?.video;
    if (!sender?.track || !max) return;
    const stats = [...(await sender.getStats()).values()].find(({ type }) => type === 'outbound-rtp');
    const { targetBitrate, qualityLimitationReason } = stats ?? {};
    if (!targetBitrate) return;
    const now = performance.now();
    this.#isCarried = targetBitrate >= CARRIED * max;
    if (!this.#isCarried) {
      if (targetBitrate < SHORT * max && now - this.#freedAt > RECOVERY_MS) this.#isFresh = true;
      if (this.#probesLeft && now - this.#probedAt > PROBED_MS) await this.#probe();
    } else if (this.#isFresh && qualityLimitationReason === 'bandwidth') {
      await this.#inTurn(() => this.#free(sender));
    } else if (now - this.#changedAt > SETTLED_MS && qualityLimitationReason !== 'cpu') {
      this.#isFresh = false;
    }
  }

  /**
   * Makes libwebrtc probe the network again. It does so when a connection begins, but probably drops these probes if the machine is too
   * busy to send them in time, as it may be just then; its estimate of 300 kb/s then grows by 8 % a second. It also probes
   * when `maxBitrate` rises while much less is sent than the estimate, so video is held back for a moment.
   */
  async #probe() {
    this.#probesLeft -= 1;
    this.#isQuiet = true;
    await this.shape('camera');
    await new Promise((resolve) => setTimeout(resolve, QUIET_MS));
    this.#isQuiet = false;
    await this.shape('camera');
    this.#probedAt = performance.now();
  }

  /**
   * Makes the browser drop its reductions. libwebrtc reduces a picture that is too large for the bit rate of the moment: at
   * the start, where that is 300 kb/s, and when the size that we ask for changes. It goes back in up to six steps of 2 s and
   * more, because each waits for the quantisers of 60 frames. But it drops all reductions at once when `degradationPreference`
   * changes to or from `balanced`. This is done once for each change, as soon as the network carries the share; what is
   * reduced after that is reduced because of the picture itself.
   * @param {RTCRtpSender} sender
   */
  async #free(sender) {
    this.#isFresh = false;
    this.#freedAt = performance.now();
    for (const preference of /** @type {const} */ (['balanced', CAMERA_PREFERENCE])) {
      const parameters = sender.getParameters();
      parameters.degradationPreference = preference;
      await sender.setParameters(parameters).catch(() => {});
    }
  }
}

/** Where the bit rate or the processor cannot bear both, a face is smaller, not jerky. */
const CAMERA_PREFERENCE = 'maintain-framerate';

/**
 * As the WebRTC Extensions have them: TypeScript does not know the codec of an encoding yet.
 * @typedef {{ mimeType: string, clockRate: number, sdpFmtpLine?: string }} EncodingCodec
 * @typedef {RTCRtpEncodingParameters & { codec?: EncodingCodec }} Encoding
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

/**
 * How far to shrink a camera's picture, so that it is rather small and clear than large and blocky.
 * @param {MediaStreamTrack | null} track
 * @param {number} bps
 */
function downscale(track, bps) {
  const { width, height } = track?.getSettings() ?? {};
  const target = LINES.find((step) => bps >= step.bps)?.lines ?? 180;
  return width && height ? Math.max(1, Math.min(width, height) / target) : 1;
}
