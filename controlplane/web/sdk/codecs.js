// @ts-check
/** Which codecs an offer has, in which order, and with which parameters. */

/** @import { AudioOptions } from './uprtc.js' */

/** @param {'audio' | 'video'} kind */
export function codecs(kind) {
  return RTCRtpReceiver.getCapabilities?.(kind)?.codecs ?? [];
}

/**
 * Opus and the one or two video codecs of the room: an offer of all codecs would be several times as long. The
 * H.264 profiles that every browser and phone can decode come first. Redundancy of video (RED, ULPFEC) is omitted: forwarded
 * packets are repaired by retransmission. That of audio comes last: it is used while much is lost.
 * @param {'audio' | 'video'} kind
 * @param {string[]} used MIME types of the room's codecs, the preferred first.
 */
export function preferred(kind, used) {
  const all = codecs(kind).filter(({ mimeType }) => !/\/(red|ulpfec|flexfec-03|CN|telephone-event)$/i.test(mimeType));
  const rankOf = (/** @type {RTCRtpCodec} */ { mimeType }) => used.indexOf(mimeType.toLowerCase());
  const wanted = all.filter((codec) => rankOf(codec) >= 0);
  // A browser that supports none of them offers what it has, and the server decides.
  if (!wanted.length) return all;
  const orderOf = (/** @type {RTCRtpCodec} */ codec) =>
    rankOf(codec) * 10 + (codec.mimeType === 'video/H264' ? rank(codec.sdpFmtpLine) : 0);
  wanted.sort((a, b) => orderOf(a) - orderOf(b));
  const red = kind === 'audio' ? codecs('audio').filter(({ mimeType }) => /\/red$/i.test(mimeType)) : [];
  return [...wanted, ...all.filter(({ mimeType }) => /\/rtx$/.test(mimeType)), ...red];
}

/** Constrained baseline first, single NAL unit mode last. @param {string} [fmtp] */
function rank(fmtp = '') {
  const profile = /profile-level-id=(42e0|4200|4d00)/i.exec(fmtp)?.[1]?.toLowerCase() ?? '';
  const order = ['42e0', '4200', '4d00'].indexOf(profile);
  return (order < 0 ? 3 : order) + (/packetization-mode=1/.test(fmtp) ? 0 : 4);
}

/**
 * Adds the application's Opus settings to the offer (RFC 7587 §6.1). Browsers have no other interface for this.
 * @param {string} sdp
 * @param {AudioOptions} audio
 */
export function declareOpus(sdp, { stereo, bps }) {
  const wishes = [...(stereo ? ['stereo=1', 'sprop-stereo=1'] : []), ...(bps ? [`maxaveragebitrate=${Math.round(bps)}`] : [])];
  if (!wishes.length) return sdp;
  const types = [...sdp.matchAll(/^a=rtpmap:(\d+) opus\/48000\/2/gim)].map(([, type]) => type);
  return sdp.replace(/^a=fmtp:(\d+) ([^\r\n]*)/gm, (line, type, parameters) => {
    const present = parameters.split(';');
    return types.includes(type) ? [line, ...wishes.filter((wish) => !present.includes(wish))].join(';') : line;
  });
}

/**
 * An answer with RED (RFC 2198) as the first codec of an m-section, so that it is sent; or as the last one.
 * @param {string} sdp
 * @param {string | undefined} mid
 * @param {boolean} isFirst
 */
export function preferRed(sdp, mid, isFirst) {
  const sections = sdp.split(/^(?=m=)/m);
  const changed = sections.map((section) => {
    const red = /^a=rtpmap:(\d+) red\/48000/im.exec(section)?.[1];
    if (!red || !section.includes(`\r\na=mid:${mid}\r\n`)) return section;
    return section.replace(/^m=(\S+ \S+ \S+) ([\d ]+)/, (_line, start, types) => {
      const others = types.split(' ').filter((/** @type {string} */ type) => type !== red);
      return `m=${start} ${(isFirst ? [red, ...others] : [...others, red]).join(' ')}`;
    });
  });
  return changed.join('');
}
