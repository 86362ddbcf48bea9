// @ts-check
/** One tile: somebody's camera (or shared screen), name, sound, and how well it arrives. */

import { fillAvatar, icon, make } from './elements.js';
import { pictureBox } from './grid.js';

/** @import { Participant } from './sdk/uprtc.js' */
/** @import { Quality } from './quality.js' */

export class Tile {
  /**
   * @param {Participant} participant
   * @param {boolean} isScreen
   * @param {() => void} onshape The picture has another shape, is there now or is gone.
   */
  constructor(participant, isScreen, onshape) {
    this.participant = participant;
    this.isScreen = isScreen;
    this.#onshape = onshape;
    this.stream = isScreen ? participant.screen : participant.stream;
    this.video = make('video', { autoplay: true, playsInline: true, muted: true, srcObject: this.stream });
    this.video.classList.toggle('mirrored', participant.isLocal && !isScreen);
    // What is in it is told by the tile's own name.
    this.video.setAttribute('aria-hidden', 'true');
    this.#name = make('b');
    this.#muted = icon('mic-off');
    this.#host = make('span', { className: 'by-host', textContent: 'muted by the host', hidden: true });
    this.#dots = make('span', { className: 'dots', hidden: true }, make('i'), make('i'), make('i'));
    this.#dots.setAttribute('role', 'img');
    this.#avatar = make('div', { className: 'avatar' });
    this.#avatar.setAttribute('aria-hidden', 'true');
    const tag = make('div', { className: 'tag' }, this.#name, this.#host, this.#dots);
    if (!isScreen) tag.prepend(this.#muted);
    this.element = make('div', { className: 'tile' }, this.video, tag);
    if (!isScreen) this.element.prepend(this.#avatar);
    this.element.setAttribute('role', 'listitem');
    this.element.dataset.participant = participant.id;
    // Sound comes from an element of its own: a muted picture may always play, whatever the autoplay policy.
    this.audio = participant.isLocal || isScreen ? undefined : make('audio', { autoplay: true, srcObject: this.stream });
    if (this.audio) this.element.append(this.audio);
    this.video.addEventListener('resize', () => this.#shapeChanged());
    this.video.addEventListener('playing', () => this.#shapeChanged());
    this.refresh();
  }

  #onshape;
  #name;
  #muted;
  #host;
  #dots;
  #avatar;

  /** Width by height of the picture; 0 if there is none. */
  get ratio() {
    const { videoWidth, videoHeight } = this.video;
    return this.element.hasAttribute('data-video') && videoHeight ? videoWidth / videoHeight : 0;
  }

  /** Brings what is shown in line with the participant. */
  refresh() {
    const { name, isLocal, active, muted, speaking } = this.participant;
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
    const says = [shownName];
    if (!this.isScreen) says.push(isHeard ? '' : 'muted', active.camera && !muted.camera ? '' : 'camera off');
    if (byHost) says.push('by the host');
    const label = says.filter(Boolean).join(', ');
    if (this.element.getAttribute('aria-label') !== label) this.element.setAttribute('aria-label', label);
  }

  /** @param {Quality} quality */
  showQuality(quality) {
    this.#dots.hidden = !quality;
    this.#dots.dataset.quality = quality;
    const says = quality === 'none' ? 'No connection' : `Connection: ${quality}`;
    this.#dots.setAttribute('aria-label', says);
    this.#dots.title = says;
  }

  #shapeChanged() {
    const before = this.ratio;
    this.refresh();
    this.#fit();
    if (this.ratio !== before) this.#onshape();
  }

  /** Fills the tile as far as enough of the picture stays to be seen. A screen is shown whole. */
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

  /** @returns {Promise<boolean>} Whether the browser lets its sound be heard. */
  async play() {
    this.video.play().catch(() => {});
    if (!this.audio) return true;
    try {
      await this.audio.play();
      return true;
    } catch (error) {
      // Only a refusal counts: an element without a track yet plays once it has one.
      return !(error instanceof DOMException && error.name === 'NotAllowedError');
    }
  }

  remove() {
    this.video.srcObject = null;
    if (this.audio) this.audio.srcObject = null;
    this.element.remove();
  }
}
