// A client of another kind: a process that reports what it sees in lines of JSON, and leaves when its input is closed. And
// the scene of each test: an edge, and a Chromium in a room.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { before } from 'node:test';

import { Peer, launch } from '../e2e/browser.mjs';
import { Edge, deadline, until } from '../e2e/edge.mjs';
import { atTheEnd } from '../e2e/opened.mjs';

/** The address that `tools/alone` gives for clients that take no loopback. */
export const HOME = '10.88.0.1';

const running = new Set();

export class Stranger {
  /** @param {(string | number)[]} command */
  constructor(command) {
    this.report = {};
    this.log = '';
    const [program, ...words] = command.map(String);
    this.process = spawn(program, words, { stdio: ['pipe', 'pipe', 'pipe'] });
    this.process.stdin.on('error', () => {}); // It has ended, which `check` tells.
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

  /** Lets it leave: closes its input, or gives it a signal, or kills it after a while. */
  async leave({ signal = undefined, ms = 10_000 } = {}) {
    running.delete(this);
    if (signal) this.process.kill(signal);
    else this.process.stdin.end();
    const ended = await Promise.race([this.ended, deadline(ms)]);
    if (!ended) this.process.kill('SIGKILL');
    return ended;
  }

  static async stopAll() {
    await Promise.all([...running].map((stranger) => stranger.leave({ ms: 3000 })));
  }
}

/** What a test file has: an edge, and a Chromium (number 1) on the meeting page of a room, for as long as its tests run. */
export class Scene {
  constructor(room, ...options) {
    this.room = room;
    before(async () => {
      this.edge = await Edge.start('--media-ip', '127.0.0.1', '--media-ip', HOME, ...options);
      this.browser = await launch();
      atTheEnd(() => Stranger.stopAll());
      this.chromium = await this.chromiumJoins(1);
    });
  }

  async chromiumJoins(number) {
    return Peer.join(this.browser, await this.edge.url(this.room, `Chromium ${number}`), number);
  }

  /** Address and token to publish by WHIP. */
  async whip(name) {
    return [`${this.edge.base}/whip/${this.room}`, await this.edge.token('--room', this.room, '--name', name, '--publish')];
  }

  /** Address and token to play these by WHEP. */
  async whep(...names) {
    const token = await this.edge.token('--room', this.room, '--name', 'Player', '--subscribe');
    return [`${this.edge.base}/whep/${this.room}/${names.map(encodeURIComponent).join(',')}`, token];
  }

  /** Address of the signalling socket, with a token. */
  async socket(name, host = '127.0.0.1') {
    const token = await this.edge.token('--room', this.room, '--name', name, '--publish', '--subscribe');
    return `ws://${host}:${new URL(this.edge.base).port}/v1/rooms/${this.room}/signal?token=${token}`;
  }

  /** Chromium decodes picture and tone of the stranger, and of nobody else. */
  async isMet(stranger, number) {
    await until('Chromium sees it', () => stranger.check() && this.chromium.sees([number]), 30_000);
    await until('Chromium hears it', () => stranger.check() && this.chromium.hears([number]), 20_000);
  }

  /** The stranger decodes picture and tone of a sender: of the first Chromium, or of this number. */
  async meets(stranger, number = 1) {
    await until(`it sees ${number}`, () => stranger.sees(number), 30_000);
    await until(`it hears ${number}`, () => stranger.hears(number), 20_000);
  }

  /** A counter of the edge's workers, all together. */
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

  /** The stranger, the last one, is told to go, does so in order, and the room knows. */
  async seesOff(stranger, { code = 0, ...how } = {}) {
    assert.deepEqual(await stranger.leave(how), { code, signal: null }, stranger.log);
    await until('Chromium sees nobody', () => this.chromium.sees([]), 10_000);
  }
}
