// werift joins over the signalling socket, sends H.264 and Opus to a Chromium that decodes them, and receives its. Each of
// its m-sections numbers the header extensions anew.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { weriftMember } from './clients.mjs';
import { Scene } from './stranger.mjs';

const NUMBER = 13;
const scene = new Scene('werift');

test('werift and Chromium decode each other', { timeout: 120_000 }, async () => {
  const werift = weriftMember(await scene.socket('werift'), NUMBER);
  await scene.isMet(werift, NUMBER);
  await scene.meets(werift);
  assert.equal(await scene.codecReceived(), 'video/H264');
  await scene.seesOff(werift);
  assert.doesNotMatch(werift.log, /"error"/);
});
