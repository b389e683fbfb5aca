/**
 * The volunteers' own marks, and the masks of spiral and bar drawn again from them by the published
 * rules: each path that does not cross itself adds 1 to the pixels whose positions it encloses.
 */

import { PageError, shorten } from "./errors.js";
import { SIDE } from "./schema.js";

/** @typedef {[number, number]} Point */
/**
 * @typedef {object} Mark
 * @property {string} cls
 * @property {Point[]} points In pixels; a single one for center and star.
 */

/** Class to the question that asked for it, and the column with its marks. @type {Record<string, [string, string]>} */
const CLASS_MARKS = {
  center: ["center_star", "center_points"],
  star: ["center_star", "star_points"],
  spiral: ["spiral", "spiral_paths"],
  bar: ["bar", "bar_paths"],
};
/** Characters of the marks of one subject; the reference subjects have up to 104,000. */
const MOST_CHARACTERS = 2 ** 22;
/** Of one subject; the reference subjects have up to 6,400. */
const MOST_POINTS = 40_000;
/** Of one path, since whether it crosses itself takes the square of it; real ones have up to 80. */
const MOST_IN_PATH = 1000;

/**
 * Read the marks of a subject.
 * @param {string} text JSON of the array marks/annotations.
 * @returns {Mark[]}
 */
export function parseMarks(text) {
  if (!text) return [];
  let points = 0;
  try {
    if (text.length > MOST_CHARACTERS) throw new Error(`they have ${text.length} characters, expected at most ${MOST_CHARACTERS}`);
    const content = JSON.parse(text);
    return Object.entries(CLASS_MARKS).flatMap(([cls, [question, column]]) => {
      /** @type {string[]} */
      const cells = content[question]?.[column] ?? [];
      return cells.flatMap((cell) => {
        const drawn = JSON.parse(cell.trim() || "[]");
        const shapes = column.endsWith("_points") ? drawn.map((/** @type {Point} */ point) => [point]) : drawn;
        return shapes
          .filter((/** @type {Point[]} */ shape) => shape.length)
          .map((/** @type {Point[]} */ shape) => {
            points += shape.length;
            if (points > MOST_POINTS) throw new Error(`they have more than ${MOST_POINTS} points`);
            if (shape.length > MOST_IN_PATH || !shape.every(isPoint)) {
              throw new Error(`${shorten(JSON.stringify(shape.slice(0, 3)))}... is not a path of at most ${MOST_IN_PATH} points`);
            }
            return { cls, points: shape };
          });
      });
    });
  } catch (cause) {
    const words = shorten(cause instanceof Error ? cause.message : cause);
    throw new PageError(`The marks of this subject cannot be read (${words}): the store is damaged.`, { cause });
  }
}

/** @param {unknown} point */
function isPoint(point) {
  return Array.isArray(point) && point.length === 2 && point.every((value) => Number.isFinite(value));
}

/**
 * Draw the mask of a class again.
 * @param {Mark[]} marks
 * @param {string} cls spiral or bar.
 * @returns {Uint8Array} 525 x 525; counts above 255 are 255.
 */
export function redraw(marks, cls) {
  const counts = new Uint16Array(SIDE * SIDE);
  for (const mark of marks) {
    if (mark.cls === cls && isSimple(mark.points)) addEnclosed(mark.points, counts);
  }
  return Uint8Array.from(counts, (count) => Math.min(count, 255));
}

/**
 * Add 1 to the pixels within a closed path, by matplotlib's rule for points on its edge.
 * @param {Point[]} path
 * @param {Uint16Array} counts
 */
function addEnclosed(path, counts) {
  const ys = path.map((point) => point[1]);
  const first = Math.max(Math.floor(Math.min(...ys)), 0);
  const last = Math.min(Math.ceil(Math.max(...ys)), SIDE - 1);
  const xs = path.map((point) => point[0]);
  const left = Math.min(Math.max(Math.floor(Math.min(...xs)) - 1, 0), SIDE);
  const right = Math.max(Math.min(Math.ceil(Math.max(...xs)) + 2, SIDE), 0);
  const turns = new Uint8Array(SIDE + 1); // whether the line goes in or out at a pixel
  for (let y = first; y <= last; y++) {
    turns.fill(0);
    for (let i = 0; i < path.length; i++) {
      const [x0, y0] = path[i];
      const [x1, y1] = path[(i + 1) % path.length];
      const above = y1 >= y;
      if (y0 >= y === above) continue;
      // Pixels to the left of where the edge crosses this line are inside of it, or no longer.
      const slope = (y1 - y) * (x0 - x1);
      let [from, to] = [left, right];
      while (from < to) {
        const x = (from + to) >> 1;
        if (slope >= (x1 - x) * (y0 - y1) === above) from = x + 1;
        else to = x;
      }
      turns[left] ^= 1;
      turns[from] ^= 1;
    }
    let inside = 0;
    for (let x = left; x < right; x++) counts[y * SIDE + x] += inside ^= turns[x];
  }
}

/**
 * Whether a path, which is not closed, neither touches nor crosses itself.
 * @param {Point[]} path
 */
export function isSimple(path) {
  const line = path.filter((point, i) => i === 0 || point[0] !== path[i - 1][0] || point[1] !== path[i - 1][1]);
  const last = line.length - 2; // the last segment
  const isRing = last > 0 && line[0][0] === line[last + 1][0] && line[0][1] === line[last + 1][1];
  for (let i = 0; i < last; i++) {
    const [a, b] = [line[i], line[i + 1]];
    for (let j = i + 1; j <= last; j++) {
      const [c, d] = [line[j], line[j + 1]];
      if (Math.max(a[0], b[0]) < Math.min(c[0], d[0]) || Math.min(a[0], b[0]) > Math.max(c[0], d[0])) continue;
      if (Math.max(a[1], b[1]) < Math.min(c[1], d[1]) || Math.min(a[1], b[1]) > Math.max(c[1], d[1])) continue;
      if (j === i + 1) {
        if (foldsBack(a, b, d)) return false;
      } else if (isRing && i === 0 && j === last) {
        if (foldsBack(c, a, b)) return false;
      } else if (meet(a, b, c, d)) return false;
    }
  }
  return true;
}

/** Twice the area of a triangle, with the sign of its turn. @param {Point} a @param {Point} b @param {Point} c */
const turn = (a, b, c) => (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);

/** Whether the way from a by b to c goes back along itself. @param {Point} a @param {Point} b @param {Point} c */
function foldsBack(a, b, c) {
  return turn(a, b, c) === 0 && (a[0] - b[0]) * (c[0] - b[0]) + (a[1] - b[1]) * (c[1] - b[1]) > 0;
}

/** Whether two segments, whose boxes overlap, have a point in common. @param {Point} a @param {Point} b @param {Point} c @param {Point} d */
function meet(a, b, c, d) {
  const sides = [turn(a, b, c), turn(a, b, d), turn(c, d, a), turn(c, d, b)].map(Math.sign);
  return sides[0] * sides[1] <= 0 && sides[2] * sides[3] <= 0;
}
