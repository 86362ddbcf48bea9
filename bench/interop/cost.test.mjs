// What data costs, and how late it comes, between two libdatachannel: messages cost them less than a browser, so more of what is measured is the
// server. `make data` prints the figures (docs/MEASURING.md); `make test` runs a short form that asserts only that everything arrives.
//
//   DATA=full  ten seconds of each case
//   CASE       some of the cases by name, separated by commas

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Edge, sleep } from '../e2e/edge.mjs';
import { atTheEnd } from '../e2e/opened.mjs';
import { DataPeer } from './data.mjs';
import { Client } from './scene.mjs';

const ms = process.env.DATA === 'full' ? 10_000 : 1_000;
const command = [process.execPath, fileURLToPath(new URL('data_peer.mjs', import.meta.url)), 'libdatachannel'];
const wanted = process.env.CASE ? process.env.CASE.split(',') : undefined;
const figures = [];
let edge;

before(async () => {
  edge = await Edge.start('--media-ip', '127.0.0.1', '--set', 'data-bps-max=1000000000');
  atTheEnd(() => Client.stopAll());
});

after(() => {
  for (const line of figures) console.log(line);
});

async function join(room, name, channels) {
  const token = await edge.token('--room', room, '--name', name, '--publish', '--subscribe', '--data', 'true');
  return DataPeer.join(name, command, `${edge.base.replace('http', 'ws')}/v1/rooms/${room}/signal?token=${token}`, channels);
}

/** One sends, the other one measures. */
async function carry(from, to, how) {
  to.do('measure', { label: 'bench' });
  const { count: sent, ms: took } = await from.ask('flood', 'flooded', { label: 'bench', ...how }, 4 * ms + 10_000);
  let got;
  const isStill = async () => {
    const before = got?.count;
    got = await to.ask('measured', 'measured', { label: 'bench' });
    return got.count === sent || got.count === before;
  };
  while (!(await isStill())) await sleep(300);
  return { sent, took, ...got };
}

function measure(name, body) {
  test(name, { skip: wanted && !wanted.includes(name) && 'CASE names others', timeout: 120_000 }, body);
}

const megabits = ({ bytes }) => (bytes * 8) / 1e6;

measure('native-throughput', async () => {
  const channels = { bench: {} };
  const how = { len: 65_536, ms, buffered: 1024 * 1024 };
  const [ada, bob] = [await join('fast', 'Ada', channels), await join('fast', 'Bob', channels)];
  const cpus = () => Promise.all(['controlplane', 'dataplane'].map((plane) => edge.cpu(plane)));
  const before = await cpus();
  const relayed = await carry(ada, bob, how);
  const used = (await cpus()).map((now, n) => now - before[n]);
  await Promise.all([ada.leave(), bob.leave()]);
  assert.deepEqual([relayed.count, relayed.disordered], [relayed.sent, 0]);
  const [from, to] = await DataPeer.pair(command, channels);
  const between = await carry(from, to, how);
  await Promise.all([from.leave(), to.leave()]);
  const rate = (all) => (megabits(all) / (all.took / 1000)).toFixed(0);
  figures.push(`64 KiB reliable, one to one: ${rate(relayed)} Mb/s, and without a server between them ${rate(between)} Mb/s; ` +
    `${(megabits(relayed) / used[0]).toFixed(0)} Mb for each second of the controlplane's core, ${(megabits(relayed) / used[1]).toFixed(0)} of the dataplane's`);
});

measure('native-latency', async () => {
  const channels = { bench: { ordered: false, maxRetransmits: 0 } };
  const how = { len: 1024, ms, rate: 1000 };
  const [ada, bob] = [await join('quick', 'Ada', channels), await join('quick', 'Bob', channels)];
  const relayed = await carry(ada, bob, how);
  await Promise.all([ada.leave(), bob.leave()]);
  assert.ok(relayed.count > relayed.sent / 2, `${relayed.count} of ${relayed.sent}`);
  const [from, to] = await DataPeer.pair(command, channels);
  const between = await carry(from, to, how);
  await Promise.all([from.leave(), to.leave()]);
  const lags = ({ p50, p99, longest }) => `p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms, longest ${longest.toFixed(1)} ms`;
  figures.push(`1 KiB lossy, ${relayed.sent} at 1,000 a second: ${relayed.count} came, ${lags(relayed)}; without a server ${lags(between)}`);
});
