// The sign of quality of each participant: words and bars on the tiles, in the list of people, in the client module; and the
// panel with the plots of the last two minutes. When a connection is weak is tested elsewhere, on the real server with real losses
// (`who_loses_packets_is_shown_as_weak_and_then_as_good_again`); here the page is told so by a signal.

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

/** Keeps the page's sockets, so that a signal can be put into one. */
function keepSockets() {
  const Native = window.WebSocket;
  window.sockets = [];
  window.WebSocket = class extends Native {
    constructor(...args) {
      super(...args);
      window.sockets.push(this);
    }
  };
}

/** The sign of the tile of a participant: its name, and the word beside it if that can be seen. */
async function sign(peer, name) {
  const tile = peer.page.getByRole('listitem', { name: new RegExp(`^${name}`) });
  const dots = tile.locator('.dots');
  const word = tile.locator('.quality');
  return { label: (await dots.isVisible()) ? await dots.getAttribute('aria-label') : '', word: (await word.isVisible()) ? await word.textContent() : '' };
}

const isSign = async (peer, name, label, word) => {
  const seen = await sign(peer, name);
  return seen.label === label && seen.word === word;
};

async function pair(room, options) {
  const peers = await Promise.all([1, 2].map(async (n) => Peer.join(browser, await edge.url(room, `Peer ${n}`), n, options)));
  await until('the first sees the second', () => peers[0].sees([2]), 40_000);
  await until('the second sees the first', () => peers[1].sees([1]), 40_000);
  return peers;
}

test('who sends nothing any more is shown without a connection, and with one when it is back', { timeout: 120_000 }, async () => {
  const peers = await pair('silent');
  const [first, second] = peers;
  for (const [peer, other] of [[first, 'Peer 2'], [second, 'Peer 1']]) {
    await until('both are good', () => isSign(peer, other, 'Connection: good', ''));
  }
  const events = () => first.page.evaluate(() => window.qualities.splice(0));
  await first.page.evaluate(() => {
    window.qualities = [];
    window.uprtc.room.on('quality-changed', ({ participant, quality }) => window.qualities.push([participant.name, quality]));
  });
  // As if its devices had died: the others are not told that the sources are off.
  await second.page.evaluate(async () => {
    const senders = window.uprtc.room.peerConnection.getSenders();
    window.kept = senders.map((sender) => [sender, sender.track]);
    for (const sender of senders) await sender.replaceTrack(null);
  });
  await until('the first shows that nothing comes', () => isSign(first, 'Peer 2', 'No connection', 'no connection'), 20_000);
  assert.deepEqual(await events(), [['Peer 2', 'lost']]);
  assert.equal(await first.page.evaluate(() => [...window.uprtc.room.participants.values()][0].quality), 'lost');
  await first.page.locator('#bar-count').click();
  assert.match(await textOf(first, '#people-list'), /Peer 2 \(no connection\)/);
  await first.page.locator('#people-done').click();
  await second.page.evaluate(async () => {
    for (const [sender, track] of window.kept) await sender.replaceTrack(track);
  });
  await until('it is weak at first or good already', async () => /weak|good/.test((await sign(first, 'Peer 2')).label), 20_000);
  await until('it is good again', () => isSign(first, 'Peer 2', 'Connection: good', ''), 30_000);
  assert.deepEqual((await events()).map(([, quality]) => quality), ['weak', 'good']);
  await Promise.all(peers.map((peer) => peer.close()));
});

test('a weak connection is said in words, on the tile, in the list and to whom it belongs', { timeout: 90_000 }, async () => {
  const peers = await pair('weak', { setup: keepSockets });
  const [first] = peers;
  const tell = (quality) =>
    first.page.evaluate((quality) => {
      const { local, participants } = window.uprtc.room;
      const list = [local, ...participants.values()].map(({ id }) => ({ peer: id, quality }));
      const data = JSON.stringify({ type: 'quality', peers: list });
      window.sockets.at(-1).dispatchEvent(new MessageEvent('message', { data }));
    }, quality);
  await tell('weak');
  await until('both tiles say it', async () => {
    const isOther = await isSign(first, 'Peer 2', 'Connection: weak', 'weak connection');
    return isOther && (await sign(first, 'Peer 1')).label === 'Connection: weak';
  });
  await until('the person is told', async () => /Your connection is weak/.test(await textOf(first, '#toasts')));
  await first.page.locator('#bar-count').click();
  assert.match(await textOf(first, '#people-list'), /Peer 1 \(you\) \(weak connection\)/);
  await first.page.locator('#people-done').click();
  await tell('good');
  await until('the words are gone', () => isSign(first, 'Peer 2', 'Connection: good', ''));
  await until('the person is told that, too', async () => /good again/.test(await textOf(first, '#toasts')));
  await Promise.all(peers.map((peer) => peer.close()));
});

for (const [device, viewport] of [['a computer', { width: 960, height: 600 }], ['a phone', { width: 360, height: 640 }]]) {
  test(`on ${device} the panel plots the last two minutes`, { timeout: 90_000 }, async () => {
    const peers = await pair(`panel-${viewport.width}`, { viewport });
    const [first] = peers;
    await first.page.locator('#settings').click();
    const plot = (title) => first.page.locator('#plots figure', { hasText: title });
    await until('rates are there', async () => /sent \d.*received \d/.test(await plot('Rate').locator('figcaption').textContent()), 20_000);
    await until('lines have several points', async () => {
      const lines = await plot('Rate').locator('path').evaluateAll((paths) => paths.map((path) => path.getAttribute('d')));
      return lines.slice(0, 2).every((line) => (line?.match(/L/g)?.length ?? 0) >= 3);
    }, 20_000);
    assert.match(await plot('Round-trip time').locator('figcaption').textContent(), /\d ms/);
    assert.match(await plot('Lost packets').locator('figcaption').textContent(), /sent \d.*%.*received \d.*%/);
    assert.match(await plot('Video sent').locator('figcaption').textContent(), /\d+ fps · \d+×\d+, (H264|VP8)/);
    assert.match(await plot('Rate').locator('svg').getAttribute('aria-label'), /last two minutes: between .* and /);
    assert.match(await textOf(first, '#numbers'), /Your connection\s*good/);
    // Nothing is wider than the dialog.
    const overflow = await first.page.locator('#devices .dialog-body').evaluate(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth);
    assert.ok(overflow <= 0, `${overflow} pixels are cut`);
    for (const peer of peers) assert.deepEqual(peer.errors, []);
    await Promise.all(peers.map((peer) => peer.close()));
  });
}
