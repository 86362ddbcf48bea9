// libwebrtc M106 (@roamhq/wrtc) as a member of a room on the signalling socket: sends its bars and its tone, and
// decodes two slots of each kind. It has no H.264.
//
// usage: wrtc_peer.mjs SOCKET_URL NUMBER [simulcast]
//
// With `simulcast` its video has twice the size, and the offer is edited as pages did before rids: it gets a second, larger
// encoding in `ssrc-group:SIM`. Reports its state, its sending address, its bandwidth estimate and what it decodes, twice a second;
// leaves when its input is closed.

import wrtc from '@roamhq/wrtc';

import { FPS, HEIGHT, RATE, WIDTH, paint, read, sound, tonesIn } from './media.mjs';
import { join, serve } from './room.mjs';

const { RTCAudioSink, RTCAudioSource, RTCVideoSink, RTCVideoSource } = wrtc.nonstandard;
const [url, numberText, simulcast] = process.argv.slice(2);
const scale = simulcast ? 2 : 1;
const number = Number(numberText);

const pc = new wrtc.RTCPeerConnection({ bundlePolicy: 'max-bundle' });
const pictures = {};
const tones = new Map();

/** Calls `push` with a counter at a constant rate; late timers are caught up. */
function pace(perSecond, push) {
  const began = performance.now();
  let count = 0;
  setInterval(() => {
    for (const due = ((performance.now() - began) * perSecond) / 1000; count < due; count += 1) push(count);
  }, 1000 / perSecond);
}

function send() {
  const [video, audio] = [new RTCVideoSource(), new RTCAudioSource()];
  pc.addTransceiver(audio.createTrack(), { direction: 'sendonly' });
  pc.addTransceiver(video.createTrack(), { direction: 'sendonly' });
  pace(FPS, (count) => video.onFrame({ width: WIDTH * scale, height: HEIGHT * scale, data: enlarge(paint(number, count)) }));
  const samples = RATE / 100;
  pace(100, (count) => audio.onData({
    samples: sound(number, count * samples, samples), sampleRate: RATE, bitsPerSample: 16, channelCount: 1, numberOfFrames: samples,
  }));
}

/** Scales an I420 frame to the size that is sent. */
function enlarge(data) {
  if (scale === 1) return data;
  const large = new Uint8ClampedArray(data.length * scale * scale).fill(128);
  for (let y = 0; y < HEIGHT * scale; y += 1) {
    for (let x = 0; x < WIDTH * scale; x += 1) {
      large[y * WIDTH * scale + x] = data[Math.floor(y / scale) * WIDTH + Math.floor(x / scale)];
    }
  }
  return large;
}

/** The offer with a second encoding of its video. */
function withSimulcast(sdp) {
  const lines = sdp.split('\r\n');
  const at = lines.findIndex((line) => line.startsWith('a=ssrc-group:FID'));
  const [first, repair] = lines[at].split(' ').slice(1);
  const [second, secondRepair] = [first, repair].map((ssrc) => String((Number(ssrc) ^ 0x5555) >>> 0));
  const attributes = lines.filter((line) => line.startsWith(`a=ssrc:${first} `));
  const ofOthers = [second, secondRepair].flatMap((ssrc) => attributes.map((line) => line.replace(first, ssrc)));
  lines.splice(at, 1, `a=ssrc-group:SIM ${first} ${second}`, lines[at], `a=ssrc-group:FID ${second} ${secondRepair}`);
  lines.splice(at + 3, 0, ...ofOthers);
  return lines.join('\r\n');
}

function receive() {
  for (const kind of ['audio', 'audio', 'video', 'video']) pc.addTransceiver(kind, { direction: 'recvonly' });
  pc.ontrack = ({ track }) => (track.kind === 'video' ? watch(track) : listen(track));
}

function watch(track) {
  new RTCVideoSink(track).onframe = ({ frame }) => {
    const found = read(frame);
    if (found) pictures[found.sender] = found.count;
  };
}

function listen(track) {
  let heard = [];
  new RTCAudioSink(track).ondata = ({ samples, sampleRate, channelCount }) => {
    heard.push(...samples.filter((_, i) => i % channelCount === 0));
    if (heard.length < sampleRate / 2) return;
    tones.set(track.id, tonesIn(heard.slice(0, sampleRate / 5), sampleRate));
    heard = [];
  };
}

/** The local address of the selected candidate pair. */
async function localAddress() {
  const all = new Map([...(await pc.getStats()).values()].map((s) => [s.id, s]));
  const transport = [...all.values()].find((s) => s.type === 'transport');
  const pair = all.get(transport?.selectedCandidatePairId);
  const sent = [...all.values()].filter((s) => s.type === 'outbound-rtp' && s.kind === 'video');
  return {
    address: all.get(pair?.localCandidateId)?.ip,
    changes: transport?.selectedCandidatePairChanges,
    estimate: pair?.availableOutgoingBitrate,
    encodings: sent.map(({ ssrc, frameWidth, framesEncoded }) => ({ ssrc, frameWidth, framesEncoded })),
  };
}

async function offer() {
  send();
  receive();
  const { type, sdp } = await pc.createOffer();
  await pc.setLocalDescription({ type, sdp: simulcast ? withSimulcast(sdp) : sdp });
  return pc.localDescription.sdp;
}

const signal = join(url, offer, (sdp) => pc.setRemoteDescription({ type: 'answer', sdp }));
pc.onicecandidate = ({ candidate: found }) => {
  const { candidate = '', sdpMid, sdpMLineIndex } = found ?? {};
  signal({ type: 'candidate', candidate, sdpMid, sdpMLineIndex });
};
serve(
  async () => ({ state: pc.connectionState, ...(await localAddress()), pictures, tones: [...new Set([...tones.values()].flat())] }),
  () => pc.close(), // sends a DTLS close_notify
);
