// @ts-check
/** Plots of the last two minutes of a call: what is sent and received, what the estimate allows, losses, round trips, frames. */

import { make } from './elements.js';
import { rate, total } from './quality.js';

/** @import { ParticipantStats, RoomStats, VideoStats } from './sdk/uprtc.js' */

/** How far back they go. */
const SPAN_MS = 120_000;
/** Size of a plot in its own units. The style stretches it. */
const [WIDTH, HEIGHT] = [240, 72];

/**
 * What was measured at one time. A number that is not known is undefined.
 * @typedef {object} Sample
 * @property {number} at
 * @property {number} sent Bits per second.
 * @property {number} received
 * @property {number | undefined} estimate What the browser believes that it may send.
 * @property {number | undefined} lostUp Share of the packets, 0 to 1.
 * @property {number | undefined} lostDown
 * @property {number | undefined} rttMs
 * @property {VideoStats | undefined} video What is sent: the screen, or else the camera.
 */

/** The samples of the last two minutes. */
export class History {
  /** @type {Sample[]} */
  samples = [];

  /** @param {RoomStats} stats @param {number} [at] */
  add({ rttMs, availableBps, outgoing, incoming }, at = performance.now()) {
    const others = [...incoming.values()];
    this.samples.push({
      at,
      sent: total(outgoing),
      received: others.reduce((sum, stats) => sum + total(stats), 0),
      estimate: availableBps,
      lostUp: loss([outgoing]),
      lostDown: loss(others),
      rttMs,
      video: outgoing.screen?.bps ? outgoing.screen : outgoing.camera,
    });
    while ((this.samples[0]?.at ?? at) < at - SPAN_MS) this.samples.shift();
  }
}

/** The mean loss of streams that flow, each weighing as many bits as it has. @param {ParticipantStats[]} all */
function loss(all) {
  const streams = all.flatMap(({ microphone, camera, screen }) => [microphone, camera, screen]).filter((stream) => stream !== undefined);
  const bits = streams.reduce((sum, { bps }) => sum + bps, 0);
  return bits ? streams.reduce((sum, { bps, loss }) => sum + bps * loss, 0) / bits : undefined;
}

/** @typedef {{ name: string, of: (sample: Sample) => number | undefined }} Series */
/**
 * @typedef {object} Plot
 * @property {string} title
 * @property {Series[]} series Three at most: each has a stroke of its own.
 * @property {(value: number) => string} say A value in words.
 * @property {number} least The top of the plot is at least this, so that small changes look small.
 * @property {(sample: Sample) => string} [more] Said besides of the newest sample.
 */

const percent = (/** @type {number} */ share) => `${(share * 100).toFixed(1)} %`;

/** @type {Plot[]} */
const PLOTS = [
  {
    title: 'Rate',
    series: [
      { name: 'sent', of: ({ sent }) => sent },
      { name: 'received', of: ({ received }) => received },
      { name: 'estimate for sending', of: ({ estimate }) => estimate },
    ],
    say: rate,
    least: 200_000,
  },
  {
    title: 'Lost packets',
    series: [{ name: 'sent', of: ({ lostUp }) => lostUp }, { name: 'received', of: ({ lostDown }) => lostDown }],
    say: percent,
    least: 0.05,
  },
  { title: 'Round-trip time', series: [{ name: '', of: ({ rttMs }) => rttMs }], say: (ms) => `${Math.round(ms)} ms`, least: 100 },
  {
    title: 'Video sent',
    series: [{ name: '', of: ({ video }) => video?.fps }],
    say: (fps) => `${Math.round(fps)} fps`,
    least: 30,
    more: ({ video }) => (video?.bps ? `${video.width}×${video.height}, ${video.codec.replace('video/', '')}` : ''),
  },
];

/** The plots in the page. */
export class Plots {
  /** @param {HTMLElement} parent */
  constructor(parent) {
    this.#all = PLOTS.map((plot) => new Figure(plot));
    parent.replaceChildren(...this.#all.map(({ element }) => element));
  }

  #all;

  /** @param {History} history */
  show({ samples }) {
    for (const figure of this.#all) figure.show(samples);
  }
}

/** One plot: a caption with the newest values, lines, and what the axes mean. A screen reader reads the caption and the range. */
class Figure {
  /** @param {Plot} plot */
  constructor(plot) {
    this.#plot = plot;
    this.#svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    this.#svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
    this.#svg.setAttribute('preserveAspectRatio', 'none');
    this.#svg.setAttribute('role', 'img');
    this.#lines = plot.series.map((_, n) => {
      const line = document.createElementNS('http://www.w3.org/2000/svg', 'path');
      line.setAttribute('class', ['first', 'second', 'third'][n] ?? '');
      return line;
    });
    this.#svg.append(...this.#lines);
    this.#values = make('span', { className: 'muted' });
    this.#top = make('span');
    const caption = make('figcaption', {}, make('b', {}, plot.title), this.#values);
    const ends = make('div', { className: 'ends' }, make('span', {}, '2 min ago'), this.#top, make('span', {}, 'now'));
    ends.setAttribute('aria-hidden', 'true');
    this.element = make('figure', {}, caption, this.#svg, ends);
  }

  #plot;
  #svg;
  #lines;
  #values;
  #top;

  /** @param {Sample[]} samples */
  show(samples) {
    const { title, series, say, least, more } = this.#plot;
    const newest = samples.at(-1);
    const known = series.flatMap(({ of }) => samples.map(of)).filter((value) => value !== undefined);
    const top = Math.max(least, ...known);
    series.forEach(({ of }, n) => this.#lines[n]?.setAttribute('d', pathOf(samples, of, top)));
    const now = series.flatMap(({ name, of }, n) => {
      const value = newest && of(newest);
      return value === undefined ? [] : [[series.length > 1 ? STROKES[n] : '', name, say(value)].filter(Boolean).join(' ')];
    });
    const extra = newest && more?.(newest);
    this.#values.textContent = [...now, extra].filter(Boolean).join(' · ') || 'nothing yet';
    this.#top.textContent = `top: ${say(top)}`;
    const range = known.length ? `between ${say(Math.min(...known))} and ${say(Math.max(...known))}` : 'nothing yet';
    this.#svg.setAttribute('aria-label', `${title}, the last two minutes: ${range}`);
  }
}

/** How the lines of a plot look, as its caption says which is which. */
const STROKES = ['━', '╍', '┈'];

/**
 * A line through the samples that are known, from right to left in time.
 * @param {Sample[]} samples
 * @param {(sample: Sample) => number | undefined} of
 * @param {number} top
 */
function pathOf(samples, of, top) {
  const end = samples.at(-1)?.at ?? 0;
  let isBroken = true;
  const steps = samples.map((sample) => {
    const value = of(sample);
    const verb = isBroken ? 'M' : 'L';
    isBroken = value === undefined;
    if (value === undefined) return '';
    const x = WIDTH * (1 - (end - sample.at) / SPAN_MS);
    const y = HEIGHT * (1 - value / top);
    return `${verb}${x.toFixed(1)} ${y.toFixed(1)}`;
  });
  return steps.join('');
}
