// @ts-check
/** The control bar: microphone, camera, screen, devices, link, and leave; and the keys. */

import { UprtcError } from './sdk/uprtc.js';
import { button, find, hide, part, showSwitch, toast } from './elements.js';
import { link } from './link.js';
import { listDevices } from './pickers.js';

/** @import { Participant, Room, SendSource } from './sdk/uprtc.js' */

const NAMES = { microphone: 'microphone', camera: 'camera', screen: 'screen' };

export class Controls {
  /**
   * @param {Room} room
   * @param {{ signal: AbortSignal, releasePreview: () => void, onstats: () => void }} options `releasePreview`: closes the
   *   lobby's camera; `onstats`: the dialog with the statistics was opened.
   */
  constructor(room, { signal, releasePreview, onstats }) {
    this.#room = room;
    this.#onstats = onstats;
    /** @param {string} id @param {() => unknown} action */
    const click = (id, action) => button(id).addEventListener('click', action, { signal });
    click('mic', () => this.#toggle('microphone'));
    click('cam', () => this.#toggle('camera'));
    click('share', () => this.#toggle('screen'));
    click('settings', () => this.#showDevices());
    click('copy', () => copyLink());
    click('alone-copy', () => copyLink());
    click('leave', () => room.leave());
    addEventListener('keydown', (event) => this.#key(event), { signal });
    const [mic, cam] = [find('call-mic', HTMLSelectElement), find('call-cam', HTMLSelectElement)];
    const choose = (/** @type {HTMLSelectElement} */ select) => ({ deviceId: { exact: select.value } });
    // Choosing another device does not switch it on.
    mic.addEventListener('change', () => this.#try('mic', room.setMicrophone(room.local.active.microphone, choose(mic))), { signal });
    cam.addEventListener(
      'change',
      () => {
        releasePreview();
        this.#try('cam', room.setCamera(room.local.active.camera, choose(cam)));
      },
      { signal },
    );
    navigator.mediaDevices?.addEventListener('devicechange', () => this.#listDevices(), { signal });
    room.on('track-changed', (change) => this.#muteChanged(change));
    this.refresh();
  }

  #room;
  #onstats;
  /** What an operator had muted at the last change. */
  #muted = { microphone: false, camera: false, screen: false };

  /** @param {KeyboardEvent} event */
  #key(event) {
    const isTyping = [HTMLSelectElement, HTMLInputElement, HTMLTextAreaElement].some((kind) => event.target instanceof kind);
    if (isTyping || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.toLowerCase() === 'm') button('mic').click();
    if (event.key.toLowerCase() === 'v') button('cam').click();
    if (document.querySelector('dialog[open]')) return;
    const id = { c: 'chat-open', h: 'hand', r: 'react' }[event.key.toLowerCase()];
    if (!id) return;
    // The letter would be written into the chat that it opens.
    event.preventDefault();
    button(id).click();
  }

  /** @param {SendSource} source */
  #toggle(source) {
    const room = this.#room;
    if (!room.mayPublish) return;
    const isOn = room.local.active[source];
    if (room.local.muted[source] && !isOn) return toast(`The host has muted your ${NAMES[source]}.`, 'bad');
    if (source === 'microphone') return this.#try('mic', room.setMicrophone(!isOn));
    if (source === 'camera') return this.#try('cam', room.setCamera(!isOn));
    return this.#try('share', isOn ? room.stopScreen() : room.shareScreen());
  }

  /** @param {string} id @param {Promise<void>} work */
  async #try(id, work) {
    // Not `disabled`: the button would lose the keyboard focus.
    button(id).setAttribute('aria-busy', 'true');
    try {
      await work;
    } catch (error) {
      // A person who closed the browser's screen picker knows that nothing is shared.
      const isCancelled = error instanceof UprtcError && error.code === 'screen_denied';
      if (!isCancelled) toast(error instanceof Error ? error.message : String(error), 'bad');
    } finally {
      button(id).removeAttribute('aria-busy');
      this.refresh();
    }
  }

  /**
   * An operator has muted or unmuted one of our sources. A muted source is also switched off here, so that after the unmute the
   * person decides when to be heard or seen again.
   * @param {{ participant: Participant }} change
   */
  #muteChanged({ participant }) {
    if (!participant.isLocal) return;
    for (const source of /** @type {SendSource[]} */ (['microphone', 'camera', 'screen'])) {
      const isMuted = participant.muted[source];
      if (isMuted === this.#muted[source]) continue;
      this.#muted[source] = isMuted;
      if (!isMuted) toast(`The host no longer mutes your ${NAMES[source]}. It stays off until you switch it on.`);
      else {
        toast(`The host has muted your ${NAMES[source]}.`, 'bad');
        this.#switchOff(source).catch(() => {});
      }
    }
    this.refresh();
  }

  /** @param {SendSource} source */
  async #switchOff(source) {
    if (source === 'microphone') await this.#room.setMicrophone(false);
    else if (source === 'camera') await this.#room.setCamera(false);
    else await this.#room.stopScreen();
  }

  /** Updates the buttons to what is sent. */
  refresh() {
    const { local, mayPublish } = this.#room;
    const { active, muted } = local;
    const label = (/** @type {string} */ name, /** @type {SendSource} */ source) =>
      muted[source] ? `${name}, muted by the host` : name;
    showSwitch(button('mic'), active.microphone && !muted.microphone, 'mic', label('Microphone', 'microphone'));
    showSwitch(button('cam'), active.camera && !muted.camera, 'cam', label('Camera', 'camera'));
    showSwitch(button('share'), !active.screen, 'screen', label('Share screen', 'screen'));
    button('share').setAttribute('aria-pressed', String(active.screen));
    button('share').removeAttribute('data-off');
    button('share').toggleAttribute('data-on', active.screen);
    for (const [id, source] of /** @type {[string, SendSource][]} */ ([['mic', 'microphone'], ['cam', 'camera'], ['share', 'screen']])) {
      button(id).toggleAttribute('data-by-host', muted[source]);
      if (muted[source]) button(id).setAttribute('aria-disabled', 'true');
      else button(id).removeAttribute('aria-disabled');
      hide(button(id), !mayPublish, button('leave'));
    }
    hide(button('copy'), !link.mayInvite, button('leave'));
    if (!navigator.mediaDevices || !('getDisplayMedia' in navigator.mediaDevices)) hide(button('share'), true, button('leave'));
    hide(part('device-fields'), !mayPublish, button('devices-done'));
    part('devices-title').textContent = mayPublish ? 'Devices' : 'You watch and listen';
  }

  #showDevices() {
    this.#listDevices();
    find('devices', HTMLDialogElement).showModal();
    this.#onstats();
  }

  #listDevices() {
    const room = this.#room;
    listDevices(find('call-mic', HTMLSelectElement), 'audioinput', room.deviceIdOf('microphone'));
    listDevices(find('call-cam', HTMLSelectElement), 'videoinput', room.deviceIdOf('camera'));
  }
}

/** Copies a link for other people. */
async function copyLink() {
  const text = link.invitation();
  try {
    await copy(text);
    toast('Link copied: whoever opens it chooses a name.');
  } catch (error) {
    if (error instanceof UprtcError) return toast(error.message, 'bad');
    // Here it can still be copied by hand: the address bar does not have it.
    prompt('The browser does not allow copying. Copy this link:', await text);
  }
}

/**
 * Starts in the click and gets the text later: some browsers allow copying in the handler of a click only.
 * @param {Promise<string>} text
 */
async function copy(text) {
  if (typeof ClipboardItem !== 'function' || !navigator.clipboard.write) return navigator.clipboard.writeText(await text);
  const blob = text.then((text) => new Blob([text], { type: 'text/plain' }));
  const written = navigator.clipboard.write([new ClipboardItem({ 'text/plain': blob })]);
  // An error of the text says more than the one of the copy that follows from it.
  await Promise.all([text, written]);
}
