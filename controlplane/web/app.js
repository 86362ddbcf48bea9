// @ts-check
/**
 * The meeting page at `/r/{room}?token=…`: the lobby, then the room, then a last word. `&join=1` goes straight in.
 * Everything that concerns media and signals is the client module's; this is its first application.
 */

import { Room, UprtcError } from '/sdk/uprtc.js';
import { showCall } from './call.js';
import { button, find, part } from './elements.js';
import { chooseInLobby } from './lobby.js';

/** @import { Choice } from './lobby.js' */

const parameters = new URLSearchParams(location.search);
const name = decodeURIComponent(location.pathname.split('/')[2] ?? '');
const token = parameters.get('token') ?? '';

/** What a last word says besides the error's own sentence. */
const ADVICE = /** @type {Record<string, string>} */ ({
  unsupported_offer: 'Please use a current Chrome, Edge, Firefox or Safari.',
  room_full: 'Try again when somebody has left.',
  server_full: 'Try again in a while.',
  no_dataplane: 'It should be back shortly. Try again in a moment.',
  unreachable: 'Check your network, then try again.',
  token_missing: 'Ask whoever invited you for the whole link.',
  token_expired: 'Ask whoever invited you for a new one.',
  wrong_room: 'Ask whoever invited you for the right one.',
  room_name: 'Ask whoever invited you for the right link.',
  replaced: 'You can take it back here.',
  unsupported_browser: 'Please use a current Chrome, Edge, Firefox or Safari.',
});

async function main() {
  document.title = `${name} · uprtc`;
  const claims = readClaims();
  if (!token) return showEnd(new UprtcError('token_missing'));
  const isExpired = (claims.exp ?? Infinity) * 1000 < Date.now();
  if (isExpired) return showEnd(new UprtcError('token_expired'));
  if (parameters.get('join') === '1') return enter({ isMuted: false }, true);
  const problem = navigator.mediaDevices ? '' : new UprtcError('insecure_context').message;
  const about = { room: name, name: claims.name ?? '', mayPublish: claims.publish !== false, problem };
  await enter(await chooseInLobby(about), false);
}

/**
 * @param {Choice} choice
 * @param {boolean} opens Whether the room is to open the devices by itself.
 */
async function enter({ microphone, camera, cameraId, isMuted }, opens) {
  const mayPublish = readClaims().publish !== false;
  const wish = opens && mayPublish;
  const room = new Room({
    room: name,
    token,
    ...(((microphone && !isMuted) || wish) && { microphone: microphone ?? true }),
    ...((camera || wish) && { camera: camera ?? true }),
  });
  // For tests and support: `uprtc.room` in the browser's console.
  Object.assign(window, { uprtc: { room } });
  room.local.name = readClaims().name ?? '';
  showCall(room);
  // The preview's tracks are this page's own: the camera's light goes out with the camera.
  room.on('track-changed', ({ participant, source, active }) => {
    if (participant.isLocal && source === 'camera' && !active) camera?.stop();
  });
  let isEnded = false;
  room.on('error', ({ error }) => {
    if (!error.fatal) return;
    isEnded = true;
    showEnd(error);
  });
  room.on('state', ({ state }) => {
    if (state !== 'closed') return;
    microphone?.stop();
    camera?.stop();
    if (!isEnded) showEnd();
  });
  try {
    // What was switched off in the lobby is what will be switched on later.
    if (isMuted) await room.setMicrophone(false, microphone);
    if (!camera && cameraId) await room.setCamera(false, { deviceId: cameraId });
    await room.join();
  } catch {
    // Every reason has come as an event.
  }
}

/** @param {UprtcError} [error] Without one the person left by choice. */
function showEnd(error) {
  part('lobby').hidden = true;
  part('call').hidden = true;
  part('end').hidden = false;
  find('end-icon', SVGElement).toggleAttribute('hidden', !error);
  part('end-title').textContent = error ? error.message : 'You left the room.';
  part('end-text').textContent = error ? adviceOn(error.code) : 'The link brings you back at any time.';
  part('end-detail').textContent = error ? [error.code, error.detail].filter(Boolean).join(': ') : '';
  const isHopeless = error && /^(token_|wrong_room|room_name|unsupported)/.test(error.code);
  button('again').hidden = !!isHopeless;
  button('again').textContent = error ? 'Try again' : 'Join again';
  button('again').onclick = () => location.reload();
  button('again').focus({ focusVisible: false });
  part('toasts').replaceChildren();
}

/** @param {string} code */
function adviceOn(code) {
  return ADVICE[code] ?? (code.startsWith('token_') ? 'Ask whoever invited you for a new one.' : '');
}

/**
 * What the token says, for the eye only: the server alone decides.
 * @returns {{ name?: string, publish?: boolean, exp?: number }}
 */
function readClaims() {
  try {
    const payload = (token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(payload), (letter) => letter.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return {
      ...(typeof claims.name === 'string' && { name: claims.name }),
      ...(typeof claims.publish === 'boolean' && { publish: claims.publish }),
      ...(typeof claims.exp === 'number' && { exp: claims.exp }),
    };
  } catch {
    return {};
  }
}

// A picture or sound that may not play yet would hold up the page's own loading.
const loaded = new Promise((resolve) => {
  if (document.readyState === 'complete') resolve(undefined);
  else addEventListener('load', resolve, { once: true });
});
loaded.then(main).catch((error) => showEnd(error instanceof UprtcError ? error : new UprtcError('internal', String(error))));
