// @ts-check
/** The call: tiles, and notices about problems. */

import { Chat } from './chat.js';
import { Controls } from './controls.js';
import { button, countDown, find, hide, notice, part, toast } from './elements.js';
import { tileSize } from './grid.js';
import { bindPeople, showPeople } from './people.js';
import { History, Plots } from './plots.js';
import { numbers, summary, words } from './quality.js';
import { Record } from './record.js';
import { Talk } from './talk.js';
import { Tile } from './tile.js';

/** @import { LeaveReason, Participant, Room, RoomStats } from './sdk/uprtc.js' */

const STATS_MS = 2_000;
/** Shorter waits have no countdown. */
const COUNTED_MS_MIN = 1_500;
/** No messages about joins and leaves for this long after a join or a move: they concern the change of the room. */
const ARRIVAL_MS = 1_500;

/**
 * Shows a room until it is closed.
 * @param {Room} room
 * @param {() => void} releasePreview Closes the lobby's camera.
 */
export function showCall(room, releasePreview) {
  new Call(room, releasePreview);
}

class Call {
  /**
   * @param {Room} room
   * @param {() => void} releasePreview
   */
  constructor(room, releasePreview) {
    this.#room = room;
    const { signal } = this.#ends;
    part('toasts').replaceChildren();
    this.#showName();
    this.#controls = new Controls(room, { signal, releasePreview, onstats: () => void this.#showStats() });
    bindPeople(room, signal);
    new Chat(room, signal);
    new Record(room, signal);
    new Talk(room, signal, {
      tileOf: (participant) => this.#tiles.get(participant)?.element,
      onhand: (participant) => this.#changed(participant),
    });
    this.#bindRoom();
    this.#changed(room.local);
    for (const participant of room.participants.values()) this.#changed(participant);
    this.#observer.observe(part('stage'));
    button('hear').addEventListener('click', () => this.#playAll(), { signal });
    this.#stateChanged();
  }

  /** @type {Room} */
  #room;
  #controls;
  /** @type {Map<Participant, Tile>} */
  #tiles = new Map();
  /** @type {Map<Participant, Tile>} */
  #screens = new Map();
  #observer = new ResizeObserver(() => this.#layOut());
  #ends = new AbortController();
  #history = new History();
  #plots = new Plots(part('plots'));
  #announcesJoins = false;

  #showName() {
    part('call-title').textContent = `Room ${this.#room.name}`;
    part('bar-room').textContent = this.#room.name;
    document.title = `${this.#room.name} · uprtc`;
  }

