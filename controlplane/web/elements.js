// @ts-check
/** The page's elements, found by id and typed; icons, initials, focus, toasts and the notice at the top. */

/**
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function find(id, type) {
  const element = document.getElementById(id);
  if (element instanceof type) return element;
  throw new Error(`index.html has no ${type.name} #${id}`);
}

/** @param {string} id */
export const button = (id) => find(id, HTMLButtonElement);
/** @param {string} id */
export const part = (id) => find(id, HTMLElement);

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Partial<HTMLElementTagNameMap[K]>} [properties]
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** @param {string} name One of the symbols in index.html. */
export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.setAttribute('aria-hidden', 'true');
  svg.append(use);
  return svg;
}

/** Shows one of the page's screens and moves the keyboard focus to its heading. @param {'lobby' | 'call' | 'end'} name */
export function showScreen(name) {
  for (const id of ['lobby', 'call', 'end']) part(id).hidden = id !== name;
  if (name !== 'lobby') part(`${name}-title`).focus({ focusVisible: false });
}

/**
 * Hides or shows an element without losing the keyboard focus.
 * @param {HTMLElement} element
 * @param {boolean} hidden
 * @param {HTMLElement} next Gets the focus that the element had.
 */
export function hide(element, hidden, next) {
  if (hidden && element.contains(document.activeElement)) next.focus({ focusVisible: false });
  element.hidden = hidden;
}

/**
 * Shows the state of a switch. Its name stays the same; `aria-pressed` gives the state (ARIA 1.2, button).
 * @param {HTMLButtonElement} element
 * @param {boolean} on
 * @param {string} symbol Its `-off` form is shown when off.
 * @param {string} label What it switches.
 */
export function showSwitch(element, on, symbol, label) {
  element.querySelector('use')?.setAttribute('href', `#i-${on ? symbol : `${symbol}-off`}`);
  element.setAttribute('aria-pressed', String(on));
  element.setAttribute('aria-label', label);
  element.title = label;
  element.toggleAttribute('data-off', !on);
}

/** @param {HTMLElement} avatar @param {string} name */
export function fillAvatar(avatar, name) {
  const words = name.trim().split(/\s+/).filter(Boolean);
  const letters = [words[0], words.length > 1 ? words.at(-1) : ''].map((word) => [...(word ?? '')][0] ?? '');
  avatar.replaceChildren(make('span', {}, letters.join('').toLocaleUpperCase() || '?'));
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + (letter.codePointAt(0) ?? 0)) % 360;
  avatar.style.setProperty('--hue', String(hash));
}

/** More than two at once would cover the names of the upper row. */
const TOASTS_MAX = 2;

/** @param {string} text @param {'bad' | ''} [kind] */
export function toast(text, kind = '') {
  const element = make('div', { className: 'toast' }, text);
  if (kind) element.dataset.kind = kind;
  const toasts = part('toasts');
  toasts.append(element);
  while (toasts.children.length > TOASTS_MAX) toasts.firstElementChild?.remove();
  if (toasts.children.length > 1 && coversAName(toasts)) toasts.firstElementChild?.remove();
  setTimeout(() => element.remove(), kind ? 7_000 : 3_500);
}

/** @param {HTMLElement} element */
function coversAName(element) {
  const box = element.getBoundingClientRect();
  return [...document.querySelectorAll('.tag')].some((tag) => {
    const { left, right, top, bottom } = tag.getBoundingClientRect();
    return left < box.right && right > box.left && top < box.bottom && bottom > box.top;
  });
}

/** @type {ReturnType<typeof setInterval> | undefined} */
let counting;

/**
 * The line at the top while there is a problem.
 * @param {string} text Empty: no notice.
 * @param {{ kind?: 'bad' | '', retry?: (() => void) | undefined }} [options] `retry`: what "Try now" does.
 */
export function notice(text, { kind = '', retry } = {}) {
  const element = part('notice');
  hide(element, !text, part('call-title'));
  element.dataset.kind = kind;
  // A screen reader repeats a text that is set again.
  if (part('notice-text').textContent !== text) part('notice-text').textContent = text;
  hide(button('notice-retry'), !retry, part('call-title'));
  button('notice-retry').onclick = () => retry?.();
  if (!retry) countDown('notice-count', 0, () => '');
}

/**
 * Counts seconds down in an element.
 * @param {string} id
 * @param {number} ms
 * @param {(seconds: number) => string} say
 */
export function countDown(id, ms, say) {
  clearInterval(counting);
  const end = performance.now() + ms;
  const show = () => {
    const seconds = Math.ceil((end - performance.now()) / 1000);
    part(id).textContent = say(Math.max(0, seconds));
    if (seconds <= 0) clearInterval(counting);
  };
  counting = setInterval(show, 250);
  show();
}
