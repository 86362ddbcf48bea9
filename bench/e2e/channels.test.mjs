// Data channels without the client module, of Chromium and Firefox: every kind of channel, both ways, as any WebRTC application
// opens them. Signalling is the few lines that the documentation of the protocol asks for.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { launch } from './browser.mjs';
import { noCluster, startCluster } from './cluster.mjs';
import { Edge, until } from './edge.mjs';
import { launchFirefox } from './firefox.mjs';

let edge, chromium, firefox;

before(async () => {
  edge = await Edge.start('--set', 'data-bps-max=100000000');
  [chromium, firefox] = await Promise.all([launch(), launchFirefox()]);
});

// Runs in the page: joins with data channels alone, and keeps what comes on each.
async function enter({ url, channels }) {
  const connection = new RTCPeerConnection();
  const got = {};
  const ends = [];
  const watch = (channel) => {
    channel.binaryType = 'arraybuffer';
    got[channel.label] ??= [];
    channel.onmessage = ({ data }) => got[channel.label].push(data);
    channel.onclose = () => ends.push(channel.label);
  };
  connection.ondatachannel = ({ channel }) => {
    window.came[channel.label] = channel;
    watch(channel);
  };
  window.came = {};
  window.own = {};
  for (const [label, options] of Object.entries(channels)) {
    window.own[label] = connection.createDataChannel(label, options);
    watch(window.own[label]);
  }
  Object.assign(window, { connection, got, ends });
  const socket = new WebSocket(url);
  window.signals = [];
  window.socket = socket;
  await new Promise((resolve, reject) => {
    socket.onerror = () => reject(new Error('the socket cannot be opened'));
    socket.onmessage = async (event) => {
      const signal = JSON.parse(event.data);
      window.signals.push(signal);
      if (signal.type === 'welcome') {
        await connection.setLocalDescription();
        socket.send(JSON.stringify({ type: 'offer', sdp: connection.localDescription.sdp }));
      } else if (signal.type === 'answer') {
        await connection.setRemoteDescription(signal);
        resolve();
      } else if (signal.type === 'error') reject(new Error(`${signal.code}: ${signal.message}`));
    };
  });
}

const kinds = {
  ordered: {},
  unordered: { ordered: false },
  retransmits: { ordered: false, maxRetransmits: 2 },
  lifetime: { maxPacketLifeTime: 500 },
  protocol: { protocol: 'chat.1' },
};

const join = (browser, room, name, channels, ...rights) => joinAt(edge, browser, room, name, channels, ...rights);

async function joinAt(edge, browser, room, name, channels, ...rights) {
  const context = await browser.newContext({ viewport: { width: 400, height: 300 } });
  const page = await context.newPage();
  await page.goto(`${edge.base}/`);
  const token = await edge.token('--room', room, '--name', name, '--publish', '--subscribe', ...rights);
  const url = `${edge.base.replace('http', 'ws')}/v1/rooms/${room}/signal?token=${token}`;
  await page.evaluate(enter, { url, channels });
  const opened = () => page.evaluate(() => Object.values(window.own).every((channel) => channel.readyState === 'open'));
  await until(`the channels of ${name} are open`, opened);
  return page;
}

const texts = (page, label) => page.evaluate((l) => (window.got[l] ?? []).map((data) => (typeof data === 'string' ? data : `bytes ${data.byteLength}`)), label);
const say = (page, label, text) => page.evaluate(([l, t]) => (window.own[l] ?? window.came[l]).send(t), [label, text]);

async function everyKind(room, first, second) {
  const ada = await join(first, room, 'Ada', kinds);
  const bob = await join(second, room, 'Bob', { another: {} });
  for (const label of Object.keys(kinds)) await say(ada, label, `to ${label}`);
  await until('Bob has all', async () => {
    for (const label of Object.keys(kinds)) if ((await texts(bob, label))[0] !== `to ${label}`) return false;
    return true;
  });
  const seen = await bob.evaluate(() => Object.fromEntries(Object.entries(window.came).map(([label, channel]) =>
    [label, [channel.ordered, channel.maxRetransmits, channel.maxPacketLifeTime, channel.protocol]])));
  assert.deepEqual(seen, {
    ordered: [true, null, null, ''],
    unordered: [false, null, null, ''],
    retransmits: [false, 2, null, ''],
    lifetime: [true, null, 500, ''],
    protocol: [true, null, null, 'chat.1'],
  }, 'channels are opened to others as the sender opened them');
  for (const label of Object.keys(kinds)) await say(bob, label, `back on ${label}`);
  await until('Ada has all', async () => {
    for (const label of Object.keys(kinds)) if ((await texts(ada, label))[0] !== `back on ${label}`) return false;
    return true;
  });
  return [ada, bob];
}

