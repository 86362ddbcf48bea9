// The messages of the client module by themselves, against a server of this file that loses its channels and sockets at any moment, and refuses
// ids out of order. Without a browser; data.test.mjs has the real ones.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { sleep, until } from './edge.mjs';

globalThis.MediaStream = class {};
const { Data } = await import('../../controlplane/web/sdk/data.js');
const { bodyOf, frameOf, readFrame, signalsOf } = await import('../../controlplane/web/sdk/messages.js');

const ALL_READY = { data_channels: true, may_send_data: true };

/** A server with one client: it takes messages, strictly by their ids, and echoes nothing. */
class Server {
  taken = [];
  acks = [];
  last = 0;
  isAcking = true;
  /** Of a message on the socket. */
  parts = [];

  constructor() {
    this.events = [];
    this.data = new Data({
      emit: (type, detail) => this.events.push({ type, ...detail }),
      report: (error) => this.events.push({ type: 'error', error }),
      find: (id) => (id === 'bob' ? { id } : this.known?.get(id)),
      socket: () => this.socket,
      isConnected: () => this.isConnected,
    });
    this.isConnected = true;
    this.data.open(this.connection(), ALL_READY);
    this.connectSocket();
    this.data.begin();
  }

  connection() {
    const server = this;
    const make = (label) => {
      const channel = {
        label, readyState: 'connecting', bufferedAmount: 0, sent: [],
        send(frame) {
          if (server.deaf) return;
          assert.ok((typeof frame === 'string' ? Buffer.byteLength(frame) : frame.length) <= 262_144, 'a frame fits');
          const message = typeof frame === 'string' ? JSON.parse(frame) : undefined;
          const binary = message ? undefined : readFrame(frame.buffer);
          queueMicrotask(() => server.take(message ?? binary.header, binary?.payload, this));
        },
      };
      server[label] = channel;
      return channel;
    };
    return { createDataChannel: (label) => make(label) };
  }

  openChannels() {
    for (const label of ['uprtc', 'uprtc-lossy']) {
      this[label].readyState = 'open';
      this[label].onopen?.();
    }
  }

  connectSocket() {
    const server = this;
    this.parts = [];
    this.socket = {
      bufferedAmount: 0,
      send(signal) {
        const text = JSON.stringify(signal);
        assert.ok(Buffer.byteLength(text) < 65_536, `${text.length} bytes in a signal`);
        // A channel is quicker.
        setTimeout(() => this === server.socket && server.take(JSON.parse(text), undefined, this), 2);
      },
    };
  }

  take(signal, payload, way) {
    const isSocket = way === this.socket;
    if (signal.type === 'data_ack') return signal.id > 0 ? this.acks.push(signal) : undefined;
    if (signal.more) return this.parts.push(signal);
    const data = payload ?? bodyOf(isSocket ? [...this.parts.splice(0), signal] : [signal]);
    if (signal.reliable === false) return this.taken.push({ ...signal, data });
    if (signal.id > this.last) {
      assert.equal(signal.id, this.last + 1, 'no id is left out');
      this.last = signal.id;
      this.taken.push({ ...signal, data });
    }
    if (this.isAcking) this.data.handle({ type: 'data_acked', id: this.last });
  }
}

test('a message is cut between characters, and put together again', () => {
  const texts = ['', 'a', '😀'.repeat(30_000), '"\\\n\u0001ä'.repeat(20_000), 'x'.repeat(262_144), `\ufeff${'😀'.repeat(20_000)}`];
  for (const text of texts) {
    const signals = signalsOf({ type: 'data' }, text);
    for (const signal of signals) assert.ok(Buffer.byteLength(JSON.stringify(signal)) < 49_152 + 64);
    assert.deepEqual(signals.map(({ more = false }) => more), signals.map((_, n) => n + 1 < signals.length));
    assert.equal(bodyOf(signals), text);
  }
  for (const size of [0, 1, 36_864, 36_865, 262_144]) {
    const bytes = Uint8Array.from({ length: size }, (_, n) => n * 7);
    const signals = signalsOf({ type: 'data' }, bytes);
    for (const { binary } of signals) assert.ok(binary.length <= 49_152);
    assert.deepEqual(new Uint8Array(bodyOf(signals)), bytes);
    const frame = frameOf({ type: 'data', label: 'ä' }, bytes);
    if (size === 262_144) assert.equal(frame, undefined, 'with its header it is too large for a channel');
    else {
      assert.deepEqual(readFrame(frame.buffer).header, { type: 'data', label: 'ä' });
      assert.deepEqual(new Uint8Array(readFrame(frame.buffer).payload), bytes);
    }
  }
});

