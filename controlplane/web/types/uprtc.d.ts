// Types of uprtc's client module. Made by tools/sdk-types.mjs; changes here are lost.

/**
 * uprtc's client: a room in a few lines, in any browser with WebRTC. One ES module without dependencies.
 *
 *     import { connect } from '/sdk/uprtc.js';
 *
 *     const room = await connect({ room: 'demo', token, microphone: true, camera: true });
 *     for (const participant of room.participants.values()) show(participant);
 *     room.on('peer-joined', ({ participant }) => show(participant));
 *     room.on('peer-left', ({ participant }) => hide(participant));
 *
 *     function show(participant) {
 *       const video = document.createElement('video');
 *       video.autoplay = video.playsInline = true;
 *       video.srcObject = participant.stream;   // the same MediaStream for as long as the participant is there
 *       document.body.append(video);
 *     }
 *
 * How it works (docs/PROTOCOL.md): one RTCPeerConnection, one offer, one answer. The offer holds three senders
 * (microphone, camera, screen) and enough receive slots for the whole room; who is in which slot comes later by
 * signals, and tracks move between the participants' streams. Devices are switched by `replaceTrack`, so no section is
 * ever negotiated again. When the signalling socket is lost the media runs on and the socket is taken up again; when
 * the media is lost, ICE is restarted, and if that does not help the room is entered anew, with the same streams in the
 * page's elements.
 */

/**
 * Opens microphone and camera with one question to the person, for a preview before joining. What cannot be had is
 * missing from the result, and the reason is among the errors.
 * @param {{ microphone?: boolean | MediaTrackConstraints, camera?: boolean | MediaTrackConstraints }} wanted
 * @returns {Promise<{ microphone?: MediaStreamTrack, camera?: MediaStreamTrack, errors: UprtcError[] }>}
 */
export declare function openDevices({ microphone, camera }: {
    microphone?: boolean | MediaTrackConstraints;
    camera?: boolean | MediaTrackConstraints;
}): Promise<{
    microphone?: MediaStreamTrack;
    camera?: MediaStreamTrack;
    errors: UprtcError[];
}>;

/** An error with a stable `code`, a sentence for people in `message`, and for developers a `detail`. */
export declare class UprtcError extends Error {
    /** Stable name. */
    code: string;
    /** For developers; may be empty. */
    detail: string;
    /** Whether the room is closed by it. */
    fatal: boolean;
    /** Whether it may be over in a while without anybody's doing: then it is worth to try again. */
    isTemporary: boolean;
    /** Whether `message` says something to the person at the screen; if not, it is a bug, and `detail` says which. */
    isForPeople: boolean;
    /**
     * @param {string} code
     * @param {string} [detail]
     * @param {{ fatal?: boolean, cause?: unknown }} [options]
     */
    constructor(code: string, detail?: string, { fatal, cause }?: {
        fatal?: boolean;
        cause?: unknown;
    });
}

/** Somebody in the room: another participant, or this client itself (`room.local`). */
export declare class Participant {
    /** Unique in the room. */
    id: string;
    /** From the token. */
    name: string;
    isLocal: boolean;
    /** Whether it can send anything. Who cannot only watches and listens. */
    publishes: boolean;
    /** Microphone and camera. The object stays the same; its tracks come and go. */
    stream: MediaStream;
    /** The shared screen. The object stays the same too. */
    screen: MediaStream;
    /**
     * Which sources are on. What is on may still lack a track in the stream, if there are too few slots. Of `room.local`
     * it says what this client sends, whether or not an operator lets it pass.
     */
    active: {
        microphone: boolean;
        camera: boolean;
        screen: boolean;
        screen_audio: boolean;
    };
    /** Which sources an operator has muted: nobody gets them, whatever their owner does. */
    muted: {
        microphone: boolean;
        camera: boolean;
        screen: boolean;
        screen_audio: boolean;
    };
    /** How loud, 0 to 1. */
    audioLevel: number;
    speaking: boolean;
    /**
     * @param {string} id
     * @param {string} name
     * @param {boolean} isLocal
     */
    constructor(id: string, name: string, isLocal: boolean);
    /** @param {Source} source */
    streamOf(source: Source): MediaStream;
}

export type Source = 'microphone' | 'camera' | 'screen' | 'screen_audio';

export type SendSource = 'microphone' | 'camera' | 'screen';

export type RoomState = 'new' | 'connecting' | 'connected' | 'reconnecting' | 'interrupted' | 'closed';

export type LeaveReason = 'left' | 'timed_out' | 'transport_failed' | 'replaced' | 'media_restarted' | 'server_stopping' | 'removed' | 'moved' | 'token_expired';

