// People in a call: device choice, mutes by a host, the participant count, keyboard focus, and the messages for refused
// joins.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { before, test } from 'node:test';

import { Crowd, Peer, launch, textOf } from './browser.mjs';
import { Edge, sleep, until } from './edge.mjs';

let edge;
let browser;
let admin;

before(async () => {
  edge = await Edge.start();
  browser = await launch('--use-fake-device-for-media-stream=device-count=2');
  admin = await edge.token('--room', '*', '--name', 'ops', '--admin');
});

const stateOf = (peer, id) =>
  peer.page.evaluate((id) => {
    const button = document.getElementById(id);
    return [button.getAttribute('aria-label'), button.getAttribute('aria-pressed')];
  }, id);
const focused = (peer) => peer.page.evaluate(() => document.activeElement?.id || document.activeElement?.tagName);
const asked = (peer) => peer.page.evaluate(() => window.e2e.asked);
const watching = async (room, name) => `${edge.base}/r/${room}?token=${await edge.token('--room', room, '--name', name, '--subscribe')}`;
const tokens = (room, names, ...rights) =>
  Promise.all(names.map(async (name) => [name, await edge.token('--room', room, '--name', name, ...rights)]));

/** A token with these claims, signed with the edge's key. */
async function sign(claims) {
  const key = Buffer.from((await readFile(`${edge.state}/token.key`, 'utf8')).trim(), 'hex');
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
  return `${text}.${createHmac('sha256', key).update(text).digest('base64url')}`;
}

async function operate(method, path, body) {
  const headers = { authorization: `Bearer ${admin}`, 'content-type': 'application/json' };
  const response = await fetch(`${edge.base}/v1${path}`, { method, headers, ...(body && { body: JSON.stringify(body) }) });
  assert.ok(response.ok, `${method} ${path}: ${response.status}`);
  return response.status === 204 ? undefined : response.json();
}

/** Selects another device in a list of the page. */
async function chooseAnother(peer, id) {
  const list = peer.page.locator(id);
  const values = await until(`${id} has two devices`, async () => {
    const all = await list.locator('option').evaluateAll((options) => options.map(({ value }) => value));
    return all.length > 1 && all;
  });
  const chosen = await list.inputValue();
  await list.selectOption(values.find((value) => value !== chosen));
}

test('choosing a device does not unmute', { timeout: 120_000 }, async () => {
  const first = await Peer.join(browser, await edge.url('devices', 'Ada', false), 1);
  await until('the preview shows the camera', () => first.page.locator('#preview-video').isVisible());
  await first.page.locator('#preview-mic').click();
  await first.page.locator('#preview-cam').click();
  await chooseAnother(first, '#lobby-mic');
  await chooseAnother(first, '#lobby-cam');
  await sleep(500);
  assert.deepEqual(await stateOf(first, 'preview-mic'), ['Microphone', 'false']);
  assert.deepEqual(await stateOf(first, 'preview-cam'), ['Camera', 'false']);
  await first.page.locator('#join').click();
  const second = await Peer.join(browser, await edge.url('devices', 'Bob'), 2);
  await until('the first sees the second', () => first.sees([2]), 40_000);

  const before = await asked(first);
  await first.page.locator('#settings').click();
  await chooseAnother(first, '#call-mic');
  await chooseAnother(first, '#call-cam');
  await first.page.locator('#devices-done').click();
  await sleep(2_000);
  assert.deepEqual(await stateOf(first, 'mic'), ['Microphone', 'false']);
  assert.deepEqual(await stateOf(first, 'cam'), ['Camera', 'false']);
  assert.ok(await second.sees([]), 'nobody is seen');
  assert.ok(!(await second.hears([1])), 'nobody is heard');
  const room = await first.page.evaluate(() => ({ ...window.uprtc.room.local.active }));
  assert.deepEqual([room.microphone, room.camera], [false, false]);

  await first.page.locator('#mic').click();
  await first.page.locator('#cam').click();
  await until('the second sees the first', () => second.sees([1]), 30_000);
  await until('the second hears the first', () => second.hears([1]), 30_000);
  assert.ok((await asked(first)) > before, 'the chosen devices were opened');
  // A change of the device while the source is on keeps it on.
  await first.page.locator('#settings').click();
  await chooseAnother(first, '#call-mic');
  await first.page.locator('#devices-done').click();
  await until('it is heard from the other one', () => second.hears([1]), 30_000);
  assert.deepEqual(await stateOf(first, 'mic'), ['Microphone', 'true']);
  await Promise.all([first.close(), second.close()]);
});

