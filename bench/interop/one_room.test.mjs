// Several clients in one room: aiortc, GStreamer, werift and Chromium play what ffmpeg and GStreamer publish. No
// two of them have the same cipher, header extensions and payload types.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { until } from '../e2e/edge.mjs';
import { aiortcPlayer, ffmpegLeaves, ffmpegPublisher, gstreamerPlayer, gstreamerPublisher, weriftMember } from './clients.mjs';
import { Scene } from './scene.mjs';

const scene = new Scene('together');
const [FFMPEG, GSTREAMER, WERIFT] = [7, 9, 13];
let publishers;
let met;

test('they meet in one room with Chromium', { timeout: 120_000 }, async () => {
  publishers = [
    ffmpegPublisher(await scene.whip('ffmpeg'), FFMPEG),
    gstreamerPublisher(await scene.whip('GStreamer'), GSTREAMER),
    weriftMember(await scene.socket('werift'), WERIFT),
  ];
  const all = [FFMPEG, GSTREAMER, WERIFT];
  const areThere = () => publishers.every((publisher) => publisher.check());
  await until('Chromium sees all', () => areThere() && scene.chromium.sees(all), 60_000);
  await until('Chromium hears all', () => areThere() && scene.chromium.hears(all), 30_000);
  met = performance.now();
});

test('aiortc plays two of them at once by WHEP', { timeout: 120_000 }, async () => {
  const aiortc = aiortcPlayer(await scene.whep('ffmpeg', 'GStreamer'), 2);
  for (const number of [FFMPEG, GSTREAMER]) await scene.receives(aiortc, number);
  assert.deepEqual(Object.keys(aiortc.report.pictures).map(Number), [FFMPEG, GSTREAMER], 'and nobody else');
  assert.deepEqual(await aiortc.leave(), { code: 0, signal: null }, aiortc.log);
});

test('GStreamer plays ffmpeg by WHEP', { timeout: 120_000 }, async () => {
  const gstreamer = gstreamerPlayer(await scene.whep('ffmpeg'));
  await scene.receives(gstreamer, FFMPEG);
  assert.deepEqual(await gstreamer.leave(), { code: 0, signal: null }, gstreamer.log);
});

test('GStreamer, which sends no checks after nomination, stays longer than the consent timeout', { timeout: 120_000 }, async () => {
  await until('35 seconds have passed', () => performance.now() - met > 35_000, 60_000);
  const seen = await until('Chromium sees all', async () => (await scene.chromium.sees([FFMPEG, GSTREAMER, WERIFT])) && scene.chromium.pictures());
  await until('its picture is live', async () => {
    const now = await scene.chromium.pictures();
    return GSTREAMER in now && now[GSTREAMER] !== seen[GSTREAMER];
  });
});

test('they leave, and Chromium is alone', { timeout: 60_000 }, async () => {
  const [ffmpeg, ...others] = publishers;
  for (const other of others) assert.deepEqual(await other.leave(), { code: 0, signal: null }, other.log);
  await scene.leaves(ffmpeg, ffmpegLeaves);
});
