// @ts-check
/** One tile: somebody's camera (or shared screen), name, sound, and how well it arrives. */

import { fillAvatar, icon, make } from './elements.js';

/** @import { Participant } from '/sdk/uprtc.js' */

/** @typedef {'good' | 'fair' | 'poor' | ''} Quality */

export class Tile {
  /**
   * @param {Participant} participant
   * @param {boolean} isScreen
   */
  constructor(participant, isScreen) {
    this.participant = participant;
    this.isScreen = isScreen;
    this.stream = isScreen ? participant.screen : participant.stream;
    this.video = make('video', { autoplay: true, playsInline: true, muted: true, srcObject: this.stream });
    this.video.classList.toggle('mirrored', participant.isLocal && !isScreen);
    this.#name = make('b');
    this.#muted = icon('mic-off');
    this.#dots = make('span', { className: 'dots', hidden: true }, make('i'), make('i'), make('i'));
    this.#dots.setAttribute('role', 'img');
    this.#avatar = make('div', { className: 'avatar' });
    this.#avatar.setAttribute('aria-hidden', 'true');
    const tag = make('div', { className: 'tag' }, this.#name);
    if (!isScreen) tag.prepend(this.#muted);
    this.element = make('article', { className: 'tile' }, this.video, tag, this.#dots);
    if (!isScreen) this.element.prepend(this.#avatar);
    this.element.setAttribute('role', 'listitem');
    this.element.dataset.participant = participant.id;
    // Sound comes from an element of its own: a muted picture may always play, whatever the autoplay policy.
    this.audio = participant.isLocal || isScreen ? undefined : make('audio', { autoplay: true, srcObject: this.stream });
    if (this.audio) this.element.append(this.audio);
    this.video.addEventListener('resize', () => this.#fit());
    this.video.addEventListener('playing', () => this.refresh());
    this.refresh();
  }

  #name;
  #muted;
  #dots;
  #avatar;

  /** Brings what is shown in line with the participant. */
  refresh() {
    const { name, isLocal, active, speaking } = this.participant;
    const shownName = this.isScreen ? `${isLocal ? 'Your' : `${name}’s`} screen` : isLocal ? `${name} (you)` : name;
    if (this.#name.textContent !== shownName) {
      this.#name.textContent = shownName;
      fillAvatar(this.#avatar, name);
    }
    const source = this.isScreen ? 'screen' : 'camera';
    const hasPicture = active[source] && this.stream.getVideoTracks().length > 0 && this.video.videoWidth > 0;
    this.element.toggleAttribute('data-video', hasPicture);
    this.element.toggleAttribute('data-speaking', speaking && !this.isScreen);
    this.#muted.toggleAttribute('hidden', active.microphone);
    const says = [shownName];
    if (!this.isScreen) says.push(active.microphone ? '' : 'muted', active.camera ? '' : 'camera off');
    this.element.setAttribute('aria-label', says.filter(Boolean).join(', '));
  }

  /** @param {Quality} quality */
  showQuality(quality) {
    this.#dots.hidden = !quality;
    this.#dots.dataset.quality = quality;
    this.#dots.setAttribute('aria-label', `Connection: ${quality}`);
    this.#dots.title = `Connection: ${quality}`;
  }

  /** A portrait picture in a landscape tile is shown whole, not cut to a strip. */
  #fit() {
    const { videoWidth, videoHeight, clientWidth, clientHeight } = this.video;
    if (videoWidth && clientWidth) {
      const stretch = videoWidth / videoHeight / (clientWidth / clientHeight);
      this.element.dataset.fit = stretch > 2.5 || stretch < 0.6 ? 'contain' : 'cover';
    }
    this.refresh();
  }

  /** @param {number} width @param {number} height */
  resize(width, height) {
    this.element.style.setProperty('--tile-width', `${width}px`);
    this.element.style.setProperty('--tile-height', `${height}px`);
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
