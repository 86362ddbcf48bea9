// The figures as text.

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

/** Lines of columns, padded. */
function columns(rows) {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((cells) => cells[i].length)));
  return rows.map((cells) => `  ${cells.map((cell, i) => cell.padEnd(widths[i])).join('   ')}`.trimEnd());
}

const video = ({ to, name, fps, freezes, frozen, longest, size, kbps, nacks, plis, videoBufferMs }) =>
  [`${to} sees ${name}`, `${fps.toFixed(1)} fps`, `${freezes} freezes, ${frozen.toFixed(1)} s, longest ${Math.round(longest)} ms`, `${size}, ${Math.round(kbps)} kb/s, ${nacks} NACK, ${plis} PLI, buffer ${Math.round(videoBufferMs ?? 0)} ms`];

const audio = ({ to, name, concealed, concealedBy5s, audible, audioKbps, audioNacks, jitterBufferMs }) =>
  [`${to} hears ${name}`, `${percent(concealed)} concealed`, `by 5 s: ${concealedBy5s.map((share) => (100 * share).toFixed(1)).join(' ')}, ${percent(audible)} audibly`, `${Math.round(audioKbps)} kb/s, ${audioNacks} NACK, buffer ${Math.round(jitterBufferMs ?? 0)} ms`];

function direction(name, { utilisation, sent_bytes: bytes, queueing_ms_p50: p50, queueing_ms_p95: p95, queueing_ms_max: max, queue_drops: drops, lost }, seconds) {
  const rate = `${Math.round((bytes * 8) / seconds / 1000)} kb/s`;
  const share = utilisation === null ? '' : `, ${percent(utilisation, 0)} used`;
  return [`link ${name}`, rate + share, `queue ${Math.round(p50)} / p95 ${Math.round(p95)} / max ${Math.round(max)} ms`, `${drops} dropped by the queue, ${lost} lost`];
}

/** What the server estimated that A's path carries, and the encodings that it gave, one figure for each second. */
function path(samples) {
  const row = (what, of) => [what, samples.map(of).join(' ')];
  return [
    row('estimate, kb/s', ({ estimate }) => Math.round(estimate / 1000)),
    row('arrives, kb/s', ({ arrives }) => Math.round((arrives ?? 0) / 1000)),
    row('encodings given', ({ given }) => given.join('+') || '-'),
  ];
}

/** The figures of one run: of ours, or of two browsers directly. */
export function figures(title, run) {
  const senders = Object.entries(run.senders).map(([name, { fps, kbps, size, by }]) => [`${name} sends`, `${fps.toFixed(1)} fps`, `${size}, ${Math.round(kbps)} kb/s`, by && by !== 'none' ? `limited by ${by}` : '']);
  const streams = [...run.seen, ...run.seenOfA];
  const rows = [
    ...senders,
    ...streams.map(video),
    ...streams.map(audio),
    direction('down', run.link.down, run.seconds),
    direction('up', run.link.up, run.seconds),
  ];
  const late = `late by p95 ${run.link.late_ms_p95} ms, max ${run.link.late_ms_max} ms`;
  const server = run.path?.length ? columns(path(run.path)) : [];
  return [`${title} (${run.seconds} s; the link was ${late})`, ...columns(rows), ...server].join('\n');
}

/** The rows next to their targets. */
export function verdicts(rows) {
  return columns(rows.map(({ what, value, target, passed }) => [passed ? '✓' : '✗', what, value, target])).join('\n');
}

/** One line per case, for docs/MEASURING.md. */
export function summary(results) {
  const lines = ['| case | passed | what was missed |', '|---|---|---|'];
  for (const { scenario, rows } of results) {
    const missed = rows.filter(({ passed }) => !passed).map(({ what, value, target }) => `${what}: ${value} (${target})`);
    lines.push(`| ${scenario.name} | ${rows.length - missed.length} of ${rows.length} | ${missed.join('; ')} |`);
  }
  return lines.join('\n');
}
