// A peer of data alone that is not a browser: a process with the channels, and here its signals.
//
// Commands to the process: `open` {label, options}, `offer`, `answer` {sdp}, `send` {label, text or base64}, `close` {label}. It
// reports `offer`, and again and again `state`, `open` and `closed` (labels), `came` (channels that others opened) and `got`. For what is
// measured: `accept` {sdp} (reports `accepted`), `flood` (`flooded`), `measure` and `measured` {label}.

import WebSocket from 'ws';

import { until } from '../e2e/edge.mjs';
import { Client } from './scene.mjs';

export class DataPeer extends Client {
  /** Starts one, and has it offer these channels, by label. */
  static async start(name, command, channels) {
    const peer = new DataPeer(command);
    peer.name = name;
    peer.signals = [];
    for (const [label, options] of Object.entries(channels)) peer.do('open', { label, options });
    peer.do('offer');
    const sdp = await until(`${name} offers`, () => peer.check().offer);
    return { peer, sdp };
  }

  /** Joins with these channels, and waits until they are open. */
  static async join(name, command, url, channels) {
    const { peer, sdp } = await DataPeer.start(name, command, channels);
    const socket = new WebSocket(url);
    void peer.ended.then(() => socket.close());
    socket.on('error', (error) => (peer.log += `${error}\n`));
    socket.on('message', (text) => {
      const signal = JSON.parse(text);
      peer.signals.push(signal);
      if (signal.type === 'welcome') socket.send(JSON.stringify({ type: 'offer', sdp }));
      if (signal.type === 'answer') peer.do('answer', { sdp: signal.sdp });
    });
    await until(`the channels of ${name} are open`, () => peer.#areOpen(channels));
    return peer;
  }

  #areOpen(channels) {
    const { open } = this.check();
    const told = this.signals.find(({ type }) => type === 'error');
    if (told) throw Object.assign(new Error(JSON.stringify(told)), { isFinal: true });
    return open && Object.keys(channels).every((label) => open.includes(label));
  }

  /** Two without a server between them; the channels are those of the first, who offers. */
  static async pair(command, channels) {
    const { peer: from, sdp } = await DataPeer.start('from', command, channels);
    const to = new DataPeer(command);
    to.do('accept', { sdp });
    from.do('answer', { sdp: await until('the other one answers', () => to.check().accepted) });
    await until('the channels are open', () => from.#areOpen(channels));
    await until('they have come', () => Object.keys(channels).every((label) => to.check().came?.[label]));
    return [from, to];
  }

  /** Gives a command, and waits for what it reports by this name. */
  async ask(command, name, given = {}, ms = 60_000) {
    delete this.report[name];
    this.do(command, given);
    return until(`${name} is told`, () => this.check()[name], ms);
  }

  do(command, given = {}) {
    this.process.stdin.write(`${JSON.stringify({ command, ...given })}\n`);
  }

  /** Sends a string, or bytes. */
  send(label, data) {
    this.do('send', { label, ...(typeof data === 'string' ? { text: data } : { base64: Buffer.from(data).toString('base64') }) });
  }

  got(label) {
    return this.check().got?.[label] ?? [];
  }
}
