// A client of another kind: a process that reports what it sees in lines of JSON, and leaves when its input is closed.

import { execFileSync, spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { deadline } from '../e2e/edge.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
/** The Python that has the packages of requirements.txt. */
export const python = path.join(here, 'venv/bin/python');
/** The Python that has GStreamer. */
export const systemPython = '/usr/bin/python3';
export const script = (name) => path.join(here, name);

let ffmpegPath;
/** The ffmpeg that comes with the Python package imageio-ffmpeg: distributions' own have no WHIP yet. */
export function ffmpeg() {
  ffmpegPath ??= execFileSync(python, ['-c', 'import imageio_ffmpeg as i; print(i.get_ffmpeg_exe())'], { encoding: 'utf8' }).trim();
  return ffmpegPath;
}

/** The address that `tools/alone` gives for clients that take no loopback. */
export const HOME = '10.88.0.1';
/** Where an edge listens for them. */
export const EDGE_OPTIONS = ['--media-ip', '127.0.0.1', '--media-ip', HOME];

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
