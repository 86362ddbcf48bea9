// GStreamer's webrtcbin publishes H.264 and Opus by WHIP to a Chromium that decodes both, and plays Chromium by WHEP. It has
// an RSA certificate, an m-section `m=audio 0` with bundle-only, and no SRTP profile but AES128_CM_SHA1_80.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { until } from '../e2e/edge.mjs';
import { gstreamerEarlyPublisher, gstreamerPlayer, gstreamerPublisher, gstreamerSpropPublisher } from './clients.mjs';
import { Scene } from './scene.mjs';

const scene = new Scene('gstreamer');

async function publishes(publisher, number) {
  const gstreamer = publisher(await scene.whip('GStreamer'), number);
  await scene.chromiumReceives(gstreamer, number);
  assert.equal(await scene.codecReceived(), 'video/H264');
  await scene.leaves(gstreamer);
  assert.equal(gstreamer.report.left, 200, 'DELETE');
}

test('GStreamer publishes H.264 and Opus by WHIP', { timeout: 90_000 }, () => publishes(gstreamerPublisher, 9));

test('GStreamer offers before it has encoded anything', { timeout: 90_000 }, () => publishes(gstreamerEarlyPublisher, 10));

test('GStreamer makes a keyframe for a newcomer', { timeout: 90_000 }, async () => {
  // Without requests it makes one per minute.
  const gstreamer = gstreamerPublisher(await scene.whip('GStreamer'), 9);
  await scene.chromiumReceives(gstreamer, 9);
  const late = await scene.chromiumJoins(2);
  await until('the other Chromium sees both', () => gstreamer.check() && late.sees([1, 9]), 20_000);
  await late.close();
  await scene.leaves(gstreamer);
});

test('GStreamer with its parameter sets only in SDP is decoded, also by a newcomer', { timeout: 90_000 }, async () => {
  const gstreamer = gstreamerSpropPublisher(await scene.whip('GStreamer'), 9);
  await scene.chromiumReceives(gstreamer, 9);
  const late = await scene.chromiumJoins(2);
  await until('the other Chromium sees both', () => gstreamer.check() && late.sees([1, 9]), 20_000);
  const sets = await scene.counted('parameter_sets_sent');
  assert.ok(sets >= 4, `${sets}: two for each receiver`);
  await late.close();
  await scene.leaves(gstreamer);
});

test('GStreamer plays Chromium by WHEP', { timeout: 90_000 }, async () => {
  const gstreamer = gstreamerPlayer(await scene.whep('Chromium 1'));
  await scene.receives(gstreamer);
  assert.equal(gstreamer.report.state, 'connected');
  await scene.leaves(gstreamer);
});
