// The meeting page as people use it: buttons, error messages, and reconnecting.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { Peer, launch, textOf } from './browser.mjs';
import { Edge, sleep, until } from './edge.mjs';

let edge;
let browser;

before(async () => {
  edge = await Edge.start();
  browser = await launch();
});

async function meet(first, second) {
  await until('the first sees the second', () => first.sees([second.number]));
  await until('the second sees the first', () => second.sees([first.number]));
  await until('the first hears the second', () => first.hears([second.number]));
  await until('the second hears the first', () => second.hears([first.number]));
}

async function pair(room) {
  const peers = await Promise.all([1, 2].map(async (n) => Peer.join(browser, await edge.url(room, `Peer ${n}`), n)));
  await meet(...peers);
  return peers;
}

test('the lobby asks first, then one click joins', async () => {
  const peer = await Peer.join(browser, await edge.url('lobby', 'Ada', false), 1);
  await peer.page.locator('#lobby').waitFor();
  assert.match(await textOf(peer, '#lobby-name'), /Ada/);
  assert.deepEqual(await peer.offers(), { offers: 0, connections: 0 });
  await peer.page.locator('#join').click();
  await until('the call is connected', async () => (await peer.stats()).ice === 'connected');
  await peer.page.locator('#leave').click();
  await peer.page.locator('#end').waitFor();
  assert.match(await textOf(peer, '#end-title'), /left/i);
  await peer.close();
});

test('a source that is switched off is neither seen nor heard, and returns, without an offer', { timeout: 60_000 }, async () => {
  const [first, second] = await pair('switches');
  await first.page.locator('#mic').click();
  await until('the second hears nothing', async () => !(await second.hears([1])));
  await first.page.locator('#cam').click();
  await until('the second sees nothing', () => second.sees([]));
  const active = () =>
    second.page.evaluate(() => [...window.uprtc.room.participants.values()].find((p) => !p.isLocal)?.active);
  await until('the second got the signal', async () => {
    const { microphone, camera } = await active();
    return !microphone && !camera;
  });
  await first.page.keyboard.press('m');
  await first.page.keyboard.press('v');
  await meet(first, second);
  for (const peer of [first, second]) assert.deepEqual(await peer.offers(), { offers: 1, connections: 1 });
  await Promise.all([first.close(), second.close()]);
});

test('a refusal is shown as a sentence', async () => {
  const good = await edge.token('--room', 'words', '--name', 'Ada', '--publish', '--subscribe');
  const cases = [
    ['words', '', 'token_missing'],
    ['words', `${good.slice(0, -6)}AAAAAA`, 'token_signature'],
    ['words', 'nonsense', 'token_malformed'],
    ['elsewhere', good, 'wrong_room'],
  ];
  for (const [room, token, code] of cases) {
    const peer = await Peer.join(browser, `${edge.base}/r/${room}?token=${token}&join=1`, 1);
    await until(`the page shows the reason (${code})`, async () => (await textOf(peer, '#end-detail')).includes(code));
    assert.ok((await textOf(peer, '#end-title')).length > 10);
    await peer.close();
  }
});

test('a ninth participant is refused because the room is full', { timeout: 120_000 }, async () => {
  const url = async (n) => {
    const token = await edge.token('--room', 'full', '--name', `Listener ${n}`, '--subscribe');
    return `${edge.base}/r/full?token=${token}&join=1`;
  };
  const peers = [];
  for (let n = 1; n <= 8; n += 1) peers.push(await Peer.join(browser, await url(n), n));
  for (const peer of peers) await until('it is in', async () => (await peer.offers()).offers === 1);
  await until('all eight are in the room', async () => /\b8\b/.test(await textOf(peers[0], '#bar-count')));
  const ninth = await Peer.join(browser, await url(9), 9);
  await until('the page shows it', async () => (await textOf(ninth, '#end-detail')).includes('room_full'));
  assert.match(await textOf(ninth, '#end-title'), /full/i);
  await Promise.all([...peers, ninth].map((peer) => peer.close()));
});

test('after kill -9 of the dataplane all participants join again by themselves', { timeout: 90_000 }, async () => {
  const [first, second] = await pair('dataplane');
  process.kill(await edge.pid('dataplane'), 'SIGKILL');
  await until('both have a new connection', async () => {
    const counts = await Promise.all([first, second].map((peer) => peer.offers()));
    return counts.every(({ connections }) => connections === 2);
  });
  await meet(first, second);
  await Promise.all([first.close(), second.close()]);
});

test('the page shows that the server ended, and reconnects when it is back', { timeout: 90_000 }, async () => {
  const [first, second] = await pair('return');
  edge.process.kill('SIGSTOP');
  process.kill(await edge.pid('controlplane'), 'SIGKILL');
  try {
    await until('the page shows that it reconnects', async () => /reconnect/i.test(await textOf(first, '#notice')));
    await sleep(3000);
    assert.ok(await first.sees([2]), 'and still shows all participants');
  } finally {
    edge.process.kill('SIGCONT');
  }
  await until('the notice is gone', () => first.page.locator('#notice').isHidden());
  await meet(first, second);
  assert.deepEqual(await first.offers(), { offers: 1, connections: 1 });
  await Promise.all([first.close(), second.close()]);
});
