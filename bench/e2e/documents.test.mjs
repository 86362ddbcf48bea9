// Runs every command in the documents as written, unless it is marked as an example. guide.test.mjs and
// bench/interop/ffmpeg.test.mjs run those of docs/GUIDE.md.

import assert from 'node:assert/strict';
import { readFile, readdir } from 'node:fs/promises';
import { before, test } from 'node:test';

import { blocksOf, commandsOf, run } from './commands.mjs';
import { Edge } from './edge.mjs';

const root = new URL('../../', import.meta.url);
const documents = ['README.md', ...(await readdir(new URL('docs', root))).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)];
let edge;

before(async () => {
  edge = await Edge.start();
});

/** A peer without media in the room: an offer by WHIP, which is kept for ten seconds. */
async function isIn(room) {
  const offer = await readFile(new URL('controlplane/tests/offers/chromium_sendrecv.sdp', root), 'utf8');
  const token = await edge.token('--room', room, '--name', 'Ada', '--publish');
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/sdp' };
  const created = await fetch(`${edge.base}/whip/${room}`, { method: 'POST', headers, body: offer });
  assert.equal(created.status, 201, await created.text());
}

let commands = 0;
for (const document of documents.filter((name) => name !== 'docs/GUIDE.md')) {
  for (const [index, block] of (await blocksOf(document)).entries()) {
    test(`${document}, block ${index + 1}: ${commandsOf(block)[0]}`, { timeout: 30_000 }, async () => {
      await isIn('standup');
      const printed = await run(edge, commandsOf(block));
      assert.ok(printed.length > 0, 'a block without a command');
      for (const [at, text] of printed.entries()) assert.ok(text, `${commandsOf(block)[at]} prints nothing`);
      commands += printed.length;
    });
  }
}

test('there are commands to run', () => {
  assert.ok(commands >= 3, `${commands}`);
});
