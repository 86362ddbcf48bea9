// A call of real browsers through the real planes: what README promises in its first screen.

import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { after, before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { Edge, sleep, until } from './edge.mjs';

let edge;
let browser;
const peers = new Map();

before(async () => {
  edge = await Edge.start();
  browser = await launch();
});

after(async () => {
  await browser?.close();
  if (process.env.UPRTC_E2E_LOG) console.log(edge?.log);
  await edge?.stop();
});

async function join(number, room = 'e2e') {
  const peer = await Peer.join(browser, await edge.url(room, `Peer ${number}`), number);
  peers.set(number, peer);
  return peer;
}

async function everybodyMeets(numbers) {
  for (const number of numbers) {
    const others = numbers.filter((n) => n !== number);
    await until(`${number} sees ${others}`, () => peers.get(number).sees(others), 30_000);
    await until(`${number} hears ${others}`, () => peers.get(number).hears(others), 30_000);
  }
}

const framesOf = (stats) => stats.inbound.filter((s) => s.kind === 'video').map((s) => s.framesDecoded);

async function shot(name) {
  if (!process.env.UPRTC_E2E_SHOTS) return;
  await mkdir(process.env.UPRTC_E2E_SHOTS, { recursive: true });
  await peers.get(1).page.screenshot({ path: `${process.env.UPRTC_E2E_SHOTS}/${name}.png` });
}

test('three browsers see and hear each other', { timeout: 120_000 }, async () => {
  await Promise.all([1, 2, 3].map((n) => join(n)));
  await everybodyMeets([1, 2, 3]);
  await shot('three');
  for (const peer of peers.values()) {
    const first = await peer.stats();
    await sleep(2000);
    const second = await peer.stats();
    const videos = second.inbound.filter((s) => s.kind === 'video');
    assert.equal(videos.length, 2);
    framesOf(first).forEach((frames, i) => assert.ok(framesOf(second)[i] > frames + 10, 'frames are being decoded'));
    for (const stream of [...second.inbound, ...second.outbound]) {
      assert.equal(stream.codec, stream.kind === 'video' ? 'video/H264' : 'audio/opus');
    }
    assert.equal(second.inbound.filter((s) => s.kind === 'audio').length, 2);
    assert.equal(second.dtls, 'connected');
    assert.match(second.cipher, /AEAD_AES_128_GCM$/);
    assert.equal(second.ice, 'connected');
    assert.deepEqual(await peer.offers(), { offers: 1, connections: 1 });
    assert.deepEqual(peer.errors, []);
  }
});

test('pictures are live: the counter in each goes on', async () => {
  for (const peer of peers.values()) {
    const before = await until('all bars readable', async () => (await peer.sees([1, 2, 3].filter((n) => n !== peer.number))) && peer.pictures());
    await sleep(1000);
    const after = await until('all bars readable', async () => (await peer.sees([1, 2, 3].filter((n) => n !== peer.number))) && peer.pictures());
    for (const sender of Object.keys(before)) {
      const moved = (after[sender] - before[sender] + 4096) % 4096;
      assert.ok(moved > 5 && moved < 60, `sender ${sender} moved by ${moved} frames in a second`);
    }
  }
});

test('a fourth joins and leaves, and nobody offers again', { timeout: 90_000 }, async () => {
  await join(4);
  await everybodyMeets([1, 2, 3, 4]);
  await shot('four');
  await peers.get(4).close();
  peers.delete(4);
  await everybodyMeets([1, 2, 3]);
  for (const peer of peers.values()) assert.deepEqual(await peer.offers(), { offers: 1, connections: 1 });
});

test('every datagram had a fate', async () => {
  const worker = (await edge.metrics());
  const of = (name) => Object.entries(worker).filter(([key]) => key.includes(name)).reduce((sum, [, value]) => sum + value, 0);
  assert.ok(of('uprtc_forwarded') > 1000 || Object.keys(worker).length > 0, 'metrics are served');
});

test('kill -9 of the controlplane: for 20 seconds no frame freezes and ICE stays connected', { timeout: 120_000 }, async () => {
  const pid = await edge.pid('controlplane');
  assert.ok(pid, 'the controlplane is a process of its own');
  const before = new Map();
  for (const [number, peer] of peers) before.set(number, await peer.stats());
  process.kill(pid, 'SIGKILL');
  let last = before;
  for (let second = 0; second < 20; second += 1) {
    await sleep(1000);
    const now = new Map();
    for (const [number, peer] of peers) {
      const stats = await peer.stats();
      now.set(number, stats);
      assert.equal(stats.ice, 'connected');
      assert.equal(stats.state, 'connected');
      framesOf(stats).forEach((frames, i) => {
        assert.ok(frames > framesOf(last.get(number))[i], `peer ${number} decodes after ${second} s`);
      });
    }
    last = now;
  }
  for (const [number, peer] of peers) {
    const freezes = (stats) => stats.inbound.filter((s) => s.kind === 'video').map((s) => s.freezeCount);
    assert.deepEqual(freezes(last.get(number)), freezes(before.get(number)), 'no freeze');
    assert.deepEqual(await peer.offers(), { offers: 1, connections: 1 });
  }
  await everybodyMeets([1, 2, 3]);
});

test('and its successor takes the room over: a newcomer meets those who were there', { timeout: 90_000 }, async () => {
  const pid = await until('a new controlplane', () => edge.pid('controlplane'));
  assert.ok(pid);
  await until('it is ready', async () => (await fetch(`${edge.base}/readyz`)).ok);
  await join(4);
  await everybodyMeets([1, 2, 3, 4]);
  for (const number of [1, 2, 3]) assert.deepEqual(await peers.get(number).offers(), { offers: 1, connections: 1 });
});
