// A browser whose network blocks UDP: it joins by TCP (RFC 6544), moves to UDP when that passes, and returns to TCP when it does not.
// And one whose network lets nothing through but the port of the page.
// The link of bench/weak drops UDP. Run it by tools/alone.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { before, test } from 'node:test';

import { Peer, launch, launchFrom } from '../e2e/browser.mjs';
import { Edge, until } from '../e2e/edge.mjs';
import { HERE, Link } from './link.mjs';

// A container may have no TUN interfaces.
const skip = !existsSync('/dev/net/tun') && 'the link needs /dev/net/tun';
assert.ok(!skip || !process.env.REQUIRE?.split(',').includes('namespaces'), `${skip}, and REQUIRE names namespaces`);

let edge;
let link;
let ada;
let bob;
let far;

before(async () => {
  if (skip) return;
  link = await Link.open();
  edge = await Edge.start('--listen', '0.0.0.0:0', '--media-ip', HERE, '--set', 'ice-tcp-listen=true');
  const near = await launch();
  // The pages of a server without a certificate may use cameras only if it is on the same machine, or named here.
  far = await launchFrom(await link.chromium(), `--unsafely-treat-insecure-origin-as-secure=${baseAt(HERE)}`);
  link.tell('both delay=10ms udp=drop');
  ada = await Peer.join(near, await urlAt('127.0.0.1', 'Ada'), 1);
  bob = await Peer.join(far, await urlAt(HERE, 'Bob'), 2);
});

const baseAt = (address) => `http://${address}:${new URL(edge.base).port}`;

async function urlAt(address, name) {
  const url = new URL(await edge.url('firewall', name));
  return `${baseAt(address)}${url.pathname}${url.search}`;
}

/** How a peer's media passes now: `udp` or `tcp`. */
const protocolOf = (peer) =>
  peer.page.evaluate(async () => {
    const stats = await window.e2e.connections.at(-1).getStats();
    const transport = [...stats.values()].find(({ type }) => type === 'transport');
    const pair = stats.get(transport?.selectedCandidatePairId);
    return stats.get(pair?.localCandidateId)?.protocol;
  });

async function assertConversation(ms) {
  await until('they see and hear each other', async () => (await ada.sees([2])) && (await bob.sees([1])) && (await ada.hears([2])) && (await bob.hears([1])), ms);
  const [before] = [await bob.pictures()];
  await until('pictures are live', async () => (await bob.pictures())[1] !== before[1], 5_000);
}

/** Milliseconds until a peer is connected, from the start of its page. */
const connectedAfter = (peer) =>
  until('it is connected', () => peer.page.evaluate(() => window.e2e.connections.at(-1)?.connectionState === 'connected' && performance.now()), 20_000);

test('where UDP is blocked a browser joins by TCP, sees and hears', { timeout: 120_000, skip }, async () => {
  console.log(`connected ${Math.round(await connectedAfter(bob))} ms after its page began to load`);
  assert.equal(await protocolOf(bob), 'tcp');
  await assertConversation(20_000);
  assert.equal(await protocolOf(ada), 'udp');
});

test('it moves to UDP when UDP passes, and back to TCP when it does not, in one connection', { timeout: 180_000, skip }, async () => {
  const moved = async (protocol) => {
    const began = Date.now();
    await until(`Bob is connected by ${protocol}`, async () => (await protocolOf(bob)) === protocol && (await bob.stats()).ice === 'connected', 60_000);
    console.log(`${protocol} after ${Date.now() - began} ms`);
    await assertConversation(20_000);
  };
  link.tell('both udp=pass');
  await moved('udp');
  link.tell('both udp=drop');
  await moved('tcp');
  assert.equal((await bob.offers()).connections, 1);
  assert.deepEqual([...ada.errors, ...bob.errors], []);
});

test('where only the port of the page passes, a browser joins by that', { timeout: 120_000, skip }, async () => {
  await bob.close();
  const { port } = new URL(edge.base);
  link.tell(`both udp=drop tcp=${port}`);
  bob = await Peer.join(far, await urlAt(HERE, 'Bea'), 2);
  console.log(`connected ${Math.round(await connectedAfter(bob))} ms after its page began to load`);
  await assertConversation(20_000);
  const [address] = await bob.page.evaluate(async () => {
    const stats = await window.e2e.connections.at(-1).getStats();
    const transport = [...stats.values()].find(({ type }) => type === 'transport');
    const { address, port } = stats.get(stats.get(transport.selectedCandidatePairId).remoteCandidateId);
    return [`${address}:${port}`];
  });
  assert.equal(address, `${HERE}:${port}`);
});
