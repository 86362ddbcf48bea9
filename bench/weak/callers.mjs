// Who is in a call: pages of two Chromium, one behind the link and one here.

import { until } from '../e2e/edge.mjs';
import { instrument } from './page.mjs';

export class Caller {
  static async open(browser, base, name) {
    const caller = new Caller();
    caller.name = name;
    caller.context = await browser.newContext({ viewport: { width: 320, height: 200 } });
    await caller.context.addInitScript(instrument);
    caller.page = await caller.context.newPage();
    // Behind a lossy link the page may take long.
    await caller.page.goto(base, { timeout: 60_000 });
    return caller;
  }

  /** Joins a room of the edge. */
  async join(edge, room, content) {
    const token = await edge.token('--room', room, '--name', this.name, '--publish', '--subscribe');
    await this.page.evaluate((options) => window.weak.joinRoom(options), { room, token, content });
  }

  /** Connects two callers without a server. */
  static async connect(first, second, content) {
    const offer = await first.page.evaluate((o) => window.weak.direct(o), { content, other: second.name });
    const answer = await second.page.evaluate((o) => window.weak.direct(o), { content, offer, other: first.name });
    await first.page.evaluate((answer) => window.weak.pc.setRemoteDescription(answer), answer);
  }

  /** Waits until these others are received: a frame of each was decoded. False if they are not within `ms`. */
  async receives(others, ms) {
    const has = (names) => {
      const { samples, names: known } = window.weak;
      const seen = samples.at(-1)?.inbound.filter(({ kind, frames }) => kind === 'video' && frames > 0) ?? [];
      return names.every((name) => seen.some(({ track }) => known[track] === name));
    };
    return until(`${this.name} receives ${others}`, () => this.page.evaluate(has, others), ms).catch(() => false);
  }

  /** Pins the video of another one. */
  async pin(other) {
    await this.page.evaluate((name) => {
      const { room } = window.weak;
      for (const participant of room.participants.values()) room.setShown(participant, { pinned: participant.name === name });
    }, other);
  }

  /** What was recorded. */
  recorded() {
    return this.page.evaluate(() => {
      const { samples, frames, names, states } = window.weak;
      return { samples, frames, names, states };
    });
  }

  close() {
    return this.context.close();
  }
}
