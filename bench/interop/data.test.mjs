// Data channels of other stacks, with their own defaults: aiortc, libdatachannel and werift, with each other and with a Chromium that
// uses the client module.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { launch } from '../e2e/browser.mjs';
import { Edge, until } from '../e2e/edge.mjs';
import { atTheEnd } from '../e2e/opened.mjs';
import { brief } from './brief.mjs';
import { DataPeer } from './data.mjs';
import { Client, HOME } from './scene.mjs';

const script = (name) => fileURLToPath(new URL(name, import.meta.url));
const stacks = {
  aiortc: [script('.venv/bin/python'), script('aiortc_data.py')],
  libdatachannel: [process.execPath, script('data_peer.mjs'), 'libdatachannel'],
  werift: [process.execPath, script('data_peer.mjs'), 'werift'],
};
const others = Object.keys(stacks);

let edge;
let browser;

before(async () => {
  // Not the rate of a peer is tested here.
  const starting = Edge.start('--media-ip', '127.0.0.1', '--media-ip', HOME, '--set', 'data-bps-max=100000000');
  [edge, browser] = await Promise.all([starting, launch()]);
  atTheEnd(() => Client.stopAll());
});

async function join(stack, room, channels, ...rights) {
  const token = await edge.token('--room', room, '--name', stack, '--publish', '--subscribe', ...rights);
  const url = `${edge.base.replace('http', 'ws')}/v1/rooms/${room}/signal?token=${token}`;
  return DataPeer.join(stack, stacks[stack], url, channels);
}

/** A Chromium with the client module. */
class Chromium {
  static async join(room) {
    const chromium = new Chromium();
    chromium.page = await (await browser.newContext()).newPage();
    const token = await edge.token('--room', room, '--name', 'Chromium', '--publish', '--subscribe');
    await chromium.page.goto(`${edge.base}/`);
    await chromium.page.evaluate(async ({ room, token }) => {
      const { connect } = await import('/sdk/uprtc.js');
      const joined = await connect({ room, token });
      window.got = [];
      const sum = async (bytes) => [...new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))].slice(0, 8).map((byte) => byte.toString(16).padStart(2, '0')).join('');
      joined.on('data', ({ from, label, data, reliable }) => {
        const one = { from: from?.name, label, reliable };
        window.got.push(one);
        if (typeof data === 'string' && data.length < 100) return void (one.data = data);
        const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : new Uint8Array(data);
        void sum(bytes).then((digest) => (one.data = `${typeof data === 'string' ? 'text' : 'bytes'} ${bytes.length} ${digest}`));
      });
      window.room = joined;
    }, { room, token });
    return chromium;
  }

  /** What came from somebody, by label. */
  got(name, label) {
    return this.page.evaluate(([n, l]) => window.got.filter(({ from, label }) => from === n && label === l).map(({ data }) => data), [name, label]);
  }

  send(label, data, options = {}) {
    const given = typeof data === 'string' ? { text: data } : { base64: Buffer.from(data).toString('base64') };
    return this.page.evaluate(([{ text, base64 }, how]) => window.room.send(text ?? Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)), how), [given, { label, ...options }]);
  }

  sees(count) {
    return until('Chromium sees all', () => this.page.evaluate((n) => window.room.participants.size === n, count));
  }
}

/** What `got` gives is this, within `ms`. */
async function has(who, got, expected, ms = 10_000) {
  await until(`${who} has all`, async () => {
    const now = await got();
    if (JSON.stringify(now) !== JSON.stringify(expected)) throw new Error(`it has ${JSON.stringify(now)}`);
    return true;
  }, ms);
}

const kinds = {
  ordered: {},
  unordered: { ordered: false },
  retransmits: { ordered: false, maxRetransmits: 2 },
  lifetime: { ordered: false, maxPacketLifeTime: 1000 },
  protocol: { protocol: 'chat.1' },
};

async function everybody(room, channels) {
  const [chromium, ...peers] = await Promise.all([Chromium.join(room), ...others.map((stack) => join(stack, room, channels))]);
  await chromium.sees(peers.length);
  return { chromium, peers };
}

test('aiortc, libdatachannel, werift and Chromium send each other text and bytes on every kind of channel', { timeout: 120_000 }, async () => {
  const { chromium, peers } = await everybody('kinds', kinds);
  const bytes = Uint8Array.from([0, 1, 254, 255]);
  for (const label of Object.keys(kinds)) {
    for (const peer of peers) {
      peer.send(label, `é ${label} ${peer.name}`);
      peer.send(label, bytes);
    }
    const isReliable = !('maxRetransmits' in kinds[label] || 'maxPacketLifeTime' in kinds[label]);
    await chromium.send(label, `é ${label} Chromium`, { reliable: isReliable });
    await chromium.send(label, bytes, { reliable: isReliable });
  }
  for (const label of Object.keys(kinds)) {
    const from = (name) => [`é ${label} ${name}`, brief(bytes)];
    for (const peer of peers) {
      const expected = ['Chromium', ...others.filter((name) => name !== peer.name)].flatMap(from);
      await has(`${peer.name}, on ${label},`, () => [...peer.got(label)].sort(), expected.sort());
    }
    for (const name of others) {
      await has(`Chromium, on ${label} of ${name},`, async () => (await chromium.got(name, label)).sort(), from(name).sort());
    }
  }
});

