// What runs in the pages: makes the media, joins, and records what is sent and received.

/** Runs in a page before its own code. */
export function instrument() {
  const weak = { samples: [], frames: {}, names: {}, states: [] };
  window.weak = weak;
  const now = () => performance.timeOrigin + performance.now();

  /** A camera of 640×360 at 20 fps: Chromium's fake device, or one with grain. */
  async function camera(content) {
    if (content === 'camera') {
      const video = { width: 640, height: 360, frameRate: 20 };
      return (await navigator.mediaDevices.getUserMedia({ video })).getVideoTracks()[0];
    }
    // A ball moves over a gradient, with faint grain that differs in each frame, as a real camera's does: the encoder
    // uses as many bits as it is given, and with few bits the grain is gone and the picture remains.
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [640, 360];
    const context = canvas.getContext('2d');
    const grain = document.createElement('canvas');
    [grain.width, grain.height] = [1280, 720];
    const grains = grain.getContext('2d');
    const noise = grains.createImageData(grain.width, grain.height);
    for (let i = 0; i < noise.data.length; i += 4) {
      noise.data.fill(Math.random() * 256, i, i + 3);
      noise.data[i + 3] = 24;
    }
    grains.putImageData(noise, 0, 0);
    const gradient = context.createLinearGradient(0, 0, 640, 360);
    gradient.addColorStop(0, '#246');
    gradient.addColorStop(1, '#db8');
    let count = 0;
    setInterval(() => {
      count += 1;
      context.fillStyle = gradient;
      context.fillRect(0, 0, 640, 360);
      context.fillStyle = '#fff';
      context.beginPath();
      context.arc(320 + 250 * Math.sin(count / 20), 180 + 120 * Math.cos(count / 13), 40, 0, 7);
      context.fill();
      context.drawImage(grain, -Math.random() * 640, -Math.random() * 360);
    }, 1000 / 20);
    return canvas.captureStream(20).getVideoTracks()[0];
  }

  async function microphone() {
    return (await navigator.mediaDevices.getUserMedia({ audio: true })).getAudioTracks()[0];
  }

  /** Notes when each frame of a track arrives decoded. */
  async function follow(track) {
    const times = (weak.frames[track.id] = []);
    const reader = new MediaStreamTrackProcessor({ track }).readable.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      times.push(now());
      value.close();
    }
  }

  const playing = [];
  /** Chromium decodes audio only where it is played. */
  function play(track) {
    const element = new Audio();
    element.srcObject = new MediaStream([track]);
    void element.play();
    playing.push(element);
  }

  const taken = new Set();
  async function sample(connection, names) {
    if (!connection || connection.connectionState === 'closed') return;
    const stats = [...(await connection.getStats()).values()];
    const codecs = new Map(stats.filter(({ type }) => type === 'codec').map(({ id, mimeType }) => [id, mimeType]));
    const found = { at: now(), state: connection.connectionState, inbound: [], outbound: [] };
    Object.assign(weak.names, names());
    for (const stream of stats) {
      if (stream.type === 'inbound-rtp' && stream.packetsReceived > 0) {
        const { kind, trackIdentifier: track, bytesReceived: bytes, packetsReceived: packets, packetsLost: lost } = stream;
        found.inbound.push({
          kind, track, bytes, packets, lost,
          codec: codecs.get(stream.codecId),
          frames: stream.framesDecoded, keys: stream.keyFramesDecoded, freezes: stream.freezeCount, frozen: stream.totalFreezesDuration,
          width: stream.frameWidth, height: stream.frameHeight, nacks: stream.nackCount, plis: stream.pliCount,
          samples: stream.totalSamplesReceived, concealed: stream.concealedSamples, silent: stream.silentConcealedSamples,
          delay: stream.jitterBufferDelay, emitted: stream.jitterBufferEmittedCount,
        });
      } else if (stream.type === 'outbound-rtp' && stream.packetsSent > 0) {
        const { kind, bytesSent: bytes, framesEncoded: frames, frameWidth: width, frameHeight: height } = stream;
        const { targetBitrate: target, qualityLimitationReason: by, nackCount: nacks, pliCount: plis } = stream;
        found.outbound.push({ kind, bytes, frames, width, height, target, by, nacks, plis, rid: stream.rid });
      } else if (stream.type === 'candidate-pair' && stream.nominated) {
        found.available = stream.availableOutgoingBitrate;
        found.rtt = stream.currentRoundTripTime;
      }
    }
    for (const { track } of connection.getReceivers()) {
      if (taken.has(track.id) || !found.inbound.some((stream) => stream.track === track.id)) continue;
      taken.add(track.id);
      if (track.kind === 'video') void follow(track);
      else play(track);
    }
    weak.samples.push(found);
  }

  function begin(connection, names) {
    let isBusy = false;
    setInterval(async () => {
      if (isBusy) return;
      isBusy = true;
      await sample(connection(), names).catch(() => {}); // A connection that is closed meanwhile.
      isBusy = false;
    }, 250);
  }

  /** Joins a room of uprtc with the client module. */
  weak.joinRoom = async ({ room: name, token, content }) => {
    const { Room } = await import('/sdk/uprtc.js');
    const room = new Room({ room: name, token, microphone: await microphone(), camera: await camera(content), joinTimeout: 60_000 });
    weak.room = room;
    room.on('state', ({ state }) => weak.states.push({ at: now(), state }));
    room.on('joined', ({ rejoined }) => weak.states.push({ at: now(), state: rejoined ? 'rejoined' : 'joined' }));
    begin(
      () => room.peerConnection,
      () => Object.fromEntries([...room.participants.values()].flatMap((p) => p.stream.getTracks().map(({ id }) => [id, p.name]))),
    );
    await room.join();
  };

  /** A connection with another page, without a server. Gives what the other page needs. */
  weak.direct = async ({ content, offer, other }) => {
    const pc = (weak.pc = new RTCPeerConnection());
    pc.onconnectionstatechange = () => weak.states.push({ at: now(), state: pc.connectionState });
    if (offer) await pc.setRemoteDescription(offer);
    const stream = new MediaStream();
    for (const track of [await microphone(), await camera(content)]) pc.addTrack(track, stream);
    const { codecs } = RTCRtpReceiver.getCapabilities('video');
    // H.264 as in the rooms, and its repairs.
    const same = codecs.filter(({ mimeType, sdpFmtpLine }) => /rtx/.test(mimeType) || (/H264/.test(mimeType) && /42e01f/.test(sdpFmtpLine) && /packetization-mode=1/.test(sdpFmtpLine)));
    pc.getTransceivers().find(({ sender }) => sender.track.kind === 'video').setCodecPreferences(same);
    await pc.setLocalDescription();
    if (pc.iceGatheringState !== 'complete') {
      await new Promise((resolve) => (pc.onicegatheringstatechange = () => pc.iceGatheringState === 'complete' && resolve()));
    }
    begin(() => pc, () => Object.fromEntries(pc.getReceivers().map(({ track }) => [track.id, other])));
    return pc.localDescription.toJSON();
  };
}
