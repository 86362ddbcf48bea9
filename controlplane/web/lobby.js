// @ts-check
/** The lobby: preview, choice of devices, join. */

import { openDevices } from './sdk/uprtc.js';
import { button, fillAvatar, find, part, showScreen, showSwitch } from './elements.js';
import { visible } from './link.js';
import { listDevices } from './pickers.js';

/** @import { UprtcError } from './sdk/uprtc.js' */
/** @typedef {MediaStreamTrack | MediaTrackConstraints | true} Wish */
/**
 * What will be sent, and under which name, if the person chose one. `isMuted`: the microphone is kept for later; `cameraId`: so is this camera, if there is no `camera`.
 * @typedef {{ microphone?: Wish, camera?: Wish, cameraId?: string, isMuted: boolean, name?: string }} Choice
 */
/** @typedef {'microphone' | 'camera'} Source */
/** `name` is that of whoever invites if `asksName`. @typedef {{ room: string, name: string, asksName: boolean, mayPublish: boolean, problem: string }} About */

const lists = {
  microphone: find('lobby-mic', HTMLSelectElement),
  camera: find('lobby-cam', HTMLSelectElement),
};
const video = find('preview-video', HTMLVideoElement);
const level = find('preview-level', HTMLMeterElement);

/**
 * @param {About} about
 * @returns {Promise<Choice>} When the person presses Join.
 */
export function chooseInLobby(about) {
  showScreen('lobby');
  return new Promise((resolve) => new Lobby(about, resolve));
}

/** @param {UprtcError[]} errors */
function inOneSentence(errors) {
  const codes = errors.map(({ code }) => code).join(' ');
  if (codes === 'microphone_denied camera_denied') return 'The browser does not allow the microphone and the camera.';
  if (codes === 'microphone_missing camera_missing') return 'No microphone and no camera were found.';
  return [...new Set(errors.map(({ message }) => message))].join(' ');
}

