// @ts-check
/** What this client sends: its microphone, camera and screen, and the signals about them. */

import { Device, openDevices } from './device.js';
import { UprtcError } from './error.js';
import { moveTracks } from './participant.js';

/** @import { Participant } from './participant.js' */
/** @import { RoomEvents, RoomOptions, SendSource, Source } from './uprtc.js' */

/**
 * What the devices need from their room.
 * @typedef {object} Host
 * @property {Participant} local
 * @property {<K extends keyof RoomEvents>(type: K, detail: RoomEvents[K]) => void} emit
 * @property {(error: unknown) => void} report
 * @property {() => boolean} isClosed
 * @property {() => boolean} mayPublish
 * @property {(device: Device) => Promise<void> | undefined} carry Puts its track, or no track, into the sender.
 * @property {(source: SendSource, active: boolean) => void} announce Tells the server.
 */

export class Sending {
  /** @param {Host} host */
  constructor(host) {
    this.#host = host;
    /** @type {Record<SendSource, Device>} */
    this.devices = {
      microphone: new Device('microphone'),
      camera: new Device('camera'),
      screen: new Device('screen'),
    };
    for (const device of this.all) device.onlost = () => this.#lost(device.source);
  }

  #host;

  get all() {
    return Object.values(this.devices);
  }

  /** Opens the devices that send from the start. @param {RoomOptions} options */
  async open({ microphone, camera }) {
    const { report, isClosed } = this.#host;
    const wishes = { microphone, camera };
    const isTrack = (/** @type {unknown} */ wish) => wish instanceof MediaStreamTrack;
    const opened = await openDevices({
      ...(!isTrack(microphone) && { microphone }),
      ...(!isTrack(camera) && { camera }),
    });
    for (const error of opened.errors) report(error);
    for (const source of /** @type {const} */ (['microphone', 'camera'])) {
      const given = wishes[source];
      if (isClosed()) opened[source]?.stop();
      else if (opened[source]) this.devices[source].adopt(opened[source]);
      else if (given instanceof MediaStreamTrack) await this.devices[source].switch(true, given);
      this.#show(this.devices[source]);
    }
  }

  /**
   * @param {SendSource} source
   * @param {boolean} on
   * @param {boolean | MediaTrackConstraints | MediaStreamTrack} [choice]
   */
  async switch(source, on, choice) {
    const { isClosed, mayPublish, carry } = this.#host;
    if (isClosed()) return;
    if (on && !mayPublish()) throw new UprtcError('forbidden', 'the token does not allow to publish');
    const device = this.devices[source];
    try {
      await device.switch(on, choice);
    } finally {
      // If the new device could not be opened, the former one may be closed too: show the actual state.
      if (isClosed()) device.close();
      else {
        await carry(device);
        this.#show(device);
      }
    }
  }

  /** @param {Device} device */
  #show(device) {
    const { source, isActive } = device;
    const { local, emit, announce } = this.#host;
    // A muted microphone keeps its track, a camera that is off has none.
    const shown = device.track ? [device.track] : [];
    const stream = local.streamOf(source);
    if (moveTracks(stream, source === 'microphone' ? 'audio' : 'video', shown)) {
      emit('stream-changed', { participant: local, stream });
    }
    if (local.active[source] === isActive) return;
    local.active[source] = isActive;
    announce(source, isActive);
    emit('track-changed', { participant: local, source, active: isActive, muted: local.muted[source] });
  }

  /**
   * Takes the mutes from `welcome`: a resumed peer may have been muted meanwhile.
   * @param {(source: SendSource) => boolean} isMuted
   */
  setMutes(isMuted) {
    for (const { source } of this.all) this.setMute(source, isMuted(source));
  }

  /** An operator muted or unmuted one of our sources. @param {Source} source @param {boolean} muted */
  setMute(source, muted) {
    const { local, emit } = this.#host;
    if (local.muted[source] === muted) return;
    local.muted[source] = muted;
    emit('track-changed', { participant: local, source, active: local.active[source], muted });
  }

  /** The device ended by itself. @param {SendSource} source */
  #lost(source) {
    const { report } = this.#host;
    // The person ended the screen share with the browser's button: this is not an error.
    if (source !== 'screen') report(new UprtcError(`${source}_lost`));
    this.switch(source, false).catch(report);
  }

  close() {
    for (const device of this.all) device.close();
  }
}
