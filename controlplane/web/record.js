// @ts-check
/** Everybody sees that the room is recorded or sent on; who may, starts and stops the recording. */

import { button, hide, part, toast } from './elements.js';
import { link } from './link.js';
import { canRecord, startRecording, stopRecording, UprtcError } from './sdk/uprtc.js';

/** @import { Room } from './sdk/uprtc.js' */

/** How long a start or stop is waited for before the button can be used again. */
const WAIT_MS = 5_000;
/** How often the page asks whether there is a recorder, while none is known. */
const LOOK_MS = 20_000;

/** Keeps the sign and the button up to date until the room is closed. */
export class Record {
  /**
   * @param {Room} room
   * @param {AbortSignal} signal
   */
  constructor(room, signal) {
    this.#room = room;
    const element = button('record');
    element.addEventListener('click', () => void this.#toggle(), { signal });
    for (const event of /** @type {const} */ (['joined', 'moved', 'peer-joined', 'peer-left'])) {
      this.#offs.push(room.on(event, () => this.show()));
    }
    signal.addEventListener('abort', () => this.#offs.forEach((off) => off()));
    this.show();
    this.#offs.push(room.on('joined', () => void this.#look()));
    void this.#look();
    const timer = setInterval(() => !this.#mayRecord && void this.#look(), LOOK_MS);
    signal.addEventListener('abort', () => clearInterval(timer));
  }

  /** @type {Room} */
  #room;
  /** @type {(() => void)[]} */
  #offs = [];
  #isRecorded = false;
  #mayRecord = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #waiting;

  /** Shows what is so now. */
  show() {
    const others = [...this.#room.participants.values()];
    const isRecorded = others.some(({ role }) => role === 'recorder');
    const isLive = others.some(({ role }) => role === 'streamer');
    const words = [isRecorded && 'Recording', isLive && 'Live'].filter(Boolean).join(' · ');
    const sign = part('recorded');
    sign.hidden = !words;
    if (part('recorded-text').textContent !== words) part('recorded-text').textContent = words;
    sign.title = isRecorded ? 'This room is being recorded' : isLive ? 'This room is being sent to an audience' : '';
    if (isRecorded !== this.#isRecorded) {
      this.#isRecorded = isRecorded;
      this.#done();
      // The sign is announced as well: it is a status.
      toast(isRecorded ? 'This room is being recorded.' : 'The recording has ended.');
    }
    const label = isRecorded ? 'Stop the recording' : 'Record this room';
    const element = button('record');
    hide(element, !(this.#mayRecord || (isRecorded && link.mayRecord)), button('settings'));
    element.setAttribute('aria-label', label);
    element.title = label;
    element.toggleAttribute('data-on', isRecorded);
  }

  /** Whether there is a recorder. */
  async #look() {
    if (!link.mayRecord) return;
    this.#mayRecord = await canRecord(this.#options).catch(() => false);
    this.show();
  }

  get #options() {
    return { room: this.#room.name, token: link.bearer, server: link.server };
  }

  #done() {
    clearTimeout(this.#waiting);
    button('record').disabled = false;
  }

  async #toggle() {
    // Until the recorder has come or gone.
    button('record').disabled = true;
    this.#waiting = setTimeout(() => this.#done(), WAIT_MS);
    try {
      if (this.#isRecorded) await stopRecording(this.#options);
      else await startRecording(this.#options);
    } catch (error) {
      this.#done();
      toast(error instanceof UprtcError ? error.message : 'The recording could not be changed.', 'bad');
    }
  }
}
