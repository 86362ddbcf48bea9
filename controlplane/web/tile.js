// @ts-check
/** One tile: a participant's camera (or shared screen), name, audio, and connection quality. */

import { fillAvatar, icon, make } from './elements.js';
import { pictureBox } from './grid.js';
import { ALIKE } from './people.js';
import { words } from './quality.js';
import { handSign, hasHandUp } from './talk.js';

/** @import { Participant, Quality } from './sdk/uprtc.js' */

export class Tile {
  /**
   * @param {Participant} participant
   * @param {boolean} isScreen
   * @param {() => void} onshape The picture changed its aspect ratio, appeared or disappeared.
   */
  constructor(participant, isScreen, onshape) {
    this.participant = participant;
    this.isScreen = isScreen;
    this.#onshape = onshape;
    this.stream = isScreen ? participant.screen : participant.stream;
    this.video = make('video', { autoplay: true, playsInline: true, muted: true, srcObject: this.stream });
    this.video.classList.toggle('mirrored', participant.isLocal && !isScreen);
    // The accessible name of the tile describes it.
    this.video.setAttribute('aria-hidden', 'true');
    this.#name = make('b');
    this.#muted = icon('mic-off');
    this.#alike = make('span', { className: 'alike', hidden: true, title: ALIKE }, icon('alert'));
    this.#host = make('span', { className: 'by-host', textContent: 'muted by the host', hidden: true });
    this.#unseen = make('span', { className: 'unseen', textContent: 'camera not shown', hidden: true });
    this.#dots = make('span', { className: 'dots', hidden: true }, make('i'), make('i'), make('i'));
    this.#dots.setAttribute('role', 'img');
    this.#hand = handSign();
    this.#quality = make('span', { className: 'quality', hidden: true });
    // The dots have the same words as their name.
    this.#quality.setAttribute('aria-hidden', 'true');
    this.#avatar = make('div', { className: 'avatar' });
    this.#avatar.setAttribute('aria-hidden', 'true');
    const tag = make('div', { className: 'tag' }, this.#name, this.#alike, this.#host, this.#unseen, this.#quality, this.#dots);
    if (!isScreen) tag.prepend(this.#hand, this.#muted);
    this.element = make('div', { className: 'tile' }, this.video, tag);
    if (!isScreen) this.element.prepend(this.#avatar);
    this.element.setAttribute('role', 'listitem');
    this.element.dataset.participant = participant.id;
    // Audio has a separate element: a muted video may always play, whatever the autoplay policy is.
    this.audio = participant.isLocal || isScreen ? undefined : make('audio', { autoplay: true, srcObject: this.stream });
    if (this.audio) this.element.append(this.audio);
    this.video.addEventListener('resize', () => this.#shapeChanged());
    this.video.addEventListener('playing', () => this.#shapeChanged());
    this.refresh();
  }

  /** When the tile is removed. */
  ondetach = () => {};
  #onshape;
  #name;
  #muted;
  #alike;
  #hand;
  #host;
  #unseen;
  #dots;
  #quality;
  #avatar;

  /** Width divided by height of the picture; 0 if there is none. */
  get ratio() {
    const { videoWidth, videoHeight } = this.video;
    return this.element.hasAttribute('data-video') && videoHeight ? videoWidth / videoHeight : 0;
  }

  /** Updates the tile to the state of the participant. */
  refresh() {
    const { name, isLocal, lookalike, active, muted, speaking } = this.participant;
    const shownName = this.isScreen ? `${isLocal ? 'Your' : `${name}’s`} screen` : isLocal ? `${name} (you)` : name;
    if (this.#name.textContent !== shownName) {
      this.#name.textContent = shownName;
      fillAvatar(this.#avatar, name);
    }
    const source = this.isScreen ? 'screen' : 'camera';
    const hasPicture = active[source] && this.stream.getVideoTracks().length > 0 && this.video.videoWidth > 0;
    this.element.toggleAttribute('data-video', hasPicture);
    this.element.toggleAttribute('data-speaking', speaking && !this.isScreen && !muted.microphone);
    const isHeard = active.microphone && !muted.microphone;
    this.#muted.toggleAttribute('hidden', isHeard);
    const byHost = this.isScreen ? muted.screen : muted.microphone || muted.camera;
    this.#host.hidden = !(isLocal && byHost);
    this.#alike.hidden = !lookalike;
    const isHandUp = !this.isScreen && hasHandUp(this.participant);
    this.#hand.hidden = !isHandUp;
    const isUnseen = !this.isScreen && this.participant.isUnseen('camera');
    this.#unseen.hidden = !isUnseen;
    const says = [shownName, lookalike ? ALIKE : ''];
    if (!this.isScreen) says.push(isHeard ? '' : 'muted', active.camera && !muted.camera ? '' : 'camera off');
    if (isHandUp) says.push('hand raised');
    if (byHost) says.push('by the host');
    if (isUnseen) says.push('camera not shown');
    const label = says.filter(Boolean).join(', ');
    if (this.element.getAttribute('aria-label') !== label) this.element.setAttribute('aria-label', label);
  }

  /** @param {Quality | undefined} quality Nothing: there is nothing to say yet. */
  showQuality(quality) {
    this.#dots.hidden = !quality;
    if (!quality) return;
    this.#dots.dataset.quality = quality;
    const says = quality === 'lost' ? 'No connection' : `Connection: ${quality}`;
    this.#dots.setAttribute('aria-label', says);
    this.#dots.title = says;
    // Colours alone say nothing to many people, and the dots are small.
    this.#quality.hidden = quality === 'good';
    this.#quality.textContent = words(quality);
  }

  #shapeChanged() {
    const before = this.ratio;
    this.refresh();
    this.#fit();
    if (this.ratio !== before) this.#onshape();
  }

  /** Fills the tile as far as enough of the picture stays visible. A screen is shown completely. */
  #fit() {
    const { ratio, video } = this;
    const { clientWidth, clientHeight } = this.element;
    const box = this.isScreen || !ratio || !clientHeight ? { width: 1, height: 1 } : pictureBox(ratio, clientWidth / clientHeight);
    video.style.setProperty('--picture-width', `${box.width * 100}%`);
    video.style.setProperty('--picture-height', `${box.height * 100}%`);
  }

  /** @param {number} width @param {number} height */
  resize(width, height) {
    this.element.style.setProperty('--tile-width', `${width}px`);
    this.element.style.setProperty('--tile-height', `${height}px`);
    this.refresh();
    this.#fit();
  }

  /** @returns {Promise<boolean>} Whether the browser permits audio. */
  async play() {
    this.video.play().catch(() => {});
    if (!this.audio) return true;
    try {
      await this.audio.play();
      return true;
    } catch (error) {
      // Only NotAllowedError counts: an element without a track plays when it gets one.
      return !(error instanceof DOMException && error.name === 'NotAllowedError');
    }
  }

  remove() {
    this.ondetach();
    this.video.srcObject = null;
    if (this.audio) this.audio.srcObject = null;
    this.element.remove();
  }
}
