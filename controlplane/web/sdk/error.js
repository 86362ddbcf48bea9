// @ts-check
/** Errors of the client module: a stable code for programs, a sentence for people. */

/** What can go wrong, in a sentence for the person at the screen. Codes of the server have the same names. */
const SENTENCES = /** @type {Record<string, string>} */ ({
  unsupported_browser: 'This browser has no WebRTC.',
  insecure_context: 'Camera and microphone need https (or localhost).',
  microphone_denied: 'The browser does not allow the microphone.',
  camera_denied: 'The browser does not allow the camera.',
  screen_denied: 'The screen was not shared.',
  microphone_missing: 'No microphone was found.',
  camera_missing: 'No camera was found.',
  screen_missing: 'This browser cannot share the screen.',
  microphone_busy: 'The microphone is used by another program.',
  camera_busy: 'The camera is used by another program.',
  screen_busy: 'The screen cannot be captured.',
  microphone_lost: 'The microphone was unplugged or switched off.',
  camera_lost: 'The camera was unplugged or switched off.',
  codec_missing: 'This browser has none of the video codecs of this room: you can hear and be heard, but there is no video.',
  media_failed: 'No media can be exchanged with the server; a firewall may block UDP.',
  unreachable: 'The server does not answer.',
  token_missing: 'This link has no token in it.',
  token_expired: 'This link has expired.',
  token_immature: 'This link is not valid yet.',
  token_unavailable: 'No permission could be had to stay in this room.',
  token_refused: 'The new permission for this room was refused.',
  origin: 'This server does not serve pages of this address.',
  wrong_room: 'This link is for another room.',
  room_name: 'There is no room of this name.',
  room_full: 'The room is full.',
  room_locked: 'The room is locked: nobody else may come in.',
  server_full: 'The server is full.',
  engine_busy: 'The server is too busy to answer.',
  too_much: 'This browser asked the server for too much at once.',
  no_dataplane: 'The server cannot carry media right now.',
  unsupported_offer: 'The server can do nothing with what this browser offers.',
  forbidden: 'The token does not allow this.',
  replaced: 'This room was taken over by another window.',
  left: 'You left the room.',
  removed: 'The server ended your stay in this room.',
});

/** What waiting may help against. */
const TEMPORARY = new Set([
  'unreachable',
  'no_dataplane',
  'engine_busy',
  'room_full',
  'room_locked',
  'server_full',
  'token_immature',
  'media_failed',
]);

/** An error with a stable `code`, a sentence for people in `message`, and for developers a `detail`. */
export class UprtcError extends Error {
  /**
   * @param {string} code
   * @param {string} [detail]
   * @param {{ fatal?: boolean, cause?: unknown }} [options]
   */
  constructor(code, detail = '', { fatal = false, cause } = {}) {
    const fallback = code.startsWith('token_') ? 'This link is not valid.' : 'Something went wrong.';
    super(SENTENCES[code] ?? fallback, { cause });
    this.name = 'UprtcError';
    /** Stable name. */
    this.code = code;
    /** For developers; may be empty. */
    this.detail = detail;
    /** Whether the room is closed by it. */
    this.fatal = fatal;
    /** Whether it may be over in a while without anybody's doing: then it is worth to try again. */
    this.isTemporary = TEMPORARY.has(code);
    /** Whether `message` says something to the person at the screen; if not, it is a bug, and `detail` says which. */
    this.isForPeople = code in SENTENCES || code.startsWith('token_');
  }
}

/**
 * Whatever was thrown, as one of ours.
 * @param {unknown} error
 */
export function asUprtcError(error) {
  if (error instanceof UprtcError) return error;
  return new UprtcError('internal', error instanceof Error ? error.message : String(error), { cause: error });
}
