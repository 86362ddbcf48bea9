// @ts-check
/** What is received and sent, and how good connections are, in words and numbers. */

/** @import { Participant, ParticipantStats, Quality, RoomStats } from './sdk/uprtc.js' */

/**
 * A person's connection in words; empty if there is nothing to say of it.
 * @param {Quality} quality
 */
export function words(quality) {
  if (quality === 'good') return '';
  return quality === 'weak' ? 'weak connection' : 'no connection';
}

/** Round-trip time and rates in one line. @param {RoomStats} stats */
export function summary({ rttMs, outgoing, incoming }) {
  const rtt = rttMs === undefined ? '' : `${Math.round(rttMs)} ms`;
  const down = [...incoming.values()].reduce((sum, part) => sum + total(part), 0);
  return [rtt, `↑ ${rate(total(outgoing))}`, `↓ ${rate(down)}`].filter(Boolean).join('  ·  ');
}

/**
 * Round-trip time and rates of each participant.
 * @param {RoomStats} stats
 * @param {ReadonlyMap<string, Participant>} participants
 * @param {boolean} mayPublish
 * @returns {[string, string][]} Rows of a name and its numbers.
 */
export function numbers({ rttMs, outgoing, incoming }, participants, mayPublish) {
  /** @type {[string, string][]} */
  const rows = [['Round-trip time', rttMs === undefined ? '–' : `${rttMs.toFixed(1)} ms`]];
  if (mayPublish) rows.push(['You send', describe(outgoing)]);
  for (const [id, part] of incoming) {
    const participant = participants.get(id);
    if (participant?.publishes) rows.push([participant.name, describe(part)]);
  }
  return rows;
}

/** @param {ParticipantStats} stats */
export function total({ microphone, camera, screen }) {
  return (microphone?.bps ?? 0) + (camera?.bps ?? 0) + (screen?.bps ?? 0);
}

/** @param {number} bps */
export function rate(bps) {
  return bps < 1e6 ? `${Math.round(bps / 1000)} kb/s` : `${(bps / 1e6).toFixed(1)} Mb/s`;
}

/** @param {ParticipantStats} stats */
function describe(stats) {
  const video = stats.screen?.bps ? stats.screen : stats.camera;
  const size = video?.bps ? `${video.width}×${video.height} · ${Math.round(video.fps)} fps` : '';
  const loss = Math.max(stats.camera?.loss ?? 0, stats.microphone?.loss ?? 0);
  return [size, rate(total(stats)), `${(loss * 100).toFixed(1)} % lost`].filter(Boolean).join(' · ');
}
