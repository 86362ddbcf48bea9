// Runs the files and commands of docs/GUIDE.md as written.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { blocksOf, commandsOf, run } from './commands.mjs';
import { Edge, until } from './edge.mjs';
import { atTheEnd } from './opened.mjs';

const guide = await readFile(new URL('../../docs/GUIDE.md', import.meta.url), 'utf8');
/** Code blocks as {info, text}. After the language `info` has the file name, or `example` if the block is not run. */
const blocks = [...guide.matchAll(/^```(\w+)(?: (\S+))?\n(.*?)^```$/gms)].map(([, language, info, text]) => ({ language, info, text }));
/** The commands to run: of the server, of the operator, and of ffmpeg (bench/interop tests that one). */
const [serving, governing, publishing, ...more] = (await blocksOf('docs/GUIDE.md')).map(commandsOf);

let edge;
let browser;
let folder;
let server;
let site;
const peers = [];

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'uprtc-guide-'));
  atTheEnd(() => rm(folder, { recursive: true, force: true }));
  for (const { language, info, text } of blocks) {
    if (info && language !== 'console') await writeFile(path.join(folder, info), text);
  }
  [edge, browser] = await Promise.all([Edge.start(), launch()]);
  server = spawn('bash', ['-c', `exec ${serving[0]}`], {
    cwd: folder,
    env: { ...process.env, EDGE: edge.base, EDGE_STATE: edge.state, PORT: '0' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  atTheEnd(() => server.kill());
  let printed = '';
  server.stdout.setEncoding('utf8').on('data', (text) => (printed += text));
  site = await until('the server prints its address', () => printed.match(/^(http:\S+)\/call\.html$/m)?.[1]);
});

async function open(page, number) {
  const peer = await Peer.join(browser, `${site}/${page}?name=Peer${number}`, number);
  peers.push(peer);
  return peer;
}

test('the page of the guide is a call between two browsers', { timeout: 90_000 }, async () => {
  const [one, two] = [await open('call.html', 1), await open('call.html', 2)];
  await until('1 sees and hears 2', async () => (await one.sees([2])) && (await one.hears([2])), 30_000);
  await until('2 sees and hears 1', async () => (await two.sees([1])) && (await two.hears([1])), 30_000);
  await two.page.click('#microphone');
  await until('the button shows the next action', async () => (await two.page.textContent('#microphone')) === 'Unmute');
  await until('1 no longer hears 2', async () => !(await one.hears([2])));
});

test('the page without the module joins the call', { timeout: 60_000 }, async () => {
  const raw = await open('raw.html', 3);
  await until('3 sees 1 and 2', () => raw.sees([1, 2]), 30_000);
  await until('3 hears 1', () => raw.hears([1]), 30_000);
  for (const peer of peers.slice(0, 2)) await until(`${peer.number} sees 3`, async () => 3 in (await peer.pictures()), 30_000);
  assert.deepEqual(await raw.offers(), { offers: 0, connections: 1 }, 'one implicit offer by setLocalDescription');
  for (const peer of peers) assert.deepEqual(peer.errors, []);
});

test('the commands manage the room', { timeout: 60_000 }, async () => {
  const [, made, listed] = await run(edge, governing);
  assert.equal(JSON.parse(made).peers_max, 4);
  assert.deepEqual(JSON.parse(listed).peers.map(({ name }) => name).sort(), ['Peer1', 'Peer2', 'Raw']);
  await until('everybody was removed', async () => (await peers[0].pictures()) && Object.keys(await peers[0].pictures()).length === 0);
});

test('the guide has no block that is not tested', () => {
  const files = blocks.filter(({ info, language }) => info && language !== 'console').map(({ info }) => info);
  assert.deepEqual(files, ['server.mjs', 'call.html', 'raw.html']);
  assert.ok(publishing[1].startsWith('ffmpeg ') && more.length === 0, 'the commands of ffmpeg.test.mjs, and no further ones');
});
