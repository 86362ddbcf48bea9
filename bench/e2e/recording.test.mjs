// The meeting page: who may record starts and stops a recorder that waits for orders, and everybody sees it.

import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { Edge, until } from './edge.mjs';

const DESKTOP = { width: 1280, height: 720 };
const PHONE = { width: 360, height: 740 };

let edge;
let browser;

before(async () => {
  [edge, browser] = await Promise.all([Edge.start(), launch()]);
});

async function enter(name, ...rights) {
  const token = await edge.token('--room', 'kept', '--name', name, '--publish', '--subscribe', ...rights);
  const peer = await Peer.join(browser, `${edge.base}/r/kept?token=${token}&join=1`, 1);
  await until(`${name} is in`, () => peer.page.evaluate(() => window.uprtc?.room.state === 'connected'));
  return peer;
}

const sign = ({ page }) => page.locator('#recorded');
const record = ({ page }) => page.locator('#record');

async function shoot({ page }, name, size) {
  await page.setViewportSize(size);
  // Everything of the bar is in the picture.
  const bar = await page.locator('.bar').evaluate((bar) => [...bar.querySelectorAll('button')].filter((one) => one.checkVisibility()).map((one) => one.getBoundingClientRect()).every(({ left, right }) => left >= 0 && right <= innerWidth));
  assert.ok(bar, `a button is outside of the page at ${size.width}`);
  const [words, talk] = await Promise.all(['#bar-count', '#talk'].map((part) => page.locator(part).boundingBox()));
  assert.ok(words.x + words.width <= talk.x, `${words.x + words.width} is over ${talk.x} at ${size.width}`);
  if (process.env.UPRTC_E2E_SHOTS) await page.screenshot({ path: `${process.env.UPRTC_E2E_SHOTS}/${name}-${size.width}.png` });
}

test('a recording is started and stopped on the page, and everybody sees it', { timeout: 120_000 }, async () => {
  const early = await enter('Early', '--record');
  await until('the page has asked', () => early.page.evaluate(() => performance.getEntriesByType('resource').some(({ name }) => name.endsWith('/recordings'))));
  assert.ok(!(await record(early).isVisible()), 'no recorder waits');
  await early.close();

  const kept = path.join(edge.state, 'kept');
  edge.begin('record', '--to', kept, '--orders');
  await until('a recorder waits', async () => (await edge.metrics())['uprtc_services{role="recorder"}'] === 1);
  const [host, guest] = [await enter('Host', '--record'), await enter('Guest')];
  await until('the host has the button', () => record(host).isVisible());
  assert.equal(await record(host).getAttribute('aria-label'), 'Record this room');
  assert.ok(!(await record(guest).isVisible()) && !(await sign(guest).isVisible()));

  await record(host).click();
  for (const peer of [host, guest]) {
    await until('the sign', () => sign(peer).isVisible());
    assert.equal(await sign(peer).innerText(), 'Recording');
    assert.equal(await sign(peer).getAttribute('role'), 'status');
  }
  await until('a message', async () => (await guest.page.locator('.toast').allInnerTexts()).includes('This room is being recorded.'));
  assert.equal(await record(host).getAttribute('aria-label'), 'Stop the recording');
  for (const size of [DESKTOP, PHONE]) await shoot(host, 'recording', size);
  await host.page.setViewportSize(DESKTOP);
  const list = async () => JSON.parse(await readFile(path.join(kept, (await readdir(kept))[0], 'recording.json'), 'utf8'));
  await until('sound and picture of both', async () => (await list()).files.filter(({ source }) => source === 'camera' || source === 'microphone').length >= 4);

  await until('the button can be used', () => record(host).isEnabled());
  await record(host).click();
  for (const peer of [host, guest]) await until('no sign', async () => !(await sign(peer).isVisible()));
  await until('the end is written', async () => (await list()).end_reason === 'stopped');
  await Promise.all([host.close(), guest.close()]);
});
