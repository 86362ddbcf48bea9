"""GStreamer's webrtcbin as a WHIP publisher or a WHEP player.

usage: gstreamer_peer.py publish|publish-early|publish-sprop URL TOKEN NUMBER | gstreamer_peer.py play URL TOKEN

`publish-early` offers before its encoders have run, like applications that offer at `on-negotiation-needed`:
the offer then has no channel count of Opus, no parameters of H.264 and no SSRCs. `publish-sprop` has its H.264 parameter sets
only in the offer (`sprop-parameter-sets`) and not in the stream; it makes a keyframe every second and ignores keyframe
requests. Reports its state and what it decodes, twice a second; leaves when its input is closed.
"""

import array
import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC

import media
import whip_client
from whip_client import report

PUBLISH = f"""
webrtcbin name=webrtc bundle-policy=max-bundle
appsrc name=pictures is-live=true format=time
  caps=video/x-raw,format=I420,width={media.WIDTH},height={media.HEIGHT},framerate={media.FPS}/1
  ! queue ! x264enc tune=zerolatency speed-preset=veryfast key-int-max=$KEYS $OPTIONS bitrate=400
  ! video/x-h264,profile=constrained-baseline$FORMAT ! rtph264pay name=pay config-interval=$INTERVAL aggregate-mode=zero-latency
  ! application/x-rtp,media=video,encoding-name=H264,payload=96 ! webrtc.
appsrc name=sound is-live=true format=time caps=audio/x-raw,format=S16LE,rate={media.RATE},channels=1,layout=interleaved
  ! queue ! opusenc ! rtpopuspay pt=97
  ! application/x-rtp,media=audio,encoding-name=OPUS,payload=97 ! webrtc.
"""
RECEIVED = {
    "audio": "application/x-rtp,media=audio,encoding-name=OPUS,payload=97,clock-rate=48000,encoding-params=(string)2",
    "video": "application/x-rtp,media=video,encoding-name=H264,payload=96,clock-rate=90000,"
    "packetization-mode=(string)1,profile-level-id=(string)42e01f",
}
DECODE = {
    "audio": "rtpopusdepay ! opusdec ! audioconvert ! audioresample"
    f" ! audio/x-raw,format=S16LE,rate={media.RATE},channels=1 ! appsink name=sink emit-signals=true sync=false",
    "video": "rtph264depay ! avdec_h264 ! videoconvert ! video/x-raw,format=I420"
    " ! appsink name=sink emit-signals=true sync=false",
}


