// A page that exceeds the signal rate limit reconnects, without an effect on media.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { launch } from './browser.mjs';
import { Edge, until } from './edge.mjs';

test('a client that sends signals too fast reconnects and stays in the call', { timeout: 90_000 }, async () => {
  const edge = await Edge.start();
  const page = await (await (await launch()).newContext({ permissions: ['microphone'] })).newPage();
  const received = [];
  let sockets = 0;
  page.on('websocket', (socket) => {
    sockets += 1;
    socket.on('framereceived', ({ payload }) => received.push(JSON.parse(payload)));
  });
  await page.goto(edge.base);
  const token = await edge.token('--room', 'fast', '--name', 'Ada', '--publish', '--subscribe');
  await page.evaluate(async (token) => {
    const { connect } = await import('/sdk/uprtc.js');
    window.room = await connect({ room: 'fast', token, microphone: true });
    window.states = [];
    window.room.on('state', ({ state }) => window.states.push(state));
  }, token);
  await until('it is connected', () => page.evaluate(() => window.room.state === 'connected'));
  await page.evaluate(async () => {
    window.first = window.room.peerConnection;
    for (let n = 0; n < 150; n += 1) await window.room.setMicrophone(n % 2 === 0);
  });
  await until('the error arrives', () => received.some(({ type, code, fatal }) => type === 'error' && code === 'too_much' && fatal));
  await until('it has resumed', () => page.evaluate(() => window.room.state === 'connected' && window.states.includes('reconnecting')));
  assert.ok(sockets >= 2);
  assert.ok(received.some(({ type, resumed }) => type === 'welcome' && resumed), 'with the session');
  assert.equal(await page.evaluate(() => window.first === window.room.peerConnection && window.first.connectionState), 'connected');
  assert.ok(!(await page.evaluate(() => window.states)).includes('closed'));
});
