// A call over https and wss, with a change of the certificate during the call.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { before, test } from 'node:test';
import tls from 'node:tls';

import { Peer, launch } from './browser.mjs';
import { Edge, until } from './edge.mjs';
import { atTheEnd } from './opened.mjs';

let folder;
let edge;
let browser;

/** Creates a new certificate and key for localhost; each file is replaced atomically. */
async function issue() {
  const made = ['privkey.pem', 'fullchain.pem'].map((name) => path.join(folder, `new-${name}`));
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  execFileSync('openssl', ['req', '-x509', '-days', '30', ...key, ...subject, '-keyout', made[0], '-out', made[1]], { stdio: 'ignore' });
  for (const file of made) await rename(file, file.replace('new-', ''));
}

/** The certificate that a new connection gets. */
function served() {
  const { hostname, port } = new URL(edge.base);
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ host: hostname, port, rejectUnauthorized: false }, () => {
      resolve(socket.getPeerCertificate().fingerprint256);
      socket.end();
    });
    socket.on('error', reject);
  });
}

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'uprtc-e2e-tls-'));
  atTheEnd(() => rm(folder, { recursive: true, force: true }));
  await issue();
  edge = await Edge.start('--tls-cert', path.join(folder, 'fullchain.pem'), '--tls-key', path.join(folder, 'privkey.pem'));
  browser = await launch('--ignore-certificate-errors');
});

test('two browsers call over https, and a new certificate does not interrupt them', { timeout: 90_000 }, async () => {
  assert.match(edge.base, /^https:/);
  const peers = await Promise.all([1, 2].map(async (n) => Peer.join(browser, await edge.url('tls', `Peer ${n}`), n)));
  const meet = async () => {
    await until('the first sees the second', () => peers[0].sees([2]), 30_000);
    await until('the second hears the first', () => peers[1].hears([1]));
  };
  await meet();
  let sockets = 0;
  for (const { page } of peers) page.on('websocket', () => (sockets += 1));
  const before = await served();
  await issue();
  await until('the new certificate is served', async () => (await served()) !== before);
  await peers[1].page.locator('#mic').click();
  await until('a signal still goes through', async () => !(await peers[0].hears([2])));
  await peers[1].page.locator('#mic').click();
  await meet();
  assert.equal(sockets, 0, 'no socket was opened again');
  for (const peer of peers) assert.deepEqual(await peer.offers(), { offers: 1, connections: 1 });
  await Promise.all(peers.map((peer) => peer.close()));
});

test('the client module sends another token before the current one expires', { timeout: 60_000 }, async () => {
  const peer = await Peer.join(browser, await edge.url('renew', 'Ada', false), 1);
  const asked = [];
  await peer.page.exposeFunction('freshToken', async () => {
    asked.push(Date.now());
    // `token_expiring` for the first one comes at once, because it expires in little more than a minute.
    const rights = asked.length === 1 ? ['--publish', '--subscribe', '--ttl', '63s'] : ['--subscribe', '--ttl', '10m'];
    return edge.token('--room', 'renew', '--name', 'Ada', ...rights);
  });
  const rights = await peer.page.evaluate(async () => {
    const { Room } = await import('/sdk/uprtc.js');
    const room = new Room({ room: 'renew', token: () => window.freshToken(), microphone: true });
    const granted = new Promise((resolve) => room.on('granted', resolve));
    await room.join();
    const first = { mayPublish: room.mayPublish, isOn: room.local.active.microphone };
    const second = await granted;
    window.room = room;
    return { first, second, isOn: room.local.active.microphone };
  });
  assert.equal(asked.length, 2, 'once to join, once to stay');
  assert.deepEqual(rights, {
    first: { mayPublish: true, isOn: true },
    second: { mayPublish: false, maySubscribe: true, maySendData: false },
    isOn: false,
  });
  const refused = await peer.page.evaluate(() => window.room.setToken('nonsense').catch((error) => error.code));
  assert.equal(refused, 'token_refused');
  assert.equal(await peer.page.evaluate(() => window.room.state), 'connected');
  await peer.close();
});
