// A path that loses many packets: the browser calls its connection `disconnected` when its ICE checks have had no answer for 5 s, although
// media flows. The client module does not take this for the end of the call (docs/PROTOCOL.md); when media stops too, it does.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { launch } from './browser.mjs';
import { Edge, sleep, until } from './edge.mjs';
import { Relay, through } from './relay.mjs';

let edge;
let browser;

before(async () => {
  edge = await Edge.start();
  browser = await launch();
});

/** Joins in a page, through a relay if `open` is given. */
async function join(room, name, open) {
  const context = await browser.newContext();
  if (open) await through(context, open);
  const page = await context.newPage();
  await page.goto(edge.base);
  const token = await edge.token('--room', room, '--name', name, '--publish', '--subscribe');
  await page.evaluate(async ({ token, name }) => {
    const Native = window.RTCPeerConnection;
    window.pcs = [];
    window.RTCPeerConnection = class extends Native {
      constructor(...args) {
        super(...args);
        window.pcs.push(this);
      }
    };
    const { Room } = await import('/sdk/uprtc.js');
    window.room = new Room({ url: location.origin, room: 'lossy', token, name, microphone: true, camera: true, joinTimeout: 60_000 });
    window.states = [];
    window.room.on('state', ({ state }) => window.states.push(state));
    await window.room.join();
  }, { token, name });
  const seen = () => page.evaluate(async () => {
    let frames = 0;
    for (const report of (await window.pcs.at(-1).getStats()).values()) {
      if (report.type === 'inbound-rtp' && report.kind === 'video') frames += report.framesReceived ?? 0;
    }
    return { states: window.states, of: window.pcs.map((pc) => pc.connectionState), frames };
  });
  return { page, seen };
}

/** An answer to a check: a success response of Binding (RFC 8489 §5). */
const isAnswer = (bytes) => bytes.readUInt16BE(0) === 0x0101;

test('checks without an answer do not end a call while media arrives, and silence does', { timeout: 180_000 }, async () => {
  let link;
  await join('lossy', 'Bob');
  const ada = await join('lossy', 'Ada', async (port) => (link ??= await Relay.open(port)).port);
  await until('Ada sees Bob', async () => (await ada.seen()).frames > 20, 40_000);
  await ada.page.evaluate(() => window.states.splice(0));

  link.loses = isAnswer;
  await until('the browser calls it disconnected', async () => (await ada.seen()).of.at(-1) === 'disconnected', 30_000);
  const before = await ada.seen();
  // For longer than the module waits until it restarts ICE.
  await sleep(4_000);
  const during = await ada.seen();
  assert.deepEqual([during.of, during.states], [['disconnected'], []]);
  assert.ok(during.frames > before.frames + 20, `${during.frames - before.frames} frames in 4 s`);

  link.loses = () => true;
  await until('the module says so', async () => (await ada.seen()).states.includes('interrupted'), 10_000);
  link.loses = () => false;
  await until('it is connected again', async () => (await ada.seen()).states.at(-1) === 'connected', 40_000);
  const { frames } = await ada.seen();
  await until('Ada sees Bob again', async () => (await ada.seen()).frames > frames + 10, 20_000);
});
