// @ts-check
/** A participant, and the tracks of its streams. */

/** @import { Quality, Role, Source } from './uprtc.js' */

/** A participant of the room: another one, or this client itself (`room.local`). */
export class Participant {
  /**
   * @param {string} id
   * @param {string} name
   * @param {boolean} isLocal
   */
  constructor(id, name, isLocal) {
    /** Unique in the room. */
    this.id = id;
    /** From the token. */
    this.name = name;
    this.isLocal = isLocal;
    /** Whether another participant, who has another token, has a name that looks the same. Show it to the others: one of them may pretend. */
    this.lookalike = false;
    /** What it is, if it is not a person's device. Show a recorder to everybody. @type {Role | undefined} */
    this.role = undefined;
    /** Whether it may send. If not, it only watches and listens. */
    this.publishes = true;
    /** Microphone and camera. The object stays the same; its tracks are added and removed. */
    this.stream = new MediaStream();
    /** The shared screen. The object stays the same too. */
    this.screen = new MediaStream();
    /**
     * Which sources are on. A source that is on may have no track in the stream ({@link isUnseen}). For `room.local`
     * it says what this client sends, also if an operator has muted it.
     */
    this.active = { microphone: false, camera: false, screen: false, screen_audio: false };
    /** Which sources an operator has muted: the server does not forward them. */
    this.muted = { microphone: false, camera: false, screen: false, screen_audio: false };
    /** How good its connection is. @type {Quality} */
    this.quality = 'good';
    /** Audio level, 0 to 1. */
    this.audioLevel = 0;
    /** Whether it speaks: of the others the server says it. */
    this.speaking = false;
  }

  /**
   * Whether it sends this video, and this client does not receive it: the room limits how many videos each participant receives
   * (`videos_max`) and others come first, or this client has too few slots. The event `stream-changed` reports a change.
   * @param {'camera' | 'screen'} source
   */
  isUnseen(source) {
    if (this.isLocal || !this.active[source] || this.muted[source]) return false;
    return this.streamOf(source).getVideoTracks().length === 0;
  }

  /** @param {Source} source */
  streamOf(source) {
    return source === 'screen' || source === 'screen_audio' ? this.screen : this.stream;
  }
}

/**
 * Makes the tracks of `kind` in the stream equal to those of `kind` in `tracks`.
 * @param {MediaStream} stream
 * @param {'audio' | 'video'} kind
 * @param {MediaStreamTrack[]} tracks
 * @returns {boolean} Whether anything changed.
 */
export function moveTracks(stream, kind, tracks) {
  const wanted = tracks.filter((track) => track.kind === kind);
  const present = kind === 'audio' ? stream.getAudioTracks() : stream.getVideoTracks();
  const gone = present.filter((track) => !wanted.includes(track));
  const fresh = wanted.filter((track) => !present.includes(track));
  for (const track of gone) stream.removeTrack(track);
  for (const track of fresh) stream.addTrack(track);
  return gone.length + fresh.length > 0;
}
