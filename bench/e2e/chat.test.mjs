// Chat, raised hands and reactions on the meeting page: by keyboard, with hostile messages, for who comes late, on a phone.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { Edge, sleep, until } from './edge.mjs';

const axe = createRequire(import.meta.url)('axe-core');
const PHONE = { width: 360, height: 740 };
const SMALL_PHONE = { width: 320, height: 568 };
const LYING_PHONE = { width: 844, height: 390 };
const DESKTOP = { width: 1280, height: 720 };

let edge;
let browser;
/** Two people who are in a room during all tests. */
let ada, bob;

before(async () => {
  [edge, browser] = await Promise.all([Edge.start(), launch()]);
  [ada, bob] = [await enter('talk', 'Ada'), await enter('talk', 'Bob')];
});

/** A person in the room; without camera and microphone, which nobody needs here. */
async function enter(room, name, { rights = ['--publish', '--subscribe'], ...options } = {}) {
  const token = await edge.token('--room', room, '--name', name, ...rights);
  const setup = () => {
    navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('none', 'NotFoundError'));
  };
  const peer = await Peer.join(browser, `${edge.base}/r/${room}?token=${token}&join=1`, 1, { setup, ...options });
  await until(`${name} is in`, () => peer.page.evaluate(() => window.uprtc?.room.state === 'connected'));
  return peer;
}

const leave = (...peers) => Promise.all(peers.map((peer) => peer.close()));
const focused = ({ page }) => page.evaluate(() => document.activeElement?.id || document.activeElement?.getAttribute('aria-label') || document.activeElement?.tagName);
/** The chat as it stands in the panel: names and words. */
const lines = ({ page }) =>
  page.locator('#chat-list').evaluate((list) =>
    [...list.querySelectorAll('.chat-message')].map((one) => `${one.querySelector('b').textContent}: ${one.querySelector('.chat-words').textContent}`));
const has = (peer, line) => until(`the chat has "${line}"`, async () => (await lines(peer)).includes(line));
/** Sends what the page would not. */
const sendRaw = ({ page }, label, ...texts) =>
  page.evaluate(([label, texts]) => Promise.all(texts.map((text) => window.uprtc.room.send(text, { label }))), [label, texts]);
const said = (key, text, more) => JSON.stringify({ key, text, ...more });
const write = async (peer, text) => {
  await peer.page.locator('#chat-text').fill(text);
  await peer.page.keyboard.press('Enter');
};

test('two people write by keyboard only, and what is unread is counted', { timeout: 60_000 }, async () => {
  await ada.page.keyboard.press('c');
  assert.equal(await focused(ada), 'chat-text');
  // Letters that are keys elsewhere are letters here.
  await ada.page.keyboard.type('much of him, very chatty');
  await ada.page.keyboard.press('Shift+Enter');
  await ada.page.keyboard.type('see https://example.org/a?b=1&c=(d). Bye (http://b.example/)');
  await ada.page.keyboard.press('Enter');
  const line = 'much of him, very chatty\nsee https://example.org/a?b=1&c=(d). Bye (http://b.example/)';
  await has(bob, `Ada: ${line}`);
  await has(ada, `Ada (you): ${line}`);
  assert.equal(await ada.page.locator('#chat-text').inputValue(), '');
  await until('it is no longer on its way', async () => (await ada.page.locator('[data-pending]').count()) === 0);
  assert.equal(await ada.page.locator('#hand').getAttribute('aria-pressed'), 'false');
  assert.equal(await bob.page.locator('#chat-unread').innerText(), '1');
  assert.equal(await bob.page.locator('#chat-open').getAttribute('aria-label'), 'Chat, 1 unread');
  assert.equal(await bob.page.locator('#chat-news').textContent(), `Ada writes: ${line}`);
  assert.equal(await bob.page.locator('#chat-news').getAttribute('role'), 'status');
  assert.equal(await bob.page.locator('#chat-list').getAttribute('aria-live'), 'polite');
  const link = bob.page.locator('.chat-words a');
  assert.deepEqual(await link.evaluateAll((all) => all.map(({ href, rel, target, textContent }) => ({ href, rel, target, textContent }))), [
    { href: 'https://example.org/a?b=1&c=(d)', rel: 'noopener noreferrer', target: '_blank', textContent: 'https://example.org/a?b=1&c=(d)' },
    { href: 'http://b.example/', rel: 'noopener noreferrer', target: '_blank', textContent: 'http://b.example/' },
  ]);
  await bob.page.keyboard.press('c');
  assert.ok(!(await bob.page.locator('#chat-unread').isVisible()));
  assert.equal(await bob.page.locator('#chat-open').getAttribute('aria-expanded'), 'true');
  await bob.page.keyboard.press('Shift+Tab');
  assert.equal(await focused(bob), 'A');
  await bob.page.locator('#chat-close').focus();
  for (const id of ['chat-list', 'A', 'A', 'chat-text', 'chat-send', 'bar-count', 'react', 'hand', 'chat-open', 'mic']) {
    await bob.page.keyboard.press('Tab');
    assert.equal(await focused(bob), id);
  }
  await bob.page.locator('#chat-text').focus();
  await bob.page.keyboard.press('Escape');
  assert.ok(!(await bob.page.locator('#chat').isVisible()));
  assert.equal(await focused(bob), 'chat-open');
  await ada.page.keyboard.press('Escape');
});

