// How the client module chooses among edges, against HTTP servers that are as far away, as busy and as dead as the case says. Without a browser.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { createServer as createSilent } from 'node:net';
import { test } from 'node:test';

import { sleep } from './edge.mjs';
import { atTheEnd } from './opened.mjs';

globalThis.location = new URL('http://127.0.0.1:1/page'); // Nobody is there.
const { Edges, nearest, toMeasure } = await import('../../controlplane/web/sdk/edges.js');

/** An edge that answers after so many milliseconds. `told`: what it says of itself; `list`: all that it tells. */
class Fake {
  list = [];
  asked = { list: 0, pings: 0 };

  static async start(told = {}, delay = 0) {
    const fake = new Fake();
    Object.assign(fake, { told, delay });
    fake.server = createServer(async (request, response) => {
      await sleep(fake.delay);
      const isPing = request.url.startsWith('/v1/edges/ping');
      fake.asked[isPing ? 'pings' : 'list'] += 1;
      response.writeHead(isPing ? 204 : 200, { 'content-type': 'application/json' });
      response.end(isPing ? '' : JSON.stringify({ edges: fake.list.map((edge) => edge.view) }));
    });
    await new Promise((resolve) => fake.server.listen(0, '127.0.0.1', resolve));
    fake.url = `http://127.0.0.1:${fake.server.address().port}`;
    atTheEnd(() => fake.die());
    return fake;
  }

  get view() {
    return { name: 'x', region: 'eu', carrier: '', url: this.url, peers: 0, busy_permille: 0, ...this.told };
  }

  /** Connections to it are refused from now on. */
  die() {
    this.server.close();
    this.server.closeAllConnections();
  }
}

/** Fakes that all tell of all, each itself first. */
async function cluster(...edges) {
  const fakes = await Promise.all(edges.map(([told, delay]) => Fake.start(told, delay)));
  for (const fake of fakes) fake.list = [fake, ...fakes.filter((other) => other !== fake)];
  return fakes;
}

