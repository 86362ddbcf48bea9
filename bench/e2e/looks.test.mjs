// Layout and accessibility of the page in each state: nothing overflows or covers important elements, on phones and
// desktops, and axe-core finds no serious problem, in light and dark.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { before, test } from 'node:test';

import { Crowd, Peer, launch } from './browser.mjs';
import { Edge, sleep, until } from './edge.mjs';

const axe = createRequire(import.meta.url)('axe-core');

const DESKTOP = { width: 1280, height: 720 };
const PHONE = { width: 390, height: 844 };
const SMALL_PHONE = { width: 320, height: 568 };
const LYING_PHONE = { width: 844, height: 390 };
/** A tablet, or half of a desktop screen. */
const TABLET = { width: 768, height: 1024 };

let edge;
let browser;

before(async () => {
  edge = await Edge.start();
  browser = await launch();
});

const tokens = (room, names, ...rights) =>
  Promise.all(names.map(async (name) => [name, await edge.token('--room', room, '--name', name, ...rights)]));

/** Names of realistic length. */
const EIGHT = ['Bob', 'Cyd Charisse', 'Donald Ervin Knuth', 'Edsger Wybe Dijkstra', 'Frances Allen', 'Grace Murray Hopper', 'Håkon Wium Lie'];

/** Checks the layout of a state in each size, and runs axe-core in the most common sizes, in light and dark. */
async function examine(page, state) {
  for (const size of [DESKTOP, PHONE, SMALL_PHONE, { width: 360, height: 740 }, TABLET, LYING_PHONE]) {
    await page.setViewportSize(size);
    await sleep(150);
    const { width } = await page.evaluate(() => ({ width: document.documentElement.scrollWidth }));
    assert.ok(width <= size.width, `${state} at ${size.width}×${size.height} is ${width} wide`);
    const out = await page.evaluate(() =>
      [...document.querySelectorAll('button, select, input, h1, dialog')]
        .filter((one) => one.checkVisibility() && !one.classList.contains('offscreen') && !one.closest('.dialog-body, .lobby'))
        .filter((one) => {
          const { left, right, top, bottom } = one.getBoundingClientRect();
          return left < 0 || right > innerWidth + 0.5 || top < 0 || bottom > innerHeight + 0.5;
        })
        .map((one) => one.id || one.textContent),
    );
    assert.deepEqual(out, [], `${state} at ${size.width}×${size.height}: out of sight`);
  }
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
    for (const size of [DESKTOP, PHONE]) {
      await page.setViewportSize(size);
      await sleep(150);
      await page.evaluate(axe.source);
      const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
      const found = violations
        .filter(({ impact }) => impact === 'serious' || impact === 'critical')
        .map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html.slice(0, 160)} ${failureSummary}`).join('\n')}`);
      assert.deepEqual(found, [], `${state}, ${colorScheme}, ${size.width} wide`);
    }
  }
  await page.emulateMedia({ colorScheme: 'light', reducedMotion: 'no-preference' });
}

/** Rectangles of the visible elements of a selector. */
const boxes = (page, selector) =>
  page.locator(selector).evaluateAll((all) =>
    all
      .filter((one) => one.checkVisibility())
      .map((one) => {
        const { left, right, top, bottom, width, height } = one.getBoundingClientRect();
        return { left, right, top, bottom, width, height };
      }),
  );
const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

/** For each tile with a picture: the visible share of the picture, and the share of the tile that it fills. */
const pictures = (page) =>
  page.locator('#tiles .tile[data-video]').evaluateAll((tiles) =>
    tiles.map((tile) => {
      const video = tile.querySelector('video');
      const { width, height } = video.getBoundingClientRect();
      const scale = Math.max(width / video.videoWidth, height / video.videoHeight);
      const all = tile.getBoundingClientRect();
      return {
        seen: (width * height) / (video.videoWidth * scale * video.videoHeight * scale),
        filled: (width * height) / (all.width * all.height),
        ofStage: (all.width * all.height) / (document.getElementById('stage').clientWidth * document.getElementById('stage').clientHeight),
      };
    }),
  );

