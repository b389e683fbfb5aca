/** A map of the whole sky: which galaxies pass, where the shown one is, and a circle to select with. */

import { canvas, find, fitCanvas } from "./dom.js";
import { context2d } from "./layers.js";
import { distance } from "./wcs.js";

/** Right ascension in the middle; the gap of the survey is at the edges. */
const CENTER = 120;
const RADIANS = Math.PI / 180;
const EDGE = 2 * Math.SQRT2; // of Hammer's projection, along x
/** A move of the mouse that is shorter, in CSS pixels, is a click. */
const CLICK = 6;

/**
 * Hammer's projection (equal area): x from -2.83 at the right to 2.83 at the left, y from -1.41 to 1.41.
 * @param {number} ra @param {number} dec
 * @returns {[number, number]}
 */
export function project(ra, dec) {
  const turn = ((((ra - CENTER) % 360) + 540) % 360) - 180;
  const [half, up] = [(turn / 2) * RADIANS, dec * RADIANS];
  const root = Math.sqrt(2 / (1 + Math.cos(up) * Math.cos(half)));
  return [2 * root * Math.cos(up) * Math.sin(half), root * Math.sin(up)];
}

/**
 * Position of a point of the map; null outside of the sky.
 * @param {number} x @param {number} y
 * @returns {{ra: number, dec: number} | null}
 */
export function unproject(x, y) {
  const square = x * x / 16 + y * y / 4;
  if (square > 0.5) return null;
  const z = Math.sqrt(1 - square);
  const turn = 2 * Math.atan2(z * x, 2 * (2 * z * z - 1));
  return { ra: (turn / RADIANS + CENTER + 720) % 360, dec: Math.asin(z * y) / RADIANS };
}

export class SkyMap {
  /** @type {Float32Array | null} Places of all rows on the map. */
  #places = null;
  /** @type {{ra: number, dec: number} | null} Of the keyboard. */
  #cursor = null;
  /** @type {[number, number, number] | null} A circle that is being drawn. */
  #draft = null;

