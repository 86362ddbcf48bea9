// @ts-check
/** The end screen: why the call is over or cannot begin, and, if waiting can help, the next attempt. */

import { UprtcError } from './sdk/uprtc.js';
import { button, countDown, find, part, showScreen } from './elements.js';

/** Advice besides the sentence of the error. */
const ADVICE = /** @type {Record<string, string>} */ ({
  unsupported_offer: 'Please use a current Chrome, Edge, Firefox or Safari.',
  unsupported_browser: 'Please use a current Chrome, Edge, Firefox or Safari.',
  room_full: 'You will join as soon as somebody leaves.',
  room_locked: 'You will join as soon as the host unlocks it.',
  server_full: 'You will join as soon as there is a free place.',
  no_dataplane: 'It should be back shortly.',
  engine_busy: 'It should be back shortly.',
  unreachable: 'Your network may be down, or the server is restarting.',
  token_missing: 'Ask the person who invited you for the complete link.',
  token_expired: 'Ask the person who invited you for a new link.',
  token_immature: 'You will join when it becomes valid.',
  wrong_room: 'Ask the person who invited you for the right link.',
  room_name: 'Ask the person who invited you for the right link.',
  replaced: 'You can join here again.',
});

/** Waits between attempts. A free place is found within the longest one. */
const WAITS_MS = [2_000, 4_000, 7_000, 12_000, 20_000, 30_000];

/** @param {UprtcError} [error] None if the person left. */
export function showEnd(error) {
  show(error);
  part('end-count').hidden = true;
  // With the same link another attempt would fail in the same way.
  button('again').hidden = !!error && /^(token_|wrong_room|room_name|unsupported|forbidden)/.test(error.code);
  button('again').textContent = error ? 'Try again' : 'Join again';
  button('again').onclick = () => location.reload();
}

/**
 * Shows the reason and asks again until a join is possible.
 * @param {UprtcError} refusal
 * @param {() => Promise<UprtcError | undefined>} ask Why a join is not possible now, if it is not.
 * @throws {UprtcError} A reason that waiting does not change.
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

/** @param {number} most Randomly reduced, so that clients refused at the same time do not retry at the same time. */
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
  part('end-text').textContent = error ? adviceOn(error.code) : 'You can use the link again at any time.';
  part('end-detail').textContent = error ? [error.code, error.detail].filter(Boolean).join(': ') : '';
  // A new heading gets the focus, so that screen readers read it. Otherwise the focus stays, for example on the button.
  if (isNews) showScreen('end');
}

/** @param {string} code */
function adviceOn(code) {
  return ADVICE[code] ?? (code.startsWith('token_') ? 'Ask the person who invited you for a new link.' : '');
}
