// @ts-check
/** Somebody in the room, and the tracks of their streams. */

/** @import { Source } from './uprtc.js' */

/** Somebody in the room: another participant, or this client itself (`room.local`). */
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
    /** Whether it can send anything. Who cannot only watches and listens. */
    this.publishes = true;
    /** Microphone and camera. The object stays the same; its tracks come and go. */
    this.stream = new MediaStream();
    /** The shared screen. The object stays the same too. */
    this.screen = new MediaStream();
    /**
     * Which sources are on. What is on may still lack a track in the stream, if there are too few slots. Of `room.local`
     * it says what this client sends, whether or not an operator lets it pass.
     */
    this.active = { microphone: false, camera: false, screen: false, screen_audio: false };
    /** Which sources an operator has muted: nobody gets them, whatever their owner does. */
    this.muted = { microphone: false, camera: false, screen: false, screen_audio: false };
    /** How loud, 0 to 1. */
    this.audioLevel = 0;
    this.speaking = false;
  }

  /** @param {Source} source */
  streamOf(source) {
    return source === 'screen' || source === 'screen_audio' ? this.screen : this.stream;
  }
}

/**
 * Leaves exactly those of `tracks` that are of `kind` in the stream.
 * @param {MediaStream} stream
 * @param {'audio' | 'video'} kind
 * @param {MediaStreamTrack[]} tracks
 * @returns {boolean} Whether anything moved.
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
