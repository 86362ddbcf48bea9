// @ts-check
/** In the room: tiles, and a word when something is not as it should be. */

import { Controls } from './controls.js';
import { button, countDown, find, hide, notice, part, toast } from './elements.js';
import { tileSize } from './grid.js';
import { bindPeople, showPeople } from './people.js';
import { Judge, numbers, summary } from './quality.js';
import { Tile } from './tile.js';

/** @import { LeaveReason, Participant, Room, RoomStats } from './sdk/uprtc.js' */

const STATS_MS = 2_000;
/** A wait that is shorter is not worth a countdown. */
const COUNTED_MS_MIN = 1_500;
/** Who is there already does not come, and who stays behind does not leave. */
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
    this.#controls = new Controls(room, { signal, releasePreview, onlook: () => void this.#look() });
    bindPeople(room, signal);
    this.#bindRoom();
    this.#changed(room.local);
    for (const participant of room.participants.values()) this.#changed(participant);
    this.#observer.observe(part('stage'));
    button('hear').addEventListener('click', () => this.#hear(), { signal });
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
  #judge = new Judge();
  #saysWhoComes = false;

  #showName() {
    part('call-title').textContent = `Room ${this.#room.name}`;
    part('bar-room').textContent = this.#room.name;
    document.title = `${this.#room.name} · uprtc`;
  }

  #arrive() {
    this.#saysWhoComes = false;
    setTimeout(() => (this.#saysWhoComes = true), ARRIVAL_MS);
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
      toast(`You are in the room ${room.name} now`);
    });
    room.on('granted', () => this.#changed(room.local));
    room.on('peer-joined', ({ participant }) => {
      this.#changed(participant);
      if (this.#saysWhoComes && participant.publishes && room.state === 'connected') toast(`${participant.name} joined`);
    });
    room.on('peer-left', ({ participant, reason }) => this.#left(participant, reason));
    room.on('peer-changed', ({ participant }) => this.#changed(participant));
    room.on('track-changed', ({ participant }) => this.#changed(participant));
    room.on('stream-changed', ({ participant }) => this.#changed(participant));
    room.on('speaking', ({ participant }) => this.#tiles.get(participant)?.refresh());
    room.on('state', () => this.#stateChanged());
    room.on('retrying', ({ inMs }) => {
      if (inMs >= COUNTED_MS_MIN) countDown('notice-count', inMs, (seconds) => (seconds ? `${seconds} s` : ''));
    });
    room.on('error', ({ error }) => {
      if (error.fatal) return;
      // What only a developer can act on is not for the eyes of everybody.
      if (error.isForPeople) toast(error.message, 'bad');
      else console.warn(`uprtc: ${error.code}: ${error.detail}`);
    });
    const timer = setInterval(() => this.#look(), STATS_MS);
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
    else if (this.#saysWhoComes) toast(`${participant.name} went to another room`);
  }

  /** @param {Participant} participant */
  #changed(participant) {
    const isShared = participant.active.screen && participant.screen.getVideoTracks().length > 0;
    this.#have(this.#tiles, participant, false, participant.publishes);
    this.#have(this.#screens, participant, true, participant.publishes && isShared);
    const tile = this.#tiles.get(participant);
    if (tile) this.#play(tile);
    tile?.refresh();
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
  #have(tiles, participant, isScreen, isWanted) {
    const tile = tiles.get(participant);
    if (isWanted === !!tile) return;
    if (tile) {
      tile.remove();
      tiles.delete(participant);
      return;
    }
    const fresh = new Tile(participant, isScreen, () => this.#layOut());
    tiles.set(participant, fresh);
    const own = this.#tiles.get(this.#room.local)?.element;
    // Oneself is the last.
    if (isScreen) part('screens').append(fresh.element);
    else part('tiles').insertBefore(fresh.element, own === fresh.element ? null : (own ?? null));
    this.#play(fresh);
  }

  /** @param {Tile} tile */
  async #play(tile) {
    if (!(await tile.play()) && !this.#ends.signal.aborted) button('hear').hidden = false;
  }

  async #hear() {
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
    // A list without items is none.
    tiles.hidden = this.#tiles.size === 0;
    const own = this.#tiles.get(this.#room.local);
    const others = [...this.#tiles.values()].filter((tile) => tile !== own);
    const isUpright = stage.clientWidth < stage.clientHeight;
    const ratios = [...this.#tiles.values()].map(({ ratio }) => ratio).filter(Boolean);
    const isWide = ratios.filter((ratio) => ratio > 1).length * 2 > ratios.length;
    // Two people: the other one fills the page, oneself is in the corner; but on a phone that is held upright a wide
    // picture would be cut to a strip, and the two share the page.
    const isFloating = !!own && others.length === 1 && !isShared && !(isUpright && (others[0]?.ratio ?? 0) > 1);
    own?.element.toggleAttribute('data-own-float', isFloating);
    const gap = Number.parseFloat(getComputedStyle(tiles).columnGap) || 0;
    const count = isFloating ? 1 : this.#tiles.size;
    const space = { width: tiles.clientWidth, height: tiles.clientHeight, gap };
    const { width, height, scrolls } = tileSize(count, space, isWide);
    // Who cannot see all of them at once can scroll by the keyboard, too.
    tiles.toggleAttribute('data-scrolls', scrolls);
    if (scrolls) tiles.tabIndex = 0;
    else tiles.removeAttribute('tabindex');
    for (const tile of this.#tiles.values()) tile.resize(width, height);
    for (const tile of this.#screens.values()) tile.resize(0, 0);
  }

  // How it goes

  #stateChanged() {
    const { state } = this.#room;
    if (state === 'closed') return this.#close();
    const retry = () => this.#room.retryNow();
    notice(this.#words(), {
      kind: state === 'interrupted' ? 'bad' : '',
      retry: state === 'interrupted' || state === 'reconnecting' ? retry : undefined,
    });
    // Not at the next look at the numbers, but now.
    if (state === 'interrupted') this.#showCut();
    this.#refresh();
  }

  /** Nothing arrives from anybody, and nothing of ours arrives. */
  #showCut() {
    for (const tile of this.#tiles.values()) tile.showQuality('none');
    part('bar-net').textContent = 'no connection';
  }

  /** What is true now. */
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

  async #look() {
    const stats = await this.#room.getStats();
    if (this.#ends.signal.aborted) return;
    for (const [participant, tile] of this.#tiles) tile.showQuality(this.#judge.quality(participant, stats));
    part('bar-net').textContent = summary(stats);
    if (this.#room.state === 'interrupted') this.#showCut();
    if (find('devices', HTMLDialogElement).open) this.#showNumbers(stats);
  }

  /** @param {RoomStats} stats */
  #showNumbers(stats) {
    const { participants, mayPublish } = this.#room;
    const body = find('numbers', HTMLTableElement).tBodies[0];
    body?.replaceChildren();
    for (const [name, text] of numbers(stats, participants, mayPublish)) {
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
