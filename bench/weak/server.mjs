// What the server says of A's path while the call takes place: its estimate, what arrives, and which encoding each video is given.

import { sleep } from '../e2e/edge.mjs';

/** How often it is asked, milliseconds: its workers say it once a second. */
const EACH_MS = 1_000;

/** Asks the server about a peer of a room until it is stopped. */
export class Observer {
  /** What was said so far. */
  samples = [];
  #isOver = false;

  constructor(base, room, name, token) {
    this.#watch(new URL(`/v1/rooms/${encodeURIComponent(room)}/peers`, base), name, { authorization: `Bearer ${token}` });
  }

  async #watch(url, name, headers) {
    while (!this.#isOver) {
      const at = Date.now();
      const response = await fetch(url, { headers }).catch(() => undefined); // Asked again in a second.
      const peers = response?.ok ? (await response.json()).peers : [];
      const { path, receives = [] } = peers.find((peer) => peer.name === name) ?? {};
      if (path) {
        const given = receives.flatMap(({ media }) => media?.allocation ?? []);
        this.samples.push({ at, estimate: path.estimate_bps, arrives: path.acknowledged_bps, wanted: path.wanted_bps, given });
      }
      await sleep(EACH_MS);
    }
  }

  stop() {
    this.#isOver = true;
  }

  /** What was said in a window. */
  in([from, to]) {
    return this.samples.filter(({ at }) => at >= from && at <= to);
  }
}