test('hostile messages stay text', { timeout: 60_000 }, async () => {
  const [eve, bob] = await Promise.all([enter('hostile', 'Eve'), enter('hostile', 'Bob')]);
  const attacks = [
    '<img src=x onerror="window.pwned=1">',
    '<script>window.pwned=1</script>',
    'javascript:window.pwned=1',
    '[x](javascript:window.pwned=1) data:text/html,<script>window.pwned=1</script>',
    'https://bank.example@evil.example/ http://"onmouseover="window.pwned=1',
    'https://<img src=x onerror=window.pwned=1>',
    'JAVASCRIPT://example.org/%0awindow.pwned=1 vbscript:x file:///etc/passwd',
  ];
  await sendRaw(eve, 'uprtc.chat', ...attacks.map((text, n) => said(`k${n}`, text, { name: 'Bob', author: 'Bob', from: 'Bob' })));
  // What is no message is none; and what stands the other way round does not turn the line around.
  await sendRaw(eve, 'uprtc.chat', 'nonsense', '{}', 'null', '[]', '{"key":1,"text":"x"}', '{"key":"","text":"x"}', `{"key":"long${'x'.repeat(80)}","text":"x"}`, '{"key":"e","text":" \\u200e "}');
  await sendRaw(eve, 'uprtc.chat', said('k0', 'a second one with the key of another'), said('bidi', 'https://example.org/\u202egpj.exe'));
  await sendRaw(eve, 'uprtc.hand', '<img src=x>');
  await sendRaw(eve, 'uprtc.reaction', '<img src=x onerror="window.pwned=1">');
  await sendRaw(eve, 'uprtc.history', JSON.stringify({ messages: [{ key: 'forged', peer: 'x', text: 'forged', ago: 1 }] }));
  await has(bob, 'Eve: https://example.org/gpj.exe');
  assert.deepEqual(await lines(bob), [...attacks.map((text) => `Eve: ${text}`), 'Eve: https://example.org/gpj.exe']);
  const found = await bob.page.evaluate(() => ({
    pwned: window.pwned,
    foreign: [...document.querySelectorAll('#chat-list :not(article, header, b, time, p, a)')].map(({ outerHTML }) => outerHTML),
    links: [...document.querySelectorAll('#chat-list a')].map(({ href }) => href),
    floating: document.querySelectorAll('.floating-one, #tiles img').length,
  }));
  assert.deepEqual(found, { pwned: undefined, foreign: [], links: ['https://example.org/gpj.exe'], floating: 0 });
  assert.deepEqual(bob.errors, []);
  await leave(eve, bob);
});

