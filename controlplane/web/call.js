// @ts-check
/** In the room: tiles, the bar, and a word when something is not as it should be. */

import { UprtcError } from '/sdk/uprtc.js';
import { button, find, notice, part, showSwitch, toast } from './elements.js';
import { tileSize } from './grid.js';
import { listDevices } from './pickers.js';
import { Tile } from './tile.js';

/** @import { Participant, ParticipantStats, Room, RoomStats } from '/sdk/uprtc.js' */
/** @import { Quality } from './tile.js' */

const STATS_MS = 2_000;

/**
 * Shows a room until it is closed.
 * @param {Room} room
 */
export function showCall(room) {
  part('call').hidden = false;
  new Call(room);
}

class Call {
  /** @param {Room} room */
  constructor(room) {
    this.#room = room;
    this.#showName();
    this.#bindRoom();
    this.#bindBar();
    this.#add(room.local);
    for (const participant of room.participants.values()) this.#add(participant);
    this.#observer.observe(part('stage'));
    this.#refresh();
    this.#stateChanged();
  }

  /** @type {Room} */
  #room;
  /** @type {Map<Participant, Tile>} */
  #tiles = new Map();
  /** @type {Map<Participant, Tile>} */
  #screens = new Map();
  #observer = new ResizeObserver(() => this.#layOut());
  #ends = new AbortController();
  #saysWhoComes = false;

