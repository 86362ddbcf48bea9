// @ts-check
/** Lists of microphones and cameras. */

import { make } from './elements.js';

/**
 * Fills a list with the devices of a kind.
 * @param {HTMLSelectElement} select
 * @param {'audioinput' | 'videoinput'} kind
 * @param {string | undefined} current The device in use, or chosen for later. Without it the selection does not change.
 */
export async function listDevices(select, kind, current) {
  const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  // Without permission a browser gives neither names nor ids.
  const devices = all.filter((device) => device.kind === kind && device.deviceId);
  const chosen = current ?? select.value;
  const noun = kind === 'audioinput' ? 'Microphone' : 'Camera';
  const options = devices.map((device, index) =>
    make('option', { value: device.deviceId, textContent: device.label || `${noun} ${index + 1}` }),
  );
  if (!options.length) options.push(make('option', { value: '', textContent: `No ${noun.toLowerCase()} available` }));
  select.replaceChildren(...options);
  select.disabled = !devices.length;
  if (devices.some(({ deviceId }) => deviceId === chosen)) select.value = chosen;
}
