// @ts-check
/**
 * The edges of a cluster: which there are, which of them is near, and whether ours has died (docs/EDGES.md).
 *
 * An edge tells which others there are (`GET /v1/edges`). Five of them are measured, by two tiny requests each: the first opens the connection, the
 * second takes one round trip. The list is kept: when our edge dies, nobody has to be asked for another one.
 */

import { addressOf } from './invitation.js';

/** @import { Edge } from './types.js' */
/** @typedef {Edge & { busy: number }} Known `busy`: in tenths, as far as it is known. */

/** Edges that are measured before a join, and edges that are asked when ours does not answer. */
const MEASURED_MAX = 5;
/** Addresses of the application that are asked for the list. */
const SERVERS_MAX = 4;
/** Edges of a list that are looked at. */
const LIST_MAX = 32;
/** List and measurement together. Who is not known by then is not near. */
const CHOICE_MS_MAX = 1_000;
/** How long an edge may take to answer when it seems to be dead; half of it and five round trips, if these are known. */
const ANSWER_MS_MAX = 1_000;
/** An edge that does not answer is asked a second time after this: a change of the device's network ends requests, too. */
const AGAIN_MS = 200;
/** The clients of an edge that died come to the others within this time. */
const SPREAD_MS_MAX = 500;
/** How often the list is asked for again. */
const REFRESH_MS = 600_000;

/** Round trips that differ by less than this are equal: then the load decides. */
const near = (/** @type {number} */ best) => best + 20 + best / 10;

/** Refusals that may be of this edge alone. */
const ELSEWHERE_CODES = ['unreachable', 'no_dataplane', 'engine_busy', 'server_full'];

const sleep = (/** @type {number} */ ms) => new Promise((resolve) => setTimeout(resolve, ms));

let pings = 0;

/** The edges that this client knows, and the one that it uses. */
export class Edges {
  /**
   * @param {string | string[] | undefined} server One or several addresses of the cluster.
   * @param {boolean} [isOn] Whether there may be other edges than the one that is given; by default if several are.
   */
  constructor(server, isOn) {
    this.#servers = (Array.isArray(server) ? server : [server]).slice(0, SERVERS_MAX);
    this.#isOn = isOn ?? this.#servers.length > 1;
  }

  /** @type {(string | undefined)[]} What the application gave. `undefined`: the page's own origin. */
  #servers;
  #isOn;
  /** @type {Known[]} */
  #known = [];
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #refreshing;
  /** The edge in use; `undefined` as long as only the given address is known. @type {Known | undefined} */
  current;

  /** The address in use. */
  get server() {
    return this.current?.url ?? this.#servers[0];
  }

  /** Whether there is somewhere else to go. */
  get hasOthers() {
    return this.#known.some(({ url }) => url !== this.current?.url);
  }

