// @ts-check
/** The other participants, what they publish, and which track is in which stream. */

import { moveTracks, Participant } from './participant.js';

/** @import { PeerInfo, ServerSignal, SlotInfo, TrackInfo } from './socket.js' */
/** @import { LeaveReason, Quality, RoomEvents, Source } from './uprtc.js' */

/** Participants that left and are remembered: a message of theirs may still come. */
const FORMER_MAX = 64;

const SOURCES = /** @type {Source[]} */ (['microphone', 'camera', 'screen', 'screen_audio']);

/** The other participants, as the server's signals describe them. */
export class People {
  /** @param {<K extends keyof RoomEvents>(type: K, detail: RoomEvents[K]) => void} emit */
  constructor(emit) {
    this.#emit = emit;
  }

  #emit;
  /** @type {Map<string, Participant>} By id, in the order in which they joined. */
  byId = new Map();
  /** @type {SlotInfo[]} What each receiving m-section carries. */
  slots = [];
  /** @type {Participant[]} Who speaks, the loudest first. */
  speakers = [];
  /** @type {Participant | undefined} Who is to be shown first: who speaks, or did last. */
  dominant;
  /** @type {Map<string, Participant>} Who was here. */
  #former = new Map();

  /** Who is here, or was. @param {string} id */
  find(id) {
    return this.byId.get(id) ?? this.#former.get(id);
  }

  /**
   * @param {ServerSignal} signal
   * @param {Participant} local
   * @returns {boolean} Whether tracks may belong to others now.
   */
  follow(signal, local) {
    switch (signal.type) {
      case 'peers':
        this.set(signal.peers, local);
        return true;
      case 'peer_joined':
        this.add(signal.peer);
        return true;
      case 'slots':
        this.slots = signal.slots;
        return true;
      case 'peer_changed':
        this.change(signal.peer);
        return false;
      case 'peer_left':
        this.remove(signal.peer, signal.reason);
        return false;
      case 'quality':
        this.rate(signal.peers, local);
        return false;
      case 'speakers':
        this.speak(signal, local);
        return false;
      default:
        return false;
    }
  }

  /**
   * Sets the complete list.
   * @param {PeerInfo[]} peers
   * @param {Participant} local Its connection is good unless a signal after this one says otherwise.
   */
  set(peers, local) {
    this.#setQuality(local, 'good');
    this.speak({ peers: [] }, local);
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
    participant.lookalike = info.lookalike ?? false;
    participant.role = info.role;
    participant.quality = info.quality ?? 'good';
    for (const { source, active, muted = false } of info.tracks) {
      participant.active[source] = active;
      participant.muted[source] = muted;
    }
    this.#emit('peer-joined', { participant });
  }

  /** Changes the tracks of a participant. A track that is not in the list is off. @param {PeerInfo} info */
  change({ peer, tracks, lookalike = false, quality = 'good' }) {
    const participant = this.byId.get(peer);
    if (!participant) return;
    this.#setQuality(participant, quality);
    for (const source of SOURCES) {
      const all = tracks.filter((track) => track.source === source);
      const [active, muted] = [all.some((track) => track.active), all.some((track) => track.muted)];
      this.setTrack(participant, { source, active, muted });
    }
    if (participant.publishes === tracks.length > 0 && participant.lookalike === lookalike) return;
    participant.publishes = tracks.length > 0;
    participant.lookalike = lookalike;
    this.#emit('peer-changed', { participant });
  }

  /**
   * Connections are better or worse than before.
   * @param {{ peer: string, quality: Quality }[]} peers
   * @param {Participant} local
   */
  rate(peers, local) {
    for (const { peer, quality } of peers) {
      const participant = peer === local.id ? local : this.byId.get(peer);
      if (participant) this.#setQuality(participant, quality);
    }
  }

  /**
   * These speak, the loudest first, and one is to be shown first. Whether this client itself does, it measures.
   * @param {{ peers: string[], dominant?: string }} told
   * @param {Participant} local
   */
  speak({ peers, dominant: first = '' }, local) {
    const find = (/** @type {string} */ id) => (id === local.id ? local : this.byId.get(id));
    const dominant = find(first);
    if (peers.length + this.speakers.length === 0 && dominant === this.dominant) return;
    this.speakers = peers.flatMap((id) => find(id) ?? []);
    this.dominant = dominant;
    for (const participant of this.byId.values()) {
      const speaking = this.speakers.includes(participant);
      if (participant.speaking === speaking) continue;
      participant.speaking = speaking;
      this.#emit('speaking', { participant, speaking });
    }
    this.#emit('speakers', { participants: this.speakers, dominant });
  }

  /** @param {Participant} participant @param {Quality} quality */
  #setQuality(participant, quality) {
    if (participant.quality === quality) return;
    participant.quality = quality;
    this.#emit('quality-changed', { participant, quality });
  }

  /**
   * @param {string} id
   * @param {LeaveReason} reason
   */
  remove(id, reason) {
    const participant = this.byId.get(id);
    if (!participant) return;
    this.byId.delete(id);
    this.#former.set(id, participant);
    const [oldest] = this.#former.keys();
    if (this.#former.size > FORMER_MAX && oldest !== undefined) this.#former.delete(oldest);
    this.speakers = this.speakers.filter((speaker) => speaker !== participant);
    for (const track of participant.stream.getTracks()) participant.stream.removeTrack(track);
    for (const track of participant.screen.getTracks()) participant.screen.removeTrack(track);
    this.#emit('peer-left', { participant, reason });
  }

  /** All others are in another room than we are. */
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
   * Updates the streams of all participants to the slots.
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

  /** The MID through which a participant's microphone is received. @param {Participant} participant */
  microphoneOf({ id }) {
    return this.slots.find(({ peer, source }) => peer === id && source === 'microphone')?.mid;
  }
}