class Lobby {
  /**
   * @param {About} about
   * @param {(choice: Choice) => void} done
   */
  constructor({ room, name, asksName, mayPublish, problem }, done) {
    part('lobby-room').textContent = room;
    const says = asksName ? `${name} invites you.` : `You join as ${name}.`;
    part('lobby-name').textContent = name ? says : '';
    const person = find('lobby-person', HTMLInputElement);
    part('lobby-person-field').hidden = !asksName;
    person.required = asksName;
    part('lobby-problem').textContent = problem;
    part('lobby-problem').hidden = !problem;
    fillAvatar(part('preview-avatar'), asksName ? person.value : name);
    person.oninput = () => fillAvatar(part('preview-avatar'), visible(person.value));
    button('preview-mic').onclick = () => this.#toggle('microphone');
    button('preview-cam').onclick = () => this.#toggle('camera');
    lists.microphone.onchange = () => this.#choose('microphone');
    lists.camera.onchange = () => this.#choose('camera');
    find('join-form', HTMLFormElement).onsubmit = (event) => {
      event.preventDefault();
      const chosen = visible(person.value);
      if (asksName && !chosen) return person.focus();
      this.#leave();
      done({ ...this.#tracks, cameraId: lists.camera.value, isMuted: !this.#on.microphone, ...(asksName && { name: chosen }) });
    };
    for (const id of ['preview-mic', 'preview-cam', 'lobby-mic-field', 'lobby-cam-field']) part(id).hidden = !mayPublish;
    if (mayPublish) this.#openBoth();
    else this.#note('You can watch and listen. This link does not allow you to speak.');
    this.#refresh();
    navigator.mediaDevices?.addEventListener('devicechange', this.#onDevices);
    // The Enter key joins.
    if (asksName) person.focus();
    else button('join').focus({ focusVisible: false });
  }

  #on = { microphone: true, camera: true };
  /** @type {{ microphone?: MediaStreamTrack, camera?: MediaStreamTrack }} */
  #tracks = {};
  #isOver = false;
  /** @type {AudioContext | undefined} */
  #context;

  async #openBoth() {
    this.#note('Allow the camera and the microphone, so that others can see and hear you.');
    const { errors, ...tracks } = await openDevices({ microphone: true, camera: true });
    this.#tracks = tracks;
    this.#on = { microphone: !!tracks.microphone, camera: !!tracks.camera };
    const advice = errors.length === 2 ? 'You can still join, watch and listen.' : 'You can still join.';
    this.#note(errors.length ? `${inOneSentence(errors)} ${advice}` : '');
    this.#refresh();
  }

  #onDevices = () => this.#refresh();

  /** Another device was chosen. A source that is off stays off. @param {Source} source */
  async #choose(source) {
    // A camera that is off is closed. A muted microphone stays open, and shows its level when it is unmuted.
    if (this.#on[source] || this.#tracks[source]) await this.#open(source, lists[source].value);
  }

  /** Opens a device without changing whether it is on. @param {Source} source @param {string} [deviceId] */
  async #open(source, deviceId) {
    this.#tracks[source]?.stop();
    const { errors, ...tracks } = await openDevices({ [source]: deviceId ? { deviceId: { exact: deviceId } } : true });
    delete this.#tracks[source];
    Object.assign(this.#tracks, tracks);
    const track = tracks[source];
    if (track) track.enabled = this.#on[source];
    else this.#on[source] = false;
    this.#note(errors.map(({ message }) => message).join(' '));
    this.#refresh();
  }

  /** @param {Source} source */
  async #toggle(source) {
    this.#on[source] = !this.#on[source];
    const track = this.#tracks[source];
    if (this.#on[source] && !track) return this.#open(source, lists[source].value);
    if (source === 'camera' && !this.#on.camera) {
      track?.stop();
      delete this.#tracks.camera;
    }
    if (source === 'microphone' && track) track.enabled = this.#on.microphone;
    this.#refresh();
  }

  /** @param {string} text */
  #note(text) {
    part('preview-note').textContent = text;
  }

  #refresh() {
    if (this.#isOver) {
      // The permission was given after Join was pressed; the room opens its devices itself.
      for (const track of Object.values(this.#tracks)) track.stop();
      return;
    }
    const { microphone, camera } = this.#tracks;
    showSwitch(button('preview-mic'), this.#on.microphone, 'mic', 'Microphone');
    showSwitch(button('preview-cam'), this.#on.camera, 'cam', 'Camera');
    video.srcObject = camera ? new MediaStream([camera]) : null;
    video.hidden = !camera;
    part('preview-avatar').hidden = !!camera;
    level.hidden = !microphone;
    listDevices(lists.microphone, 'audioinput', microphone?.getSettings().deviceId);
    listDevices(lists.camera, 'videoinput', camera?.getSettings().deviceId);
    this.#measure(microphone);
  }

  /** @param {MediaStreamTrack | undefined} track */
  #measure(track) {
    this.#context?.close();
    this.#context = undefined;
    if (!track) return;
    const context = new AudioContext();
    this.#context = context;
    const analyser = new AnalyserNode(context, { fftSize: 1024 });
    new MediaStreamAudioSourceNode(context, { mediaStream: new MediaStream([track]) }).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    const look = () => {
      if (context !== this.#context) return;
      analyser.getFloatTimeDomainData(samples);
      const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
      // In decibels, as loudness is perceived: -60 dB is empty, -10 dB is full.
      level.value = Math.min(1, Math.max(0, (10 * Math.log10(power + 1e-9) + 60) / 50));
      requestAnimationFrame(look);
    };
    look();
  }

  #leave() {
    this.#isOver = true;
    this.#context?.close();
    this.#context = undefined;
    video.srcObject = null;
    navigator.mediaDevices?.removeEventListener('devicechange', this.#onDevices);
  }
}
