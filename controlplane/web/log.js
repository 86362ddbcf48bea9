// @ts-check
/** What was written in the chat: bounded, each once, without characters that nobody sees, and with links that are safe. */

import { make } from './elements.js';

/** @import { Participant } from './sdk/uprtc.js' */

/** `author` is not known of those who had left before we came. @typedef {{ key: string, author: Participant | undefined, peer: string, text: string, at: number }} Entry */

/** What who comes late is told. */
const TOLD_MAX = 100;
const TOLD_BYTES_MAX = 65_536;
export const TEXT_MAX = 4_000;
const KEY_MAX = 64;

export class Log {
  /** @type {Entry[]} In the order in which they came. */
  #entries = [];
  /** Keys of what was here, so that each is shown once: a message may come again after a participant had to join again. @type {Set<string>} */
  #keys = new Set();

  /**
   * @param {Participant} author
   * @param {string} words
   * @param {string} [key] Chosen by its author.
   * @returns {Entry | undefined} Nothing if it was here before, or is nothing to show.
   */
  add(author, words, key = makeKey()) {
    const entry = this.#entryOf(author, author.id, words, key, Date.now());
    if (entry) this.#entries.push(entry);
    if (this.#entries.length > TOLD_MAX) this.#entries.shift();
    return entry;
  }

  /** @param {Entry} entry */
  remove(entry) {
    this.#entries = this.#entries.filter((one) => one !== entry);
  }

  /** @param {Participant | undefined} author @param {string} peer @param {string} words @param {string} key @param {number} at @returns {Entry | undefined} */
  #entryOf(author, peer, words, key, at) {
    const text = shown(words);
    if (!text || !key || key.length > KEY_MAX || this.#keys.has(key)) return undefined;
    this.#keys.add(key);
    const [oldest] = this.#keys;
    if (this.#keys.size > 8 * TOLD_MAX && oldest !== undefined) this.#keys.delete(oldest);
    return { key, author, peer, text, at };
  }

  /** For who comes late: the last messages, as text. */
  written() {
    const now = Date.now();
    const told = [];
    let bytes = 32;
    for (const { key, author, peer, text, at } of this.#entries.toReversed()) {
      const one = { key, peer: author?.id ?? peer, text, ago: now - at };
      bytes += new TextEncoder().encode(JSON.stringify(one)).length + 1;
      if (bytes > TOLD_BYTES_MAX) break;
      told.unshift(one);
    }
    return JSON.stringify({ messages: told });
  }

  /**
   * Takes what somebody says was written before. Names are those of the participants' list.
   * @param {any} told
   * @param {(id: string) => Participant | undefined} find
   * @returns {Entry[]} What is new.
   */
  read(told, find) {
    const list = Array.isArray(told.messages) ? told.messages.slice(-TOLD_MAX) : [];
    /** @type {Entry[]} */
    const fresh = list.flatMap((/** @type {any} */ one) => {
      const { key, peer, text, ago } = Object(one);
      if (typeof key !== 'string' || typeof peer !== 'string' || typeof text !== 'string') return [];
      const author = find(peer);
      // What we wrote ourselves we know.
      if (author?.isLocal) return [];
      return this.#entryOf(author, peer, text, key, Date.now() - Math.min(Math.max(0, Number(ago) || 0), 86_400_000)) ?? [];
    });
    this.#entries = [...fresh, ...this.#entries].slice(-TOLD_MAX);
    return fresh;
  }
}

const makeKey = () => [...crypto.getRandomValues(new Uint32Array(3))].map((part) => part.toString(36)).join('');

/** Without characters that nobody sees or that turn the line around; but with joined emojis. @param {string} text */
function shown(text) {
  const plain = text.slice(0, TEXT_MAX).normalize().replace(/\r\n?/g, '\n').replaceAll('\t', ' ');
  return plain.replace(/[\p{Bidi_Control}\p{Cs}\p{Co}\u00ad\u2028\u2029\ufeff\ufff9-\ufffb]|(?!\n)\p{Cc}/gu, '').replace(/\n{3,}/g, '\n\n').trim();
}

/**
 * The text as nodes: what begins like a web address becomes a link, everything else stays text.
 * @param {string} text
 * @returns {(Node | string)[]}
 */
export function textWithLinks(text) {
  /** @type {(Node | string)[]} */
  const nodes = [];
  let from = 0;
  for (const found of text.matchAll(/\bhttps?:\/\/[^\s<>"'`]+/giu)) {
    // What ends a sentence does not belong to it, nor does a bracket that was opened before.
    let words = found[0].replace(/[.,;:!?\]}…]+$/u, '');
    if (words.endsWith(')') && !words.includes('(')) words = words.replace(/[.,;:!?)…]+$/u, '');
    const link = linkTo(words);
    if (!link) continue;
    nodes.push(text.slice(from, found.index), link);
    from = found.index + words.length;
  }
  return [...nodes, text.slice(from)].filter((node) => node !== '');
}

/** @param {string} words */
function linkTo(words) {
  if (!URL.canParse(words)) return undefined;
  const { protocol, username, password, href } = new URL(words);
  // `https://bank.example@evil.example` looks like another place than it leads to.
  if (!/^https?:$/.test(protocol) || username || password) return undefined;
  return make('a', { href, target: '_blank', rel: 'noopener noreferrer' }, words);
}
