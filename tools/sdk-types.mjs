#!/usr/bin/env node
// Writes the types of the client module, controlplane/web/types/uprtc.d.ts, from the JSDoc of its sources. The server ships
// that one file as /sdk/uprtc.d.ts, so that the build needs no Node.js; the file is committed.
//
// usage: tools/sdk-types.mjs [--check]      --check: writes nothing, and fails if the file is not what it would write

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const web = path.join(root, 'controlplane/web');
const target = path.join(web, 'types/uprtc.d.ts');

execFileSync(path.join(root, 'tools/npm-install'), [web], { stdio: 'inherit' });
const folder = mkdtempSync(path.join(tmpdir(), 'uprtc-types-'));
try {
  const project = path.join(web, 'tsconfig.types.json');
  execFileSync('npx', ['--no-install', 'tsc', '--project', project, '--outDir', folder], { cwd: web, stdio: 'inherit' });
  const text = oneFile((name) => readFileSync(path.join(folder, `${name}.d.ts`), 'utf8'));
  if (!process.argv.includes('--check')) writeFileSync(target, text);
  else if (readFileSync(target, 'utf8') !== text) {
    console.error('controlplane/web/types/uprtc.d.ts is not what the sources say: run tools/sdk-types.mjs and commit it');
    process.exitCode = 1;
  }
} finally {
  rmSync(folder, { recursive: true });
}

/** The declarations of `uprtc.js`, with the required declarations of the other files in place of the imports. */
function oneFile(read) {
  const modules = new Map();
  const moduleOf = (name) => modules.get(name) ?? modules.set(name, parse(read(name))).get(name);
  const { about, statements } = moduleOf('uprtc');
  const written = [about];
  const seen = new Set();
  const add = (module, name) => {
    if (seen.has(name)) return;
    seen.add(name);
    const { declarations, imports } = moduleOf(module);
    const statement = declarations.get(name) ?? fail(`${module}.d.ts does not declare ${name}`);
    const alias = statement.match(/^export type (\w+) = import\('\.\/(\w+)\.js'\)\.(\w+);$/);
    if (alias && alias[1] === alias[3]) {
      seen.delete(name);
      return add(alias[2], name);
    }
    // Inline imports of types of other files become the plain type names.
    const inPlace = /import\(['"]\.\/(\w+)\.js['"]\)\.(\w+)/g;
    written.push(statement.replace(inPlace, '$2'));
    for (const [, from, what] of statement.matchAll(inPlace)) add(from, what);
    const names = (what) => new RegExp(`\\b${what}\\b`).test(statement);
    for (const [what, from] of imports) if (names(what)) add(from, what);
    for (const what of declarations.keys()) if (names(what)) add(module, what);
  };
  for (const statement of statements) {
    const [, exported] = statement.match(/^export \{(.*?)\};$/s) ?? [];
    const own = nameOf(statement);
    if (exported) for (const name of exported.split(',').map((word) => word.trim())) add(moduleOf('uprtc').imports.get(name) ?? 'uprtc', name);
    else if (own) add('uprtc', own);
  }
  const text = written.join('\n\n');
  if (/(from|import\() ?['"]\.\//.test(text)) fail('a declaration still names another file');
  return `// Types of uprtc's client module. Made by tools/sdk-types.mjs; changes here are lost.\n\n${text}\n`;
}

function fail(why) {
  throw new Error(why);
}

/** The name that a statement declares. */
function nameOf(statement) {
  const code = statement.replace(/\/\*\*.*?\*\//gs, '');
  return code.match(/^(?:export )?(?:declare )?(?:function|class|const|type|interface) (\w+)/m)?.[1];
}

/** A declaration file: its header comment, its statements, its declared names, and its imports. */
function parse(text) {
  const [first, ...others] = split(text);
  // The header comment is before the first statement, which may have comments of its own.
  const [about, ...begin] = first.split(/(?<=\*\/)\n/);
  const statements = begin.length === 0 ? [first, ...others] : [begin.join('\n'), ...others];
  const [declarations, imports] = [new Map(), new Map()];
  for (const statement of statements) {
    const [, names, from] = statement.match(/^import (?:type )?\{(.*?)\} from '\.\/(\w+)\.js';$/s) ?? [];
    if (from) for (const name of names.split(',')) imports.set(name.trim(), from);
    // A comment without a statement is one from which tsc made a type: it is not needed.
    else if (nameOf(statement)) declarations.set(nameOf(statement), statement);
  }
  return { about, statements, declarations, imports };
}

/** Statements of a declaration file, each with the comment before it. A comment that is followed by another one is separate. */
function split(text) {
  const statements = [];
  let lines = [];
  let isComment = false;
  let depth = 0; // of braces
  for (const line of text.split('\n')) {
    if (line.startsWith('/**') && lines.length > 0) {
      statements.push(lines.join('\n'));
      lines = [];
    }
    if (line === '' && lines.length === 0) continue;
    lines.push(line);
    if (line.trimStart().startsWith('/**') || isComment) {
      isComment = !line.includes('*/');
      continue;
    }
    depth += line.split('{').length - line.split('}').length;
    if (depth === 0 && /[;}]$/.test(line)) {
      statements.push(lines.join('\n'));
      lines = [];
    }
  }
  if (lines.join('').trim()) statements.push(lines.join('\n'));
  return statements;
}
