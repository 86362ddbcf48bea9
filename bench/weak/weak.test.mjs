// Calls on bad networks: browsers in a room, one of them, A, behind a link of our own (bench/weak/src). `make weak` runs all cases
// of scenarios.mjs and prints their figures next to the targets, and beside them two browsers directly over the same link.
// `make test` runs two of them for a short time and asserts only that the calls take place. Run it by tools/alone.
//
//   SCENARIO   cases by name, separated by commas
//   CONTENT    camera or grain instead of the case's own
//   SHORT      the form of `make test`
//   DIRECT=no  without the two browsers

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { loadavg } from 'node:os';
import { after, before, test } from 'node:test';

import { launch, launchFrom } from '../e2e/browser.mjs';
import { Edge, sleep } from '../e2e/edge.mjs';
import { Caller } from './callers.mjs';
import { interruptions, received, sent } from './figures.mjs';
import { HERE, Link } from './link.mjs';
import { SCENARIOS } from './scenarios.mjs';
import { Observer } from './server.mjs';
import { figures, summary, verdicts } from './table.mjs';

const SHORT = ['down-500k', 'loss-10-both'];
const SHORT_SECONDS = 8;
const SECONDS = 25;
/** What is watched before the link becomes weak, seconds. */
const BEFORE_SECONDS = 10;
/** How long A waits for the others' first frames before its window begins, milliseconds. */
const FIRST_FRAMES_MS = 5_000;

const isShort = Boolean(process.env.SHORT);
const all = isShort ? SHORT : SCENARIOS.filter(({ isByName }) => !isByName).map(({ name }) => name);
const wanted = process.env.SCENARIO ? process.env.SCENARIO.split(',') : all;
for (const name of wanted) assert.ok(SCENARIOS.some((scenario) => scenario.name === name), `there is no case ${name}`);

// A container may have no TUN interfaces.
const skip = !existsSync('/dev/net/tun') && 'the link needs /dev/net/tun';
assert.ok(!skip || !process.env.REQUIRE?.split(',').includes('namespaces'), `${skip}, and REQUIRE names namespaces`);

let edge;
let link;
let near;
let far;
const results = [];

before(async () => {
  if (skip) return;
  link = await Link.open();
  edge = await Edge.start('--listen', '0.0.0.0:0', '--media-ip', HERE);
  near = await launch();
  // The pages of a server without a certificate may use cameras only if it is on the same machine, or named here.
  far = await launchFrom(await link.chromium(), `--unsafely-treat-insecure-origin-as-secure=${baseAt(HERE)}`);
});

/** The base address of the edge for a page here, or behind the link. */
const baseAt = (address) => `http://${address}:${new URL(edge.base).port}`;

/** Joins, waits, and records a window; returns the figures. `meet` brings the callers together, A last, and may give who observes the server. */
async function run(scenario, others, meet) {
  const seconds = isShort ? SHORT_SECONDS : (scenario.seconds ?? SECONDS);
  const content = process.env.CONTENT ?? scenario.content;
  link.tell('both rate=none queue=300ms delay=0ms jitter=0ms loss=0% reorder=0%');
  const callers = [];
  let observer;
  try {
    for (const name of others) callers.push(await Caller.open(near, baseAt('127.0.0.1'), name));
    link.tell(...scenario.join);
    const a = await Caller.open(far, baseAt(HERE), 'A');
    callers.push(a);
    observer = await meet(a, callers.slice(0, -1), content);
    await a.receives(others, FIRST_FRAMES_MS);
    if (scenario.pinned) await a.pin(scenario.pinned);
    await sleep(1000 * (isShort ? 0 : (scenario.settle ?? 0)));
    const began = Date.now();
    if (scenario.watchesOthers) await sleep(1000 * (isShort ? 2 : BEFORE_SECONDS));
    const begin = Date.now();
    link.tell('mark', ...(scenario.begin ?? []), ...(scenario.script ?? []));
    await sleep(1000 * seconds);
    const report = await link.report();
    const window = [begin, begin + 1000 * seconds];
    await sleep(300);

    const recorded = Object.fromEntries(await Promise.all(callers.map(async (caller) => [caller.name, await caller.recorded()])));
    const pairs = (to, names, times) => names.map((name) => ({ ...received(recorded[to], name, times), to }));
    const between = (times) => others.flatMap((to) => pairs(to, others.filter((name) => name !== to), times));
    return {
      seconds,
      link: report,
      load: loadavg()[0],
      senders: Object.fromEntries(callers.map(({ name }) => [name, sent(recorded[name], window)])),
      seen: pairs('A', others, window),
      seenOfA: others.flatMap((to) => pairs(to, ['A'], window)),
      before: scenario.watchesOthers ? between([began, begin]) : [],
      between: scenario.watchesOthers ? between(window) : [],
      interruptions: interruptions(recorded.A, window),
      path: observer?.in(window),
    };
  } finally {
    observer?.stop();
    await Promise.all(callers.map((caller) => caller.close()));
  }
}