test('whatever happens to the ways, each reliable message arrives once and in order', { timeout: 20_000 }, async () => {
  let seed = 7;
  const random = (n) => (seed = (seed * 48_271) % 2_147_483_647) % n;
  const server = new Server();
  const sent = [];
  const promises = [];
  const send = () => {
    const body = random(30) === 0 ? 'L'.repeat(262_144 - random(60)) : `${sent.length}`;
    promises.push(server.data.send(body).then(() => undefined, (error) => error));
    sent.push(body);
  };
  const events = [
    () => server.openChannels(),
    () => { server.socket = undefined; server.data.changed(); },
    () => { server.connectSocket(); server.data.resume(ALL_READY); },
    // Its successor knows the room and not the channels.
    () => { server.deaf = true; server.socket = undefined; },
    () => { server.deaf = true; server.connectSocket(); server.data.resume({ data_channels: false }); },
    () => { server.isConnected = !server.isConnected; server.data.changed(); },
    () => { server.isAcking = !server.isAcking; },
    () => server.data.handle({ type: 'error', code: 'too_much', fatal: false }),
  ];
  for (let round = 0; round < 800; round += 1) {
    if (server.data.buffered < 600_000) for (let n = random(4); n > 0; n -= 1) send();
    else if (random(5) === 0) {
      server.isAcking = true;
      server.connectSocket();
      server.data.resume({ data_channels: !server.deaf });
    }
    // Another connection, whose session is the same.
    if (server.deaf && random(8) === 0) {
      server.deaf = false;
      server.data.open(server.connection(), ALL_READY);
      server.connectSocket();
      server.data.resume(ALL_READY);
      server.openChannels();
    }
    if (random(3) === 0) events[random(events.length)]();
    if (random(3) === 0) await sleep(0);
    if (random(80) === 0) await sleep(260);
  }
  Object.assign(server, { isAcking: true, isConnected: true });
  server.connectSocket();
  server.data.resume({ data_channels: false });
  assert.deepEqual((await Promise.all(promises)).filter(Boolean), []);
  assert.deepEqual(server.taken.map(({ data }) => data), sent);
  assert.ok(sent.length > 300, `${sent.length}`);
  assert.equal(server.data.buffered, 0);
});

test('a new session counts from one and sends what nobody has', async () => {
  const server = new Server();
  server.isAcking = false;
  const sent = ['a', 'b', 'c'].map((text) => server.data.send(text));
  await until('the first server has them', () => server.last === 3);
  server.data.handle({ type: 'data_acked', id: 1 });
  await sent[0];
  Object.assign(server, { last: 0, taken: [], isAcking: true });
  server.data.open(server.connection(), ALL_READY);
  server.connectSocket();
  server.data.begin();
  await Promise.all(sent);
  assert.deepEqual(server.taken.map(({ id, data }) => [id, data]), [[1, 'b'], [2, 'c']]);
});

test('the window is held, and drain tells when it is open again', async () => {
  const server = new Server();
  server.isAcking = false;
  const many = Array.from({ length: 512 }, (_, n) => server.data.send(`${n}`));
  await assert.rejects(server.data.send('one more'), { code: 'too_much' });
  assert.deepEqual(server.events, []);
  server.data.handle({ type: 'data_acked', id: 255 });
  assert.deepEqual(server.events, []);
  server.data.handle({ type: 'data_acked', id: 256 });
  assert.deepEqual(server.events.map(({ type }) => type), ['drain']);
  server.data.handle({ type: 'data_acked', id: 512 });
  await Promise.all(many);
  const large = new ArrayBuffer(262_144);
  for (let n = 0; n < 4; n += 1) void server.data.send(large);
  assert.equal(server.data.buffered, 1_048_576);
  await assert.rejects(server.data.send('x'), { code: 'too_much' });
  server.data.close();
  await assert.rejects(server.data.send('x'), { code: 'left' });
});