test('if a device cannot be opened, the former one stays in use', { timeout: 60_000 }, async () => {
  const peer = await Peer.join(browser, await edge.url('broken', 'Ada'), 1);
  await until('the camera is on', async () => (await stateOf(peer, 'cam'))[1] === 'true');
  await peer.page.locator('#settings').click();
  await peer.page.evaluate(() => {
    const open = navigator.mediaDevices.getUserMedia;
    let isFirst = true;
    navigator.mediaDevices.getUserMedia = (wanted) => {
      if (!isFirst) return open(wanted);
      isFirst = false;
      return Promise.reject(new DOMException('in use', 'NotReadableError'));
    };
  });
  await chooseAnother(peer, '#call-cam');
  await until('the message is shown', async () => /camera is used by another program/.test(await textOf(peer, '#toasts')));
  const track = await peer.page.evaluate(() => window.uprtc.room.local.stream.getVideoTracks()[0]?.readyState);
  assert.equal(track, 'live');
  assert.deepEqual(await stateOf(peer, 'cam'), ['Camera', 'true']);
  await peer.close();
});

test('a mute by the host is shown to the muted participant, survives a lost socket, and an unmute does not switch on the source', { timeout: 120_000 }, async () => {
  const [first, second] = await Promise.all(
    [1, 2].map(async (n) => Peer.join(browser, await edge.url('host', `Peer ${n}`), n)),
  );
  await until('the second hears the first', () => second.hears([1]), 40_000);
  const { peers } = await operate('GET', '/rooms/host/peers');
  const { peer: id, tracks } = peers.find(({ name }) => name === 'Peer 1');
  const track = (source) => `/rooms/host/peers/${id}/tracks/${tracks.find((track) => track.source === source).mid}`;
  await operate('PATCH', track('microphone'), { muted: true });
  await until('the button shows it', async () => (await stateOf(first, 'mic'))[0] === 'Microphone, muted by the host');
  assert.equal((await stateOf(first, 'mic'))[1], 'false');
  assert.match(await textOf(first, '#toasts'), /host has muted your microphone/i);
  assert.equal(await first.page.evaluate(() => window.uprtc.room.local.muted.microphone), true);
  await first.page.keyboard.press('m');
  await sleep(300);
  assert.equal((await stateOf(first, 'mic'))[1], 'false', 'the muted participant cannot unmute');
  await until('the second is not shown a microphone', () =>
    second.page.locator('.tile[aria-label="Peer 1, muted, by the host"]').isVisible(),
  );

  // The mute is known again after the socket was lost.
  process.kill(await edge.pid('controlplane'), 'SIGKILL');
  await until('the first is back', async () => /^connected$/.test(await first.page.evaluate(() => window.uprtc.room.state)), 30_000);
  await sleep(500);
  assert.deepEqual(await stateOf(first, 'mic'), ['Microphone, muted by the host', 'false']);

  await until('the operator unmutes it', () => operate('PATCH', track('microphone'), { muted: false }).then(() => true), 30_000);
  await until('the button shows it', async () => (await stateOf(first, 'mic'))[0] === 'Microphone');
  await sleep(1_500);
  assert.equal((await stateOf(first, 'mic'))[1], 'false', 'the participant must switch it on');
  // The analyser's smoothing keeps the former tone for a moment.
  await until('the second hears nothing', async () => !(await second.hears([1])), 5_000);
  await first.page.locator('#mic').click();
  await until('the second hears the first again', () => second.hears([1]), 30_000);
  await Promise.all([first.close(), second.close()]);
});

