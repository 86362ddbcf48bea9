// A member of a room that is no browser, over the signalling socket: how it joins, tells the test, and leaves.

import WebSocket from 'ws';

/** One line of JSON for the test. */
export const report = (facts) => process.stdout.write(`${JSON.stringify(facts)}\n`);

/**
 * Joins with the offer that `offer` makes, and gives the answer to `answer`. Gives back how to send a signal.
 * @param {string} url
 * @param {() => Promise<string>} offer
 * @param {(sdp: string) => Promise<unknown>} answer
 */
export function join(url, offer, answer) {
  const socket = new WebSocket(url);
  // The link that it goes over may be one that goes away: media does not depend on it.
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
      case 'error': // Shown by the test where something fails.
      case 'bye':
        console.error(text.toString());
    }
  });
  return (signal) => socket.send(JSON.stringify(signal));
}

/** Calls `facts` twice a second and reports what it gives, until the input is closed; then `leave`, and ends. */
export function serve(facts, leave) {
  const telling = setInterval(async () => report(await facts()), 500);
  process.stdin.resume().on('end', async () => {
    clearInterval(telling);
    await leave();
    // Threads and sockets of some stacks outlive a closed connection.
    setTimeout(() => process.exit(0), 200);
  });
}
