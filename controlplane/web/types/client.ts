// A client in TypeScript, type-checked with `strict` against the types that the server ships
// (bench/e2e/types.test.mjs). It is not run.

import type { Participant, RoomStats, UprtcError } from './uprtc.js';

type Sdk = typeof import('./uprtc.js');

export async function call(edge: string, token: () => Promise<string>): Promise<() => void> {
  const { connect, openDevices }: Sdk = await import(`${edge}/sdk/uprtc.js`);
  const preview = await openDevices({ microphone: true, camera: { width: 1280 } });
  const failed: UprtcError | undefined = preview.errors[0];
  if (failed) console.warn(failed.code, failed.message, failed.detail, failed.fatal);

  const room = await connect({ server: edge, room: 'standup', token, camera: preview.camera ?? true, microphone: true });
  const show = ({ id, name, stream, active }: Participant): void => {
    const video = Object.assign(document.createElement('video'), { id, title: name, srcObject: stream });
    video.hidden = !active.camera;
  };
  for (const participant of room.participants.values()) show(participant);
  const stop: () => void = room.on('peer-joined', ({ participant }) => show(participant));
  room.on('peer-left', ({ participant, reason }) => console.log(participant.name, reason === 'timed_out'));
  room.on('track-changed', ({ source, active }) => console.log(source, active));
  room.on('state', ({ state, previous }) => console.log(state, previous));
  room.addEventListener('error', (event) => console.warn(event.detail.error.code));
  await room.setCamera(false);
  await room.setMicrophone(true, { deviceId: 'default' });
  const stats: RoomStats = await room.getStats();
  for (const [id, { camera }] of stats.incoming) console.log(id, camera?.fps.toFixed(1), stats.rttMs?.toFixed());
  room.on('data', ({ from, label, data }) => console.log(from?.name, label, typeof data === 'string' ? data : data.byteLength));
  room.on('drain', ({ buffered }) => console.log(buffered, room.buffered, room.maySendData));
  await room.send('hello', { to: [...room.participants.values()], label: 'greeting' });
  await room.send(new Uint8Array(3), { reliable: false });
  const connection: RTCPeerConnection | undefined = room.peerConnection;

  // Each of these lines is an error; the check fails if the types accept it.
  // @ts-expect-error the room's name is missing
  await connect({ token });
  // @ts-expect-error there is no such event
  room.on('peer-vanished', () => undefined);
  // @ts-expect-error a state is one of six strings
  if (room.state === 'open') stop();
  // @ts-expect-error a token is a string
  await room.setToken(42);
  // @ts-expect-error a message is text or bytes
  await room.send({ text: 'hello' });
  // @ts-expect-error it may be undefined
  connection.getSenders();
  return () => {
    stop();
    room.leave();
  };
}
