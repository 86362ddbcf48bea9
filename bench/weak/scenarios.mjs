// The cases by name, and what must be true of each. Targets are figures to reach, not what holds today.

import { backAfter, belowAfter, drainedAfter, highest, used } from './figures.mjs';

/** Longest freeze that nobody minds, ms. */
const FREEZE_MS = 500;
const QUEUE_MS = 100;
/** What a client sends and receives in all by default, bit/s. */
const BUDGET_BPS = 2_000_000;

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const after = (seconds) => (Number.isFinite(seconds) ? `${seconds.toFixed(1)} s` : 'never');
const least = (values) => Math.min(...values);
const most = (values) => Math.max(...values);

const row = (what, value, target, passed) => ({ what, value, target, passed });

// Rows that several cases have.

const longest = (videos, whose) =>
  row(`longest time without a frame, ${whose}`, `${Math.round(most(videos.map((v) => v.longest)))} ms`, `≤ ${FREEZE_MS} ms`, most(videos.map((v) => v.longest)) <= FREEZE_MS);

const concealment = (streams, max, whose) =>
  row(`concealed audio, ${whose}`, percent(most(streams.map((s) => s.concealed))), `≤ ${percent(max)}`, most(streams.map((s) => s.concealed)) <= max);

function frameRate(streams, senders, share, whose) {
  const shares = streams.map(({ name, fps }) => fps / senders[name].fps);
  return row(`frames decoded of those sent, ${whose}`, percent(least(shares)), `≥ ${percent(share)}`, least(shares) >= share);
}

const queue = ({ queueing_ms_p95: p95 }) => row('queueing delay, p95', `${p95.toFixed(0)} ms`, `≤ ${QUEUE_MS} ms`, p95 <= QUEUE_MS);

function utilisation(direction, capacity, from, to) {
  const share = used(direction, capacity, from, to);
  return row(`used of the capacity after ${from} s`, percent(share), '≥ 85.0 %', share >= 0.85);
}

const stayed = ({ interruptions }) => row('no disconnect', interruptions.length > 0 ? interruptions.join(', ') : 'none', 'none', interruptions.length === 0);

/** What A receives is good, and what the others receive of A. */
function lossy({ share, concealed }) {
  return (run) => [
    ...['down', 'both'].includes(run.scenario.way) ? [
      frameRate(run.seen, run.senders, share, 'A'),
      longest(run.seen, 'A'),
      concealment(run.seen, concealed, 'A'),
    ] : [],
    ...['up', 'both'].includes(run.scenario.way) ? [
      frameRate(run.seenOfA, run.senders, share, 'the others of A'),
      longest(run.seenOfA, 'the others of A'),
      concealment(run.seenOfA, concealed, 'the others of A'),
    ] : [],
    stayed(run),
  ];
}

/** The others' streams of each other are as they were before. */
function unchanged(run) {
  return [
    ...run.between.flatMap((now) => {
      const before = run.before.find(({ to, name }) => to === now.to && name === now.name);
      const who = `${now.to} of ${now.name}`;
      return [
        row(`frames per second, ${who}`, `${before.fps.toFixed(1)} → ${now.fps.toFixed(1)}`, '≥ 95 %', now.fps >= 0.95 * before.fps),
        row(`bit rate, ${who}`, `${Math.round(before.kbps)} → ${Math.round(now.kbps)} kb/s`, '≥ 90 %', now.kbps >= 0.9 * before.kbps),
        row(`size, ${who}`, `${before.size} → ${now.size}`, 'the same', before.size === now.size && now.sizes.length === 1),
      ];
    }),
    longest(run.between, 'the others'),
    stayed(run),
  ];
}

function budget(run) {
  const { down, up } = run.link;
  const total = highest([down, up], 5, run.seconds);
  const mean = used(down, BUDGET_BPS, 0, run.seconds) + used(up, BUDGET_BPS, 0, run.seconds);
  return [
    row('most on the wire over 5 s, up and down', `${(total / 1e6).toFixed(2)} Mb/s`, '≤ 2.00 Mb/s', total <= BUDGET_BPS),
    row('used of 2 Mb/s', percent(mean), '≥ 85.0 %', mean >= 0.85),
    longest(run.seen, 'A'),
    stayed(run),
  ];
}

const RTT_50 = 'both delay=25ms';
const RTT_100 = 'both delay=50ms';

/**
 * - `join`: the link when A joins; `begin`: changes when the window begins; `script`: changes in the window
 * - `way`: which direction suffers
 * - `pinned`: whose video A pins
 * - `content`: `camera` is Chromium's fake device (165 kb/s in H.264); `grain` uses what it is given, up to 1 Mb/s and more
 */
const loss = (name, text, way, setting, targets) => ({
  name, text, way, content: 'camera', join: [RTT_100], begin: [`${way} ${setting}`], rows: lossy(targets),
});

