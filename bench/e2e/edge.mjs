// An edge under test: the real executable with both planes, on free ports, with a temporary
// state folder.

import { spawn } from 'node:child_process';
import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { atTheEnd } from './opened.mjs';

/** Clock ticks of /proc/PID/stat in a second: sysconf(_SC_CLK_TCK) on Linux. */
const TICKS = 100;

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const target = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');
export const executable = process.env.UPRTC ?? path.join(target, 'debug', 'uprtc');

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A deadline for Promise.race. It does not keep the process alive. */
export const deadline = (ms) => new Promise((resolve) => setTimeout(resolve, ms).unref());

/** Polls until `probe` returns something truthy. Fails with `what` after `ms`, or at once on an error that `isFinal`. */
export async function until(what, probe, ms = 20_000) {
  const end = Date.now() + ms;
  let last;
  for (;;) {
    try {
      const found = await probe();
      if (found) return found;
      last = found;
    } catch (error) {
      if (error.isFinal) throw error;
      last = error;
    }
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what} (last: ${last?.stack ?? JSON.stringify(last)})`);
    await sleep(100);
  }
}

export class Edge {
  static async start(...options) {
    return Edge.startIn(await mkdtemp(path.join(tmpdir(), 'uprtc-e2e-')), ...options);
  }

  /** The same in a state folder that exists, and is removed when the edge is stopped. */
  static async startIn(state, ...options) {
    const edge = new Edge();
    edge.state = state;
    edge.executable = executable;
    edge.options = options;
    atTheEnd(() => edge.stop());
    await edge.#start(options.includes('--listen') ? [] : ['--listen', '127.0.0.1:0']);
    return edge;
  }

  /** Stops it with a signal, as an operator would, and waits until it has ended. Its state folder remains. */
  async halt() {
    this.process.kill('SIGTERM');
    await this.ended;
  }

  /** Kills both planes at once, and who would start them again. Its state folder remains. */
  async kill() {
    await this.signal('SIGKILL');
    await this.ended;
  }

  /** Sends a signal to both planes and to who started them. After SIGSTOP it takes connections and answers nothing, as if its machine had lost its network. */
  async signal(signal) {
    const planes = [await this.pid('controlplane'), await this.pid('dataplane')];
    this.process.kill(signal);
    for (const pid of planes) {
      try {
        process.kill(pid, signal);
      } catch (error) {
        if (error.code !== 'ESRCH') throw error; // It ends by itself when its parent does.
      }
    }
  }

  /** Starts it again after {@link halt} or {@link kill}, at the same address. */
  async resume() {
    await this.#start(['--listen', new URL(this.base).host]);
  }

  async #start(listen) {
    const edge = this;
    edge.log = '';
    const fixed = ['--media-port', '0', '--stun', '127.0.0.1:0', '--workers', '1'];
    const spawning = { stdio: ['ignore', 'pipe', 'pipe'], env: { UPRTC_IO: 'udp', ...process.env } }; // No probe for each.
    edge.process = spawn(executable, ['run', ...listen, ...fixed, '--state', edge.state, ...edge.options], spawning);
    edge.ended = new Promise((resolve) => {
      edge.process.once('exit', (code, signal) => resolve({ code, signal }));
      edge.process.once('error', (error) => {
        edge.log += error;
        resolve({ error });
      });
    });
    for (const stream of [edge.process.stdout, edge.process.stderr]) {
      stream.setEncoding('utf8');
      stream.on('data', (text) => (edge.log += text));
    }
    let ended;
    void edge.ended.then((how) => (ended = how));
    edge.base = await until('the edge prints its address', () => {
      if (ended) throw Object.assign(new Error(`the edge (${executable}) ended:\n${edge.log}`), { isFinal: true });
      const address = edge.log.match(/^https?:\/\/[^\s]+\/$/m)?.[0];
      if (!address) throw new Error(`the edge (${executable}) has printed:\n${edge.log}`);
      return new URL(address).origin;
    });
  }

  /** The token that `uprtc token` prints. */
  async token(...options) {
    return (await this.#run(['token', ...options])).trim();
  }

  /** The output of an operator's command. */
  uprtc(...words) {
    return this.#run([...words, '--server', new URL(this.base).host]);
  }

  async #run(words) {
    const child = spawn(executable, [...words, '--state', this.state], { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (part) => (text += part));
    const code = await new Promise((resolve) => child.once('close', resolve));
    if (code !== 0) throw new Error(`uprtc ${words[0]} ended with ${code}`);
    return text;
  }

  /** Starts a command that goes on until the end of the file, for example a recorder. */
  begin(...words) {
    const child = spawn(executable, [...words, '--state', this.state], { stdio: ['ignore', 'ignore', 'inherit'] });
    const ended = new Promise((resolve) => child.once('close', resolve));
    atTheEnd(async () => {
      child.kill('SIGTERM');
      if ((await Promise.race([ended, deadline(10_000)])) === undefined) child.kill('SIGKILL');
    });
    return child;
  }

  async url(room, name, join = true) {
    const token = await this.token('--room', room, '--name', name, '--publish', '--subscribe', '--invite');
    return `${this.base}/r/${room}?token=${token}${join ? '&join=1' : ''}`;
  }

  /** The process id of a plane: a child process with this word in its command line. */
  async pid(plane) {
    for (const entry of await readdir('/proc')) {
      if (!/^\d+$/.test(entry)) continue;
      try {
        const words = (await readFile(`/proc/${entry}/cmdline`, 'utf8')).split('\0');
        const parent = (await readFile(`/proc/${entry}/stat`, 'utf8')).replace(/^.*\) /, '').split(' ')[1];
        if (Number(parent) === this.process.pid && words.includes(plane) && words.includes(this.state)) return Number(entry);
      } catch {
        // It ended while we looked.
      }
    }
    return undefined;
  }

  /** Seconds of CPU that a plane has used. */
  async cpu(plane) {
    const stat = await readFile(`/proc/${await this.pid(plane)}/stat`, 'utf8');
    const fields = stat.replace(/^.*\) /, '').split(' ');
    return (Number(fields[11]) + Number(fields[12])) / TICKS;
  }

  async metrics() {
    const text = await (await fetch(`${this.base}/metrics`)).text();
    return Object.fromEntries(text.split('\n').filter((l) => l && !l.startsWith('#')).map((l) => [l.slice(0, l.lastIndexOf(' ')), Number(l.slice(l.lastIndexOf(' ') + 1))]));
  }

  /** Stops it, if it is still running. Every edge is stopped after the tests of the file. */
  async stop() {
    if (!this.process) return undefined;
    this.process.kill('SIGTERM');
    const ended = await Promise.race([this.ended, deadline(10_000)]);
    if (!ended) this.process.kill('SIGKILL');
    // Remaining child processes may hold these pipes open, which would keep this process alive.
    for (const stream of [this.process.stdout, this.process.stderr]) stream.destroy();
    if (process.env.UPRTC_E2E_LOG) console.log(this.log);
    await rm(this.state, { recursive: true, force: true });
    return ended;
  }
}
