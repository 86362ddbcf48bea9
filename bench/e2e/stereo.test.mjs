// Stereo end to end: one tone on the left, another on the right, and which of them each channel of the receiver contains.
// Chromium sends two channels if the answer has `stereo=1`, and plays two if its own offer has it.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { launch } from './browser.mjs';
import { Edge, until } from './edge.mjs';

const [LEFT, RIGHT] = [600, 1700];

let edge;
let browser;

before(async () => {
  edge = await Edge.start();
  browser = await launch();
});

// Runs in each page before the page's code.
function instrument({ left, right }) {
  /** A track with a different tone in each channel. */
  window.stereo = () => {
    const audio = new AudioContext();
    const merger = audio.createChannelMerger(2);
    [left, right].forEach((frequency, channel) => {
      const tone = new OscillatorNode(audio, { frequency });
      tone.connect(new GainNode(audio, { gain: 0.3 })).connect(merger, 0, channel);
      tone.start();
    });
    const out = new MediaStreamAudioDestinationNode(audio, { channelCount: 2 });
    merger.connect(out);
    return out.stream.getAudioTracks()[0];
  };
  /** Returns a function that gives the tones in the channels of a track, hertz. */
  window.listen = (track) => {
    const element = new Audio();
    element.muted = true;
    element.srcObject = new MediaStream([track]);
    void element.play();
    const audio = new AudioContext();
    const splitter = audio.createChannelSplitter(2);
    audio.createMediaStreamSource(element.srcObject).connect(splitter);
    const analysers = [0, 1].map((channel) => {
      const analyser = new AnalyserNode(audio, { fftSize: 4096 });
      splitter.connect(analyser, channel);
      return analyser;
    });
    return () =>
      analysers.map((analyser) => {
        const bins = new Float32Array(analyser.frequencyBinCount);
        analyser.getFloatFrequencyData(bins);
        const level = (frequency) => bins[Math.round((frequency * analyser.fftSize) / audio.sampleRate)];
        // Loud, and 20 dB above the other tone: the channel contains only this tone.
        return [left, right].filter((tone, i, both) => level(tone) > -60 && level(tone) > level(both[1 - i]) - 20);
      });
  };
  /** A connection by WHIP or WHEP, and its answer. */
  window.connectBy = async (url, token, more, track) => {
    const pc = new RTCPeerConnection();
    if (track) pc.addTransceiver(track, { direction: 'sendonly' });
    else pc.addTransceiver('audio', { direction: 'recvonly' });
    const offer = await pc.createOffer();
    const sdp = offer.sdp.replace('useinbandfec=1', `useinbandfec=1${more}`);
    await pc.setLocalDescription({ type: 'offer', sdp });
    const headers = { Authorization: `Bearer ${token}`, 'Content-Type': 'application/sdp' };
    const response = await fetch(url, { method: 'POST', headers, body: pc.localDescription.sdp });
    const answer = await response.text();
    if (!response.ok) throw new Error(answer);
    await pc.setRemoteDescription({ type: 'answer', sdp: answer });
    return { pc, fmtp: /^a=fmtp:\d+ (minptime.*)$/m.exec(answer)[1].trim() };
  };
}

async function page() {
  const opened = await (await browser.newContext()).newPage();
  await opened.addInitScript(instrument, { left: LEFT, right: RIGHT });
  await opened.goto(edge.base);
  return opened;
}

async function publishes(room, more) {
  const opened = await page();
  const token = await edge.token('--room', room, '--name', 'Ada', '--publish');
  return opened.evaluate(
    async ([room, token, more]) => (await window.connectBy(`/whip/${room}`, token, more, window.stereo())).fmtp,
    [room, token, more],
  );
}

async function plays(room, more) {
  const opened = await page();
  const token = await edge.token('--room', room, '--name', 'Player', '--subscribe');
  const fmtp = await opened.evaluate(
    async ([room, token, more]) => {
      const { pc, fmtp } = await window.connectBy(`/whep/${room}`, token, more);
      window.tones = window.listen(pc.getReceivers()[0].track);
      return fmtp;
    },
    [room, token, more],
  );
  return { fmtp, tones: () => opened.evaluate(() => window.tones()) };
}

const hearsStereo = (tones) => JSON.stringify(tones) === JSON.stringify([[LEFT], [RIGHT]]);
const hearsMono = (tones) => JSON.stringify(tones) === JSON.stringify([[LEFT, RIGHT], [LEFT, RIGHT]]);

test('without a request for stereo it is mono', { timeout: 60_000 }, async () => {
  assert.equal(await publishes('plain', ''), 'minptime=10;useinbandfec=1');
  const player = await plays('plain', '');
  assert.equal(player.fmtp, 'minptime=10;useinbandfec=1');
  await until('both channels have both tones', async () => hearsMono(await player.tones()));
});

test('a publisher and a player with stereo=1: two channels arrive', { timeout: 60_000 }, async () => {
  const fmtp = await publishes('music', ';stereo=1;sprop-stereo=1;maxaveragebitrate=128000;cbr=1');
  assert.equal(fmtp, 'minptime=10;useinbandfec=1;stereo=1;cbr=1;maxaveragebitrate=128000');
  const player = await plays('music', ';stereo=1');
  assert.equal(player.fmtp, 'minptime=10;useinbandfec=1;sprop-stereo=1');
  await until('each channel has its tone', async () => hearsStereo(await player.tones()));
});

test('a publisher that joins later is asked for stereo by a present player', { timeout: 60_000 }, async () => {
  const player = await plays('waiting', ';stereo=1;maxaveragebitrate=64000;usedtx=1');
  assert.equal(await publishes('waiting', ''), 'minptime=10;useinbandfec=1;stereo=1;usedtx=1;maxaveragebitrate=64000');
  await until('each channel has its tone', async () => hearsStereo(await player.tones()));
});

test('two rooms of the client module with stereo', { timeout: 60_000 }, async () => {
  const [ada, bob] = [await page(), await page()];
  for (const [member, name] of [[ada, 'Ada'], [bob, 'Bob']]) {
    const token = await edge.token('--room', 'module', '--name', name, '--publish', '--subscribe');
    await member.evaluate(
      async ([token, isSending]) => {
        const { connect } = await import('/sdk/uprtc.js');
        const audio = { stereo: true, bps: 96_000 };
        window.room = await connect({ room: 'module', token, audio, ...(isSending && { microphone: window.stereo() }) });
      },
      [token, name === 'Ada'],
    );
  }
  await until('a track arrives', () => bob.evaluate(() => {
    const track = [...window.room.participants.values()][0]?.stream.getAudioTracks()[0];
    if (track) window.tones ??= window.listen(track);
    return Boolean(track);
  }));
  await until('each channel has its tone', async () => hearsStereo(await bob.evaluate(() => window.tones())));
  await until('it is sent at the rate of music', async () => {
    const { microphone } = await ada.evaluate(async () => (await window.room.getStats()).outgoing);
    return microphone?.bps > 50_000;
  });
});