for (const stack of others) {
  test(`who has no such channel gets one like that of ${stack}`, { timeout: 60_000 }, async () => {
    const names = others.filter((name) => name !== stack);
    const [sender, ...receivers] = await Promise.all([join(stack, `like-${stack}`, kinds), ...names.map((name) => join(name, `like-${stack}`, { own: {} }))]);
    for (const label of Object.keys(kinds)) sender.send(label, `first on ${label}`);
    for (const receiver of receivers) {
      for (const label of Object.keys(kinds)) {
        await has(`${receiver.name}, on ${label},`, () => receiver.got(label).slice(0, 1), [`first on ${label}`]);
        const { maxRetransmits = null, maxPacketLifeTime = null, protocol = '' } = kinds[label];
        // werift says `ordered` of every channel that has a limit.
        const ordered = kinds[label].ordered !== false || (stack === 'werift' && label !== 'unordered');
        const how = receiver.report.came[label];
        // libdatachannel does not tell the order.
        assert.deepEqual(how, 'ordered' in how ? { ordered, maxRetransmits, maxPacketLifeTime, protocol } : { protocol }, `${receiver.name} ${label}`);
        receiver.send(label, `back from ${receiver.name}`);
      }
    }
    for (const label of Object.keys(kinds)) {
      await has(`${stack}, on ${label},`, () => [...sender.got(label)].sort(), names.map((name) => `back from ${name}`).sort());
    }
  });
}

test('messages between all of them are whole and in order, from empty ones to those of 256 KiB', { timeout: 120_000 }, async () => {
  const { chromium, peers } = await everybody('sizes', { data: {} });
  const messages = [
    '', new Uint8Array(0), 'x', 'é'.repeat(100_000),
    ...[1, 1150, 16_384, 65_535, 65_536, 65_537, 204_800, 262_144].map((length) => Uint8Array.from({ length }, (_, n) => (n * 31 + (n >> 8)) & 255)),
    ...Array.from({ length: 100 }, (_, n) => String(n)),
  ];
  // werift offers `a=max-message-size:65536`, and its channel stands still after an empty message of its own.
  const sentBy = (name) => (name === 'werift' ? messages.filter((message) => message.length > 0) : messages);
  const takenBy = (name) => (message) => name !== 'werift' || Buffer.byteLength(message) <= 65_536;
  for (const sender of ['Chromium', ...others]) {
    const sent = sentBy(sender);
    for (const peer of peers) if (peer.name === sender) sent.forEach((message) => peer.send('data', message));
    if (sender === 'Chromium') await Promise.all(sent.map((message) => chromium.send('data', message)));
    else await has(`Chromium, of ${sender},`, () => chromium.got(sender, 'data'), sent.map(brief), 15_000);
    for (const peer of peers) {
      const expected = sent.filter(takenBy(peer.name)).map(brief);
      if (peer.name !== sender) await has(`${peer.name}, of ${sender},`, () => peer.got('data').slice(-expected.length), expected, 15_000);
    }
  }
  for (const peer of peers) {
    const ended = peer.signals.filter(({ type }) => type === 'data_ended').map(({ reason }) => reason);
    assert.deepEqual(ended, peer.name === 'werift' ? ['too_long'] : [], `${peer.name} is told once`);
  }
});

test('a negotiated channel of another stack is relayed by its id', { timeout: 60_000 }, async () => {
  const { chromium, peers } = await everybody('negotiated', { told: { negotiated: true, id: 20 } });
  for (const peer of peers) peer.send('told', `from ${peer.name}`);
  await chromium.send('#20', 'from Chromium');
  for (const peer of peers) {
    const expected = ['Chromium', ...others.filter((name) => name !== peer.name)].map((name) => `from ${name}`);
    await has(peer.name, () => [...peer.got('told')].sort(), expected.sort());
    await has('Chromium', () => chromium.got(peer.name, '#20'), [`from ${peer.name}`]);
    assert.deepEqual(peer.report.came, {}, peer.name);
  }
});

test('another stack closes its channel, and opens it again', { timeout: 60_000 }, async () => {
  const { chromium, peers } = await everybody('closing', { data: {} });
  for (const peer of peers) {
    peer.do('close', { label: 'data' });
    await until(`the channel of ${peer.name} is closed`, () => peer.check().closed.includes('data'));
    peer.do('open', { label: 'data', options: {} });
    await until(`it is open again`, () => peer.check().open.filter((label) => label === 'data').length === 2);
    peer.send('data', `again from ${peer.name}`);
    for (const other of peers) {
      if (other !== peer) await until(`${other.name} has it`, () => other.got('data').at(-1) === `again from ${peer.name}`);
    }
    await chromium.send('data', `to ${peer.name}`);
    await until(`${peer.name} has it`, () => peer.got('data').at(-1) === `to ${peer.name}`);
  }
});

test('another stack that may not send data sends none, is told so once, and still receives', { timeout: 60_000 }, async () => {
  const chromium = await Chromium.join('rights');
  const peers = await Promise.all(others.map((stack) => join(stack, 'rights', { data: {} }, '--data', 'false')));
  await chromium.sees(peers.length);
  for (const peer of peers) {
    for (let n = 0; n < 3; n += 1) peer.send('data', 'not allowed');
    const { may_send_data: right } = peer.signals.find(({ type }) => type === 'welcome');
    assert.equal(right, false);
  }
  await chromium.send('data', 'allowed');
  for (const peer of peers) await has(peer.name, () => peer.got('data'), ['allowed']);
  await until('all were refused', async () => (await edge.metrics()).uprtc_data_refused_total === 3 * peers.length);
  assert.deepEqual(await chromium.page.evaluate(() => window.got), []);
  for (const peer of peers) {
    assert.deepEqual(peer.signals.filter(({ type }) => type === 'error').map(({ code, fatal }) => [code, fatal]), [['data_refused', false]], `${peer.name} is told once`);
  }
});
