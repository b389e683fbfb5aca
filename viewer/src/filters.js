/** The form of the filters. */

import { find, input, make } from "./dom.js";
import { noFilters, STATUS } from "./sample.js";
import { BUNDLE_ARCSEC } from "./wcs.js";

const SELECTS = /** @type {const} */ (["bundle", "observed", "asked", "marks", "status"]);
const SLIDERS = /** @type {const} */ (["spiral", "bar"]);

/** @typedef {import("./sample.js").Filters} Filters */

/**
 * @param {Filters} filters Changed in place.
 * @param {() => void} changed
 */
export function bindFilters(filters, changed) {
  options("bundle", [["", "any"], ...Object.keys(BUNDLE_ARCSEC).map((n) => [n, `${n} fibers`])]);
  options("status", [["", "any"], ...STATUS.map((name) => [name, name]), ["failed", "not ok"]]);
  for (const name of SLIDERS) {
    input(name).addEventListener("input", () => {
      filters[name] = Number(input(name).value);
      changed();
    });
  }
  for (const name of SELECTS) {
    input(name).addEventListener("change", () => {
      filters[name] = input(name).value;
      changed();
    });
  }
  find("reset").addEventListener("click", () => {
    Object.assign(filters, noFilters());
    changed();
  });
}

/** @param {string} id @param {string[][]} items */
function options(id, items) {
  find(id).replaceChildren(...items.map(([value, text]) => make("option", { value }, text)));
}

/** Set the form to the filters. @param {Filters} filters */
export function showFilters(filters) {
  for (const name of SLIDERS) {
    input(name).value = String(filters[name]);
    find(`${name}-value`).textContent = `${filters[name]} %`;
    input(name).setAttribute("aria-valuetext", `${filters[name]} percent`);
  }
  for (const name of SELECTS) input(name).value = filters[name];
  const words = [];
  if (filters.cone) {
    const [ra, dec, radius] = filters.cone;
    words.push(`within ${radius.toFixed(2)}° of RA ${ra.toFixed(2)}°, Dec ${dec.toFixed(2)}°`);
  }
  if (filters.manga) words.push(`MaNGA id ${filters.manga}`);
  find("active").textContent = words.join("; ");
}

/**
 * What must be known of the list before these filters can be used.
 * @param {Filters} filters
 * @returns {("places" | "details")[]}
 */
export function neededBy({ spiral, bar, bundle, observed, asked, marks, cone }) {
  /** @type {("places" | "details")[]} */
  const steps = [];
  if (cone) steps.push("places");
  if (spiral || bar || bundle || observed || asked || marks) steps.push("details");
  return steps;
}
