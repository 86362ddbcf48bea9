// Renegotiation by pages that use only docs/PROTOCOL.md: RTCPeerConnection and WebSocket, without
// the client module. They send a picture that can be recognised, and count the decoded frames.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { Edge, sleep, until } from './edge.mjs';
import { launchFirefox } from './firefox.mjs';

let edge;

before(async () => {
  edge = await Edge.start();
});

// Runs in the page: a client of the protocol, as `window.plain`.
function plain() {
  const pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
  const plain = { pc, said: [], slots: [], session: '' };
  window.plain = plain;
  let waiting = [];
  plain.next = (...types) => new Promise((resolve) => waiting.push({ types, resolve }));
  plain.connect = (url) =>
    new Promise((resolve, reject) => {
      plain.ws = new WebSocket(url);
      plain.ws.onerror = reject;
      plain.ws.onmessage = ({ data }) => {
        const signal = JSON.parse(data);
        plain.said.push(signal);
        if (signal.type === 'slots') plain.slots = signal.slots;
        if (signal.type === 'welcome') resolve(signal);
        const answered = waiting.filter(({ types }) => types.includes(signal.type));
        waiting = waiting.filter((one) => !answered.includes(one));
        for (const { resolve } of answered) resolve(signal);
      };
    });
  plain.say = (signal) => plain.ws.send(JSON.stringify(signal));
  /** Offers the current state; a refused offer is rolled back. */
  plain.offer = async (change = (sdp) => sdp) => {
    await pc.setLocalDescription();
    const answer = plain.next('answer', 'error');
    plain.say({ type: 'offer', sdp: change(pc.localDescription.sdp) });
    const signal = await answer;
    if (signal.type === 'answer') await pc.setRemoteDescription({ type: 'answer', sdp: signal.sdp });
    else await pc.setLocalDescription({ type: 'rollback' });
    return signal;
  };
  plain.camera = async () => (await navigator.mediaDevices.getUserMedia({ video: true })).getVideoTracks()[0];
  plain.section = (mid) => pc.getTransceivers().find((transceiver) => transceiver.mid === mid);
  pc.ontrack = ({ track, transceiver }) => {
    if (track.kind !== 'video') return;
    const video = document.createElement('video');
    Object.assign(video, { muted: true, autoplay: true, playsInline: true, srcObject: new MediaStream([track]) });
    video.dataset.mid = transceiver.mid;
    document.body.append(video);
  };
  /** Frames decoded through an m-section, and the sender of the last one. */
  plain.decoded = async (mid) => {
    let frames = 0;
    for (const report of (await pc.getStats()).values()) {
      if (report.type === 'inbound-rtp' && report.kind === 'video' && report.mid === mid) frames += report.framesDecoded ?? 0;
    }
    const video = [...document.querySelectorAll('video')].findLast((one) => one.dataset.mid === mid);
    return { frames, sender: video && window.e2e.read(video)?.sender };
  };
}

/** One page; `run` runs in it with its plain client. */
class Plain {
  static async join(browser, room, number, first) {
    const plainPeer = new Plain();
    plainPeer.number = number;
    plainPeer.peer = await Peer.join(browser, `${edge.base}/healthz`, number);
    plainPeer.token = await edge.token('--room', room, '--name', `Peer ${number}`, '--publish', '--subscribe');
    plainPeer.url = `${edge.base.replace('http', 'ws')}/v1/rooms/${room}/signal?token=${plainPeer.token}`;
    await plainPeer.run(plain);
    const welcome = await plainPeer.connect();
    await plainPeer.run((session) => void (window.plain.session = session), welcome.session);
    await plainPeer.run(first);
    assert.equal((await plainPeer.offer()).type, 'answer');
    await until('it is connected', () => plainPeer.run(() => window.plain.pc.connectionState === 'connected'));
    return plainPeer;
  }

  run(what, ...args) {
    return this.peer.page.evaluate(what, ...args);
  }

  connect() {
    return this.run((url) => window.plain.connect(url), this.url);
  }

  async offer() {
    return this.run(() => window.plain.offer());
  }