/** A room of the edge. */
function inRoom(scenario) {
  const others = ['B', 'C', 'D', 'E', 'F', 'G', 'H'].slice(0, (scenario.people ?? 3) - 1);
  return run(scenario, others, async (a, callers, content) => {
    for (const caller of [...callers, a]) await caller.join(edge, scenario.name, content);
    const token = await edge.token('--room', scenario.name, '--name', 'observer', '--admin');
    return new Observer(baseAt('127.0.0.1'), scenario.name, 'A', token);
  });
}

/** Two browsers without a server. */
function directly(scenario) {
  return run({ ...scenario, watchesOthers: false }, ['B'], async (a, [b], content) => Caller.connect(a, b, content));
}

/** The link carried a call: without that there are no figures. */
function assertCarried({ senders, link: { down, up } }) {
  for (const [name, { fps }] of Object.entries(senders)) assert.ok(fps > 1, `${name} sends ${fps} fps`);
  assert.ok(down.delivered > 100 && up.delivered > 100, `${down.delivered} and ${up.delivered} packets came through the link`);
}

/** What the short form asserts: everybody is seen and heard, however badly. */
function assertMeasured({ seen, seenOfA }) {
  for (const { to, name, fps, kbps, audible } of [...seen, ...seenOfA]) {
    assert.ok(fps > 0.1 && kbps > 5 && audible < 0.9, `${to} receives ${name}: ${fps} fps, ${kbps} kb/s, ${audible} concealed`);
  }
}

for (const name of wanted) {
  const scenario = SCENARIOS.find((one) => one.name === name);
  test(`${name}: ${scenario.text}`, { timeout: 300_000, skip }, async () => {
    const ours = await inRoom(scenario);
    ours.scenario = scenario;
    const rows = scenario.rows(ours);
    const direct = scenario.isOurs || isShort || process.env.DIRECT === 'no' ? undefined : await directly(scenario);
    results.push({ scenario, rows, ours: { ...ours, scenario: undefined }, direct });
    console.log(`\n${name}: ${scenario.text}; load ${ours.load.toFixed(1)}\n`);
    console.log(figures('uprtc', ours));
    if (direct) console.log(`\n${figures('two browsers directly', direct)}`);
    console.log(`\n${verdicts(rows)}\n`);
    assertCarried(ours);
    if (!isShort) return;
    assert.deepEqual(ours.interruptions, [], 'A stays connected');
    assertMeasured(ours);
    if (name === 'loss-10-both') assert.ok(ours.link.down.lost > 0 && ours.link.up.lost > 0);
  });
}

after(async () => {
  if (results.length === 0 || isShort) return;
  console.log(`${summary(results)}\n`);
  const folder = new URL('../out/', import.meta.url);
  await mkdir(folder, { recursive: true });
  await writeFile(new URL('weak.json', folder), JSON.stringify({ date: new Date().toISOString(), results }, undefined, 1));
});
