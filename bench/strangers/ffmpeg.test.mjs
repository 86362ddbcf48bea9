// ffmpeg's WHIP muxer publishes H.264 and Opus to a Chromium that decodes both. It is a DTLS server (setup:passive), names
// no MID and has no header extensions. It cannot play: it has no WHEP.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, test } from 'node:test';

import { Peer, launch, toneOf } from '../e2e/browser.mjs';
import { Edge, until } from '../e2e/edge.mjs';
import { EDGE_OPTIONS, Stranger, ffmpeg, python, script } from './stranger.mjs';

const ROOM = 'ffmpeg';
const NUMBER = 7;
let edge;
let browser;
let chromium;
let pictures;

before(async () => {
  edge = await Edge.start(...EDGE_OPTIONS);
  browser = await launch();
  chromium = await Peer.join(browser, await edge.url(ROOM, 'Chromium'), 1);
});

after(async () => {
  pictures?.kill();
  await Stranger.stopAll();
  await browser?.close();
  if (process.env.UPRTC_E2E_LOG) console.log(edge?.log);
  await edge?.stop();
});

function command(url, token) {
  return [
    ffmpeg(), '-hide_banner', '-loglevel', 'warning', '-nostats',
    '-re', '-f', 'rawvideo', '-pixel_format', 'yuv420p', '-video_size', '320x180', '-framerate', 15, '-i', 'pipe:0',
    '-f', 'lavfi', '-i', `sine=frequency=${toneOf(NUMBER)}:sample_rate=48000`,
    // It does not act on keyframe requests, so keyframes come by themselves.
    '-c:v', 'libx264', '-profile:v', 'baseline', '-pix_fmt', 'yuv420p', '-tune', 'zerolatency', '-preset', 'veryfast', '-g', 15,
    '-c:a', 'libopus', '-ar', 48000, '-ac', 2, '-b:a', '64k',
    '-f', 'whip', '-authorization', token, url,
  ];
}

test('it publishes H.264 and Opus by WHIP', { timeout: 60_000 }, async () => {
  const token = await edge.token('--room', ROOM, '--name', 'ffmpeg', '--publish');
  const muxer = new Stranger(command(`${edge.base}/whip/${ROOM}`, token));
  pictures = spawn(python, [script('media.py'), String(NUMBER)], { stdio: ['ignore', 'pipe', 'inherit'] });
  pictures.stdout.pipe(muxer.process.stdin);
  await until('Chromium sees it', () => muxer.check() && chromium.sees([NUMBER]), 30_000);
  await until('Chromium hears it', () => muxer.check() && chromium.hears([NUMBER]), 20_000);
  const { inbound } = await chromium.stats();
  assert.ok(inbound.some((s) => s.codec === 'video/H264' && s.framesDecoded > 0), JSON.stringify(inbound));
  // Interrupted, it deletes its resource and exits with 255.
  assert.deepEqual(await muxer.leave({ signal: 'SIGINT' }), { code: 255, signal: null }, muxer.log);
  await until('Chromium sees nobody', () => chromium.sees([]), 5_000);
});
