// @ts-check
/** A target of events that knows which there are in a room, and what each tells. */

/** @import { RoomEvents } from './types.js' */

/**
 * @typedef {object} TypedTarget
 * @property {<K extends keyof RoomEvents>(type: K,
 *   listener: ((event: CustomEvent<RoomEvents[K]>) => void) | null,
 *   options?: boolean | AddEventListenerOptions) => void} addEventListener
 * @property {<K extends keyof RoomEvents>(type: K,
 *   listener: ((event: CustomEvent<RoomEvents[K]>) => void) | null,
 *   options?: boolean | EventListenerOptions) => void} removeEventListener
 * @property {(event: Event) => boolean} dispatchEvent
 * @property {<K extends keyof RoomEvents>(type: K, listener: (detail: RoomEvents[K]) => void) => () => void} on Like
 *   `addEventListener`, but the listener gets the event's detail. Returns a function that removes the listener.
 */

class Target extends EventTarget {
  /** @param {string} type @param {(detail: any) => void} listener */
  on(type, listener) {
    const wrapped = (/** @type {Event} */ event) => listener(/** @type {CustomEvent} */ (event).detail);
    this.addEventListener(type, wrapped);
    return () => this.removeEventListener(type, wrapped);
  }
}

export const RoomTarget = /** @type {new () => TypedTarget} */ (/** @type {unknown} */ (Target));
