/** What a person types into the search field. */

import { PageError, shorten } from "./errors.js";

const EXPECTED = "a MaNGA id (1-603114), a Zooniverse id (14760000), or RA and Dec in degrees or 10:30:00 +41:00:00, with a radius in degrees if wanted";

/**
 * @typedef {{kind: "manga", id: string} | {kind: "zooniverse", id: number}
 *   | {kind: "position", ra: number, dec: number, radius: number | null}} Query
 */

/**
 * @param {string} text
 * @returns {Query}
 */
export function parseQuery(text) {
  const words = text.trim().split(/[\s,;]+/);
  if (words.length === 1) {
    if (/^\d{1,6}-\d{1,9}$/.test(words[0])) return { kind: "manga", id: words[0] };
    if (/^\d{1,15}$/.test(words[0])) return { kind: "zooniverse", id: Number(words[0]) };
  }
  if (words.length === 2 || words.length === 3) {
    const ra = readAngle(words[0], 15);
    const dec = readAngle(words[1], 1);
    const radius = words.length === 3 ? Number(words[2]) : null;
    if (ra >= 0 && ra <= 360 && Math.abs(dec) <= 90 && (radius === null || (radius > 0 && radius <= 180))) {
      return { kind: "position", ra, dec, radius };
    }
  }
  throw new PageError(`${JSON.stringify(shorten(text))} cannot be searched: type ${EXPECTED}.`);
}

/**
 * Degrees of a number, or of hours or degrees with minutes and seconds.
 * @param {string} word
 * @param {number} unit Degrees of the first part where there are several.
 */
function readAngle(word, unit) {
  if (/^[+-]?\d+(\.\d*)?$/.test(word)) return Number(word);
  const parts = /^([+-]?)(\d{1,3}):(\d{1,2})(?::(\d{1,2}(?:\.\d*)?))?$/.exec(word);
  if (!parts) return NaN;
  const value = Number(parts[2]) + Number(parts[3]) / 60 + Number(parts[4] ?? 0) / 3600;
  return (parts[1] === "-" ? -1 : 1) * value * unit;
}

/** Whether a text could be a plate and IFU, such as 8485-1901. @param {string} id */
export const isPlateIfu = (id) => /^\d{4,5}-\d{3,5}$/.test(id);
