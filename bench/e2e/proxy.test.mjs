// Behind a real nginx with the configuration of docs/OPERATING.md: pages, the client module, the socket, REST and
// WHIP work, at the root and under a path, with http and https, and nginx logs no secret.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { access, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { before, test } from 'node:test';

import { Peer, launch } from './browser.mjs';
import { Edge, until } from './edge.mjs';
import { atTheEnd } from './opened.mjs';

const operating = await readFile(new URL('../../docs/OPERATING.md', import.meta.url), 'utf8');
const whole = operating.match(/^```nginx\n(.*?)^```$/ms)[1];
const prefixed = operating.match(/^```nginx prefix\n(.*?)^```$/ms)[1];
const offer = (await readFile(new URL('../../controlplane/tests/offers/chromium_sendrecv.sdp', import.meta.url), 'utf8')).replaceAll(
  'a=sendrecv',
  'a=sendonly',
);

const executable = process.env.NGINX ?? '/usr/sbin/nginx';
let edge;
let folder;
let browser;

/** Replaces each `from` in `text`. Fails if the document does not contain it. */
function replaced(text, changes) {
  for (const [from, to] of changes) {
    assert.ok(from instanceof RegExp ? text.search(from) >= 0 : text.includes(from), `the printed configuration has no ${from}`);
    text = text.replaceAll(from, () => to);
  }
  return text;
}

const freePort = () =>
  new Promise((resolve, reject) => {
    const probe = net.createServer().once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });

/** An nginx with a configuration of the document; only ports and files differ. */
async function nginx(name, { isSecure, isPrefixed }) {
  const port = await freePort();
  const own = path.join(folder, name);
  execFileSync('mkdir', ['-p', path.join(own, 'tmp')]);
  let site = whole;
  if (isPrefixed) site = replaced(site, [[/ {4}location = \/metrics .*\n {4}location \/ \{\n[^}]*\}\n/gs, prefixed]]);
  const files = [
    ['/etc/letsencrypt/live/edge.example.com', folder],
    ['/var/log/nginx/uprtc.log', path.join(own, 'access.log')],
    ['http://127.0.0.1:8080', edge.base],
  ];
  const tls = isSecure
    ? [['listen 443 ssl;', `listen 127.0.0.1:${port} ssl;`]]
    : [['listen 443 ssl;', `listen 127.0.0.1:${port};`], [/ +ssl_certificate.*\n/g, '']];
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((what) => `${what}_temp_path ${own}/tmp/${what};`);
  const config = path.join(own, 'nginx.conf');
  await writeFile(
    config,
    `daemon off; master_process off; pid ${own}/pid; error_log ${own}/error.log;
     events {} http { ${temporary.join(' ')} ${replaced(site, [...files, ...tls])} }\n`,
  );
  const started = spawn(executable, ['-p', own, '-c', config], { stdio: ['ignore', 'inherit', 'inherit'] });
  atTheEnd(() => started.kill());
  const base = `${isSecure ? 'https' : 'http'}://127.0.0.1:${port}${isPrefixed ? '/calls' : ''}`;
  await until('nginx answers', async () => (await ask('GET', `${base}/healthz`)).status === 200);
  return { base, log: path.join(own, 'access.log') };
}

/** A request of a program that accepts the test's certificate. */
function ask(method, url, headers = {}, body = '') {
  const client = url.startsWith('https') ? https : http;
  return new Promise((resolve, reject) => {
    const asking = client.request(url, { method, headers, rejectUnauthorized: false }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (part) => (text += part));
      answer.once('end', () => resolve({ status: answer.statusCode, headers: answer.headers, text }));
    });
    asking.once('error', reject).end(body);
  });
}

