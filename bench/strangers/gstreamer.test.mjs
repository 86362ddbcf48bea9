// GStreamer's webrtcbin publishes H.264 and Opus by WHIP to a Chromium that decodes both, and plays Chromium by WHEP. Its
// certificate is RSA, one of its sections is `m=audio 0` with bundle-only, and it has AES128_CM_SHA1_80 only.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { until } from '../e2e/edge.mjs';
import { Scene, Stranger, script, systemPython } from './stranger.mjs';

const scene = new Scene('gstreamer');

for (const [role, number, when] of [['publish', 9, ''], ['publish-early', 10, ' when it offers before it has encoded anything']]) {
  test(`it publishes H.264 and Opus by WHIP${when}`, { timeout: 90_000 }, async () => {
    const gstreamer = new Stranger([systemPython, script('gstreamer_peer.py'), role, ...(await scene.whip('GStreamer')), number]);
    await scene.isMet(gstreamer, number);
    assert.equal(await scene.codecReceived(), 'video/H264');
    await scene.seesOff(gstreamer);
    assert.equal(gstreamer.report.left, 200, 'DELETE');
  });
}

test('it makes a keyframe for who comes later', { timeout: 90_000 }, async () => {
  // By itself it makes one in a minute.
  const gstreamer = new Stranger([systemPython, script('gstreamer_peer.py'), 'publish', ...(await scene.whip('GStreamer')), 9]);
  await scene.isMet(gstreamer, 9);
  const late = await scene.chromiumJoins(2);
  await until('the other Chromium sees both', () => gstreamer.check() && late.sees([1, 9]), 15_000);
  await late.close();
  await scene.seesOff(gstreamer);
});

test('it plays Chromium by WHEP', { timeout: 90_000 }, async () => {
  const gstreamer = new Stranger([systemPython, script('gstreamer_peer.py'), 'play', ...(await scene.whep('Player'))]);
  await scene.meets(gstreamer);
  assert.equal(gstreamer.report.state, 'connected');
  await scene.seesOff(gstreamer);
});