export type RoomOptions = {
    /**
     * Name of the room.
     */
    room: string;
    /**
     * A JWT, or a function that brings a fresh one: it is asked
     * each time a socket is opened, and a minute before the last one expires.
     */
    token: string | (() => string | Promise<string>);
    /**
     * `https://…` of the uprtc edge, with the path that a proxy may put before it.
     * The page's own origin by default.
     */
    server?: string;
    /**
     * Send audio from the start. A track that
     * is passed in stays yours: it is never stopped here.
     */
    microphone?: boolean | MediaTrackConstraints | MediaStreamTrack;
    /**
     * Send video from the start.
     */
    camera?: boolean | MediaTrackConstraints | MediaStreamTrack;
    /**
     * Music instead of speech. Who listens says so, too: `stereo` is what a browser sends and plays.
     */
    audio?: AudioOptions;
    /**
     * Milliseconds for which an unreachable server is tried before `join` fails; 15000
     * by default.
     */
    joinTimeout?: number;
};

export type AudioOptions = {
    /**
     * Send two channels, if the source has them, and play two.
     */
    stereo?: boolean;
    /**
     * Bit rate of audio, 6000 to 510000 bit/s; 32000 by default, which is for speech. The server grants up to half of
     * what this client may send.
     */
    bps?: number;
};

export type Limits = {
    total: number;
    /**
     * Each video track.
     */
    video: number;
    /**
     * Each audio track.
     */
    audio: number;
};

export type RoomEvents = {
    /**
     * The room was entered; `rejoined` if it had been before.
     */
    joined: {
        rejoined: boolean;
    };
    /**
     * Somebody came.
     */
    "peer-joined": {
        participant: Participant;
    };
    /**
     * Somebody is gone.
     */
    "peer-left": {
        participant: Participant;
        reason: LeaveReason;
    };
    /**
     * Somebody publishes now, or does not any more: see `publishes`.
     */
    "peer-changed": {
        participant: Participant;
    };
    /**
     * An operator moved us to another room; who was with us is told by
     * `peer-left` with the reason `moved`, who is there by `peer-joined`. Media and devices go on.
     */
    moved: {
        room: string;
        previous: string;
    };
    /**
     * Somebody, or
     * this client itself, switched a microphone, camera or screen on or off; or an operator muted or freed one (`muted`).
     * An application that is told of its own `muted` shows it to the person, and switches the source off, so that
     * nobody is live again by surprise.
     */
    "track-changed": {
        participant: Participant;
        source: Source;
        active: boolean;
        muted: boolean;
    };
    /**
     * A track moved into or out of a stream.
     */
    "stream-changed": {
        participant: Participant;
        stream: MediaStream;
    };
    /**
     * Somebody begins or stops to speak.
     */
    speaking: {
        participant: Participant;
        speaking: boolean;
    };
    state: {
        state: RoomState;
        previous: RoomState;
    };
    limits: Limits;
    /**
     * The token runs out. With `token` a function, another one is brought
     * by itself; with a string, `room.setToken` takes one.
     */
    "token-expiring": {
        expiresInMs: number;
    };
    /**
     * Another token holds, with these rights.
     */
    granted: {
        mayPublish: boolean;
        maySubscribe: boolean;
    };
    /**
     * The server is tried again then; `room.retryNow()` does it at once.
     */
    retrying: {
        inMs: number;
    };
    /**
     * Something went wrong; if `error.fatal`, the room is closed.
     */
    error: {
        error: UprtcError;
    };
};

export type VideoStats = {
    width: number;
    height: number;
    fps: number;
    /**
     * Bits per second.
     */
    bps: number;
    /**
     * Lost share of the packets since the last look, 0 to 1.
     */
    loss: number;
    jitterMs: number;
    /**
     * Frames decoded or encoded since the beginning.
     */
    frames: number;
    /**
     * Such as `video/H264`.
     */
    codec: string;
};

export type AudioStats = {
    bps: number;
    loss: number;
    jitterMs: number;
    codec: string;
};

export type ParticipantStats = {
    microphone?: AudioStats;
    camera?: VideoStats;
    screen?: VideoStats;
};

export type RoomStats = {
    /**
     * Round trip to the server.
     */
    rttMs: number | undefined;
    /**
     * What the network is thought to carry outwards.
     */
    availableBps: number | undefined;
    outgoing: ParticipantStats;
    /**
     * By participant's id.
     */
    incoming: Map<string, ParticipantStats>;
};

