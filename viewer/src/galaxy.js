/** One galaxy: its picture, with masks and marks over it. */

import { canvas, find, fitCanvas, pause } from "./dom.js";
import { sentence, shorten } from "./errors.js";
import { context2d, drawLines, paintMask } from "./layers.js";
import { parseMarks, redraw } from "./redraw.js";
import { STATUS } from "./sample.js";
import { CLASSES, SIDE } from "./schema.js";

/** @typedef {import("./permalink.js").State} State */

/** Milliseconds until a picture is asked for although the one before has not come. */
const PATIENCE = 300;
/** Characters of the reason of a status. */
const MOST_REASON = 600;

export class GalaxyView {
  row = -1;
  /** @type {ImageData | null} */ image = null;
  /** @type {import("./layers.js").Scene} */
  scene = emptyScene();
  /** Settled when the row is drawn, or another one is asked for. */
  drawn = Promise.resolve();
  /** @type {[number, number] | null} Pixel whose counts are shown; it stays from galaxy to galaxy. */
  pixel = null;
  #notice = "";
  /** @type {Promise<unknown>} */
  #reading = Promise.resolve();

  /**
   * @param {import("./store.js").Store} store
   * @param {import("./sample.js").Sample} sample
   * @param {State} state
   * @param {() => void} changed Called when masks or marks have come.
   */
  constructor(store, sample, state, changed) {
    this.store = store;
    this.sample = sample;
    this.state = state;
    this.changed = changed;
    new ResizeObserver(() => this.drawLines()).observe(find("stage"));
  }

  /**
   * Show a row; what comes late for another row is dropped.
   * @param {number} row
   */
  show(row) {
    this.drawn = this.#show(row);
    return this.drawn;
  }

  /** @param {number} row */
  async #show(row) {
    this.row = row;
    this.image = null;
    this.scene = emptyScene();
    this.#notice = "";
    this.#inform("");
    find("stage").classList.add("waiting");
    find("notice").hidden = true;
    delete document.documentElement.dataset.galaxy;
    const isCurrent = () => this.row === row;
    // A key that is held down asks for more rows than can be read: those between are left out.
    await Promise.race([this.#reading, pause(PATIENCE)]);
    if (!isCurrent()) return;
    const reading = Promise.allSettled([this.store.picture(row), this.store.masks(row)]);
    this.#reading = reading;
    const [picture, masks] = await reading;
    if (!isCurrent()) return;
    this.image = picture.status === "fulfilled" ? picture.value : null;
    this.scene.masks = masks.status === "fulfilled" ? masks.value : null;
    if (picture.status === "rejected") this.#notice = sentence(picture.reason, `The picture of row ${row}`);
    else if (masks.status === "rejected") this.#notice = sentence(masks.reason, `The masks of row ${row}`);
    this.update();
    this.#draw();
    document.documentElement.dataset.galaxy = String(row);
    performance.mark("galaxy");
    this.changed();
    this.loadMarks();
  }

  /** Show again what is drawn already, after more of the list has come. */
  refresh() {
    this.update();
    if (document.documentElement.dataset.galaxy === String(this.row)) this.#draw();
  }

  /** Take over what the list says about the row, when it has come. */
  update() {
    const { sample, row, scene } = this;
    scene.scale = sample.has.names ? sample.scale[row] : NaN;
    scene.fibers = sample.has.details ? sample.ifu_design_size[row] : -1;
    if (sample.has.names && sample.status[row] !== 0) {
      this.image = scene.masks = null;
      this.#tellWhy(row, STATUS[sample.status[row]] ?? "unknown");
    }
    this.#tell();
  }

  /** @param {number} row @param {string} status */
  async #tellWhy(row, status) {
    this.#notice = `There is no picture of this subject, since the status of its file is ${status}.`;
    const reason = await this.store.column("catalogue/reason").then(
      (reasons) => shorten(reasons[row], MOST_REASON),
      (error) => sentence(error, "The reason"),
    );
    if (this.row !== row) return;
    this.#notice = `There is no picture of this subject, since the status of its file is ${status}${reason ? `: ${reason}` : ""}.`;
    this.#tell();
  }

  #tell() {
    const notice = find("notice");
    if (notice.textContent !== this.#notice) notice.textContent = this.#notice;
    notice.hidden = !this.#notice;
  }

