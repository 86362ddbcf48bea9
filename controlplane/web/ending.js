// @ts-check
/** The last word: why the call is over or has not begun, and, where waiting can help, the next try. */

import { UprtcError } from './sdk/uprtc.js';
import { button, countDown, find, part, showScreen } from './elements.js';

/** What a last word says besides the error's own sentence. */
const ADVICE = /** @type {Record<string, string>} */ ({
  unsupported_offer: 'Please use a current Chrome, Edge, Firefox or Safari.',
  unsupported_browser: 'Please use a current Chrome, Edge, Firefox or Safari.',
  room_full: 'You come in as soon as somebody leaves.',
  room_locked: 'You come in as soon as the host opens it.',
  server_full: 'You come in as soon as there is room.',
  no_dataplane: 'It should be back shortly.',
  engine_busy: 'It should be back shortly.',
  unreachable: 'Your network may be down, or the server restarts.',
  token_missing: 'Ask whoever invited you for the whole link.',
  token_expired: 'Ask whoever invited you for a new one.',
  token_immature: 'You come in when its time has come.',
  wrong_room: 'Ask whoever invited you for the right one.',
  room_name: 'Ask whoever invited you for the right link.',
  replaced: 'You can take it back here.',
});

/** Waits between tries. A place that somebody leaves is found within the longest. */
const WAITS_MS = [2_000, 4_000, 7_000, 12_000, 20_000, 30_000];

/** @param {UprtcError} [error] Without one the person left by choice. */
export function showEnd(error) {
  show(error);
  part('end-count').hidden = true;
  // Another try with the same link would end in the same way.
  button('again').hidden = !!error && /^(token_|wrong_room|room_name|unsupported|forbidden)/.test(error.code);
  button('again').textContent = error ? 'Try again' : 'Join again';
  button('again').onclick = () => location.reload();
}

/**
 * Says why not now, and asks again until it goes on.
 * @param {UprtcError} refusal
 * @param {() => Promise<UprtcError | undefined>} ask Whether it goes on now, and if not, why.
 * @throws {UprtcError} What waiting cannot help against.
 */
export async function waitFor(refusal, ask) {
  for (let attempt = 0; ; attempt++) {
    if (!refusal.isTemporary) throw refusal;
    show(refusal);
    button('again').hidden = false;
    part('end-count').hidden = false;
    button('again').textContent = 'Try now';
    await pause(WAITS_MS[Math.min(attempt, WAITS_MS.length - 1)] ?? 0);
    countDown('end-count-text', 0, () => 'Trying again…');
    const again = await ask();
    if (!again) return;
    refusal = again;
  }
}

/** @param {number} most A bit less, so that those who were refused at once do not come again at once. */
async function pause(most) {
  const ms = most * (0.75 + Math.random() / 4);
  countDown('end-count-text', ms, (seconds) => `Trying again in ${seconds} s`);
  await new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    const now = () => {
      clearTimeout(timer);
      removeEventListener('online', now);
      resolve(undefined);
    };
    addEventListener('online', now, { once: true });
    button('again').onclick = now;
  });
}

/** @param {UprtcError} [error] */
function show(error) {
  const title = error ? error.message : 'You left the room.';
  const isNews = part('end').hidden || part('end-title').textContent !== title;
  find('end-icon', SVGElement).toggleAttribute('hidden', !error);
  part('end-title').textContent = title;
  part('end-text').textContent = error ? adviceOn(error.code) : 'The link brings you back at any time.';
  part('end-detail').textContent = error ? [error.code, error.detail].filter(Boolean).join(': ') : '';
  // The focus is on the heading, so that it is read; who has gone on to the button stays there.
  if (isNews) showScreen('end');
}

/** @param {string} code */
function adviceOn(code) {
  return ADVICE[code] ?? (code.startsWith('token_') ? 'Ask whoever invited you for a new one.' : '');
}
