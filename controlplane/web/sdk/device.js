// @ts-check
/** A microphone, a camera or a screen of this client: opening, switching, closing. */

import { asUprtcError, UprtcError } from './error.js';

/** @import { SendSource } from './uprtc.js' */

/** Default constraints of a device. */
const DEFAULTS = {
  microphone: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
  camera: { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30, max: 30 } },
  screen: { frameRate: { ideal: 15, max: 30 } },
};

/** One media source. Switch operations run one after the other, however fast the person clicks. */
export class Device {
  /** @param {SendSource} source */
  constructor(source) {
    this.source = source;
    /** @type {MediaStreamTrack | null} */
    this.track = null;
    /** Whether it sends media. */
    this.isActive = false;
    /** The device ended by itself. */
    this.onlost = () => {};
  }

  #isOurs = false;
  /** @type {Promise<unknown>} */
  #queue = Promise.resolve();
  /** @type {MediaTrackConstraints} The last choice: switching on again uses the same device. */
  #chosen = {};
  /** @type {MediaStreamTrack | undefined} The application's own track, if it gave one. */
  #given;
  #onEnded = () => this.onlost();

  /**
   * @param {boolean} on
   * @param {boolean | MediaTrackConstraints | MediaStreamTrack} [choice]
   */
  switch(on, choice) {
    const turn = this.#queue.then(() => (on ? this.#on(choice) : this.#off(choice)));
    this.#queue = turn.catch(() => {});
    return turn;
  }

  /** @param {boolean | MediaTrackConstraints | MediaStreamTrack} [choice] */
  async #on(choice) {
    if (choice instanceof MediaStreamTrack) {
      this.#given = choice;
      const { deviceId } = choice.getSettings();
      if (deviceId) this.#chosen = { deviceId };
      if (choice !== this.track) this.#take(choice, false);
    } else if (typeof choice === 'object') {
      await this.#change(choice);
    } else if (!this.track) {
      if (this.#given?.readyState === 'live') this.#take(this.#given, false);
      else this.#take(await open(this.source, this.#chosen), true);
    }
    if (this.track) this.track.enabled = true;
    this.isActive = true;
  }

