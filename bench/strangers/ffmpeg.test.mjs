// ffmpeg's WHIP muxer publishes H.264 and Opus to a Chromium that decodes both. It is a DTLS server (setup:passive) and has
// no header extensions. It cannot play: it has no WHEP.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ffmpegLeaves, ffmpegPublisher } from './clients.mjs';
import { Scene } from './stranger.mjs';

const NUMBER = 7;
const scene = new Scene('ffmpeg');

test('ffmpeg publishes H.264 and Opus by WHIP', { timeout: 90_000 }, async () => {
  const muxer = ffmpegPublisher(await scene.whip('ffmpeg'), NUMBER);
  await scene.isMet(muxer, NUMBER);
  assert.equal(await scene.codecReceived(), 'video/H264');
  await scene.seesOff(muxer, ffmpegLeaves);
});
