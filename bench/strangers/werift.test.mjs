// werift joins over the signalling socket, sends H.264 and Opus to a Chromium that decodes them, and receives its. Each of
// its m-sections numbers the header extensions anew.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Peer, launch } from '../e2e/browser.mjs';
import { Edge, until } from '../e2e/edge.mjs';
import { EDGE_OPTIONS, Stranger, python, script } from './stranger.mjs';

const ROOM = 'werift';
const NUMBER = 13;
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

test('it and Chromium decode each other', { timeout: 90_000 }, async () => {
  const token = await edge.token('--room', ROOM, '--name', 'werift', '--publish', '--subscribe');
  const url = `${edge.base.replace('http', 'ws')}/v1/rooms/${ROOM}/signal?token=${token}`;
  const werift = new Stranger([process.execPath, script('werift_peer.mjs'), python, url, NUMBER]);
  await until('Chromium sees it', () => werift.check() && chromium.sees([NUMBER]), 30_000);
  await until('Chromium hears it', () => werift.check() && chromium.hears([NUMBER]), 20_000);
  await until('it sees Chromium', () => werift.sees(1), 20_000);
  await until('it hears Chromium', () => werift.hears(1), 20_000);
  const { inbound } = await chromium.stats();
  assert.ok(inbound.some((s) => s.codec === 'video/H264' && s.framesDecoded > 0), JSON.stringify(inbound));
  assert.deepEqual(await werift.leave(), { code: 0, signal: null }, werift.log);
  await until('Chromium sees nobody', () => chromium.sees([]), 10_000);
  assert.doesNotMatch(werift.log, /"error"/);
});
