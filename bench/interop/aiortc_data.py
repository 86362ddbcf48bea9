"""Data channels of aiortc.

Takes the commands of data.mjs, one a line, and reports what comes; leaves when its input is closed.
"""

import asyncio
import base64
import hashlib
import json
import sys

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from whip_client import report


def brief(data: str | bytes) -> str:
    """What is told of a message: a short text as it is, else its length and the beginning of its SHA-256."""
    if isinstance(data, str) and len(data) < 100:
        return data
    octets = data.encode() if isinstance(data, str) else data
    kind = "text" if isinstance(data, str) else "bytes"
    return f"{kind} {len(octets)} {hashlib.sha256(octets).hexdigest()[:16]}"


class Peer:
    """A connection, its channels, and what came on them."""

    def __init__(self) -> None:
        # Without ICE servers: none is reachable, and aiortc would wait for them.
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.own: dict[str, RTCDataChannel] = {}
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.came: dict[str, dict] = {}
        self.got: dict[str, list[str]] = {}
        self.pc.on("datachannel", self.on_channel)

    def on_channel(self, channel: RTCDataChannel) -> None:
        names = ("ordered", "maxRetransmits", "maxPacketLifeTime", "protocol")
        self.came[channel.label] = {name: getattr(channel, name) for name in names}
        self.watch(channel)

    def watch(self, channel: RTCDataChannel) -> None:
        label = channel.label
        self.own[label] = channel
        channel.on("open", lambda: self.opened.append(label))
        channel.on("close", lambda: self.closed.append(label))
        channel.on("message", lambda data: self.got.setdefault(label, []).append(brief(data)))

    async def run(self, command: str, label: str = "", **given) -> None:
        if command == "open":
            self.watch(self.pc.createDataChannel(label, **given["options"]))
        elif command == "offer":
            await self.pc.setLocalDescription(await self.pc.createOffer())
            report(offer=self.pc.localDescription.sdp)
        elif command == "answer":
            await self.pc.setRemoteDescription(RTCSessionDescription(given["sdp"], "answer"))
        elif command == "send":
            self.own[label].send(given["text"] if "text" in given else base64.b64decode(given["base64"]))
        elif command == "close":
            self.own[label].close()


async def main() -> None:
    peer = Peer()

    async def obey() -> None:
        while line := await asyncio.to_thread(sys.stdin.readline):
            await peer.run(**json.loads(line))

    obeying = asyncio.ensure_future(obey())
    while not obeying.done():
        report(state=peer.pc.connectionState, open=peer.opened, closed=peer.closed, came=peer.came, got=peer.got)
        await asyncio.wait([obeying], timeout=0.1)
    obeying.result()
    await peer.pc.close()


asyncio.run(main())
