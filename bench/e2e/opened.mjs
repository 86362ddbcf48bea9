// What a test file has opened (servers, browsers, processes, folders) and how each is closed: last first, when the file's
// tests have ended, whether they passed, failed, or never began because something else could not be opened.

import { after } from 'node:test';

const closings = [];

/** Has `close` called when the file's tests have ended. To be called before what it closes can fail to open. */
export const atTheEnd = (close) => closings.push(close);

after(async () => {
  while (closings.length > 0) {
    try {
      await closings.pop()();
    } catch (error) {
      // The others are closed all the same, and what the tests have found is not hidden by it.
      console.error(error);
    }
  }
});