export const SCENARIOS = [
  {
    name: 'down-1M', text: '1 Mb/s down, RTT 50 ms, queue 300 ms', way: 'down', content: 'grain',
    join: [RTT_50, 'down rate=1M queue=300ms'],
    rows: (run) => [utilisation(run.link.down, 1e6, 10, run.seconds), queue(run.link.down), longest(run.seen, 'A'), stayed(run)],
  },
  {
    name: 'down-500k', text: '500 kb/s down, RTT 50 ms, queue 300 ms', way: 'down', content: 'grain',
    join: [RTT_50, 'down rate=500k queue=300ms'],
    rows: (run) => [
      row('frames per second, each video', run.seen.map(({ fps }) => fps.toFixed(1)).join(', '), '≥ 15', least(run.seen.map(({ fps }) => fps)) >= 15),
      longest(run.seen, 'A'),
      concealment(run.seen, 0.005, 'A'),
      utilisation(run.link.down, 5e5, 10, run.seconds),
      queue(run.link.down),
      stayed(run),
    ],
  },
  {
    name: 'drop', text: '2.5, after 10 s 0.5, after 25 s 2.5 Mb/s down, RTT 50 ms, queue 300 ms', way: 'down', content: 'grain',
    join: [RTT_50, 'down rate=2.5M queue=300ms'], seconds: 40,
    script: ['at 10 down rate=500k', 'at 25 down rate=2.5M'],
    rows: (run) => {
      const { down } = run.link;
      const old = used(down, 1, 4, 10);
      const [below, drained, back] = [belowAfter(down, 5e5, 10, 25), drainedAfter(down, 50, 10, 25), backAfter(down, 0.8 * old, 25, run.seconds)];
      const frozen = run.seen.reduce((sum, video) => sum + video.frozen, 0);
      return [
        row('offers less than the capacity after', after(below), '≤ 1 s', below <= 1),
        row('queue below 50 ms after', after(drained), '≤ 2 s', drained <= 2),
        row('frozen in all', `${frozen.toFixed(1)} s`, '≤ 1 s', frozen <= 1),
        row('80 % of the old rate after', after(back), '≤ 10 s', back <= 10),
        stayed(run),
      ];
    },
  },
  loss('loss-10-down', '10 % random loss down, RTT 100 ms', 'down', 'loss=10%', { share: 0.9, concealed: 0.01 }),
  loss('loss-10-up', '10 % random loss up, RTT 100 ms', 'up', 'loss=10%', { share: 0.9, concealed: 0.01 }),
  loss('loss-10-both', '10 % random loss both ways, RTT 100 ms', 'both', 'loss=10%', { share: 0.9, concealed: 0.01 }),
  {
    ...loss('loss-30', '30 % random loss both ways, RTT 100 ms', 'both', 'loss=30%', {}),
    rows: (run) => [
      row('frames per second, each video', run.seen.map(({ fps }) => fps.toFixed(1)).join(', '), '≥ 10', least(run.seen.map(({ fps }) => fps)) >= 10),
      row('frames per second, the others of A', run.seenOfA.map(({ fps }) => fps.toFixed(1)).join(', '), '≥ 10', least(run.seenOfA.map(({ fps }) => fps)) >= 10),
      concealment(run.seen, 0.05, 'A'),
      concealment(run.seenOfA, 0.05, 'the others of A'),
      stayed(run),
    ],
  },
  {
    ...loss('bursts', '2 % loss in bursts of 10 both ways, RTT 100 ms', 'both', 'loss=2%x10', {}),
    rows: (run) => [
      longest(run.seen, 'A'),
      longest(run.seenOfA, 'the others of A'),
      concealment(run.seen, 0.02, 'A'),
      concealment(run.seenOfA, 0.02, 'the others of A'),
      stayed(run),
    ],
  },
  {
    name: 'weak-down', text: "A's link falls to 150 kb/s down", way: 'down', content: 'grain', watchesOthers: true,
    join: [RTT_50], begin: ['down rate=150k queue=300ms'], rows: unchanged,
  },
  {
    name: 'weak-up', text: "A's link falls to 150 kb/s up", way: 'up', content: 'grain', watchesOthers: true,
    join: [RTT_50], begin: ['up rate=150k queue=300ms'], rows: unchanged,
  },
  {
    name: 'pinned', text: 'A pins B, 1 Mb/s down, RTT 50 ms, queue 300 ms', way: 'down', content: 'grain', pinned: 'B', settle: 10, isOurs: true,
    join: [RTT_50, 'down rate=1M queue=300ms'],
    rows: (run) => {
      const [b, c] = ['B', 'C'].map((name) => run.seen.find((video) => video.name === name));
      return [
        row('sizes of B, which is pinned', b.sizes.join(', '), 'the large one alone', b.sizes.length === 1 && b.size === run.senders.B.size),
        row('sizes of C', c.sizes.join(', '), 'any', true),
        frameRate([b], run.senders, 0.9, 'A of B'),
        longest([b], 'A of B'),
        stayed(run),
      ];
    },
  },
  { name: 'budget-2', text: 'a room of 2 on good links', way: 'both', people: 2, content: 'grain', join: [RTT_50], settle: 10, rows: budget },
  { name: 'budget-4', text: 'a room of 4 on good links', way: 'both', people: 4, content: 'grain', join: [RTT_50], settle: 10, isOurs: true, rows: budget },
  // Eight browsers are more than most machines encode and decode: only by name.
  { name: 'budget-8', text: 'a room of 8 on good links', way: 'both', people: 8, content: 'grain', join: [RTT_50], settle: 15, isOurs: true, isByName: true, rows: budget },
];