/** An address that takes connections and answers nothing. */
async function blackHole() {
  const sockets = [];
  const server = createSilent((socket) => sockets.push(socket));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  atTheEnd(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${server.address().port}`;
}

/** The edges of a client, closed after the tests. */
function edgesOf(server, isOn) {
  const edges = new Edges(server, isOn);
  atTheEnd(() => edges.close());
  return edges;
}

test('the nearest edge is chosen, whichever was asked', async () => {
  const [far, near] = await cluster([{ name: 'far' }, 60], [{ name: 'near', region: 'us' }, 0]);
  const edges = edgesOf(far.url, true);
  await edges.choose();
  assert.equal(edges.current.name, 'near');
  assert.equal(edges.server, near.url);
  assert.ok(edges.current.rttMs < 50 && edges.hasOthers);
});

test('of edges that are as near the least busy one is chosen, and else the one that was asked', async () => {
  const [asked, , idle] = await cluster([{ name: 'asked', busy_permille: 500 }], [{ name: 'other', busy_permille: 500 }], [{ name: 'idle' }]);
  assert.equal(await mostly(asked), 'idle');
  idle.told = { name: 'idle', busy_permille: 550 };
  assert.equal(await mostly(asked), 'asked');
});

/** What most of nine clients choose: a machine that is busy makes the one or other round trip longer. */
async function mostly(asked) {
  const counts = {};
  for (let n = 0; n < 9; n += 1) {
    const edges = edgesOf(asked.url, true);
    await edges.choose();
    counts[edges.current.name] = (counts[edges.current.name] ?? 0) + 1;
  }
  return Object.keys(counts).find((name) => counts[name] > 4) ?? counts;
}

test('the choice takes a second at most, whatever does not answer', async () => {
  const hole = await blackHole();
  const [one] = await cluster([{ name: 'one' }, 250], [{ name: 'two' }, 400]);
  one.list.push({ view: { name: 'hole', url: hole } });
  let began = performance.now();
  const edges = edgesOf(one.url, true);
  await edges.choose();
  const took = performance.now() - began;
  assert.ok(took < 1_150, `${took} ms`);
  assert.equal(edges.current.name, 'one');
  // A list that does not come at all: the join goes to the address that was given.
  began = performance.now();
  const without = edgesOf(hole, true);
  await without.choose();
  assert.ok(performance.now() - began < 1_150);
  assert.deepEqual([without.current, without.server, without.hasOthers], [undefined, hole, false]);
});

test('with one edge nothing is measured, and by default nothing is asked', async () => {
  const [alone] = await cluster([{ name: null, url: null }]);
  const on = edgesOf(alone.url, true);
  await on.choose();
  assert.deepEqual([on.current, on.server, alone.asked], [undefined, alone.url, { list: 1, pings: 0 }]);
  const off = edgesOf(alone.url);
  await off.choose();
  assert.equal(alone.asked.list, 1);
});

test('of several given addresses the first that answers tells the list', async () => {
  const [, two] = await cluster([{ name: 'one' }], [{ name: 'two' }]);
  const edges = edgesOf([await blackHole(), two.url]);
  await edges.choose();
  assert.equal(edges.current.name, 'two');
});

test('an edge that answers is not left, and neither is a dead one when nobody answers', async () => {
  const [one, two] = await cluster([{ name: 'one' }], [{ name: 'two' }]);
  const edges = edgesOf(one.url, true);
  await edges.choose();
  assert.equal(await edges.another(), undefined);
  assert.equal((await edges.another(true)).name, 'two', 'unless it refuses');
  two.die();
  one.die();
  assert.equal(await edges.another(), undefined);
});

test('the clients of a dead edge go to others by chance, and come within a second', async () => {
  const [dead] = await cluster([{ name: 'dead' }], [{ name: 'a' }], [{ name: 'b' }], [{ name: 'far' }, 300]);
  const clients = Array.from({ length: 20 }, () => edgesOf(dead.url, true));
  for (const edges of clients) {
    await edges.choose();
    edges.current = { ...edges.current, name: 'dead', url: dead.url }; // Whichever was a little nearer.
    assert.equal(edges.arrive(), undefined);
  }
  dead.die();
  const began = performance.now();
  const times = await Promise.all(clients.map(async (edges) => {
    assert.equal(await edges.leave(() => true), true);
    return performance.now() - began;
  }));
  const went = clients.map((edges) => edges.current.name);
  const far = went.filter((name) => name === 'far').length;
  assert.ok(far < 5 && went.includes('a') && went.includes('b'), went.join(' '));
  assert.deepEqual(clients.map((edges) => edges.arrive()?.previous.name), went.map(() => 'dead'));
  assert.ok(Math.max(...times) - Math.min(...times) > 120, 'not all at once');
  assert.ok(Math.max(...times) < 2_500, `${Math.max(...times)} ms`);
});

test('it was nothing: the client stays', async () => {
  const [one] = await cluster([{ name: 'one' }], [{ name: 'two' }]);
  const edges = edgesOf(one.url, true);
  await edges.choose();
  let isLost = true;
  setTimeout(() => (isLost = false), 300);
  assert.equal(await edges.leave(() => isLost), false);
  assert.equal(edges.current.name, 'one');
});

test('five are measured: the one that was asked, and one of each region by turns', () => {
  const edge = (name, region, busy = 0) => ({ url: `https://${name}`, name, region, busy, rttMs: undefined });
  const known = [edge('fra1', 'eu'), edge('nyc1', 'us'), edge('sin1', 'ap', 9), edge('fra2', 'eu'), edge('nyc2', 'us', 1), edge('sin2', 'ap')];
  const names = toMeasure(known, known[0]).map(({ name }) => name);
  assert.deepEqual(names, ['fra1', 'fra2', 'nyc1', 'sin2', 'nyc2']);
  const first = new Set(Array.from({ length: 50 }, () => toMeasure(known.slice(1), undefined)[0].name));
  assert.deepEqual([...first].sort(), ['nyc1'], 'the less busy one of its region');
  assert.equal(nearest([]), undefined);
});
