// @ts-check
/**
 * The link that opened this page, and the links that it gives away.
 *
 * A link holds a token (`?token=…`) or an invitation (`#token=…`, which is not sent to the server and stands in no log). The page takes it
 * out of the address at once, so that it is not copied, bookmarked or seen on a shared screen, and keeps it in this entry of the tab's history:
 * a reload, and a tab that the browser restores after a crash, have it again, and so the same place in the room.
 */

import { acceptInvitation, invite } from './sdk/uprtc.js';

/**
 * The claims of a token, for display only: the server checks the token.
 * @typedef {{ name?: string, publish?: boolean, invite?: boolean, record?: boolean, admin?: boolean, invitation?: boolean, exp?: number }} Claims
 */

/** An invitation that is valid for less than an hour is replaced by a new one before it is given away. */
const FRESH_MS = 3_600_000;

const room = decodeURIComponent(location.pathname.split('/').at(-1) ?? '');
/** The edge: this page is its `r/{room}`, possibly under the path prefix of a proxy. */
const server = new URL('..', location.href).href;

/** @type {{ token: string, invitation: string }} Either may be empty. */
const kept = { token: '', invitation: '' };
take();

function take() {
  const address = new URL(location.href);
  const hidden = new URLSearchParams(address.hash.slice(1));
  const given = hidden.get('token') ?? address.searchParams.get('token') ?? '';
  if (!given) return Object.assign(kept, history.state?.uprtc);
  address.searchParams.delete('token');
  address.hash = '';
  kept[claimsOf(given).invitation ? 'invitation' : 'token'] = given;
  keep(address.href);
}

function keep(address = location.href) {
  history.replaceState({ ...history.state, uprtc: kept }, '', address);
}

/** @param {string} token @returns {Claims} */
function claimsOf(token) {
  try {
    const payload = (token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(payload), (letter) => letter.charCodeAt(0));
    const { name, publish, invite, record, admin, invitation, exp } = JSON.parse(new TextDecoder().decode(bytes));
    return {
      ...(typeof name === 'string' && { name }),
      ...(typeof publish === 'boolean' && { publish }),
      ...(typeof exp === 'number' && { exp }),
      invite: invite === true,
      record: record === true,
      admin: admin === true,
      invitation: invitation === true,
    };
  } catch {
    return {};
  }
}

export const link = {
  room,
  server,
  /** The token, or the invitation while there is no token yet. Empty without either. */
  get bearer() {
    return kept.token || kept.invitation;
  },
  /** What the token, or the invitation, says. */
  get claims() {
    return claimsOf(this.bearer);
  },
  /** Whether the person has still to choose a name. */
  get asksName() {
    return !kept.token && !!kept.invitation;
  },
  /** Whether there is a link to give away. */
  get mayInvite() {
    const { invite, admin } = claimsOf(kept.token);
    return !!(kept.invitation || invite || admin);
  },
  /** Whether this person may start and stop recordings. */
  get mayRecord() {
    const { record, admin } = claimsOf(kept.token);
    return !!(record || admin);
  },
  /** Gets a token under this name. @param {string} name */
  async accept(name) {
    kept.token = await acceptInvitation({ server, room, invitation: kept.invitation, name });
    keep();
  },
  /**
   * A link for other people: never with the token of this person. Guests pass their own invitation on.
   * @returns {Promise<string>}
   */
  async invitation() {
    const { invite: mayMake, admin } = claimsOf(kept.token);
    const { exp = 0 } = claimsOf(kept.invitation);
    if ((mayMake || admin) && exp * 1000 < Date.now() + FRESH_MS) {
      kept.invitation = await invite({ server, room, token: kept.token });
      keep();
    }
    return new URL(`r/${encodeURIComponent(room)}#token=${kept.invitation}`, server).href;
  },
};

/** A name without characters that nobody sees; the server refuses those. @param {string} name */
export function visible(name) {
  return name.normalize().replace(/[\p{Cc}\p{Bidi_Control}\p{Default_Ignorable_Code_Point}\u2028\u2029\ufff9-\ufffb]/gu, '').trim();
}
