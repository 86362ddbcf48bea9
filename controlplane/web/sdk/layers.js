// @ts-check
/** Layers of our video (WebRTC SVC): which scalability modes are of use, which of them this browser has, and how receivers learn the layers. */

/** @import { VideoCodec } from './socket.js' */

/** Without a dependency descriptor nobody knows the layers of H.264 and AV1 (AV1 RTP payload format, Annex A). */
const DESCRIPTOR = 'https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension';

/** What a sender says of the encodings and layers that it sends now, and at which rates: the server need not find out. */
const ALLOCATION = 'http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00';

/** Modes by the number of spatial layers that are of use, the preferred first. Layers of VP8 and H.264 are temporal ones. */
const MODES = [['L1T3', 'L1T2'], ['L2T3_KEY', 'L1T3'], ['L3T3_KEY', 'L2T3_KEY', 'L1T3']];
/** @type {Record<VideoCodec, number>} How many spatial layers there can be. */
const SPATIAL_MAX = { h264: 1, vp8: 1, vp9: 3, av1: 3 };

/** What is asked about: a camera's video as it is in most rooms. */
const VIDEO = { width: 1280, height: 720, bitrate: 1_000_000, framerate: 30 };

/** The scalability modes of this browser. */
export class Modes {
  /** Codec and mode. @type {Set<string>} */
  #supported = new Set();

  /**
   * Asks the browser, which refuses modes that it does not know. A mode that takes an encoder in hardware away is not used.
   * @param {VideoCodec[]} codecs
   */
  async ask(codecs) {
    const modes = [...new Set(MODES.flat())];
    await Promise.all(codecs.map(async (codec) => {
      const whole = await info(codec);
      await Promise.all(modes.map(async (mode) => {
        const with_ = await info(codec, mode);
        if (with_?.supported && (with_.powerEfficient || !whole?.powerEfficient)) this.#supported.add(`${codec} ${mode}`);
      }));
    }));
  }

  /** The browser has refused them after all. */
  forget() {
    this.#supported.clear();
  }

  /**
   * The mode for a codec where so many spatial layers are of use; none if the browser has no such mode.
   * @param {VideoCodec} codec
   * @param {number} spatial
   */
  of(codec, spatial) {
    const modes = MODES[Math.min(spatial, SPATIAL_MAX[codec] ?? 1) - 1] ?? [];
    return modes.find((mode) => this.#supported.has(`${codec} ${mode}`));
  }
}

/**
 * @param {VideoCodec} codec
 * @param {string} [scalabilityMode]
 */
async function info(codec, scalabilityMode) {
  const video = { contentType: `video/${codec.toUpperCase()}`, ...VIDEO, ...(scalabilityMode && { scalabilityMode }) };
  // A browser that knows no scalability modes, or not this one, rejects the question.
  return navigator.mediaCapabilities?.encodingInfo({ type: 'webrtc', video }).catch(() => undefined);
}

/**
 * Offers the extensions that say of layers what the server and receivers need, where the browser has them and does not offer them by itself (WebRTC
 * Extensions §5).
 * @param {RTCRtpTransceiver & HeaderExtensionControl} transceiver
 */
export function offerLayers(transceiver) {
  const uris = transceiver.direction === 'sendonly' ? [DESCRIPTOR, ALLOCATION] : [DESCRIPTOR];
  const offered = transceiver.getHeaderExtensionsToNegotiate?.();
  const wanted = offered?.map((one) => (uris.includes(one.uri) ? { ...one, direction: 'sendrecv' } : one));
  if (wanted) transceiver.setHeaderExtensionsToNegotiate?.(wanted);
}

/**
 * TypeScript does not have it yet.
 * @typedef {{ uri: string, direction: string }} HeaderExtension
 * @typedef {object} HeaderExtensionControl
 * @property {() => HeaderExtension[]} [getHeaderExtensionsToNegotiate]
 * @property {(extensions: HeaderExtension[]) => void} [setHeaderExtensionsToNegotiate]
 */
