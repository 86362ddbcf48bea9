// An old libwebrtc (@roamhq/wrtc) as a member of a room over the signalling socket: sends its bars and its tone, and
// decodes what two slots of each kind bring. It has no H.264.
//
// usage: wrtc_peer.mjs SOCKET_URL NUMBER
//
// Reports its state, the address it sends from and what it decodes, twice a second; leaves when its input is closed.

import wrtc from '@roamhq/wrtc';
import WebSocket from 'ws';

import { FPS, HEIGHT, RATE, WIDTH, paint, read, sound, tonesIn } from './media.mjs';

const { RTCAudioSink, RTCAudioSource, RTCVideoSink, RTCVideoSource } = wrtc.nonstandard;
const [url, numberText] = process.argv.slice(2);
const number = Number(numberText);
const report = (facts) => process.stdout.write(`${JSON.stringify(facts)}\n`);

const pc = new wrtc.RTCPeerConnection({ bundlePolicy: 'max-bundle' });
const pictures = {};
const tones = new Map();

/** Calls `push` with a counter at a steady pace, as often as is due: timers come late. */
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
  pace(FPS, (count) => video.onFrame({ width: WIDTH, height: HEIGHT, data: paint(number, count) }));
  const samples = RATE / 100;
  pace(100, (count) => audio.onData({
    samples: sound(number, count * samples, samples), sampleRate: RATE, bitsPerSample: 16, channelCount: 1, numberOfFrames: samples,
  }));
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

/** The local address of the pair that is in use. */
async function localAddress() {
  const all = new Map([...(await pc.getStats()).values()].map((s) => [s.id, s]));
  const transport = [...all.values()].find((s) => s.type === 'transport');
  const pair = all.get(transport?.selectedCandidatePairId);
  return { address: all.get(pair?.localCandidateId)?.ip, changes: transport?.selectedCandidatePairChanges };
}

const socket = new WebSocket(url);
// The link that it goes over may be the one that goes away: media does not depend on it.
socket.on('error', (error) => console.error(String(error)));
socket.on('message', async (text) => {
  const signal = JSON.parse(text);
  switch (signal.type) {
    case 'welcome': {
      send();
      receive();
      pc.onicecandidate = ({ candidate: found }) => {
        const { candidate = '', sdpMid, sdpMLineIndex } = found ?? {};
        socket.send(JSON.stringify({ type: 'candidate', candidate, sdpMid, sdpMLineIndex }));
      };
      await pc.setLocalDescription(await pc.createOffer());
      socket.send(JSON.stringify({ type: 'offer', sdp: pc.localDescription.sdp }));
      break;
    }
    case 'answer':
      await pc.setRemoteDescription({ type: 'answer', sdp: signal.sdp });
      break;
    case 'error': // Shown by the test where something fails.
    case 'bye':
      console.error(text.toString());
  }
});

const telling = setInterval(async () => {
  report({ state: pc.connectionState, ...(await localAddress()), pictures, tones: [...new Set([...tones.values()].flat())] });
}, 500);
// Its threads outlive a closed connection, so the process is ended; closing tells the server by DTLS.
process.stdin.resume().on('end', () => {
  clearInterval(telling);
  pc.close();
  setTimeout(() => process.exit(0), 200);
});
