/** Errors that people read: one sentence each, shown as text and never as HTML. */

const MOST_QUOTED = 200;
/** Characters that nobody sees, or that turn the words around them round. */
const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

/** An error whose message is a sentence for the person at the page. */
export class PageError extends Error {}

/** What is wrong with a chunk, as the end of a sentence; the store says which chunk it is. */
export class ChunkError extends Error {}

/**
 * Foreign text for people, the middle of a long one cut out, and hidden characters shown as �.
 * @param {unknown} value
 * @param {number} [most] Characters.
 */
export function shorten(value, most = MOST_QUOTED) {
  const text = String(value);
  const half = most / 2 - 2;
  return (text.length <= most ? text : `${text.slice(0, half)}...${text.slice(-half)}`).replace(HIDDEN, "\ufffd");
}

/**
 * The sentence of an error: that of a PageError among its causes, or one that names the object.
 * @param {unknown} error
 * @param {string} what The object that was read, such as "the picture of row 5".
 */
export function sentence(error, what) {
  const known = findCause(error, PageError);
  if (known) return known.message;
  const words = error instanceof Error ? error.message : error;
  return `${what} cannot be read (${shorten(words)}): the store is damaged, or another program wrote it; gz3d-zarr verify says which objects are.`;
}

/**
 * The first error of a class among an error and its causes.
 * @template {Error} T
 * @param {unknown} error
 * @param {new (...args: any[]) => T} kind
 * @returns {T | null}
 */
export function findCause(error, kind) {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof kind) return cause;
  }
  return null;
}
