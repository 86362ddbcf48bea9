// @ts-check
/** Audio levels for meters; and whether this client itself speaks, which it measures. Who else does, the server says. */

/** @import { Participant } from './participant.js' */

const CHECK_MS = 150;
/** Speech is above this level, a quiet room below: about -36 dBov. */
const SPEECH_LEVEL_MIN = 0.016;
/** Longer than the pauses within a sentence. */
const HOLD_MS = 600;

/** Watches the audio levels, and reports when this client starts or stops speaking. */
export class Speaking {
  /**
   * @param {() => Iterable<[Participant, number | Promise<number>]>} levels All participants with their levels, 0 to 1.
   * @param {(participant: Participant, speaking: boolean) => void} onchange
   */
  constructor(levels, onchange) {
    this.#onchange = onchange;
    this.#timer = setInterval(() => {
      for (const [participant, level] of levels()) {
        if (typeof level === 'number') this.#update(participant, level);
        else level.then((level) => this.#update(participant, level), () => {});
      }
    }, CHECK_MS);
  }

  #timer;
  #onchange;
  /** When this client was last loud. */
  #loudAt = -Infinity;

  /**
   * @param {Participant} participant
   * @param {number} level
   */
  #update(participant, level) {
    participant.audioLevel = level;
    if (!participant.isLocal) return;
    const now = performance.now();
    if (level > SPEECH_LEVEL_MIN) this.#loudAt = now;
    const speaking = now - this.#loudAt < HOLD_MS;
    if (participant.speaking === speaking) return;
    participant.speaking = speaking;
    this.#onchange(participant, speaking);
  }

  close() {
    clearInterval(this.#timer);
  }
}
