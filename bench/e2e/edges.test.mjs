// One cluster of three edges: a client joins at the edge that the list gives it, stays while only the controlplane there is
// gone, and is in the room at another edge within five seconds when both planes are killed or frozen.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { launch } from './browser.mjs';
import { joinAt, noCluster, startCluster } from './cluster.mjs';
import { Edge, sleep, until } from './edge.mjs';
import { launchFirefox } from './firefox.mjs';

/** From the death of its edge until a client is in the room again. */
const MOVE_MS_MAX = 5_000;

let edges = [];
let browser;

before(async () => {
  if (noCluster) return;
  ({ edges } = await startCluster(3, (number) => [`region=${number < 3 ? 'eu' : 'us'}`]));
  browser = await launch();
});

/** What it says when it has moved; fails if that took too long. */
async function moved(peer, from, since) {
  const change = await until('it is at another edge', async () => (await look(peer)).changes.find(({ at }) => at), 15_000);
  const took = change.at - since;
  console.log(`peer ${peer.number}: from ${change.from} to ${change.to} in ${took} ms`);
  assert.equal(change.from, from);
  assert.ok(took <= MOVE_MS_MAX, `${took} ms`);
  const { edge, changes } = await look(peer);
  assert.equal(changes.length, 1, 'and it stays there');
  return edges.find(({ base }) => base === edge.url);
}

/** The page's client: where it is, its state, and when it changed its edge. */
const look = (peer) => peer.page.evaluate(() => {
  const { room } = window.uprtc;
  return { edge: room.edge, state: room.state, changes: window.changes };
});

/** Notes when the room changes its edge, and when it is connected after that. */
const note = (peer) => peer.page.evaluate(() => {
  window.changes = [];
  const { room } = window.uprtc;
  room.on('edge-changed', ({ edge, previous }) => window.changes.push({ from: previous.name, to: edge.name }));
  room.on('state', ({ state }) => {
    if (state === 'connected') window.changes.at(-1) && (window.changes.at(-1).at ??= Date.now());
  });
});

async function join(edge, room, number) {
  const peer = await joinAt(edge, browser, room, `Peer ${number}`, number);
  await note(peer);
  return peer;
}

const namesAt = async (edge, room) => JSON.parse(await edge.uprtc('peers', room, '--json')).map(({ name }) => name).sort();

test('a client joins at the edge that was asked where all are as near', { skip: noCluster, timeout: 60_000 }, async () => {
  const peer = await join(edges[1], 'near', 1);
  const { edge } = await look(peer);
  assert.deepEqual({ ...edge, rttMs: typeof edge.rttMs, busy: 0 }, { url: edges[1].base, name: 'e2', region: 'eu', rttMs: 'number', busy: 0 });
  assert.ok(edge.rttMs < 1000, `${edge.rttMs}`);
  assert.deepEqual(await namesAt(edges[1], 'near'), ['Peer 1']);
  await peer.close();
});

test('a controlplane that is away for eight seconds makes no client leave', { skip: noCluster, timeout: 60_000 }, async () => {
  const peer = await join(edges[1], 'stay', 2);
  const pid = await edges[1].pid('controlplane');
  edges[1].process.kill('SIGSTOP'); // The supervisor starts no other one meanwhile.
  process.kill(pid, 'SIGKILL');
  try {
    await until('the socket is lost', async () => (await look(peer)).state === 'reconnecting');
    await sleep(8_000);
    assert.equal((await look(peer)).state, 'reconnecting', 'media goes on');
  } finally {
    edges[1].process.kill('SIGCONT');
  }
  await until('the session is resumed', async () => (await look(peer)).state === 'connected');
  assert.deepEqual((await look(peer)).changes, []);
  assert.deepEqual(await peer.offers(), { offers: 1, connections: 1 });
  await peer.close();
});

test('an edge that answers nothing any more, and closes nothing, is left within five seconds', { skip: noCluster, timeout: 60_000 }, async () => {
  const peer = await join(edges[2], 'frozen', 5);
  await edges[2].signal('SIGSTOP');
  const since = Date.now();
  try {
    const there = await moved(peer, 'e3', since);
    assert.deepEqual(await namesAt(there, 'frozen'), ['Peer 5']);
  } finally {
    await edges[2].signal('SIGCONT');
  }
  await peer.close();
  await until('all edges are there again', async () => (await (await fetch(`${edges[0].base}/v1/edges`)).json()).edges.length === 3);
});