test('who comes late has what was written, and sees the raised hand', { timeout: 90_000 }, async () => {
  const [ada, bob] = [await enter('late', 'Ada'), await enter('late', 'Bob')];
  const cyd = await enter('late', 'Cyd');
  await sendRaw(cyd, 'uprtc.chat', said('gone', 'I must go'));
  await until('Ada has it', async () => (await lines(ada)).length === 1);
  await cyd.close();
  await sendRaw(bob, 'uprtc.chat', ...Array.from({ length: 110 }, (_, n) => said(`b${n}`, `number ${n}`)));
  await has(ada, 'Bob: number 109');
  await ada.page.keyboard.press('c');
  await write(ada, 'welcome');
  await has(bob, 'Ada: welcome');
  await bob.page.keyboard.press('h');
  assert.equal(await bob.page.locator('#hand').getAttribute('aria-pressed'), 'true');

  const dan = await enter('late', 'Dan');
  await has(dan, 'Ada: welcome');
  const told = await lines(dan);
  assert.deepEqual(told, [...Array.from({ length: 99 }, (_, n) => `Bob: number ${n + 11}`), 'Ada: welcome'], 'the last hundred');
  assert.equal(await dan.page.locator('.chat-before').first().textContent(), 'Before you came, as Ada has it');
  await until('Dan sees the hand', async () => /hand raised/.test((await dan.page.locator('#tiles .tile', { hasText: 'Bob' }).getAttribute('aria-label')) ?? ''));
  assert.ok(await dan.page.locator('#tiles .tile', { hasText: 'Bob' }).locator('.hand-up').isVisible());
  await dan.page.locator('#bar-count').click();
  assert.equal(await dan.page.locator('#people-list li', { hasText: 'Bob' }).innerText(), 'Bob hand raised');
  await dan.page.keyboard.press('Escape');
  await bob.page.keyboard.press('h');
  await until('it is down', async () => !/hand raised/.test((await dan.page.locator('#tiles .tile', { hasText: 'Bob' }).getAttribute('aria-label')) ?? ''));

  // Authors who have left are not known to who comes later, whatever is said about them.
  await bob.close();
  await until('Ada sees it', () => ada.page.evaluate(() => window.uprtc.room.participants.size === 1));
  const eve = await enter('late', 'Eve');
  await has(eve, 'Somebody who has left: number 109');
  for (const peer of [ada, dan, eve]) assert.deepEqual(peer.errors, []);
  await leave(ada, dan, eve);
});

test('reactions float, vanish and are read out together', { timeout: 60_000 }, async () => {
  await ada.page.keyboard.press('r');
  assert.equal(await focused(ada), 'thumbs up');
  await ada.page.keyboard.press('ArrowRight');
  assert.equal(await focused(ada), 'applause');
  await ada.page.keyboard.press('ArrowLeft');
  await ada.page.keyboard.press('ArrowLeft');
  assert.equal(await focused(ada), 'a celebration');
  // A lossy message may be lost.
  await until('it floats at Bob', async () => {
    await ada.page.keyboard.press('Enter');
    await sleep(150);
    return (await bob.page.locator('.floating-one').count()) > 0;
  }, 10_000);
  await ada.page.keyboard.press('3');
  await until('it is read out', async () => /^Ada sends a celebration(, Ada sends a heart)?$/.test(await bob.page.locator('#reaction-news').textContent()));
  for (let n = 0; n < 20; n += 1) await ada.page.keyboard.press('1');
  assert.ok((await ada.page.locator('.floating-one').count()) <= 6, 'not as many as somebody likes');
  await ada.page.keyboard.press('Escape');
  assert.equal(await focused(ada), 'react');
  assert.ok(!(await ada.page.locator('#reactions').isVisible()));
  await until('all have vanished', async () => (await ada.page.locator('.floating-one').count()) + (await bob.page.locator('.floating-one').count()) === 0);
});

