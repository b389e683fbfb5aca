/** What stands beside a picture: classes, facts, links, and what is under the pointer. */

import { find, input, make, plural } from "./dom.js";
import { shorten } from "./errors.js";
import { outsideLinks, pythonLine } from "./links.js";
import { CLASS_COLORS, CLASS_DASHES } from "./palette.js";
import { CLASSES, SIDE } from "./schema.js";
import { pixelToSky } from "./wcs.js";

const SVG = "http://www.w3.org/2000/svg";

/**
 * @typedef {import("./galaxy.js").GalaxyView} GalaxyView
 * @typedef {import("./permalink.js").State} State
 */

/**
 * Make the line of each class, and bind the inputs of the layers.
 * @param {State} state
 * @param {(what: "masks" | "marks") => void} changed
 */
export function bindLayers(state, changed) {
  for (const cls of CLASSES) {
    document.documentElement.style.setProperty(`--${cls}`, CLASS_COLORS[cls]);
    const box = make("input", { type: "checkbox", id: `show-${cls}` });
    box.addEventListener("change", () => {
      state.classes = CLASSES.filter((name) => input(`show-${name}`).checked);
      changed("masks");
    });
    const label = make("label", { class: "class" }, box, swatch(cls), cls, make("span", { class: "area", id: `area-${cls}` }));
    find("classes").append(label);
  }
  const threshold = input("threshold");
  threshold.addEventListener("input", () => {
    state.threshold = Number(threshold.value);
    changed("masks");
  });
  for (const radio of modes()) {
    radio.addEventListener("change", () => {
      state.mode = radio.value;
      changed("masks");
    });
  }
  /** @type {["paths" | "rings" | "bundleShown", string][]} */
  const boxes = [["paths", "show-paths"], ["rings", "show-rings"], ["bundleShown", "show-bundle"]];
  for (const [name, id] of boxes) {
    input(id).addEventListener("change", () => {
      state[name] = input(id).checked;
      changed("marks");
    });
  }
}

/** @returns {HTMLInputElement[]} */
const modes = () => [.../** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("input[name=mode]"))];

/** A line in the color and dashes of a class. @param {string} cls */
function swatch(cls) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({ width: "34", height: "14", viewBox: "0 0 34 14", "aria-hidden": "true" })) svg.setAttribute(name, value);
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", "M3 7h28");
  line.setAttribute("stroke", CLASS_COLORS[cls]);
  line.setAttribute("stroke-width", "3");
  line.setAttribute("stroke-dasharray", CLASS_DASHES[cls].map((length) => length * 3).join(" "));
  svg.append(line);
  return svg;
}

/** Set the inputs of the layers to the state. @param {State} state @param {GalaxyView} view */
export function showLayers(state, view) {
  let most = 15;
  for (const cls of CLASSES) {
    input(`show-${cls}`).checked = state.classes.includes(cls);
    const found = view.measure(cls);
    most = Math.max(most, found?.most ?? 0);
    find(`area-${cls}`).textContent = isUnasked(view, cls) ? "not asked" : found ? area(found) : "";
  }
  const threshold = input("threshold");
  threshold.max = String(Math.max(most - 1, state.threshold));
  threshold.value = String(state.threshold);
  const words = `${plural(state.threshold, "mark")}`;
  find("threshold-value").textContent = words;
  threshold.setAttribute("aria-valuetext", `more than ${words}`);
  for (const radio of modes()) radio.checked = radio.value === state.mode;
  input("show-paths").checked = state.paths;
  input("show-rings").checked = state.rings;
  input("show-bundle").checked = state.bundleShown;
}

/** Whether nobody was asked about a class. @param {GalaxyView} view @param {string} cls */
const isUnasked = ({ sample, row }, cls) => sample.has.details && sample.asked(cls, row) === 0;

/** @param {{pixels: number, arcsec2: number}} found */
function area({ pixels, arcsec2 }) {
  return Number.isFinite(arcsec2) ? `${arcsec2.toFixed(1)} arcsec²` : plural(pixels, "pixel");
}

/** Title of a subject. @param {import("./sample.js").Sample} sample @param {number} row */
export const titleOf = (sample, row) => (sample.has.names ? `MaNGA ${shorten(sample.subject[row])}` : `Row ${row}`);

/**
 * Facts, links and the Python line.
 * @param {GalaxyView} view
 * @param {string} source What Python opens.
 */
