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
 *       room.attach(video, participant);   // its stream, and no larger picture than fits
 *       document.body.append(video);
 *     }
 *
 * How it works (docs/PROTOCOL.md): one RTCPeerConnection, one offer, one answer. The offer has three senders
 * (microphone, camera, screen) and enough receive slots for the whole room. Signals assign participants to slots
 * later, and the module moves tracks between the participants' streams. Devices are switched by `replaceTrack`, so no m-section
 * is negotiated again. If the signalling socket is lost, media continues and the socket is resumed. If
 * the media path is lost, ICE is restarted; if that fails, the module joins again and keeps the same streams in the
 * page's elements.
 */

/**
 * Accepts an invitation under a name.
 * @param {{ room: string, invitation: string, name: string, server?: string }} options
 * @returns {Promise<string>} The token of this guest. Rejects with a {@link UprtcError}.
 */
export declare function acceptInvitation({ room, invitation, name, server }: {
    room: string;
    invitation: string;
    name: string;
    server?: string;
}): Promise<string>;

/**
 * Whether a recorder waits for orders. The token needs the claim `record` or `admin`.
 * @param {{ room: string, token: string, server?: string }} options
 * @returns {Promise<boolean>} Rejects with a {@link UprtcError}.
 */
export declare function canRecord({ room, token, server }: {
    room: string;
    token: string;
    server?: string;
}): Promise<boolean>;

/**
 * Makes an invitation to a room. The token needs the claim `invite` or `admin`.
 * @param {{ room: string, token: string, server?: string, ttlS?: number }} options `ttlS`: how long it is valid, in seconds; twelve
 *   hours by default, and not longer than the token.
 * @returns {Promise<string>} The invitation, for the link that guests get. Rejects with a {@link UprtcError}.
 */
export declare function invite({ room, token, server, ttlS }: {
    room: string;
    token: string;
    server?: string;
    ttlS?: number;
}): Promise<string>;

/**
 * Asks whether a newcomer could join now, before the user is asked for a camera.
 * @param {{ room: string, token: string, server?: string }} options
 * @returns {Promise<UprtcError | undefined>} The reason if not. If it `isTemporary`, ask again later.
 */
export declare function mayJoin(options: {
    room: string;
    token: string;
    server?: string;
}): Promise<UprtcError | undefined>;

