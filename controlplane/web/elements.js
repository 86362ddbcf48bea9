// @ts-check
/** The page's elements, found by id and typed; icons, initials, toasts and the notice at the top. */

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

/**
 * Shows a switch as it is.
 * @param {HTMLButtonElement} element
 * @param {boolean} on
 * @param {string} symbol Its `-off` form is shown when off.
 * @param {string} label What a click does.
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

/** @param {string} text @param {'bad' | ''} [kind] */
export function toast(text, kind = '') {
  const element = make('div', { className: 'toast' }, text);
  if (kind) element.dataset.kind = kind;
  const toasts = part('toasts');
  toasts.append(element);
  while (toasts.children.length > 4) toasts.firstElementChild?.remove();
  setTimeout(() => element.remove(), kind ? 7_000 : 3_500);
}

/** The one line at the top while something is not as it should be. @param {string} text Empty: nothing to say. */
export function notice(text, kind = '') {
  part('notice').hidden = !text;
  part('notice').dataset.kind = kind;
  part('notice-text').textContent = text;
}
