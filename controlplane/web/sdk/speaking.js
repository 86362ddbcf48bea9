// @ts-check
/** Who speaks: from the audio level that every RTP packet carries (RFC 6464), or else from what is played. */

/** @import { Participant } from './participant.js' */

const LISTEN_MS = 150;
/** Speech lies above it, a quiet room below: about -36 dBov. */
const LOUD = 0.016;
/** Longer than the pauses within a sentence. */
const HOLD_MS = 600;

/** Looks at everybody's level, and tells who begins or stops to speak. */
export class Speaking {
  /**
   * @param {() => Iterable<[Participant, number | Promise<number>]>} levels Everybody, and how loud, 0 to 1.
   * @param {(participant: Participant, speaking: boolean) => void} onchange
   */
  constructor(levels, onchange) {
    this.#onchange = onchange;
    this.#timer = setInterval(() => {
      for (const [participant, level] of levels()) {
        if (typeof level === 'number') this.#hear(participant, level);
        else level.then((level) => this.#hear(participant, level), () => {});
      }
    }, LISTEN_MS);
  }

  #timer;
  #onchange;
  /** @type {WeakMap<Participant, number>} When each was last loud. */
  #loudAt = new WeakMap();

  /**
   * @param {Participant} participant
   * @param {number} level
   */
  #hear(participant, level) {
    const now = performance.now();
    participant.audioLevel = level;
    if (level > LOUD) this.#loudAt.set(participant, now);
    const speaking = now - (this.#loudAt.get(participant) ?? -Infinity) < HOLD_MS;
    if (participant.speaking === speaking) return;
    participant.speaking = speaking;
    this.#onchange(participant, speaking);
  }

  close() {
    clearInterval(this.#timer);
  }
}