/** An error with a stable `code`, a sentence for the user in `message`, and a `detail` for developers. */
export declare class UprtcError extends Error {
    /** Stable name. */
    code: string;
    /** For developers; may be empty. */
    detail: string;
    /** Whether it closes the room. */
    fatal: boolean;
    /** Whether it may disappear by itself: then it is useful to try again later. */
    isTemporary: boolean;
    /** Whether `message` is useful to the user; if not, it is a bug, which `detail` describes. */
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

/**
 * Opens microphone and camera with one permission prompt, for a preview before joining. A device that cannot be opened is
 * missing in the result, and `errors` has the reason.
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

/** A participant of the room: another one, or this client itself (`room.local`). */
export declare class Participant {
    /** Unique in the room. */
    id: string;
    /** From the token. */
    name: string;
    isLocal: boolean;
    /** Whether another participant, who has another token, has a name that looks the same. Show it to the others: one of them may pretend. */
    lookalike: boolean;
    /** What it is, if it is not a person's device. Show a recorder to everybody. @type {Role | undefined} */
    role: Role | undefined;
    /** Whether it may send. If not, it only watches and listens. */
    publishes: boolean;
    /** Microphone and camera. The object stays the same; its tracks are added and removed. */
    stream: MediaStream;
    /** The shared screen. The object stays the same too. */
    screen: MediaStream;
    /**
     * Which sources are on. A source that is on may have no track in the stream ({@link isUnseen}). For `room.local`
     * it says what this client sends, also if an operator has muted it.
     */
    active: {
        microphone: boolean;
        camera: boolean;
        screen: boolean;
        screen_audio: boolean;
    };
    /** Which sources an operator has muted: the server does not forward them. */
    muted: {
        microphone: boolean;
        camera: boolean;
        screen: boolean;
        screen_audio: boolean;
    };
    /** How good its connection is. @type {Quality} */
    quality: Quality;
    /** Audio level, 0 to 1. */
    audioLevel: number;
    /** Whether it speaks: of the others the server says it. */
    speaking: boolean;
    /**
     * @param {string} id
     * @param {string} name
     * @param {boolean} isLocal
     */
    constructor(id: string, name: string, isLocal: boolean);
    /**
     * Whether it sends this video, and this client does not receive it: the room limits how many videos each participant receives
     * (`videos_max`) and others come first, or this client has too few slots. The event `stream-changed` reports a change.
     * @param {'camera' | 'screen'} source
     */
    isUnseen(source: 'camera' | 'screen'): boolean;
    /** @param {Source} source */
    streamOf(source: Source): MediaStream;
}

export type Quality = 'good' | 'weak' | 'lost';

export type Role = 'recorder' | 'streamer' | 'telephone' | 'feed';

export type Source = 'microphone' | 'camera' | 'screen' | 'screen_audio';

/**
 * Starts a recording. The token needs the claim `record` or `admin`.
 * @param {{ room: string, token: string, server?: string }} options
 * @returns {Promise<Recording>} Rejects with a {@link UprtcError}: `no_service` if no recorder waits for orders, `recorded_already`.
 */
export declare function startRecording({ room, token, server }: {
    room: string;
    token: string;
    server?: string;
}): Promise<Recording>;

export type Recording = {
    /**
     * Its id.
     */
    task: string;
    state: 'starting' | 'running' | 'stopping' | 'ended';
    /**
     * The name of whoever started it.
     */
    ordered_by: string;
    /**
     * Why it has ended.
     */
    reason?: string;
};

/**
 * Stops all recordings of a room that are under way. The token needs the claim `record` or `admin`.
 * @param {{ room: string, token: string, server?: string }} options
 * @returns {Promise<number>} How many. Rejects with a {@link UprtcError}.
 */
export declare function stopRecording({ room, token, server }: {
    room: string;
    token: string;
    server?: string;
}): Promise<number>;

export type SendSource = 'microphone' | 'camera' | 'screen';

export type RoomState = 'new' | 'connecting' | 'connected' | 'reconnecting' | 'interrupted' | 'closed';

export type LeaveReason = 'left' | 'timed_out' | 'transport_failed' | 'replaced' | 'media_restarted' | 'server_stopping' | 'removed' | 'moved' | 'token_expired';

export type RoomOptions = {
    /**
     * Name of the room.
     */
    room: string;
    /**
     * A JWT, or a function that returns a valid one: it is called
     * each time a socket is opened, and a minute before the current token expires.
     */
    token: string | (() => string | Promise<string>);
    /**
     * `https://…` of the uprtc edge, with the path prefix of a proxy if there is one.
     * The page's own origin by default. Several addresses of one cluster: the list of edges is got from the first that answers.
     */
    server?: string | string[];
    /**
     * Whether the server is one of several edges: the module gets their list, joins at the nearest one, and goes to
     * another one when that dies (docs/EDGES.md). By default only if `server` names several. The token must be good at all of them.
     */
    edges?: boolean;
    /**
     * Send audio from the start. A track that
     * you pass in stays yours: the module never stops it.
     */
    microphone?: boolean | MediaTrackConstraints | MediaStreamTrack;
    /**
     * Send video from the start.
     */
    camera?: boolean | MediaTrackConstraints | MediaStreamTrack;
    /**
     * Settings for music instead of speech. Receivers must set `stereo` too: it applies to sending and playing.
     */
    audio?: AudioOptions;
    /**
     * How long `join` tries to reach the server before it fails, milliseconds; 15000
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
     * Bit rate of audio, 6000 to 510000 bit/s; 32000 by default, which is for speech. The server permits up to half of
     * what this client may send.
     */
    bps?: number;
};

export type Edge = {
    /**
     * `https://…`, perhaps with a path prefix.
     */
    url: string;
    /**
     * The name of its node; empty if it is not known.
     */
    name: string;
    /**
     * Where it is, in its operator's words; may be empty.
     */
    region: string;
    /**
     * How long a small request took there, milliseconds, if it was measured.
     */
    rttMs: number | undefined;
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
     * We joined the room; `rejoined` if not for the first time.
     */
    joined: {
        rejoined: boolean;
    };
    /**
     * A participant joined.
     */
    "peer-joined": {
        participant: Participant;
    };
    /**
     * A participant left.
     */
    "peer-left": {
        participant: Participant;
        reason: LeaveReason;
    };
    /**
     * A participant started or stopped publishing, or another
     * one has a name that looks the same, or not any more: see `publishes` and `lookalike`.
     */
    "peer-changed": {
        participant: Participant;
    };
    /**
     * An operator moved us to another room. `peer-left` with the reason
     * `moved` follows for the participants of the former room, `peer-joined` for those of the new one. Media and devices continue.
     */
    moved: {
        room: string;
        previous: string;
    };
    /**
     * The edge in use has died or does not take us, and we are in the room at another one: with a
     * new RTCPeerConnection and the same devices. `joined` follows.
     */
    "edge-changed": {
        edge: Edge;
        previous: Edge;
    };
    /**
     * A participant, or
     * this client itself, switched a microphone, camera or screen on or off; or an operator muted or unmuted one (`muted`).
     * An application should show the `muted` of its own sources to the user, and switch the source off, so that
     * the user decides when to be live again.
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
     * The connection of a participant, or of this client itself
     * (`room.local`), is better or worse than before.
     */
    "quality-changed": {
        participant: Participant;
        quality: Quality;
    };
    /**
     * A participant started or stopped speaking: the others as the server
     * says, this client itself as it measures.
     */
    speaking: {
        participant: Participant;
        speaking: boolean;
    };
    /**
     * Who speaks has changed: the loudest first, perhaps
     * this client too; none if nobody does (also in `room.speakers`). `dominant` is to be shown first: it has spoken for a while, or did last.
     * The same for all in the room, and a few times a second at most.
     */
    speakers: {
        participants: Participant[];
        dominant: Participant | undefined;
    };
    state: {
        state: RoomState;
        previous: RoomState;
    };
    limits: Limits;
    /**
     * The token expires soon. If `token` is a function, the module calls it for another one;
     * if it is a string, use `room.setToken`.
     */
    "token-expiring": {
        expiresInMs: number;
    };
    /**
     * Another token is in effect, with these rights.
     */
    granted: {
        mayPublish: boolean;
        maySubscribe: boolean;
        maySendData: boolean;
    };
    /**
     * A message came: of a participant, who
     * may have left meanwhile, or of the application's server (`from` is `undefined`).
     */
    data: {
        from: Participant | undefined;
        label: string;
        data: string | ArrayBuffer;
        reliable: boolean;
    };
    /**
     * After `room.send` was refused with `too_much`, or more than half of what it takes was waiting: less than half is now.
     */
    drain: {
        buffered: number;
    };
    /**
     * This client took reliable messages more slowly than they came: those that waited for it are lost.
     * What comes later arrives again.
     */
    "data-ended": {
        reason: 'slow';
    };
    /**
     * The next attempt is in this time; `room.retryNow()` makes it at once.
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

export type SendOptions = {
    /**
     * Participants, or their ids; 64 at most. Everybody else in the room if left out. Those
     * who are not there are ignored.
     */
    to?: string | Participant | (string | Participant)[];
    /**
     * `true` by default: it arrives, in the order of sending, whatever happens to the network or the server in between. `false`:
     * it is sent once, has 16 KiB at most, and is dropped where it would come late.
     */
    reliable?: boolean;
    /**
     * What the message is about, in the application's words; at most 64 bytes, none by default.
     */
    label?: string;
};

export type ShownOptions = {
    /**
     * Shorter side of the picture as it is shown, in device pixels (CSS pixels times `devicePixelRatio`): the server sends the
     * smallest encoding that has as many, less a tenth. 0: not at all, and nothing is sent. `undefined`: as the attached elements
     * say, and without any as large as it comes.
     */
    lines?: number;
    /**
     * Whether the person looks at this one above all, as in a stage view. Where bandwidth is short it comes
     * before the others, after shared screens only.
     */
    pinned?: boolean;
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
     * Lost share of the packets since the last call, 0 to 1.
     */
    loss: number;
    jitterMs: number;
    /**
     * Frames decoded or encoded since the start.
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
     * Round-trip time to the server.
     */
    rttMs: number | undefined;
    /**
     * Estimated bandwidth for sending.
     */
    availableBps: number | undefined;
    outgoing: ParticipantStats;
    /**
     * By participant's id.
     */
    incoming: Map<string, ParticipantStats>;
};

/**
 * Joins a room.
 * @param {RoomOptions} options
 * @returns {Promise<Room>} When we have joined and know the participants. Rejects with a {@link UprtcError}.
 */
export declare function connect(options: RoomOptions): Promise<Room>;

/** A room with this client in it. Created by {@link connect}, or directly, to listen to events before {@link Room.join}. */
export declare class Room extends RoomTarget {
    #private;
    /** Its name. It changes with the event `moved`. */
    name: string;
    /** @type {Map<string, Participant>} The other participants by id, in the order in which they joined. */
    participants: Map<string, Participant>;
    /** @type {RoomState} */
    state: RoomState;
    /** @type {Limits | undefined} */
    limits: Limits | undefined;
    /** Whether the token permits sending. Known after the join. */
    mayPublish: boolean;
    /** Whether the token permits receiving. */
    maySubscribe: boolean;
    /** Whether the server announced its stop and is not back yet. The module tries to reconnect until it is. */
    isServerStopping: boolean;
    /** @param {RoomOptions} options */
    constructor(options: RoomOptions);
    /** This client. */
    local: Participant;
    /** Who speaks now, the loudest first, perhaps this client too. */
    get speakers(): Participant[];
    /** The edge in use, where there are several: see {@link RoomOptions.edges}. @returns {Edge | undefined} */
    get edge(): Edge | undefined;
    /** Whether the token permits sending messages. Known after the join. */
    get maySendData(): boolean;
    /** Bytes of messages that are not acknowledged, or not sent yet: 1 MiB at most. */
    get buffered(): number;
    /** The RTCPeerConnection, for features that this module does not have. It is replaced when the module joins again. */
    get peerConnection(): RTCPeerConnection | undefined;
    /** Joins the room. If a microphone or camera cannot be opened, there is an `error` event, and the join continues. */
    join(): Promise<void>;
    /** Makes the next attempt now, after a `retrying` event. */
    retryNow(): void;
    /** The device that is in use, or that will be used when the source is switched on. @param {SendSource} source */
    deviceIdOf(source: SendSource): string | undefined;
    /** Leaves the room, and closes the devices that the module opened. */
    leave(): void;
    /**
     * Sends a message to the others, who get the event `data`. At most 256 KiB; and at most 512 reliable messages or 1 MiB that are not yet with
     * the others: {@link Room.buffered}, the event `drain`.
     * @param {string | ArrayBuffer | ArrayBufferView} data
     * @param {SendOptions} [options]
     * @returns {Promise<void>} When all whom it was for have it, or have left; a lossy one when it was handed to the network. Rejects with `data_refused`,
     *   `too_much` (wait for `drain`), `too_large` or `left`; a lossy one without a connection with `unreachable`.
     */
    send(data: string | ArrayBuffer | ArrayBufferView, options?: SendOptions): Promise<void>;
    /**
     * Shows a participant's video in a `<video>`, or in an element that contains one to which the application has given the stream. The server then
     * sends no larger picture than fits, and none while nobody sees it: page hidden, element scrolled away or not displayed. Of several
     * elements the largest counts; a video that was attached and is in no element any more is not received.
     * @param {Element} element
     * @param {Participant} participant
     * @param {'camera' | 'screen'} [source]
     * @returns {() => void} Detaches it.
     */
    attach(element: Element, participant: Participant, source?: 'camera' | 'screen'): () => void;
    /**
     * Tells the server how a participant's video is shown, for what {@link Room.attach} cannot see. What is left out stays as it was.
     * @param {Participant} participant
     * @param {ShownOptions} options
     * @param {'camera' | 'screen'} [source]
     */
    setShown(participant: Participant, options: ShownOptions, source?: 'camera' | 'screen'): void;
    /**
     * Mutes or unmutes. The device stays open while muted, so that unmuting is immediate.
     * @param {boolean} on
     * @param {MediaTrackConstraints | MediaStreamTrack} [choice] Which device, or a track of your own.
     */
    setMicrophone(on: boolean, choice?: MediaTrackConstraints | MediaStreamTrack): Promise<void>;
    /**
     * Switches the camera. When it is off, the device is closed.
     * @param {boolean} on
     * @param {MediaTrackConstraints | MediaStreamTrack} [choice]
     */
    setCamera(on: boolean, choice?: MediaTrackConstraints | MediaStreamTrack): Promise<void>;
    /**
     * Asks the user for a screen or window and shares it. Call it in a click handler.
     * @param {MediaStreamTrack} [track] A track of your own instead.
     */
    shareScreen(track?: MediaStreamTrack): Promise<void>;
    stopScreen(): Promise<void>;
    /**
     * Changes to another token for the same room and name; its rights take effect at once. If the server refuses it, the promise
     * rejects with `token_refused`, and the former token stays in effect.
     * @param {string} token
     */
    setToken(token: string): Promise<void>;
    /** Statistics of sending and receiving. Rates are means since the last call. @returns {Promise<RoomStats>} */
    getStats(): Promise<RoomStats>;
}

export declare const RoomTarget: new () => TypedTarget;

export type TypedTarget = {
    addEventListener: <K extends keyof RoomEvents>(type: K, listener: ((event: CustomEvent<RoomEvents[K]>) => void) | null, options?: boolean | AddEventListenerOptions) => void;
    removeEventListener: <K extends keyof RoomEvents>(type: K, listener: ((event: CustomEvent<RoomEvents[K]>) => void) | null, options?: boolean | EventListenerOptions) => void;
    dispatchEvent: (event: Event) => boolean;
    /**
     * Like
     * `addEventListener`, but the listener gets the event's detail. Returns a function that removes the listener.
     */
    on: <K extends keyof RoomEvents>(type: K, listener: (detail: RoomEvents[K]) => void) => () => void;
};
