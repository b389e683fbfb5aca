/** Texts of the codec vlen-utf8: their number, then the length and bytes of each. */

import { ChunkError } from "./errors.js";

/**
 * @param {Uint8Array} bytes
 * @param {number} expected Texts in the chunk.
 * @returns {string[]}
 */
export function decodeTexts(bytes, expected) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const decoder = new TextDecoder();
  const count = bytes.length < 4 ? -1 : view.getUint32(0, true);
  if (count !== expected) {
    throw new ChunkError(`has ${count} texts, expected ${expected}`);
  }
  const texts = new Array(count);
  let at = 4;
  for (let i = 0; i < count; i++) {
    const end = at + 4 <= bytes.length ? at + 4 + view.getUint32(at, true) : Infinity;
    if (end > bytes.length) throw new ChunkError("has texts that are cut short");
    texts[i] = end - at < 40 ? shortText(bytes, at + 4, end) : undefined;
    texts[i] ??= decoder.decode(bytes.subarray(at + 4, end));
    at = end;
  }
  return texts;
}

/**
 * A short text; undefined if it is not ASCII. TextDecoder takes ten times as long for each.
 * @param {Uint8Array} bytes
 * @param {number} start
 * @param {number} end
 */
function shortText(bytes, start, end) {
  let text = "";
  for (let i = start; i < end; i++) {
    if (bytes[i] > 127) return undefined;
    text += String.fromCharCode(bytes[i]);
  }
  return text;
}
