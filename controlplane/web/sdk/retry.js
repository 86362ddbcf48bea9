// @ts-check
/** Waits between attempts: increasing, random, and ended early when there is a reason. */

const RETRY_MS_MIN = 250;
const RETRY_MS_MAX = 3_000;

/** The waits between attempts to join. */
export class Retry {
  /** Attempts since media was last connected. */
  attempt = 0;

  #wake = () => {};

  /**
   * Waits longer each time, with a random part, so that not all clients reconnect to a restarted server at once.
   * @param {(inMs: number) => void} onwait Gets the length of the wait.
   */
  async pause(onwait) {
    const most = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** this.attempt);
    const ms = most * (0.5 + Math.random() / 2);
    this.attempt += 1;
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve(undefined);
      };
      onwait(ms);
    });
  }

  /** Ends the wait. */
  wake() {
    this.#wake();
  }
}