test('the participant count is equal to the number of tiles', { timeout: 60_000 }, async () => {
  const room = 'count';
  const peer = await Peer.join(browser, await edge.url(room, 'Ada'), 1);
  const shown = async () => [
    await textOf(peer, '#bar-count'),
    await peer.page.locator('#tiles .tile').count(),
    await peer.page.locator('#alone').isVisible(),
  ];
  const becomes = (expected) =>
    until(`it shows ${expected}`, async () => {
      const is = await shown();
      if (JSON.stringify(is) !== JSON.stringify(expected)) throw new Error(JSON.stringify(is));
      return true;
    });
  await becomes(['only you', 1, true]);
  assert.match(await textOf(peer, '#alone'), /Nobody else is here yet/);
  const crowd = await Crowd.gather(browser, edge.base, room, await tokens(room, ['Bob', 'Cyd'], '--publish', '--subscribe'));
  await becomes(['3 people', 3, false]);
  await crowd.leave('Bob');
  await becomes(['2 people', 2, false]);
  await crowd.leave('Cyd');
  await becomes(['only you', 1, true]);
  assert.match(await textOf(peer, '#alone'), /Nobody else is here now/);
  await Promise.all([peer.close(), crowd.close()]);
});

test('a participant who may only watch has no send buttons and no tile, and is counted and named', { timeout: 60_000 }, async () => {
  const room = 'watch';
  const peer = await Peer.join(browser, await edge.url(room, 'Ada'), 1);
  const crowd = await Crowd.gather(browser, edge.base, room, await tokens(room, ['Wim', 'Wil'], '--subscribe'));
  await until('both watch', async () => (await textOf(peer, '#bar-count')) === '1 person · 2 watching');
  assert.equal(await peer.page.locator('#tiles .tile').count(), 1);
  assert.ok(!(await peer.page.locator('#alone').isVisible()), 'a participant with watchers is not alone');
  await peer.page.locator('#bar-count').click();
  assert.deepEqual(await peer.page.locator('#people-list li').allInnerTexts(), ['Ada (you)']);
  assert.deepEqual(await peer.page.locator('#watchers-list li').allInnerTexts(), ['Wim', 'Wil']);
  await peer.page.locator('#people-done').click();

  const sending = '#mic, #cam, #share, #preview-mic, #preview-cam, #lobby-mic, #lobby-cam';
  const seenAny = (guest) =>
    guest.page.evaluate((sending) => {
      window.seenAny = false;
      const look = () => {
        for (const one of document.querySelectorAll(sending)) window.seenAny ||= one.checkVisibility();
        requestAnimationFrame(look);
      };
      look();
    }, sending);
  const guest = await Peer.join(browser, await watching(room, 'Guest'), 3);
  await guest.page.locator('#join').waitFor();
  await seenAny(guest);
  await guest.page.locator('#join').click();
  await until('the guest sees', () => guest.sees([1]), 30_000);
  assert.equal(await guest.page.evaluate(() => window.seenAny), false, 'none of them was ever visible');
  assert.equal(await asked(guest), 0);
  assert.equal(await guest.page.locator('#tiles .tile').count(), 1);
  await until('all are counted', async () => (await textOf(guest, '#bar-count')) === '1 person · 3 watching');
  await Promise.all([peer.close(), crowd.close(), guest.close()]);
});

