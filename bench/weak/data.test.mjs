// What data costs and how late it comes, on real Chromium: `make data` prints the figures (docs/MEASURING.md). Run it by tools/alone.
//
//   CASE       some of the cases by name, separated by commas
//   SHORT      a short form that asserts only that everything arrives

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, test } from 'node:test';

import { launch, launchFrom } from '../e2e/browser.mjs';
import { Edge, sleep, until } from '../e2e/edge.mjs';
import { HERE, Link } from './link.mjs';

const skip = !existsSync('/dev/net/tun') && 'the link needs /dev/net/tun';
assert.ok(!skip || !process.env.REQUIRE?.split(',').includes('namespaces'), `${skip}, and REQUIRE names namespaces`);
const wanted = process.env.CASE ? process.env.CASE.split(',') : undefined;
const isShort = Boolean(process.env.SHORT);

let edge;
let link;
let near;
let far;
const figures = [];

before(async () => {
  if (skip) return;
  link = await Link.open();
  edge = await Edge.start('--listen', '0.0.0.0:0', '--media-ip', HERE, '--set', 'data-bps-max=1000000000', '--set', 'peers-max=16');
  near = await launch();
  far = await launchFrom(await link.chromium(), `--unsafely-treat-insecure-origin-as-secure=${baseAt(HERE)}`);
});

after(() => {
  for (const [name, ...all] of figures) console.log([name.padEnd(14), ...all].join('  '));
});

const baseAt = (address) => `http://${address}:${new URL(edge.base).port}`;
const quantile = (sorted, part) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))];

/** A page that is in a room without media, and notes what comes: `window.got`. */
async function enter(room, name, { browser = near, address = '127.0.0.1' } = {}) {
  const context = await browser.newContext({ viewport: { width: 320, height: 200 } });
  const page = await context.newPage();
  await page.goto(baseAt(address), { timeout: 60_000 });
  const token = await edge.token('--room', room, '--name', name, '--publish', '--subscribe', '--data', 'true');
  await page.evaluate(
    async ({ base, room, token }) => {
      const { connect } = await import(`${base}/sdk/uprtc.js`);
      window.clock = () => performance.timeOrigin + performance.now();
      window.got = { bytes: 0, count: 0, last: -1, disordered: 0, lags: [] };
      window.room = await connect({ room, token, server: base });
      window.room.on('data', ({ data }) => {
        // Each message begins with its number and the time at which it was sent.
        const view = data instanceof ArrayBuffer ? new DataView(data) : new DataView(data.buffer, data.byteOffset);
        const number = view.getUint32(0);
        window.got.bytes += view.byteLength;
        window.got.count += 1;
        if (number !== window.got.last + 1) window.got.disordered += 1;
        window.got.last = number;
        window.got.lags.push(window.clock() - view.getFloat64(4));
      });
    },
    { base: baseAt(address), room, token },
  );
  await until(`${name} is in`, () => page.evaluate(() => window.room.state === 'connected'));
  return { page, close: () => context.close() };
}

/**
 * Sends messages: as fast as they are taken, or so many a second. Returns how many were acknowledged.
 * @param {{ page: any }} peer
 * @param {{ len: number, reliable: boolean, seconds?: number, count?: number, rate?: number, inFlight?: number }} options
 */
const send = ({ page }, options) =>
  page.evaluate(async ({ len, reliable, seconds = Infinity, count = Infinity, rate, inFlight = 64 }) => {
    const end = window.clock() + 1000 * seconds;
    const begun = window.clock();
    let number = 0;
    let acknowledged = 0;
    let failed = '';
    const waiting = new Set();
    while (window.clock() < end && number < count && !failed) {
      const due = rate ? Math.min(count, Math.floor(((window.clock() - begun) / 1000) * rate)) : number + 1;
      while (number < due) {
        const data = new ArrayBuffer(len);
        const view = new DataView(data);
        view.setUint32(0, number++);
        view.setFloat64(4, window.clock());
        const sent = window.room.send(data, { reliable, label: 'bench' }).then(
          () => { acknowledged += 1; },
          (error) => { if (reliable) failed = String(error.code); },
        ).finally(() => waiting.delete(sent));
        waiting.add(sent);
      }
      if (rate) await new Promise((resolve) => setTimeout(resolve, 1));
      while (waiting.size >= inFlight) await Promise.race(waiting);
    }
    await Promise.all(waiting);
    return { number, acknowledged, failed, ms: window.clock() - begun };
  }, options);

