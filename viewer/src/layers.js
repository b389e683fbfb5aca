/** Draws what lies over a picture: masks, outlines, marks, rings, the bundle, the scale and compass. */

import { traceOutlines } from "./outline.js";
import { BUNDLE_COLOR, CLASS_COLORS, CLASS_DASHES, EDGE_COLOR } from "./palette.js";
import { CLASSES, SIDE } from "./schema.js";
import { bundleCorners, scaleBar } from "./wcs.js";

/** Usual number of volunteers, so that the colors of most subjects can be compared. */
const FULL_COLOR_COUNT = 15;
/** Pixels; the ellipses of many stars are so small that nobody would see their rings. */
const MIN_RADIUS = 5;
const SIGMAS = 2;

/**
 * @typedef {object} Scene What is known of a galaxy.
 * @property {Uint8Array[] | null} masks
 * @property {import("./redraw.js").Mark[] | null} marks
 * @property {string} verdict Whether masks drawn again from the marks agree.
 * @property {import("./store.js").Cluster[] | null} clusters
 * @property {number} fibers
 * @property {number} scale Degrees per pixel.
 * @property {[number, number] | null} pointer Pixel that the keyboard points at.
 */

/**
 * Opacity of each count, as in the plots: more marks, more opaque.
 * @param {number} most Highest count of the mask.
 * @param {number} threshold Counts up to this are not shown.
 */
export function opacities(most, threshold) {
  const limit = Math.max(FULL_COLOR_COUNT, most);
  return Uint8Array.from({ length: 256 }, (_, count) => {
    if (count <= threshold) return 0;
    const part = Math.min(count / limit, 1);
    return Math.round(255 * (part < 0.5 ? 0.7 * part : 0.35 + 0.9 * (part - 0.5)));
  });
}

/**
 * Fill a canvas with a mask in the color of its class.
 * @param {HTMLCanvasElement} canvas
 * @param {string} cls
 * @param {Uint8Array | null} counts Nothing is shown without.
 * @param {number} threshold
 */
export function paintMask(canvas, cls, counts, threshold) {
  const context = context2d(canvas);
  context.clearRect(0, 0, SIDE, SIDE);
  if (!counts) return;
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(CLASS_COLORS[cls].slice(at, at + 2), 16));
  let most = 0;
  for (const count of counts) if (count > most) most = count;
  const opacity = opacities(most, threshold);
  const image = new ImageData(SIDE, SIDE);
  for (let i = 0; i < counts.length; i++) {
    if (!counts[i]) continue;
    image.data[4 * i] = red;
    image.data[4 * i + 1] = green;
    image.data[4 * i + 2] = blue;
    image.data[4 * i + 3] = opacity[counts[i]];
  }
  context.putImageData(image, 0, 0);
}

/**
 * Draw the lines over a picture.
 * @param {CanvasRenderingContext2D} context
 * @param {number} size Of the canvas, in its pixels.
 * @param {number} width Of lines, in its pixels.
 * @param {Scene} scene
 * @param {import("./permalink.js").State} state
 */
export function drawLines(context, size, width, scene, state) {
  const zoom = size / SIDE;
  context.clearRect(0, 0, size, size);
  context.lineJoin = "round";
  const shown = CLASSES.filter((cls) => state.classes.includes(cls));
  for (const cls of shown) {
    const counts = scene.masks?.[CLASSES.indexOf(cls)];
    if (counts && state.mode !== "fill") {
      const path = new Path2D();
      for (const line of traceOutlines(counts, state.threshold)) addLine(path, line, zoom, true);
      stroke(context, path, CLASS_COLORS[cls], 1.6 * width, CLASS_DASHES[cls]);
    }
  }
  if (state.paths) {
    for (const { cls, points } of scene.marks ?? []) {
      if (shown.includes(cls)) drawMark(context, cls, points, zoom, width);
    }
  }
  if (state.rings) {
    for (const cluster of scene.clusters ?? []) {
      if (shown.includes(cluster.cls)) drawRing(context, cluster, zoom, width);
    }
  }
  const corners = state.bundleShown ? bundleCorners(scene.fibers, scene.scale) : [];
  if (corners.length) {
    const path = new Path2D();
    addLine(path, corners.flatMap(([x, y]) => [x + 0.5, y + 0.5]), zoom, true);
    stroke(context, path, BUNDLE_COLOR, 1.3 * width, []);
  }
  if (scene.scale > 0) {
    drawScale(context, size, width, scene.scale);
    drawCompass(context, size, width);
  }
  if (scene.pointer) drawPointer(context, scene.pointer, zoom, width);
}

/** @param {Path2D} path @param {number[]} line @param {number} zoom @param {boolean} isClosed */
function addLine(path, line, zoom, isClosed) {
  for (let i = 0; i < line.length; i += 2) {
    if (i) path.lineTo(line[i] * zoom, line[i + 1] * zoom);
    else path.moveTo(line[0] * zoom, line[1] * zoom);
  }
  if (isClosed) path.closePath();
}

