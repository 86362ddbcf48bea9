// @ts-check
/**
 * The meeting page at `/r/{room}?token=…`: the lobby, the call, and the end screen. `&join=1` skips the lobby, unless the person comes by an
 * invitation (`/r/{room}#token=…`) and has to choose a name.
 * Media and signalling are in the client module; this page is an application of it.
 */

import { mayJoin, Room, UprtcError } from './sdk/uprtc.js';
import { showCall } from './call.js';
import { showScreen } from './elements.js';
import { showEnd, waitFor } from './ending.js';
import { link } from './link.js';
import { chooseInLobby } from './lobby.js';

/** @import { Choice } from './lobby.js' */

const parameters = new URLSearchParams(location.search);
const { room: name, server } = link;

async function main() {
  document.title = `${name} · uprtc`;
  if (!link.bearer) return showEnd(new UprtcError('token_missing'));
  const ask = () => mayJoin({ server, room: name, token: link.bearer });
  /** @type {Choice | undefined} */
  let choice;
  // The join check comes before the request for a camera.
  let refusal = await ask();
  for (;;) {
    if (refusal) await waitFor(refusal, ask);
    choice ??= await choose();
    refusal = await become(choice.name);
    if (refusal) continue;
    const stay = await enter(choice);
    if (!stay.error?.isTemporary) return showEnd(stay.error);
    // A person who was in the room, or had pressed Join, joins again by itself, with the same sources switched on.
    ({ error: refusal, choice } = stay);
  }
}

/** Gets the token of a guest. @param {string | undefined} person @returns {Promise<UprtcError | undefined>} Why not, if not. */
async function become(person) {
  if (!link.asksName) return undefined;
  try {
    await link.accept(person ?? '');
    return undefined;
  } catch (error) {
    return error instanceof UprtcError ? error : new UprtcError('internal', String(error));
  }
}

/** @returns {Promise<Choice>} What the person chose to send. */
async function choose() {
  const { name: person = '', publish = true } = link.claims;
  const { asksName } = link;
  if (!asksName && parameters.get('join') === '1') return { isMuted: false, ...(publish && { microphone: true, camera: true }) };
  const problem = navigator.mediaDevices ? '' : new UprtcError('insecure_context').message;
  return chooseInLobby({ room: name, name: person, asksName, mayPublish: publish, problem });
}

/**
 * @param {Choice} choice
 * @returns {Promise<{ error: UprtcError | undefined, choice: Choice }>} After the call: the error, unless the person left, and
 *   the sources that were switched on.
 */
async function enter({ microphone, camera, cameraId, isMuted }) {
  const room = new Room({
    server,
    room: name,
    token: link.bearer,
    // The server says so in the page where there are several.
    edges: 'edges' in document.documentElement.dataset,
    ...(microphone && !isMuted && { microphone }),
    ...(camera && { camera }),
  });
  // For tests and support: `uprtc.room` in the browser's console.
  Object.assign(window, { uprtc: { room } });
  const { name: person = '', publish = true } = link.claims;
  room.local.name = person;
  room.local.publishes = room.mayPublish = publish;
  // The page owns the preview's tracks. It stops them when the camera is switched off: this turns off the camera's light, and a
  // phone that can open only one camera at a time can open another.
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
    // Keeps the device that was chosen in the lobby, for when the person switches it on.
    if (isMuted) await room.setMicrophone(false, typeof microphone === 'boolean' ? undefined : microphone);
    if (!camera && cameraId) await room.setCamera(false, { deviceId: cameraId });
    await room.join();
  } catch {
    // The reason was reported by an `error` event.
  }
  await closed;
  for (const preview of previews) preview.stop();
  return { error: fatal, choice: choiceOf(room) };
}

/** The sources that are switched on, for joining again. @param {Room} room @returns {Choice} */
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

// A media element that may not play yet would delay the load event of the page.
const loaded = new Promise((resolve) => {
  if (document.readyState === 'complete') resolve(undefined);
  else addEventListener('load', resolve, { once: true });
});
loaded.then(main).catch((error) => showEnd(error instanceof UprtcError ? error : new UprtcError('internal', String(error))));
