// Simulcast between real browsers: in a room with a budget for it the client module sends its camera in three encodings by RID, each
// participant receives the best one, and an encoding that nobody receives is paused at its sender. In a room of two
// one encoding is sent. The camera is Chromium's fake device with 1280×720 at 15 frames per second.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { launch } from './browser.mjs';
import { Edge, until } from './edge.mjs';

let edge;
let browser;
let admin;

before(async () => {
  edge = await Edge.start();
  browser = await launch('--use-fake-device-for-media-stream=fps=15');
  admin = await edge.token('--room', '*', '--name', 'ops', '--admin');
});

async function makeRoom(name, codec, clientBpsMax) {
  const headers = { authorization: `Bearer ${admin}`, 'content-type': 'application/json' };
  const body = JSON.stringify({ codecs: [codec], client_bps_max: clientBpsMax });
  const made = await fetch(`${edge.base}/v1/rooms/${name}`, { method: 'PUT', headers, body });
  assert.equal(made.status, 201);
}

/** A counter of the workers. */
async function counter(name) {
  const metrics = await (await fetch(`${edge.base}/metrics`, { headers: { authorization: `Bearer ${admin}` } })).text();
  const values = [...metrics.matchAll(new RegExp(`^uprtc_worker_${name}(?:\\{[^}]*\\})? (\\d+)`, 'gm'))];
  assert.ok(values.length, `${name} is in the metrics`);
  return values.reduce((sum, [, value]) => sum + Number(value), 0);
}

// Runs in the page: notes which encodings have ever been sent.
function instrument() {
  // The tiles are small, to spare the processor; the page says that they are four times as large.
  Object.defineProperty(window, 'devicePixelRatio', { get: () => 4 });
  window.simulcast = { sent: new Set() };
  const look = async () => {
    const connection = window.uprtc?.room?.peerConnection;
    if (connection?.connectionState !== 'connected') return;
    for (const { type, kind, rid, framesEncoded } of (await connection.getStats()).values()) {
      if (type === 'outbound-rtp' && kind === 'video' && framesEncoded > 0) window.simulcast.sent.add(rid);
    }
  };
  setInterval(() => void look(), 200);
}

class Caller {
  static async join(room, name) {
    const caller = new Caller();
    caller.name = name;
    caller.context = await browser.newContext({ viewport: { width: 640, height: 400 } });
    await caller.context.addInitScript(instrument);
    caller.page = await caller.context.newPage();
    await caller.page.goto(await edge.url(room, name));
    await until(`${name} is connected`, () =>
      caller.page.evaluate(() => window.uprtc?.room?.peerConnection?.connectionState === 'connected'));
    return caller;
  }

  /** RIDs that were ever sent. */
  sent() {
    return this.page.evaluate(() => [...window.simulcast.sent].sort());
  }

  /** RIDs that are to be sent now. */
  active() {
    return this.page.evaluate(() => {
      const senders = window.uprtc.room.peerConnection.getSenders();
      const camera = senders.find(({ track }) => track?.kind === 'video');
      return camera.getParameters().encodings.filter(({ active }) => active).map(({ rid }) => rid);
    });
  }

  /** Size and frames of each picture that is received. */
  received() {
    return this.page.evaluate(async () => {
      const stats = [...(await window.uprtc.room.peerConnection.getStats()).values()];
      return stats
        .filter(({ type, kind, framesDecoded }) => type === 'inbound-rtp' && kind === 'video' && framesDecoded > 0)
        .map(({ frameWidth, frameHeight, framesDecoded }) => ({ size: `${frameWidth}x${frameHeight}`, framesDecoded }));
    });
  }

  close() {
    return this.context.close();
  }
}

test('three participants send three encodings in VP8, and receive the best', { timeout: 180_000 }, () => threeMeet('vp8'));
test('three participants send three encodings in H.264, and receive the best', { timeout: 180_000 }, () => threeMeet('h264'));

async function threeMeet(codec) {
  const room = `simulcast-${codec}`;
  await makeRoom(room, codec, 6_000_000);
  const callers = [];
  for (const name of ['Ada', 'Bob', 'Cyd']) callers.push(await Caller.join(room, name));
  for (const caller of callers) {
    await until(`${caller.name} sends three encodings`, async () => (await caller.sent()).join() === 'h,l,m', 60_000);
    await until(`${caller.name} receives two pictures of full size`, async () => {
      const received = await caller.received();
      if (received.length !== 2 || received.some(({ size }) => size !== '1280x720')) throw new Error(JSON.stringify(received));
      return true;
    }, 60_000);
  }
  // Everybody takes the best one, so after 5 s the middle one is paused; the smallest goes on.
  for (const caller of callers) {
    await until(`${caller.name} pauses the middle encoding`, async () => {
      const active = (await caller.active()).join();
      if (active !== 'l,h') throw new Error(active);
      return true;
    }, 60_000);
  }
  const before = await callers[0].received();
  await until('pictures go on', async () => {
    const now = await callers[0].received();
    return now.every(({ framesDecoded }, n) => framesDecoded > before[n].framesDecoded + 30);
  });
  await Promise.all(callers.map((caller) => caller.close()));
}

test('in a room of two one encoding is sent', { timeout: 120_000 }, async () => {
  await makeRoom('pair', 'vp8', 6_000_000);
  const callers = [await Caller.join('pair', 'Ada'), await Caller.join('pair', 'Bob')];
  for (const caller of callers) {
    await until(`${caller.name} receives a picture of full size`, async () => {
      const received = await caller.received();
      if (received.length !== 1 || received[0].size !== '1280x720') throw new Error(JSON.stringify(received));
      return true;
    }, 60_000);
    assert.deepEqual(await caller.active(), ['h']);
  }
  await Promise.all(callers.map((caller) => caller.close()));
});

test('Chromium says which encodings it sends, and when it stops one', { timeout: 180_000 }, async () => {
  const room = 'says';
  await makeRoom(room, 'h264', 6_000_000);
  const said = await counter('allocations_received_total');
  const callers = [];
  for (const name of ['Ada', 'Bob', 'Cyd']) callers.push(await Caller.join(room, name));
  const [ada, bob] = callers;
  const isAnswered = () => window.uprtc.room.peerConnection.remoteDescription.sdp.includes('video-layers-allocation00');
  for (const caller of callers) assert.ok(await caller.page.evaluate(isAnswered), `${caller.name} may say it`);
  for (const caller of callers) {
    await until(`${caller.name} receives two pictures of full size`, async () => {
      const received = await caller.received();
      return received.length === 2 && received.every(({ size }) => size === '1280x720');
    }, 60_000);
  }
  // Ada's browser is told to send no large picture, as it does by itself where its link carries less.
  const before = await counter('allocations_received_total');
  assert.ok(before > said, 'each of them has said it');
  await ada.page.evaluate(async () => {
    const sender = window.uprtc.room.peerConnection.getSenders().find(({ track }) => track?.kind === 'video');
    const parameters = sender.getParameters();
    for (const encoding of parameters.encodings) encoding.active = encoding.rid !== 'h';
    await sender.setParameters(parameters);
  });
  await until('Bob receives a smaller picture of Ada', async () => {
    const sizes = (await bob.received()).map(({ size }) => size);
    return sizes.length === 2 && sizes.some((size) => size !== '1280x720');
  }, 20_000);
  assert.ok((await counter('allocations_received_total')) > before, 'it says that it sends less');
  assert.equal(await counter('allocations_malformed_total'), 0);
  await Promise.all(callers.map((caller) => caller.close()));
});
