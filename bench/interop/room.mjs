// A member of a room that is not a browser, on the signalling socket: joining, reporting to the test, and leaving.

import WebSocket from 'ws';

/** One line of JSON for the test. */
export const report = (facts) => process.stdout.write(`${JSON.stringify(facts)}\n`);

/**
 * Joins with the offer that `offer` makes, and passes the answer to `answer`. Returns a function that sends a signal.
 * @param {string} url
 * @param {() => Promise<string>} offer
 * @param {(sdp: string) => Promise<unknown>} answer
 */
export function join(url, offer, answer) {
  const socket = new WebSocket(url);
  // The test may take down the link of the socket: media does not depend on it.
  socket.on('error', (error) => console.error(String(error)));
  socket.on('message', async (text) => {
    const signal = JSON.parse(text);
    switch (signal.type) {
      case 'welcome':
        socket.send(JSON.stringify({ type: 'offer', sdp: await offer() }));
        break;
      case 'answer':
        await answer(signal.sdp);
        break;
      case 'error': // The test shows it if it fails.
      case 'bye':
        console.error(text.toString());
    }
  });
  return (signal) => socket.send(JSON.stringify(signal));
}

/** Reports the result of `facts` each `ms` until the input is closed; then calls `leave` and exits. */
export function serve(facts, leave, ms = 500) {
  const telling = setInterval(async () => report(await facts()), ms);
  process.stdin.resume().on('end', async () => {
    clearInterval(telling);
    await leave();
    // Some stacks have threads and sockets that remain after the connection is closed.
    setTimeout(() => process.exit(0), 200);
  });
}
