// A tab crashes (its process is killed) in a full room. A tab that opens the same link joins at once, and
// the others see one participant, not two.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { Edge, sleep, until } from './edge.mjs';

let edge, first, second;

before(async () => {
  edge = await Edge.start('--set', 'peers-max=2');
  [first, second] = [await launch(), await launch()];
});

/** Kills the processes of a browser's pages. Its other processes, such as the network process, continue. */
async function killPages(browser) {
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  const pages = processInfo.filter((info) => info.type === 'renderer');
  assert.notEqual(pages.length, 0);
  for (const page of pages) process.kill(page.id, 'SIGKILL');
}

test('a killed page whose link is opened again replaces its old peer in a full room', { timeout: 90_000 }, async () => {
  const link = await edge.url('full', 'Ada');
  const bob = await Peer.join(second, await edge.url('full', 'Bob'), 2);
  const ada = await Peer.join(first, link, 1);
  await until('Bob sees Ada', () => bob.sees([1]));
  await until('Ada sees Bob', () => ada.sees([2]));

  await killPages(first);
  await sleep(500); // A person takes longer to open a link.
  const began = Date.now();
  const again = await Peer.join(first, link, 3);
  await until('Ada is back and sees Bob', () => again.sees([2]), 10_000);
  await until('Bob sees the new Ada, and nobody else', () => bob.sees([3]), 10_000);
  const peers = JSON.parse(await edge.uprtc('peers', 'full', '--json'));
  assert.deepEqual(peers.map((peer) => peer.name).sort(), ['Ada', 'Bob']);
  assert.equal((await edge.metrics()).uprtc_peers_replaced_total, 1, `after ${Date.now() - began} ms`);
});
