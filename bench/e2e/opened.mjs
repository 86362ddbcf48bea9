// Closes what a test file has opened (servers, browsers, processes, folders), in reverse order, after the file's
// tests, whether they passed, failed, or never ran because something could not be opened.

import { after } from 'node:test';

const closings = [];

/** Registers `close`, to be called after the tests of the file. Call it before the opening can fail. */
export const atTheEnd = (close) => closings.push(close);

after(async () => {
  while (closings.length > 0) {
    try {
      await closings.pop()();
    } catch (error) {
      // Continue with the others, so that this does not hide the results of the tests.
      console.error(error);
    }
  }
});