test('what is refused is refused with its name', async () => {
  const server = new Server();
  await assert.rejects(server.data.send('x'.repeat(262_145)), { code: 'too_large' });
  await assert.rejects(server.data.send(new Uint8Array(16_385), { reliable: false }), { code: 'too_large' });
  await assert.rejects(server.data.send('x', { label: 'ä'.repeat(33) }), { code: 'too_large' });
  await assert.rejects(server.data.send('x', { to: Array.from({ length: 65 }, String) }), { code: 'too_large' });
  await assert.rejects(server.data.send({}), TypeError);
  await server.data.send('half of it: \ud83d');
  assert.equal(server.taken.at(-1).data, 'half of it: \ufffd');
  server.isAcking = false;
  const waiting = server.data.send('x');
  server.data.handle({ type: 'error', code: 'data_refused', message: 'no', fatal: false });
  await assert.rejects(waiting, { code: 'data_refused' });
  server.data.grant(false);
  await assert.rejects(server.data.send('x'), { code: 'data_refused' });
  server.socket = undefined;
  server.data.grant(true);
  await assert.rejects(server.data.send('x', { reliable: false }), { code: 'unreachable' });
});

test('who receives says so, drops what it has, and waits for the name of a stranger', async () => {
  const server = new Server();
  const { data } = server;
  const message = (from, id, more) => ({ type: 'data', from, id, ...more });
  data.handle(message('bob', 1, { text: 'one' }));
  data.handle(message('bob', 1, { text: 'one' }));
  data.handle(message('bob', 5, { text: 'fi', more: true }));
  data.handle(message('bob', 5, { text: 've' }));
  data.handle(message('bob', 6, { binary: 'AQI=', more: true }));
  // The socket is lost in the middle: the parts come again.
  server.connectSocket();
  data.resume(ALL_READY);
  data.handle(message('bob', 6, { binary: 'AQI=', more: true }));
  data.handle(message('bob', 6, { binary: 'Aw==' }));
  data.handle({ type: 'data', id: 1, label: 'news', text: 'from the server' });
  data.handle(message('cyd', 3, { text: 'early' }));
  const seen = () => server.events.filter(({ type }) => type === 'data').map(({ from, data }) => [from?.id, typeof data === 'string' ? data : [...new Uint8Array(data)]]);
  assert.deepEqual(seen(), [['bob', 'one'], ['bob', 'five'], ['bob', [1, 2, 3]], [undefined, 'from the server']]);
  server.known = new Map([['cyd', { id: 'cyd' }]]);
  data.introduceAll();
  assert.deepEqual(seen().at(-1), ['cyd', 'early']);
  await until('all are acknowledged', () => server.acks.some(({ from, id }) => from === 'bob' && id === 6) && server.acks.some(({ from }) => !from) && server.acks.some(({ from, id }) => from === 'cyd' && id === 3));
  const before = server.acks.length;
  assert.ok(before <= 6, 'not each by itself');
  server.connectSocket();
  data.resume({ data_channels: false });
  await until('they are repeated', () => server.acks.length === before + 3);
  // A new session: what comes before we have read the answer is acknowledged, and nothing of the former one.
  server.acks = [];
  data.open(server.connection(), ALL_READY);
  data.handle(message('bob', 9, { text: 'early' }));
  data.handle({ type: 'data', id: 1, text: 'anew' });
  assert.deepEqual(seen().slice(-2), [['bob', 'early'], [undefined, 'anew']]);
  data.begin();
  await until('it is acknowledged', () => server.acks.length === 2);
  assert.deepEqual(server.acks.map(({ from, id }) => [from, id]), [['bob', 9], [undefined, 1]]);
  data.close();
});
