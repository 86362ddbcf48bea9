// The command of each client. `door`: URL and token, from the scene.

import { execFileSync, spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { toneOf } from '../e2e/browser.mjs';
import { Client } from './scene.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const script = (name) => path.join(here, name);
/** The Python that has the packages of requirements.txt. */
const python = script('.venv/bin/python');
/** The Python that has GStreamer: the distribution's own. */
const systemPython = '/usr/bin/python3';

/** aiortc, publishing a video of this MIME type by WHIP. */
export const aiortcPublisher = (door, number, mime) => new Client([python, script('aiortc_peer.py'), 'publish', ...door, number, mime]);

/** aiortc, playing `pairs` pairs of audio and video by WHEP. `run`: a command prefix that selects the network namespace. */
export const aiortcPlayer = (door, pairs = 1, run = []) => new Client([...run, python, script('aiortc_peer.py'), 'play', ...door, pairs]);

/** GStreamer, publishing by WHIP. */
export const gstreamerPublisher = (door, number) => new Client([systemPython, script('gstreamer_peer.py'), 'publish', ...door, number]);

/** GStreamer, publishing by WHIP, with an offer that it makes before it has encoded anything. */
export const gstreamerEarlyPublisher = (door, number) =>
  new Client([systemPython, script('gstreamer_peer.py'), 'publish-early', ...door, number]);

/** GStreamer, publishing by WHIP, with the H.264 parameter sets only in the offer. */
export const gstreamerSpropPublisher = (door, number) =>
  new Client([systemPython, script('gstreamer_peer.py'), 'publish-sprop', ...door, number]);

/** GStreamer, playing by WHEP. */
export const gstreamerPlayer = (door) => new Client([systemPython, script('gstreamer_peer.py'), 'play', ...door]);

/** werift on the signalling socket. */
export const weriftMember = (url, number) => new Client([process.execPath, script('werift_peer.mjs'), python, url, number]);

/** libwebrtc M106 on the signalling socket. `run`: a command prefix that selects the network namespace. */
export const libwebrtcMember = (run, url, number) => new Client([...run, process.execPath, script('wrtc_peer.mjs'), url, number]);

/** The same with simulcast by `ssrc-group:SIM`. */
export const libwebrtcSimulcaster = (url, number) => new Client([process.execPath, script('wrtc_peer.mjs'), url, number, 'simulcast']);

/** The ffmpeg of the Python package imageio-ffmpeg: those of distributions have no WHIP yet. */
export const ffmpegProgram = () =>
  execFileSync(python, ['-c', 'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())'], { encoding: 'utf8' }).trim();

const ffmpegInputs = (number) => [
  '-f', 'rawvideo', '-pixel_format', 'yuv420p', '-video_size', '320x180', '-framerate', 15, '-i', 'pipe:0',
  '-f', 'lavfi', '-i', `sine=frequency=${toneOf(number)}:sample_rate=48000`,
];

/** Pipes the pictures of a sender into ffmpeg. */
function feed(ffmpeg, number) {
  const pictures = spawn(python, [script('media.py'), String(number)], { stdio: ['ignore', 'pipe', 'inherit'] });
  pictures.stdout.pipe(ffmpeg.process.stdin);
  void ffmpeg.ended.then(() => pictures.kill());
  return ffmpeg;
}

/** ffmpeg's WHIP muxer. */
export function ffmpegPublisher([url, token], number) {
  const muxer = new Client([
    ffmpegProgram(), '-hide_banner', '-loglevel', 'warning', '-nostats', '-re', ...ffmpegInputs(number),
    // It ignores keyframe requests, so it makes a keyframe every second.
    '-c:v', 'libx264', '-profile:v', 'baseline', '-pix_fmt', 'yuv420p', '-tune', 'zerolatency', '-preset', 'veryfast', '-g', 15,
    '-c:a', 'libopus', '-ar', 48000, '-ac', 2, '-b:a', '64k',
    '-f', 'whip', '-authorization', token, url,
  ]);
  return feed(muxer, number);
}

/** Records `seconds` of a sender's pictures and tone to a file. */
export async function ffmpegRecords(file, number, seconds) {
  const words = ['-hide_banner', '-loglevel', 'error', '-nostats', ...ffmpegInputs(number), '-t', seconds];
  const recorder = feed(new Client([ffmpegProgram(), ...words, '-c:v', 'libx264', '-preset', 'veryfast', '-c:a', 'aac', file]), number);
  const { code } = await recorder.ended;
  if (code !== 0) throw new Error(`ffmpeg ended with ${code}:\n${recorder.log}`);
}

/** How to stop ffmpeg: on SIGINT it deletes its resource and exits with 255. */
export const ffmpegLeaves = { signal: 'SIGINT', code: 255 };
