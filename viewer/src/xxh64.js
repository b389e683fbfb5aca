/**
 * XXH64 (Yann Collet), of which zstd frames hold the low 32 bits as their checksum.
 *
 * The lanes of 32 bytes are computed in 32-bit integers, since BigInt is a hundred times slower;
 * the rest, a few steps, is BigInt.
 */

const P1 = 0x9e3779b185ebca87n;
const P2 = 0xc2b2ae3d27d4eb4fn;
const P3 = 0x165667b19e3779f9n;
const P4 = 0x85ebca77c2b2ae63n;
const P5 = 0x27d4eb2f165667c5n;
const MASK = (1n << 64n) - 1n;

/** @param {bigint} a @param {bigint} bits */
const rotate = (a, bits) => ((a << bits) | (a >> (64n - bits))) & MASK;
/** @param {bigint} lane @param {bigint} input */
const round = (lane, input) => (rotate((lane + input * P2) & MASK, 31n) * P1) & MASK;

/**
 * @param {Uint8Array} bytes
 * @returns {bigint} The hash with seed 0.
 */
export function xxh64(bytes) {
  // A view of 32-bit words needs an aligned buffer.
  const data = bytes.byteOffset % 4 ? bytes.slice() : bytes;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const stripes = data.length >> 5;
  let hash = P5;
  let at = stripes << 5;
  if (stripes) {
    const words = new Uint32Array(data.buffer, data.byteOffset, stripes * 8);
    const lanes = [(P1 + P2) & MASK, P2, 0n, (MASK + 1n - P1) & MASK].map((start, i) =>
      runLane(words, i * 2, start),
    );
    hash = [1n, 7n, 12n, 18n].reduce((sum, bits, i) => sum + rotate(lanes[i], bits), 0n) & MASK;
    for (const lane of lanes) hash = ((hash ^ round(0n, lane)) * P1 + P4) & MASK;
  }
  hash = (hash + BigInt(data.length)) & MASK;
  for (; at + 8 <= data.length; at += 8) {
    hash = (rotate(hash ^ round(0n, view.getBigUint64(at, true)), 27n) * P1 + P4) & MASK;
  }
  if (at + 4 <= data.length) {
    hash = (rotate(hash ^ ((BigInt(view.getUint32(at, true)) * P1) & MASK), 23n) * P2 + P3) & MASK;
    at += 4;
  }
  for (; at < data.length; at++) {
    hash = (rotate(hash ^ ((BigInt(data[at]) * P5) & MASK), 11n) * P1) & MASK;
  }
  hash = ((hash ^ (hash >> 33n)) * P2) & MASK;
  hash = ((hash ^ (hash >> 29n)) * P3) & MASK;
  return hash ^ (hash >> 32n);
}

/**
 * One of the four lanes: every fourth 64-bit word, as pairs of 32 bits.
 * @param {Uint32Array} words
 * @param {number} first
 * @param {bigint} start
 */
function runLane(words, first, start) {
  let low = Number(start & 0xffffffffn) | 0;
  let high = Number(start >> 32n) | 0;
  for (let i = first; i < words.length; i += 8) {
    // lane += word * P2
    let a = words[i];
    let productLow = Math.imul(a, 0x27d4eb4f);
    let productHigh =
      (multiplyHigh(a, 0x27d4, 0xeb4f) +
        Math.imul(a, 0xc2b2ae3d) +
        Math.imul(words[i + 1], 0x27d4eb4f)) |
      0;
    const sum = (low >>> 0) + (productLow >>> 0);
    high = (high + productHigh + (sum > 0xffffffff ? 1 : 0)) | 0;
    low = sum | 0;
    // rotate by 31
    a = ((low << 31) | (high >>> 1)) >>> 0;
    const turned = (high << 31) | (low >>> 1); // the upper half
    // times P1
    productLow = Math.imul(a, 0x85ebca87);
    productHigh =
      (multiplyHigh(a, 0x85eb, 0xca87) +
        Math.imul(a, 0x9e3779b1) +
        Math.imul(turned, 0x85ebca87)) |
      0;
    low = productLow;
    high = productHigh;
  }
  return (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
}

/**
 * Upper 32 bits of an unsigned product.
 * @param {number} a
 * @param {number} high Upper 16 bits of the other factor.
 * @param {number} low Its lower 16 bits.
 */
function multiplyHigh(a, high, low) {
  const a1 = a >>> 16;
  const a0 = a & 0xffff;
  const cross1 = Math.imul(a1, low) >>> 0;
  const cross0 = Math.imul(a0, high) >>> 0;
  const middle = (Math.imul(a0, low) >>> 16) + (cross1 & 0xffff) + (cross0 & 0xffff);
  return (Math.imul(a1, high) + (cross1 >>> 16) + (cross0 >>> 16) + (middle >>> 16)) | 0;
}
