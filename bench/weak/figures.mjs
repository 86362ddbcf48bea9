// From what pages and link have recorded to figures. A window is a pair of times in milliseconds since 1970.

/** How many of the latest intervals between frames count for their mean: as webrtc-stats defines a freeze. */
const INTERVALS = 30;

/** The times between frames of a window, its beginning and its end included: the first frame may come late, and the last long ago. */
function gaps(times, [from, to]) {
  const inside = times.filter((at) => at >= from && at <= to);
  const before = times.findLast((at) => at < from) ?? from;
  const all = [Math.max(before, from - 1_000), ...inside, to];
  return all.slice(1).map((at, i) => at - all[i]);
}

/**
 * Freezes as in webrtc-stats (freezeCount): an interval of more than three times the mean, and of more than the mean and
 * 150 ms. In contrast to Chromium's counter one that has not ended counts too.
 */
function freezes(times, window) {
  const found = { count: 0, seconds: 0, longest: 0 };
  const latest = [];
  for (const gap of gaps(times, window)) {
    const mean = latest.length > 0 ? latest.reduce((a, b) => a + b, 0) / latest.length : 50;
    if (gap > Math.max(3 * mean, mean + 150)) {
      found.count += 1;
      found.seconds += gap / 1000;
    }
    found.longest = Math.max(found.longest, gap);
    latest.push(gap);
    if (latest.length > INTERVALS) latest.shift();
  }
  return found;
}

/** The first and the last sample of a window. */
function ends(samples, [from, to]) {
  const inside = samples.filter(({ at }) => at >= from - 250 && at <= to + 250);
  return [inside[0], inside.at(-1)];
}

const sizeOf = ({ width, height }) => (width ? `${width}x${height}` : 'none');

/** A window in parts of so many milliseconds. */
const every = ([from, to], ms) => Array.from({ length: Math.floor((to - from) / ms) }, (_, i) => [from + i * ms, from + (i + 1) * ms]);

/** Share of the audio of another one that was concealed. */
function concealed(samples, names, name, window) {
  const [first, last] = ends(samples, window);
  const sum = (sample, what) =>
    sample.inbound.filter(({ kind, track }) => kind === 'audio' && names[track] === name).reduce((all, stream) => all + stream[what], 0);
  const all = first ? sum(last, 'samples') - sum(first, 'samples') : 0;
  return all > 0 ? (sum(last, 'concealed') - sum(first, 'concealed')) / all : 1;
}

/** What a caller receives of another one: `undefined` if nothing was recorded. */
export function received({ samples, frames, names }, name, window) {
  const [first, last] = ends(samples, window);
  const found = { name, fps: 0, freezes: 0, frozen: (window[1] - window[0]) / 1000, longest: window[1] - window[0], sizes: [], kbps: 0, audioKbps: 0, concealed: 1, audible: 1, nacks: 0, plis: 0 };
  if (!first || last.at <= first.at) return found;
  const seconds = (last.at - first.at) / 1000;
  const of = (sample, kind) => sample.inbound.filter((stream) => stream.kind === kind && names[stream.track] === name);
  const grown = (kind, what) => {
    const before = (stream) => first.inbound.find(({ track }) => track === stream.track)?.[what] ?? 0;
    return of(last, kind).reduce((sum, stream) => sum + (stream[what] ?? 0) - before(stream), 0);
  };
  found.fps = grown('video', 'frames') / seconds;
  found.kbps = (grown('video', 'bytes') * 8) / seconds / 1000;
  found.audioKbps = (grown('audio', 'bytes') * 8) / seconds / 1000;
  found.nacks = grown('video', 'nacks');
  found.audioNacks = grown('audio', 'nacks');
  found.plis = grown('video', 'plis');
  const samplesReceived = grown('audio', 'samples');
  if (samplesReceived > 0) {
    found.concealed = grown('audio', 'concealed') / samplesReceived;
    found.audible = (grown('audio', 'concealed') - grown('audio', 'silent')) / samplesReceived;
  }
  found.concealedBy5s = every(window, 5_000).map((part) => concealed(samples, names, name, part));
  const emitted = grown('audio', 'emitted');
  found.jitterBufferMs = emitted > 0 ? (1000 * grown('audio', 'delay')) / emitted : 0;
  const shown = grown('video', 'emitted');
  found.videoBufferMs = shown > 0 ? (1000 * grown('video', 'delay')) / shown : 0;
  found.codec = of(last, 'video')[0]?.codec;
  const between = samples.filter(({ at }) => at >= window[0] && at <= window[1]);
  const sizes = between.flatMap((sample) => of(sample, 'video').map(sizeOf));
  found.sizes = [...new Set(sizes)];
  found.size = sizes.sort((a, b) => sizes.filter((s) => s === a).length - sizes.filter((s) => s === b).length).at(-1) ?? 'none';
  const times = Object.entries(frames).filter(([track]) => names[track] === name).flatMap(([, times]) => times).sort((a, b) => a - b);
  const { count, seconds: frozen, longest } = freezes(times, window);
  Object.assign(found, { freezes: count, frozen, longest });
  return found;
}