test('every kind of channel between two Chromium, and between Chromium and Firefox', { timeout: 120_000 }, async () => {
  await everyKind('kinds', chromium, chromium);
  await everyKind('others', chromium, firefox);
  await everyKind('around', firefox, chromium);
});

test('messages are whole and in order, and empty ones and those of 256 KiB are taken', { timeout: 120_000 }, async () => {
  const ada = await join(chromium, 'sizes', 'Ada', { data: {} });
  const bob = await join(chromium, 'sizes', 'Bob', { data: {} });
  const fox = await join(firefox, 'sizes', 'Fox', { data: {} });
  const sent = await ada.evaluate(async () => {
    const channel = window.own.data;
    const lengths = [0, 1, 1150, 1200, 65_536, 262_144];
    for (const length of lengths) channel.send(new Uint8Array(length).fill(length % 251));
    channel.send('');
    channel.send('é'.repeat(131_072));
    for (let n = 0; n < 300; n += 1) channel.send(String(n));
    return [...lengths.map((length) => `bytes ${length}`), '', 'é'.repeat(131_072), ...Array.from({ length: 300 }, (_, n) => String(n))];
  });
  for (const page of [bob, fox]) {
    await until('all of them are there', async () => (await texts(page, 'data')).length >= sent.length);
    const got = await texts(page, 'data');
    assert.equal(got.length, sent.length);
    got.forEach((text, n) => assert.ok(text === sent[n], `message ${n} is ${text.length} long: ${text.slice(0, 20)}`));
  }
  const is_right = await bob.evaluate(() => window.got.data.filter((data) => typeof data !== 'string').every((data) => new Uint8Array(data).every((byte) => byte === data.byteLength % 251)));
  assert.ok(is_right, 'to the byte');
  assert.deepEqual(await texts(ada, 'data'), [], 'nothing comes back to who sent it');
});

test('a sender that is faster than its receiver is slowed down, and nothing is lost', { timeout: 90_000 }, async () => {
  const ada = await join(chromium, 'fast', 'Ada', { data: {} });
  const bob = await join(chromium, 'fast', 'Bob', { data: {} });
  const count = 200;
  await ada.evaluate(async (n) => {
    const channel = window.own.data;
    channel.bufferedAmountLowThreshold = 256 * 1024;
    for (let sent = 0; sent < n; sent += 1) {
      if (channel.bufferedAmount > 1024 * 1024) await new Promise((resolve) => { channel.onbufferedamountlow = resolve; });
      channel.send(new Uint8Array(64 * 1024));
    }
  }, count);
  await until('all 13 MB are there', async () => (await bob.evaluate(() => window.got.data.length)) === count, 60_000);
  assert.equal(await bob.evaluate(() => window.own.data.readyState), 'open');
});

test('a negotiated channel is relayed by its id', { timeout: 60_000 }, async () => {
  const channels = { told: { negotiated: true, id: 20 } };
  const ada = await join(chromium, 'negotiated', 'Ada', channels);
  const bob = await join(firefox, 'negotiated', 'Bob', channels);
  await say(ada, 'told', 'hello');
  await until('Bob has it', async () => (await texts(bob, 'told'))[0] === 'hello');
  await say(bob, 'told', 'back');
  await until('Ada has it', async () => (await texts(ada, 'told'))[0] === 'back');
});

test('a channel that is closed is closed, and can be opened again', { timeout: 60_000 }, async () => {
  const ada = await join(chromium, 'closing', 'Ada', { data: {} });
  const bob = await join(chromium, 'closing', 'Bob', { data: {} });
  await say(ada, 'data', 'first');
  await until('Bob has it', async () => (await texts(bob, 'data'))[0] === 'first');
  await ada.evaluate(() => {
    window.own.data.close();
    window.own.data = window.connection.createDataChannel('data');
  });
  await until('it is closed', () => ada.evaluate(() => window.ends.includes('data')));
  await until('it is open again', () => ada.evaluate(() => window.own.data.readyState === 'open'));
  await say(ada, 'data', 'second');
  await until('Bob has both', async () => (await texts(bob, 'data')).join() === 'first,second');
});

