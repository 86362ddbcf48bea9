// @ts-check
/** How large the application shows the videos of others. The server sends no larger pictures than that, and nothing of what nobody sees. */

/** @import { Participant } from './participant.js' */

/** @typedef {'camera' | 'screen'} VideoSource */
/** @typedef {{ peer: string, source: VideoSource, lines?: number, pinned?: boolean }} ShownVideo */
/** @typedef {import('./types.js').ShownOptions} ShownOptions */

/** Changes of size are told after this long, together. */
const SIZE_MS = 250;
/** What becomes visible is told at once; this is what several changes in one turn of the page take. */
const VISIBLE_MS = 0;
/** What is hidden is told later: it may only be scrolled past, or covered while the page changes its layout. */
const HIDDEN_MS = 1_000;
/** Smaller changes of size are not told. */
const CHANGE = 0.05;
/** The server takes no longer list. */
const VIDEOS_MAX = 48;
const LINES_MAX = 65_534;

/**
 * An element that shows a video.
 * @typedef {object} View
 * @property {Element} element
 * @property {Participant} participant
 * @property {VideoSource} source
 * @property {boolean} isVisible Whether a part of it is in the visible part of the page.
 */

export class Shown {
  /**
   * @param {(participant: Participant) => boolean} isHere
   * @param {(videos: ShownVideo[]) => void} tell
   */
  constructor(isHere, tell) {
    this.#isHere = isHere;
    this.#tell = tell;
  }

