// @ts-check
/** How a message is written: as a frame of a data channel, and as signals of the socket (docs/PROTOCOL.md). */

/**
 * @typedef {{ type: 'data', label?: string, to?: string[], reliable?: boolean, id?: number, text?: string, binary?: string, more?: boolean }} DataSignal
 */
/** @typedef {string | Uint8Array<ArrayBuffer>} Body */

/** Bytes of a message, and of what a data channel carries at once. */
export const MESSAGE_BYTES_MAX = 262_144;
/** Bytes of text (as JSON) or base64 in one part of a message on the socket. */
const PART_BYTES_MAX = 49_152;

const encoder = new TextEncoder();
// A message may begin with what is a byte order mark elsewhere.
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** @param {string} text */
export const bytesOf = (text) => encoder.encode(text);

/** Half characters, which cannot be sent, become U+FFFD. @param {string} text */
export const wellFormed = (text) => decoder.decode(encoder.encode(text));

/**
 * A message as a data channel carries it.
 * @param {DataSignal} header
 * @param {Body} body
 * @returns {string | Uint8Array<ArrayBuffer> | undefined} Nothing if it is too large for that.
 */
export function frameOf(header, body) {
  if (typeof body === 'string') {
    const text = JSON.stringify({ ...header, text: body });
    const fits = text.length * 3 <= MESSAGE_BYTES_MAX || bytesOf(text).length <= MESSAGE_BYTES_MAX;
    return fits ? text : undefined;
  }
  const head = bytesOf(JSON.stringify(header));
  const frame = new Uint8Array(2 + head.length + body.length);
  if (frame.length > MESSAGE_BYTES_MAX) return undefined;
  new DataView(frame.buffer).setUint16(0, head.length);
  frame.set(head, 2);
  frame.set(body, 2 + head.length);
  return frame;
}

/**
 * Reads a binary frame.
 * @param {ArrayBuffer} frame
 * @returns {{ header: any, payload: ArrayBuffer }}
 */
export function readFrame(frame) {
  const from = 2 + new DataView(frame).getUint16(0);
  return { header: JSON.parse(decoder.decode(new Uint8Array(frame, 2, from - 2))), payload: frame.slice(from) };
}

/**
 * A message as signals for the socket: one, or several parts.
 * @param {DataSignal} header
 * @param {Body} body
 * @returns {DataSignal[]}
 */
export function signalsOf(header, body) {
  const parts = typeof body === 'string' ? cutText(body).map((text) => ({ text })) : cutBytes(body).map((binary) => ({ binary }));
  return parts.map((part, n) => ({ ...header, ...part, ...(n + 1 < parts.length && { more: true }) }));
}

/** Between characters, by the length that each has in JSON. @param {string} text */
function cutText(text) {
  // The usual one: even if each character were escaped.
  if (text.length * 6 <= PART_BYTES_MAX) return [text];
  const bytes = bytesOf(text);
  const parts = [];
  let [begin, boundary, length] = [0, 0, 0];
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at] ?? 0;
    if ((byte & 0xc0) !== 0x80) boundary = at;
    length += byte < 0x20 ? 6 : byte === 0x22 || byte === 0x5c ? 2 : 1;
    if (length <= PART_BYTES_MAX) continue;
    parts.push(decoder.decode(bytes.subarray(begin, boundary)));
    begin = boundary;
    at = boundary - 1;
    length = 0;
  }
  parts.push(decoder.decode(bytes.subarray(begin)));
  return parts;
}

/** In base64, each part by itself. @param {Uint8Array<ArrayBuffer>} bytes */
function cutBytes(bytes) {
  const step = (PART_BYTES_MAX / 4) * 3;
  const parts = [];
  for (let at = 0; at === 0 || at < bytes.length; at += step) parts.push(base64(bytes.subarray(at, at + step)));
  return parts;
}

/** @param {Uint8Array<ArrayBuffer>} bytes */
function base64(bytes) {
  let text = '';
  // An argument list has a limit.
  for (let at = 0; at < bytes.length; at += 8_192) text += String.fromCharCode(...bytes.subarray(at, at + 8_192));
  return btoa(text);
}

/** @param {string} text In base64. */
const bytesOfBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/**
 * The message of all its parts.
 * @param {{ text?: string, binary?: string }[]} parts
 * @returns {string | ArrayBuffer}
 */
export function bodyOf(parts) {
  if (parts[0]?.binary === undefined) return parts.map(({ text = '' }) => text).join('');
  const pieces = parts.map(({ binary = '' }) => bytesOfBase64(binary));
  const whole = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole.buffer;
}
