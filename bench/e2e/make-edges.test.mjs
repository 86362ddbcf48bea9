// `make edges` as a person runs it: three links into one room, each to another edge; one edge is killed by the printed command; Ctrl-C ends all.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Peer, launch } from './browser.mjs';
import { noCluster, staysAt } from './cluster.mjs';
import { executable, until } from './edge.mjs';
import { atTheEnd } from './opened.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

let make;
let ended;
let printed = '';
let links = [];
const peers = [];

before(async () => {
  if (noCluster) return;
  // A process group of its own, as a terminal makes one: Ctrl-C goes to all of it. The executable is there already.
  const spawning = { cwd: root, detached: true, stdio: ['ignore', 'pipe', 'inherit'], env: { UPRTC_IO: 'udp', ...process.env, UPRTC: executable } };
  make = spawn('make', ['--old-file=build', 'edges'], spawning);
  ended = new Promise((resolve) => make.once('exit', (code, signal) => resolve({ code, signal })));
  atTheEnd(() => interrupt().catch(() => {}));
  make.stdout.setEncoding('utf8').on('data', (text) => (printed += text));
  await until('the last line', () => make.exitCode !== null || printed.includes('Ctrl-C ends all'), 60_000);
  assert.equal(make.exitCode, null, 'make edges has ended before it had printed its links');
  links = [...printed.matchAll(/^ {2}(e\d) +\w+ +(http:\S+)$/gm)].map(([, name, link]) => ({ name, link }));
});

/** Ctrl-C. */
async function interrupt() {
  process.kill(-make.pid, 'SIGINT');
  return ended;
}

const edgeOf = (peer) => peer.page.evaluate(() => window.uprtc.room.state === 'connected' && window.uprtc.room.edge?.name);

test('three links lead three people into one room, each by its own edge', { skip: noCluster, timeout: 90_000 }, async () => {
  assert.deepEqual(links.map(({ name }) => name), ['e1', 'e2', 'e3'], printed);
  assert.equal(new Set(links.map(({ link }) => new URL(link).host)).size, 3);
  const browser = await launch();
  for (const [at, { name, link }] of links.entries()) {
    const url = new URL(link);
    assert.equal(url.pathname, '/r/edges');
    url.searchParams.set('join', '1');
    const peer = await Peer.join(browser, url.href, at + 1);
    peers.push(peer);
    await staysAt(peer, url.origin);
    assert.equal(await edgeOf(peer), name);
  }
  for (const [at, peer] of peers.entries()) {
    const others = [1, 2, 3].filter((number) => number !== at + 1);
    await until(`${at + 1} sees ${others}`, () => peer.sees(others), 30_000);
  }
  const names = await Promise.all(peers.map((peer) => peer.page.evaluate(() => window.uprtc.room.local.name)));
  assert.deepEqual(names, ['Ada', 'Bob', 'Cleo']);
});

test('the printed command kills an edge, and its person goes to another one', { skip: noCluster, timeout: 60_000 }, async () => {
  const [, command] = printed.match(/^ {2}e2 +(kill -9 [\d ]+)$/m);
  execFileSync('bash', ['-c', command]);
  await until('Bob is at another edge', async () => ['e1', 'e3'].includes(await edgeOf(peers[1])));
});

test('Ctrl-C ends all and leaves nothing', { skip: noCluster, timeout: 60_000 }, async () => {
  const [, folder] = printed.match(/Their logs are in (\S+)\. /);
  assert.ok(existsSync(folder));
  await interrupt();
  assert.ok(!existsSync(folder), 'its folder is removed');
  const left = execFileSync('bash', ['-c', `grep -lF ${folder} /proc/[0-9]*/cmdline 2>/dev/null || true`], { encoding: 'utf8' });
  const others = left.split('\n').filter((line) => line && !line.includes('/self/'));
  // `grep` and its shell name the folder themselves.
  const alive = others.filter((file) => existsSync(file));
  assert.deepEqual(alive, []);
});
