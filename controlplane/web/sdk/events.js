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
 */

export const RoomTarget = /** @type {new () => TypedTarget} */ (/** @type {unknown} */ (EventTarget));
