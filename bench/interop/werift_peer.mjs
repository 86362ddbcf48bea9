// werift, a WebRTC stack in TypeScript, as a member of a room on the signalling socket. werift transports RTP; codec.py encodes and
// decodes.
//
// usage: werift_peer.mjs PYTHON SOCKET_URL NUMBER
//
// Reports its state twice a second, and the reports of codec.py; leaves when its input is closed.

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { MediaStreamTrack, RTCPeerConnection, RtpHeader, RtpPacket, useH264, useOPUS } from 'werift';

import { join, report, serve } from './room.mjs';

const [python, url, number] = process.argv.slice(2);
const codec = (...words) => spawn(python, [fileURLToPath(new URL('codec.py', import.meta.url)), ...words], { stdio: ['pipe', 'pipe', 'inherit'] });
const [encoder, decoder] = [codec('encode', number), codec('decode')];

const pc = new RTCPeerConnection({ codecs: { audio: [useOPUS()], video: [useH264()] }, bundlePolicy: 'max-bundle', iceServers: [] });
const tracks = Object.fromEntries(['audio', 'video'].map((kind) => [kind, new MediaStreamTrack({ kind })]));

/** Sends the encoder's output; werift inserts its own SSRC and payload type. */
function send() {
  const sequence = { audio: 0, video: 0 };
  createInterface(encoder.stdout).on('line', (line) => {
    const { kind, timestamp, payloads } = JSON.parse(line);
    payloads.forEach((payload, i) => {
      const marker = kind === 'video' && i === payloads.length - 1;
      const header = new RtpHeader({ sequenceNumber: sequence[kind]++ & 0xffff, timestamp: timestamp >>> 0, payloadType: 96, marker });
      tracks[kind].writeRtp(new RtpPacket(header, Buffer.from(payload, 'base64')));
    });
  });
}

/** Passes whole frames to the decoder. A link within one machine neither loses nor reorders packets. */
function receive(track) {
  let payloads = [];
  track.onReceiveRtp.subscribe(({ header, payload }) => {
    if (payload.length === 0) return; // padding
    payloads.push(payload.toString('base64'));
    if (track.kind === 'video' && !header.marker) return;
    decoder.stdin.write(`${JSON.stringify({ kind: track.kind, timestamp: header.timestamp, payloads })}\n`);
    payloads = [];
  });
}

async function offer() {
  for (const track of Object.values(tracks)) pc.addTransceiver(track, { direction: 'sendonly' });
  for (const kind of ['audio', 'video']) {
    pc.addTransceiver(kind, { direction: 'recvonly' }).onTrack.subscribe(receive);
  }
  send();
  await pc.setLocalDescription(await pc.createOffer());
  return pc.localDescription.sdp;
}

createInterface(decoder.stdout).on('line', (line) => report(JSON.parse(line)));
const signal = join(url, offer, (sdp) => pc.setRemoteDescription({ type: 'answer', sdp }));
serve(
  () => ({ state: pc.connectionState }),
  async () => {
    signal({ type: 'leave' }); // werift closes without a DTLS close_notify.
    await pc.close();
    for (const child of [encoder, decoder]) child.stdin.end();
  },
);
