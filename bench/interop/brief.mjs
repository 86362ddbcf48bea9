// What a peer of data tells of a message that came, and what the test compares it with.

import { createHash } from 'node:crypto';

/** What is told of a message: a short text as it is, else its length and the beginning of its SHA-256. */
export function brief(data) {
  if (typeof data === 'string' && data.length < 100) return data;
  const bytes = Buffer.from(data);
  const kind = typeof data === 'string' ? 'text' : 'bytes';
  return `${kind} ${bytes.length} ${createHash('sha256').update(bytes).digest('hex').slice(0, 16)}`;
}
