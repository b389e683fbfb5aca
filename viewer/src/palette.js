/** Colors and dashes of the plots: those of gz3d_zarr/analysis/palette.py, which a test compares. */

/** @type {Record<string, string>} */
export const CLASS_COLORS = { center: "#f0e442", star: "#e8601a", spiral: "#80d0ff", bar: "#00a878" };
/** Lengths of dashes and gaps in units of the line width. @type {Record<string, number[]>} */
export const CLASS_DASHES = { center: [], star: [1, 1], spiral: [], bar: [4, 1.5] };
export const BUNDLE_COLOR = "#ffffff";
/** Of the dark edge that makes bright lines readable on bright parts of a picture. */
export const EDGE_COLOR = "#101010";
