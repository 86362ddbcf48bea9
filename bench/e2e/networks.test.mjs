// A browser on a host with 200 networks: each gives a candidate, and without batching each candidate is a signal. The test runs
// itself again in its own network namespace, in which it creates the interfaces.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Peer, launch } from './browser.mjs';
import { Edge, until } from './edge.mjs';

const NETWORKS = 200;

if (process.env.UPRTC_NETWORKS !== 'inside') {
  test(`on a host with ${NETWORKS} networks browsers join`, { timeout: 240_000 }, async () => {
    const { NODE_TEST_CONTEXT: _, ...env } = { ...process.env, UPRTC_NETWORKS: 'inside' };
    const alone = fileURLToPath(new URL('../../tools/alone', import.meta.url));
    const child = spawn(alone, [process.execPath, fileURLToPath(import.meta.url)], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (part) => (text += part));
    const code = await new Promise((resolve) => child.once('close', resolve));
    assert.equal(code, 0, text);
  });
} else {
  let edge;
  let browser;

  before(async () => {
    // Chromium treats an address that appears a second later as a network change, and fails running requests.
    await writeFile('/proc/sys/net/ipv6/conf/default/disable_ipv6', '1');
    // Both ends of a pair are interfaces with an address; no traffic uses them.
    const lines = Array.from({ length: NETWORKS / 2 }, (_, i) => [
      `link add wide${i} type veth peer name side${i}`,
      `address add 10.90.${i}.1/24 dev wide${i}`,
      `address add 10.91.${i}.1/24 dev side${i}`,
      `link set wide${i} up`,
      `link set side${i} up`,
    ]);
    execFileSync('ip', ['-batch', '-'], { input: lines.flat().join('\n') });
    const areUp = () => JSON.parse(execFileSync('ip', ['-json', 'link', 'show', 'type', 'veth'])).every(({ operstate }) => operstate === 'UP');
    await until('all of them are up', areUp);
    edge = await Edge.start();
    browser = await launch();
  });

  test('the page joins, and sends its candidates together', { timeout: 120_000 }, async () => {
    const sent = [];
    const peer = await Peer.join(browser, await edge.url('wide', 'Ada', false), 1);
    peer.page.on('websocket', (socket) => {
      socket.on('framesent', ({ payload }) => sent.push(JSON.parse(payload)));
    });
    await peer.page.goto(await edge.url('wide', 'Ada'));
    await until('it is connected', async () => (await peer.stats()).dtls === 'connected', 20_000);
    const batches = () => sent.filter(({ type }) => type === 'candidates');
    const candidates = () => batches().flatMap((batch) => batch.candidates);
    await until('all of its candidates are sent', () => candidates().at(-1)?.candidate === '');
    assert.ok(candidates().length > NETWORKS, `${candidates().length} candidates in ${batches().length} signals`);
    assert.ok(sent.length < 50, `${sent.length} signals`);
    assert.equal(sent.filter(({ type }) => type === 'candidate').length, 0);
    assert.deepEqual(peer.errors, []);
    await peer.context.close();
  });

  test('a page that sends each candidate of each m-section separately joins and stays', { timeout: 120_000 }, async () => {
    const page = await (await browser.newContext()).newPage();
    await page.goto(edge.base);
    const token = await edge.token('--room', 'wide', '--name', 'Bob', '--publish', '--subscribe');
    await page.evaluate((token) => {
      const socket = new WebSocket(`/v1/rooms/wide/signal?token=${token}`);
      const seen = (window.seen = { candidates: 0, isDone: false, received: [], state: 'new', isClosed: false });
      const say = (signal) => socket.send(JSON.stringify(signal));
      // Each m-section gathers separately until BUNDLE is negotiated.
      const pc = new RTCPeerConnection({ bundlePolicy: 'max-compat' });
      for (const kind of ['audio', 'video', 'audio', 'video']) pc.addTransceiver(kind, { direction: 'recvonly' });
      pc.onicecandidate = ({ candidate }) => {
        if (candidate) say({ type: 'candidate', ...candidate.toJSON() });
        if (candidate?.candidate) seen.candidates += 1;
        seen.isDone ||= !candidate;
      };
      pc.onconnectionstatechange = () => (seen.state = pc.connectionState);
      socket.onclose = () => (seen.isClosed = true);
      socket.onmessage = async ({ data }) => {
        const signal = JSON.parse(data);
        seen.received.push(signal.type);
        if (signal.type === 'welcome') {
          await pc.setLocalDescription();
          say({ type: 'offer', sdp: pc.localDescription.sdp });
        } else if (signal.type === 'answer') {
          // After the answer the m-sections are bundled and gather no more candidates.
          while (!seen.isDone) await new Promise((resolve) => setTimeout(resolve, 50));
          await pc.setRemoteDescription({ type: 'answer', sdp: signal.sdp });
        }
      };
      window.ping = () => say({ type: 'ping' });
    }, token);
    const seen = () => page.evaluate(() => window.seen);
    await until('it is connected', async () => (await seen()).state === 'connected', 20_000);
    const { candidates, received, isClosed } = await seen();
    assert.ok(candidates >= 2 * NETWORKS, `${candidates} candidates`);
    assert.ok(!received.includes('error') && !isClosed, received.join(' '));
    await page.evaluate(() => window.ping());
    await until('the socket answers', async () => (await seen()).received.includes('pong'));
  });
}
