// What is shown (docs/decisions/0056) between real browsers: a tile that is hidden stops its bytes and comes back, a small one is
// sent a small encoding, and what is pinned keeps its large one where the link is narrow. The pages use the client module
// alone; their cameras are Chromium's fake device with 1280×720 at 15 frames per second.

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

async function makeRoom(name) {
  const headers = { authorization: `Bearer ${admin}`, 'content-type': 'application/json' };
  const body = JSON.stringify({ codecs: ['vp8'], client_bps_max: 6_000_000 });
  const made = await fetch(`${edge.base}/v1/rooms/${name}`, { method: 'PUT', headers, body });
  assert.equal(made.status, 201);
}

class Caller {
  static async join(room, name) {
    const caller = new Caller();
    caller.name = name;
    caller.context = await browser.newContext({ viewport: { width: 1400, height: 900 } });
    caller.page = await caller.context.newPage();
    await caller.page.goto(edge.base);
    const token = await edge.token('--room', room, '--name', name, '--publish', '--subscribe');
    await caller.page.evaluate(async (options) => {
      const { Room } = await import('/sdk/uprtc.js');
      const camera = { width: 1280, height: 720, frameRate: 15 };
      const room = (window.room = new Room({ ...options, camera, joinTimeout: 60_000 }));
      window.tiles = {};
      const show = ({ participant }) => {
        const video = (window.tiles[participant.name] = document.createElement('video'));
        video.autoplay = video.playsInline = video.muted = true;
        Object.assign(video.style, { position: 'fixed', top: 0, left: 0, width: '1280px', height: '720px' });
        document.body.append(video);
        room.attach(video, participant);
      };
      room.on('peer-joined', show);
      await room.join();
    }, { room, token });
    return caller;
  }

  /** What is received of another one: bytes, and the height of the picture. */
  received(name) {
    return this.page.evaluate(async (name) => {
      const [track] = window.tiles[name]?.srcObject.getVideoTracks() ?? [];
      const stats = [...(await window.room.peerConnection.getStats()).values()];
      const found = stats.find(({ type, trackIdentifier }) => type === 'inbound-rtp' && trackIdentifier === track?.id);
      return { bytes: found?.bytesReceived ?? 0, height: found?.frameHeight ?? 0, frames: found?.framesDecoded ?? 0 };
    }, name);
  }

  async receives(name, height) {
    await until(`${this.name} receives ${name} with ${height} lines`, async () => {
      const received = await this.received(name);
      if (received.height !== height) throw new Error(JSON.stringify(received));
      return true;
    }, 60_000);
  }

  /** Changes the style of the tile of another one. */
  style(name, style) {
    return this.page.evaluate(([name, style]) => Object.assign(window.tiles[name].style, style), [name, style]);
  }

  close() {
    return this.context.close();
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

test('a hidden tile stops its bytes and returns', { timeout: 180_000 }, async () => {
  await makeRoom('hidden');
  const callers = [];
  for (const name of ['Ada', 'Bob', 'Cyd']) callers.push(await Caller.join('hidden', name));
  const [ada] = callers;
  await ada.receives('Bob', 720);
  await ada.receives('Cyd', 720);
  await ada.style('Bob', { display: 'none' });
  await until('nothing of Bob comes', async () => {
    const { bytes } = await ada.received('Bob');
    await sleep(1_500);
    return (await ada.received('Bob')).bytes === bytes;
  }, 30_000);
  const before = await ada.received('Cyd');
  await until('Cyd goes on', async () => (await ada.received('Cyd')).frames > before.frames + 15);
  const { frames } = await ada.received('Bob');
  await ada.style('Bob', { display: 'block' });
  await until('Bob is back', async () => (await ada.received('Bob')).frames > frames + 5, 10_000);
  // A small tile needs no more than a small picture. The others still receive the large one.
  await ada.style('Cyd', { width: '320px', height: '180px' });
  await ada.receives('Cyd', 180);
  await callers[1].receives('Cyd', 720);
  await ada.style('Cyd', { width: '1280px', height: '720px' });
  await ada.receives('Cyd', 720);
  await Promise.all(callers.map((caller) => caller.close()));
});
