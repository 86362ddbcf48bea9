// If the server cannot start, every test file ends, reports the reason, and leaves no process behind.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { chmod, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { deadline, until } from './edge.mjs';
import { atTheEnd } from './opened.mjs';

const own = fileURLToPath(import.meta.url);
const here = path.dirname(own);
/** Tests of the module by itself, which start no server. */
const needNone = ['choosing.test.mjs', 'messages.test.mjs'];
const isOther = (name) => name.endsWith('.test.mjs') && name !== path.basename(own) && !needNone.includes(name);
const files = (await readdir(here)).filter(isOther);
let folder;

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'uprtc-e2e-opened-'));
  atTheEnd(() => rm(folder, { recursive: true, force: true }));
});

/** Command lines of the processes with this temporary folder in their environment: all descendants of the test. */
async function begotten(temporary) {
  const found = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const environment = (await readFile(`/proc/${entry}/environ`, 'utf8')).split('\0');
      if (environment.includes(`TMPDIR=${temporary}`)) found.push((await readFile(`/proc/${entry}/cmdline`, 'utf8')).replaceAll('\0', ' '));
    } catch {
      // The process has ended meanwhile, or belongs to another user.
    }
  }
  return found;
}

/** Runs a test file with this program as the server. Returns its output, after it has ended with a failure. */
async function fails(file, executable) {
  const temporary = await mkdtemp(path.join(folder, 'run-'));
  const env = { ...process.env, UPRTC: executable, TMPDIR: temporary };
  delete env.NODE_TEST_CONTEXT; // The test file runs separately and is not part of this run.
  const child = spawn(process.execPath, [file], { cwd: here, env, stdio: ['ignore', 'pipe', 'pipe'] });
  let printed = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (printed += text));
  const ended = new Promise((resolve) => child.once('close', resolve));
  const code = await Promise.race([ended, deadline(60_000)]);
  if (code === undefined) child.kill('SIGKILL');
  assert.equal(code, 1, `${file} ended with ${code}:\n${printed}`);
  await until(`nothing of ${file} is left`, async () => {
    const left = [...(await begotten(temporary)), ...(await readdir(temporary))];
    if (left.length > 0) throw new Error(left.join('\n'));
    return true;
  }, 5000);
  return printed;
}

for (const file of files) {
  test(`${file} without a server`, { timeout: 90_000 }, async () => {
    // `make edges` says it in its own words.
    const said = file === 'make-edges.test.mjs' ? /there is no \/nonexistent\/uprtc/ : /the edge \(\/nonexistent\/uprtc\) ended:\s+Error: spawn \/nonexistent\/uprtc ENOENT/;
    assert.match(await fails(file, '/nonexistent/uprtc'), said);
  });
}

test('a server that never prints its address', { timeout: 90_000 }, async () => {
  const silent = path.join(folder, 'silent');
  await writeFile(silent, '#!/bin/sh\necho I am busy\nexec sleep 600\n');
  await chmod(silent, 0o755);
  assert.match(await fails('call.test.mjs', silent), /not within 20000 ms: the edge prints its address .*has printed:\s+I am busy/s);
});