class Peer:
    """One webrtcbin with its sources or its sinks."""

    def __init__(self, role: str, url: str, token: str, number: str = "0") -> None:
        self.url, self.token, self.number = url, token, int(number)
        self.resource = None
        self.is_fed = role == "play"
        self.pictures: dict[int, int] = {}
        self.tones: list[int] = []
        self.heard = array.array("h")
        self.loop = GLib.MainLoop()
        is_publisher = role != "play"
        if is_publisher:
            choices = {"$FORMAT": "", "$INTERVAL": "-1", "$KEYS": "900", "$OPTIONS": ""}
            if role == "publish-sprop":
                # x264 then has its parameter sets in the caps and not in the stream.
                options = "option-string=repeat-headers=0"
                choices = {"$FORMAT": ",stream-format=avc", "$INTERVAL": "0", "$KEYS": "15", "$OPTIONS": options}
            text = PUBLISH
            for name, value in choices.items():
                text = text.replace(name, value)
            self.pipeline = Gst.parse_launch(text)
            if role == "publish-sprop":
                pad = self.pipeline.get_by_name("pay").get_static_pad("src")
                pad.add_probe(Gst.PadProbeType.EVENT_UPSTREAM, self.without_requests)
            self.webrtc = self.pipeline.get_by_name("webrtc")
        else:
            self.pipeline = Gst.Pipeline.new(None)
            self.webrtc = Gst.ElementFactory.make("webrtcbin", "webrtc")
            self.webrtc.set_property("bundle-policy", GstWebRTC.WebRTCBundlePolicy.MAX_BUNDLE)
            self.pipeline.add(self.webrtc)
        self.webrtc.connect("notify::ice-gathering-state", self.on_gathering)
        self.webrtc.connect("pad-added", self.on_pad)
        if is_publisher:
            self.set_directions(GstWebRTC.WebRTCRTPTransceiverDirection.SENDONLY)
        else:
            self.pipeline.set_state(Gst.State.READY)
            for caps in RECEIVED.values():
                direction = GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY
                self.webrtc.emit("add-transceiver", direction, Gst.Caps.from_string(caps))
        bus = self.pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::error", self.on_error)
        self.pipeline.set_state(Gst.State.PLAYING)
        if role in ("publish", "publish-sprop"):
            self.feed()
            GLib.timeout_add(20, self.offer_when_formatted)
        else:
            GLib.idle_add(self.offer)
        GLib.timeout_add(500, self.tell)
        threading.Thread(target=self.until_closed, daemon=True).start()

    def without_requests(self, _, info):
        """Drops keyframe requests: a requested keyframe would contain the parameter sets."""
        structure = info.get_event().get_structure()
        is_request = structure is not None and structure.get_name() == "GstForceKeyUnit"
        return Gst.PadProbeReturn.DROP if is_request else Gst.PadProbeReturn.OK

    def set_directions(self, direction) -> None:
        for i in range(2):
            self.webrtc.emit("get-transceiver", i).set_property("direction", direction)

    def feed(self) -> None:
        """Starts to push tone and pictures."""
        self.is_fed = True
        for name in ("sound", "pictures"):
            threading.Thread(target=self.push, args=(name,), daemon=True).start()

    def push(self, name: str) -> None:
        source = self.pipeline.get_by_name(name)
        per_second = 50 if name == "sound" else media.FPS
        samples, count, began = media.RATE // 50, 0, GLib.get_monotonic_time()
        while True:
            due = began + count * 1_000_000 // per_second
            GLib.usleep(max(0, due - GLib.get_monotonic_time()))
            if name == "sound":
                data = media.sound(self.number, count * samples, samples)
            else:
                data = media.paint(self.number, count)
            buffer = Gst.Buffer.new_wrapped(data)
            buffer.pts = count * Gst.SECOND // per_second
            buffer.duration = Gst.SECOND // per_second
            if source.emit("push-buffer", buffer) != Gst.FlowReturn.OK:
                return
            count += 1

    def offer_when_formatted(self) -> bool:
        caps = [pad.get_current_caps() for pad in self.webrtc.sinkpads]
        if not all(c and c.get_structure(0).has_field("ssrc") for c in caps):
            return True
        return self.offer()

    def offer(self) -> bool:
        def created(promise, _):
            reply = promise.get_reply()  # The reply owns the offer and must live as long.
            offer = reply.get_value("offer")
            self.webrtc.emit("set-local-description", offer, Gst.Promise.new())
            if not self.is_fed:
                self.feed()

        self.webrtc.emit("create-offer", None, Gst.Promise.new_with_change_func(created, None))
        return False

    def on_gathering(self, *_) -> None:
        done = self.webrtc.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE
        if done and self.resource is None:
            self.resource = ""
            GLib.idle_add(self.signal)

    def signal(self) -> bool:
        sdp = self.webrtc.get_property("local-description").sdp.as_text()
        text, self.resource = whip_client.offer(self.url, self.token, sdp)
        _, message = GstSdp.SDPMessage.new_from_text(text)
        answer = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, message)
        self.webrtc.emit("set-remote-description", answer, Gst.Promise.new())
        return False

    def on_pad(self, _, pad) -> None:
        if pad.direction != Gst.PadDirection.SRC:
            return
        kind = pad.get_current_caps().get_structure(0).get_string("media")
        decoder = Gst.parse_bin_from_description(DECODE[kind], True)
        on_sample = self.on_picture if kind == "video" else self.on_sound
        decoder.get_by_name("sink").connect("new-sample", on_sample)
        self.pipeline.add(decoder)
        decoder.sync_state_with_parent()
        pad.link(decoder.get_static_pad("sink"))

    def on_picture(self, sink):
        sample = sink.emit("pull-sample")
        caps = sample.get_caps().get_structure(0)
        width, height = caps.get_value("width"), caps.get_value("height")
        buffer = sample.get_buffer()
        found = media.read(buffer.extract_dup(0, width * height), (width + 3) // 4 * 4, width, height)
        if found:
            self.pictures[found[0]] = found[1]
        return Gst.FlowReturn.OK

    def on_sound(self, sink):
        buffer = sink.emit("pull-sample").get_buffer()
        self.heard.frombytes(buffer.extract_dup(0, buffer.get_size()))
        if len(self.heard) >= media.RATE // 2:
            self.tones = media.tones_in(self.heard[: media.RATE // 5])
            self.heard = array.array("h")
        return Gst.FlowReturn.OK

    def on_error(self, _, message) -> None:
        error, details = message.parse_error()
        print(error.message, details, file=sys.stderr)
        self.loop.quit()

    def tell(self) -> bool:
        state = self.webrtc.get_property("connection-state").value_nick
        report(state=state, pictures=self.pictures, tones=self.tones)
        return True

    def until_closed(self) -> None:
        sys.stdin.read()
        GLib.idle_add(self.loop.quit)

    def run(self) -> None:
        self.loop.run()
        if self.resource:
            report(left=whip_client.leave(self.resource, self.token))
        self.pipeline.set_state(Gst.State.NULL)


Gst.init(None)
report(version=Gst.version_string())
Peer(*sys.argv[1:]).run()
