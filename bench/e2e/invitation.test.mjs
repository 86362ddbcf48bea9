// What a link gives away: the token leaves the address bar, guests come by invitations under their own names, and names that look alike
// are marked.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { Peer, launch, textOf } from './browser.mjs';
import { Edge, until } from './edge.mjs';

let edge;
let browser;

before(async () => {
  edge = await Edge.start();
  browser = await launch();
});

/** Presses "Copy link" and returns what it copied. */
async function copied(peer) {
  await peer.page.evaluate(() => {
    window.copied = undefined;
    const blobs = (items) => Promise.all(items.map(async (item) => (await item.getType('text/plain')).text()));
    navigator.clipboard.write = async (items) => void ([window.copied] = await blobs(items));
  });
  await peer.page.locator('#copy').click();
  return until('a link is copied', () => peer.page.evaluate(() => window.copied));
}

test('the token leaves the address bar, and a reload still joins', { timeout: 60_000 }, async () => {
  const peer = await Peer.join(browser, await edge.url('address', 'Ada'), 1);
  await until('the call is connected', async () => (await peer.stats()).ice === 'connected');
  const address = `${edge.base}/r/address?join=1`;
  assert.equal(await peer.page.evaluate(() => location.href), address);
  await peer.page.reload();
  await until('it is in again', async () => (await peer.stats()).ice === 'connected');
  assert.equal(await peer.page.evaluate(() => location.href), address);
  // The address alone lets nobody in.
  const stranger = await Peer.join(browser, address, 2);
  await until('the page shows why', async () => (await textOf(stranger, '#end-detail')).includes('token_missing'));
  await Promise.all([peer.close(), stranger.close()]);
});

test('a guest comes by an invitation under a name of their own', { timeout: 90_000 }, async () => {
  const host = await Peer.join(browser, await edge.url('party', 'Ada'), 1);
  await until('the host is in', async () => (await host.stats()).ice === 'connected');
  const link = await copied(host);
  const own = await host.page.evaluate(() => history.state.uprtc.token);
  assert.match(link, new RegExp(`^${edge.base}/r/party#token=`));
  assert.ok(!link.includes(own), 'not the token of the host');

  const guest = await Peer.join(browser, link, 2);
  await guest.page.locator('#lobby-person').waitFor();
  assert.match(await textOf(guest, '#lobby-name'), /Ada invites you/);
  await guest.page.locator('#lobby-person').fill('  Bo\u200bb ');
  await guest.page.locator('#join').click();
  await until('the guest is in', async () => (await guest.stats()).ice === 'connected');
  const names = () => host.page.evaluate(() => [...window.uprtc.room.participants.values()].map(({ name }) => name));
  await until('the host sees who it is', async () => (await names()).join() === 'Bob');
  assert.equal(await guest.page.evaluate(() => location.href), `${edge.base}/r/party`);
  // A guest passes the same invitation on, and stays the same guest after a reload.
  assert.equal(await copied(guest), link);
  await guest.page.reload();
  await guest.page.locator('#join').click();
  await until('the guest is in again', async () => (await names()).join() === 'Bob');
  await Promise.all([host.close(), guest.close()]);
});

test('a name that looks like another one is marked', { timeout: 60_000 }, async () => {
  const ada = await Peer.join(browser, await edge.url('alike', 'Ada'), 1);
  const bob = await Peer.join(browser, await edge.url('alike', 'Bob'), 2);
  const fake = await Peer.join(browser, await edge.url('alike', '\u0410d\u0430'), 3);
  const marks = () => bob.page.locator('.tile .alike:visible').count();
  await until('both are marked for the third', async () => (await marks()) === 2);
  assert.match(await bob.page.locator('.tile[aria-label*="looks the same"]').first().getAttribute('aria-label'), /Ada/);
  await fake.close();
  await until('one alone is not', async () => (await marks()) === 0);
  await Promise.all([ada.close(), bob.close()]);
});
