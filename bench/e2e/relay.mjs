// A way between a browser and the edge that is as narrow as a test wants it: UDP datagrams toward the browser wait in a queue that empties at a rate, and
// are dropped when it is full; or some of them are lost. The other direction is not limited.

import dgram from 'node:dgram';

import { atTheEnd } from './opened.mjs';

/** Longest wait in the queue. */
const QUEUE_MS = 300;
/** Bytes of the headers below UDP's payload. */
const HEADERS = 28;

export class Relay {
  /** Bit/s toward the browser. */
  bps = Infinity;
  /** Which datagrams toward the browser are lost. @type {(bytes: Buffer) => boolean} */
  loses = () => false;
  #freeAt = 0;
  #front = dgram.createSocket('udp4');
  #back = dgram.createSocket('udp4');
  #browser;

  /** Opens one toward the media port of an edge on this machine. */
  static async open(port) {
    const relay = new Relay();
    atTheEnd(() => relay.close());
    for (const socket of [relay.#front, relay.#back]) {
      await new Promise((resolve) => socket.bind(0, '127.0.0.1', resolve));
    }
    relay.#front.on('message', (bytes, from) => {
      relay.#browser = from;
      relay.#back.send(bytes, port, '127.0.0.1');
    });
    relay.#back.on('message', (bytes) => relay.#carry(bytes));
    return relay;
  }

  get port() {
    return this.#front.address().port;
  }

  #carry(bytes) {
    if (this.loses(bytes)) return;
    const now = performance.now();
    const begins = Math.max(now, this.#freeAt);
    if (begins - now > QUEUE_MS) return;
    this.#freeAt = begins + ((bytes.length + HEADERS) * 8000) / this.bps;
    const send = () => this.#browser && this.#front.send(bytes, this.#browser.port, this.#browser.address);
    if (this.#freeAt - now < 1) send();
    else setTimeout(send, this.#freeAt - now);
  }

  close() {
    for (const socket of [this.#front, this.#back]) socket.close();
  }
}

/** Leads a browser's media through relays: `open` is given the edge's port and returns the relay's. */
export async function through(context, open) {
  await context.exposeFunction('relayFor', open);
  await context.addInitScript(() => {
    const Native = window.RTCPeerConnection;
    window.RTCPeerConnection = class extends Native {
      async setRemoteDescription({ type, sdp }) {
        const lines = sdp.split('\r\n').filter((line) => !/^a=candidate:\S+ 1 tcp/i.test(line));
        const found = lines.map((line) => /^a=candidate:\S+ 1 udp \d+ 127\.0\.0\.1 (\d+) /i.exec(line)?.[1]).find(Boolean);
        const port = await window.relayFor(Number(found));
        const led = lines.map((line) => line.replace(/^(a=candidate:\S+ 1 udp \d+ \S+) \d+/i, `$1 ${port}`));
        return super.setRemoteDescription({ type, sdp: led.join('\r\n') });
      }

      async addIceCandidate() {
        // All that there are stand in the answer.
      }
    };
  });
}