export function showFacts(view, source) {
  const { sample, row } = view;
  const title = titleOf(sample, row);
  if (find("name").textContent !== title) find("name").textContent = title; // it is read out
  document.title = `${title} – Galaxy Zoo: 3D`;
  tell(view);
  if (!sample.has.places) return;
  const [ra, dec, id] = [sample.ra[row], sample.dec[row], sample.zooniverse_subject_id[row]];
  /** @type {[string, string][]} */
  const facts = [
    ["Zooniverse id", String(id)],
    ["RA, Dec", Number.isFinite(ra) ? `${ra.toFixed(5)}°, ${dec.toFixed(5)}°` : "unknown"],
  ];
  if (sample.has.details) facts.push(...votes(sample, row), ["MaNGA bundle", `${sample.ifu_design_size[row] > 0 ? `${sample.ifu_design_size[row]} fibers` : "unknown"}; ${["not observed", "observed"][sample.observed[row]] ?? "unknown whether observed"}`]);
  facts.push(["Row", `${row} of ${sample.length} (counted from 0)`]);
  find("facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  const links = outsideLinks(ra, dec, sample.subject[row]).map(([text, href]) =>
    make("a", { href, target: "_blank", rel: "noopener noreferrer" }, text),
  );
  find("links").replaceChildren(...links);
  input("python").value = pythonLine(source, id);
  find("stage").setAttribute("aria-label", describe(view));
}

/** @param {import("./sample.js").Sample} sample @param {number} row @returns {[string, string][]} */
function votes(sample, row) {
  const total = sample.total_classifications[row];
  /** @type {[string, string][]} */
  const facts = [];
  for (const [cls, number] of /** @type {["spiral" | "bar", number][]} */ ([["spiral", sample.spiral_votes[row]], ["bar", sample.bar_votes[row]]])) {
    const part = sample.fraction(cls, row);
    const text = part >= 0 ? `${number} of ${total} (${Math.round(100 * part)} %)` : total === 0 ? "no classifications" : "unknown";
    facts.push([`Votes for ${cls}`, text]);
  }
  const known = CLASSES.filter((cls) => sample.asked(cls, row) > 0);
  const marked = known.map((cls) => `${cls} ${sample.drawn(cls, row)} of ${sample.asked(cls, row)}`);
  facts.push(["Volunteers who marked", marked.join(", ") || "unknown"]);
  const unasked = CLASSES.filter((cls) => sample.asked(cls, row) === 0);
  if (unasked.length) facts.push(["Nobody was asked for", `${unasked.join(", ")}: an empty mask says nothing`]);
  if (sample.saturated[row]) facts.push(["Saturated", "counts above 255 are shown as 255"]);
  return facts;
}

/** The picture in words. @param {GalaxyView} view */
function describe(view) {
  const { sample, row, state } = view;
  const parts = CLASSES.flatMap((cls) => {
    const found = view.measure(cls);
    return found ? [`${cls} ${isUnasked(view, cls) ? "not asked" : area(found)}`] : [];
  });
  const masks = parts.length ? ` Marked by more than ${state.threshold}: ${parts.join(", ")}.` : "";
  const isThere = view.image || find("notice").hidden; // or comes
  const title = titleOf(sample, row);
  return `${isThere ? `Picture of ${title}, north up, east left` : `No picture of ${title}`}.${masks} Arrow keys move a pointer.`;
}

/** Counts and position of a pixel. @param {GalaxyView} view */
function tell({ pixel, scene, sample, row }) {
  if (!pixel) return;
  const [x, y] = pixel;
  const words = [`x ${x}, y ${y}`];
  if (scene.scale > 0 && sample.has.places) {
    const { ra, dec } = pixelToSky(x, y, { ra: sample.ra[row], dec: sample.dec[row], scale: scene.scale });
    words.push(`RA ${ra.toFixed(5)}°, Dec ${dec.toFixed(5)}°`);
  }
  if (scene.masks) words.push(CLASSES.map((cls, i) => `${cls} ${scene.masks?.[i][y * SIDE + x]}`).join(", "));
  const text = words.join("; ");
  if (find("readout").textContent !== text) find("readout").textContent = text;
}

/**
 * Show counts and position below the pointer of the mouse, or of the keyboard.
 * @param {() => GalaxyView} current
 */
export function bindPointer(current) {
  const stage = find("stage");
  const readout = find("readout");
  stage.addEventListener("pointermove", (event) => {
    const box = stage.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((part) => Math.floor(part * SIDE));
    readout.setAttribute("aria-live", "off"); // a screen reader would not come to an end
    if (!(x >= 0 && y >= 0 && x < SIDE && y < SIDE)) return;
    current().pixel = [x, y];
    tell(current());
  });
  stage.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 10 : 1;
    /** @type {Record<string, [number, number]>} */
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const move = moves[event.key];
    const view = current();
    if (!move) return;
    const [x, y] = view.scene.pointer ?? [262, 262];
    const next = [x + move[0], y + move[1]].map((value) => Math.max(0, Math.min(SIDE - 1, value)));
    view.pixel = view.scene.pointer = [next[0], next[1]];
    readout.setAttribute("aria-live", "polite");
    tell(view);
    view.drawLines();
    event.preventDefault();
    event.stopPropagation();
  });
  stage.addEventListener("blur", () => {
    current().scene.pointer = null;
    current().drawLines();
  });
}
