"""Converts between the bytes of media.py and the frames of PyAV."""

import array
import fractions

import av

import media


def picture(number: int, count: int) -> av.VideoFrame:
    """One picture of a sender."""
    frame = av.VideoFrame(media.WIDTH, media.HEIGHT, "yuv420p")
    painted, start = media.paint(number, count), 0
    for plane in frame.planes:
        rows = [painted[start + y * plane.width : start + (y + 1) * plane.width] for y in range(plane.height)]
        plane.update(b"".join(row.ljust(plane.line_size, b"\0") for row in rows))
        start += plane.width * plane.height
    frame.pts, frame.time_base = count * 90_000 // media.FPS, fractions.Fraction(1, 90_000)
    return frame


def piece(number: int, count: int) -> av.AudioFrame:
    """20 ms of a sender's tone."""
    samples = media.RATE // 50
    frame = av.AudioFrame(format="s16", layout="mono", samples=samples)
    frame.planes[0].update(media.sound(number, count * samples, samples))
    frame.pts, frame.sample_rate = count * samples, media.RATE
    frame.time_base = fractions.Fraction(1, media.RATE)
    return frame


def seen_in(frame: av.VideoFrame):
    """Sender and counter, see media.read."""
    plane = frame.planes[0]
    return media.read(bytes(plane), plane.line_size, frame.width, frame.height)


def samples_of(frame: av.AudioFrame) -> array.array:
    """The first channel."""
    channels = len(frame.layout.channels)
    return array.array("h", bytes(frame.planes[0])[: 2 * channels * frame.samples])[::channels]
