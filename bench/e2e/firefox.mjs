// Real Firefox peers, over WebDriver BiDi, behind the few calls that `Peer` makes of a browser. A Firefox of a
// distribution has no H.264 before it has downloaded a plug-in: here it is not allowed to, so it is the client for whom
// a room speaks VP8.

import { existsSync } from 'node:fs';
import puppeteer from 'puppeteer-core';

import { atTheEnd } from './opened.mjs';

const executablePath = process.env.FIREFOX || ['/usr/bin/firefox-esr', '/usr/bin/firefox'].find(existsSync);

/** A Firefox, which is closed when the file's tests have ended. */
export async function launchFirefox() {
  const launching = puppeteer.launch({
    browser: 'firefox',
    executablePath,
    headless: true,
    extraPrefsFirefox: {
      'media.gmp-manager.updateEnabled': false,
      'media.gmp-gmpopenh264.enabled': false,
      'media.autoplay.default': 0,
      'media.autoplay.blocking_policy': 0,
      'media.autoplay.block-webaudio': false,
      'media.peerconnection.ice.loopback': true,
      'permissions.default.camera': 1,
      'permissions.default.microphone': 1,
      'media.peerconnection.ice.obfuscate_host_addresses': false,
    },
  });
  atTheEnd(async () => (await launching).close());
  const browser = await launching;
  return {
    newContext: ({ viewport }) => newContext(browser, viewport),
    close: () => browser.close(),
  };
}

async function newContext(browser, viewport) {
  const context = await browser.createBrowserContext();
  const scripts = [];
  return {
    addInitScript: async (...script) => scripts.push(script),
    async newPage() {
      const page = await context.newPage();
      await page.setViewport(viewport);
      for (const script of scripts) await page.evaluateOnNewDocument(...script);
      return page;
    },
    close: () => context.close(),
  };
}
