// Real Firefox peers, over WebDriver BiDi, with the few functions that `Peer` needs from a browser. A distribution's Firefox
// has no H.264 until it has downloaded a plug-in, which is disabled here. So it is the client for which
// a room changes to VP8.

import { existsSync } from 'node:fs';
import puppeteer from 'puppeteer-core';

import { atTheEnd } from './opened.mjs';

const executablePath = process.env.FIREFOX || ['/usr/bin/firefox-esr', '/usr/bin/firefox'].find(existsSync);

/** A Firefox that is closed after the tests of the file. */
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
