// ffmpeg's WHIP muxer publishes H.264 and Opus to a Chromium that decodes both. It is a DTLS server (setup:passive) and has
// no header extensions. It cannot play: it has no WHEP.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, test } from 'node:test';

import { toneOf } from '../e2e/browser.mjs';
import { Scene, Stranger, ffmpeg, python, script } from './stranger.mjs';

const NUMBER = 7;
const scene = new Scene('ffmpeg');
let pictures;

after(() => pictures?.kill());

function command([url, token]) {
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

test('ffmpeg publishes H.264 and Opus by WHIP', { timeout: 90_000 }, async () => {
  const muxer = new Stranger(command(await scene.whip('ffmpeg')));
  pictures = spawn(python, [script('media.py'), String(NUMBER)], { stdio: ['ignore', 'pipe', 'inherit'] });
  pictures.stdout.pipe(muxer.process.stdin);
  await scene.isMet(muxer, NUMBER);
  assert.equal(await scene.codecReceived(), 'video/H264');
  // Interrupted, it deletes its resource and exits with 255.
  await scene.seesOff(muxer, { signal: 'SIGINT', code: 255 });
});
