// GStreamer's webrtcbin publishes H.264 and Opus by WHIP to a Chromium that decodes both, and plays Chromium by WHEP. Its
// certificate is RSA, one of its sections is `m=audio 0` with bundle-only, and it has AES128_CM_SHA1_80 only.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { until } from '../e2e/edge.mjs';
import { gstreamerEarlyPublisher, gstreamerPlayer, gstreamerPublisher, gstreamerToldPublisher } from './clients.mjs';
import { Scene } from './stranger.mjs';

const scene = new Scene('gstreamer');

async function publishes(publisher, number) {
  const gstreamer = publisher(await scene.whip('GStreamer'), number);
  await scene.isMet(gstreamer, number);
  assert.equal(await scene.codecReceived(), 'video/H264');
  await scene.seesOff(gstreamer);
  assert.equal(gstreamer.report.left, 200, 'DELETE');
}

test('GStreamer publishes H.264 and Opus by WHIP', { timeout: 90_000 }, () => publishes(gstreamerPublisher, 9));

test('GStreamer may offer before it has encoded anything', { timeout: 90_000 }, () => publishes(gstreamerEarlyPublisher, 10));

test('GStreamer makes a keyframe for who comes later', { timeout: 90_000 }, async () => {
  // By itself it makes one in a minute.
  const gstreamer = gstreamerPublisher(await scene.whip('GStreamer'), 9);
  await scene.isMet(gstreamer, 9);
  const late = await scene.chromiumJoins(2);
  await until('the other Chromium sees both', () => gstreamer.check() && late.sees([1, 9]), 20_000);
  await late.close();
  await scene.seesOff(gstreamer);
});

test('GStreamer tells its parameter sets in SDP alone, and is seen, also by who comes later', { timeout: 90_000 }, async () => {
  const gstreamer = gstreamerToldPublisher(await scene.whip('GStreamer'), 9);
  await scene.isMet(gstreamer, 9);
  const late = await scene.chromiumJoins(2);
  await until('the other Chromium sees both', () => gstreamer.check() && late.sees([1, 9]), 20_000);
  const sets = await scene.counted('parameter_sets_sent');
  assert.ok(sets >= 4, `${sets}: two for each receiver`);
  await late.close();
  await scene.seesOff(gstreamer);
});

test('GStreamer plays Chromium by WHEP', { timeout: 90_000 }, async () => {
  const gstreamer = gstreamerPlayer(await scene.whep('Chromium 1'));
  await scene.meets(gstreamer);
  assert.equal(gstreamer.report.state, 'connected');
  await scene.seesOff(gstreamer);
});
