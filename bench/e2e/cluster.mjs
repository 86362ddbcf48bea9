// Several edges that are one cluster: a real nats-server, and edges with a common signing key.

import { execFileSync, spawn } from 'node:child_process';
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { Peer } from './browser.mjs';
import { Edge, until } from './edge.mjs';
import { atTheEnd } from './opened.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

/** The path of a nats-server, and if there is none, why not. */
const [program, reason] = find();

function find() {
  try {
    const output = execFileSync(path.join(root, 'tools/nats-server'), { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
    return [output.trim(), undefined];
  } catch (error) {
    return [undefined, String(error.stderr || error.message).trim()];
  }
}

/** For the option `skip` of a test that needs a cluster: false, or why it is left out. */
export const noCluster = reason !== undefined && `no nats-server: ${reason}`;
if (noCluster && process.env.REQUIRE?.split(',').includes('nats')) throw new Error(noCluster);

/** A nats-server with JetStream; its `url` is the setting `cluster` of the edges. */
export class Nats {
  static async start() {
    const nats = new Nats();
    const folder = await mkdtemp(path.join(tmpdir(), 'uprtc-nats-'));
    atTheEnd(async () => {
      await nats.stop();
      await rm(folder, { recursive: true, force: true });
    });
    nats.port = await freePort();
    nats.config = path.join(folder, 'nats.conf');
    await writeFile(nats.config, `listen: 127.0.0.1:${nats.port}\njetstream { store_dir: "${folder}/store" }\n`);
    await nats.resume();
    return nats;
  }

  get url() {
    return `nats://127.0.0.1:${this.port}`;
  }

  /** Ends it at once, as a crash would. */
  async stop() {
    this.process?.kill('SIGKILL');
    await this.ended;
  }

  /** Starts it, again after {@link stop}. */
  async resume() {
    this.process = spawn(program, ['--config', this.config], { stdio: 'ignore' });
    this.ended = new Promise((resolve) => this.process.once('exit', resolve));
    await until('nats-server', () => accepts(this.port));
  }
}

/**
 * Edges that are one cluster, named e1, e2 and so on, when each of them knows all others with their workers. A token of one is good at all.
 * @param {number} count
 * @param {(number: number) => string[]} [optionsOf] More options of the edge with this number.
 * @returns {Promise<{ nats: Nats, edges: Edge[] }>}
 */
export async function startCluster(count, optionsOf = () => []) {
  const nats = await Nats.start();
  const edges = [];
  for (let number = 1; number <= count; number += 1) {
    const state = await mkdtemp(path.join(tmpdir(), 'uprtc-e2e-'));
    if (edges[0]) await copyFile(path.join(edges[0].state, 'token.key'), path.join(state, 'token.key'));
    const settings = [`cluster=${nats.url}`, `node=e${number}`, 'cluster-lease=5s', ...optionsOf(number)];
    edges.push(await Edge.startIn(state, ...settings.flatMap((setting) => ['--set', setting])));
  }
  await Promise.all(edges.map((edge) => until('the edges know each other', async () => {
    const { edges: known } = await (await fetch(`${edge.base}/v1/edges`)).json();
    return known.length === count;
  })));
  return { nats, edges };
}

/**
 * Joins with a page at this edge. The page measures, and on a busy machine another edge may have been nearer for a moment: then it is loaded again.
 * @param {Edge} edge
 * @param {import('playwright-core').Browser} browser
 */
export async function joinAt(edge, browser, room, name, number) {
  const peer = await Peer.join(browser, await edge.url(room, name), number);
  await staysAt(peer, edge.base);
  return peer;
}

/** Loads a page again until it is in its room at this edge. */
export async function staysAt(peer, base) {
  const where = () => peer.page.evaluate(() => window.uprtc?.room.state === 'connected' && window.uprtc.room.edge?.url);
  for (let loads = 1; ; loads += 1) {
    const url = await until('the page is in the room', where);
    if (url === base) return;
    if (loads === 5) throw new Error(`it is at ${url} each time, and was to be at ${base}`);
    await peer.page.reload();
  }
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject).listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

function accepts(port) {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
