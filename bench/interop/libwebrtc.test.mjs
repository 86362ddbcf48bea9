// libwebrtc M106 joins over the signalling socket from a machine with two addresses. It and Chromium decode each other's
// VP8. Then the network link that it uses goes down, and the call continues over the other link with the same DTLS association.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { readlink } from 'node:fs/promises';
import { before, test } from 'node:test';

import { until } from '../e2e/edge.mjs';
import { atTheEnd } from '../e2e/opened.mjs';
import { libwebrtcMember } from './clients.mjs';
import { HOME, Scene } from './scene.mjs';

const NUMBER = 11;
/** The two links of its machine: the interface names of both ends, and the address on each. */
const LINKS = [1, 2].map((n) => ({ inside: `way${n}`, outside: `way${n}-home`, address: `10.88.${n}.2`, gateway: `10.88.${n}.1` }));
let machine;
let client;

const run = (words) => execFileSync(words[0], words.slice(1), { stdio: ['ignore', 'ignore', 'inherit'] });
const ip = (words) => run(['ip', ...words.split(' ')]);
/** Runs a command in the client's network namespace. */
const within = (...words) => ['nsenter', '--net', `--target=${machine.pid}`, '--', ...words];
const ipWithin = (words) => run(within('ip', ...words.split(' ')));

/** Creates a network namespace, connected to ours by two links. It exists until its process ends, at the latest with the tests. */
async function makeMachine() {
  machine = spawn('unshare', ['--net', 'cat'], { stdio: ['pipe', 'ignore', 'inherit'] });
  atTheEnd(() => machine.stdin.end());
  const network = (pid) => readlink(`/proc/${pid}/ns/net`);
  await until('it has a network of its own', async () => (await network(machine.pid)) !== (await network('self')));
  for (const [i, { inside, outside, address, gateway }] of LINKS.entries()) {
    ip(`link add ${outside} type veth peer name ${inside} netns ${machine.pid}`);
    ip(`address add ${gateway}/24 dev ${outside}`);
    ip(`link set ${outside} up`);
    ipWithin(`address add ${address}/24 dev ${inside}`);
    ipWithin(`link set ${inside} up`);
    // Packets from an address use its link, other packets the first link that is up.
    ipWithin(`route add default via ${gateway} dev ${inside} metric ${100 + i}`);
    ipWithin(`route add default via ${gateway} dev ${inside} table ${100 + i}`);
    ipWithin(`rule add from ${address} lookup ${100 + i}`);
  }
}

// Before Chromium opens the page: a browser gives up what it is loading when the machine's network changes.
before(makeMachine);
const scene = new Scene('libwebrtc', '--listen', '0.0.0.0:0');

async function theyMeet() {
  await scene.chromiumReceives(client, NUMBER);
  await scene.receives(client);
}

test('libwebrtc M106 and Chromium decode each other', { timeout: 120_000 }, async () => {
  client = libwebrtcMember(within(), await scene.socket('libwebrtc', HOME), NUMBER);
  await theyMeet();
  assert.equal(await scene.codecReceived(), 'video/VP8');
  const { outbound } = await scene.chromium.stats();
  assert.ok(outbound.some((s) => s.codec === 'video/VP8' && s.framesEncoded > 0), JSON.stringify(outbound));
});

test('its network link goes down, and the call continues over the other', { timeout: 120_000 }, async () => {
  const used = LINKS.find(({ address }) => address === client.check().address);
  assert.ok(used, JSON.stringify(client.report));
  ip(`link set ${used.outside} down`);
  const other = LINKS.find((link) => link !== used);
  await until(`it sends from ${other.address}`, () => client.check().address === other.address, 40_000);
  // Count only new pictures.
  const count = client.report.pictures[1];
  await until('new pictures come to it', () => client.check().pictures[1] !== count);
  const seen = await scene.chromium.pictures();
  await until('new pictures come from it', async () => {
    const now = await scene.chromium.pictures();
    return NUMBER in now && now[NUMBER] !== seen[NUMBER];
  });
  await theyMeet();
  assert.equal(client.report.state, 'connected');
  const metrics = await scene.edge.metrics();
  const handshakes = ['begun', 'completed'].map((what) => metrics[`uprtc_dtls_${what}_total`]);
  assert.deepEqual(handshakes, [2, 2], 'one for Chromium, one for it');
});

test('it leaves by closing its connection', { timeout: 60_000 }, async () => {
  await scene.leaves(client);
  assert.doesNotMatch(client.log, /"error"/);
});
