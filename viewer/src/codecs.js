/**
 * The codecs of a store, in place of those of zarrita that check nothing: zstd by fzstd, which has no
 * wasm and therefore works under a strict CSP, with frames bounded before they are decoded and their
 * checksums compared.
 */

import { decompress } from "fzstd";
import { registry } from "zarrita";

import { crc32c } from "./crc32c.js";
import { ChunkError } from "./errors.js";
import { ITEM_BYTES, MOST_TEXT } from "./schema.js";
import { decodeTexts } from "./texts.js";
import { xxh64 } from "./xxh64.js";

/** @typedef {{dataType: string, shape: number[]}} ChunkMeta */

/** Put our codecs in zarrita's registry. */
export function registerCodecs() {
  const ours = { zstd: CheckedZstd, crc32c: CheckedCrc32c, "vlen-utf8": Texts };
  for (const [name, codec] of Object.entries(ours)) {
    registry.set(name, /** @type {any} */ (() => codec));
  }
}

/** One zstd frame with a checksum. */
class CheckedZstd {
  kind = "bytes_to_bytes";

  /** @param {number | null} bytes Of a decoded chunk; null for texts, whose length is unknown. */
  constructor(bytes) {
    this.bytes = bytes;
  }

  /** @param {unknown} _ @param {ChunkMeta} meta */
  static fromConfig(_, meta) {
    const size = ITEM_BYTES[meta.dataType];
    return new CheckedZstd(size ? meta.shape.reduce((a, b) => a * b, size) : null);
  }

  encode() {
    throw new Error("nothing is written");
  }

  /** @param {Uint8Array} data */
  decode(data) {
    const size = frameSize(data);
    if (this.bytes === null ? size > MOST_TEXT : size !== this.bytes) {
      const expected = this.bytes === null ? `at most ${MOST_TEXT}` : this.bytes;
      throw new ChunkError(`says that it unpacks to ${size} bytes, expected ${expected}`);
    }
    // fzstd writes no byte beyond a buffer that is given: a frame that unpacks to more is cut.
    const out = new Uint8Array(size);
    // fzstd asks `out == 1`, for which JavaScript would write out all its bytes as text: 150 ms of masks.
    Object.defineProperty(out, Symbol.toPrimitive, { value: () => NaN });
    let decoded;
    try {
      decoded = decompress(data, out);
    } catch (cause) {
      throw new ChunkError("cannot be unpacked", { cause });
    }
    const stored = new DataView(data.buffer, data.byteOffset).getUint32(data.length - 4, true);
    if (decoded !== out || Number(xxh64(out) & 0xffffffffn) !== stored) {
      throw new ChunkError("has a wrong checksum");
    }
    return new Uint8Array(out.buffer);
  }
}

/**
 * Size of the content of a zstd frame, from its header (RFC 8878, 3.1.1.1).
 * @param {Uint8Array} data
 */
function frameSize(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  if (data.length < 18 || view.getUint32(0, true) !== 0xfd2fb528) {
    throw new ChunkError("is not a zstd frame");
  }
  const flags = data[4];
  const isSingle = (flags >> 5) & 1;
  const sizeFlag = flags >> 6;
  const hasDictionary = flags & 3;
  if (!(flags & 4) || hasDictionary || (!isSingle && !sizeFlag)) {
    throw new ChunkError("is a zstd frame without a checksum or size, which gz3d-zarr never writes");
  }
  const at = 6 - isSingle;
  if (sizeFlag === 0) return data[at];
  if (sizeFlag === 1) return view.getUint16(at, true) + 256;
  if (sizeFlag === 2) return view.getUint32(at, true);
  return Number(view.getBigUint64(at, true));
}

class CheckedCrc32c {
  kind = "bytes_to_bytes";

  static fromConfig() {
    return new CheckedCrc32c();
  }

  encode() {
    throw new Error("nothing is written");
  }

  /** @param {Uint8Array} data */
  decode(data) {
    const content = data.subarray(0, -4);
    const stored = new DataView(data.buffer, data.byteOffset, data.length).getUint32(content.length, true);
    if (crc32c(content) !== stored) {
      throw new ChunkError("is in a shard whose index has a wrong checksum");
    }
    return content;
  }

  /** @param {number} size */
  computeEncodedSize(size) {
    return size + 4;
  }
}

class Texts {
  kind = "array_to_bytes";

  /** @param {number[]} shape */
  constructor(shape) {
    this.shape = shape;
  }

  /** @param {unknown} _ @param {ChunkMeta} meta */
  static fromConfig(_, meta) {
    return new Texts(meta.shape);
  }

  encode() {
    throw new Error("nothing is written");
  }

  /** @param {Uint8Array} bytes */
  decode(bytes) {
    return { data: decodeTexts(bytes, this.shape[0]), shape: this.shape, stride: [1] };
  }
}