  #showName() {
    part('call-title').textContent = `Room ${this.#room.name}`;
    part('bar-room').textContent = this.#room.name;
  }

  /** Who is there already does not come, and who stays behind does not leave. */
  #arrive() {
    this.#saysWhoComes = false;
    setTimeout(() => (this.#saysWhoComes = true), 1_500);
  }

  #bindRoom() {
    const room = this.#room;
    room.on('joined', () => {
      this.#tiles.get(room.local)?.refresh();
      this.#arrive();
    });
    room.on('moved', () => {
      this.#arrive();
      this.#showName();
      toast(`You are in the room ${room.name} now`);
    });
    room.on('peer-joined', ({ participant }) => {
      this.#add(participant);
      if (this.#saysWhoComes && room.state === 'connected') toast(`${participant.name} joined`);
    });
    room.on('peer-left', ({ participant, reason }) => {
      this.#remove(participant);
      if (room.state !== 'connected' || reason === 'media_restarted') return;
      if (reason !== 'moved') toast(`${participant.name} ${reason === 'left' ? 'left' : 'lost the connection'}`);
      else if (this.#saysWhoComes) toast(`${participant.name} went to another room`);
    });
    room.on('track-changed', ({ participant }) => this.#changed(participant));
    room.on('stream-changed', ({ participant }) => this.#changed(participant));
    room.on('speaking', ({ participant }) => this.#tiles.get(participant)?.refresh());
    room.on('state', () => this.#stateChanged());
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

  /** @param {Participant} participant */
  #add(participant) {
    const tile = new Tile(participant, false);
    this.#tiles.set(participant, tile);
    part('tiles').append(tile.element);
    this.#play(tile);
    this.#changed(participant);
  }

  /** @param {Participant} participant */
  #remove(participant) {
    for (const tiles of [this.#tiles, this.#screens]) {
      tiles.get(participant)?.remove();
      tiles.delete(participant);
    }
    this.#layOut();
  }

  /** @param {Participant} participant */
  #changed(participant) {
    const screen = this.#screens.get(participant);
    const isShared = participant.active.screen && participant.screen.getVideoTracks().length > 0;
    if (isShared && !screen) {
      const tile = new Tile(participant, true);
      this.#screens.set(participant, tile);
      part('screens').append(tile.element);
      this.#play(tile);
    } else if (!isShared && screen) {
      screen.remove();
      this.#screens.delete(participant);
    }
    const tile = this.#tiles.get(participant);
    if (tile) this.#play(tile);
    tile?.refresh();
    this.#screens.get(participant)?.refresh();
    this.#refresh();
  }

  /** @param {Tile} tile */
  async #play(tile) {
    if (!(await tile.play())) button('hear').hidden = false;
  }

  #layOut() {
    const [stage, tiles] = [part('stage'), part('tiles')];
    const isShared = this.#screens.size > 0;
    stage.toggleAttribute('data-shared', isShared);
    part('screens').hidden = !isShared;
    const others = this.#tiles.size - 1;
    // Two people: the other one fills the page, oneself is in the corner.
    const isFloating = others === 1 && !isShared;
    this.#tiles.get(this.#room.local)?.element.toggleAttribute('data-own-float', isFloating);
    part('alone').hidden = others > 0 || this.#room.state === 'closed' || this.#room.state === 'connecting';
    const gap = Number.parseFloat(getComputedStyle(tiles).columnGap) || 0;
    const count = isFloating ? 1 : this.#tiles.size;
    const size = tileSize(count, tiles.clientWidth, tiles.clientHeight, gap);
    for (const tile of this.#tiles.values()) tile.resize(size.width, size.height);
    for (const tile of this.#screens.values()) tile.resize(0, 0);
  }

  // The bar

  #bindBar() {
    const room = this.#room;
    const { signal } = this.#ends;
    /** @param {string} id @param {() => unknown} action */
    const click = (id, action) => button(id).addEventListener('click', action, { signal });
    click('mic', () => this.#try(button('mic'), room.setMicrophone(!room.local.active.microphone)));
    click('cam', () => this.#try(button('cam'), room.setCamera(!room.local.active.camera)));
    click('share', () => this.#try(button('share'), room.local.active.screen ? room.stopScreen() : room.shareScreen()));
    click('settings', () => this.#showDevices());
    click('copy', () => copyLink());
    click('alone-copy', () => copyLink());
    click('leave', () => room.leave());
    click('hear', async () => {
      button('hear').hidden = true;
      for (const tile of this.#tiles.values()) await this.#play(tile);
    });
    addEventListener('keydown', (event) => this.#key(event), { signal });
    const [mic, cam] = [find('call-mic', HTMLSelectElement), find('call-cam', HTMLSelectElement)];
    const choose = (/** @type {HTMLSelectElement} */ select) => ({ deviceId: { exact: select.value } });
    mic.addEventListener('change', () => this.#try(button('mic'), room.setMicrophone(true, choose(mic))), { signal });
    cam.addEventListener('change', () => this.#try(button('cam'), room.setCamera(true, choose(cam))), { signal });
    navigator.mediaDevices?.addEventListener('devicechange', () => this.#listDevices(), { signal });
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const isTyping = event.target instanceof HTMLSelectElement || event.target instanceof HTMLInputElement;
    if (isTyping || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.toLowerCase() === 'm') button('mic').click();
    if (event.key.toLowerCase() === 'v') button('cam').click();
  }

  /** @param {HTMLButtonElement} element @param {Promise<void>} work */
  async #try(element, work) {
    element.disabled = true;
    try {
      await work;
    } catch (error) {
      // Whoever closed the browser's own question about the screen knows that nothing is shared.
      const isCancelled = error instanceof UprtcError && error.code === 'screen_denied';
      if (!isCancelled) toast(error instanceof Error ? error.message : String(error), 'bad');
    } finally {
      element.disabled = !this.#room.mayPublish;
      this.#refresh();
    }
  }

  #refresh() {
    const { local, mayPublish, participants } = this.#room;
    const { microphone, camera, screen } = local.active;
    showSwitch(button('mic'), microphone, 'mic', microphone ? 'Mute microphone (M)' : 'Unmute microphone (M)');
    showSwitch(button('cam'), camera, 'cam', camera ? 'Switch camera off (V)' : 'Switch camera on (V)');
    showSwitch(button('share'), !screen, 'screen', screen ? 'Stop sharing the screen' : 'Share the screen');
    button('share').setAttribute('aria-pressed', String(screen));
    button('share').removeAttribute('data-off');
    button('share').toggleAttribute('data-on', screen);
    for (const id of ['mic', 'cam', 'share']) button(id).hidden = !mayPublish;
    if (!navigator.mediaDevices || !('getDisplayMedia' in navigator.mediaDevices)) button('share').hidden = true;
    const count = participants.size + 1;
    part('bar-count').textContent = count === 1 ? 'only you' : `${count} people`;
    document.title = `${this.#room.name} · uprtc`;
    this.#layOut();
  }

  #showDevices() {
    this.#listDevices();
    find('devices', HTMLDialogElement).showModal();
    this.#look();
  }

  #listDevices() {
    const { local } = this.#room;
    listDevices(find('call-mic', HTMLSelectElement), 'audioinput', local.stream.getAudioTracks()[0]);
    listDevices(find('call-cam', HTMLSelectElement), 'videoinput', local.stream.getVideoTracks()[0]);
  }

  // How it goes

  #stateChanged() {
    const { state } = this.#room;
    notice(
      {
        new: '',
        connecting: 'Connecting…',
        connected: '',
        reconnecting: 'Reconnecting to the server… you still hear and see everybody.',
        interrupted: 'The connection is interrupted. Coming back…',
        closed: '',
      }[state],
      state === 'interrupted' ? 'bad' : '',
    );
    if (state === 'closed') this.#close();
    else this.#layOut();
  }

  async #look() {
    const stats = await this.#room.getStats();
    if (this.#ends.signal.aborted) return;
    for (const [participant, tile] of this.#tiles) {
      tile.showQuality(participant.isLocal ? own(stats) : quality(participant, stats.incoming.get(participant.id)));
    }
    const rtt = stats.rttMs === undefined ? '' : `${Math.round(stats.rttMs)} ms`;
    const up = total(stats.outgoing);
    const down = [...stats.incoming.values()].reduce((sum, part) => sum + total(part), 0);
    part('bar-net').textContent = [rtt, `↑ ${rate(up)}`, `↓ ${rate(down)}`].filter(Boolean).join('  ·  ');
    if (find('devices', HTMLDialogElement).open) this.#showNumbers(stats);
  }

  /** @param {RoomStats} stats */
  #showNumbers(stats) {
    /** @type {[string, string][]} */
    const rows = [['Round trip', stats.rttMs === undefined ? '–' : `${stats.rttMs.toFixed(1)} ms`]];
    rows.push(['You send', describe(stats.outgoing)]);
    for (const [id, part] of stats.incoming) rows.push([this.#room.participants.get(id)?.name ?? id, describe(part)]);
    const body = find('numbers', HTMLTableElement).tBodies[0];
    body?.replaceChildren();
    for (const row of rows) {
      const cells = body?.insertRow();
      for (const text of row) if (cells) cells.insertCell().textContent = text;
    }
  }

  #close() {
    this.#ends.abort();
    this.#observer.disconnect();
    for (const tile of [...this.#tiles.values(), ...this.#screens.values()]) tile.remove();
    find('devices', HTMLDialogElement).close();
    button('hear').hidden = true;
    notice('');
    part('call').hidden = true;
  }
}

async function copyLink() {
  const link = new URL(location.href);
  link.searchParams.delete('join');
  try {
    await navigator.clipboard.writeText(link.href);
    toast('Link copied');
  } catch {
    toast('The browser does not let the link be copied: take it from the address bar.', 'bad');
  }
}

/**
 * @param {Participant} participant
 * @param {ParticipantStats | undefined} stats
 * @returns {Quality}
 */
function quality({ active }, stats) {
  const { camera, microphone } = stats ?? {};
  if (!(active.camera && camera) && !(active.microphone && microphone)) return '';
  const loss = Math.max(camera?.loss ?? 0, microphone?.loss ?? 0);
  const jitterMs = Math.max(camera?.jitterMs ?? 0, microphone?.jitterMs ?? 0);
  const isFrozen = active.camera && camera && camera.frames > 0 && camera.fps < 2;
  if (loss > 0.08 || isFrozen) return 'poor';
  return loss > 0.02 || jitterMs > 60 ? 'fair' : 'good';
}

/** @param {RoomStats} stats @returns {Quality} */
function own({ rttMs, outgoing: { camera, microphone } }) {
  if (!camera?.bps && !microphone?.bps) return '';
  const loss = Math.max(camera?.loss ?? 0, microphone?.loss ?? 0);
  if (loss > 0.08 || (rttMs ?? 0) > 600) return 'poor';
  return loss > 0.02 || (rttMs ?? 0) > 250 ? 'fair' : 'good';
}

/** @param {ParticipantStats} stats */
function total({ microphone, camera, screen }) {
  return (microphone?.bps ?? 0) + (camera?.bps ?? 0) + (screen?.bps ?? 0);
}

/** @param {number} bps */
function rate(bps) {
  return bps < 1e6 ? `${Math.round(bps / 1000)} kb/s` : `${(bps / 1e6).toFixed(1)} Mb/s`;
}

/** @param {ParticipantStats} stats */
function describe(stats) {
  const video = stats.screen?.bps ? stats.screen : stats.camera;
  const size = video?.bps ? `${video.width}×${video.height} · ${Math.round(video.fps)} fps` : '';
  const loss = Math.max(stats.camera?.loss ?? 0, stats.microphone?.loss ?? 0);
  return [size, rate(total(stats)), `${(loss * 100).toFixed(1)} % lost`].filter(Boolean).join(' · ');
}