  /** Gets the list, and chooses the nearest edge; of several that are as near the least busy one, then the one that was asked. */
  async choose() {
    if (!this.#isOn) return;
    const deadline = performance.now() + CHOICE_MS_MAX;
    await this.#learn(this.#servers, CHOICE_MS_MAX);
    if (this.#known.length < 2) return;
    this.#refreshing ??= setInterval(() => void this.#learn([this.server], ANSWER_MS_MAX), REFRESH_MS);
    const asked = this.#known[0];
    const measured = await measure(toMeasure(this.#known, asked), deadline - performance.now());
    // If nobody answered in time, the address that was given is as good as any.
    this.current = nearest(measured);
    if (!asked || !this.current || this.current === asked || !measured.includes(asked)) return;
    // A round trip that was late by chance is no reason to leave the edge that was asked.
    const two = [asked, this.current];
    await measure(two, deadline - performance.now(), true);
    this.current = nearest(two);
  }

  /**
   * Asks whether our edge answers, and looks for another one meanwhile; of several that are as near and as busy, chance decides, so that not
   * all clients of a dead edge go to the same one.
   * @param {boolean} [isRefused] Ours answered, and does not take us.
   * @returns {Promise<Known | undefined>} Where to go. `undefined`: ours answers, or no other one does.
   */
  async another(isRefused = false) {
    const own = this.current?.url ?? this.#servers[0];
    const others = this.#known.filter(({ url }) => url !== this.current?.url);
    const looking = measure(toMeasure(others, undefined), ANSWER_MS_MAX);
    const ms = Math.min(ANSWER_MS_MAX, Math.ceil(ANSWER_MS_MAX / 2 + 5 * (this.current?.rttMs ?? Infinity)));
    if (!isRefused && (await answers(own, ms))) return undefined;
    return nearest(shuffled(await looking));
  }

  /** An attempt to join has failed: perhaps another edge takes us. @param {{ code: string }} refusal */
  async avoid({ code }) {
    if (!this.hasOthers || !ELSEWHERE_CODES.includes(code)) return;
    this.current = (await this.another(code !== 'unreachable')) ?? this.current;
  }

  /** @type {Known | undefined} */
  #joinedAt;

  /** We have joined. @returns {{ edge: Edge, previous: Edge } | undefined} If it is at another edge than the last time. */
  arrive() {
    const [edge, previous] = [this.current ?? known(addressOf('', this.server).href), this.#joinedAt];
    this.#joinedAt = edge;
    return previous && edge.url !== previous.url ? { edge, previous } : undefined;
  }

  #isLeaving = false;

  /**
   * Looks for another edge as long as it seems that ours has died.
   * @param {() => boolean} isLost Whether it still seems so.
   * @returns {Promise<boolean>} Whether to join at another one now; false: it was nothing.
   */
  async leave(isLost) {
    if (this.#isLeaving || !this.hasOthers) return false;
    this.#isLeaving = true;
    try {
      while (isLost()) {
        const edge = await this.another();
        // Not all of its clients at once.
        await sleep(edge ? Math.random() * SPREAD_MS_MAX : AGAIN_MS);
        if (!edge || !isLost()) continue;
        this.current = edge;
        return true;
      }
      return false;
    } finally {
      this.#isLeaving = false;
    }
  }

  close() {
    clearInterval(this.#refreshing);
  }

  /** @param {(string | undefined)[]} servers @param {number} ms */
  async #learn(servers, ms) {
    const lists = servers.map((server) => listOf(server, ms));
    const list = await Promise.any(lists).catch(() => /** @type {Known[]} */ ([]));
    if (list.length > 1) this.#known = list;
    // Edges that are no cluster, or of a former version.
    else if (this.#known.length === 0 && this.#servers.length > 1) {
      this.#known = this.#servers.flatMap((url) => (url ? known(url) : []));
    }
  }
}

/** An edge of which only the address is known. @param {string} url @returns {Known} */
const known = (url) => ({ url, name: '', region: '', rttMs: undefined, busy: 0 });

/** @param {string | undefined} server @param {number} ms @returns {Promise<Known[]>} */
async function listOf(server, ms) {
  const response = await fetch(addressOf('v1/edges', server), { signal: AbortSignal.timeout(ms) });
  const { edges } = await response.json();
  const text = (/** @type {unknown} */ value) => (typeof value === 'string' ? value : '');
  return edges.slice(0, LIST_MAX).flatMap((/** @type {any} */ edge) => {
    // Of the one that was asked the address is known in any case.
    const url = text(edge.url) || (edge === edges[0] ? addressOf('', server).href : '');
    if (!/^https?:/.test(url)) return [];
    const busy = Math.floor((Number(edge.busy_permille) || 0) / 100);
    return [{ ...known(url), name: text(edge.name), region: text(edge.region), busy }];
  });
}

/**
 * The edges to measure: the one that was asked, then by turns one of each region, whose less busy ones come first; chance decides among equals.
 * @param {Known[]} edges
 * @param {Known | undefined} first
 */
export function toMeasure(edges, first) {
  const others = shuffled(edges.filter((edge) => edge !== first)).sort((a, b) => a.busy - b.busy);
  // The server's order of the regions: that of the edge that was asked first.
  const regions = new Map(edges.map(({ region }) => [region, others.filter((edge) => edge.region === region)]));
  const ordered = first ? [first] : [];
  while ([...regions.values()].some((rest) => rest.length)) {
    for (const rest of regions.values()) ordered.push(...rest.splice(0, 1));
  }
  return ordered.slice(0, MEASURED_MAX);
}

/**
 * Measures edges beside each other.
 * @param {Known[]} edges
 * @param {number} ms
 * @param {boolean} [isAgain] Once more: the shorter round trip counts.
 * @returns {Promise<Known[]>} Those that answered in time, in the given order.
 */
async function measure(edges, ms, isAgain = false) {
  const began = performance.now();
  /** @type {() => void} */
  let stop = () => {};
  const stopped = new Promise((resolve) => (stop = () => resolve(undefined)));
  const timers = [setTimeout(stop, Math.max(0, ms))];
  const signal = AbortSignal.timeout(Math.max(1, Math.ceil(ms)));
  const measuring = edges.map(async (edge) => {
    if (!isAgain) await ping(edge.url, signal); // Opens the connection.
    edge.rttMs = Math.min(edge.rttMs ?? Infinity, await ping(edge.url, signal));
    // Who takes more than twice as long as the first is not as near.
    timers.push(setTimeout(stop, performance.now() - began + 50));
  });
  if (!isAgain) for (const edge of edges) edge.rttMs = undefined;
  await Promise.race([Promise.allSettled(measuring), stopped]);
  for (const timer of timers) clearTimeout(timer);
  return edges.filter(({ rttMs }) => rttMs !== undefined);
}

/**
 * @param {string | undefined} server
 * @param {AbortSignal} signal
 * @returns {Promise<number>} How long it took, milliseconds.
 */
async function ping(server, signal) {
  const url = addressOf('v1/edges/ping', server);
  url.search = `${(pings += 1)}`;
  const began = performance.now();
  const response = await fetch(url, { cache: 'no-store', signal });
  if (!response.ok) throw new Error(`${response.status}`);
  const took = performance.now() - began;
  // What the browser measured is without the time that this page was busy.
  const entry = performance.getEntriesByName?.(url.href).at(-1);
  const { requestStart = 0, responseStart = 0 } = /** @type {Partial<PerformanceResourceTiming>} */ (entry ?? {});
  return requestStart > 0 && responseStart > requestStart ? Math.min(took, responseStart - requestStart) : took;
}

/** Whether an edge answers in time, the second time at the latest. @param {string | undefined} server @param {number} ms */
async function answers(server, ms) {
  const signal = AbortSignal.timeout(ms);
  const isThere = () => ping(server, signal).then(() => true, () => false);
  if (await isThere()) return true;
  await sleep(AGAIN_MS);
  return !signal.aborted && isThere();
}

/** The best of those that were measured; the first of equals. @param {Known[]} measured */
export function nearest(measured) {
  const rtt = (/** @type {Known} */ { rttMs = Infinity }) => rttMs;
  const most = near(Math.min(...measured.map(rtt)));
  const [best] = measured.filter((edge) => rtt(edge) <= most).sort((a, b) => a.busy - b.busy);
  return best;
}

/** @template T @param {T[]} list */
function shuffled(list) {
  return list.map((item) => ({ item, at: Math.random() })).sort((a, b) => a.at - b.at).map(({ item }) => item);
}
