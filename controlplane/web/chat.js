// @ts-check
/** The chat: its panel, what is unread, and what was written before one came. */

import { button, find, hide, make, part, toast } from './elements.js';
import { Log, textWithLinks } from './log.js';

/** @import { Entry } from './log.js' */
/** @import { Participant, Room } from './sdk/uprtc.js' */

const CHAT = 'uprtc.chat';
const HISTORY = 'uprtc.history';
/** How long one participant may take to tell what was written, and how many are asked. */
const ASK_MS = 2_500;
const ASKED_MAX = 3;
/** Messages in the panel. */
const SHOWN_MAX = 500;
const UNREAD_SHOWN_MAX = 99;

export class Chat {
  /** @param {Room} room @param {AbortSignal} signal */
  constructor(room, signal) {
    this.#room = room;
    part('chat-list').replaceChildren();
    button('chat-open').addEventListener('click', () => this.#open(!!part('chat').hidden), { signal });
    button('chat-close').addEventListener('click', () => this.#open(false), { signal });
    part('chat').addEventListener('keydown', (event) => {
      if (event.key !== 'Escape' || event.isComposing) return;
      event.stopPropagation();
      this.#open(false);
    }, { signal });
    find('chat-form', HTMLFormElement).addEventListener('submit', (event) => {
      event.preventDefault();
      this.#write();
    }, { signal });
    this.#input.addEventListener('keydown', (event) => {
      // While a word is being composed, Enter belongs to it.
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#write();
    }, { signal });
    room.on('data', (message) => this.#received(message));
    room.on('data-ended', () => toast('Your connection was too slow: some messages are missing.', 'bad'));
    room.on('joined', ({ rejoined }) => {
      this.refresh();
      this.#wasAway = rejoined;
      void this.#ask();
    });
    room.on('moved', () => this.#clear());
    room.on('granted', () => this.refresh());
    room.on('state', () => this.refresh());
    signal.addEventListener('abort', () => {
      this.#open(false);
      this.#clear();
    });
    this.#clear();
    this.refresh();
  }

  #room;
  #input = find('chat-text', HTMLTextAreaElement);
  #log = new Log();
  #unread = 0;
  /** Whether we were here before, so that what is missing is newer than what we have. */
  #wasAway = false;
  /** Who was asked what was written before we came, and what to do with the answer. @type {{ who: Participant, resolve: (isAnswered: boolean) => void } | undefined} */
  #asked;

  /** Updates the panel to what may be done. */
  refresh() {
    const { maySendData } = this.#room;
    hide(part('chat-form'), !maySendData, part('chat-title'));
    part('chat-note').hidden = maySendData;
  }

  #clear() {
    this.#log = new Log();
    this.#unread = 0;
    part('chat-list').replaceChildren();
    this.#showUnread();
  }

  /** @param {boolean} isOpen */
  #open(isOpen) {
    if (isOpen === !part('chat').hidden) return;
    hide(part('chat'), !isOpen, button('chat-open'));
    part('call').toggleAttribute('data-chat', isOpen);
    button('chat-open').setAttribute('aria-expanded', String(isOpen));
    if (!isOpen) return;
    this.#unread = 0;
    this.#showUnread();
    this.#scrollDown();
    (this.#room.maySendData ? this.#input : part('chat-title')).focus({ focusVisible: false });
  }

  #showUnread() {
    const count = this.#unread > UNREAD_SHOWN_MAX ? `${UNREAD_SHOWN_MAX}+` : String(this.#unread);
    part('chat-unread').textContent = this.#unread ? count : '';
    part('chat-unread').hidden = !this.#unread;
    const label = this.#unread ? `Chat, ${count} unread` : 'Chat';
    button('chat-open').setAttribute('aria-label', label);
    button('chat-open').title = label;
  }