  #draw() {
    const context = context2d(canvas("picture"));
    if (this.image) context.putImageData(this.image, 0, 0);
    else context.clearRect(0, 0, SIDE, SIDE);
    find("stage").classList.remove("waiting");
    this.drawMasks();
  }

  /** Draw masks and lines as the state says. */
  drawMasks() {
    const { state, scene } = this;
    CLASSES.forEach((cls, i) => {
      const isShown = state.classes.includes(cls) && state.mode !== "contours";
      paintMask(canvas(`mask-${cls}`), cls, isShown ? (scene.masks?.[i] ?? null) : null, state.threshold);
    });
    this.drawLines();
  }

  drawLines() {
    const lines = canvas("lines");
    const ratio = fitCanvas(lines);
    if (this.row >= 0 && lines.width) drawLines(context2d(lines), lines.width, ratio, this.scene, this.state);
  }

  /** Read the volunteers' marks and the clusters if they are to be shown. */
  async loadMarks() {
    const { row, scene, state } = this;
    if (!this.image || !scene.masks) return;
    if ((state.paths && !scene.marks) || (state.rings && !scene.clusters)) this.#inform("Reading the marks…");
    /** @type {string[]} */
    const troubles = [];
    try {
      if (state.paths && !scene.marks) {
        scene.marks = parseMarks(await this.store.marks(row));
        scene.verdict = compare(scene);
      }
    } catch (error) {
      troubles.push(sentence(error, `The marks of row ${row}`));
    }
    try {
      if (state.rings) scene.clusters ??= await this.store.clusters(row);
    } catch (error) {
      troubles.push(sentence(error, `The clusters of row ${row}`));
    }
    if (this.scene !== scene) return;
    this.#inform(troubles.join(" ") || (state.paths ? scene.verdict : ""), troubles.length > 0);
    this.drawLines();
    document.documentElement.dataset.marks = String(row);
  }

  /** @param {string} note @param {boolean} [isTrouble] */
  #inform(note, isTrouble = false) {
    find("layer-note").textContent = note;
    find("layer-note").classList.toggle("trouble", isTrouble);
  }

  /**
   * Counts and area of a class above the threshold.
   * @param {string} cls
   * @returns {{pixels: number, arcsec2: number, most: number} | null}
   */
  measure(cls) {
    const counts = this.scene.masks?.[CLASSES.indexOf(cls)];
    if (!counts) return null;
    let [pixels, most] = [0, 0];
    for (const count of counts) {
      if (count > this.state.threshold) pixels++;
      if (count > most) most = count;
    }
    return { pixels, most, arcsec2: pixels * (this.scene.scale * 3600) ** 2 };
  }

  /**
   * Picture and layers as one PNG of 1050 x 1050 pixels, with a line of text below.
   * @param {string} title
   * @returns {Promise<Blob>}
   */
  async toPNG(title) {
    const size = 2 * SIDE;
    const whole = document.createElement("canvas");
    [whole.width, whole.height] = [size, size + 40];
    const context = context2d(whole);
    context.fillStyle = "#000000";
    context.fillRect(0, 0, size, size + 40);
    context.drawImage(canvas("picture"), 0, 0, size, size);
    context.imageSmoothingEnabled = false;
    for (const cls of CLASSES) context.drawImage(canvas(`mask-${cls}`), 0, 0, size, size);
    const lines = document.createElement("canvas");
    lines.width = lines.height = size;
    drawLines(context2d(lines), size, 2, { ...this.scene, pointer: null }, this.state);
    context.drawImage(lines, 0, 0);
    context.font = "22px system-ui, sans-serif";
    context.fillStyle = "#ffffff";
    context.fillText(title, 12, size + 27, size - 24);
    return new Promise((resolve, reject) =>
      whole.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no PNG was made"))), "image/png"),
    );
  }
}

/** @returns {import("./layers.js").Scene} */
function emptyScene() {
  return { masks: null, marks: null, verdict: "", clusters: null, fibers: -1, scale: NaN, pointer: null };
}

/** Whether masks drawn again from the paths agree with those of the store. @param {import("./layers.js").Scene} scene */
function compare({ marks, masks }) {
  if (!marks || !masks) return "";
  const results = ["spiral", "bar"].flatMap((cls) => {
    const paths = marks.filter((mark) => mark.cls === cls).length;
    if (!paths) return [];
    const stored = masks[CLASSES.indexOf(cls)];
    const differing = redraw(marks, cls).reduce((sum, count, i) => sum + Number(count !== stored[i]), 0);
    const verdict = differing ? `differs from the mask in ${differing} pixels` : "equals the mask";
    return [`${cls} (${paths} path${paths === 1 ? "" : "s"}) ${verdict}`];
  });
  return results.length ? `Drawn again from the paths: ${results.join("; ")}.` : "Nobody drew a path here.";
}
