// A receiver that sends no transport-cc, only REMB and reports (aiortc), behind a link of 500 kb/s (bench/weak): what the server thinks of its
// path, how much of it is used, and how long packets wait (docs/decisions/0058). A load publishes in three encodings of 100, 350 and 960 kb/s.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, test } from 'node:test';

import { Edge, executable, sleep, until } from '../e2e/edge.mjs';
import { HERE, Link } from '../weak/link.mjs';
import { aiortcPlayer } from './clients.mjs';
import { Client } from './scene.mjs';

// A container may have no TUN interfaces.
const skip = !existsSync('/dev/net/tun') && 'the link needs /dev/net/tun';
assert.ok(!skip || !process.env.REQUIRE?.split(',').includes('namespaces'), `${skip}, and REQUIRE names namespaces`);

const CAPACITY = 500_000;
const SETTLE_MS = 15_000;
const WINDOW_MS = 30_000;

let edge;
let link;
let load;
let admin;

before(async () => {
  if (skip) return;
  link = await Link.open();
  edge = await Edge.start('--listen', '0.0.0.0:0', '--media-ip', '127.0.0.1', '--media-ip', HERE);
  admin = await edge.token('--room', '*', '--name', 'operator', '--admin');
  const server = new URL(edge.base).host;
  load = new Client([executable, 'load', '--state', edge.state, '--server', server, '--seconds', 90, '--encodings', 3, 'broadcast', '--viewers', 0]);
});

after(() => Client.stopAll());

const headers = () => ({ authorization: `Bearer ${admin}`, 'content-type': 'application/json' });
const get = async (path) => (await fetch(`${edge.base}${path}`, { headers: headers() })).json();

test('a receiver with REMB alone is sent what its narrow path carries, and no long queue stays', { timeout: 120_000, skip }, async () => {
  const room = await until('the load publishes', async () => load.check() && (await get('/v1/rooms')).rooms?.find(({ room }) => room.endsWith('-broadcast'))?.room);
  // It was made for the publisher alone.
  await fetch(`${edge.base}/v1/rooms/${room}`, { method: 'PUT', headers: headers(), body: JSON.stringify({ peers_max: 8, client_bps_max: 10_000_000 }) });
  link.tell(`down rate=${CAPACITY / 1000}k queue=300ms delay=20ms`, 'up delay=20ms');
  const token = await edge.token('--room', room, '--name', 'Player', '--subscribe');
  const url = `http://${HERE}:${new URL(edge.base).port}/whep/${room}`;
  const player = aiortcPlayer([url, token], 1, link.within);
  await until('it is connected', () => player.check().state === 'connected', 20_000);
  await sleep(SETTLE_MS);
  link.tell('mark');
  const seen = [];
  for (let ms = 0; ms < WINDOW_MS; ms += 1000) {
    await sleep(1000);
    const { peers } = await get(`/v1/rooms/${room}/peers`);
    const { path, receives } = peers.find(({ name }) => name === 'Player');
    seen.push({ kbps: Math.round(path.estimate_bps / 1000), allocation: receives.find(({ kind }) => kind === 'video').media.allocation });
  }
  const { down } = await link.report();
  const share = ({ queue_drops: drops, offered }) => (100 * drops) / offered;
  console.log(`estimates of a path of ${CAPACITY / 1000} kb/s: ${seen.map(({ kbps }) => kbps).join(' ')} kb/s`);
  console.log(`encodings, 1 is the smallest: ${seen.map(({ allocation }) => allocation).join(' ')}`);
  console.log(`${(100 * down.utilisation).toFixed(1)} % used, queue p95 ${down.queueing_ms_p95} ms, at most ${down.queueing_ms_max} ms, ${share(down).toFixed(2)} % lost in it`);
  // The largest encoding is twice the path, and the smallest a quarter of it: that is never paused.
  const count = (is) => seen.filter(is).length;
  assert.ok(seen.every(({ allocation }) => allocation >= 1), 'the smallest encoding is never paused');
  assert.ok(count(({ allocation, kbps }) => allocation <= 2 && kbps > 100 && kbps < 1.5 * (CAPACITY / 1000)) >= 0.8 * seen.length, 'the path is known');
  assert.ok(down.utilisation > 0.2 && down.queueing_ms_p95 < 200 && share(down) < 3, 'it is used, and no queue stays');
  assert.deepEqual(await player.leave(), { code: 0, signal: null }, player.log);
});