test('before the call: lobby, denied devices, end screens', { timeout: 180_000 }, async () => {
  const lobby = await Peer.join(browser, await edge.url('looks', 'Ada Lovelace', false), 1);
  await until('the preview shows the camera', () => lobby.page.locator('#preview-video').isVisible());
  await examine(lobby.page, 'lobby');
  await lobby.close();

  const deny = () => {
    navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', 'NotAllowedError'));
  };
  const denied = await Peer.join(browser, await edge.url('looks', 'Ada Lovelace', false), 1, { setup: deny });
  await until('the message is shown', async () => /does not allow/.test(await denied.page.locator('#preview-note').innerText()));
  await examine(denied.page, 'denied devices');
  for (const size of [DESKTOP, PHONE, SMALL_PHONE, LYING_PHONE]) {
    await denied.page.setViewportSize(size);
    await sleep(100);
    const [[note], [avatar], [bar]] = await Promise.all(['#preview-note', '#preview-avatar', '.preview-bar'].map((one) => boxes(denied.page, one)));
    for (const [one, other] of [[note, avatar], [avatar, bar], [note, bar]]) {
      assert.ok(!overlap(one, other), `words, initials and buttons of the preview at ${size.width}×${size.height}`);
    }
  }
  await denied.page.locator('#join').click();
  await denied.page.locator('#alone').waitFor();
  await examine(denied.page, 'in the call with denied devices');
  await denied.page.locator('#leave').click();
  await denied.page.locator('#end').waitFor();
  await examine(denied.page, 'left');
  await denied.close();

  const wrong = await Peer.join(browser, `${edge.base}/r/looks?token=nonsense`, 1);
  await wrong.page.locator('#end').waitFor();
  await examine(wrong.page, 'error');
  await wrong.close();
});

test('in the call: alone, with others, settings, sharing, a notice', { timeout: 300_000 }, async () => {
  const room = 'looks';
  const peer = await Peer.join(browser, await edge.url(room, 'Ada Lovelace'), 1);
  const { page } = peer;
  await page.locator('#alone').waitFor();
  await until('its own picture is there', () => page.locator('.tile[data-video]').isVisible());
  await examine(page, 'alone');
  for (const size of [PHONE, SMALL_PHONE, LYING_PHONE, DESKTOP]) {
    await page.setViewportSize(size);
    await sleep(200);
    const [card] = await boxes(page, '#alone');
    for (const tile of await boxes(page, '.tile')) assert.ok(!overlap(card, tile), `the card covers the own picture at ${size.width}`);
  }

  const crowd = await Crowd.gather(browser, edge.base, room, await tokens(room, EIGHT, '--publish', '--subscribe'));
  await until('all eight are there', async () => (await page.locator('#bar-count').innerText()) === '8 people');
  await examine(page, 'with others');
  for (const size of [DESKTOP, PHONE, SMALL_PHONE, LYING_PHONE]) {
    await page.setViewportSize(size);
    await sleep(200);
    await page.evaluate(async () => {
      const { toast } = await import('/web/elements.js');
      toast('Donald Ervin Knuth lost the connection');
      toast('The camera is used by another program.', 'bad');
      toast('Grace Murray Hopper left');
    });
    const toasts = await boxes(page, '.toast');
    assert.ok(toasts.length >= 1);
    for (const tag of await boxes(page, '.tag')) {
      assert.ok(!toasts.some((toast) => overlap(toast, tag)), `a toast covers a name at ${size.width}×${size.height}`);
    }
    await page.evaluate(() => document.getElementById('toasts').replaceChildren());
  }

  await page.locator('#settings').click();
  await page.locator('#numbers tr').nth(3).waitFor();
  await examine(page, 'settings');
  for (const size of [DESKTOP, PHONE, SMALL_PHONE, LYING_PHONE]) {
    await page.setViewportSize(size);
    await sleep(100);
    const [done] = await boxes(page, '#devices-done');
    assert.ok(done.top >= 0 && done.bottom <= size.height, `Done is out of sight at ${size.width}×${size.height}`);
  }
  await page.locator('#devices-done').click();
  await page.locator('#bar-count').click();
  await examine(page, 'list of people');
  await page.locator('#people-done').click();

  await page.locator('#share').click();
  await page.locator('#screens .tile[data-video]').waitFor();
  await examine(page, 'sharing');
  for (const size of [DESKTOP, LYING_PHONE, PHONE]) {
    await page.setViewportSize(size);
    await sleep(200);
    const shares = await page.locator('#tiles .tile').evaluateAll((tiles) =>
      tiles.map((tile) => (tile.getBoundingClientRect().bottom - tile.querySelector('.tag').getBoundingClientRect().top) / tile.clientHeight),
    );
    assert.equal(shares.length, 8);
    for (const share of shares) assert.ok(share <= 0.3, `a name covers ${Math.round(share * 100)} % of a tile at ${size.width}×${size.height}`);
  }
  await page.locator('#share').click();

  // A notice: the controlplane is away, and media flows.
  edge.process.kill('SIGSTOP');
  process.kill(await edge.pid('controlplane'), 'SIGKILL');
  try {
    await until('the message is shown', async () => /reconnect/i.test(await page.locator('#notice').innerText()));
    await examine(page, 'notice');
  } finally {
    edge.process.kill('SIGCONT');
  }
  await Promise.all([peer.close(), crowd.close()]);
});

