// Operations on a call of real browsers: the rates in REST are equal to those of the browsers, and a peer
// is moved to another room without a new offer.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { Edge, sleep, until } from './edge.mjs';

let edge;
let browser;
let admin;
const peers = new Map();

before(async () => {
  edge = await Edge.start();
  browser = await launch();
  admin = await edge.token('--room', '*', '--name', 'ops', '--admin');
});

/** A token for one room only, with which a moved peer resumes. */
async function join(number, room) {
  peers.set(number, await Peer.join(browser, await edge.url(room, `Peer ${number}`), number));
}

async function ask(method, path, body) {
  const headers = { authorization: `Bearer ${admin}`, ...(body && { 'content-type': 'application/json' }) };
  const response = await fetch(`${edge.base}/v1${path}`, { method, headers, ...(body && { body: JSON.stringify(body) }) });
  return { status: response.status, body: response.status === 204 ? undefined : await response.json() };
}

/** The peers of a room from REST, by name. */
async function listed(room) {
  const { body } = await ask('GET', `/rooms/${room}/peers`);
  return new Map(body.peers.map((peer) => [peer.name, peer]));
}

async function everybodyMeets(numbers) {
  for (const number of numbers) {
    const others = numbers.filter((n) => n !== number);
    await until(`${number} sees ${others}`, () => peers.get(number).sees(others), 30_000);
    await until(`${number} hears ${others}`, () => peers.get(number).hears(others), 30_000);
  }
}

/** Bytes of payload that a browser has sent and received, without retransmissions. */
function bytes(peer) {
  return peer.page.evaluate(async () => {
    const sum = { at: performance.now(), up: 0, down: 0 };
    for (const stats of (await window.uprtc.room.peerConnection.getStats()).values()) {
      if (stats.type === 'outbound-rtp') sum.up += stats.bytesSent - stats.retransmittedBytesSent;
      if (stats.type === 'inbound-rtp') sum.down += stats.bytesReceived - (stats.retransmittedBytesReceived ?? 0);
    }
    return sum;
  });
}

test('rates are equal to those that the browsers measure', { timeout: 120_000 }, async () => {
  await Promise.all([join(1, 'blue'), join(2, 'blue'), join(3, 'red')]);
  await everybodyMeets([1, 2]);
  const known = (peer) => peer.up?.bps > 0 && peer.down?.loss !== undefined && peer.rtt_ms !== undefined;
  await until('rates, loss and round trips of both', async () => [...(await listed('blue')).values()].every(known), 30_000);
  // Wait until the encoders have reached their rate; the server's window is shorter than this.
  await until('a steady rate', async () => {
    const before = await bytes(peers.get(1));
    const samples = [];
    for (let n = 0; n < 6; n += 1) {
      await sleep(1000);
      samples.push((await listed('blue')).get('Peer 1'));
    }
    const after = await bytes(peers.get(1));
    const seconds = (after.at - before.at) / 1000;
    for (const way of ['up', 'down']) {
      const browsers = ((after[way] - before[way]) * 8) / seconds;
      const servers = samples.reduce((sum, { [way]: { bps } }) => sum + bps, 0) / samples.length;
      if (!(Math.abs(servers - browsers) < 0.2 * browsers)) throw new Error(`${way}: ${servers} and ${browsers} bit/s`);
    }
    return true;
  }, 60_000);
  const { tracks, receives, up, rtt_ms: rtt } = (await listed('blue')).get('Peer 1');
  assert.equal(up.loss, 0, 'nothing is lost on a loopback');
  assert.ok(rtt < 1000, `${rtt} ms`);
  const [microphone, camera, screen] = tracks.map(({ media }) => media);
  assert.ok(Math.abs(microphone.packets_per_s - 50) < 10, `${microphone.packets_per_s} packets of 20 ms`);
  assert.ok(camera.bps > 10_000 && camera.packets > 10, JSON.stringify(camera));
  assert.equal(screen.packets, 0);
  assert.deepEqual(receives.map(({ kind, media }) => [kind, media.bps > 0]), [['audio', true], ['video', true]]);

  const table = await edge.uprtc('peers', 'blue');
  assert.match(table, /^PEER +NAME +STATE +SOCKET +UP +LOST +DOWN +LOST +RTT +TRACKS\n/);
  assert.match(table, /Peer 1 +connected +yes +[\d.]+[kM] +0\.0% +[\d.]+[kM] +\d+\.\d% +\d+ms +0:microphone, 1:camera/);
});

test('a peer is moved: media in the other room without a second offer', { timeout: 90_000 }, async () => {
  await until('3 is alone', () => peers.get(3).sees([]));
  const { peer } = (await listed('blue')).get('Peer 2');
  await edge.uprtc('move', 'blue', peer, 'red');
  await everybodyMeets([2, 3]);
  await until('1 is alone', () => peers.get(1).sees([]));
  const page = await peers.get(2).page.evaluate(() => ({
    name: window.uprtc.room.name,
    bar: document.getElementById('bar-room').textContent,
    title: document.title,
    others: [...window.uprtc.room.participants.values()].map(({ name }) => name),
  }));
  assert.deepEqual(page, { name: 'red', bar: 'red', title: 'red · uprtc', others: ['Peer 3'] });
  for (const one of peers.values()) assert.deepEqual(await one.offers(), { offers: 1, connections: 1 });
  const { media } = (await listed('red')).get('Peer 2').tracks[1];
  assert.ok(media.packets > 100, 'its stream and its counts continue');

  await ask('PUT', '/rooms/blue', { locked: true });
  const { peer: third } = (await listed('red')).get('Peer 3');
  const refused = await ask('POST', `/rooms/red/peers/${third}/move`, { room: 'blue' });
  assert.deepEqual([refused.status, refused.body.code], [409, 'room_locked']);
});

test('after kill -9 of the controlplane it is still in the other room, and the statistics continue', { timeout: 90_000 }, async () => {
  const before = (await listed('red')).get('Peer 2');
  const pid = await edge.pid('controlplane');
  process.kill(pid, 'SIGKILL');
  const after = await until('a successor that has rates of both', async () => {
    const red = await listed('red');
    const isWhole = ['Peer 2', 'Peer 3'].every((name) => red.get(name)?.has_socket && red.get(name).up?.bps > 0);
    return isWhole && red.get('Peer 2');
  }, 30_000);
  assert.equal(after.peer, before.peer);
  assert.ok(after.tracks[1].media.packets > before.tracks[1].media.packets, 'the counters of the worker continue');
  await everybodyMeets([2, 3]);
  for (const one of peers.values()) {
    assert.deepEqual(await one.offers(), { offers: 1, connections: 1 });
    const errors = one.errors.filter((text) => !/WebSocket|Failed to load resource/.test(text));
    assert.deepEqual(errors, []);
  }
  assert.equal(await peers.get(2).page.evaluate(() => window.uprtc.room.name), 'red');
});