/** @param {CanvasRenderingContext2D} context @param {Path2D} path @param {string} color @param {number} width @param {number[]} dashes */
function stroke(context, path, color, width, dashes) {
  context.setLineDash([]);
  context.strokeStyle = EDGE_COLOR;
  context.globalAlpha = 0.55;
  context.lineWidth = 2.2 * width;
  context.stroke(path);
  context.globalAlpha = 1;
  context.setLineDash(dashes.map((length) => length * width));
  context.strokeStyle = color;
  context.lineWidth = width;
  context.stroke(path);
  context.setLineDash([]);
}

/** @param {CanvasRenderingContext2D} context @param {string} cls @param {[number, number][]} points @param {number} zoom @param {number} width */
function drawMark(context, cls, points, zoom, width) {
  const path = new Path2D();
  if (points.length > 1) {
    addLine(path, points.flatMap(([x, y]) => [x + 0.5, y + 0.5]), zoom, false);
    stroke(context, path, CLASS_COLORS[cls], 0.9 * width, CLASS_DASHES[cls]);
    return;
  }
  const [x, y] = points[0].map((value) => (value + 0.5) * zoom);
  const arm = 4 * width;
  if (cls === "star") {
    // Another form than a center, besides another color.
    path.moveTo(x - arm, y - arm);
    path.lineTo(x + arm, y + arm);
    path.moveTo(x - arm, y + arm);
    path.lineTo(x + arm, y - arm);
  } else {
    path.moveTo(x - arm, y);
    path.lineTo(x + arm, y);
    path.moveTo(x, y - arm);
    path.lineTo(x, y + arm);
  }
  stroke(context, path, CLASS_COLORS[cls], 0.9 * width, []);
}

/** The 2-sigma ellipse of a cluster. @param {CanvasRenderingContext2D} context @param {import("./store.js").Cluster} cluster @param {number} zoom @param {number} width */
function drawRing(context, { cls, x, y, varX, varY, varXY }, zoom, width) {
  if (![x, y].every(Number.isFinite)) return;
  const [a, b, c] = [varX, varY, varXY].map((value) => (Number.isFinite(value) ? value : 0));
  const middle = (a + b) / 2;
  const spread = Math.hypot((a - b) / 2, c);
  const [long, short] = [middle + spread, middle - spread].map((variance) =>
    Math.max(SIGMAS * Math.sqrt(Math.max(variance, 0)), MIN_RADIUS),
  );
  const path = new Path2D();
  path.ellipse((x + 0.5) * zoom, (y + 0.5) * zoom, long * zoom, short * zoom, Math.atan2(2 * c, a - b) / 2, 0, 2 * Math.PI);
  stroke(context, path, CLASS_COLORS[cls], 1.3 * width, CLASS_DASHES[cls]);
}

/** @param {CanvasRenderingContext2D} context @param {number} size @param {number} width @param {number} scale */
function drawScale(context, size, width, scale) {
  const arcsec = scaleBar(scale);
  const length = (arcsec / 3600 / scale / SIDE) * size;
  const [x, y] = [12 * width, size - 14 * width];
  const path = new Path2D();
  path.moveTo(x, y);
  path.lineTo(x + length, y);
  stroke(context, path, "#ffffff", 2.5 * width, []);
  label(context, `${arcsec}″`, x + length / 2, y - 6 * width, width);
}

/** North is up, and east is left. @param {CanvasRenderingContext2D} context @param {number} size @param {number} width */
function drawCompass(context, size, width) {
  const [x, y, arm] = [size - 14 * width, size - 14 * width, 26 * width];
  const path = new Path2D();
  path.moveTo(x - arm, y);
  path.lineTo(x, y);
  path.lineTo(x, y - arm);
  stroke(context, path, "#ffffff", 1.6 * width, []);
  label(context, "N", x, y - arm - 4 * width, width);
  label(context, "E", x - arm - 8 * width, y + 5 * width, width);
}

/** @param {CanvasRenderingContext2D} context @param {string} text @param {number} x @param {number} y @param {number} width */
function label(context, text, x, y, width) {
  context.font = `${13 * width}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.lineWidth = 3 * width;
  context.strokeStyle = EDGE_COLOR;
  context.strokeText(text, x, y);
  context.fillStyle = "#ffffff";
  context.fillText(text, x, y);
}

/** @param {CanvasRenderingContext2D} context @param {[number, number]} pixel @param {number} zoom @param {number} width */
function drawPointer(context, [x, y], zoom, width) {
  const path = new Path2D();
  const [cx, cy, inner, outer] = [(x + 0.5) * zoom, (y + 0.5) * zoom, 4 * width, 14 * width];
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    path.moveTo(cx + dx * inner, cy + dy * inner);
    path.lineTo(cx + dx * outer, cy + dy * outer);
  }
  stroke(context, path, "#ffffff", 1.4 * width, []);
}

/** @param {HTMLCanvasElement} canvas @returns {CanvasRenderingContext2D} */
export function context2d(canvas) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
}
