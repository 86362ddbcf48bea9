// Late joins: a newcomer into a room of three that has been running for a while. Printed is the time from ICE connected until the first frame of each
// video is decoded; and how often the publishers were asked for keyframes. All on this machine.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { Edge, sleep, until } from './edge.mjs';

let edge;
let browser;

before(async () => {
  edge = await Edge.start();
  browser = await launch();
});

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

// Runs in the page: notes when ICE was connected, and when the first frame of each video was decoded, by the browser's own clock.
function instrument() {
  const seen = (window.late = { connected: undefined, frames: [] });
  const Native = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Native {
    constructor(...args) {
      super(...args);
      this.addEventListener('iceconnectionstatechange', () => {
        if (this.iceConnectionState === 'connected') seen.connected ??= performance.now();
      });
      this.addEventListener('track', ({ track }) => {
        if (track.kind !== 'video') return;
        // The stream of a track processor has each frame when it is decoded, whether or not anything shows it.
        const frames = new MediaStreamTrackProcessor({ track }).readable.getReader();
        void frames.read().then(({ value }) => {
          seen.frames.push(performance.now());
          value?.close();
          void frames.cancel();
        });
      });
    }
  };
}

/** How often publishers were asked for a keyframe. */
const asked = async () => Object.entries(await edge.metrics()).reduce((sum, [name, value]) => sum + (name.startsWith('uprtc_worker_keyframe_requests_sent_total') ? value : 0), 0);

async function comeLate(number) {
  // Who left before gave the others more bandwidth: what they ask for because of that is not the newcomer's.
  await sleep(3000);
  const asksBefore = await asked();
  const peer = await Peer.join(browser, await edge.url('late', `Late ${number}`), number, { setup: instrument });
  const late = await until('all three are decoded', async () => {
    const seen = await peer.page.evaluate(() => window.late);
    return seen.frames.length >= 3 && seen.connected && seen;
  });
  await sleep(1500);
  const asks = (await asked()) - asksBefore;
  await peer.close();
  await until('it is gone', async () => (await edge.metrics())['uprtc_peers'] === 3);
  return { frames: late.frames.map((at) => Math.round(at - late.connected)).sort((a, b) => a - b), asks };
}

test('a newcomer decodes a frame of each video soon after ICE is connected, and causes no storm of keyframes', { timeout: 180_000 }, async () => {
  const peers = await Promise.all([1, 2, 3].map(async (n) => Peer.join(browser, await edge.url('late', `Peer ${n}`), n)));
  for (const peer of peers) {
    const others = [1, 2, 3].filter((n) => n !== peer.number);
    await until(`${peer.number} sees the others`, () => peer.sees(others), 30_000);
  }
  await sleep(20_000);
  const joins = [];
  for (let n = 0; n < 5; n += 1) joins.push(await comeLate(4));
  for (const { frames, asks } of joins) console.log(`ms from ICE connected to the first frame of each video: ${frames.join(', ')}; keyframe requests: ${asks}`);
  const last = median(joins.map(({ frames }) => frames.at(-1)));
  console.log(`the last of the three, median of five joins: ${last} ms`);
  for (const { asks } of joins) assert.ok(asks <= 12, `${asks} keyframe requests for one newcomer of three publishers`);
  // On a machine with time to spare the goal is 300 ms; a busy one decodes late.
  assert.ok(last <= 2000, `${last} ms`);
});