  async #write() {
    const text = this.#input.value.trim();
    if (!text || !this.#room.maySendData) return;
    const entry = this.#log.add(this.#room.local, text);
    if (!entry) return;
    this.#input.value = '';
    const element = this.#show(entry);
    this.#scrollDown();
    element.dataset.pending = '';
    try {
      await this.#room.send(JSON.stringify({ key: entry.key, text: entry.text }), { label: CHAT });
      delete element.dataset.pending;
    } catch (error) {
      element.dataset.failed = '';
      element.append(make('p', { className: 'chat-failed' }, 'Not sent.'));
      this.#log.remove(entry);
      // What was not sent can be sent again.
      if (!this.#input.value) this.#input.value = text;
      toast(error instanceof Error ? error.message : String(error), 'bad');
    }
  }

  /** @param {{ from: Participant | undefined, label: string, data: string | ArrayBuffer }} message */
  #received({ from, label, data }) {
    if (typeof data !== 'string' || !from) return;
    if (label === HISTORY) return this.#historyCame(from, data);
    if (label !== CHAT) return;
    const { key, text } = /** @type {Record<string, unknown>} */ (parsed(data));
    const entry = typeof text === 'string' && typeof key === 'string' ? this.#log.add(from, text, key) : undefined;
    if (!entry) return;
    const list = part('chat-list');
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    this.#show(entry);
    if (isAtEnd) this.#scrollDown();
    if (!part('chat').hidden) return;
    this.#unread += 1;
    this.#showUnread();
    // The panel, which would be read out, is hidden.
    part('chat-news').textContent = `${this.#nameOf(entry)} writes: ${entry.text}`;
  }

  // What was written before

  /** Asks who is longest in the room, then the next ones. */
  async #ask() {
    const { participants, maySendData } = this.#room;
    if (!maySendData || this.#asked) return;
    for (const who of [...participants.values()].slice(0, ASKED_MAX)) {
      const isAnswered = await new Promise((resolve) => {
        this.#asked = { who, resolve };
        setTimeout(() => resolve(false), ASK_MS);
        this.#room.send('ask', { label: HISTORY, to: who }).catch(() => resolve(false));
      });
      this.#asked = undefined;
      if (isAnswered) return;
    }
  }

  /** Somebody asks, or answers us. @param {Participant} from @param {string} data */
  #historyCame(from, data) {
    if (data === 'ask') {
      this.#room.send(this.#log.written(), { label: HISTORY, to: from }).catch(() => {});
      return;
    }
    if (from !== this.#asked?.who) return;
    this.#asked.resolve(true);
    this.#asked = undefined;
    const fresh = this.#log.read(parsed(data), (id) => (id === this.#room.local.id ? this.#room.local : this.#room.participants.get(id)));
    if (fresh.length === 0) return;
    const list = part('chat-list');
    const first = this.#wasAway ? null : list.firstElementChild;
    const heading = (/** @type {string} */ text) => make('p', { className: 'chat-before' }, text);
    list.insertBefore(heading(`${this.#wasAway ? 'While you were away' : 'Before you came'}, as ${from.name} has it`), first);
    for (const entry of fresh) list.insertBefore(this.#element(entry), first);
    list.insertBefore(heading('Now'), first);
    this.#scrollDown();
    if (!part('chat').hidden) return;
    this.#unread += fresh.length;
    this.#showUnread();
  }

  // Elements

  /** @param {Entry} entry */
  #show(entry) {
    const list = part('chat-list');
    const element = this.#element(entry);
    list.append(element);
    while (list.children.length > SHOWN_MAX) list.firstElementChild?.remove();
    return element;
  }

  /** @param {Entry} entry */
  #nameOf({ author }) {
    if (!author) return 'Somebody who has left';
    return author.isLocal ? `${author.name} (you)` : author.name || 'Somebody who has left';
  }

  /** @param {Entry} entry */
  #element(entry) {
    const time = make('time', { dateTime: new Date(entry.at).toISOString() }, new Date(entry.at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' }));
    const text = make('p', { className: 'chat-words', dir: 'auto' }, ...textWithLinks(entry.text));
    const element = make('article', { className: 'chat-message' }, make('header', {}, make('b', {}, this.#nameOf(entry)), time), text);
    if (entry.author?.isLocal) element.dataset.own = '';
    return element;
  }

  #scrollDown() {
    part('chat-list').scrollTop = part('chat-list').scrollHeight;
  }
}

/** @param {string} text @returns {object} An empty one if it is none. */
function parsed(text) {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
}