  /**
   * @param {import("./sample.js").Sample} sample
   * @param {import("./permalink.js").State} state
   * @param {{choose: (ra: number, dec: number) => void, select: (cone: [number, number, number] | null) => void, rows: () => Int32Array, row: () => number}} actions
   */
  constructor(sample, state, actions) {
    this.sample = sample;
    this.state = state;
    this.actions = actions;
    const area = find("sky");
    this.#listen(area);
    new ResizeObserver(() => this.draw()).observe(area);
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => this.draw());
  }

  /** @param {HTMLCanvasElement} element */
  #frame(element) {
    const scale = element.width / (2 * EDGE * 1.02);
    return {
      scale,
      /** East is left. @type {(x: number, y: number) => [number, number]} */
      at: (x, y) => [element.width / 2 - x * scale, element.height / 2 - y * scale],
    };
  }

  /** Draw everything. */
  draw() {
    const [dots, lines] = [canvas("dots"), canvas("graticule")];
    const ratio = fitCanvas(dots);
    fitCanvas(lines);
    if (!dots.width || !this.sample.has.places) return;
    const style = getComputedStyle(document.documentElement);
    const { at, scale } = this.#frame(lines);
    context2d(lines).clearRect(0, 0, lines.width, lines.height);
    this.#drawGrid(context2d(lines), at, ratio, style);
    this.#drawDots(dots, scale, ratio, style);
    this.drawCursor();
  }

  /** @param {CanvasRenderingContext2D} context @param {(x: number, y: number) => [number, number]} at @param {number} ratio @param {CSSStyleDeclaration} style */
  #drawGrid(context, at, ratio, style) {
    context.strokeStyle = style.getPropertyValue("--line");
    context.lineWidth = ratio / 2;
    const path = new Path2D();
    for (let ra = CENTER - 180; ra <= CENTER + 180; ra += 60) {
      // 180 degrees from the center there are two edges.
      const inside = Math.max(CENTER - 179.999, Math.min(CENTER + 179.999, ra));
      for (let dec = -90; dec <= 90; dec += 3) path[dec === -90 ? "moveTo" : "lineTo"](...at(...project(inside, dec)));
    }
    for (const dec of [-60, -30, 0, 30, 60]) {
      for (let turn = -179.999; turn < 180; turn += 4.99) path[turn < -179 ? "moveTo" : "lineTo"](...at(...project(CENTER + turn, dec)));
    }
    context.stroke(path);
    context.fillStyle = style.getPropertyValue("--text");
    context.font = `${11 * ratio}px system-ui, sans-serif`;
    context.textAlign = "center";
    // Galaxies are below the numbers.
    context.strokeStyle = style.getPropertyValue("--panel");
    context.lineWidth = 4 * ratio;
    context.lineJoin = "round";
    /** @type {(text: string, ra: number, dec: number) => void} */
    const write = (text, ra, dec) => {
      const [x, y] = at(...project(ra, dec));
      context.strokeText(text, x, y - 3 * ratio);
      context.fillText(text, x, y - 3 * ratio);
    };
    for (const ra of [0, 60, 120, 180, 240]) write(`${ra}°`, ra, 0);
    for (const dec of [-60, -30, 30, 60]) write(`${dec > 0 ? "+" : "−"}${Math.abs(dec)}°`, CENTER, dec);
  }

  /** @param {HTMLCanvasElement} element @param {number} scale @param {number} ratio @param {CSSStyleDeclaration} style */
  #drawDots(element, scale, ratio, style) {
    const { sample } = this;
    if (!this.#places) {
      this.#places = new Float32Array(2 * sample.length);
      for (let row = 0; row < sample.length; row++) {
        [this.#places[2 * row], this.#places[2 * row + 1]] = project(sample.ra[row], sample.dec[row]);
      }
    }
    const places = this.#places;
    const { width, height } = element;
    const image = new ImageData(width, height); // 30,000 calls of fillRect take ten times as long
    const words = new Uint32Array(image.data.buffer);
    const size = Math.round((sample.length > 3000 ? 1.3 : 4) * ratio);
    /** @param {number} row @param {number} color */
    const put = (row, color) => {
      if (!(Math.abs(places[2 * row]) <= EDGE)) return; // an unknown position
      const left = Math.round(width / 2 - places[2 * row] * scale - size / 2);
      const top = Math.round(height / 2 - places[2 * row + 1] * scale - size / 2);
      for (let y = Math.max(top, 0); y < Math.min(top + size, height); y++) {
        words.fill(color, y * width + Math.max(left, 0), y * width + Math.min(left + size, width));
      }
    };
    const rows = this.actions.rows();
    if (rows.length < sample.length) {
      const faint = word(style.getPropertyValue("--faint"));
      for (let row = 0; row < sample.length; row++) put(row, faint);
    }
    const color = word(style.getPropertyValue("--dot"));
    for (const row of rows) put(row, color);
    context2d(element).putImageData(image, 0, 0);
  }

  /** Draw the mark of the shown galaxy, the circle and the cursor. */
  drawCursor() {
    const element = canvas("cursor");
    const ratio = fitCanvas(element);
    if (!element.width || !this.sample.has.places) return;
    const context = context2d(element);
    const { at } = this.#frame(element);
    const style = getComputedStyle(document.documentElement);
    context.clearRect(0, 0, element.width, element.height);
    context.lineWidth = 2 * ratio;
    context.strokeStyle = style.getPropertyValue("--warn");
    const cone = this.#draft ?? this.state.filters.cone;
    if (cone) {
      context.beginPath();
      let before = Infinity;
      for (const [ra, dec] of circle(...cone)) {
        const [x, y] = project(ra, dec);
        // A circle that leaves the map at one edge comes back at the other.
        context[Math.abs(x - before) < 0.5 ? "lineTo" : "moveTo"](...at(x, y));
        before = x;
      }
      context.stroke();
    }
    const row = this.actions.row();
    const { ra, dec } = this.sample;
    if (row >= 0 && Number.isFinite(ra[row])) {
      const [x, y] = at(...project(ra[row], dec[row]));
      context.strokeStyle = style.getPropertyValue("--text");
      context.beginPath();
      context.arc(x, y, 7 * ratio, 0, 2 * Math.PI);
      context.stroke();
    }
    if (this.#cursor) {
      const [x, y] = at(...project(this.#cursor.ra, this.#cursor.dec));
      context.beginPath();
      context.moveTo(x - 9 * ratio, y);
      context.lineTo(x + 9 * ratio, y);
      context.moveTo(x, y - 9 * ratio);
      context.lineTo(x, y + 9 * ratio);
      context.stroke();
    }
  }

  /** @param {PointerEvent} event @param {HTMLElement} area */
  #position(event, area) {
    const box = area.getBoundingClientRect();
    const scale = box.width / (2 * EDGE * 1.02);
    return unproject(
      (box.left + box.width / 2 - event.clientX) / scale,
      (box.top + box.height / 2 - event.clientY) / scale,
    );
  }

  /** @param {HTMLElement} area */
  #listen(area) {
    /** @type {{ra: number, dec: number, x: number, y: number} | null} */
    let start = null;
    area.addEventListener("pointerdown", (event) => {
      if (event.button) return; // not the main one
      const position = this.#position(event, area);
      start = position && { ...position, x: event.clientX, y: event.clientY };
      if (start) area.setPointerCapture(event.pointerId);
    });
    area.addEventListener("pointermove", (event) => {
      const position = this.#position(event, area);
      if (position) this.#tell(position.ra, position.dec, false);
      const isDrag = start && Math.hypot(event.clientX - start.x, event.clientY - start.y) >= CLICK;
      if (!start || !position || !isDrag) return;
      this.#draft = [start.ra, start.dec, Math.max(distance(start.ra, start.dec, position.ra, position.dec), 0.01)];
      this.drawCursor();
    });
    area.addEventListener("pointerup", () => {
      if (this.#draft) this.actions.select(this.#draft);
      else if (start) this.actions.choose(start.ra, start.dec);
      start = this.#draft = null;
    });
    area.addEventListener("pointercancel", () => {
      start = this.#draft = null;
      this.drawCursor();
    });
    area.addEventListener("keydown", (event) => this.#press(event));
    area.addEventListener("blur", () => {
      this.#cursor = null;
      this.drawCursor();
    });
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const step = event.shiftKey ? 10 : 1;
    /** @type {Record<string, [number, number]>} */
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    const move = moves[event.key];
    const row = this.actions.row();
    if (move) {
      const { ra, dec } = this.sample;
      const known = row >= 0 && Number.isFinite(ra[row]);
      const from = this.#cursor ?? (known ? { ra: ra[row], dec: dec[row] } : { ra: CENTER, dec: 0 });
      this.#cursor = { ra: (from.ra + move[0] + 360) % 360, dec: Math.max(-90, Math.min(90, from.dec + move[1])) };
      this.#tell(this.#cursor.ra, this.#cursor.dec, true);
      this.drawCursor();
    } else if (event.key === "Enter" && this.#cursor) {
      this.actions.choose(this.#cursor.ra, this.#cursor.dec);
    } else if (event.key === "Escape") {
      this.#cursor = null;
      this.actions.select(null);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {number} ra @param {number} dec @param {boolean} isByKey */
  #tell(ra, dec, isByKey) {
    const note = find("sky-note");
    note.setAttribute("aria-live", isByKey ? "polite" : "off"); // of a mouse, a screen reader would not come to an end
    const how = isByKey ? "Enter chooses the nearest galaxy." : "Click a galaxy; drag for all within a circle.";
    note.textContent = `RA ${ra.toFixed(1)}°, Dec ${dec.toFixed(1)}°. ${how}`;
  }
}

/** Points at the same distance of a position. @param {number} ra @param {number} dec @param {number} radius @returns {[number, number][]} */
function circle(ra, dec, radius) {
  const [sin, cos] = [Math.sin(dec * RADIANS), Math.cos(dec * RADIANS)];
  const [away, near] = [Math.sin(radius * RADIANS), Math.cos(radius * RADIANS)];
  return Array.from({ length: 241 }, (_, i) => {
    const angle = (i / 120) * Math.PI;
    const up = Math.asin(Math.max(-1, Math.min(1, sin * near + cos * away * Math.cos(angle))));
    const turn = Math.atan2(Math.sin(angle) * away * cos, near - sin * Math.sin(up));
    return [ra + turn / RADIANS, up / RADIANS];
  });
}

/** A color such as #1660b0 as an opaque word of ImageData. @param {string} color */
function word(color) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.trim().slice(at, at + 2), 16));
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
