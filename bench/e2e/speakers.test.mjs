// Who speaks: the server says it by the levels in Chromium's packets (RFC 6464), and the client module and the page show it.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { Edge, until } from './edge.mjs';

let edge;
let browser;

before(async () => {
  edge = await Edge.start();
  browser = await launch();
});

/** Keeps the page's sockets, so that a signal can be put into one. */
function keepSockets() {
  const Native = window.WebSocket;
  window.sockets = [];
  window.WebSocket = class extends Native {
    constructor(...args) {
      super(...args);
      window.sockets.push(this);
    }
  };
}

/** The names of those who speak, as a participant is told. */
const speakers = (peer) => peer.page.evaluate(() => window.uprtc.room.speakers.map(({ name }) => name).sort());

/** The names of the tiles with the ring of who speaks. */
const ringed = (peer) =>
  peer.page.evaluate(() => [...document.querySelectorAll('[data-speaking]')].map((tile) => tile.getAttribute('aria-label')));

const isList = (list, ...names) => list.length === names.length && names.every((name, n) => list[n] === name);

test('who speaks is told to all, and who mutes does not speak', { timeout: 120_000 }, async () => {
  const names = ['Ada', 'Bob', 'Cyd'];
  const peers = await Promise.all(names.map(async (name, n) => Peer.join(browser, await edge.url('voices', name), n + 1)));
  const [ada, bob, cyd] = peers;
  // Their microphones have a tone.
  for (const peer of peers) await until('all speak', async () => isList(await speakers(peer), ...names), 40_000);
  await cyd.page.evaluate(() => window.uprtc.room.setMicrophone(false));
  await until('Cyd is quiet', async () => isList(await speakers(ada), 'Ada', 'Bob'), 10_000);
  const flags = await ada.page.evaluate(() =>
    [...window.uprtc.room.participants.values()].map(({ name, speaking }) => [name, speaking]).sort(),
  );
  assert.deepEqual(flags, [['Bob', true], ['Cyd', false]]);
  assert.ok((await ringed(ada)).some((label) => label?.startsWith('Bob')), 'the tile of who speaks has a ring');
  // Silence, which the microphone still sends, is no speech either.
  await bob.page.evaluate(() => {
    const silent = new AudioContext().createMediaStreamDestination().stream.getAudioTracks()[0];
    return window.uprtc.room.setMicrophone(true, silent);
  });
  await until('Bob is quiet', async () => isList(await speakers(ada), 'Ada'), 10_000);
  await cyd.page.evaluate(() => window.uprtc.room.setMicrophone(true));
  await until('Cyd speaks again', async () => isList(await speakers(bob), 'Ada', 'Cyd'), 10_000);
  // Who comes is told, too.
  const dan = await Peer.join(browser, await edge.url('voices', 'Dan'), 4);
  await until('Dan knows who speaks', async () => isList(await speakers(dan), 'Ada', 'Cyd', 'Dan'), 20_000);
});

test('audio is sent with redundancy when the server says so, without an offer to it', { timeout: 120_000 }, async () => {
  const [ada, bob] = await Promise.all(['Ada', 'Bob'].map(async (name, n) => Peer.join(browser, await edge.url('red', name), n + 1, { setup: keepSockets })));
  await until('Ada hears Bob', () => ada.hears([2]), 40_000);
  const rate = async () => {
    const bytes = () =>
      bob.page.evaluate(async () => {
        const stats = [...(await window.uprtc.room.peerConnection.getStats()).values()];
        return stats.filter(({ type, kind }) => type === 'outbound-rtp' && kind === 'audio').reduce((sum, { bytesSent }) => sum + bytesSent, 0);
      });
    const before = await bytes();
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    return ((await bytes()) - before) / 2;
  };
  const plain = await rate();
  const order = () => bob.page.evaluate(() => /^m=audio \S+ \S+ ([\d ]+)/m.exec(window.uprtc.room.peerConnection.remoteDescription.sdp)?.[1]);
  assert.match(await order(), /^111 63/);
  const prefer = (audio) => bob.page.evaluate((audio) => window.sockets.at(-1).onmessage({ data: JSON.stringify({ type: 'redundancy', audio }) }), audio);
  await prefer(true);
  await until('RED goes first', async () => (await order()).startsWith('63 '), 10_000);
  const redundant = await rate();
  assert.ok(redundant > 1.6 * plain, `${plain} and ${redundant} bytes a second`);
  await until('Ada hears Bob still', () => ada.hears([2]), 20_000);
  await prefer(false);
  await until('Opus goes first', async () => (await order()).startsWith('111 '), 10_000);
  const again = await rate();
  assert.ok(again < 1.3 * plain, `${plain} and ${again} bytes a second`);
});