  /** The m-section with another peer's video. */
  async midOf() {
    const slots = await this.run(() => window.plain.slots);
    return slots.find((slot) => slot.kind === 'video' && slot.peer)?.mid;
  }

  decoded(mid) {
    return this.run((mid) => window.plain.decoded(mid), mid);
  }

  /** Waits until new frames of that sender are decoded. */
  async watches(sender, mid) {
    mid ??= await until('there is a video in a slot', () => this.midOf());
    const { frames } = await this.decoded(mid);
    await until(`${this.number} decodes ${sender} in ${mid}`, async () => {
      const now = await this.decoded(mid);
      return now.sender === sender && now.frames >= frames + 5;
    }, 40_000);
    return mid;
  }

  /** Waits until no frames arrive for longer than a jitter buffer holds them. */
  async watchesNothing(mid) {
    let last = -1;
    let since = Date.now();
    await until(`${this.number} decodes nothing in ${mid}`, async () => {
      const { frames } = await this.decoded(mid);
      if (frames !== last) [last, since] = [frames, Date.now()];
      return Date.now() - since > 1500;
    });
  }

  async close() {
    // The page has no icon.
    assert.deepEqual(this.peer.errors.filter((error) => !error.includes('404')), []);
    await this.peer.close();
  }
}

const nothingYet = () => {
  window.plain.pc.addTransceiver('audio', { direction: 'recvonly' });
};

async function sendVideo() {
  const { pc, camera } = window.plain;
  window.plain.sender = pc.addTransceiver(await camera(), { direction: 'sendonly' });
}

function receiveVideo() {
  window.plain.receiver = window.plain.pc.addTransceiver('video', { direction: 'recvonly' });
}

for (const [name, start] of [['Chromium', launch], ['Firefox', launchFirefox]]) {
  test(name, { timeout: 400_000 }, async (t) => {
    const browser = await start();
    try {
      await calls(t, browser, name);
    } finally {
      await browser.close();
    }
  });
}

test('a lost media path is restored by an ICE restart on the same connection', { timeout: 120_000 }, async () => {
  const browser = await launch();
  const url = (number) => edge.url('lost', `Peer ${number}`);
  const peers = await Promise.all([1, 2].map(async (number) => Peer.join(browser, await url(number), number)));
  const meet = () => Promise.all(peers.map((peer) => until('they see each other', () => peer.sees([3 - peer.number]), 30_000)));
  await meet();
  const dataplane = await edge.pid('dataplane');
  process.kill(dataplane, 'SIGSTOP');
  try {
    await until('both restart ICE', async () => (await Promise.all(peers.map((peer) => peer.offers()))).every(({ offers }) => offers === 2));
  } finally {
    process.kill(dataplane, 'SIGCONT');
  }
  await until('ICE is connected', async () => (await Promise.all(peers.map((peer) => peer.stats()))).every(({ state }) => state === 'connected'));
  for (const peer of peers) {
    const counter = async () => (await peer.pictures())[3 - peer.number];
    const before = await counter();
    await until('the picture moves', async () => ![undefined, before].includes(await counter()), 30_000);
  }
  for (const peer of peers) {
    assert.equal((await peer.offers()).connections, 1);
    assert.deepEqual(peer.errors, []);
  }
  await browser.close();
});

