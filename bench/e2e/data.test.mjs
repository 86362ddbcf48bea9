// Messages by the client module, in real browsers: by data channels, by the signalling socket, and while the controlplane is killed.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { launch } from './browser.mjs';
import { Edge, until } from './edge.mjs';
import { launchFirefox } from './firefox.mjs';

let edge;
let browser;

before(async () => {
  // Not the rate of a peer is tested here.
  [edge, browser] = await Promise.all([Edge.start('--set', 'data-bps-max=100000000'), launch()]);
});

/** Runs in the page: joins, and notes what comes. Of what is large the length and a checksum. */
async function enter({ base, room, token }) {
  const { connect } = await import(`${base}/sdk/uprtc.js`);
  const joined = await connect({ room, token, server: base });
  const got = [];
  const sum = (bytes) => bytes.reduce((hash, byte) => (Math.imul(hash, 31) + byte) >>> 0, 7);
  const brief = (data) => {
    if (typeof data === 'string') return data.length < 1000 ? data : { text: data.length, sum: sum(new TextEncoder().encode(data)) };
    const bytes = new Uint8Array(data);
    return bytes.length < 100 ? [...bytes] : { bytes: bytes.length, sum: sum(bytes) };
  };
  joined.on('data', ({ from, label, data, reliable }) => got.push({ from: from?.name, label, data: brief(data), reliable }));
  const counts = { drain: 0, errors: [], states: [] };
  joined.on('drain', () => (counts.drain += 1));
  joined.on('error', ({ error }) => counts.errors.push(error.code));
  joined.on('state', ({ state }) => counts.states.push({ state, at: Date.now() }));
  window.e2e = { room: joined, got, counts, sum, brief };
}

/** A participant: a page of its own, with a room and neither pictures nor sound. */
class Member {
  static async join(page, room, name, ...rights) {
    const member = new Member();
    member.page = page;
    member.name = name;
    const given = rights.length ? rights : ['--publish', '--subscribe'];
    const token = await edge.token('--room', room, '--name', name, ...given);
    await page.goto(`${edge.base}/`);
    await page.evaluate(enter, { base: edge.base, room, token });
    return member;
  }

  static async all(room, ...names) {
    const context = await browser.newContext();
    const members = await Promise.all(names.map(async (name) => Member.join(await context.newPage(), room, name)));
    for (const member of members) {
      await until(`${member.name} sees all`, () => member.page.evaluate((n) => window.e2e.room.participants.size === n, names.length - 1));
    }
    return members;
  }

  /** Sends text, or bytes given as an array. Returns `sent`, or the code of the error. `to`: names. */
  send(data, { to, ...options } = {}) {
    return this.page.evaluate(async ({ data, to, options }) => {
      const { room } = window.e2e;
      const ids = to && { to: [...room.participants.values()].filter(({ name }) => to.includes(name)) };
      try {
        const sending = room.send(typeof data === 'string' ? data : new Uint8Array(data), { ...options, ...ids });
        return await Promise.race([sending.then(() => 'sent'), new Promise((resolve) => setTimeout(resolve, 10_000, 'never acknowledged'))]);
      } catch (error) {
        return error.code ?? String(error);
      }
    }, { data, to, options });
  }

  got() {
    return this.page.evaluate(() => window.e2e.got);
  }

  clear() {
    return this.page.evaluate(() => window.e2e.got.splice(0));
  }

  /** Whether the channels are open, and the messages that went by them. */
  channels() {
    return this.page.evaluate(async () => {
      const all = [...(await window.e2e.room.peerConnection.getStats()).values()].filter(({ type }) => type === 'data-channel');
      return { open: all.length === 2 && all.every(({ state }) => state === 'open'), sent: all.reduce((sum, one) => sum + one.messagesSent, 0) };
    });
  }
}

