/** All that a person chose, as the fragment of the page's address. */

import { noFilters, STATUS } from "./sample.js";
import { CLASSES } from "./schema.js";
import { BUNDLE_ARCSEC } from "./wcs.js";

export const MODES = ["fill", "contours", "both"];
const MOST_COUNT = 254;

/**
 * @typedef {object} State
 * @property {number | null} row Row of the store; null: the first that passes.
 * @property {number | null} id Zooniverse id, which holds where rows have moved.
 * @property {number} page Of the list, from 0; of 32 rows.
 * @property {import("./sample.js").Filters} filters
 * @property {number} threshold
 * @property {string} mode
 * @property {string[]} classes That are shown.
 * @property {boolean} paths
 * @property {boolean} rings
 * @property {boolean} bundleShown
 */

/** @returns {State} */
export const initialState = () => ({
  row: null, id: null, page: 0, filters: noFilters(), threshold: 3, mode: "fill", classes: [...CLASSES], paths: false, rings: false, bundleShown: true,
});

/** Words that a filter can have. @type {Record<string, string[]>} */
const WORDS = {
  bundle: Object.keys(BUNDLE_ARCSEC),
  observed: ["yes", "no", "unknown"],
  asked: ["spiral", "bar", "both", "none"],
  marks: [...CLASSES, "none"],
  status: [...STATUS, "failed"],
};

/**
 * Read a fragment; what is not understood is left at its default.
 * @param {string} hash
 * @returns {State}
 */
export function parseState(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const state = initialState();
  const { filters } = state;
  state.row = whole(given.get("row"), 2 ** 20);
  state.id = whole(given.get("id"), Number.MAX_SAFE_INTEGER);
  state.page = whole(given.get("page"), 2 ** 20) ?? 1;
  state.page = Math.max(state.page - 1, 0);
  filters.spiral = whole(given.get("spiral"), 100) ?? 0;
  filters.bar = whole(given.get("bar"), 100) ?? 0;
  for (const [name, words] of Object.entries(WORDS)) {
    const word = given.get(name) ?? "";
    if (words.includes(word)) /** @type {any} */ (filters)[name] = word;
  }
  const cone = (given.get("cone") ?? "").split(",").map((text) => (text.trim() ? Number(text) : NaN));
  const [ra, dec, radius] = cone;
  if (cone.length === 3 && ra >= 0 && ra <= 360 && Math.abs(dec) <= 90 && radius > 0 && radius <= 180) {
    filters.cone = [ra, dec, radius];
  }
  const manga = given.get("manga") ?? "";
  if (/^\d{1,6}-\d{1,9}$/.test(manga)) filters.manga = manga;
  state.threshold = whole(given.get("more"), MOST_COUNT) ?? state.threshold;
  if (MODES.includes(given.get("mode") ?? "")) state.mode = given.get("mode") ?? "";
  if (given.has("show")) state.classes = CLASSES.filter((name) => given.get("show")?.split(",").includes(name));
  state.paths = given.get("paths") === "1";
  state.rings = given.get("rings") === "1";
  state.bundleShown = given.get("hexagon") !== "0";
  return state;
}

/**
 * Write the fragment: only what differs from the defaults.
 * @param {State} state
 */
export function formatState(state) {
  const { filters } = state;
  const start = initialState();
  /** @type {[string, string | number | null | false][]} */
  const items = [
    ["row", state.row],
    ["id", state.id],
    ["page", state.page > 0 && state.page + 1],
    ["spiral", filters.spiral || null],
    ["bar", filters.bar || null],
    ...Object.keys(WORDS).map((name) => /** @type {[string, string]} */ ([name, /** @type {any} */ (filters)[name]])),
    ["cone", filters.cone && filters.cone.map((n) => Number(n.toFixed(5))).join(",")],
    ["manga", filters.manga],
    ["more", state.threshold !== start.threshold && state.threshold],
    ["mode", state.mode !== start.mode && state.mode],
    ["show", state.classes.length < CLASSES.length && (state.classes.join(",") || "none")],
    ["paths", state.paths && 1],
    ["rings", state.rings && 1],
    ["hexagon", !state.bundleShown && "0"],
  ];
  const set = items.filter(([, value]) => value !== null && value !== false && value !== "");
  return set.map(([name, value]) => `${name}=${encodeURIComponent(String(value)).replaceAll("%2C", ",")}`).join("&");
}

/** @param {string | null} text @param {number} most @returns {number | null} */
function whole(text, most) {
  return text !== null && /^\d{1,16}$/.test(text) && Number(text) <= most ? Number(text) : null;
}