/** What a caller sends: frames per second of its largest encoding, and bits of all. */
export function sent({ samples }, window) {
  const [first, last] = ends(samples, window);
  if (!first || last.at <= first.at) return { fps: 0, kbps: 0, size: 'none' };
  const seconds = (last.at - first.at) / 1000;
  const videos = (sample) => sample.outbound.filter(({ kind }) => kind === 'video').sort((a, b) => (b.width ?? 0) - (a.width ?? 0));
  const sum = (sample, what) => videos(sample).reduce((sum, stream) => sum + stream[what], 0);
  const [largest] = videos(last);
  const before = videos(first).find(({ rid }) => rid === largest?.rid);
  return {
    fps: ((largest?.frames ?? 0) - (before?.frames ?? 0)) / seconds,
    kbps: ((sum(last, 'bytes') - sum(first, 'bytes')) * 8) / seconds / 1000,
    size: sizeOf(largest ?? {}),
    by: largest?.by,
  };
}

/** Whether the connection was lost, or made anew, in the window. */
export function interruptions({ samples, states }, [from, to]) {
  const bad = ['interrupted', 'reconnecting', 'closed', 'rejoined', 'failed', 'disconnected'];
  const said = states.filter(({ at, state }) => at >= from && at <= to && bad.includes(state)).map(({ state }) => state);
  const last = samples.at(-1);
  return last && last.state !== 'connected' ? [...said, last.state] : said;
}

// Figures of a direction of the link, from its steps of 100 ms: bytes offered, bytes sent, packets dropped, longest queueing.

const [OFFERED, SENT, DROPPED, QUEUEING] = [0, 1, 2, 3];

/** Mean rate of the steps from one second to another, bit/s. */
function rate({ steps, step_ms: ms }, what, from, to) {
  const inside = steps.slice(Math.round((from * 1000) / ms), Math.round((to * 1000) / ms));
  return (inside.reduce((sum, step) => sum + step[what], 0) * 8) / (to - from);
}

/** Share of a capacity that was used from one second to another. */
export const used = (direction, capacity, from, to) => rate(direction, SENT, from, to) / capacity;

/** Mean rate in kb/s of what was sent. */
export const sentKbps = (direction, from, to) => rate(direction, SENT, from, to) / 1000;

/** How many seconds after `from` the offered rate is, over a second, no more than the capacity. */
export function belowAfter(direction, capacity, from, to) {
  for (let at = from; at + 1 <= to; at += 0.1) {
    if (rate(direction, OFFERED, at, at + 1) <= capacity) return at - from;
  }
  return Infinity;
}

/** How many seconds after `from` the rate that is sent is, over a second, at least so high. */
export function backAfter(direction, wanted, from, to) {
  for (let at = from; at + 1 <= to; at += 0.1) {
    if (rate(direction, SENT, at, at + 1) >= wanted) return at - from;
  }
  return Infinity;
}

/** How many seconds after `from` the queue, once it has grown, is shorter than `ms` again; 0 if it does not grow. */
export function drainedAfter({ steps, step_ms: step }, ms, from, to) {
  const inside = steps.slice((from * 1000) / step, (to * 1000) / step).map((values) => values[QUEUEING]);
  const grown = inside.findIndex((queueing) => queueing > ms);
  if (grown < 0) return 0;
  const drained = inside.findIndex((queueing, i) => i > grown && queueing <= ms);
  return drained < 0 ? Infinity : (drained * step) / 1000;
}

/** Highest mean over so many seconds of both directions together, bit/s. */
export function highest(directions, seconds, length) {
  let most = 0;
  for (let at = 0; at + seconds <= length; at += 0.5) {
    most = Math.max(most, directions.reduce((sum, direction) => sum + rate(direction, SENT, at, at + seconds), 0));
  }
  return most;
}

/** Packets that the queue dropped from one second to another. */
export const dropped = ({ steps, step_ms: ms }, from, to) =>
  steps.slice((from * 1000) / ms, (to * 1000) / ms).reduce((sum, step) => sum + step[DROPPED], 0);
