// The types of the client module that the server ships: they are generated from its sources, and a client in TypeScript
// compiles against them.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Edge } from './edge.mjs';
import { atTheEnd } from './opened.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const web = path.join(root, 'controlplane/web');

/** Runs a command to its end. */
function run(command, words, cwd) {
  const { status, stdout, stderr, error } = spawnSync(command, words, { cwd, encoding: 'utf8' });
  return { status, text: `${stdout}${stderr}${error ?? ''}` };
}

test('the types of the client module are generated from its sources', { timeout: 120_000 }, () => {
  const { status, text } = run(path.join(root, 'tools/sdk-types.mjs'), ['--check'], root);
  assert.equal(status, 0, text);
});

test('a client in TypeScript compiles against the types that an edge ships', { timeout: 120_000 }, async () => {
  const edge = await Edge.start();
  const folder = await mkdtemp(path.join(tmpdir(), 'uprtc-types-'));
  atTheEnd(() => rm(folder, { recursive: true, force: true }));
  const shipped = await fetch(`${edge.base}/sdk/uprtc.d.ts`);
  assert.deepEqual([shipped.status, shipped.headers.get('access-control-allow-origin')], [200, '*']);
  // Only the client and this one file, which is all that a developer needs.
  await writeFile(path.join(folder, 'uprtc.d.ts'), await shipped.text());
  await writeFile(path.join(folder, 'client.ts'), await readFile(path.join(web, 'types/client.ts')));
  const compilerOptions = {
    strict: true, noEmit: true, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, skipLibCheck: false,
    target: 'es2022', module: 'esnext', moduleResolution: 'bundler', lib: ['es2022', 'dom', 'dom.iterable'], types: [],
  };
  await writeFile(path.join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['client.ts'] }));
  assert.equal(run(path.join(root, 'tools/npm-install'), [web], root).status, 0);
  const { status, text } = run('npx', ['--no-install', 'tsc', '--project', folder], web);
  assert.equal(status, 0, text);
});
