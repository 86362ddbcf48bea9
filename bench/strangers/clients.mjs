// How each client is started: with the address and the token of a door, as the scene gives them.

import { execFileSync, spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { toneOf } from '../e2e/browser.mjs';
import { Stranger } from './stranger.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const script = (name) => path.join(here, name);
/** The Python that has the packages of requirements.txt. */
const python = script('.venv/bin/python');
/** The Python that has GStreamer: the distribution's own. */
const systemPython = '/usr/bin/python3';

/** aiortc, publishing a video of this MIME type by WHIP. */
export const aiortcPublisher = (door, number, mime) => new Stranger([python, script('aiortc_peer.py'), 'publish', ...door, number, mime]);

/** aiortc, playing by WHEP: so many pairs of audio and video. */
export const aiortcPlayer = (door, pairs = 1) => new Stranger([python, script('aiortc_peer.py'), 'play', ...door, pairs]);

/** GStreamer, publishing by WHIP. */
export const gstreamerPublisher = (door, number) => new Stranger([systemPython, script('gstreamer_peer.py'), 'publish', ...door, number]);

/** GStreamer, publishing by WHIP, with an offer that it makes before it has encoded anything. */
export const gstreamerEarlyPublisher = (door, number) =>
  new Stranger([systemPython, script('gstreamer_peer.py'), 'publish-early', ...door, number]);

/** GStreamer, publishing by WHIP, with the parameter sets of its H.264 in the offer alone. */
export const gstreamerToldPublisher = (door, number) =>
  new Stranger([systemPython, script('gstreamer_peer.py'), 'publish-told', ...door, number]);

/** GStreamer, playing by WHEP. */
export const gstreamerPlayer = (door) => new Stranger([systemPython, script('gstreamer_peer.py'), 'play', ...door]);

/** werift on the signalling socket. */
export const weriftMember = (url, number) => new Stranger([process.execPath, script('werift_peer.mjs'), python, url, number]);

/** An old libwebrtc on the signalling socket, by a command that runs it where it is to run. */
export const libwebrtcMember = (run, url, number) => new Stranger([...run, process.execPath, script('wrtc_peer.mjs'), url, number]);

/** The same with simulcast by `ssrc-group:SIM`. */
export const libwebrtcSimulcaster = (url, number) => new Stranger([process.execPath, script('wrtc_peer.mjs'), url, number, 'simulcast']);

/** The ffmpeg of the Python package imageio-ffmpeg, as distributions' own have no WHIP yet. */
export const ffmpegProgram = () =>
  execFileSync(python, ['-c', 'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())'], { encoding: 'utf8' }).trim();

const ffmpegInputs = (number) => [
  '-f', 'rawvideo', '-pixel_format', 'yuv420p', '-video_size', '320x180', '-framerate', 15, '-i', 'pipe:0',
  '-f', 'lavfi', '-i', `sine=frequency=${toneOf(number)}:sample_rate=48000`,
];

/** Feeds it the pictures of a sender. */
function feed(ffmpeg, number) {
  const pictures = spawn(python, [script('media.py'), String(number)], { stdio: ['ignore', 'pipe', 'inherit'] });
  pictures.stdout.pipe(ffmpeg.process.stdin);
  void ffmpeg.ended.then(() => pictures.kill());
  return ffmpeg;
}

/** ffmpeg's WHIP muxer. */
export function ffmpegPublisher([url, token], number) {
  const muxer = new Stranger([
    ffmpegProgram(), '-hide_banner', '-loglevel', 'warning', '-nostats', '-re', ...ffmpegInputs(number),
    // It does not act on keyframe requests, so keyframes come by themselves.
    '-c:v', 'libx264', '-profile:v', 'baseline', '-pix_fmt', 'yuv420p', '-tune', 'zerolatency', '-preset', 'veryfast', '-g', 15,
    '-c:a', 'libopus', '-ar', 48000, '-ac', 2, '-b:a', '64k',
    '-f', 'whip', '-authorization', token, url,
  ]);
  return feed(muxer, number);
}

/** A file of so many seconds of a sender, as a camera would make it. */
export async function ffmpegRecords(file, number, seconds) {
  const words = ['-hide_banner', '-loglevel', 'error', '-nostats', ...ffmpegInputs(number), '-t', seconds];
  const recorder = feed(new Stranger([ffmpegProgram(), ...words, '-c:v', 'libx264', '-preset', 'veryfast', '-c:a', 'aac', file]), number);
  const { code } = await recorder.ended;
  if (code !== 0) throw new Error(`ffmpeg ended with ${code}:\n${recorder.log}`);
}

/** How ffmpeg leaves: interrupted, it deletes its resource and exits with 255. */
export const ffmpegLeaves = { signal: 'SIGINT', code: 255 };
