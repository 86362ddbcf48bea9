// The meeting page in a frame of another origin: origins named in `frame-origins` may show it and delegate the devices; others may not.

import assert from 'node:assert/strict';
import http from 'node:http';
import { before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { Edge, until } from './edge.mjs';
import { atTheEnd } from './opened.mjs';

/** The address that the next page frames. */
let framed;
let named;
let unnamed;
let edge;
let browser;

/** A site with its own origin, whose one page has a frame. */
async function site() {
  const server = http.createServer((request, response) => {
    response.setHeader('content-type', 'text/html; charset=utf-8');
    response.end(`<!doctype html><title>An application</title>
      <iframe width="900" height="560" allow="camera; microphone; display-capture; autoplay; fullscreen" src="${framed}"></iframe>`);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  atTheEnd(() => new Promise((resolve) => server.close(resolve) && server.closeAllConnections()));
  return `http://127.0.0.1:${server.address().port}`;
}

before(async () => {
  [named, unnamed] = [await site(), await site()];
  [edge, browser] = await Promise.all([Edge.start('--set', `frame-origins=${named}`), launch()]);
});

test('a named origin frames the meeting page, with camera and microphone', { timeout: 90_000 }, async () => {
  framed = await edge.url('framed', 'Inside');
  const inside = await Peer.join(browser, named, 1);
  const outside = await Peer.join(browser, await edge.url('framed', 'Outside'), 2);
  await until('the peer outside sees the one in the frame', () => outside.sees([1]), 40_000);
  await until('the peer outside hears the one in the frame', () => outside.hears([1]), 20_000);
  const frame = inside.page.frames().find((frame) => frame.url().startsWith(edge.base));
  await until('the frame shows the other', () => frame.evaluate(() => document.querySelectorAll('video').length >= 2));
  await Promise.all([inside.close(), outside.close()]);
});

test('an origin that is not named cannot frame it', { timeout: 60_000 }, async () => {
  framed = await edge.url('framed', 'Inside');
  const context = await browser.newContext();
  const page = await context.newPage();
  const refusals = [];
  page.on('console', (message) => refusals.push(message.text()));
  await page.goto(unnamed);
  await until('the browser reports the reason', () => refusals.some((text) => text.includes('frame-ancestors')));
  assert.ok(!page.frames().some((frame) => frame.url().startsWith(edge.base)), 'nothing of the meeting is loaded');
  await context.close();
});
