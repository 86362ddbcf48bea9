// @ts-check
/** Invitations: a link to a room that names nobody. Each guest exchanges it for a token of its own (docs/PROTOCOL.md, 1.11). */

import { UprtcError } from './error.js';

const ANSWER_MS_MAX = 8_000;

/**
 * An address of the edge, which may have a path prefix: https://example.com/calls.
 * @param {string} path
 * @param {string} [server]
 */
export function addressOf(path, server = location.origin) {
  const base = new URL(server, location.href);
  if (!base.pathname.endsWith('/')) base.pathname += '/';
  return new URL(path, base);
}

/**
 * Makes an invitation to a room. The token needs the claim `invite` or `admin`.
 * @param {{ room: string, token: string, server?: string, ttlS?: number }} options `ttlS`: how long it is valid, in seconds; twelve
 *   hours by default, and not longer than the token.
 * @returns {Promise<string>} The invitation, for the link that guests get. Rejects with a {@link UprtcError}.
 */
export async function invite({ room, token, server, ttlS }) {
  const wanted = ttlS === undefined ? {} : { ttl_s: ttlS };
  return tokenFrom(addressOf(`v1/rooms/${encodeURIComponent(room)}/invitations`, server), token, wanted);
}

/**
 * Accepts an invitation under a name.
 * @param {{ room: string, invitation: string, name: string, server?: string }} options
 * @returns {Promise<string>} The token of this guest. Rejects with a {@link UprtcError}.
 */
export async function acceptInvitation({ room, invitation, name, server }) {
  return tokenFrom(addressOf(`v1/rooms/${encodeURIComponent(room)}/guests`, server), invitation, { name });
}

/** @param {URL} url @param {string} bearer @param {object} wanted @returns {Promise<string>} */
async function tokenFrom(url, bearer, wanted) {
  let answer;
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { authorization: `Bearer ${bearer}`, 'content-type': 'application/json' },
      body: JSON.stringify(wanted),
      signal: AbortSignal.timeout(ANSWER_MS_MAX),
    });
    answer = await response.json();
  } catch {
    // No answer, or not an answer of uprtc.
    throw new UprtcError('unreachable');
  }
  if (typeof answer.token === 'string') return answer.token;
  throw new UprtcError(typeof answer.code === 'string' ? answer.code : 'unreachable', answer.detail);
}
