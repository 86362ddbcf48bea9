// Real Chromium peers. Each opens uprtc's meeting page and sends test media made here (a picture that shows the
// sender's number and a frame counter as bars, and its own tone). What it receives is read from the
// visible elements of the page.

import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';

import { atTheEnd } from './opened.mjs';

const paths = ['/usr/lib/chromium/chromium', '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
const executablePath = process.env.CHROMIUM || paths.find(existsSync);

/** A Chromium that is closed after the tests of the file. */
export const launch = (...more) => launchFrom(executablePath, ...more);

/** The path of the Chromium that {@link launch} starts. */
export const chromiumPath = executablePath;

/** The same from another executable: one that starts Chromium elsewhere. */
export async function launchFrom(program, ...more) {
  const launching = chromium.launch({
    executablePath: program,
    headless: true,
    args: [
      '--no-sandbox',
      '--use-fake-device-for-media-stream',
      '--use-fake-ui-for-media-stream',
      '--autoplay-policy=no-user-gesture-required',
      '--allow-loopback-in-peer-connection',
      '--disable-background-timer-throttling',
      '--disable-backgrounding-occluded-windows',
      '--disable-renderer-backgrounding',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      ...more,
    ],
  });
  atTheEnd(async () => (await launching).close());
  return launching;
}

/** Bars of the picture: one white, one black, then the bits of sender (4), counter (12) and their checksum (4). */
export const BARS = 22;
export const toneOf = (number) => 500 + 350 * number;

// Runs in the page before any of its own code.
export function instrument({ number, tone, bars }) {
  const seen = { connections: [], offers: 0 };
  window.e2e = seen;
  const Native = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Native {
    constructor(...args) {
      super(...args);
      seen.connections.push(this);
    }
    createOffer(...args) {
      seen.offers += 1;
      return super.createOffer(...args);
    }
  };

  let made;
  async function make() {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [320, 180];
    const context = canvas.getContext('2d');
    let count = 0;
    const draw = () => {
      count = (count + 1) & 0xfff;
      const check = (number ^ count ^ (count >> 4) ^ (count >> 8)) & 0xf;
      const bits = [1, 0];
      for (const [value, width] of [[number, 4], [count, 12], [check, 4]]) {
        for (let bit = width - 1; bit >= 0; bit -= 1) bits.push((value >> bit) & 1);
      }
      context.fillStyle = `hsl(${number * 80} 60% 50%)`;
      context.fillRect(0, 90, canvas.width, 90);
      const width = canvas.width / bars;
      bits.forEach((bit, i) => {
        context.fillStyle = bit ? '#fff' : '#000';
        context.fillRect(i * width, 0, width + 1, 90);
      });
    };
    draw();
    setInterval(draw, 1000 / 15);
    const video = canvas.captureStream(15).getVideoTracks()[0];
    const audio = new AudioContext();
    const oscillator = new OscillatorNode(audio, { frequency: tone });
    const quiet = new GainNode(audio, { gain: 0.3 });
    const out = audio.createMediaStreamDestination();
    oscillator.connect(quiet).connect(out);
    oscillator.start();
    return { video, audio: out.stream.getAudioTracks()[0] };
  }
  seen.asked = 0;
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    seen.asked += 1;
    made ??= await make();
    const tracks = [];
    if (wanted.video) tracks.push(made.video.clone());
    if (wanted.audio) tracks.push(made.audio.clone());
    return new MediaStream(tracks);
  };

  // A shared screen: a white page, wide and still.
  navigator.mediaDevices.getDisplayMedia = async () => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [640, 360];
    const context = canvas.getContext('2d');
    const draw = () => {
      context.fillStyle = '#fff';
      context.fillRect(0, 0, canvas.width, canvas.height);
    };
    draw();
    setInterval(draw, 200);
    return canvas.captureStream(5);
  };

  // Reads the bars of a tile's picture.
  seen.read = (video) => {
    if (video.videoWidth === 0) return undefined;
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [bars * 8, 8];
    const context = canvas.getContext('2d', { willReadFrequently: true });
    // The upper quarter, scaled so that each bar is eight pixels wide.
    context.drawImage(video, 0, 0, video.videoWidth, video.videoHeight / 4, 0, 0, canvas.width, canvas.height);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const bits = Array.from({ length: bars }, (_, i) => Number(data[(4 * canvas.width + i * 8 + 4) * 4 + 1] > 127));
    const value = (from, length) => bits.slice(from, from + length).reduce((sum, bit) => sum * 2 + bit, 0);
    const [sender, count, check] = [value(2, 4), value(6, 12), value(18, 4)];
    const isWhole = bits[0] === 1 && bits[1] === 0 && ((sender ^ count ^ (count >> 4) ^ (count >> 8)) & 0xf) === check;
    return isWhole ? { sender, count } : undefined;
  };

  // The strongest frequency of a received audio track, hertz.
  const analysers = new Map();
  let listener;
  seen.listen = (track) => {
    listener ??= new AudioContext();
    let analyser = analysers.get(track.id);
    if (!analyser) {
      // Chromium feeds a remote track into WebAudio only while an element plays it.
      const element = new Audio();
      element.muted = true;
      element.srcObject = new MediaStream([track]);
      void element.play();
      analyser = new AnalyserNode(listener, { fftSize: 4096 });
      listener.createMediaStreamSource(element.srcObject).connect(analyser);
      analysers.set(track.id, analyser);
    }
    const bins = new Float32Array(analyser.frequencyBinCount);
    analyser.getFloatFrequencyData(bins);
    let best = 0;
    bins.forEach((level, i) => {
      if (level > bins[best]) best = i;
    });
    return bins[best] > -60 ? (best * listener.sampleRate) / analyser.fftSize : 0;
  };

  seen.stats = async () => {
    const connection = seen.connections.at(-1);
    const all = [...(await connection.getStats()).values()];
    const codecs = new Map(all.filter((s) => s.type === 'codec').map((s) => [s.id, s.mimeType]));
    const transport = all.find((s) => s.type === 'transport');
    const streams = (type) => all.filter((s) => s.type === type).map((s) => ({ ...s, codec: codecs.get(s.codecId) }));
    return {
      ice: connection.iceConnectionState,
      state: connection.connectionState,
      dtls: transport?.dtlsState,
      cipher: transport?.srtpCipher,
      tls: transport?.tlsVersion,
      inbound: streams('inbound-rtp').filter((s) => s.packetsReceived > 0),
      outbound: streams('outbound-rtp').filter((s) => s.packetsSent > 0),
    };
  };
}