export type TypedTarget = {
    addEventListener: <K extends keyof RoomEvents>(type: K, listener: ((event: CustomEvent<RoomEvents[K]>) => void) | null, options?: boolean | AddEventListenerOptions) => void;
    removeEventListener: <K extends keyof RoomEvents>(type: K, listener: ((event: CustomEvent<RoomEvents[K]>) => void) | null, options?: boolean | EventListenerOptions) => void;
    dispatchEvent: (event: Event) => boolean;
};

/**
 * @typedef {object} TypedTarget
 * @property {<K extends keyof RoomEvents>(type: K,
 *   listener: ((event: CustomEvent<RoomEvents[K]>) => void) | null,
 *   options?: boolean | AddEventListenerOptions) => void} addEventListener
 * @property {<K extends keyof RoomEvents>(type: K,
 *   listener: ((event: CustomEvent<RoomEvents[K]>) => void) | null,
 *   options?: boolean | EventListenerOptions) => void} removeEventListener
 * @property {(event: Event) => boolean} dispatchEvent
 */
declare const RoomTarget: new () => TypedTarget;

/**
 * Asks whether a newcomer would be let in now, before anybody is asked for a camera.
 * @param {{ room: string, token: string, server?: string }} options
 * @returns {Promise<UprtcError | undefined>} Why not. If it `isTemporary`, ask again later.
 */
export declare function mayJoin(options: {
    room: string;
    token: string;
    server?: string;
}): Promise<UprtcError | undefined>;

/**
 * Joins a room.
 * @param {RoomOptions} options
 * @returns {Promise<Room>} Once the server has let us in and said who is there. Rejects with an {@link UprtcError}.
 */
export declare function connect(options: RoomOptions): Promise<Room>;

/** A room that this client is in. Made by {@link connect}, or by hand to listen to events before {@link Room.join}. */
export declare class Room extends RoomTarget {
    #private;
    /** Its name. Another one than was asked for after a `moved`. */
    name: string;
    /** @type {Map<string, Participant>} The others, by id, in the order in which they came. */
    participants: Map<string, Participant>;
    /** @type {RoomState} */
    state: RoomState;
    /** @type {Limits | undefined} */
    limits: Limits | undefined;
    /** Whether the token lets this client send. Known once joined. */
    mayPublish: boolean;
    /** Whether it lets this client receive. */
    maySubscribe: boolean;
    /** Whether the server has said that it stops, and none has been back since. It is tried again until there is one. */
    isServerStopping: boolean;
    /** @param {RoomOptions} options */
    constructor(options: RoomOptions);
    /** This client. */
    local: Participant;
    /** The RTCPeerConnection, for what this module has no method for. Another one after the room was entered anew. */
    get peerConnection(): RTCPeerConnection | undefined;
    /**
     * Like `addEventListener`, with the event's detail handed over and a function that ends it handed back.
     * @template {keyof RoomEvents} K
     * @param {K} type
     * @param {(detail: RoomEvents[K]) => void} listener
     */
    on<K extends keyof RoomEvents>(type: K, listener: (detail: RoomEvents[K]) => void): () => void;
    /** Enters the room. A microphone or camera that cannot be had is an `error` event, not a failure to join. */
    join(): Promise<void>;
    /** Does now what would be tried again later: after a `retrying`, for a person who would rather not wait. */
    retryNow(): void;
    /** Which microphone, camera or screen is in use, or will be when it is switched on. @param {SendSource} source */
    deviceIdOf(source: SendSource): string | undefined;
    /** Leaves for good, and lets go of the devices that were opened here. */
    leave(): void;
    /**
     * Mutes or unmutes. The device stays open while muted, so that unmuting is instant.
     * @param {boolean} on
     * @param {MediaTrackConstraints | MediaStreamTrack} [choice] Which device, or a track of your own.
     */
    setMicrophone(on: boolean, choice?: MediaTrackConstraints | MediaStreamTrack): Promise<void>;
    /**
     * Switches the camera. Off means off: the device is let go.
     * @param {boolean} on
     * @param {MediaTrackConstraints | MediaStreamTrack} [choice]
     */
    setCamera(on: boolean, choice?: MediaTrackConstraints | MediaStreamTrack): Promise<void>;
    /**
     * Asks the person for a screen or window and shows it to the others. Call it from a click.
     * @param {MediaStreamTrack} [track] A track of your own instead.
     */
    shareScreen(track?: MediaStreamTrack): Promise<void>;
    stopScreen(): Promise<void>;
    /**
     * Goes on with another token, for the same room and name: what it allows holds from now on. Rejects with
     * `token_refused`, and the former one stays.
     * @param {string} token
     */
    setToken(token: string): Promise<void>;
    /** What is being sent and received. Rates are means since the last call. @returns {Promise<RoomStats>} */
    getStats(): Promise<RoomStats>;
}
