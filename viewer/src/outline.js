/** Outlines of masks, along the edges of pixels. */

import { SIDE } from "./schema.js";

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // right, down, left, up
const CORNERS = SIDE + 1;

/**
 * Closed outlines of the pixels with more than so many counts.
 * @param {Uint8Array} counts 525 x 525.
 * @param {number} threshold
 * @returns {number[][]} Of each outline x, y, x, y...: corners of pixels, where pixel 0 is from 0 to 1.
 */
export function traceOutlines(counts, threshold) {
  // Bits of the directions in which an edge leaves a corner; the mask is on its right.
  const leaves = new Uint8Array(CORNERS * CORNERS);
  const isIn = (/** @type {number} */ x, /** @type {number} */ y) =>
    x >= 0 && y >= 0 && x < SIDE && y < SIDE && counts[y * SIDE + x] > threshold;
  for (let y = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++) {
      if (counts[y * SIDE + x] <= threshold) continue;
      const at = y * CORNERS + x;
      if (!isIn(x, y - 1)) leaves[at] |= 1;
      if (!isIn(x + 1, y)) leaves[at + 1] |= 2;
      if (!isIn(x, y + 1)) leaves[at + CORNERS + 1] |= 4;
      if (!isIn(x - 1, y)) leaves[at + CORNERS] |= 8;
    }
  }
  const outlines = [];
  for (let start = 0; start < leaves.length; start++) {
    while (leaves[start]) outlines.push(follow(leaves, start));
  }
  return outlines;
}

/** @param {Uint8Array} leaves @param {number} start */
function follow(leaves, start) {
  const line = [];
  let at = start;
  let direction = -1;
  do {
    // Turn right where two edges leave a corner, so that pixels that touch by corners stay apart.
    const order = direction < 0 ? [0, 1, 2, 3] : [1, 0, 3].map((turn) => (direction + turn) % 4);
    const next = /** @type {number} */ (order.find((d) => leaves[at] & (1 << d)));
    leaves[at] &= ~(1 << next);
    if (next !== direction) line.push(at % CORNERS, Math.floor(at / CORNERS));
    direction = next;
    at += STEPS[next][0] + STEPS[next][1] * CORNERS;
  } while (at !== start);
  return line;
}
