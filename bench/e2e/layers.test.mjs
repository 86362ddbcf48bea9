// Layers of video between real browsers (docs/decisions/0060, 0063): the client module sends three temporal layers of H.264, and spatial layers of VP9
// and AV1 where the room makes use of them. A receiver behind a narrow link is sent fewer frames of H.264 at the same size, and one that shows a
// small picture the lowest spatial layer, which others get large. Firefox, which has no dependency descriptor, sees the same.
// The camera is Chromium's fake device with 1280×720 at 20 frames per second.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { launch } from './browser.mjs';
import { Edge, sleep, until } from './edge.mjs';
import { launchFirefox } from './firefox.mjs';
import { Relay, through } from './relay.mjs';

let edge;
let chromium;
let firefox;
let admin;

before(async () => {
  edge = await Edge.start();
  [chromium, firefox] = await Promise.all([launch('--use-fake-device-for-media-stream=fps=20'), launchFirefox()]);
  admin = await edge.token('--room', '*', '--name', 'ops', '--admin');
});

async function makeRoom(name, codec) {
  const headers = { authorization: `Bearer ${admin}`, 'content-type': 'application/json' };
  const body = JSON.stringify({ codecs: [codec], client_bps_max: 6_000_000 });
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

class Caller {
  static async join(browser, room, name, { sends = false, lines = 720, isLed = false } = {}) {
    const caller = new Caller();
    caller.name = name;
    caller.context = await browser.newContext({ viewport: { width: 1400, height: 900 } });
    if (isLed) {
      await through(caller.context, async (port) => {
        caller.link ??= await Relay.open(port);
        return caller.link.port;
      });
    }
    caller.page = await caller.context.newPage();
    await caller.page.goto(edge.base);
    const token = await edge.token('--room', room, '--name', name, '--publish', '--subscribe');
    const join = async ({ sends, lines, ...options }) => {
      const { Room } = await import('/sdk/uprtc.js');
      const camera = sends && { width: 1280, height: 720, frameRate: 20 };
      const room = (window.room = new Room({ ...options, camera, microphone: false, joinTimeout: 60_000 }));
      window.tiles = {};
      window.show = (video, lines) => Object.assign(video.style, { width: `${(lines * 16) / 9}px`, height: `${lines}px` });
      room.on('peer-joined', ({ participant }) => {
        const video = (window.tiles[participant.name] = document.createElement('video'));
        video.autoplay = video.playsInline = video.muted = true;
        Object.assign(video.style, { position: 'fixed', top: 0, left: 0 });
        window.show(video, lines);
        document.body.append(video);
        room.attach(video, participant);
      });
      await room.join();
    };
    await caller.page.evaluate(join, { room, token, sends, lines });
    return caller;
  }

  /** What is received: size, frames, freezes. */
  received() {
    return this.page.evaluate(async () => {
      const stats = [...(await window.room.peerConnection.getStats()).values()];
      const found = stats.find(({ type, kind, framesDecoded }) => type === 'inbound-rtp' && kind === 'video' && framesDecoded > 0);
      const { frameHeight = 0, framesDecoded = 0, totalFreezesDuration = 0, bytesReceived = 0 } = found ?? {};
      return { height: frameHeight, frames: framesDecoded, frozen: totalFreezesDuration, bytes: bytesReceived };
    });
  }

  async receives(height, ms = 60_000) {
    await until(`${this.name} receives ${height} lines`, async () => {
      const received = await this.received();
      if (received.height !== height) throw new Error(JSON.stringify(received));
      return true;
    }, ms);
  }

  /** Frames per second, and what was frozen, over some seconds. */
  async rate(seconds) {
    const before = await this.received();
    const began = performance.now();
    await sleep(seconds * 1000);
    const after = await this.received();
    const passed = (performance.now() - began) / 1000;
    const fps = (after.frames - before.frames) / passed;
    return { fps, bps: (8 * (after.bytes - before.bytes)) / passed, frozen: after.frozen - before.frozen, height: after.height };
  }

  shows(lines) {
    return this.page.evaluate((lines) => Object.values(window.tiles).forEach((video) => window.show(video, lines)), lines);
  }

  /** Scalability modes of the camera's encodings, as the browser says that it sends them. */
  modes() {
    return this.page.evaluate(async () => {
      const stats = [...(await window.room.peerConnection.getStats()).values()];
      return stats.filter(({ type, kind, framesEncoded }) => type === 'outbound-rtp' && kind === 'video' && framesEncoded > 0)
        .map(({ scalabilityMode }) => scalabilityMode);
    });
  }

  close() {
    return this.context.close();
  }
}

test('a narrow link gets fewer frames of H.264', { timeout: 180_000 }, async () => {
  await makeRoom('temporal', 'h264');
  const ada = await Caller.join(chromium, 'temporal', 'Ada', { sends: true });
  const bob = await Caller.join(chromium, 'temporal', 'Bob', { isLed: true });
  await bob.receives(720);
  assert.deepEqual(await ada.modes(), ['L1T3']);
  const whole = await bob.rate(5);
  console.log('whole', whole);
  assert.ok(whole.fps > 16, JSON.stringify(whole));
  const before = await counter('held_for_layer_total');
  const { bps } = whole;
  bob.link.bps = 0.6 * bps;
  await until('layers are left out', async () => (await counter('held_for_layer_total')) > before + 20, 60_000);
  await sleep(5_000);
  const narrow = await bob.rate(10);
  console.log('narrow', narrow, (await counter('held_for_layer_total')) - before);
  assert.ok(narrow.fps > 3 && narrow.fps < 16 && narrow.height === 720, JSON.stringify(narrow));
  assert.ok(narrow.bps < 0.65 * bps && narrow.frozen < 1, JSON.stringify(narrow));
  bob.link.bps = Infinity;
  await until('all frames come again', async () => (await bob.rate(3)).fps > 16, 60_000);
  assert.equal(await counter('descriptors_malformed_total'), 0);
  await Promise.all([ada.close(), bob.close()]);
});

for (const codec of ['vp9', 'av1']) {
  test(`who shows a small picture gets the lowest spatial layer of ${codec}`, { timeout: 240_000 }, async () => {
    await makeRoom(codec, codec);
    const ada = await Caller.join(chromium, codec, 'Ada', { sends: true });
    const bob = await Caller.join(chromium, codec, 'Bob');
    const cyd = await Caller.join(chromium, codec, 'Cyd', { lines: 180 });
    await until('Ada sends three spatial layers', async () => (await ada.modes()).join() === 'L3T3_KEY', 30_000);
    await bob.receives(720);
    await cyd.receives(180);
    // In the first seconds the number of layers still changes, each time with a keyframe.
    await until('the sender has settled', async () => {
      const { fps, frozen, height } = await bob.rate(3);
      if (fps < 14 || frozen > 0 || height !== 720) throw new Error(JSON.stringify({ fps, frozen, height }));
      return true;
    }, 60_000);
    const [large, small] = await Promise.all([bob.rate(5), cyd.rate(5)]);
    console.log(codec, 'large', large, 'small', small);
    assert.ok(large.fps > 14 && large.height === 720, JSON.stringify(large));
    assert.ok(small.fps > 14 && small.height === 180, JSON.stringify(small));
    await cyd.shows(720);
    await cyd.receives(720, 20_000);
    await cyd.shows(180);
    await cyd.receives(180, 20_000);
    await bob.receives(720);
    const fox = await Caller.join(firefox, codec, 'Fox', { lines: 720 });
    await until('Firefox decodes', async () => (await fox.received()).frames > 30, 30_000);
    const seen = await fox.rate(5);
    console.log(codec, 'Firefox', seen);
    assert.ok(seen.fps > 8, JSON.stringify(seen));
    assert.equal(await counter('descriptors_malformed_total'), 0);
    await Promise.all([ada, bob, cyd, fox].map((caller) => caller.close()));
  });
}
