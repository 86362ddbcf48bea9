"""aiortc as a WHIP publisher or a WHEP player.

usage: aiortc_peer.py publish URL TOKEN NUMBER MIME | aiortc_peer.py play URL TOKEN PAIRS

Reports its state and what it decodes, twice a second; leaves when its input is closed.
"""

import array
import asyncio
import sys

import av
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)

import frames
import media
import whip_client
from whip_client import report


class Pictures(MediaStreamTrack):
    """The bars of one sender."""

    kind = "video"

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.count, self.began = number, 0, None

    async def recv(self) -> av.VideoFrame:
        await pace(self, self.count / media.FPS)
        frame = frames.picture(self.number, self.count)
        self.count += 1
        return frame


class Sound(MediaStreamTrack):
    """The tone of one sender, in pieces of 20 ms."""

    kind = "audio"

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.count, self.began = number, 0, None

    async def recv(self) -> av.AudioFrame:
        await pace(self, self.count / 50)
        frame = frames.piece(self.number, self.count)
        self.count += 1
        return frame


async def pace(track, due: float) -> None:
    """Waits until `due` seconds after the track's first frame."""
    now = asyncio.get_running_loop().time()
    track.began = now if track.began is None else track.began
    await asyncio.sleep(max(0.0, track.began + due - now))


class Seen:
    """What was decoded: picture counters by sender, and the tones in the last half second of each track."""

    def __init__(self) -> None:
        self.pictures: dict[int, int] = {}
        self.tones: dict[str, list[int]] = {}

    async def watch(self, track: MediaStreamTrack) -> None:
        while True:
            found = frames.seen_in(await track.recv())
            if found:
                self.pictures[found[0]] = found[1]

    async def listen(self, track: MediaStreamTrack) -> None:
        heard = array.array("h")
        while True:
            frame = await track.recv()
            heard += frames.samples_of(frame)
            if len(heard) >= frame.sample_rate // 2:
                self.tones[track.id] = media.tones_in(heard[: frame.sample_rate // 5], frame.sample_rate)
                heard = array.array("h")


async def main(role: str, url: str, token: str, number: str, mime: str = "") -> None:
    # Without ICE servers: none is reachable, and aiortc would wait for them.
    # One bundle: with `balanced`, aiortc leaves the second video on a transport that the answer closes.
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    seen, tasks = Seen(), set()

    @pc.on("track")
    def on_track(track: MediaStreamTrack) -> None:
        watch = seen.watch if track.kind == "video" else seen.listen
        tasks.add(asyncio.ensure_future(watch(track)))

    if role == "publish":
        pc.addTrack(Sound(int(number)))
        pc.addTrack(Pictures(int(number)))
        codecs = [c for c in RTCRtpSender.getCapabilities("video").codecs if c.mimeType == mime]
        pc.getTransceivers()[1].setCodecPreferences(codecs)
    else:
        for _ in range(int(number)):
            pc.addTransceiver("audio", direction="recvonly")
            pc.addTransceiver("video", direction="recvonly")
    await pc.setLocalDescription(await pc.createOffer())
    answer, resource = await asyncio.to_thread(whip_client.offer, url, token, pc.localDescription.sdp)
    await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    closed = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    while not closed.done():
        tones = sorted({tone for tones in seen.tones.values() for tone in tones})
        report(state=pc.connectionState, pictures=seen.pictures, tones=tones)
        await asyncio.wait([closed], timeout=0.5)
    report(left=await asyncio.to_thread(whip_client.leave, resource, token))
    for task in tasks:
        task.cancel()
    await pc.close()


asyncio.run(main(*sys.argv[1:]))