/** A peer: one page in its own browser context. `number` is 1 to 15. */
export class Peer {
  /** `setup` runs in the page before the page's code; `viewport` and similar options are for the browser context. */
  static async join(browser, url, number, { setup, ...context } = {}) {
    const peer = new Peer();
    peer.number = number;
    peer.errors = [];
    peer.context = await browser.newContext({ viewport: { width: 960, height: 600 }, ...context });
    await peer.context.addInitScript(instrument, { number, tone: toneOf(number), bars: BARS });
    if (setup) await peer.context.addInitScript(setup);
    peer.page = await peer.context.newPage();
    peer.page.on('pageerror', (error) => peer.errors.push(String(error)));
    peer.page.on('console', (message) => {
      // Chromium gives up its requests when the machine's network changes; the page loads itself again.
      if (message.type() === 'error' && !message.text().includes('ERR_NETWORK_CHANGED')) peer.errors.push(message.text());
    });
    await peer.page.goto(url);
    return peer;
  }

  /** The senders whose pictures are on the page now, with their counters, without the peer's own preview. */
  pictures() {
    return this.page.evaluate((own) => {
      const found = {};
      for (const video of document.querySelectorAll('video')) {
        if (!video.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
        const read = window.e2e.read(video);
        if (read && read.sender !== own) found[read.sender] = read.count;
      }
      return found;
    }, this.number);
  }

  /** The tones that arrive, hertz. */
  tones() {
    return this.page.evaluate(() => {
      const connection = window.e2e.connections.at(-1);
      const tracks = connection.getReceivers().map((r) => r.track).filter((t) => t.kind === 'audio' && !t.muted);
      return tracks.map((track) => window.e2e.listen(track)).filter((tone) => tone > 0);
    });
  }

  async hears(numbers) {
    const tones = await this.tones();
    return numbers.every((n) => tones.some((tone) => Math.abs(tone - toneOf(n)) < 30));
  }

  async sees(numbers) {
    const pictures = await this.pictures();
    return numbers.every((n) => n in pictures) && Object.keys(pictures).length === numbers.length;
  }

  stats() {
    return this.page.evaluate(() => window.e2e.stats());
  }

  offers() {
    return this.page.evaluate(() => ({ offers: window.e2e.offers, connections: window.e2e.connections.length }));
  }

  async close() {
    await this.context.close();
  }
}

/**
 * Participants without pictures and sound, many in one page, by the client module.
 * `names` are pairs of name and token. `crowd.leave(name)` makes one leave.
 */
export class Crowd {
  static async gather(browser, base, room, tokens) {
    const crowd = new Crowd();
    crowd.context = await browser.newContext();
    crowd.page = await crowd.context.newPage();
    await crowd.page.goto(base);
    await crowd.page.evaluate(
      async ({ room, tokens }) => {
        const { connect } = await import('/sdk/uprtc.js');
        window.rooms = new Map();
        // One after the other, so that they join in this order.
        for (const [name, token] of tokens) window.rooms.set(name, await connect({ room, token }));
      },
      { room, tokens },
    );
    return crowd;
  }

  leave(name) {
    return this.page.evaluate((name) => window.rooms.get(name).leave(), name);
  }

  async close() {
    await this.context.close();
  }
}

/** The text that a peer's page shows there. */
export const textOf = (peer, selector) => peer.page.locator(selector).innerText();
