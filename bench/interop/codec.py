"""An external codec, for clients that transport RTP and neither encode nor decode it.

usage: codec.py encode NUMBER | codec.py decode

`encode` writes a sender's bars in H.264 and its tone in Opus, in lines of JSON: kind, RTP timestamp and payloads
(Base64) of one frame. `decode` reads such lines, each with the payloads of a whole frame, and reports the senders that it
recognises. Both end with their input.
"""

import array
import base64
import json
import sys
import threading
import time

from aiortc.codecs import depayload, get_decoder, get_encoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

import media
from frames import picture, piece, samples_of, seen_in
from whip_client import report

CODECS = {
    "audio": RTCRtpCodecParameters("audio/opus", 48_000, channels=2, payloadType=111),
    "video": RTCRtpCodecParameters("video/H264", 90_000, payloadType=96),
}
#: A keyframe each second.
KEYFRAME_EVERY = media.FPS


def encode(number: int) -> None:
    encoders = {kind: get_encoder(codec) for kind, codec in CODECS.items()}
    lock = threading.Lock()

    def run(kind: str, per_second: int) -> None:
        count, began = 0, time.monotonic()
        while True:
            time.sleep(max(0.0, began + count / per_second - time.monotonic()))
            frame = picture(number, count) if kind == "video" else piece(number, count)
            is_key = kind == "video" and count % KEYFRAME_EVERY == 0
            payloads, timestamp = encoders[kind].encode(frame, force_keyframe=is_key)
            with lock:
                report(kind=kind, timestamp=timestamp, payloads=[base64.b64encode(p).decode() for p in payloads])
            count += 1

    for kind, per_second in (("video", media.FPS), ("audio", 50)):
        threading.Thread(target=run, args=(kind, per_second), daemon=True).start()
    sys.stdin.read()


def decode() -> None:
    decoders = {kind: get_decoder(codec) for kind, codec in CODECS.items()}
    pictures: dict[int, int] = {}
    heard = array.array("h")
    for line in sys.stdin:
        coded = json.loads(line)
        kind = coded["kind"]
        data = b"".join(depayload(CODECS[kind], base64.b64decode(payload)) for payload in coded["payloads"])
        for frame in decoders[kind].decode(JitterFrame(data, coded["timestamp"])):
            if kind == "audio":
                heard += samples_of(frame)
            elif found := seen_in(frame):
                pictures[found[0]] = found[1]
                report(pictures=pictures)
        if len(heard) >= media.RATE // 2:
            report(tones=media.tones_in(heard[: media.RATE // 5]))
            heard = array.array("h")


if __name__ == "__main__":
    if sys.argv[1] == "encode":
        encode(int(sys.argv[2]))
    else:
        decode()
