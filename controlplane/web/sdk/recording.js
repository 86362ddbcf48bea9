// @ts-check
/** Recordings of a room, by a recorder that waits for orders at the server (docs/SERVICES.md). */

import { UprtcError } from './error.js';
import { addressOf } from './invitation.js';

const ANSWER_MS_MAX = 8_000;

/**
 * A recording.
 * @typedef {object} Recording
 * @property {string} task Its id.
 * @property {'starting' | 'running' | 'stopping' | 'ended'} state
 * @property {string} ordered_by The name of whoever started it.
 * @property {string} [reason] Why it has ended.
 */

/**
 * Whether a recorder waits for orders. The token needs the claim `record` or `admin`.
 * @param {{ room: string, token: string, server?: string }} options
 * @returns {Promise<boolean>} Rejects with a {@link UprtcError}.
 */
export async function canRecord({ room, token, server }) {
  const { available } = /** @type {{ available: boolean }} */ (await ask('GET', recordings(room, server), token));
  return available;
}

/**
 * Starts a recording. The token needs the claim `record` or `admin`.
 * @param {{ room: string, token: string, server?: string }} options
 * @returns {Promise<Recording>} Rejects with a {@link UprtcError}: `no_service` if no recorder waits for orders, `recorded_already`.
 */
export async function startRecording({ room, token, server }) {
  return /** @type {Promise<Recording>} */ (ask('POST', recordings(room, server), token));
}

/**
 * Stops all recordings of a room that are under way. The token needs the claim `record` or `admin`.
 * @param {{ room: string, token: string, server?: string }} options
 * @returns {Promise<number>} How many. Rejects with a {@link UprtcError}.
 */
export async function stopRecording({ room, token, server }) {
  const url = recordings(room, server);
  const { tasks } = /** @type {{ tasks: Recording[] }} */ (await ask('GET', url, token));
  const open = tasks.filter(({ state }) => state === 'starting' || state === 'running');
  await Promise.all(open.map(({ task }) => ask('DELETE', new URL(`recordings/${task}`, url), token)));
  return open.length;
}

/** @param {string} room @param {string} [server] */
function recordings(room, server) {
  return addressOf(`v1/rooms/${encodeURIComponent(room)}/recordings`, server);
}

/** @param {string} method @param {URL} url @param {string} token @returns {Promise<unknown>} */
async function ask(method, url, token) {
  let response;
  let answer;
  try {
    response = await fetch(url, {
      method,
      headers: { authorization: `Bearer ${token}`, ...(method === 'POST' && { 'content-type': 'application/json' }) },
      ...(method === 'POST' && { body: '{}' }),
      signal: AbortSignal.timeout(ANSWER_MS_MAX),
    });
    answer = await response.json();
  } catch {
    // No answer, or not an answer of uprtc.
    throw new UprtcError('unreachable');
  }
  if (response.ok) return answer;
  throw new UprtcError(typeof answer.code === 'string' ? answer.code : 'unreachable', answer.detail);
}
