// @ts-check
/** Waits between attempts: increasing, random, and ended early when there is a reason. */

const RETRY_MS_MIN = 250;
const RETRY_MS_MAX = 3_000;

/** The waits between attempts to join. */
export class Retry {
  /** Attempts since media was last connected. */
  attempt = 0;

  #wake = () => {};
  #isSkipped = false;

  /**
   * Waits longer each time, with a random part, so that not all clients reconnect to a restarted server at once.
   * @param {(inMs: number) => void} onwait Gets the length of the wait.
   */
  async pause(onwait) {
    const most = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** this.attempt);
    const ms = most * (0.5 + Math.random() / 2);
    this.attempt += 1;
    if (this.#isSkipped) {
      this.#isSkipped = false;
      return;
    }
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve(undefined);
      };
      onwait(ms);
    });
    this.#isSkipped = false;
  }

  /** The next attempt is made somewhere else, and at once. */
  skip() {
    this.attempt = 0;
    this.#isSkipped = true;
    this.#wake();
  }

  /** Ends the wait. */
  wake() {
    this.#wake();
  }
}

export const TOKEN_CODES = /^(token_|wrong_room)/;

/**
 * Whether an attempt that was refused is worth another one.
 * @param {string} code
 * @param {number} attempt
 * @param {boolean} hasJoined
 * @param {boolean} isConnected Whether media flows.
 */
export function mayRetry(code, attempt, hasJoined, isConnected) {
  if (['unreachable', 'no_dataplane', 'engine_busy', 'unknown_session'].includes(code)) return true;
  // After an interruption all clients reconnect at once, and our own former peer may still take a place.
  if (code === 'room_full' || code === 'server_full') return hasJoined && attempt < 10;
  // The limit of the signal rate: the server still has our peer.
  if (code === 'too_much') return attempt < 10;
  // A token that is refused now does not end a call while media flows.
  return TOKEN_CODES.test(code) && isConnected;
}

/**
 * Calls when the device is online again or has another network. (TypeScript does not have the Network Information API.)
 * @param {() => void} onchange
 * @returns {() => void} Ends that.
 */
export function watchNetwork(onchange) {
  const { connection } = /** @type {Navigator & { connection?: EventTarget }} */ (navigator);
  addEventListener('online', onchange);
  connection?.addEventListener('change', onchange);
  return () => {
    removeEventListener('online', onchange);
    connection?.removeEventListener('change', onchange);
  };
}
