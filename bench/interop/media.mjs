// The test media and its recognition, as in media.py and, for pages, in ../e2e/browser.mjs: a picture shows its sender's
// number and a frame counter as bars, and each sender has its own tone.

import { BARS, toneOf } from '../e2e/browser.mjs';

export const [WIDTH, HEIGHT, FPS, RATE] = [320, 180, 15, 48_000];

const checkOf = (number, count) => (number ^ count ^ (count >> 4) ^ (count >> 8)) & 0xf;

/** A frame as I420: bars in the upper half, grey in the lower. */
export function paint(number, count) {
  count &= 0xfff;
  const bits = [1, 0];
  for (const [value, width] of [[number, 4], [count, 12], [checkOf(number, count), 4]]) {
    for (let bit = width - 1; bit >= 0; bit -= 1) bits.push((value >> bit) & 1);
  }
  const data = new Uint8ClampedArray((WIDTH * HEIGHT * 3) / 2).fill(128);
  const row = Uint8ClampedArray.from({ length: WIDTH }, (_, x) => (bits[Math.floor((x * BARS) / WIDTH)] ? 235 : 16));
  for (let y = 0; y < HEIGHT / 2; y += 1) data.set(row, y * WIDTH);
  return data;
}

/** Sender and counter of an I420 frame; undefined if the bars are damaged. */
export function read({ width, height, data }) {
  const row = Math.floor(height / 8) * width;
  const bits = Array.from({ length: BARS }, (_, i) => Number(data[row + Math.floor(((2 * i + 1) * width) / (2 * BARS))] > 127));
  const value = (from, length) => bits.slice(from, from + length).reduce((sum, bit) => sum * 2 + bit, 0);
  const [sender, count, check] = [value(2, 4), value(6, 12), value(18, 4)];
  return bits[0] === 1 && bits[1] === 0 && check === checkOf(sender, count) ? { sender, count } : undefined;
}

/** A piece of a sender's tone, mono, signed 16 bits, from sample `start`. */
export function sound(number, start, samples) {
  const step = (2 * Math.PI * toneOf(number)) / RATE;
  return Int16Array.from({ length: samples }, (_, i) => 8000 * Math.sin(step * (start + i)));
}

/** The numbers of the senders whose tones are in the mono samples. */
export function tonesIn(samples, rate) {
  const energy = samples.reduce((sum, s) => sum + s * s, 0);
  if (energy < samples.length * 10_000) return []; // 100 of 32768: silence
  const found = [];
  for (let number = 1; number < 16; number += 1) {
    const step = (2 * Math.PI * toneOf(number)) / rate;
    let [real, imaginary] = [0, 0];
    samples.forEach((s, i) => {
      real += s * Math.cos(step * i);
      imaginary += s * Math.sin(step * i);
    });
    // A pure tone has all its energy at its frequency.
    if ((2 * (real * real + imaginary * imaginary)) / samples.length > 0.5 * energy) found.push(number);
  }
  return found;
}