before(async () => {
  await access(executable); // `tools/install test` installs it.
  folder = await mkdtemp(path.join(tmpdir(), 'uprtc-e2e-nginx-'));
  atTheEnd(() => rm(folder, { recursive: true, force: true }));
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  const files = ['-keyout', path.join(folder, 'privkey.pem'), '-out', path.join(folder, 'fullchain.pem')];
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'];
  execFileSync('openssl', ['req', '-x509', '-days', '2', ...key, ...subject, ...files], { stdio: 'ignore' });
  // `cors-origins` is set, so the proxy must give the page's own origin.
  [edge, browser] = await Promise.all([
    Edge.start('--cors-origin', 'https://app.example'),
    launch('--ignore-certificate-errors'),
  ]);
});

for (const isSecure of [false, true]) {
  for (const isPrefixed of [false, true]) {
    const name = `${isSecure ? 'https' : 'http'}${isPrefixed ? ' under a path' : ''}`;
    test(`nginx as documented, ${name}`, { timeout: 120_000 }, async () => {
      const { base, log } = await nginx(name.replaceAll(' ', '-'), { isSecure, isPrefixed });

      // WHIP: the session's address is correct for the client, and accepts a DELETE with and without a token.
      const token = await edge.token('--room', 'demo', '--name', 'Ada', '--publish', '--subscribe');
      const bearer = { authorization: `Bearer ${token}` };
      for (const [where, headers] of [['whip/demo', bearer], ['whip/demo/Ada', {}]]) {
        // These fields from a client have no effect: nginx overwrites them.
        const claimed = { 'x-forwarded-host': 'evil.example', 'x-forwarded-prefix': '/evil', forwarded: 'host=evil.example;proto=ftp' };
        const created = await ask('POST', `${base}/${where}`, { ...bearer, ...claimed, 'content-type': 'application/sdp' }, offer);
        assert.equal(created.status, 201, created.text);
        const { location } = created.headers;
        assert.ok(location.startsWith(`${base}/whip/demo/sessions/`), location);
        const ended = await ask('DELETE', new URL(location, `${base}/${where}`).href, headers);
        assert.equal(ended.status, 200, `${ended.text} at ${location}`);
        // nginx writes its log after the answer.
        await until('nginx has logged it', async () => (await readFile(log, 'utf8')).includes('"DELETE '));
        const logged = await readFile(log, 'utf8');
        assert.ok(!logged.includes(location.split('/').at(-1)), logged);
      }

      // REST, its OpenAPI document and its page.
      const admin = { authorization: `Bearer ${await edge.token('--room', '*', '--name', 'ops', '--admin')}` };
      assert.equal((await ask('GET', `${base}/v1/rooms`, admin)).status, 200);
      const [document, docs] = [await ask('GET', `${base}/openapi.json`), await ask('GET', `${base}/docs`)];
      const { servers } = JSON.parse(document.text);
      assert.equal(new URL('v1/rooms', new URL(servers[0].url, `${base}/openapi.json`)).href, `${base}/v1/rooms`);
      for (const [, link] of docs.text.matchAll(/href="([^"#]+)"/g)) {
        assert.equal((await ask('GET', new URL(link, `${base}/docs`).href)).status, 200, link);
      }
      assert.equal((await ask('GET', `${base}/metrics`)).status, 404, 'not public');
      const lost = await ask('GET', `${base}/no/such/page`, { accept: 'text/html' });
      const [, style] = lost.text.match(/href="([^"]+)"/);
      assert.equal((await ask('GET', new URL(style, `${base}/no/such/page`).href)).status, 200, 'a page for people, with its style');

      // The page, its files and the socket: two participants see each other.
      const join = async (n) => {
        const guest = await edge.token('--room', `room-${isSecure}-${isPrefixed}`, '--name', `Peer ${n}`, '--publish', '--subscribe');
        return Peer.join(browser, `${base}/r/room-${isSecure}-${isPrefixed}?token=${guest}&join=1`, n);
      };
      const peers = [await join(1), await join(2)];
      await until('the first sees the second', () => peers[0].sees([2]), 40_000);
      await until('the second hears the first', () => peers[1].hears([1]), 20_000);
      for (const peer of peers) assert.deepEqual(peer.errors, []);
      assert.ok(!(await readFile(log, 'utf8')).includes('token='), 'no token is logged');
      await Promise.all(peers.map((peer) => peer.close()));
    });
  }
}
