// What becomes of a page that exceeds the limit on signals: it comes again, and media never notices.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { launch } from './browser.mjs';
import { Edge, until } from './edge.mjs';

test('who signals too fast comes again, and stays in the call', { timeout: 90_000 }, async () => {
  const edge = await Edge.start();
  const page = await (await (await launch()).newContext({ permissions: ['microphone'] })).newPage();
  const told = [];
  let sockets = 0;
  page.on('websocket', (socket) => {
    sockets += 1;
    socket.on('framereceived', ({ payload }) => told.push(JSON.parse(payload)));
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
  await until('it is told', () => told.some(({ type, code, fatal }) => type === 'error' && code === 'too_much' && fatal));
  await until('it is back', () => page.evaluate(() => window.room.state === 'connected' && window.states.includes('reconnecting')));
  assert.ok(sockets >= 2);
  assert.ok(told.some(({ type, resumed }) => type === 'welcome' && resumed), 'by the session');
  assert.equal(await page.evaluate(() => window.first === window.room.peerConnection && window.first.connectionState), 'connected');
  assert.ok(!(await page.evaluate(() => window.states)).includes('closed'));
});
