// @ts-check
/** When to try again: longer each time, at another moment than the neighbours, and at once when there is a reason to. */

const RETRY_MS_MIN = 250;
const RETRY_MS_MAX = 3_000;

/** The waits between attempts to get in. */
export class Retry {
  /** Attempts since the last one that brought media. */
  attempt = 0;

  #wake = () => {};

  /**
   * Waits longer each time, and never as long as the neighbour, so that a restarted server is not stormed.
   * @param {(inMs: number) => void} onwait Is told how long.
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
