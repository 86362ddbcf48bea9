// ffmpeg's WHIP muxer publishes H.264 and Opus to a Chromium that decodes both. It is a DTLS server (setup:passive) and has
// no header extensions. It cannot play: it has no WHEP.

import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

import { Peer } from '../e2e/browser.mjs';
import { blocksOf, commandsOf, shell } from '../e2e/commands.mjs';
import { until } from '../e2e/edge.mjs';
import { atTheEnd } from '../e2e/opened.mjs';
import { ffmpegLeaves, ffmpegPublisher, ffmpegRecords, ffmpegProgram } from './clients.mjs';
import { Scene } from './scene.mjs';

const NUMBER = 7;
const scene = new Scene('ffmpeg');

test('ffmpeg publishes H.264 and Opus by WHIP', { timeout: 90_000 }, async () => {
  const muxer = ffmpegPublisher(await scene.whip('ffmpeg'), NUMBER);
  await scene.chromiumReceives(muxer, NUMBER);
  assert.equal(await scene.codecReceived(), 'video/H264');
  await scene.leaves(muxer, ffmpegLeaves);
});

// What an edge answers that is busy (docs/OPERATING.md, "Cluster"): the other edge is at another host, and needs the token again.
test('ffmpeg follows a redirect to another edge, and sends its token there', { timeout: 90_000 }, async () => {
  const [url, token] = await scene.whip('ffmpeg');
  const busy = createServer((request, response) => {
    request.resume().on('end', () => response.writeHead(307, { location: `${url}?redirected=1` }).end());
  });
  await new Promise((resolve) => busy.listen(0, '127.0.0.1', resolve));
  atTheEnd(() => busy.close());
  const muxer = ffmpegPublisher([`http://localhost:${busy.address().port}/whip/ffmpeg`, token], NUMBER);
  await scene.chromiumReceives(muxer, NUMBER);
  await scene.leaves(muxer, ffmpegLeaves);
});

test('the ffmpeg command of the guide publishes a file', { timeout: 120_000 }, async () => {
  const commands = (await blocksOf('docs/GUIDE.md')).map(commandsOf).find(([, second]) => second?.startsWith('ffmpeg '));
  const folder = await mkdtemp(path.join(tmpdir(), 'uprtc-guide-'));
  atTheEnd(() => rm(folder, { recursive: true, force: true }));
  await ffmpegRecords(path.join(folder, 'talk.mp4'), NUMBER, 20);
  const viewer = await Peer.join(scene.browser, await scene.edge.url('standup', 'Viewer'), 2);
  const functions = [`ffmpeg() { exec "${ffmpegProgram()}" -hide_banner -nostats -loglevel warning "$@"; }`];
  const running = shell(scene.edge, commands, { cwd: folder, functions, stdio: ['ignore', 'ignore', 'inherit'] });
  atTheEnd(() => running.kill('SIGKILL'));
  await until('Chromium sees what the file shows', () => viewer.sees([NUMBER]), 30_000);
  await until('Chromium hears it', () => viewer.hears([NUMBER]), 10_000);
  running.kill('SIGINT');
  await until('ffmpeg has left the room', () => viewer.sees([]), 20_000);
  await viewer.close();
});
