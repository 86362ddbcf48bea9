// @ts-check
/** Who is in the room: counted in the bar, and named in a list on demand. */

import { button, find, hide, make, part } from './elements.js';

/** @import { Participant, Room } from './sdk/uprtc.js' */

/**
 * Who can be seen or heard, and who only watches.
 * @param {Room} room
 * @returns {{ people: Participant[], watchers: Participant[] }} Each with oneself first.
 */
export function everybody({ local, participants }) {
  const all = [local, ...participants.values()];
  return { people: all.filter(({ publishes }) => publishes), watchers: all.filter(({ publishes }) => !publishes) };
}

/** @param {Room} room @returns {boolean} Whether it is said that nobody else can be seen. */
export function showPeople(room) {
  const { people, watchers } = everybody(room);
  const isAlone = people.length + watchers.length === 1;
  const counted = people.length === 1 ? '1 person' : `${people.length} people`;
  const watching = watchers.length && `${watchers.length} watching`;
  const text = isAlone ? 'only you' : [people.length && counted, watching].filter(Boolean).join(' · ');
  if (button('bar-count').textContent !== text) button('bar-count').textContent = text;
  showNames('people-list', people);
  showNames('watchers-list', watchers);
  part('people-title').textContent = people.length ? 'In this room' : 'Nobody can be seen or heard yet';
  part('people-list').hidden = !people.length;
  for (const id of ['watchers-title', 'watchers-list']) part(id).hidden = !watchers.length;
  return showAlone(room, people, watchers);
}

/** @param {string} id @param {Participant[]} participants */
function showNames(id, participants) {
  if (!find('people', HTMLDialogElement).open) return;
  const names = participants.map(({ name, isLocal }) => make('li', {}, isLocal ? `${name} (you)` : name));
  part(id).replaceChildren(...names);
}

/** Rooms in which somebody else has been. @type {WeakSet<Room>} */
const hadOthers = new WeakSet();

/**
 * A word where nobody else can be seen.
 * @param {Room} room
 * @param {Participant[]} people
 * @param {Participant[]} watchers
 */
function showAlone(room, people, watchers) {
  if (room.participants.size) hadOthers.add(room);
  const others = people.filter(({ isLocal }) => !isLocal).length;
  const isKnown = room.state === 'connected' || room.state === 'reconnecting';
  // While others watch, one who speaks is not alone.
  const isShown = isKnown && others === 0 && (watchers.length === 0 || !room.mayPublish);
  const title = part('alone-title').firstElementChild;
  const nobody = hadOthers.has(room) ? 'Nobody else is here now.' : 'Nobody else is here yet.';
  if (title) title.textContent = room.participants.size ? 'Nobody can be seen or heard yet.' : nobody;
  part('alone-text').textContent = room.mayPublish
    ? 'Send the link to those who should come.'
    : 'You watch and listen. Who speaks will appear here.';
  // A link for watching is somebody's own: to hand it on would not help.
  hide(button('alone-copy'), !room.mayPublish, button('copy'));
  hide(part('alone'), !isShown, button('copy'));
  return isShown;
}

/** @param {Room} room @param {AbortSignal} signal */
export function bindPeople(room, signal) {
  const open = () => {
    find('people', HTMLDialogElement).showModal();
    showPeople(room);
  };
  button('bar-count').addEventListener('click', open, { signal });
}
