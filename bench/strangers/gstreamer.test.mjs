// GStreamer's webrtcbin publishes H.264 and Opus by WHIP to a Chromium that decodes both, and plays Chromium by WHEP. Its
// certificate is RSA, one of its sections is `m=audio 0` with bundle-only, and it has AES128_CM_SHA1_80 only.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Peer, launch } from '../e2e/browser.mjs';
import { Edge, until } from '../e2e/edge.mjs';
import { EDGE_OPTIONS, Stranger, script, systemPython } from './stranger.mjs';

const ROOM = 'gstreamer';
const NUMBER = 9;
let edge;
let browser;
let chromium;

before(async () => {
  edge = await Edge.start(...EDGE_OPTIONS);
  browser = await launch();
  chromium = await Peer.join(browser, await edge.url(ROOM, 'Chromium'), 1);
});

after(async () => {
  await Stranger.stopAll();
  await browser?.close();
  if (process.env.UPRTC_E2E_LOG) console.log(edge?.log);
  await edge?.stop();
});

test('it publishes H.264 and Opus by WHIP', { timeout: 60_000 }, async () => {
  const token = await edge.token('--room', ROOM, '--name', 'GStreamer', '--publish');
  const url = `${edge.base}/whip/${ROOM}`;
  const gstreamer = new Stranger([systemPython, script('gstreamer_peer.py'), 'publish', url, token, NUMBER]);
  await until('Chromium sees it', () => gstreamer.check() && chromium.sees([NUMBER]), 30_000);
  await until('Chromium hears it', () => gstreamer.check() && chromium.hears([NUMBER]), 20_000);
  const { inbound } = await chromium.stats();
  assert.ok(inbound.some((s) => s.codec === 'video/H264' && s.framesDecoded > 0), JSON.stringify(inbound));
  assert.deepEqual(await gstreamer.leave(), { code: 0, signal: null }, gstreamer.log);
  assert.equal(gstreamer.report.left, 200, 'DELETE');
  await until('Chromium sees nobody', () => chromium.sees([]), 5_000);
});

test('it plays Chromium by WHEP', { timeout: 60_000 }, async () => {
  const token = await edge.token('--room', ROOM, '--name', 'Player', '--subscribe');
  const url = `${edge.base}/whep/${ROOM}/Chromium`;
  const gstreamer = new Stranger([systemPython, script('gstreamer_peer.py'), 'play', url, token]);
  await until('it sees Chromium', () => gstreamer.sees(1), 30_000);
  await until('it hears Chromium', () => gstreamer.hears(1), 20_000);
  assert.equal(gstreamer.report.state, 'connected');
  assert.deepEqual(await gstreamer.leave(), { code: 0, signal: null }, gstreamer.log);
});
