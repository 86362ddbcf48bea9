// @ts-check
/** Raised hands and reactions: who has what, the buttons for them, and what floats over the tiles. */

import { button, hide, icon, make, part, toast } from './elements.js';

/** @import { Participant, Room } from './sdk/uprtc.js' */

const HAND = 'uprtc.hand';
const REACTION = 'uprtc.reaction';

/** What the others' pages show: nothing else that comes. */
const REACTIONS = new Map([
  ['👍', 'thumbs up'],
  ['👏', 'applause'],
  ['❤️', 'a heart'],
  ['😂', 'laughter'],
  ['😮', 'surprise'],
  ['🎉', 'a celebration'],
]);
const FLOATING_MAX = 24;
const FLOAT_MS = 3_000;
/** One participant's reactions, which may be so many at once. */
const EACH_MAX = 6;
/** Reactions are read out together. */
const SAY_MS = 1_500;

/** Whose hand is raised. @type {WeakSet<Participant>} */
const raised = new WeakSet();

/** @param {Participant} participant */
export const hasHandUp = (participant) => raised.has(participant);

export class Talk {
  /**
   * @param {Room} room
   * @param {AbortSignal} signal
   * @param {{ tileOf: (participant: Participant) => Element | undefined, onhand: (participant: Participant) => void }} page
   */
  constructor(room, signal, { tileOf, onhand }) {
    this.#room = room;
    this.#tileOf = tileOf;
    this.#onhand = onhand;
    button('hand').addEventListener('click', () => this.#raise(!hasHandUp(room.local)), { signal });
    button('react').addEventListener('click', () => this.#open(room.maySendData && !!part('reactions').hidden), { signal });
    part('reactions').replaceChildren(...[...REACTIONS].map(([emoji, name]) => this.#choice(emoji, name)));
    part('reactions').addEventListener('keydown', (event) => this.#key(event), { signal });
    button('react').addEventListener('keydown', ({ key }) => key === 'Escape' && this.#open(false), { signal });
    document.addEventListener('pointerdown', ({ target }) => {
      if (target instanceof Node && !part('talk').contains(target)) this.#open(false);
    }, { signal });
    room.on('data', (message) => this.#received(message));
    // Who comes late is told by those whose hands are raised.
    room.on('peer-joined', ({ participant }) => {
      if (hasHandUp(room.local)) this.#tell(true, participant);
    });
    room.on('joined', ({ rejoined }) => {
      // Those whose hands are still raised tell it anew, as to anybody who comes.
      if (rejoined) for (const participant of room.participants.values()) this.#set(participant, false);
      if (rejoined && hasHandUp(room.local)) this.#tell(true);
      this.refresh();
    });
    room.on('moved', () => this.#set(room.local, false));
    room.on('granted', () => this.refresh());
    signal.addEventListener('abort', () => {
      clearTimeout(this.#saying);
      this.#open(false);
      part('floating').replaceChildren();
      part('reaction-news').textContent = '';
      raised.delete(room.local);
    });
    this.refresh();
  }

  #room;
  #tileOf;
  #onhand;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #saying;
  /** @type {string[]} */
  #toSay = [];

  /** Updates the buttons. */
  refresh() {
    const { local, maySendData } = this.#room;
    const isUp = hasHandUp(local);
    button('hand').setAttribute('aria-pressed', String(isUp));
    button('hand').toggleAttribute('data-on', isUp);
    if (!maySendData && isUp) this.#set(local, false);
    for (const id of ['hand', 'react']) hide(button(id), !maySendData, button('chat-open'));
    if (!maySendData) this.#open(false);
  }

  // Hands

  /** @param {boolean} isUp */
  #raise(isUp) {
    if (!this.#room.maySendData) return;
    this.#set(this.#room.local, isUp);
    this.#tell(isUp);
    this.refresh();
  }

  /** @param {boolean} isUp @param {Participant} [to] */
  #tell(isUp, to) {
    this.#room.send(isUp ? 'up' : 'down', { label: HAND, ...(to && { to }) }).catch(() => {
      // Who has left, or may no longer send, has no hand raised at the others either.
    });
  }

  /** @param {Participant} participant @param {boolean} isUp */
  #set(participant, isUp) {
    if (isUp === hasHandUp(participant)) return;
    if (isUp) raised.add(participant);
    else raised.delete(participant);
    this.#onhand(participant);
  }

  /** @param {{ from: Participant | undefined, label: string, data: string | ArrayBuffer }} message */
  #received({ from, label, data }) {
    if (!from) return;
    if (label === HAND && (data === 'up' || data === 'down')) {
      const isNews = data === 'up' && !hasHandUp(from);
      this.#set(from, data === 'up');
      if (isNews && from.name) toast(`${from.name} raised a hand`);
    }
    if (label === REACTION && typeof data === 'string') this.#show(from, data);
  }

  // Reactions

  /** @param {string} emoji @param {string} name */
  #choice(emoji, name) {
    const choice = make('button', { type: 'button', className: 'reaction', title: name }, emoji);
    choice.setAttribute('aria-label', name);
    choice.addEventListener('click', () => {
      this.#room.send(emoji, { label: REACTION, reliable: false }).catch(() => {});
      this.#show(this.#room.local, emoji);
    });
    return choice;
  }

  /** @param {boolean} isOpen */
  #open(isOpen) {
    const list = part('reactions');
    if (isOpen === !list.hidden) return;
    hide(list, !isOpen, button('react'));
    button('react').setAttribute('aria-expanded', String(isOpen));
    const [first] = list.children;
    if (isOpen && first instanceof HTMLElement) first.focus({ focusVisible: false });
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const choices = [...part('reactions').querySelectorAll('button')];
    const at = choices.findIndex((choice) => choice === document.activeElement);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === 'Escape') this.#open(false);
    else if (step) choices.at((at + step) % choices.length)?.focus();
    else if (/^[1-9]$/.test(event.key)) choices[Number(event.key) - 1]?.click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {Participant} participant @param {string} emoji */
  #show(participant, emoji) {
    const name = REACTIONS.get(emoji);
    if (!name) return;
    const { id, isLocal } = participant;
    const floating = part('floating');
    const own = [...floating.children].filter((one) => one instanceof HTMLElement && one.dataset.from === id);
    if (own.length >= EACH_MAX || floating.children.length >= FLOATING_MAX) return;
    // Over the tile of who sent it; who has none, is in the middle.
    const box = (this.#tileOf(participant) ?? part('stage')).getBoundingClientRect();
    const area = floating.getBoundingClientRect();
    const element = make('span', { className: 'floating-one' }, emoji);
    element.dataset.from = id;
    element.style.left = `${box.left - area.left + box.width * (0.3 + Math.random() * 0.4)}px`;
    element.style.bottom = `${Math.max(0, area.bottom - box.bottom) + 34}px`;
    floating.append(element);
    setTimeout(() => element.remove(), FLOAT_MS);
    if (!isLocal) this.#say(`${participant.name} sends ${name}`);
  }

  /** Reads out what came, but not each one. @param {string} text */
  #say(text) {
    if (!this.#toSay.includes(text) && this.#toSay.length < 5) this.#toSay.push(text);
    this.#saying ??= setTimeout(() => {
      this.#saying = undefined;
      part('reaction-news').textContent = this.#toSay.splice(0).join(', ');
    }, SAY_MS);
  }
}

/** The sign of a raised hand on a tile. */
export function handSign() {
  return make('span', { className: 'hand-up', hidden: true, title: 'hand raised' }, icon('hand'));
}
