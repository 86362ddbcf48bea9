"""The test media and its recognition, as in `../e2e/browser.mjs` for pages.

A picture shows its sender's number and a frame counter as bars; each sender has its own tone. It uses only
the standard library, because two Python installations run it.

As a program, `media.py NUMBER` writes the pictures of a sender as raw I420 frames to its output until that is closed.
"""

import array
import cmath
import math
import os
import sys

WIDTH, HEIGHT, FPS = 320, 180, 15
RATE = 48_000
#: A white bar, a black one, then the bits of sender (4), counter (12) and their check sum (4).
BARS = 22
#: Luma of a black and a white bar, video range.
BLACK, WHITE = 16, 235


def _check(number: int, count: int) -> int:
    return (number ^ count ^ (count >> 4) ^ (count >> 8)) & 0xF


def paint(number: int, count: int) -> bytes:
    """A frame as I420: bars in the upper half, grey in the lower."""
    count &= 0xFFF
    bits = [1, 0]
    for value, width in ((number, 4), (count, 12), (_check(number, count), 4)):
        bits += [(value >> bit) & 1 for bit in reversed(range(width))]
    row = bytes(WHITE if bits[x * BARS // WIDTH] else BLACK for x in range(WIDTH))
    luma = row * (HEIGHT // 2) + bytes([96]) * (WIDTH * (HEIGHT - HEIGHT // 2))
    return luma + bytes([128]) * (2 * (WIDTH // 2) * (HEIGHT // 2))


def read(luma: bytes, stride: int, width: int, height: int):
    """Sender and counter of a frame, from its luma; None if the bars are damaged."""
    row = height // 8 * stride
    bits = [int(luma[row + (2 * i + 1) * width // (2 * BARS)] > 127) for i in range(BARS)]

    def value(first: int, length: int) -> int:
        return int("".join(map(str, bits[first : first + length])), 2)

    number, count, check = value(2, 4), value(6, 12), value(18, 4)
    return (number, count) if bits[:2] == [1, 0] and check == _check(number, count) else None


def tone_of(number: int) -> int:
    """The frequency of a sender's tone, hertz."""
    return 500 + 350 * number


def sound(number: int, start: int, samples: int) -> bytes:
    """A piece of a sender's tone, mono, signed 16 bits, from sample `start`."""
    step = 2 * math.pi * tone_of(number) / RATE
    return array.array("h", (int(8000 * math.sin(step * (start + i))) for i in range(samples))).tobytes()


def tones_in(samples, rate: int = RATE) -> list[int]:
    """The numbers of the senders whose tones are in the mono samples (a tenth of a second or more)."""
    energy = sum(s * s for s in samples)
    if energy < len(samples) * 10_000:  # 100 of 32768: silence
        return []
    found = []
    for number in range(1, 16):
        step = -2j * math.pi * tone_of(number) / rate
        level = abs(sum(s * cmath.exp(step * i) for i, s in enumerate(samples)))
        # A pure tone has all its energy at its frequency.
        if 2 * level * level / len(samples) > 0.5 * energy:
            found.append(number)
    return found


def main() -> None:
    number, count = int(sys.argv[1]), 0
    try:
        while True:
            os.write(1, paint(number, count))
            count += 1
    except BrokenPipeError:
        pass


if __name__ == "__main__":
    main()