/**
 * The same two browsers without a server between them: what the browser itself takes. Sends like {@link send}, on one channel.
 * @param {{ len: number, options: object, seconds: number, rate?: number, buffered: number }} options
 */
async function direct(options) {
  const [from, to] = [await near.newPage(), await near.newPage()];
  for (const page of [from, to]) await page.goto(baseAt('127.0.0.1'), { timeout: 60_000 });
  const prepare = () => {
    window.clock = () => performance.timeOrigin + performance.now();
    window.pc = new RTCPeerConnection();
    window.gathered = async () => {
      while (window.pc.iceGatheringState !== 'complete') await new Promise((resolve) => setTimeout(resolve, 20));
      return window.pc.localDescription.toJSON();
    };
  };
  await Promise.all([from, to].map((page) => page.evaluate(prepare)));
  const offer = await from.evaluate(async (options) => {
    window.channel = window.pc.createDataChannel('bench', options);
    await window.pc.setLocalDescription();
    return window.gathered();
  }, options.options);
  const answer = await to.evaluate(async (offer) => {
    window.got = { bytes: 0, count: 0, lags: [] };
    window.pc.ondatachannel = ({ channel }) => {
      channel.binaryType = 'arraybuffer';
      channel.onmessage = ({ data }) => {
        window.got.bytes += data.byteLength;
        window.got.count += 1;
        window.got.lags.push(window.clock() - new DataView(data).getFloat64(4));
      };
    };
    await window.pc.setRemoteDescription(offer);
    await window.pc.setLocalDescription();
    return window.gathered();
  }, offer);
  const ms = await from.evaluate(async ({ answer, len, seconds, rate, buffered }) => {
    const { channel, clock } = window;
    await window.pc.setRemoteDescription(answer);
    if (channel.readyState !== 'open') await new Promise((resolve) => { channel.onopen = resolve; });
    channel.bufferedAmountLowThreshold = buffered / 2;
    const begun = clock();
    for (let number = 0; clock() < begun + 1000 * seconds;) {
      const due = rate ? Math.floor(((clock() - begun) / 1000) * rate) : number + 1;
      for (; number < due; number++) {
        const data = new ArrayBuffer(len);
        new DataView(data).setFloat64(4, clock());
        channel.send(data);
      }
      if (rate) await new Promise((resolve) => setTimeout(resolve, 1));
      if (channel.bufferedAmount > buffered) await new Promise((resolve) => { channel.onbufferedamountlow = resolve; });
    }
    while (channel.bufferedAmount > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    return clock() - begun;
  }, { answer, ...options, options: undefined });
  await sleep(500);
  const all = await got({ page: to });
  await Promise.all([from.close(), to.close()]);
  return { ...all, ms };
}

const got = ({ page }) => page.evaluate(() => ({ ...window.got, lags: [...window.got.lags].sort((a, b) => a - b) }));

function measure(name, options, body) {
  const isLeftOut = wanted && !wanted.includes(name);
  test(name, { skip: skip || (isLeftOut && 'CASE names others'), timeout: 600_000, ...options }, body);
}

measure('throughput', {}, async () => {
  const [ada, bob] = [await enter('fast', 'Ada'), await enter('fast', 'Bob')];
  const seconds = isShort ? 1 : 10;
  const before = [await edge.cpu('controlplane'), await edge.cpu('dataplane')];
  const { number, acknowledged, failed, ms } = await send(ada, { len: 64 * 1024, reliable: true, seconds, inFlight: 16 });
  const used = [(await edge.cpu('controlplane')) - before[0], (await edge.cpu('dataplane')) - before[1]];
  const { bytes, count, disordered } = await got(bob);
  assert.deepEqual({ count, disordered, failed, acknowledged }, { count: number, disordered: 0, failed: '', acknowledged: number });
  const megabits = (bytes * 8) / 1e6;
  const between = await direct({ len: 64 * 1024, options: {}, seconds, buffered: 1024 * 1024 });
  const megabitsBetween = (between.bytes * 8) / 1e3 / between.ms;
  figures.push(['throughput', `64 KiB reliable, one to one: ${(megabits / (ms / 1000)).toFixed(0)} Mb/s, and without a server between them ${megabitsBetween.toFixed(0)} Mb/s`,
    `${(megabits / used[0]).toFixed(0)} Mb for each second of the controlplane's core, ${(megabits / used[1]).toFixed(0)} of the dataplane's`]);
  await Promise.all([ada.close(), bob.close()]);
});

measure('latency', {}, async () => {
  const [ada, bob] = [await enter('quick', 'Ada'), await enter('quick', 'Bob')];
  const { number } = await send(ada, { len: 1024, reliable: false, seconds: isShort ? 1 : 10, rate: 1000, inFlight: 4096 });
  await sleep(500);
  const { count, lags } = await got(bob);
  assert.ok(count > number / 2, `${count} of ${number}`);
  const unordered = { ordered: false, maxRetransmits: 0 };
  const between = await direct({ len: 1024, options: unordered, seconds: isShort ? 1 : 10, rate: 1000, buffered: 1024 * 1024 });
  figures.push(['latency', `1 KiB lossy, ${number} at 1,000 a second: ${count} came`,
    `p50 ${quantile(lags, 0.5).toFixed(2)} ms, p99 ${quantile(lags, 0.99).toFixed(2)} ms, longest ${lags.at(-1).toFixed(1)} ms`,
    `without a server p50 ${quantile(between.lags, 0.5).toFixed(2)} ms, p99 ${quantile(between.lags, 0.99).toFixed(2)} ms`]);
  await Promise.all([ada.close(), bob.close()]);
});

measure('slow', {}, async () => {
  link.tell('both rate=none queue=300ms delay=25ms jitter=0ms loss=0% reorder=0%');
  const all = [];
  for (let n = 0; n < 7; n++) all.push(await enter('slow', `N${n}`));
  const slow = await enter('slow', 'Slow', { browser: far, address: HERE });
  const others = all.slice(1);
  const seconds = isShort ? 2 : 15;
  const options = { len: 1024, reliable: false, seconds, rate: 50, inFlight: 4096 };
  const lagsOf = async (seconds = options.seconds) => {
    await Promise.all([...others, slow].map(({ page }) => page.evaluate(() => { window.got.lags = []; })));
    await send(all[0], { ...options, seconds });
    await sleep(1500);
    const lags = (await Promise.all(others.map(got))).flatMap(({ lags }) => lags).sort((a, b) => a - b);
    return [lags, (await got(slow)).lags];
  };
  const [before] = await lagsOf();
  link.tell('down rate=50k');
  await sleep(1000);
  // Before the first is acknowledged nobody knows that the link is narrow now.
  const [, first] = await lagsOf(2);
  const [after, late] = await lagsOf();
  assert.equal(after.length, before.length, `of the others' messages ${after.length} came instead of ${before.length}`);
  figures.push(['slow', `1 KiB lossy, 400 kb/s to eight, one of them at 50 kb/s: the others' p99 ${quantile(before, 0.99).toFixed(1)} ms before, ${quantile(after, 0.99).toFixed(1)} ms then`,
    `it gets ${late.length} of ${options.seconds * options.rate}, p50 ${quantile(late, 0.5)?.toFixed(0)} ms, p95 ${quantile(late, 0.95)?.toFixed(0)} ms, longest ${late.at(-1)?.toFixed(0)} ms behind; in the first 2 s of the narrow link at most ${Math.max(0, ...first).toFixed(0)} ms`]);
  await Promise.all([...all, slow].map((peer) => peer.close()));
});

measure('lossy', { timeout: 2_400_000 }, async () => {
  link.tell('both rate=none queue=300ms delay=50ms jitter=0ms loss=5% reorder=0%');
  const [ada, bob] = [await enter('lossy', 'Ada'), await enter('lossy', 'Bob', { browser: far, address: HERE })];
  const count = isShort ? 500 : 100_000;
  const sending = send(ada, { len: 64, reliable: true, count, inFlight: 400 });
  await sleep(isShort ? 500 : 5_000);
  const before = (await got(bob)).count;
  const begun = Date.now();
  process.kill(await edge.pid('controlplane'), 'SIGKILL');
  let resumed;
  await until('messages come again', async () => {
    const { count: now } = await got(bob);
    // What was under way still arrives.
    if (resumed === undefined && Date.now() - begun > 300 && now > before) resumed = now;
    return resumed !== undefined && now > resumed;
  });
  const gap = Date.now() - begun;
  const { number, acknowledged, failed, ms } = await sending;
  await sleep(2_000);
  const { count: came, disordered } = await got(bob);
  figures.push(['lossy', `64 B reliable, 5 % lost each way, 100 ms, controlplane killed: ${came} of ${number} came, ${disordered} not in order, ${acknowledged} acknowledged${failed && `, ${failed}`}`,
    `${(number / (ms / 1000)).toFixed(0)} messages a second, first after the kill within ${gap} ms`]);
  assert.deepEqual({ came, disordered, acknowledged, failed }, { came: count, disordered: 0, acknowledged: count, failed: '' });
  await Promise.all([ada.close(), bob.close()]);
});