  #isHere;
  #tell;
  /** @type {Set<View>} */
  #views = new Set();
  /** What the application has said itself. @type {Map<Participant, Partial<Record<VideoSource, ShownOptions>>>} */
  #said = new Map();
  /** What has ever been in an element: it is hidden when it is in none. @type {Map<Participant, Set<VideoSource>>} */
  #attached = new Map();
  /** @type {ShownVideo[]} */
  #told = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #dueAt = Infinity;
  #resizes = new ResizeObserver(() => this.#changed());
  #intersections = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      for (const view of this.#views) if (view.element === target) view.isVisible = isIntersecting;
    }
    this.#changed();
  });
  #onchange = () => this.#changed();

  /**
   * @param {Element} element The `<video>`, or an element that contains it.
   * @param {Participant} participant
   * @param {VideoSource} source
   */
  attach(element, participant, source) {
    if (this.#views.size === 0) {
      document.addEventListener('visibilitychange', this.#onchange);
      document.addEventListener('enterpictureinpicture', this.#onchange, true);
      document.addEventListener('leavepictureinpicture', this.#onchange, true);
      document.addEventListener('resize', this.#onchange, true);
    }
    /** @type {View} */
    const view = { element, participant, source, isVisible: true };
    this.#views.add(view);
    const attached = this.#attached.get(participant) ?? new Set();
    this.#attached.set(participant, attached.add(source));
    this.#resizes.observe(element);
    this.#intersections.observe(element);
    // A video tells its size with its first picture.
    this.#changed();
    return () => this.#detach(view);
  }

  /** @param {View} view */
  #detach(view) {
    if (!this.#views.delete(view)) return;
    if (![...this.#views].some(({ element }) => element === view.element)) {
      this.#resizes.unobserve(view.element);
      this.#intersections.unobserve(view.element);
    }
    if (this.#views.size === 0) this.#ignorePage();
    this.#changed();
  }

  #ignorePage() {
    document.removeEventListener('visibilitychange', this.#onchange);
    document.removeEventListener('enterpictureinpicture', this.#onchange, true);
    document.removeEventListener('leavepictureinpicture', this.#onchange, true);
    document.removeEventListener('resize', this.#onchange, true);
  }

  /**
   * @param {Participant} participant
   * @param {VideoSource} source
   * @param {ShownOptions} options
   */
  set(participant, source, options) {
    const said = this.#said.get(participant) ?? {};
    said[source] = { ...said[source], ...options };
    this.#said.set(participant, said);
    this.#changed();
  }

  /** There is a new socket, perhaps of a new peer: tells it. */
  begin() {
    const hasTold = this.#told.length > 0;
    this.#told = [];
    if (hasTold || this.#videos().length > 0) this.#tellNow(true);
  }

  close() {
    clearTimeout(this.#timer);
    this.#resizes.disconnect();
    this.#intersections.disconnect();
    this.#ignorePage();
    this.#views.clear();
  }

  /** What the server should know now. */
  #videos() {
    /** @type {ShownVideo[]} */
    const videos = [];
    for (const participant of new Set([...this.#attached.keys(), ...this.#said.keys()])) {
      if (!this.#isHere(participant)) {
        this.#said.delete(participant);
        this.#attached.delete(participant);
        continue;
      }
      for (const source of /** @type {const} */ (['camera', 'screen'])) {
        const { lines = this.#linesOf(participant, source), pinned = false } = this.#said.get(participant)?.[source] ?? {};
        if (lines === undefined && !pinned) continue;
        const bounded = lines === undefined ? undefined : Math.min(LINES_MAX, Math.max(0, Math.round(lines)));
        videos.push({ peer: participant.id, source, ...(bounded !== undefined && { lines: bounded }), ...(pinned && { pinned }) });
      }
    }
    // Of too many those stay that matter most.
    videos.sort((a, b) => Number(b.pinned ?? false) - Number(a.pinned ?? false));
    return videos.slice(0, VIDEOS_MAX);
  }

  /** The largest size in which a video is shown; `undefined` if it was never in an element. @param {Participant} participant @param {VideoSource} source */
  #linesOf(participant, source) {
    if (!this.#attached.get(participant)?.has(source)) return undefined;
    const views = [...this.#views].filter((view) => view.participant === participant && view.source === source);
    return Math.max(0, ...views.map(linesIn));
  }

  #changed() {
    const now = this.#videos();
    const linesBefore = (/** @type {ShownVideo} */ { peer, source }) =>
      this.#told.find((video) => video.peer === peer && video.source === source)?.lines ?? Infinity;
    const appeared = now.some((video) => linesBefore(video) === 0 && video.lines !== 0);
    const isHiding = now.every((video) => video.lines === 0 || video.lines === linesBefore(video));
    this.#tellIn(appeared ? VISIBLE_MS : isHiding ? HIDDEN_MS : SIZE_MS);
  }

  /** @param {number} ms */
  #tellIn(ms) {
    const at = performance.now() + ms;
    if (at >= this.#dueAt) return;
    clearTimeout(this.#timer);
    this.#dueAt = at;
    this.#timer = setTimeout(() => this.#tellNow(), ms);
  }

  #tellNow(isNew = false) {
    clearTimeout(this.#timer);
    this.#dueAt = Infinity;
    const now = this.#videos();
    if (!isNew && !differ(now, this.#told)) return;
    this.#told = now;
    this.#tell(now);
  }
}

/** Whether the server is to be told. @param {ShownVideo[]} now @param {ShownVideo[]} before */
function differ(now, before) {
  if (now.length !== before.length) return true;
  return now.some(({ peer, source, lines = Infinity, pinned = false }, at) => {
    const was = before[at];
    if (was?.peer !== peer || was.source !== source || (was.pinned ?? false) !== pinned) return true;
    const { lines: linesBefore = Infinity } = was;
    return lines !== linesBefore && (lines === 0 || linesBefore === 0 || Math.abs(lines - linesBefore) > CHANGE * linesBefore);
  });
}

/** The shorter side of the picture in an element, in device pixels; 0 if nobody sees it. @param {View} view */
function linesIn({ element, isVisible }) {
  const video = element instanceof HTMLVideoElement ? element : element.querySelector('video');
  // A picture in a window of its own is visible whatever becomes of the page, in a size that nobody tells.
  if (video && document.pictureInPictureElement === video) return LINES_MAX;
  if (document.visibilityState === 'hidden' || !isVisible || !element.isConnected) return 0;
  const { clientWidth: width, clientHeight: height } = element;
  if (!width || !height) return 0;
  const { videoWidth = 0, videoHeight = 0 } = video ?? {};
  if (!video || !videoWidth || !videoHeight) return Math.min(width, height) * devicePixelRatio;
  const [across, down] = [width / videoWidth, height / videoHeight];
  const scale = getComputedStyle(video).objectFit === 'cover' ? Math.max(across, down) : Math.min(across, down);
  return Math.min(videoWidth, videoHeight) * scale * devicePixelRatio;
}