test('on a phone in portrait orientation a landscape picture fills its tile and is visible', { timeout: 120_000 }, async () => {
  const room = 'upright';
  const sender = await Peer.join(browser, await edge.url(room, 'Ada'), 1);
  const phone = await Peer.join(browser, await edge.url(room, 'Bob'), 2, { viewport: PHONE });
  const [, token] = (await tokens(room, ['Wim'], '--subscribe'))[0];
  const watcher = await Peer.join(browser, `${edge.base}/r/${room}?token=${token}&join=1`, 3, { viewport: PHONE });
  await until('the phone sees the sender', () => phone.sees([1]), 40_000);
  await until('the watcher sees both', () => watcher.sees([1, 2]), 40_000);
  await phone.page.locator('#cam').click();
  for (const peer of [phone, watcher]) {
    await sleep(500);
    const shares = await pictures(peer.page);
    assert.ok(shares.length >= 1);
    for (const { seen, filled, ofStage } of shares) {
      const text = `seen ${seen.toFixed(2)}, filled ${filled.toFixed(2)}, of the stage ${ofStage.toFixed(2)}`;
      assert.ok(seen >= 0.5, text);
      assert.ok(filled >= 0.8, text);
      assert.ok(ofStage >= 0.4, text);
    }
  }
  // The reverse: a portrait picture in a landscape window is not cropped to a strip.
  await sender.page.setViewportSize(DESKTOP);
  await sleep(300);
  for (const { seen } of await pictures(sender.page)) assert.ok(seen >= 0.5, `${seen}`);
  await Promise.all([sender.close(), phone.close(), watcher.close()]);
});

test('waiting for a free place, watching only, and muted by the host', { timeout: 180_000 }, async () => {
  const room = 'hosted';
  const admin = await edge.token('--room', '*', '--name', 'ops', '--admin');
  const operate = async (method, path, body) => {
    const headers = { authorization: `Bearer ${admin}`, 'content-type': 'application/json' };
    const response = await fetch(`${edge.base}/v1/rooms/${path}`, { method, headers, ...(body && { body: JSON.stringify(body) }) });
    assert.ok(response.ok, `${method} ${path}: ${response.status}`);
    return response.json();
  };
  const [, token] = (await tokens(room, ['Wim'], '--subscribe'))[0];
  const watcher = await Peer.join(browser, `${edge.base}/r/${room}?token=${token}`, 3);
  await watcher.page.locator('#join').waitFor();
  await examine(watcher.page, 'the lobby of a watcher');
  await watcher.page.locator('#join').click();
  await watcher.page.locator('#alone').waitFor();
  await examine(watcher.page, 'watching nobody');

  const peer = await Peer.join(browser, await edge.url(room, 'Ada Lovelace'), 1);
  await until('the watcher sees', () => watcher.sees([1]), 40_000);
  await examine(watcher.page, 'watching');
  const { peers } = await operate('GET', `${room}/peers`);
  const { peer: id, tracks } = peers.find(({ name }) => name === 'Ada Lovelace');
  for (const { mid } of tracks) await operate('PATCH', `${room}/peers/${id}/tracks/${mid}`, { muted: true });
  await until('the button shows it', async () => /by the host/.test(await peer.page.locator('#cam').getAttribute('aria-label')));
  await examine(peer.page, 'muted by the host');

  await operate('PUT', room, { peers_max: 2 });
  const newcomer = await Peer.join(browser, await edge.url(room, 'Bob', false), 2);
  await until('it waits', async () => /Trying again/.test(await newcomer.page.locator('#end-count').innerText()));
  await examine(newcomer.page, 'waiting');
  await Promise.all([watcher.close(), peer.close(), newcomer.close()]);
});