test('the keyboard focus is not lost', { timeout: 90_000 }, async () => {
  const peer = await Peer.join(browser, await edge.url('keys', 'Ada', false), 1);
  await peer.page.locator('#join').waitFor();
  await until('the devices are there', () => peer.page.locator('#preview-video').isVisible());
  assert.equal(await focused(peer), 'join');
  await peer.page.locator('#preview-mic').focus();
  await peer.page.keyboard.press('Space');
  assert.deepEqual([await focused(peer), ...(await stateOf(peer, 'preview-mic'))], ['preview-mic', 'Microphone', 'false']);
  await peer.page.keyboard.press('Space');
  await peer.page.locator('#join').focus();
  await peer.page.keyboard.press('Enter');
  await peer.page.locator('#call').waitFor();
  assert.equal(await focused(peer), 'call-title');
  await until('it is in', async () => (await peer.stats()).ice === 'connected');
  for (const [id, label] of [['mic', 'Microphone'], ['cam', 'Camera'], ['share', 'Share screen']]) {
    await peer.page.locator(`#${id}`).focus();
    const [, was] = await stateOf(peer, id);
    for (const pressed of [was === 'true' ? 'false' : 'true', was]) {
      await peer.page.keyboard.press('Enter');
      await until(`${id} is switched`, async () => (await stateOf(peer, id))[1] === pressed);
      // A focus that is lost with its element is lost at the next frame.
      await sleep(200);
      assert.equal(await focused(peer), id);
      assert.equal((await stateOf(peer, id))[0], label, 'the name describes the source, not the action');
    }
  }
  await peer.page.locator('#settings').focus();
  await peer.page.keyboard.press('Enter');
  await peer.page.locator('#devices-done').waitFor();
  await peer.page.keyboard.press('Escape');
  assert.equal(await focused(peer), 'settings');
  // The focused element disappears.
  await peer.page.locator('#alone-copy').focus();
  const room = await tokens('keys', ['Bob'], '--publish', '--subscribe');
  const crowd = await Crowd.gather(browser, edge.base, 'keys', room);
  await until('nobody is alone', async () => !(await peer.page.locator('#alone').isVisible()));
  await sleep(200);
  assert.equal(await focused(peer), 'copy');
  await peer.page.locator('#leave').focus();
  await peer.page.keyboard.press('Enter');
  await peer.page.locator('#end').waitFor();
  await sleep(200);
  assert.equal(await focused(peer), 'end-title');
  await Promise.all([peer.close(), crowd.close()]);
});

test('a refusal is shown before the camera is requested', { timeout: 120_000 }, async () => {
  const good = await edge.token('--room', 'door', '--name', 'Ada', '--publish', '--subscribe');
  const foreign = await Edge.start();
  const other = await foreign.token('--room', 'door', '--name', 'Ada', '--publish', '--subscribe');
  await foreign.stop();
  const expired = await sign({ room: 'door', name: 'Ada', publish: true, subscribe: true, iat: 1, exp: 2 });
  await operate('PUT', '/rooms/locked', { locked: true });
  const forLocked = await edge.token('--room', 'locked', '--name', 'Ada', '--publish', '--subscribe');
  const cases = [
    ['door', '', 'token_missing'],
    ['door', `${good.slice(0, -6)}AAAAAA`, 'token_signature'],
    ['door', 'nonsense', 'token_malformed'],
    ['door', other, 'token_signature'],
    ['door', expired, 'token_expired'],
    ['elsewhere', good, 'wrong_room'],
    ['locked', forLocked, 'room_locked'],
  ];
  for (const [room, token, code] of cases) {
    for (const join of ['', '&join=1']) {
      const peer = await Peer.join(browser, `${edge.base}/r/${room}?token=${token}${join}`, 1);
      await until(`the page shows the reason (${code}${join})`, async () => (await textOf(peer, '#end-detail')).includes(code));
      assert.equal(await asked(peer), 0, `${code}${join}`);
      assert.equal(await focused(peer), 'end-title');
      await peer.close();
    }
  }
});

test('a waiting participant joins by itself when a place is free', { timeout: 90_000 }, async () => {
  const room = 'full-house';
  await operate('PUT', `/rooms/${room}`, { peers_max: 2 });
  const crowd = await Crowd.gather(browser, edge.base, room, await tokens(room, ['Bob', 'Cyd'], '--publish', '--subscribe'));
  const [inLobby, straight] = [
    await Peer.join(browser, await edge.url(room, 'Ada', false), 1),
    await Peer.join(browser, await edge.url(room, 'Eve'), 2),
  ];
  for (const peer of [inLobby, straight]) {
    await until('the page shows it', async () => (await textOf(peer, '#end-title')) === 'The room is full.');
    assert.match(await textOf(peer, '#end-count'), /Trying again/);
    assert.equal(await textOf(peer, '#again'), 'Try now');
    assert.equal(await asked(peer), 0);
  }
  await crowd.leave('Bob');
  await straight.page.locator('#again').click();
  await until('the one that had pressed Join is in the room', async () => (await straight.page.evaluate(() => window.uprtc?.room.state)) === 'connected', 30_000);
  await crowd.leave('Cyd');
  await inLobby.page.locator('#lobby').waitFor({ timeout: 40_000 });
  await Promise.all([inLobby.close(), straight.close(), crowd.close()]);
});
