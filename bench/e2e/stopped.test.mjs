// A server is stopped on purpose and started again: the page shows the state, and joins again by itself.

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

const bars = (peer) =>
  peer.page.locator('.tile .dots:visible').evaluateAll((all) => all.map((dots) => dots.getAttribute('aria-label')));

test('after a stop of the server the page shows that no media flows, and all join again when it is back', { timeout: 150_000 }, async () => {
  const peers = await Promise.all([1, 2].map(async (n) => Peer.join(browser, await edge.url('stop', `Peer ${n}`), n)));
  const [first, second] = peers;
  await until('the first sees the second', () => first.sees([2]), 40_000);
  await until('the second sees the first', () => second.sees([1]), 40_000);
  await until('both have a signal', async () => (await bars(first)).length === 2, 30_000);
  await edge.halt();
  const stopped = Date.now();
  await until('nothing claims a connection', async () => {
    const labels = await bars(first);
    return labels.length === 2 && labels.every((label) => label === 'No connection');
  }, 6_000);
  assert.ok(Date.now() - stopped < 6_000);
  assert.match(await textOf(first, '#notice'), /server was stopped/i);
  assert.doesNotMatch(await textOf(first, '#notice'), /hear and see/i);
  assert.match(await textOf(first, '#bar-net'), /no connection/i);
  assert.equal(await textOf(first, '#notice-retry'), 'Try now');
  await until('it shows the time to the next attempt', async () => /\d s/.test(await textOf(first, '#notice-count')), 15_000);
  await edge.resume();
  for (const peer of peers) await peer.page.locator('#notice-retry').click({ timeout: 2_000 }).catch(() => {});
  await until('the first sees the second again', () => first.sees([2]), 40_000);
  await until('the second sees the first again', () => second.sees([1]), 40_000);
  await until('the notice is gone', () => first.page.locator('#notice').isHidden());
  await until('the signals are back', async () => (await bars(first)).every((label) => label === 'Connection: good'), 30_000);
  await Promise.all(peers.map((peer) => peer.close()));
});

test('a newcomer waits for an unreachable server, and joins when it is back', { timeout: 90_000 }, async () => {
  const peer = await Peer.join(browser, await edge.url('away', 'Ada', false), 1);
  await peer.page.locator('#lobby').waitFor();
  await edge.halt();
  await peer.page.locator('#join').click();
  await until('the page shows it', async () => /does not answer/.test(await textOf(peer, '#end-title')), 40_000);
  assert.match(await textOf(peer, '#end-count'), /Trying again/);
  await edge.resume();
  await until('it is in', async () => (await peer.page.evaluate(() => window.uprtc?.room.state)) === 'connected', 60_000);
  await peer.close();
});