test('who may not send reads', { timeout: 60_000 }, async () => {
  const [ada, wim] = await Promise.all([enter('readers', 'Ada'), enter('readers', 'Wim', { rights: ['--subscribe'] })]);
  assert.deepEqual(await Promise.all(['#hand', '#react', '#chat-open'].map((id) => wim.page.locator(id).isVisible())), [false, false, true]);
  for (const key of ['h', 'r', 'c']) await wim.page.keyboard.press(key);
  assert.equal(await focused(wim), 'chat-title');
  assert.match(await wim.page.locator('#chat-note').innerText(), /does not allow you to write/);
  assert.ok(!(await wim.page.locator('#chat-form').isVisible()));
  await ada.page.keyboard.press('c');
  await write(ada, 'can you read this?');
  await has(wim, 'Ada: can you read this?');
  await wim.page.keyboard.press('Escape');
  assert.equal(await focused(wim), 'chat-open');
  assert.deepEqual(wim.errors, []);
  await leave(ada, wim);
});

/** Places of the controls, and those that are not to be seen or hit. */
const controls = ({ page }) =>
  page.evaluate(() => {
    const places = {};
    const hidden = [];
    for (const one of document.querySelectorAll('.bar button, #chat button, #chat textarea, .reactions button')) {
      if (!one.checkVisibility()) continue;
      const { left, top, width, height, right, bottom } = one.getBoundingClientRect();
      places[one.id || one.title] = [left, top, width, height];
      const hit = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
      if (left < 0 || top < 0 || right > innerWidth || bottom > innerHeight || !one.contains(hit)) hidden.push(one.id || one.title);
    }
    return { places, hidden, width: document.documentElement.scrollWidth };
  });

test('on phone and desktop, in light and dark, no control is covered or moves', { timeout: 90_000 }, async () => {
  await sendRaw(bob, 'uprtc.chat', ...Array.from({ length: 8 }, (_, n) => said(`wide${n}`, `${'wide'.repeat(40)} https://example.org/${'x'.repeat(90)} ${n}`)));
  await until('they are there', async () => (await lines(ada)).at(-1)?.endsWith(' 7'));
  await bob.page.keyboard.press('h');
  for (const size of [PHONE, SMALL_PHONE, LYING_PHONE, DESKTOP]) {
    const at = `${size.width}×${size.height}`;
    await ada.page.setViewportSize(size);
    await sleep(150);
    const closed = await controls(ada);
    assert.deepEqual([closed.hidden, closed.width <= size.width], [[], true], `closed at ${at}`);
    await ada.page.locator('#react').click();
    assert.deepEqual((await controls(ada)).hidden, [], `reactions at ${at}`);
    await ada.page.keyboard.press('Escape');
    await ada.page.locator('#chat-open').click();
    await sleep(150);
    const open = await controls(ada);
    assert.deepEqual([open.hidden, open.width <= size.width], [[], true], `open at ${at}`);
    for (const [id, place] of Object.entries(closed.places)) assert.deepEqual(open.places[id], place, `${id} has moved at ${at}`);
    // Beside the panel all tiles are to be seen; where there is no place beside, it covers them.
    const tiles = await ada.page.locator('#tiles .tile').evaluateAll((all) => all.map((one) => {
      const { left, top, right, bottom } = one.getBoundingClientRect();
      const panel = document.getElementById('chat').getBoundingClientRect();
      return { isSeen: left >= 0 && top >= 0 && bottom <= innerHeight && right <= panel.left, isCovered: left >= panel.left && right <= panel.right };
    }));
    assert.equal(tiles.length, 2);
    for (const { isSeen, isCovered } of tiles) assert.ok(size.width > 640 ? isSeen : isCovered, `a tile at ${at}`);
    if (size === PHONE || size === DESKTOP) {
      for (const colorScheme of ['light', 'dark']) {
        await ada.page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
        await ada.page.evaluate(axe.source);
        const { violations } = await ada.page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
        const found = violations.filter(({ impact }) => ['serious', 'critical'].includes(impact));
        assert.deepEqual(found.map(({ id, nodes }) => `${id}: ${nodes[0].html.slice(0, 160)} ${nodes[0].failureSummary}`), [], `${colorScheme} at ${at}`);
        if (process.env.UPRTC_E2E_SHOTS) await ada.page.screenshot({ path: `${process.env.UPRTC_E2E_SHOTS}/chat-${size.width}-${colorScheme}.png` });
      }
    }
    await ada.page.locator('#chat-close').click();
  }
  for (const peer of [ada, bob]) assert.deepEqual(peer.errors, []);
});
