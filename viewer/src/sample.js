/** The list of subjects: its columns, and which rows pass the filters. */

import { PageError } from "./errors.js";
import { distance } from "./wcs.js";

export const STATUS = ["ok", "missing", "unreachable", "corrupt", "invalid"];
/** The columns, in the order in which they are needed: 15 KB, 560 KB and 200 KB of the survey. */
const STEPS = {
  names: ["subject", "scale", "status"],
  places: ["zooniverse_subject_id", "ra", "dec"],
  details: [
    "total_classifications",
    "spiral_votes",
    "bar_votes",
    "ifu_design_size",
    "observed",
    "saturated",
    "classifications",
    "classifications_drawn",
  ],
};
/** Columns of classes. */
const [CENTER, STAR, SPIRAL, BAR] = [0, 1, 2, 3];
/** @type {Record<string, number>} */
const CLASS_INDEX = { center: CENTER, star: STAR, spiral: SPIRAL, bar: BAR };

/**
 * @typedef {object} Filters Empty text or 0: no filter.
 * @property {number} spiral Least percentage of votes.
 * @property {number} bar
 * @property {string} bundle Fibers.
 * @property {string} observed
 * @property {string} asked
 * @property {string} marks
 * @property {string} status
 * @property {[number, number, number] | null} cone Right ascension, declination and radius in degrees.
 * @property {string} manga
 */

/** @returns {Filters} */
export const noFilters = () => ({
  spiral: 0, bar: 0, bundle: "", observed: "", asked: "", marks: "", status: "", cone: null, manga: "",
});

export class Sample {
  /** @type {string[]} */ subject = [];
  /** @type {Float64Array} */ zooniverse_subject_id = new Float64Array();
  /** @type {Float64Array} */ ra = new Float64Array();
  /** @type {Float64Array} */ dec = new Float64Array();
  /** @type {Float64Array} */ scale = new Float64Array();
  /** @type {Uint8Array} */ status = new Uint8Array();
  /** @type {Int32Array} */ total_classifications = new Int32Array();
  /** @type {Int32Array} */ spiral_votes = new Int32Array();
  /** @type {Int32Array} */ bar_votes = new Int32Array();
  /** @type {Int16Array} */ ifu_design_size = new Int16Array();
  /** @type {Int8Array} */ observed = new Int8Array();
  /** @type {Uint8Array} */ saturated = new Uint8Array();
  /** @type {Int16Array} */ classifications = new Int16Array();
  /** @type {Int16Array} */ classifications_drawn = new Int16Array();
  /** What has come. */
  has = { names: false, places: false, details: false };

  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
    this.length = store.subjects;
  }

  /**
   * Load the columns of a step; those that are here are not asked for again.
   * @param {keyof typeof STEPS} step
   */
  async load(step) {
    await Promise.all(
      STEPS[step].map(async (name) => {
        /** @type {any} */ (this)[name] = await this.store.column(name);
      }),
    );
    this.has[step] = true;
  }

  /**
   * Fraction of the classifications that saw a structure; NaN where unknown.
   * @param {"spiral" | "bar"} cls
   * @param {number} row
   */
  fraction(cls, row) {
    const votes = cls === "spiral" ? this.spiral_votes[row] : this.bar_votes[row];
    const total = this.total_classifications[row];
    return votes >= 0 && total > 0 ? votes / total : NaN;
  }

  /**
   * Volunteers who were asked about a class; -1 where unknown.
   * @param {string} cls @param {number} row
   */
  asked(cls, row) {
    return this.classifications[row * 4 + CLASS_INDEX[cls]];
  }

  /**
   * Volunteers who marked anything of a class; -1 where unknown.
   * @param {string} cls @param {number} row
   */
  drawn(cls, row) {
    return this.classifications_drawn[row * 4 + CLASS_INDEX[cls]];
  }

  /**
   * Rows that pass, in the order of the store.
   * @param {Filters} filters
   * @returns {Int32Array}
   */
  select(filters) {
    const tests = this.#tests(filters);
    const rows = new Int32Array(this.length);
    let found = 0;
    for (let row = 0; row < this.length; row++) {
      if (tests.every((test) => test(row))) rows[found++] = row;
    }
    return rows.subarray(0, found);
  }

  /** @param {Filters} filters @returns {((row: number) => boolean)[]} */
  #tests({ spiral, bar, bundle, observed, asked, marks, status, cone, manga }) {
    /** @type {((row: number) => boolean)[]} */
    const tests = [];
    const { details, places } = this.has;
    // Cross-multiplied, so that 29 of 50 votes are 58 %.
    const enough = (/** @type {Int32Array} */ votes, /** @type {number} */ percent) => (/** @type {number} */ row) =>
      this.total_classifications[row] > 0 && votes[row] >= 0 && votes[row] * 100 >= percent * this.total_classifications[row];
    if (details && spiral) tests.push(enough(this.spiral_votes, spiral));
    if (details && bar) tests.push(enough(this.bar_votes, bar));
    if (details && bundle) tests.push((row) => this.ifu_design_size[row] === Number(bundle));
    if (details && observed) {
      const flag = { yes: 1, no: 0, unknown: -1 }[observed];
      tests.push((row) => this.observed[row] === flag);
    }
    if (details && asked) {
      const [s, b] = { spiral: [true, null], bar: [null, true], both: [true, true], none: [false, false] }[asked] ?? [];
      // -1, unknown, is neither.
      const is = (/** @type {string} */ cls, /** @type {boolean} */ wanted) => (/** @type {number} */ row) =>
        wanted ? this.asked(cls, row) > 0 : this.asked(cls, row) === 0;
      if (typeof s === "boolean") tests.push(is("spiral", s));
      if (typeof b === "boolean") tests.push(is("bar", b));
    }
    if (details && marks === "none") {
      tests.push((row) => Object.keys(CLASS_INDEX).every((cls) => this.drawn(cls, row) === 0));
    } else if (details && marks) {
      tests.push((row) => this.drawn(marks, row) > 0);
    }
    if (status === "failed") tests.push((row) => this.status[row] !== 0);
    else if (status) {
      const flag = STATUS.indexOf(status);
      tests.push((row) => this.status[row] === flag);
    }
    if (places && cone) {
      const [ra, dec, radius] = cone;
      tests.push((row) => Math.abs(this.dec[row] - dec) <= radius && distance(ra, dec, this.ra[row], this.dec[row]) <= radius);
    }
    if (manga) tests.push((row) => this.subject[row] === manga);
    return tests;
  }

  /** @param {number} id @returns {number} Row, or -1. */
  rowOfZooniverse(id) {
    return this.zooniverse_subject_id.indexOf(id);
  }

  /**
   * The nearest subject.
   * @param {number} ra @param {number} dec
   * @param {Int32Array} [rows] Among these.
   */
  nearest(ra, dec, rows) {
    let [best, least] = [-1, Infinity];
    const number = rows ? rows.length : this.length;
    for (let i = 0; i < number; i++) {
      const row = rows ? rows[i] : i;
      const away = distance(ra, dec, this.ra[row], this.dec[row]);
      if (away < least) [best, least] = [row, away];
    }
    if (best < 0) throw new PageError("No galaxy that passes the filters has a known position.");
    return { row: best, degrees: least };
  }
}
