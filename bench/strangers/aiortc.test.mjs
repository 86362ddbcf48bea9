// aiortc publishes by WHIP, in each of its codecs, to a Chromium that decodes it, and plays Chromium by WHEP.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Peer, launch } from '../e2e/browser.mjs';
import { Edge, until } from '../e2e/edge.mjs';
import { EDGE_OPTIONS, Stranger, python, script } from './stranger.mjs';

const ROOM = 'aiortc';
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

async function publish(number, mime) {
  const token = await edge.token('--room', ROOM, '--name', `aiortc ${number}`, '--publish');
  return new Stranger([python, script('aiortc_peer.py'), 'publish', `${edge.base}/whip/${ROOM}`, token, number, mime]);
}

async function play() {
  const token = await edge.token('--room', ROOM, '--name', 'Player', '--subscribe');
  return new Stranger([python, script('aiortc_peer.py'), 'play', `${edge.base}/whep/${ROOM}/Chromium`, token]);
}

for (const [number, mime] of [[5, 'video/H264'], [6, 'video/VP8']]) {
  test(`it publishes ${mime} and Opus by WHIP`, { timeout: 60_000 }, async () => {
    const aiortc = await publish(number, mime);
    await until('Chromium sees it', () => aiortc.check() && chromium.sees([number]), 30_000);
    await until('Chromium hears it', () => aiortc.check() && chromium.hears([number]), 20_000);
    const { inbound } = await chromium.stats();
    assert.ok(inbound.some((s) => s.kind === 'video' && s.codec === mime && s.framesDecoded > 0), JSON.stringify(inbound));
    assert.deepEqual(await aiortc.leave(), { code: 0, signal: null }, aiortc.log);
    assert.equal(aiortc.report.left, 200, 'DELETE');
    await until('Chromium sees nobody', () => chromium.sees([]));
  });
}

test('it plays Chromium by WHEP', { timeout: 60_000 }, async () => {
  const aiortc = await play();
  await until('it sees Chromium', () => aiortc.sees(1), 30_000);
  await until('it hears Chromium', () => aiortc.hears(1), 20_000);
  assert.equal(aiortc.report.state, 'connected');
  assert.deepEqual(await aiortc.leave(), { code: 0, signal: null }, aiortc.log);
});