test('text and binary go both ways by data channels, to all or to those who are named', { timeout: 60_000 }, async () => {
  const [ada, bob, cyd] = await Member.all('ways', 'Ada', 'Bob', 'Cyd');
  for (const member of [ada, bob, cyd]) await until('its channels are open', async () => (await member.channels()).open);
  const before = (await ada.channels()).sent;
  assert.equal(await ada.send('hello', { label: 'greeting' }), 'sent');
  assert.equal(await ada.send([1, 2, 255], { to: ['Bob'] }), 'sent');
  assert.equal(await bob.send('you too', { to: ['Ada', 'Cyd'] }), 'sent');
  assert.equal(await bob.send([0], { to: ['Ada'] }), 'sent');
  assert.equal(await cyd.send('', { to: ['Ada'] }), 'sent');
  assert.ok((await ada.channels()).sent - before >= 2, 'and not by the socket');
  const from = (name) => ({ label: '', reliable: true, from: name });
  // Acknowledged: it has arrived already.
  assert.deepEqual(await bob.got(), [{ ...from('Ada'), label: 'greeting', data: 'hello' }, { ...from('Ada'), data: [1, 2, 255] }]);
  assert.deepEqual(await ada.got(), [{ ...from('Bob'), data: 'you too' }, { ...from('Bob'), data: [0] }, { ...from('Cyd'), data: '' }]);
  assert.deepEqual((await cyd.got()).map(({ data }) => data), ['hello', 'you too']);

  // The application's server sends too, and is nobody.
  const admin = await edge.token('--room', '*', '--name', 'ops', '--admin');
  const headers = { authorization: `Bearer ${admin}`, 'content-type': 'application/json' };
  const body = JSON.stringify({ label: 'news', text: 'five minutes left' });
  const { status } = await fetch(`${edge.base}/v1/rooms/ways/data`, { method: 'POST', headers, body });
  assert.equal(status, 202);
  for (const member of [ada, bob, cyd]) {
    const { from: nobody, ...news } = await until('the news come', async () => (await member.got()).find(({ label }) => label === 'news'));
    assert.deepEqual([nobody ?? 'nobody', news], ['nobody', { label: 'news', data: 'five minutes left', reliable: true }]);
  }

  // A lossy message may be lost, and not all of twenty on one machine.
  for (let n = 0; n < 20; n += 1) assert.equal(await ada.send(`${n}`, { reliable: false, label: 'cursor' }), 'sent');
  const cursors = async () => (await bob.got()).filter(({ label }) => label === 'cursor');
  await until('some come', async () => (await cursors()).length > 0);
  for (const { reliable } of await cursors()) assert.equal(reliable, false);
  for (const member of [ada, bob, cyd]) assert.deepEqual((await member.page.evaluate(() => window.e2e.counts)).errors, []);
  await ada.page.context().close();
});

/** Sends a large message of each kind, whose bytes are not all the same, and waits until it is there. */
async function sendLarge(from, to) {
  for (const size of [60_000, 262_144]) {
    const sent = await from.page.evaluate(async (size) => {
      const { room, brief } = window.e2e;
      const bytes = Uint8Array.from({ length: size }, (_, n) => n * n + (n >> 8));
      // Characters of one, two and four bytes, and such as are escaped in JSON.
      const text = 'ab"c\n😀äxyz'.repeat(Math.ceil(size / 16)).slice(0, Math.floor(size * 0.6));
      await Promise.all([room.send(bytes), room.send(text)]);
      return [brief(bytes.buffer), brief(text)];
    }, size);
    assert.deepEqual((await to.clear()).map(({ data }) => data), sent, `${size}`);
  }
}

test('a message of 256 KiB arrives whole, and a larger one is refused', { timeout: 60_000 }, async () => {
  const [ada, bob] = await Member.all('large', 'Ada', 'Bob');
  await until('the channels are open', async () => (await ada.channels()).open && (await bob.channels()).open);
  await sendLarge(ada, bob);
  assert.equal(await ada.send('x'.repeat(262_145)), 'too_large');
  assert.equal(await ada.send('x'.repeat(16_385), { reliable: false }), 'too_large');
  assert.equal(await ada.send('x', { label: 'l'.repeat(65) }), 'too_large');
  await ada.page.context().close();
});

