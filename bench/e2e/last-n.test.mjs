// A room that limits how many videos each participant receives: what is pinned comes, and the page says of whom a camera is not shown.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { Edge, until } from './edge.mjs';

let edge;
let browser;
let admin;

before(async () => {
  edge = await Edge.start();
  browser = await launch();
  admin = await edge.token('--room', '*', '--name', 'ops', '--admin');
});

const change = (method, limits) =>
  fetch(`${edge.base}/v1/rooms/few`, {
    method,
    headers: { authorization: `Bearer ${admin}`, 'content-type': 'application/json' },
    body: JSON.stringify(limits),
  });

/** Of whom the page says that the camera is not shown. */
const unseen = (peer) =>
  peer.page.evaluate(() =>
    [...document.querySelectorAll('.tile')].filter((tile) => tile.querySelector('.unseen')?.checkVisibility()).map((tile) => tile.querySelector('b').textContent));

const pin = (peer, name) =>
  peer.page.evaluate((name) => {
    const { room } = window.uprtc;
    for (const other of room.participants.values()) room.setShown(other, { pinned: other.name === name });
  }, name);

test('each receives as many videos as the room allows, what is pinned among them, and the page says whose is not shown', { timeout: 120_000 }, async () => {
  assert.equal((await change('PUT', { videos_max: 25 })).status, 422, 'more than there are slots for');
  assert.equal((await change('PUT', { videos_max: 1 })).status, 201);
  const peers = [];
  for (const n of [1, 2, 3]) {
    peers.push(await Peer.join(browser, await edge.url('few', `Peer ${n}`), n));
    await until(`${n} is in`, async () => (await peers.at(-1).stats()).ice === 'connected');
  }
  const third = peers[2];
  await pin(third, 'Peer 2');
  await until('the third sees the second', () => third.sees([2]));
  await until('the third hears both', () => third.hears([1, 2]));
  assert.deepEqual(await unseen(third), ['Peer 1']);
  await pin(third, 'Peer 1');
  await until('the third sees the first instead', () => third.sees([1]));
  await until('the page says it', async () => (await unseen(third)).join() === 'Peer 2');
  assert.equal((await change('PATCH', { videos_max: 0 })).status, 200);
  await until('the third sees both', () => third.sees([1, 2]));
  assert.deepEqual(await unseen(third), []);
  for (const peer of peers) assert.deepEqual(peer.errors, []);
});
