// A room as low-latency HLS (`uprtc live`), played by hls.js in Chromium: how far it is behind what people in the room send, that the sound of all
// is in it, and that it goes on with another picture. The delay is measured by the frame counter in the picture.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { before, test } from 'node:test';

import { BARS, Peer, instrument, launch, toneOf } from './browser.mjs';
import { Edge, executable, sleep, until } from './edge.mjs';
import { atTheEnd } from './opened.mjs';

/** What is promised (docs/SPECIFICATION.md), milliseconds. */
const BEHIND_MAX = 4000;

let edge;
let browser;

before(async () => {
  edge = await Edge.start();
  browser = await launch();
});

/** Starts `uprtc live` for a room. Returns the address of its playlist. */
async function goLive(room, ...options) {
  const child = spawn(executable, ['live', '--state', edge.state, '--listen', '127.0.0.1:0', ...options, room], { stdio: ['ignore', 'pipe', 'pipe'] });
  let printed = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (printed += text));
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const stop = async () => {
    child.kill('SIGTERM');
    return ended;
  };
  atTheEnd(stop);
  const url = await until('it prints where it is', () => printed.match(/^http:.*index\.m3u8$/m)?.[0] ?? Promise.reject(new Error(printed)));
  return { url, stop };
}

/** A page with hls.js, as it comes, that plays this. */
async function play(url) {
  const context = await browser.newContext();
  await context.addInitScript(instrument, { number: 0, tone: toneOf(0), bars: BARS });
  const page = await context.newPage();
  // Any page of a secure origin (a fetch from about:blank is refused).
  await page.goto(new URL('/readyz', edge.base).href);
  await page.addScriptTag({ path: createRequire(import.meta.url).resolve('hls.js') });
  await page.evaluate((url) => {
    const video = document.body.appendChild(document.createElement('video'));
    video.controls = true;
    // It begins where it has loaded enough, and catches up from there, as docs/LIVE.md says.
    const hls = new window.Hls({ enableWorker: false, lowLatencyMode: true, maxLiveSyncPlaybackRate: 1.5 });
    window.played = { video, hls, errors: [], waits: 0 };
    hls.on(window.Hls.Events.ERROR, (_, { type, details, fatal }) => window.played.errors.push(`${type} ${details} ${fatal}`));
    hls.loadSource(url);
    hls.attachMedia(video);
    void video.play();
  }, url);
  return page;
}

/** The sender and the counter that a page's first video shows, and when. */
const read = (page) =>
  page.evaluate(() => {
    const video = document.querySelector('video');
    const read = video && window.e2e.read(video);
    return read ? { ...read, at: Date.now() } : undefined;
  });

/** Notes when a peer's own preview shows which counter. */
const watch = (peer) =>
  peer.page.evaluate((own) => {
    window.shown = new Map();
    setInterval(() => {
      for (const video of document.querySelectorAll('video')) {
        const read = window.e2e.read(video);
        if (read?.sender === own && !window.shown.has(read.count)) window.shown.set(read.count, Date.now());
      }
    }, 20);
  }, peer.number);

/** Which of these tones are in what the player plays. */
const hears = (page, tones) =>
  page.evaluate(async (tones) => {
    const { video } = window.played;
    if (!window.played.analyser) {
      const context = new AudioContext();
      window.played.analyser = new AnalyserNode(context, { fftSize: 8192 });
      context.createMediaElementSource(video).connect(window.played.analyser);
    }
    const { analyser } = window.played;
    await new Promise((resolve) => setTimeout(resolve, 500));
    const bins = new Float32Array(analyser.frequencyBinCount);
    analyser.getFloatFrequencyData(bins);
    const level = (hertz) => bins[Math.round((hertz * analyser.fftSize) / analyser.context.sampleRate)];
    return tones.map(level);
  }, tones);

test('a room is played by hls.js less than four seconds behind, with the sound of all, and goes on with another picture', async () => {
  const ada = await Peer.join(browser, await edge.url('stage', 'Ada'), 1);
  const bob = await Peer.join(browser, await edge.url('stage', 'Bob'), 2);
  await until('they see each other', async () => (await ada.sees([2])) && (await bob.sees([1])));
  await watch(ada);
  const { url, stop } = await goLive('stage');
  const page = await play(url);
  await until('the picture of who came first', async () => (await read(page))?.sender === 1, 30_000);
  await until('it has caught up', () => page.evaluate(() => window.played.hls.latency < window.played.hls.targetLatency + 0.5), 30_000);

  const behind = [];
  for (let sample = 0; sample < 40; sample += 1) {
    const seen = await read(page);
    const sent = seen && (await ada.page.evaluate((count) => window.shown.get(count), seen.count));
    if (sent) behind.push(seen.at - sent);
    await sleep(200);
  }
  behind.sort((a, b) => a - b);
  const state = await page.evaluate(() => ({ latency: window.played.hls.latency, errors: window.played.errors, rate: window.played.video.playbackRate }));
  console.log(`behind the publisher: median ${behind[behind.length >> 1]} ms, most ${behind.at(-1)} ms of ${behind.length} looks; hls.js says ${state.latency.toFixed(2)} s`);
  assert.ok(behind.length >= 20, `it is seen: ${behind}`);
  assert.ok(behind.at(-1) <= BEHIND_MAX, `${behind}`);
  assert.deepEqual(state.errors.filter((error) => error.endsWith('true')), [], 'no fatal error');

  // Both tones, and nothing between them.
  const [of1, of2, between] = await hears(page, [toneOf(1), toneOf(2), (toneOf(1) + toneOf(2)) / 2]);
  assert.ok(of1 > -60 && of2 > -60 && between < Math.min(of1, of2) - 15, `${of1} ${of2} ${between} dB`);

  // Who is shown leaves: another picture, after a discontinuity.
  await ada.close();
  await until('the picture of the other one', async () => (await read(page))?.sender === 2, 30_000);
  assert.match(await (await fetch(url)).text(), /#EXT-X-DISCONTINUITY\n/);
  const fatal = await page.evaluate(() => window.played.errors.filter((error) => error.endsWith('true')));
  assert.deepEqual(fatal, []);
  assert.equal(await stop(), 0);
  await bob.close();
});
