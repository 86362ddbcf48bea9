// Data channels of libdatachannel (node-datachannel) and of werift, each with its own API and defaults.
//
// usage: data_peer.mjs libdatachannel|werift
//
// Takes the commands of data.mjs, one a line, and reports what comes; leaves when its input is closed.

import { createInterface } from 'node:readline';

import { brief } from './brief.mjs';
import { report, serve } from './room.mjs';

/** Milliseconds of the clock that all processes of this machine have. */
const clock = () => Number(process.hrtime.bigint()) / 1e6;

const own = {};
/** What came on the labels that are only measured. */
const measured = {};
const facts = { state: 'new', open: [], closed: [], came: {}, got: {} };
let stack;

/** Notes what happens on a channel; `label` is our name for it. */
const seen = {
  open: (label) => facts.open.push(label),
  closed: (label) => facts.closed.push(label),
  message(label, data) {
    const measure = measured[label];
    if (!measure) return void (facts.got[label] ??= []).push(brief(data));
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    measure.bytes += data.byteLength;
    measure.count += 1;
    measure.disordered += Number(view.getUint32(0) !== measure.next);
    measure.next = view.getUint32(0) + 1;
    measure.lags.push(clock() - view.getFloat64(4));
  },
  came(label, channel, how) {
    own[label] = channel;
    facts.came[label] = how;
  },
};

const stacks = {
  async libdatachannel() {
    const { default: library } = await import('node-datachannel');
    const pc = new library.PeerConnection('peer', { iceServers: [] });
    const watch = (channel, label) => {
      channel.onOpen(() => seen.open(label));
      channel.onClosed(() => seen.closed(label));
      channel.onMessage((data) => seen.message(label, data));
      return channel;
    };
    pc.onStateChange((state) => (facts.state = state));
    pc.onDataChannel((channel) => {
      seen.came(channel.getLabel(), channel, { protocol: channel.getProtocol() });
      watch(channel, channel.getLabel());
    });
    // It describes itself as soon as it has a channel, and once more when it has all its candidates.
    const offered = new Promise((resolve) => {
      pc.onGatheringStateChange((state) => state === 'complete' && resolve(pc.localDescription().sdp));
    });
    return {
      open: (label, { ordered = true, ...options }) => watch(pc.createDataChannel(label, { unordered: !ordered, ...options }), label),
      offer: () => offered,
      answer: (sdp) => pc.setRemoteDescription(sdp, 'answer'),
      // The other side of a call without a server.
      accept: (sdp) => {
        pc.setRemoteDescription(sdp, 'offer');
        return offered;
      },
      send: (channel, data) => (typeof data === 'string' ? channel.sendMessage(data) : channel.sendMessageBinary(data)),
      buffered: (channel) => channel.bufferedAmount(),
      close: () => {
        pc.close();
        library.cleanup();
      },
    };
  },

  async werift() {
    const { RTCPeerConnection } = await import('werift');
    const pc = new RTCPeerConnection({ iceServers: [] });
    const watch = (channel) => {
      const { label } = channel;
      channel.stateChanged.subscribe((state) => (seen[state] ?? (() => {}))(label));
      channel.onMessage.subscribe((data) => seen.message(label, data));
      return channel;
    };
    pc.connectionStateChange.subscribe((state) => (facts.state = state));
    pc.onDataChannel.subscribe((channel) => {
      const { ordered, maxRetransmits = null, maxPacketLifeTime = null, protocol } = channel;
      seen.came(channel.label, channel, { ordered, maxRetransmits, maxPacketLifeTime, protocol });
      watch(channel);
    });
    return {
      open: (label, options) => watch(pc.createDataChannel(label, options)),
      async offer() {
        await pc.setLocalDescription(await pc.createOffer());
        return pc.localDescription.sdp;
      },
      answer: (sdp) => pc.setRemoteDescription({ type: 'answer', sdp }),
      send: (channel, data) => channel.send(data),
      close: () => pc.close(),
    };
  },
};

const commands = {
  open({ label, options }) {
    own[label] = stack.open(label, options);
  },
  async offer() {
    report({ offer: await stack.offer() });
  },
  answer: ({ sdp }) => stack.answer(sdp),
  async accept({ sdp }) {
    report({ accepted: await stack.accept(sdp) });
  },
  /** What comes on this label is measured, and not kept. */
  measure({ label }) {
    measured[label] = { bytes: 0, count: 0, disordered: 0, next: 0, lags: [] };
  },
  measured({ label }) {
    const { lags, ...rest } = measured[label];
    lags.sort((a, b) => a - b);
    const quantile = (part) => lags[Math.min(lags.length - 1, Math.floor(part * lags.length))];
    report({ measured: { ...rest, p50: quantile(0.5), p99: quantile(0.99), longest: lags.at(-1) } });
  },
  /** Sends messages of `len` bytes for `ms`: `rate` a second, or else as long as no more than `buffered` bytes wait. */
  async flood({ label, len, ms, rate, buffered }) {
    const begun = clock();
    let number = 0;
    while (clock() < begun + ms) {
      for (let due = rate ? Math.floor(((clock() - begun) * rate) / 1000) : Infinity; number < due; number += 1) {
        if (!rate && stack.buffered(own[label]) > buffered) break;
        const data = Buffer.alloc(len);
        data.writeUint32BE(number, 0);
        data.writeDoubleBE(clock(), 4);
        stack.send(own[label], data);
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    while (stack.buffered(own[label]) > 0) await new Promise((resolve) => setTimeout(resolve, 1));
    report({ flooded: { count: number, ms: clock() - begun } });
  },
  send: ({ label, text, base64 }) => stack.send(own[label], text ?? Buffer.from(base64, 'base64')),
  close: ({ label }) => own[label].close(),
};

stack = await stacks[process.argv[2]]();
createInterface(process.stdin).on('line', async (line) => {
  const { command, ...given } = JSON.parse(line);
  try {
    await commands[command](given);
  } catch (error) {
    console.error(command, error);
  }
});
serve(() => facts, () => stack.close(), 100);
