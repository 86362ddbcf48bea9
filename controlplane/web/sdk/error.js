// @ts-check
/** Errors of the client module: a stable code for programs, a sentence for people. */

/** A sentence for the user for each error. The server's error codes have the same names. */
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
  codec_missing: 'This browser supports none of the video codecs of this room: audio works, video does not.',
  media_failed: 'No media can be exchanged with the server; a firewall may block UDP.',
  unreachable: 'The server does not answer.',
  token_missing: 'This link has no token in it.',
  token_expired: 'This link has expired.',
  token_immature: 'This link is not valid yet.',
  token_unavailable: 'The permission to stay in this room could not be renewed.',
  data_refused: 'This link does not allow you to send messages.',
  too_large: 'The message is too long.',
  token_refused: 'The new permission for this room was refused.',
  origin: 'This server does not accept pages from this address.',
  invitation: 'This is an invitation: choose a name first.',
  no_service: 'The server has no service for this now.',
  services_busy: 'The server has no free service for this now.',
  recorded_already: 'This room is being recorded already.',
  not_admin: 'This link does not allow it.',
  not_inviting: 'You may not invite others to this room.',
  too_many_requests: 'The server gets too many requests with this link.',
  wrong_room: 'This link is for another room.',
  room_name: 'There is no room with this name.',
  room_full: 'The room is full.',
  room_locked: 'The room is locked: nobody else can join.',
  server_full: 'The server is full.',
  engine_busy: 'The server is too busy to answer.',
  too_much: 'This browser sent too many requests to the server.',
  no_dataplane: 'The server cannot carry media right now.',
  unsupported_offer: 'The server supports none of the media formats that this browser offers.',
  forbidden: 'The token does not allow this.',
  replaced: 'This room was taken over by another window.',
  left: 'You left the room.',
  removed: 'The server removed you from this room.',
});

/** Errors that may disappear by themselves. */
const TEMPORARY = new Set([
  'unreachable',
  'no_dataplane',
  'engine_busy',
  'too_many_requests',
  'room_full',
  'room_locked',
  'server_full',
  'token_immature',
  'media_failed',
]);

/** An error with a stable `code`, a sentence for the user in `message`, and a `detail` for developers. */
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
    /** Whether it closes the room. */
    this.fatal = fatal;
    /** Whether it may disappear by itself: then it is useful to try again later. */
    this.isTemporary = TEMPORARY.has(code);
    /** Whether `message` is useful to the user; if not, it is a bug, which `detail` describes. */
    this.isForPeople = code in SENTENCES || code.startsWith('token_');
  }
}

/**
 * Converts any thrown value to a {@link UprtcError}.
 * @param {unknown} error
 */
export function asUprtcError(error) {
  if (error instanceof UprtcError) return error;
  return new UprtcError('internal', error instanceof Error ? error.message : String(error), { cause: error });
}
