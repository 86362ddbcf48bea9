// Commands of the documents: `console` blocks are run as written, `console example` blocks are not run. A line that begins with
// `$ ` (or `# `, as root) is a command, which continues after a backslash at its end; the other lines are output.
//
// The test replaces what a reader has and a test has not: `uprtc` is the executable under test with the state folder of
// its edge, whatever `--state` says; `sudo -u uprtc` runs the command as the current user; $EDGE is the edge.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';

/** The blocks of a document that are run. */
export async function blocksOf(document) {
  const text = await readFile(new URL(`../../${document}`, import.meta.url), 'utf8');
  return [...text.matchAll(/^```console\n(.*?)^```$/gms)].map(([, block]) => block);
}

/** The commands of a block. */
export function commandsOf(block) {
  const commands = [];
  let goesOn = false;
  for (const line of block.split('\n')) {
    const [, begun] = line.match(/^[$#] (.*)$/) ?? [];
    if (goesOn) commands.push(`${commands.pop()}\n${line}`);
    else if (begun !== undefined) commands.push(begun);
    else continue;
    goesOn = line.endsWith('\\');
  }
  return commands;
}

/** A shell that runs the commands in order until one fails. */
export function shell(edge, commands, { cwd, functions = [], stdio = ['ignore', 'pipe', 'inherit'] } = {}) {
  const script = [
    'set -euo pipefail',
    `uprtc() {
       local words=()
       while [ $# -gt 0 ]; do
         if [ "$1" = --state ]; then shift; else words+=("$1"); fi
         shift
       done
       case "\${words[0]}" in
       token | link) "$UPRTC" "\${words[@]}" --state "$STATE" ;;
       *) "$UPRTC" "\${words[@]}" --state "$STATE" --server "\${EDGE#http://}" ;;
       esac
     }`,
    'function target/release/uprtc { uprtc "$@"; }',
    'sudo() { [ "$1" = -u ] && shift 2; "$@"; }',
    ...functions,
    ...commands.flatMap((command) => [command, 'echo; echo ---']),
  ];
  const env = { ...process.env, EDGE: edge.base, STATE: edge.state, UPRTC: edge.executable };
  return spawn('bash', ['-c', script.join('\n')], { cwd, env, stdio });
}

/** The output of each command. A failing command fails the test. */
export async function run(edge, commands, options) {
  const child = shell(edge, commands, options);
  let out = '';
  child.stdout.setEncoding('utf8').on('data', (part) => (out += part));
  const code = await new Promise((resolve) => child.once('close', resolve));
  assert.equal(code, 0, `a command failed:\n${commands.join('\n')}\n${out}`);
  return out.split('\n---\n').map((part) => part.trim()).slice(0, commands.length);
}
