// aiortc publishes by WHIP with each of its codecs to a Chromium that decodes it, and plays Chromium by WHEP. aiortc has no
// transport-cc.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { aiortcPlayer, aiortcPublisher } from './clients.mjs';
import { Scene } from './scene.mjs';

const scene = new Scene('aiortc');

async function publishes(number, mime) {
  const aiortc = aiortcPublisher(await scene.whip('aiortc'), number, mime);
  await scene.chromiumReceives(aiortc, number);
  assert.equal(await scene.codecReceived(), mime);
  await scene.leaves(aiortc);
  assert.equal(aiortc.report.left, 200, 'DELETE');
}

test('aiortc publishes H.264 and Opus by WHIP', { timeout: 90_000 }, () => publishes(5, 'video/H264'));

test('aiortc publishes VP8 and Opus by WHIP', { timeout: 90_000 }, () => publishes(6, 'video/VP8'));

test('aiortc plays Chromium by WHEP', { timeout: 90_000 }, async () => {
  const aiortc = aiortcPlayer(await scene.whep('Chromium 1'));
  await scene.receives(aiortc);
  assert.equal(aiortc.report.state, 'connected');
  await scene.leaves(aiortc);
});
