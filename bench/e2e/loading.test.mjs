// The meeting page when some of its files do not come.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { Peer, launch, textOf } from './browser.mjs';
import { Edge, until } from './edge.mjs';

let edge;
let browser;

before(async () => {
  edge = await Edge.start();
  browser = await launch();
});

/** A page on which these files fail to load, the first `times`. */
async function without(files, times) {
  const context = await browser.newContext();
  const page = await context.newPage();
  const failed = new Map();
  await page.route(/\/(web|sdk)\//, async (route) => {
    const file = new URL(route.request().url()).pathname.split('/').at(-1);
    const count = failed.get(file) ?? 0;
    if (!files.includes(file) || count >= times) return route.continue();
    failed.set(file, count + 1);
    return route.abort('connectionfailed');
  });
  await page.goto(await edge.url('loading', 'Ada', false));
  return { page, failed, close: () => context.close() };
}

for (const file of ['app.js', 'call.js', 'uprtc.js', 'style.css']) {
  test(`${file} fails twice, and the page loads again by itself`, { timeout: 60_000 }, async () => {
    const { page, failed, close } = await without([file], 2);
    await until('it fails twice', () => failed.get(file) === 2);
    const isStyled = () => page.evaluate(() => getComputedStyle(document.querySelector('.offscreen')).position === 'absolute');
    await until('the page has its style', async () => isStyled().catch(() => false));
    await page.locator('#lobby').waitFor();
    assert.equal(await page.evaluate(() => history.state.reloads), 0);
    await close();
  });
}

test('a file that never comes: a few reloads, then a message', { timeout: 60_000 }, async () => {
  const { page, failed, close } = await without(['call.js'], Infinity);
  await page.locator('#incomplete').waitFor({ timeout: 40_000 });
  assert.match(await page.locator('#incomplete').innerText(), /Check your network/);
  assert.equal(failed.get('call.js'), 6);
  await close();
});

test('the policy lets no other inline script run', async () => {
  const peer = await Peer.join(browser, await edge.url('loading', 'Ada', false), 1);
  await peer.page.evaluate(() => {
    const script = document.createElement('script');
    script.textContent = 'window.wasRun = true;';
    document.head.append(script);
  });
  await until('it is refused', () => peer.errors.some((text) => text.includes('Content Security Policy')));
  assert.equal(await peer.page.evaluate(() => window.wasRun), undefined);
  assert.match(await textOf(peer, '#lobby-room'), /loading/);
  await peer.close();
});
