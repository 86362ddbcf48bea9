// @ts-check
/**
 * The meeting page at `/r/{room}?token=…`: the lobby, then the room, then a last word. `&join=1` goes straight in.
 * Everything that concerns media and signals is the client module's; this is its first application.
 */

import { mayJoin, Room, UprtcError } from './sdk/uprtc.js';
import { showCall } from './call.js';
import { showScreen } from './elements.js';
import { showEnd, waitFor } from './ending.js';
import { chooseInLobby } from './lobby.js';

/** @import { Choice } from './lobby.js' */

const parameters = new URLSearchParams(location.search);
const name = decodeURIComponent(location.pathname.split('/').at(-1) ?? '');
const token = parameters.get('token') ?? '';
/** The edge: this page is its `r/{room}`, perhaps under a proxy's path prefix. */
const server = new URL('..', location.href).href;

async function main() {
  document.title = `${name} · uprtc`;
  if (!token) return showEnd(new UprtcError('token_missing'));
  const ask = () => mayJoin({ server, room: name, token });
  /** @type {Choice | undefined} */
  let choice;
  // Whether there is a place is asked before anybody is asked for a camera.
  let refusal = await ask();
  for (;;) {
    if (refusal) await waitFor(refusal, ask);
    choice ??= await choose();
    const stay = await enter(choice);
    if (!stay.error?.isTemporary) return showEnd(stay.error);
    // Who was in, or had pressed Join, comes in by itself, with what was switched on.
    ({ error: refusal, choice } = stay);
  }
}

/** @returns {Promise<Choice>} What the person wants to send. */
async function choose() {
  const { name: person = '', publish = true } = readClaims();
  if (parameters.get('join') === '1') return { isMuted: false, ...(publish && { microphone: true, camera: true }) };
  const problem = navigator.mediaDevices ? '' : new UprtcError('insecure_context').message;
  return chooseInLobby({ room: name, name: person, mayPublish: publish, problem });
}

/**
 * @param {Choice} choice
 * @returns {Promise<{ error: UprtcError | undefined, choice: Choice }>} When it is over: why, if not by choice, and what was
 *   switched on.
 */
async function enter({ microphone, camera, cameraId, isMuted }) {
  const room = new Room({
    server,
    room: name,
    token,
    ...(microphone && !isMuted && { microphone }),
    ...(camera && { camera }),
  });
  // For tests and support: `uprtc.room` in the browser's console.
  Object.assign(window, { uprtc: { room } });
  const { name: person = '', publish = true } = readClaims();
  room.local.name = person;
  room.local.publishes = room.mayPublish = publish;
  // The preview's tracks are this page's own: the camera's light goes out with the camera, and a phone that opens one
  // camera at a time can open another.
  const previews = [microphone, camera].filter((given) => given instanceof MediaStreamTrack);
  const release = () => previews.find(({ kind }) => kind === 'video')?.stop();
  showCall(room, release);
  showScreen('call');
  room.on('track-changed', ({ participant, source, active }) => {
    if (participant.isLocal && source === 'camera' && !active) release();
  });
  /** @type {UprtcError | undefined} */
  let fatal;
  room.on('error', ({ error }) => {
    if (error.fatal) fatal = error;
  });
  /** @type {Promise<void>} */
  const closed = new Promise((resolve) => room.on('state', ({ state }) => state === 'closed' && resolve()));
  try {
    // What was switched off in the lobby is what will be switched on later.
    if (isMuted) await room.setMicrophone(false, typeof microphone === 'boolean' ? undefined : microphone);
    if (!camera && cameraId) await room.setCamera(false, { deviceId: cameraId });
    await room.join();
  } catch {
    // Every reason has come as an event.
  }
  await closed;
  for (const preview of previews) preview.stop();
  return { error: fatal, choice: choiceOf(room) };
}

/** What was switched on, for when the room is entered again. @param {Room} room @returns {Choice} */
function choiceOf(room) {
  const { microphone, camera } = room.local.active;
  const [microphoneId, cameraId] = [room.deviceIdOf('microphone'), room.deviceIdOf('camera')];
  return {
    isMuted: !microphone,
    ...((microphone || microphoneId) && { microphone: microphoneId ? { deviceId: microphoneId } : true }),
    ...(camera && { camera: cameraId ? { deviceId: cameraId } : true }),
    ...(cameraId && { cameraId }),
  };
}

/**
 * What the token says, for the eye only: the server alone decides.
 * @returns {{ name?: string, publish?: boolean }}
 */
function readClaims() {
  try {
    const payload = (token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(payload), (letter) => letter.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return {
      ...(typeof claims.name === 'string' && { name: claims.name }),
      ...(typeof claims.publish === 'boolean' && { publish: claims.publish }),
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