async function calls(t, browser, room) {
  const [ada, bob] = await Promise.all([1, 2].map((number) => Plain.join(browser, room, number, nothingYet)));
  let mid;

  await t.test('a sender and a receiver are added', async () => {
    await ada.run(sendVideo);
    assert.equal((await ada.offer()).type, 'answer');
    await until('Bob gets peer_changed', () => bob.run(() => window.plain.said.some((s) => s.type === 'peer_changed' && s.peer.tracks.length === 1)));
    await bob.run(receiveVideo);
    assert.equal((await bob.offer()).type, 'answer');
    mid = await bob.watches(1);
  });

  await t.test('the m-section of a slot also sends', async () => {
    await bob.run(async () => {
      const { receiver, camera } = window.plain;
      receiver.direction = 'sendrecv';
      await receiver.sender.replaceTrack(await camera());
    });
    await bob.offer();
    await ada.run(receiveVideo);
    await ada.offer();
    await ada.watches(2);
    await bob.watches(1, mid);
  });

  await t.test('a sender pauses and continues', async () => {
    const turn = (direction) => ada.run((direction) => void (window.plain.sender.direction = direction), direction);
    for (let round = 0; round < 2; round += 1) {
      await turn('inactive');
      await ada.offer();
      await until('the slot is empty', async () => (await bob.midOf()) === undefined);
      await bob.watchesNothing(mid);
      await turn('sendonly');
      await ada.offer();
      await bob.watches(1, mid);
    }
  });

  await t.test('a receiver pauses and continues', async () => {
    const turn = (direction) => bob.run((direction) => void (window.plain.receiver.direction = direction), direction);
    for (const paused of ['sendonly', 'inactive']) {
      await turn(paused);
      await bob.offer();
      await bob.watchesNothing(mid);
      await turn('sendrecv');
      await bob.offer();
      await bob.watches(1, mid);
    }
    await ada.watches(2);
  });

  await t.test('ICE restarts on both sides without a new connection', async () => {
    for (const peer of [ada, bob]) {
      const ufrags = () =>
        peer.run(() => [window.plain.pc.localDescription, window.plain.pc.remoteDescription].map(({ sdp }) => /a=ice-ufrag:(.*)\r/.exec(sdp)[1]));
      const before = await ufrags();
      await peer.run(() => window.plain.pc.restartIce());
      await peer.offer();
      const now = await ufrags();
      assert.ok(before[0] !== now[0] && before[1] !== now[1], `${before} ${now}`);
      await until('the new pair is in use', () => peer.run(() => ['connected', 'completed'].includes(window.plain.pc.iceConnectionState)));
    }
    await sleep(1000);
    await bob.watches(1, mid);
    await ada.watches(2);
  });

  await t.test('a stopped m-section is recycled for another', async () => {
    const lines = () => ada.run(() => window.plain.pc.localDescription.sdp.split('\r\nm=').length);
    const before = await lines();
    await ada.run(() => window.plain.sender.stop());
    await ada.offer();
    await bob.watchesNothing(mid);
    await ada.run(sendVideo);
    assert.equal((await ada.offer()).type, 'answer');
    assert.equal(await lines(), before);
    await bob.watches(1, mid);
  });

  await t.test('a refused offer does not change the call', async () => {
    await ada.run(() => window.plain.pc.addTransceiver('audio', { direction: 'recvonly' }));
    const refused = await ada.run(() => window.plain.offer((sdp) => sdp.replace(/a=setup:actpass/g, 'a=setup:passive')));
    assert.deepEqual([refused.type, refused.code, refused.fatal], ['error', 'unsupported_offer', false]);
    await bob.watches(1, mid);
    await ada.watches(2);
  });

  await t.test('a successor of the controlplane accepts subsequent offers', async () => {
    const killed = await edge.pid('controlplane');
    process.kill(killed, 'SIGKILL');
    await until('there is another', async () => ![undefined, killed].includes(await edge.pid('controlplane')));
    for (const peer of [ada, bob]) {
      await until('the socket is back', () => peer.connect());
      const resumed = peer.run(() => window.plain.next('welcome', 'error'));
      await peer.run(() => window.plain.say({ type: 'resume', session: window.plain.session }));
      assert.equal((await resumed).resumed, true);
    }
    await bob.run(receiveVideo);
    await bob.run(() => window.plain.pc.restartIce());
    assert.equal((await bob.offer()).type, 'answer');
    await ada.run(sendVideo);
    assert.equal((await ada.offer()).type, 'answer');
    const second = await until('there are two videos', () =>
      bob.run((mid) => window.plain.slots.find((slot) => slot.kind === 'video' && slot.peer && slot.mid !== mid)?.mid, mid));
    await bob.watches(1, second);
    await bob.watches(1, mid);
    await ada.watches(2);
  });

  await Promise.all([ada, bob].map((peer) => peer.close()));
}