test('who may not send data sends none, and still receives', { timeout: 60_000 }, async () => {
  const ada = await join(chromium, 'rights', 'Ada', { data: {} }, '--data', 'false');
  const bob = await join(chromium, 'rights', 'Bob', { data: {} });
  await say(ada, 'data', 'not allowed');
  await say(bob, 'data', 'allowed');
  await until('Ada has it', async () => (await texts(ada, 'data'))[0] === 'allowed');
  await until('it was refused', async () => (await edge.metrics()).uprtc_data_refused_total >= 1);
  assert.deepEqual(await texts(bob, 'data'), []);
});

test('the application sends into a room', { timeout: 60_000 }, async () => {
  const bob = await join(chromium, 'server', 'Bob', { news: {} });
  const admin = await edge.token('--room', 'server', '--name', 'app', '--admin');
  const send = (body) => fetch(`${edge.base}/v1/rooms/server/data`, {
    method: 'POST',
    headers: { authorization: `Bearer ${admin}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  assert.equal((await send({ label: 'news', text: 'hello from the server' })).status, 202);
  assert.equal((await send({ label: 'news', binary: 'AAEC' })).status, 202);
  await until('Bob has both', async () => (await texts(bob, 'news')).join() === 'hello from the server,bytes 3');
  assert.equal((await send({ label: 'news' })).status, 422);
  assert.equal((await send({ label: 'x'.repeat(65), text: '' })).status, 422);
});

test('messages cross to another edge, in order and once, also while NATS is away', { skip: noCluster, timeout: 120_000 }, async () => {
  const { nats, edges } = await startCluster(2);
  const ada = await joinAt(edges[0], chromium, 'across', 'Ada', { raw: {} });
  const bob = await joinAt(edges[1], chromium, 'across', 'Bob', { raw: {} });
  // Signals on the socket, as the client module says them where it has no channel.
  await bob.evaluate(() => {
    window.had = [];
    window.socket.addEventListener('message', ({ data }) => {
      const { type, from, id, text, binary } = JSON.parse(data);
      if (type !== 'data') return;
      if (id > (window.had.at(-1)?.id ?? 0)) window.had.push({ id, length: (text ?? atob(binary)).length });
      window.socket.send(JSON.stringify({ type: 'data_ack', from, id }));
    });
    window.socket.send(JSON.stringify({ type: 'data_ack', id: 0 }));
  });
  const others = (page) => page.evaluate(() => window.signals.some(({ type, peer, peers }) => type === 'peer_joined' || (type === 'peers' && peers.length > 0)));
  await until('both know of each other', async () => (await others(ada)) && (await others(bob)));

  const cyd = await joinAt(edges[0], chromium, 'channels', 'Cyd', { raw: {} });
  const dan = await joinAt(edges[1], chromium, 'channels', 'Dan', { raw: {} });
  await until('both know of each other', async () => (await others(cyd)) && (await others(dan)));
  await say(cyd, 'raw', 'by channel');
  await until('a channel crosses', async () => (await texts(dan, 'raw'))[0] === 'by channel');

  const acked = () => ada.evaluate(() => Math.max(0, ...window.signals.filter(({ type }) => type === 'data_acked').map(({ id }) => id)));
  const send = (first, last) => ada.evaluate(([a, b]) => {
    for (let id = a; id <= b; id += 1) window.socket.send(JSON.stringify({ type: 'data', label: 'l', id, text: 'x'.repeat((id * 997) % 20_000) }));
  }, [first, last]);
  await send(1, 20);
  await until('all are acknowledged', async () => (await acked()) === 20);
  await nats.stop();
  await send(21, 40);
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  assert.equal(await acked(), 20, 'nothing is acknowledged that has not arrived');
  await nats.resume();
  await until('all are acknowledged when it is back', async () => (await acked()) === 40, 40_000);
  const had = await bob.evaluate(() => window.had);
  assert.deepEqual(had, Array.from({ length: 40 }, (_, n) => ({ id: n + 1, length: ((n + 1) * 997) % 20_000 })));
});
