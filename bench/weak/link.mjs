// A machine behind a link: a network namespace whose only way out is one of weak-link's two interfaces. The other one is here. Both
// end with this process.

import { execFileSync, spawn } from 'node:child_process';
import { chmod, mkdtemp, readlink, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { chromiumPath } from '../e2e/browser.mjs';
import { deadline, until } from '../e2e/edge.mjs';
import { atTheEnd } from '../e2e/opened.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const target = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');
const executable = process.env.WEAK_LINK ?? path.join(target, 'debug', 'weak-link');

/** Names of the interfaces, here and there. */
const [NEAR, FAR] = ['near', 'far'];
/** The addresses at both ends. */
export const HERE = '10.89.0.1';
export const THERE = '10.89.0.2';

const ip = (words) => execFileSync('ip', words.split(' '), { stdio: ['ignore', 'ignore', 'inherit'] });

export class Link {
  static async open() {
    const link = new Link();
    link.machine = spawn('unshare', ['--net', 'cat'], { stdio: ['pipe', 'ignore', 'inherit'] });
    atTheEnd(() => link.machine.stdin.end());
    const network = (pid) => readlink(`/proc/${pid}/ns/net`);
    await until('it has a network of its own', async () => (await network(link.machine.pid)) !== (await network('self')));
    link.process = spawn(executable, [NEAR, FAR], { stdio: ['pipe', 'pipe', 'pipe'] });
    link.process.stdin.on('error', () => {}); // It has ended; `report` fails.
    atTheEnd(() => link.process.stdin.end());
    link.ended = new Promise((resolve) => {
      link.process.once('exit', (code, signal) => resolve(code ?? signal));
      link.process.once('error', resolve);
    });
    link.errors = '';
    link.process.stderr.setEncoding('utf8').on('data', (text) => (link.errors += text));
    link.lines = [];
    let rest = '';
    link.process.stdout.setEncoding('utf8').on('data', (text) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop();
      link.lines.push(...lines.map((line) => JSON.parse(line)));
    });
    await link.#line();
    ip(`link set ${FAR} netns ${link.machine.pid}`);
    ip(`address add ${HERE} peer ${THERE} dev ${NEAR}`);
    ip(`link set ${NEAR} up`);
    link.#within('sh', '-c', 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 || true');
    link.#within('ip', ...`address add ${THERE} peer ${HERE} dev ${FAR}`.split(' '));
    link.#within('ip', 'link', 'set', 'lo', 'up');
    link.#within('ip', 'link', 'set', FAR, 'up');
    link.#within('ip', ...`route add default via ${HERE} dev ${FAR}`.split(' '));
    return link;
  }

  /** A command prefix by which a program runs on the machine. */
  get within() {
    return ['nsenter', '--net', `--target=${this.machine.pid}`, '--'];
  }

  #within(...words) {
    const [program, ...entering] = [...this.within, ...words];
    execFileSync(program, entering, { stdio: ['ignore', 'ignore', 'inherit'] });
  }

  /** The next line that weak-link prints. */
  async #line() {
    let ended;
    void this.ended.then((how) => (ended = how));
    return until('weak-link answers', () => {
      if (this.lines.length > 0) return this.lines.shift();
      if (ended === undefined) return undefined;
      throw Object.assign(new Error(`weak-link (${executable}) ended with ${ended}:\n${this.errors}`), { isFinal: true });
    });
  }

  /** Gives it commands (bench/weak/src/command.rs). */
  tell(...commands) {
    for (const command of commands) this.process.stdin.write(`${command}\n`);
  }

  /** What it has carried since `mark`. */
  async report() {
    this.tell('report');
    const report = await this.#line();
    if (this.errors) throw new Error(this.errors);
    return report;
  }

  /** A program that starts Chromium on the machine. The driver stays here: it talks to the browser through a pipe. */
  async chromium() {
    const folder = await mkdtemp(path.join(tmpdir(), 'uprtc-weak-'));
    atTheEnd(() => rm(folder, { recursive: true, force: true }));
    const program = path.join(folder, 'chromium');
    await writeFile(program, `#!/bin/sh\nexec nsenter --net --target=${this.machine.pid} -- ${chromiumPath} "$@"\n`);
    await chmod(program, 0o755);
    return program;
  }

  async close() {
    this.process.stdin.end();
    await Promise.race([this.ended, deadline(3_000)]);
  }
}