  /**
   * Changes to another device. If that cannot be opened, the former one stays in use.
   * @param {MediaTrackConstraints} choice
   */
  async #change(choice) {
    const [former, wasActive] = [this.#chosen, this.isActive];
    // Many phones can open only one camera at a time.
    const mustClose = this.source === 'camera' && this.#isOurs && this.track !== null;
    if (mustClose) this.#release();
    try {
      const track = await open(this.source, choice);
      track.enabled = wasActive || this.source !== 'microphone';
      this.#take(track, true);
      [this.#given, this.#chosen] = [undefined, choice];
    } catch (error) {
      if (wasActive && this.track?.readyState !== 'live') {
        this.#release();
        const track = await open(this.source, former).catch(() => undefined);
        if (track) this.#take(track, true);
        this.isActive = !!track;
      }
      throw error;
    }
  }

  /** The device that is in use, or that will be used when it is switched on. */
  get deviceId() {
    const { deviceId } = this.track?.getSettings() ?? {};
    const chosen = this.#chosen.deviceId;
    if (deviceId) return deviceId;
    if (typeof chosen === 'string') return chosen;
    return chosen && 'exact' in chosen && typeof chosen.exact === 'string' ? chosen.exact : undefined;
  }

  /** Uses a track that {@link openDevices} opened for this device. @param {MediaStreamTrack} track */
  adopt(track) {
    const { deviceId } = track.getSettings();
    if (deviceId) this.#chosen = { deviceId };
    this.#take(track, true);
    this.isActive = true;
  }

  /** @param {boolean | MediaTrackConstraints | MediaStreamTrack} [choice] For when it is switched on again. */
  async #off(choice) {
    this.isActive = false;
    const isMute = this.source === 'microphone' && this.track?.readyState === 'live';
    if (isMute && this.track) this.track.enabled = false;
    else this.#release();
    if (choice instanceof MediaStreamTrack) {
      this.#given = choice;
      if (isMute && choice !== this.track) this.#release();
    } else if (typeof choice === 'object') {
      // A muted microphone stays open, so that unmuting is immediate. From now on this is the chosen one.
      if (isMute) await this.#change(choice);
      else [this.#given, this.#chosen] = [undefined, choice];
    }
  }

  /**
   * @param {MediaStreamTrack} track
   * @param {boolean} isOurs
   */
  #take(track, isOurs) {
    this.#release();
    this.track = track;
    this.#isOurs = isOurs;
    track.addEventListener('ended', this.#onEnded);
    // A shared screen is read: sharp at a low frame rate is better than fluent and blurred.
    if (this.source === 'screen') track.contentHint = 'detail';
  }

  #release() {
    this.isActive = false;
    this.track?.removeEventListener('ended', this.#onEnded);
    if (this.#isOurs) this.track?.stop();
    this.track = null;
  }

  close() {
    this.#release();
  }
}

/**
 * Opens microphone and camera with one permission prompt, for a preview before joining. A device that cannot be opened is
 * missing in the result, and `errors` has the reason.
 * @param {{ microphone?: boolean | MediaTrackConstraints, camera?: boolean | MediaTrackConstraints }} wanted
 * @returns {Promise<{ microphone?: MediaStreamTrack, camera?: MediaStreamTrack, errors: UprtcError[] }>}
 */
export async function openDevices({ microphone, camera }) {
  /** @type {{ microphone?: MediaStreamTrack, camera?: MediaStreamTrack, errors: UprtcError[] }} */
  const opened = { errors: [] };
  if (microphone && camera && navigator.mediaDevices) {
    const audio = { ...DEFAULTS.microphone, ...(typeof microphone === 'object' && microphone) };
    const video = { ...DEFAULTS.camera, ...(typeof camera === 'object' && camera) };
    const stream = await navigator.mediaDevices.getUserMedia({ audio, video }).catch(() => undefined);
    if (stream) return { microphone: stream.getAudioTracks()[0], camera: stream.getVideoTracks()[0], errors: [] };
  }
  // One of the two failed: request each alone, and report which.
  const wishes = { microphone, camera };
  for (const source of /** @type {const} */ (['microphone', 'camera'])) {
    const wish = wishes[source];
    if (!wish) continue;
    try {
      opened[source] = await open(source, typeof wish === 'object' ? wish : {});
    } catch (error) {
      opened.errors.push(asUprtcError(error));
    }
  }
  return opened;
}

/**
 * @param {SendSource} source
 * @param {MediaTrackConstraints} chosen
 * @returns {Promise<MediaStreamTrack>}
 */
async function open(source, chosen) {
  const { mediaDevices } = navigator;
  if (!mediaDevices) throw new UprtcError('insecure_context');
  const wish = { ...DEFAULTS[source], ...chosen };
  try {
    const stream = await (source === 'microphone'
      ? mediaDevices.getUserMedia({ audio: wish })
      : source === 'camera'
        ? mediaDevices.getUserMedia({ video: wish })
        : mediaDevices.getDisplayMedia({ video: wish }));
    const track = stream.getTracks()[0];
    if (track) return track;
    throw new DOMException('the stream is empty', 'NotFoundError');
  } catch (error) {
    throw deviceError(source, error);
  }
}

/**
 * Translates the exceptions of `getUserMedia` and `getDisplayMedia`.
 * @param {SendSource} source
 * @param {unknown} error
 */
function deviceError(source, error) {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  const ends = /** @type {Record<string, string>} */ ({
    NotAllowedError: 'denied',
    SecurityError: 'denied',
    NotFoundError: 'missing',
    OverconstrainedError: 'missing',
    TypeError: 'missing',
  });
  return new UprtcError(`${source}_${ends[name] ?? 'busy'}`, `${name}: ${message}`, { cause: error });
}
