// An old libwebrtc sends simulcast by SSRCs (`ssrc-group:SIM`), which is not answered: it sends all the same. Its best encoding
// flows, and its estimate of what it may send does not fall for the packets of the others.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { until } from '../e2e/edge.mjs';
import { libwebrtcSimulcaster } from './clients.mjs';
import { HOME, Scene } from './stranger.mjs';

const NUMBER = 12;
const scene = new Scene('simulcast', '--listen', '0.0.0.0:0');

test('an old libwebrtc sends two encodings by SSRCs, and the better one is seen', { timeout: 120_000 }, async () => {
  const stranger = libwebrtcSimulcaster(await scene.socket('libwebrtc', HOME), NUMBER);
  await scene.isMet(stranger, NUMBER);
  await until('both encodings are sent', () => stranger.check().encodings?.filter((s) => s.framesEncoded > 30).length === 2, 30_000);
  const widths = stranger.report.encodings.map((s) => s.frameWidth).sort();
  assert.deepEqual(widths, [320, 640]);
  await until('Chromium sees the larger one', async () => {
    const { inbound } = await scene.chromium.stats();
    return inbound.some((s) => s.kind === 'video' && s.frameWidth === 640);
  });
  assert.ok((await scene.counted('dropped_other_ssrc')) > 30, 'the other encoding came, and was not passed on');
  assert.equal(await scene.counted('dropped_unknown_stream'), 0);
  assert.ok(stranger.report.estimate > 300_000, `${stranger.report.estimate} bit/s`);
  await scene.seesOff(stranger);
});
