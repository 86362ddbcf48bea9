// @ts-check
/** Who else is in the room, what they publish, and which track is in whose stream now. */

import { moveTracks, Participant } from './participant.js';

/** @import { PeerInfo, SlotInfo, TrackInfo } from './socket.js' */
/** @import { LeaveReason, RoomEvents, Source } from './uprtc.js' */

const SOURCES = /** @type {Source[]} */ (['microphone', 'camera', 'screen', 'screen_audio']);

/** The others, as the server's signals tell of them. */
export class People {
  /** @param {<K extends keyof RoomEvents>(type: K, detail: RoomEvents[K]) => void} emit */
  constructor(emit) {
    this.#emit = emit;
  }

  #emit;
  /** @type {Map<string, Participant>} By id, in the order in which they came. */
  byId = new Map();
  /** @type {SlotInfo[]} What each receiving section carries. */
  slots = [];

  /** Everybody who is there. @param {PeerInfo[]} peers */
  set(peers) {
    const here = new Set(peers.map(({ peer }) => peer));
    for (const id of [...this.byId.keys()]) if (!here.has(id)) this.remove(id, 'left');
    for (const peer of peers) this.add(peer);
  }

  /** @param {PeerInfo} info */
  add(info) {
    const known = this.byId.get(info.peer);
    const participant = known ?? new Participant(info.peer, info.name, false);
    participant.name = info.name;
    this.byId.set(info.peer, participant);
    if (known) return this.change(info);
    participant.publishes = info.tracks.length > 0;
    for (const { source, active, muted = false } of info.tracks) {
      participant.active[source] = active;
      participant.muted[source] = muted;
    }
    this.#emit('peer-joined', { participant });
  }

  /** Other tracks than before, or fewer: what is not told of any more is off. @param {PeerInfo} info */
  change({ peer, tracks }) {
    const participant = this.byId.get(peer);
    if (!participant) return;
    for (const source of SOURCES) {
      const all = tracks.filter((track) => track.source === source);
      const [active, muted] = [all.some((track) => track.active), all.some((track) => track.muted)];
      this.setTrack(participant, { source, active, muted });
    }
    if (participant.publishes === tracks.length > 0) return;
    participant.publishes = tracks.length > 0;
    this.#emit('peer-changed', { participant });
  }

  /**
   * @param {string} id
   * @param {LeaveReason} reason
   */
  remove(id, reason) {
    const participant = this.byId.get(id);
    if (!participant) return;
    this.byId.delete(id);
    for (const track of participant.stream.getTracks()) participant.stream.removeTrack(track);
    for (const track of participant.screen.getTracks()) participant.screen.removeTrack(track);
    this.#emit('peer-left', { participant, reason });
  }

  /** Everybody is somewhere else. */
  clear() {
    this.slots = [];
    for (const id of [...this.byId.keys()]) this.remove(id, 'moved');
  }

  /**
   * @param {Participant} participant
   * @param {Pick<TrackInfo, 'source' | 'active' | 'muted'>} track
   */
  setTrack(participant, { source, active, muted = false }) {
    if (participant.active[source] === active && participant.muted[source] === muted) return;
    participant.active[source] = active;
    participant.muted[source] = muted;
    this.#emit('track-changed', { participant, source, active, muted });
  }

  /**
   * Brings every participant's streams to what the slots say.
   * @param {(mid: string) => MediaStreamTrack | undefined} trackOf
   */
  place(trackOf) {
    for (const participant of this.byId.values()) {
      for (const stream of [participant.stream, participant.screen]) {
        const slots = this.slots.filter(
          ({ peer, source }) => peer === participant.id && source && participant.streamOf(source) === stream,
        );
        const tracks = slots.flatMap(({ mid }) => trackOf(mid) ?? []);
        const hasMoved = [moveTracks(stream, 'audio', tracks), moveTracks(stream, 'video', tracks)];
        if (hasMoved.includes(true)) this.#emit('stream-changed', { participant, stream });
      }
    }
  }

  /** The section through which somebody's microphone is received. @param {Participant} participant */
  microphoneOf({ id }) {
    return this.slots.find(({ peer, source }) => peer === id && source === 'microphone')?.mid;
  }
}
