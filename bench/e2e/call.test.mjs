// A call of real browsers through both planes: the first promises of the README.

import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { Edge, sleep, until } from './edge.mjs';

let edge;
let browser;
const peers = new Map();

before(async () => {
  edge = await Edge.start();
  browser = await launch();
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

/** The streams that are being decoded now, by id (a slot whose sender left keeps its last statistics). */
async function liveVideos(peer) {
  const videos = async () => new Map((await peer.stats()).inbound.filter((s) => s.kind === 'video').map((s) => [s.id, s]));
  const first = await videos();
  await sleep(1500);
  return [...(await videos()).values()].filter((s) => s.framesDecoded > (first.get(s.id)?.framesDecoded ?? 0));
}

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
    assert.equal((await liveVideos(peer)).length, 2, 'two videos are being decoded');
    const stats = await peer.stats();
    for (const stream of [...stats.inbound, ...stats.outbound]) {
      assert.equal(stream.codec, stream.kind === 'video' ? 'video/H264' : 'audio/opus');
    }
    assert.equal(stats.inbound.filter((s) => s.kind === 'audio').length, 2);
    assert.equal(stats.dtls, 'connected');
    assert.match(stats.cipher, /AEAD_AES_128_GCM$/);
    assert.equal(stats.ice, 'connected');
    assert.deepEqual(await peer.offers(), { offers: 1, connections: 1 });
    assert.deepEqual(peer.errors, []);
  }
});

test('pictures are live: their counters increase', async () => {
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

test('a fourth joins and leaves, and the others send no offer', { timeout: 90_000 }, async () => {
  await join(4);
  await everybodyMeets([1, 2, 3, 4]);
  await shot('four');
  await peers.get(4).close();
  peers.delete(4);
  await everybodyMeets([1, 2, 3]);
  for (const peer of peers.values()) assert.deepEqual(await peer.offers(), { offers: 1, connections: 1 });
});

test('the fates of datagrams add up', async () => {
  const metrics = await edge.metrics();
  const sum = (pattern) => Object.entries(metrics).reduce((total, [name, value]) => (pattern.test(name) ? total + value : total), 0);
  const received = sum(/^uprtc_worker_received_total\b/);
  assert.ok(received > 1000, `${received} datagrams`);
  assert.equal(sum(/^uprtc_worker_(forwarded|consumed|punted|dropped_\w+)_total\b/), received);
});

test('kill -9 of the controlplane: for 20 seconds no frame freezes and ICE stays connected', { timeout: 120_000 }, async () => {
  const before = new Map();
  for (const [number, peer] of peers) {
    const videos = await liveVideos(peer);
    assert.equal(videos.length, 2);
    before.set(number, videos);
  }
  const pid = await edge.pid('controlplane');
  assert.ok(pid, 'the controlplane is a separate process');
  // The supervisor is stopped, so that there is no controlplane during the whole time.
  edge.process.kill('SIGSTOP');
  process.kill(pid, 'SIGKILL');
  try {
    await twentySecondsOfVideo(before);
  } finally {
    edge.process.kill('SIGCONT');
  }
  await everybodyMeets([1, 2, 3]);
});

async function twentySecondsOfVideo(before) {
  let last = before;
  for (let second = 1; second <= 20; second += 1) {
    await sleep(1000);
    const now = new Map();
    for (const [number, peer] of peers) {
      const stats = await peer.stats();
      assert.equal(stats.ice, 'connected');
      assert.equal(stats.state, 'connected');
      const videos = last.get(number).map((then) => [then, stats.inbound.find((s) => s.id === then.id)]);
      for (const [then, stream] of videos) {
        assert.ok(stream.framesDecoded > then.framesDecoded, `peer ${number} decodes ${then.id} in second ${second}`);
      }
      now.set(number, videos.map(([, stream]) => stream));
    }
    last = now;
  }
  for (const [number, peer] of peers) {
    const freezes = (videos) => videos.map((s) => s.freezeCount);
    assert.deepEqual(freezes(last.get(number)), freezes(before.get(number)), 'no freeze');
    assert.deepEqual(await peer.offers(), { offers: 1, connections: 1 });
  }
}

test('its successor adopts the room: a newcomer and the others see each other', { timeout: 90_000 }, async () => {
  const pid = await until('a new controlplane', () => edge.pid('controlplane'));
  assert.ok(pid);
  await until('it is ready', async () => (await fetch(`${edge.base}/readyz`)).ok);
  await join(4);
  await everybodyMeets([1, 2, 3, 4]);
  for (const number of [1, 2, 3]) assert.deepEqual(await peers.get(number).offers(), { offers: 1, connections: 1 });
});
