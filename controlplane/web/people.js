// @ts-check
/** The participants: their number in the bar, and a list of their names on demand. */

import { button, find, hide, make, part } from './elements.js';
import { link } from './link.js';
import { words } from './quality.js';
import { hasHandUp } from './talk.js';

/** @import { Participant, Room } from './sdk/uprtc.js' */

/**
 * The participants who send, and those who only watch.
 * @param {Room} room
 * @returns {{ people: Participant[], watchers: Participant[] }} Each with the local participant first.
 */
export function everybody({ local, participants }) {
  const all = [local, ...participants.values()];
  return { people: all.filter(({ publishes }) => publishes), watchers: all.filter(({ publishes }) => !publishes) };
}

/** @param {Room} room @returns {boolean} Whether the notice that nobody else is visible is shown. */
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

/** Said of a participant whose name could be taken for that of another one. */
export const ALIKE = 'somebody else here has a name that looks the same';

/** @param {string} id @param {Participant[]} participants */
function showNames(id, participants) {
  if (!find('people', HTMLDialogElement).open) return;
  /** @param {Participant} participant */
  const text = ({ name, isLocal, lookalike, quality }) =>
    [name, isLocal && '(you)', lookalike && `(${ALIKE})`, words(quality) && `(${words(quality)})`].filter(Boolean).join(' ');
  /** @param {Participant} participant */
  const hand = (participant) => (hasHandUp(participant) ? [' ', make('span', { className: 'hand-raised' }, 'hand raised')] : []);
  part(id).replaceChildren(...participants.map((participant) => make('li', {}, text(participant), ...hand(participant))));
}

/** Rooms in which another participant was present. @type {WeakSet<Room>} */
const hadOthers = new WeakSet();

/**
 * The notice that nobody else is visible.
 * @param {Room} room
 * @param {Participant[]} people
 * @param {Participant[]} watchers
 */
function showAlone(room, people, watchers) {
  if (room.participants.size) hadOthers.add(room);
  const others = people.filter(({ isLocal }) => !isLocal).length;
  const isKnown = room.state === 'connected' || room.state === 'reconnecting';
  // A participant who sends is not alone while others watch.
  const isShown = isKnown && others === 0 && (watchers.length === 0 || !room.mayPublish);
  const title = part('alone-title').firstElementChild;
  const nobody = hadOthers.has(room) ? 'Nobody else is here now.' : 'Nobody else is here yet.';
  if (title) title.textContent = room.participants.size ? 'Nobody can be seen or heard yet.' : nobody;
  part('alone-text').textContent = room.mayPublish
    ? link.mayInvite ? 'Copy the link and send it to the people who should join.' : 'The others come by links of their own.'
    : 'You watch and listen. Speakers will appear here.';
  const next = link.mayInvite ? button('copy') : button('leave');
  hide(button('alone-copy'), !link.mayInvite, next);
  hide(part('alone'), !isShown, next);
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
