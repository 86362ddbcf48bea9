// libwebrtc M106 sends simulcast by SSRCs (`ssrc-group:SIM`), although the answer does not contain it. Its best encoding
// is forwarded, and its bandwidth estimate does not fall because of the packets of the others.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { until } from '../e2e/edge.mjs';
import { libwebrtcSimulcaster } from './clients.mjs';
import { HOME, Scene } from './scene.mjs';

const NUMBER = 12;
const scene = new Scene('simulcast', '--listen', '0.0.0.0:0');

test('libwebrtc M106 sends two encodings by SSRCs, and the better one is forwarded', { timeout: 120_000 }, async () => {
  const client = libwebrtcSimulcaster(await scene.socket('libwebrtc', HOME), NUMBER);
  await scene.chromiumReceives(client, NUMBER);
  await until('both encodings are sent', () => client.check().encodings?.filter((s) => s.framesEncoded > 30).length === 2, 30_000);
  const widths = client.report.encodings.map((s) => s.frameWidth).sort();
  assert.deepEqual(widths, [320, 640]);
  await until('Chromium sees the larger one', async () => {
    const { inbound } = await scene.chromium.stats();
    return inbound.some((s) => s.kind === 'video' && s.frameWidth === 640);
  });
  assert.ok((await scene.counted('dropped_other_ssrc')) > 30, 'the other encoding arrived, and was not forwarded');
  assert.equal(await scene.counted('dropped_unknown_stream'), 0);
  assert.ok(client.report.estimate > 300_000, `${client.report.estimate} bit/s`);
  await scene.leaves(client);
});