test('what fits into the window arrives, also if it is sent at once', { timeout: 60_000 }, async () => {
  const [ada, bob] = await Member.all('burst', 'Ada', 'Bob');
  // By the socket first: the channel is perhaps not open yet. (What is larger with its header than a frame would go by the socket in any case.)
  for (const way of ['at once', 'by the channel']) {
    const sent = await ada.page.evaluate(async () => {
      const { room, brief } = window.e2e;
      const messages = Array.from({ length: 4 }, (_, n) => new Uint8Array(262_000).fill(n + 1));
      await Promise.all(messages.map((message) => room.send(message)));
      return messages.map(({ buffer }) => brief(buffer));
    });
    assert.deepEqual((await bob.clear()).map(({ data }) => data), sent, way);
    await until('the channel is open', async () => (await ada.channels()).open);
  }
  await ada.page.context().close();
});

test('who sends more than the window is refused, is told when there is room, and loses nothing', { timeout: 60_000 }, async () => {
  const [ada, bob] = await Member.all('window', 'Ada', 'Bob');
  await until('the channel is open', async () => (await ada.channels()).open);
  const { results, buffered, accepted } = await ada.page.evaluate(async () => {
    const { room } = window.e2e;
    const sending = Array.from({ length: 600 }, (_, n) => room.send(`${n}`).then(() => 'sent', ({ code }) => code));
    const { buffered } = room;
    const results = await Promise.all(sending);
    return { buffered, results, accepted: results.filter((result) => result === 'sent').length };
  });
  assert.equal(accepted, 512);
  assert.deepEqual(results.slice(512), Array.from({ length: 88 }, () => 'too_much'));
  assert.ok(buffered >= 512);
  assert.deepEqual((await bob.got()).map(({ data }) => Number(data)), Array.from({ length: 512 }, (_, n) => n));
  await until('drain', async () => (await ada.page.evaluate(() => window.e2e.counts.drain)) === 1);
  assert.equal(await ada.page.evaluate(() => window.e2e.room.buffered), 0);
  await ada.page.context().close();
});

test('kill -9 of the controlplane: nothing is lost, nothing comes twice, the order is kept', { timeout: 60_000 }, async (t) => {
  const [ada, bob] = await Member.all('killed', 'Ada', 'Bob');
  await until('the channels are open', async () => (await ada.channels()).open && (await bob.channels()).open);
  // Both send all the time.
  for (const { page } of [ada, bob]) {
    await page.evaluate(() => {
      const { room } = window.e2e;
      const sent = { count: 0, acked: [], failed: [], times: [] };
      window.e2e.sent = sent;
      sent.timer = setInterval(() => {
        const n = sent.count;
        sent.count += 1;
        room.send(n % 2 ? String(n) : new Uint8Array(new Uint32Array([n]).buffer)).then(
          () => (sent.acked.push(n), sent.times.push(Date.now())),
          ({ code }) => sent.failed.push(code),
        );
      }, 10);
    });
  }
  const acked = (member) => member.page.evaluate(() => window.e2e.sent.acked.length);
  await until('it flows', async () => (await acked(ada)) > 50 && (await acked(bob)) > 50);
  const pid = await edge.pid('controlplane');
  process.kill(pid, 'SIGKILL');
  const killed = Date.now();
  await until('there is another one', async () => ![undefined, pid].includes(await edge.pid('controlplane')));
  const flowed = await Promise.all([ada, bob].map(acked));
  await until('it flows again', async () => (await acked(ada)) > flowed[0] + 50 && (await acked(bob)) > flowed[1] + 50, 15_000);
  for (const { page } of [ada, bob]) await page.evaluate(() => clearInterval(window.e2e.sent.timer));
  for (const [from, to] of [[ada, bob], [bob, ada]]) {
    await until('all is acknowledged', () => from.page.evaluate(() => window.e2e.room.buffered === 0 && window.e2e.sent.acked.length === window.e2e.sent.count));
    const sent = await from.page.evaluate(() => window.e2e.sent);
    assert.deepEqual(sent.failed, []);
    assert.deepEqual(sent.acked, Array.from({ length: sent.count }, (_, n) => n), 'promises resolve in order');
    const numbers = (await to.clear()).map(({ data }) => (typeof data === 'string' ? Number(data) : data[0] + data[1] * 256));
    assert.deepEqual(numbers, sent.acked, 'each once and in order');
    const gap = Math.max(...sent.times.map((time, n) => time - (sent.times[n - 1] ?? time)));
    t.diagnostic(`${from.name}: ${sent.count} messages, the longest wait between two acknowledgements ${gap} ms, ${sent.times.find((time) => time > killed + 20) - killed} ms after the kill`);
    assert.ok(gap < 5_000, `${gap} ms`);
    assert.deepEqual((await from.page.evaluate(() => window.e2e.room.state)), 'connected');
    assert.equal(await from.page.evaluate(() => window.e2e.counts.states.filter(({ state }) => state === 'interrupted').length), 0);
  }
  // The channels look open, and the same calls go by the socket.
  const before = (await ada.channels()).sent;
  await sendLarge(ada, bob);
  assert.equal(await bob.send([7], { to: ['Ada'] }), 'sent');
  assert.deepEqual((await ada.got()).map(({ data }) => data), [[7]]);
  for (let n = 0; n < 5; n += 1) assert.equal(await ada.send('lossy', { reliable: false }), 'sent');
  await until('a lossy one comes', async () => (await bob.got()).some(({ data }) => data === 'lossy'));
  assert.equal((await ada.channels()).sent, before);
  await ada.page.context().close();
});

