// A room of Chromium uses H.264. Firefox without H.264 joins: the room changes to VP8 without another offer. Firefox leaves,
// and the room changes back. Rooms that are set to VP9 or AV1 use that.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { Edge, until } from './edge.mjs';
import { launchFirefox } from './firefox.mjs';

let edge;
let chromium;
let firefox;
/** Its number in the room. */
const FIREFOX = 3;
const peers = new Map();

before(async () => {
  edge = await Edge.start();
  [chromium, firefox] = await Promise.all([launch(), launchFirefox()]);
});

async function join(browser, number, room = 'codecs') {
  peers.set(number, await Peer.join(browser, await edge.url(room, `Peer ${number}`), number));
}

/**
 * All see each other. The Chromium receive each other's tones, and Firefox decodes their audio; it has no AudioContext
 * on a machine without a sound card, so it neither sends nor recognises a tone.
 */
async function everybodyMeets(numbers) {
  for (const number of numbers) {
    const others = numbers.filter((n) => n !== number);
    await until(`${number} sees ${others}`, () => peers.get(number).sees(others), 30_000);
    if (number === FIREFOX) await until(`it hears ${others}`, async () => (await loud()) === others.length, 30_000);
    else await until(`${number} hears`, () => peers.get(number).hears(others.filter((n) => n !== FIREFOX)), 30_000);
  }
}

/** How many audio tracks Firefox decodes that are not silent. */
async function loud() {
  const { inbound } = await peers.get(FIREFOX).stats();
  return inbound.filter((s) => s.kind === 'audio' && s.totalAudioEnergy > 0).length;
}

/** The codecs that a peer sends and decodes now (a slot whose sender left keeps its last codec). */
async function videoCodecs(peer) {
  const { inbound, outbound } = await peer.stats();
  // A sender without a track still probes the bandwidth.
  const codecs = (streams) => streams.filter((s) => s.kind === 'video' && (s.framesEncoded ?? s.framesDecoded) > 0).map((s) => s.codec);
  return { sent: codecs(outbound), received: codecs(inbound) };
}

async function sends(number, codec) {
  await until(`${number} sends ${codec}`, async () => {
    const { sent } = await videoCodecs(peers.get(number));
    return sent.length > 0 && sent.every((one) => one === codec);
  });
}

test('two Chromium speak H.264', { timeout: 60_000 }, async () => {
  await Promise.all([1, 2].map((n) => join(chromium, n)));
  await everybodyMeets([1, 2]);
  for (const number of [1, 2]) {
    assert.deepEqual(await videoCodecs(peers.get(number)), { sent: ['video/H264'], received: ['video/H264'] });
  }
});

test('Firefox joins, and all see and hear each other in VP8', { timeout: 120_000 }, async () => {
  await join(firefox, FIREFOX);
  await everybodyMeets([1, 2, FIREFOX]);
  for (const number of peers.keys()) await sends(number, 'video/VP8');
  for (const peer of peers.values()) {
    await until('both are received in VP8', async () => {
      const { received } = await videoCodecs(peer);
      return received.length === 2 && received.every((codec) => codec === 'video/VP8');
    });
  }
  // Count only pictures after the change.
  await everybodyMeets([1, 2, FIREFOX]);
  for (const peer of peers.values()) {
    assert.deepEqual(await peer.offers(), { offers: 1, connections: 1 });
    assert.deepEqual(peer.errors, []);
  }
});

test('Firefox leaves, and the room returns to H.264', { timeout: 90_000 }, async () => {
  await peers.get(FIREFOX).close();
  peers.delete(FIREFOX);
  for (const number of [1, 2]) await sends(number, 'video/H264');
  await everybodyMeets([1, 2]);
  for (const peer of peers.values()) {
    await until('it is received in H.264', async () => (await videoCodecs(peer)).received.includes('video/H264'));
    assert.deepEqual(await peer.offers(), { offers: 1, connections: 1 });
    assert.deepEqual(peer.errors, []);
  }
});

for (const codec of ['vp9', 'av1']) {
  test(`two Chromium in a room that is set to ${codec}`, { timeout: 120_000 }, async () => {
    await Promise.all([...peers.values()].map((peer) => peer.close()));
    peers.clear();
    const admin = await edge.token('--room', '*', '--name', 'operator', '--admin');
    const made = await fetch(`${edge.base}/v1/rooms/${codec}`, {
      method: 'PUT',
      headers: { authorization: `Bearer ${admin}`, 'content-type': 'application/json' },
      body: JSON.stringify({ codecs: [codec] }),
    });
    assert.equal(made.status, 201);
    const mimeType = `video/${codec.toUpperCase()}`;
    await Promise.all([1, 2].map((n) => join(chromium, n, codec)));
    await everybodyMeets([1, 2]);
    for (const number of [1, 2]) {
      const { sent, received } = await videoCodecs(peers.get(number));
      assert.deepEqual({ sent, received }, { sent: [mimeType], received: [mimeType] });
    }
    // A peer joins a running stream, and its slots begin with a requested keyframe.
    await join(chromium, 4, codec);
    await everybodyMeets([1, 2, 4]);
    const { received } = await videoCodecs(peers.get(4));
    assert.deepEqual(received, [mimeType, mimeType]);
    for (const peer of peers.values()) assert.deepEqual(peer.errors, []);
  });
}
