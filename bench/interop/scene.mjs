// A client under test: a process that reports what it receives in lines of JSON, and leaves when its input is closed. And
// the scene of each test file: an edge, and a Chromium in a room.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { before } from 'node:test';

import { Peer, launch } from '../e2e/browser.mjs';
import { Edge, deadline, until } from '../e2e/edge.mjs';
import { atTheEnd } from '../e2e/opened.mjs';

/** The address that `tools/alone` creates for clients that do not use loopback. */
export const HOME = '10.88.0.1';

const running = new Set();

export class Client {
  /** @param {(string | number)[]} command */
  constructor(command) {
    this.report = {};
    this.log = '';
    const [program, ...words] = command.map(String);
    this.process = spawn(program, words, { stdio: ['pipe', 'pipe', 'pipe'] });
    this.process.stdin.on('error', () => {}); // The process has ended; `check` reports it.
    this.ended = new Promise((resolve) => this.process.once('close', (code, signal) => resolve({ code, signal })));
    this.process.once('error', (error) => (this.log += error));
    let rest = '';
    this.process.stdout.setEncoding('utf8').on('data', (text) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith('{')) Object.assign(this.report, JSON.parse(line));
        else this.log += `${line}\n`;
      }
    });
    this.process.stderr.setEncoding('utf8').on('data', (text) => (this.log += text));
    running.add(this);
  }

  /** Fails with its log if it has ended. */
  check() {
    const { exitCode, signalCode } = this.process;
    if (exitCode !== null || signalCode !== null) {
      throw Object.assign(new Error(`it ended with ${exitCode ?? signalCode}:\n${this.log}`), { isFinal: true });
    }
    return this.report;
  }

  sees(number) {
    return Object.hasOwn(this.check().pictures ?? {}, number);
  }

  hears(number) {
    return (this.check().tones ?? []).includes(number);
  }

  /** Makes it leave: closes its input or sends a signal, and kills it after `ms`. */
  async leave({ signal = undefined, ms = 10_000 } = {}) {
    running.delete(this);
    if (signal) this.process.kill(signal);
    else this.process.stdin.end();
    const ended = await Promise.race([this.ended, deadline(ms)]);
    if (!ended) this.process.kill('SIGKILL');
    return ended;
  }

  static async stopAll() {
    await Promise.all([...running].map((client) => client.leave({ ms: 3000 })));
  }
}

/** The environment of a test file: an edge, and a Chromium (number 1) on the meeting page of a room. */
export class Scene {
  constructor(room, ...options) {
    this.room = room;
    before(async () => {
      this.edge = await Edge.start('--media-ip', '127.0.0.1', '--media-ip', HOME, ...options);
      this.browser = await launch();
      atTheEnd(() => Client.stopAll());
      this.chromium = await this.chromiumJoins(1);
    });
  }

  async chromiumJoins(number) {
    const peer = await Peer.join(this.browser, await this.edge.url(this.room, `Chromium ${number}`), number);
    // The page takes the token out of its address once it runs.
    await until('the page runs', () => peer.page.evaluate(() => !location.href.includes('token=')));
    return peer;
  }

  /** URL and token to publish by WHIP. */
  async whip(name) {
    return [`${this.edge.base}/whip/${this.room}`, await this.edge.token('--room', this.room, '--name', name, '--publish')];
  }

  /** URL and token to play these participants by WHEP. */
  async whep(...names) {
    const token = await this.edge.token('--room', this.room, '--name', 'Player', '--subscribe');
    return [`${this.edge.base}/whep/${this.room}/${names.map(encodeURIComponent).join(',')}`, token];
  }

  /** Address of the signalling socket, with a token. */
  async socket(name, host = '127.0.0.1') {
    const token = await this.edge.token('--room', this.room, '--name', name, '--publish', '--subscribe');
    return `ws://${host}:${new URL(this.edge.base).port}/v1/rooms/${this.room}/signal?token=${token}`;
  }

  /** Chromium decodes picture and tone of the client, and of no other sender. */
  async chromiumReceives(client, number) {
    await until('Chromium sees it', () => client.check() && this.chromium.sees([number]), 30_000);
    await until('Chromium hears it', () => client.check() && this.chromium.hears([number]), 20_000);
  }

  /** The client decodes picture and tone of a sender, by default the first Chromium. */
  async receives(client, number = 1) {
    await until(`it sees ${number}`, () => client.sees(number), 30_000);
    await until(`it hears ${number}`, () => client.hears(number), 20_000);
  }

  /** The sum of a counter over the edge's workers. */
  async counted(name) {
    const metrics = Object.entries(await this.edge.metrics()).filter(([key]) => key.startsWith(`uprtc_worker_${name}_total{`));
    assert.ok(metrics.length > 0, name);
    return metrics.reduce((sum, [, value]) => sum + value, 0);
  }

  /** The codec in which Chromium decodes the one video that it receives. */
  async codecReceived() {
    const { inbound } = await this.chromium.stats();
    return inbound.filter((s) => s.kind === 'video' && s.framesDecoded > 0).at(-1)?.codec;
  }

  /** The client, the last one in the room, leaves on request, and Chromium sees nobody any more. */
  async leaves(client, { code = 0, ...how } = {}) {
    assert.deepEqual(await client.leave(how), { code, signal: null }, client.log);
    await until('Chromium sees nobody', () => this.chromium.sees([]), 10_000);
  }
}