  #arrive() {
    this.#announcesJoins = false;
    setTimeout(() => (this.#announcesJoins = true), ARRIVAL_MS);
  }

  #bindRoom() {
    const room = this.#room;
    room.on('joined', () => {
      this.#changed(room.local);
      this.#arrive();
    });
    room.on('moved', () => {
      this.#arrive();
      this.#showName();
      toast(`You are now in the room ${room.name}`);
    });
    room.on('edge-changed', () => toast('Your server failed. You are now in the room by another one.'));
    room.on('granted', () => this.#changed(room.local));
    room.on('peer-joined', ({ participant }) => {
      this.#changed(participant);
      if (this.#announcesJoins && participant.publishes && room.state === 'connected') toast(`${participant.name} joined`);
    });
    room.on('peer-left', ({ participant, reason }) => this.#left(participant, reason));
    room.on('peer-changed', ({ participant }) => this.#changed(participant));
    room.on('track-changed', ({ participant }) => this.#changed(participant));
    room.on('stream-changed', ({ participant }) => this.#changed(participant));
    room.on('quality-changed', ({ participant }) => this.#qualityChanged(participant));
    room.on('speaking', ({ participant }) => this.#tiles.get(participant)?.refresh());
    room.on('state', () => this.#stateChanged());
    room.on('retrying', ({ inMs }) => {
      if (inMs >= COUNTED_MS_MIN) countDown('notice-count', inMs, (seconds) => (seconds ? `${seconds} s` : ''));
    });
    room.on('error', ({ error }) => {
      if (error.fatal) return;
      // Errors for developers are not shown to the person.
      if (error.isForPeople) toast(error.message, 'bad');
      else console.warn(`uprtc: ${error.code}: ${error.detail}`);
    });
    const timer = setInterval(() => this.#showStats(), STATS_MS);
    this.#ends.signal.addEventListener('abort', () => clearInterval(timer));
  }

  // Tiles

  /** @param {Participant} participant @param {LeaveReason} reason */
  #left(participant, reason) {
    for (const tiles of [this.#tiles, this.#screens]) {
      tiles.get(participant)?.remove();
      tiles.delete(participant);
    }
    this.#refresh();
    if (this.#room.state !== 'connected' || reason === 'media_restarted' || !participant.publishes) return;
    if (reason !== 'moved') toast(`${participant.name} ${reason === 'left' ? 'left' : 'lost the connection'}`);
    else if (this.#announcesJoins) toast(`${participant.name} moved to another room`);
  }

  /** @param {Participant} participant */
  #changed(participant) {
    const isShared = participant.active.screen && participant.screen.getVideoTracks().length > 0;
    this.#setTile(this.#tiles, participant, false, participant.publishes);
    this.#setTile(this.#screens, participant, true, participant.publishes && isShared);
    const tile = this.#tiles.get(participant);
    if (tile) this.#play(tile);
    tile?.refresh();
    this.#showQuality(participant);
    this.#screens.get(participant)?.refresh();
    this.#refresh();
  }

  /**
   * Makes or removes a tile.
   * @param {Map<Participant, Tile>} tiles
   * @param {Participant} participant
   * @param {boolean} isScreen
   * @param {boolean} isWanted
   */
  #setTile(tiles, participant, isScreen, isWanted) {
    const tile = tiles.get(participant);
    if (isWanted === !!tile) return;
    if (tile) {
      tile.remove();
      tiles.delete(participant);
      return;
    }
    const fresh = new Tile(participant, isScreen, () => this.#layOut());
    fresh.ondetach = this.#room.attach(fresh.element, participant, isScreen ? 'screen' : 'camera');
    tiles.set(participant, fresh);
    const own = this.#tiles.get(this.#room.local)?.element;
    // The own tile is the last one.
    if (isScreen) part('screens').append(fresh.element);
    else part('tiles').insertBefore(fresh.element, own === fresh.element ? null : (own ?? null));
    this.#play(fresh);
  }

  /** @param {Tile} tile */
  async #play(tile) {
    if (!(await tile.play()) && !this.#ends.signal.aborted) button('hear').hidden = false;
  }

  async #playAll() {
    hide(button('hear'), true, part('call-title'));
    for (const tile of this.#tiles.values()) await this.#play(tile);
  }

  #refresh() {
    this.#controls.refresh();
    part('stage').toggleAttribute('data-alone', showPeople(this.#room));
    this.#layOut();
  }

  #layOut() {
    const [stage, tiles] = [part('stage'), part('tiles')];
    const isShared = this.#screens.size > 0;
    stage.toggleAttribute('data-shared', isShared);
    part('screens').hidden = !isShared;
    // A list without items is hidden from screen readers.
    tiles.hidden = this.#tiles.size === 0;
    const own = this.#tiles.get(this.#room.local);
    const others = [...this.#tiles.values()].filter((tile) => tile !== own);
    const isUpright = stage.clientWidth < stage.clientHeight;
    const ratios = [...this.#tiles.values()].map(({ ratio }) => ratio).filter(Boolean);
    const isWide = ratios.filter((ratio) => ratio > 1).length * 2 > ratios.length;
    // Two people: the other one fills the page, the own tile is in the corner. But in portrait orientation a landscape
    // picture would be cut to a strip, so the two share the page.
    const isFloating = !!own && others.length === 1 && !isShared && !(isUpright && (others[0]?.ratio ?? 0) > 1);
    own?.element.toggleAttribute('data-own-float', isFloating);
    const gap = Number.parseFloat(getComputedStyle(tiles).columnGap) || 0;
    const count = isFloating ? 1 : this.#tiles.size;
    // `clientWidth` is rounded, perhaps up.
    const inner = Math.min(tiles.clientWidth, Math.floor(tiles.getBoundingClientRect().width));
    const space = { width: inner, height: tiles.clientHeight, gap };
    const { width, height, scrolls } = tileSize(count, space, isWide);
    // If not all tiles are visible, the list can also be scrolled by keyboard.
    tiles.toggleAttribute('data-scrolls', scrolls);
    if (scrolls) tiles.tabIndex = 0;
    else tiles.removeAttribute('tabindex');
    for (const tile of this.#tiles.values()) tile.resize(width, height);
    for (const tile of this.#screens.values()) tile.resize(0, 0);
  }

  // State of the connection

  #stateChanged() {
    const { state } = this.#room;
    if (state === 'closed') return this.#close();
    const retry = () => this.#room.retryNow();
    notice(this.#words(), {
      kind: state === 'interrupted' ? 'bad' : '',
      retry: state === 'interrupted' || state === 'reconnecting' ? retry : undefined,
    });
    for (const participant of this.#tiles.keys()) this.#showQuality(participant);
    if (state === 'interrupted') part('bar-net').textContent = 'no connection';
    this.#refresh();
  }

  /** How good a connection is. While ours is interrupted, nothing comes from anybody. @param {Participant} participant */
  #showQuality(participant) {
    const { state } = this.#room;
    const isKnown = state === 'connected' || state === 'reconnecting';
    const quality = isKnown ? participant.quality : state === 'interrupted' ? 'lost' : undefined;
    this.#tiles.get(participant)?.showQuality(quality);
  }

  /** @param {Participant} participant */
  #qualityChanged(participant) {
    this.#showQuality(participant);
    showPeople(this.#room);
    if (!participant.isLocal || this.#room.state !== 'connected') return;
    if (participant.quality === 'weak') toast('Your connection is weak: the others may not see and hear you well.', 'bad');
    else if (participant.quality === 'good') toast('Your connection is good again.');
  }

  /** The notice for the current state. */
  #words() {
    const { state, isServerStopping, participants } = this.#room;
    const others = participants.size ? ' You still hear and see the others.' : '';
    switch (state) {
      case 'connecting':
        return 'Connecting…';
      case 'reconnecting':
        if (isServerStopping) return 'The server is stopping. Reconnecting…';
        return `Reconnecting to the server…${others}`;
      case 'interrupted':
        if (isServerStopping) return 'The server was stopped. Trying again…';
        return 'No connection. Nobody hears or sees you. Trying again…';
      default:
        return '';
    }
  }

  async #showStats() {
    const stats = await this.#room.getStats();
    if (this.#ends.signal.aborted) return;
    this.#history.add(stats);
    part('bar-net').textContent = this.#room.state === 'interrupted' ? 'no connection' : summary(stats);
    if (!find('devices', HTMLDialogElement).open) return;
    this.#showNumbers(stats);
    this.#plots.show(this.#history);
  }

  /** @param {RoomStats} stats */
  #showNumbers(stats) {
    const { local, participants, mayPublish } = this.#room;
    const body = find('numbers', HTMLTableElement).tBodies[0];
    body?.replaceChildren();
    /** @type {[string, string]} */
    const own = ['Your connection', words(local.quality) || 'good'];
    for (const [name, text] of [own, ...numbers(stats, participants, mayPublish)]) {
      const row = body?.insertRow();
      const head = document.createElement('th');
      head.scope = 'row';
      head.textContent = name;
      row?.append(head);
      if (row) row.insertCell().textContent = text;
    }
  }

  #close() {
    this.#ends.abort();
    this.#observer.disconnect();
    for (const tile of [...this.#tiles.values(), ...this.#screens.values()]) tile.remove();
    for (const id of ['devices', 'people']) find(id, HTMLDialogElement).close();
    button('hear').hidden = true;
    part('alone').hidden = true;
    notice('');
    part('toasts').replaceChildren();
  }
}