// As if the client's own network were away: nobody answers, and then everybody.
test('while no edge answers no client leaves its own', { skip: noCluster, timeout: 60_000 }, async () => {
  const peer = await join(edges[0], 'away', 6);
  for (const edge of edges) await edge.signal('SIGSTOP');
  try {
    await until('nothing arrives', async () => (await look(peer)).state === 'interrupted');
    await sleep(2_000);
    assert.equal((await look(peer)).state, 'interrupted');
  } finally {
    await Promise.all(edges.map((edge) => edge.signal('SIGCONT')));
  }
  await until('it is back', async () => (await look(peer)).state === 'connected');
  await sleep(2_000);
  const { state, edge, changes } = await look(peer);
  assert.deepEqual([state, edge.name, changes], ['connected', 'e1', []]);
  assert.equal((await peer.offers()).connections, 1);
  await peer.close();
  await until('all edges are there again', async () => (await (await fetch(`${edges[0].base}/v1/edges`)).json()).edges.length === 3);
});

test('browsers at three edges see and hear each other', { skip: noCluster, timeout: 90_000 }, async () => {
  const peers = [];
  for (const [at, edge] of edges.entries()) peers.push(await join(edge, 'across', at + 7));
  const numbers = peers.map(({ number }) => number);
  for (const peer of peers) {
    const others = numbers.filter((number) => number !== peer.number);
    await until(`${peer.number} sees ${others}`, () => peer.sees(others), 30_000);
    await until(`${peer.number} hears ${others}`, () => peer.hears(others), 30_000);
  }
  for (const peer of peers) await peer.close();
});

test('an edge is killed, and its clients are in the room at another one within five seconds', { skip: noCluster, timeout: 90_000 }, async () => {
  const peers = [await join(edges[0], 'move', 3), await join(edges[0], 'move', 4)];
  const other = await join(edges[1], 'move', 10);
  await until('they see each other', async () => (await other.sees([3, 4])) && peers[0].sees([4, 10]), 30_000);
  // One sends nothing: its path is quiet between the checks of ICE.
  await peers[1].page.evaluate(async () => {
    await window.uprtc.room.setCamera(false);
    await window.uprtc.room.setMicrophone(false);
  });
  await sleep(1_000);
  const killedAt = Date.now();
  await edges[0].kill();
  for (const peer of peers) {
    const there = await moved(peer, 'e1', killedAt);
    assert.ok((await namesAt(there, 'move')).includes(`Peer ${peer.number}`));
    assert.deepEqual(await peer.offers(), { offers: 2, connections: 2 });
    const { outbound } = await peer.stats();
    assert.equal(outbound.some(({ kind }) => kind === 'video'), peer.number === 3, 'with the same sources');
  }
  await until('who was at another edge all the time sees the one with a camera', () => other.sees([3]), 15_000);
  await until('and the other way round', () => peers[0].sees([10]), 15_000);
  assert.deepEqual(await other.offers(), { offers: 1, connections: 1 });
  await other.close();
  for (const peer of peers) await peer.close();
});

// The edge of the test before is dead.
test('the edge of a Firefox is killed, and it is in the room at another one within five seconds', { skip: noCluster, timeout: 90_000 }, async () => {
  const firefox = await joinAt(edges[2], await launchFirefox(), 'fox', 'Fox', 11);
  await note(firefox);
  const other = await join(edges[1], 'fox', 12);
  await until('they see each other', async () => (await other.sees([11])) && firefox.sees([12]), 30_000);
  await sleep(1_000);
  const killedAt = Date.now();
  await edges[2].kill();
  const there = await moved(firefox, 'e3', killedAt);
  assert.deepEqual(await namesAt(there, 'fox'), ['Fox', 'Peer 12']);
  assert.deepEqual(await firefox.offers(), { offers: 2, connections: 2 });
  await until('the other one sees it again', () => other.sees([11]), 15_000);
  await until('and the other way round', () => firefox.sees([12]), 15_000);
  assert.deepEqual(await other.offers(), { offers: 1, connections: 1 });
  await other.close();
  await firefox.close();
});

test('where there is one edge nothing is asked', { timeout: 60_000 }, async () => {
  const [alone, asked] = [await Edge.start(), []];
  const one = browser ?? (await launch());
  const context = await one.newContext();
  const page = await context.newPage();
  page.on('request', (request) => asked.push(new URL(request.url()).pathname));
  await page.goto(await alone.url('alone', 'Ada'));
  await until('the page is in the room', () => page.evaluate(() => window.uprtc?.room.state === 'connected'));
  assert.ok(asked.some((path) => path.endsWith('/sdk/edges.js')) && !asked.some((path) => path.startsWith('/v1/edges')), asked.join(' '));
  assert.equal(await page.evaluate(() => window.uprtc.room.edge), undefined);
  await context.close();
});
