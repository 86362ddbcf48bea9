// An encoder is killed and joins again three seconds later under its name, like OBS with its watchdog. Players of the
// whole room, with one pair of slots, get the live encoder: present players at once, newcomers from the start.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { Edge, sleep, until } from '../e2e/edge.mjs';
import { atTheEnd } from '../e2e/opened.mjs';
import { aiortcPlayer, ffmpegPublisher } from './clients.mjs';
import { HOME, Client } from './scene.mjs';

const ROOM = 'studio';
let edge;

before(async () => {
  edge = await Edge.start('--media-ip', '127.0.0.1', '--media-ip', HOME);
  atTheEnd(() => Client.stopAll());
});

/** URL and token. Both encoders use one token. */
const door = async (kind, name, right) => [`${edge.base}/${kind}/${ROOM}`, await edge.token('--room', ROOM, '--name', name, right)];

const peers = async () => JSON.parse(await edge.uprtc('peers', ROOM, '--json')).map((peer) => peer.name).sort();

test('a killed encoder joins again after three seconds, and players get the live one', { timeout: 120_000 }, async () => {
  const publish = await door('whip', 'OBS', '--publish');
  const former = ffmpegPublisher(publish, 7);
  const wall = aiortcPlayer(await door('whep', 'Wall', '--subscribe'));
  await until('the player sees the encoder', () => former.check() && wall.sees(7), 40_000);

  assert.equal((await former.leave({ signal: 'SIGKILL' })).signal, 'SIGKILL');
  await sleep(3000);
  const live = ffmpegPublisher(publish, 8);
  await until('the player sees the live one', () => live.check() && wall.sees(8), 8000);
  assert.deepEqual(await peers(), ['OBS', 'Wall'], 'the former peer was removed');

  await sleep(4000);
  const late = aiortcPlayer(await door('whep', 'Late', '--subscribe'));
  await until('a newcomer sees the live one', () => late.sees(8), 15_000);
  assert.equal(late.sees(7), false, 'and never the former one');
  assert.equal((await edge.metrics()).uprtc_peers_replaced_total, 1);
});
