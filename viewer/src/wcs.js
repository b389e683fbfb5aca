/** Positions on the sky: the gnomonic projection of a picture, distances, and how they are written. */

import { SIDE } from "./schema.js";

export const CRPIX = 262.5; // counted from 1
const RADIANS = Math.PI / 180;
/** Fibers of a bundle to the width of its hexagon, corner to corner, in arcsec. @type {Record<number, number>} */
export const BUNDLE_ARCSEC = { 7: 7.5, 19: 12.5, 37: 17.5, 61: 22.5, 91: 27.5, 127: 32.5 };

/**
 * Position of a pixel of a picture.
 * @param {number} x Counted from 0.
 * @param {number} y Counted from 0, at the top.
 * @param {{ra: number, dec: number, scale: number}} center Degrees, and degrees per pixel.
 */
export function pixelToSky(x, y, { ra, dec, scale }) {
  const xi = -scale * (x + 1 - CRPIX) * RADIANS;
  const eta = -scale * (y + 1 - CRPIX) * RADIANS;
  const [sin, cos] = [Math.sin(dec * RADIANS), Math.cos(dec * RADIANS)];
  const turn = Math.atan2(xi, cos - eta * sin);
  const up = Math.atan2(Math.cos(turn) * (sin + eta * cos), cos - eta * sin);
  return { ra: (ra + turn / RADIANS + 360) % 360, dec: up / RADIANS };
}

/**
 * Distance of two positions, all in degrees.
 * @param {number} ra1 @param {number} dec1 @param {number} ra2 @param {number} dec2
 */
export function distance(ra1, dec1, ra2, dec2) {
  const a = Math.sin(((dec2 - dec1) / 2) * RADIANS);
  const b = Math.sin(((ra2 - ra1) / 2) * RADIANS);
  const sum = a * a + Math.cos(dec1 * RADIANS) * Math.cos(dec2 * RADIANS) * b * b;
  return (2 * Math.asin(Math.min(1, Math.sqrt(sum)))) / RADIANS;
}

/**
 * Corners of the true bundle, in pixels; none if its size or the scale is unknown.
 * @param {number} fibers
 * @param {number} scale
 * @returns {[number, number][]}
 */
export function bundleCorners(fibers, scale) {
  const width = BUNDLE_ARCSEC[fibers];
  if (!width || !(scale > 0)) return [];
  const radius = width / 2 / (scale * 3600);
  return [0, 60, 120, 180, 240, 300].map((angle) => [
    CRPIX - 1 + radius * Math.cos(angle * RADIANS),
    CRPIX - 1 + radius * Math.sin(angle * RADIANS),
  ]);
}

/** A round length in arcsec of about a fifth of a picture. @param {number} scale Degrees per pixel. */
export function scaleBar(scale) {
  const wide = (SIDE * scale * 3600) / 4;
  return [1, 2, 5, 10, 20, 30, 60, 120].findLast((length) => length <= wide) ?? 1;
}