test('who may not send is refused, and receives', { timeout: 60_000 }, async () => {
  const [ada] = await Member.all('refused', 'Ada');
  const wim = await Member.join(await ada.page.context().newPage(), 'refused', 'Wim', '--subscribe');
  await until('Ada sees him', () => ada.page.evaluate(() => window.e2e.room.participants.size === 1));
  assert.equal(await wim.page.evaluate(() => window.e2e.room.maySendData), false);
  assert.equal(await wim.send('x'), 'data_refused');
  assert.equal(await wim.send('x', { reliable: false }), 'data_refused');
  assert.equal(await ada.send('for you'), 'sent');
  await until('it comes', async () => (await wim.got()).length === 1);
  assert.deepEqual((await wim.got()).map(({ data }) => data), ['for you']);
  // The server refuses it too, whatever a client may believe: here one that says it by itself.
  const code = await wim.page.evaluate(async (token) => {
    const address = new URL(`/v1/rooms/refused/signal?token=${token}`, location.href);
    address.protocol = 'ws:';
    const pc = new RTCPeerConnection();
    pc.addTransceiver('audio', { direction: 'recvonly' });
    await pc.setLocalDescription();
    // Not before: nobody would hear what comes meanwhile.
    const ws = new WebSocket(address);
    return new Promise((resolve) => {
      ws.onclose = ({ code }) => resolve(`closed with ${code}`);
      setTimeout(resolve, 10_000, 'no answer');
      ws.onmessage = ({ data }) => {
        const signal = JSON.parse(data);
        if (signal.type === 'welcome') ws.send(JSON.stringify({ type: 'offer', sdp: pc.localDescription.sdp }));
        if (signal.type === 'answer') ws.send(JSON.stringify({ type: 'data', id: 1, text: 'sneaked' }));
        if (signal.type === 'error') resolve(signal.code);
      };
    });
  }, await edge.token('--room', 'refused', '--name', 'Eve', '--subscribe'));
  assert.equal(code, 'data_refused');
  assert.deepEqual(await ada.got(), []);
  await ada.page.evaluate(() => window.e2e.room.leave());
  assert.equal(await ada.send('too late'), 'left');
  await ada.page.context().close();
});

test('Firefox and Chromium send each other text and bytes by data channels', { timeout: 60_000 }, async () => {
  const firefox = await launchFirefox();
  const context = await firefox.newContext({ viewport: { width: 400, height: 300 } });
  const fox = await Member.join(await context.newPage(), 'fox', 'Fox');
  const ada = await Member.join(await (await browser.newContext()).newPage(), 'fox', 'Ada');
  await until('both channels are open', async () => (await ada.channels()).open && (await fox.channels()).open);
  for (const [from, to] of [[fox, ada], [ada, fox]]) {
    assert.equal(await from.send('hello', { label: 'greeting' }), 'sent');
    assert.equal(await from.send([1, 2, 3]), 'sent');
    assert.deepEqual(await to.clear(), [
      { from: from.name, label: 'greeting', data: 'hello', reliable: true },
      { from: from.name, label: '', data: [1, 2, 3], reliable: true },
    ]);
  }
  await sendLarge(fox, ada);
  await ada.page.context().close();
});
