// @ts-check
/** How well media arrives, in a word and in numbers. */

/** @import { Participant, ParticipantStats, RoomStats } from './sdk/uprtc.js' */

/** @typedef {'good' | 'fair' | 'poor' | 'none' | ''} Quality `none`: nothing arrives; empty: there is nothing to say. */

/** Looks, one after the other, at which nothing has come of what somebody sends, until that is said. */
const EMPTY_LOOKS_MAX = 2;

/** Judges everybody at each look. */
export class Judge {
  /** @type {WeakMap<Participant, number>} */
  #empty = new WeakMap();

  /**
   * @param {Participant} participant
   * @param {RoomStats} stats
   * @returns {Quality}
   */
  quality(participant, stats) {
    if (participant.isLocal) return own(stats);
    const { active, id } = participant;
    const { camera, microphone } = stats.incoming.get(id) ?? {};
    const isExpected = (active.camera && camera) || (active.microphone && microphone);
    const isEmpty = isExpected && !camera?.bps && !microphone?.bps;
    const looks = isEmpty ? (this.#empty.get(participant) ?? 0) + 1 : 0;
    this.#empty.set(participant, looks);
    if (!isExpected) return '';
    if (isEmpty) return looks >= EMPTY_LOOKS_MAX ? 'none' : '';
    const loss = Math.max(camera?.loss ?? 0, microphone?.loss ?? 0);
    const jitterMs = Math.max(camera?.jitterMs ?? 0, microphone?.jitterMs ?? 0);
    const isFrozen = active.camera && camera && camera.frames > 0 && camera.fps < 2;
    if (loss > 0.08 || isFrozen) return 'poor';
    return loss > 0.02 || jitterMs > 60 ? 'fair' : 'good';
  }
}

/** @param {RoomStats} stats @returns {Quality} */
function own({ rttMs, outgoing: { camera, microphone } }) {
  if (!camera?.bps && !microphone?.bps) return '';
  const loss = Math.max(camera?.loss ?? 0, microphone?.loss ?? 0);
  if (loss > 0.08 || (rttMs ?? 0) > 600) return 'poor';
  return loss > 0.02 || (rttMs ?? 0) > 250 ? 'fair' : 'good';
}

/** Round trip and rates in a line. @param {RoomStats} stats */
export function summary({ rttMs, outgoing, incoming }) {
  const rtt = rttMs === undefined ? '' : `${Math.round(rttMs)} ms`;
  const down = [...incoming.values()].reduce((sum, part) => sum + total(part), 0);
  return [rtt, `↑ ${rate(total(outgoing))}`, `↓ ${rate(down)}`].filter(Boolean).join('  ·  ');
}

/**
 * The same for each participant.
 * @param {RoomStats} stats
 * @param {ReadonlyMap<string, Participant>} participants
 * @param {boolean} mayPublish
 * @returns {[string, string][]} Rows of a name and its numbers.
 */
export function numbers({ rttMs, outgoing, incoming }, participants, mayPublish) {
  /** @type {[string, string][]} */
  const rows = [['Round trip', rttMs === undefined ? '–' : `${rttMs.toFixed(1)} ms`]];
  if (mayPublish) rows.push(['You send', describe(outgoing)]);
  for (const [id, part] of incoming) {
    const participant = participants.get(id);
    if (participant?.publishes) rows.push([participant.name, describe(part)]);
  }
  return rows;
}

/** @param {ParticipantStats} stats */
function total({ microphone, camera, screen }) {
  return (microphone?.bps ?? 0) + (camera?.bps ?? 0) + (screen?.bps ?? 0);
}

/** @param {number} bps */
function rate(bps) {
  return bps < 1e6 ? `${Math.round(bps / 1000)} kb/s` : `${(bps / 1e6).toFixed(1)} Mb/s`;
}

/** @param {ParticipantStats} stats */
function describe(stats) {
  const video = stats.screen?.bps ? stats.screen : stats.camera;
  const size = video?.bps ? `${video.width}×${video.height} · ${Math.round(video.fps)} fps` : '';
  const loss = Math.max(stats.camera?.loss ?? 0, stats.microphone?.loss ?? 0);
  return [size, rate(total(stats)), `${(loss * 100).toFixed(1)} % lost`].filter(Boolean).join(' · ');
}
