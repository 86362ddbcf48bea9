// werift joins over the signalling socket, sends H.264 and Opus to a Chromium that decodes them, and receives Chromium's. Each of
// its m-sections has different header extension ids.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { weriftMember } from './clients.mjs';
import { Scene } from './scene.mjs';

const NUMBER = 13;
const scene = new Scene('werift');

test('werift and Chromium decode each other', { timeout: 120_000 }, async () => {
  const werift = weriftMember(await scene.socket('werift'), NUMBER);
  await scene.chromiumReceives(werift, NUMBER);
  await scene.receives(werift);
  assert.equal(await scene.codecReceived(), 'video/H264');
  await scene.leaves(werift);
  assert.doesNotMatch(werift.log, /"error"/);
});
