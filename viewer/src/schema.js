/**
 * What a store must be for this page: version 2 of the schema of gz3d_zarr. Each array that is read
 * is compared with this before a byte of it is asked for.
 */

import { PageError, shorten } from "./errors.js";

export const SCHEMA_VERSION = 2;
export const SIDE = 525;
export const THUMBNAIL_SIDE = 75;
export const CLASSES = ["center", "star", "spiral", "bar"];
/** Rows that a store has at most; the survey has 29,813. */
export const MOST_SUBJECTS = 2 ** 18;
const MOST_ROWS = 2 ** 20;
/** Bytes of an object, or of a part of one, that is read at most. */
export const MOST_OBJECT = 64 * 2 ** 20;
/** Bytes of the root's zarr.json at most; that of the survey has 71 KB. */
export const MOST_DOCUMENT = 8 * 2 ** 20;
/** Bytes of a chunk at most, unpacked. */
const MOST_CHUNK = 32 * 2 ** 20;
/** Bytes of a chunk of texts at most, unpacked. */
export const MOST_TEXT = 64 * 2 ** 20;
/** Chunks of a column at most, each of which is a request; the survey has one. */
const MOST_PARTS = 64;
/** Chunks of a shard at most; its index has 16 bytes of each. */
const MOST_INNER = 2 ** 16;

/** @type {Record<string, number>} */
export const ITEM_BYTES = { uint8: 1, int8: 1, int16: 2, int32: 4, float32: 4, int64: 8, float64: 8, uint64: 8 };

/**
 * @typedef {object} ArrayRule
 * @property {string} type
 * @property {string[]} dims
 * @property {number[]} shape Of one row.
 * @property {boolean} [sharded]
 */

/** @type {(type: string, dim?: string) => ArrayRule} */
const column = (type, dim = "subject") => ({ type, dims: [dim], shape: [] });
/** @type {(type: string) => ArrayRule} */
const byClass = (type) => ({ type, dims: ["subject", "class"], shape: [CLASSES.length] });
/** @type {(cls: string, dim: string) => [string, ArrayRule][]} */
const clusters = (cls, dim) =>
  ["x", "y", "var_x", "var_y", "var_x_y"].map((name) => [
    `clusters/${cls}_${name}`,
    column("float64", dim),
  ]);

/** Every array that the page reads. @type {Record<string, ArrayRule>} */
export const ARRAYS = {
  subject: column("string"),
  zooniverse_subject_id: column("int64"),
  ra: column("float64"),
  dec: column("float64"),
  scale: column("float64"),
  status: column("uint8"),
  total_classifications: column("int32"),
  spiral_votes: column("int32"),
  bar_votes: column("int32"),
  ifu_design_size: column("int16"),
  observed: column("int8"),
  saturated: column("uint8"),
  classifications: byClass("int16"),
  classifications_drawn: byClass("int16"),
  "catalogue/reason": column("string"),
  "clusters/number_galaxy_centers": column("int32"),
  "clusters/number_foreground_stars": column("int32"),
  ...Object.fromEntries([...clusters("center", "galaxy_center"), ...clusters("star", "foreground_star")]),
  "marks/annotations": column("string"),
  image: { type: "uint8", dims: ["subject", "y", "x", "channel"], shape: [SIDE, SIDE, 3], sharded: true },
  segmentation: {
    type: "uint8",
    dims: ["subject", "class", "y", "x"],
    shape: [CLASSES.length, SIDE, SIDE],
    sharded: true,
  },
  "thumbnail/image": {
    type: "uint8",
    dims: ["subject", "y_thumbnail", "x_thumbnail", "channel"],
    shape: [THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3],
    sharded: true,
  },
};

/**
 * Check the root of a store.
 * @param {string} url For messages.
 * @param {any} root The parsed zarr.json.
 * @returns {{subjects: number, documents: Record<string, any>, attributes: Record<string, any>}}
 */
export function checkRoot(url, root) {
  const attributes = root?.attributes;
  if (root?.zarr_format !== 3 || root?.node_type !== "group" || attributes?.schema !== "gz3d") {
    throw new PageError(`${url} is not a store of Galaxy Zoo: 3D: the attributes of its root do not say schema "gz3d".`);
  }
  const version = attributes.schema_version;
  if (version !== SCHEMA_VERSION) {
    throw new PageError(
      `${url} has version ${shorten(JSON.stringify(version))} of the schema, and this page shows version ${SCHEMA_VERSION}: use the page of the gz3d-zarr that built it, or build it anew.`,
    );
  }
  const subjects = attributes.subjects;
  if (!Number.isInteger(subjects) || subjects < 1 || subjects > MOST_SUBJECTS) {
    throw new PageError(`${url} says that it has ${shorten(JSON.stringify(subjects))} subjects, expected a number from 1 to ${MOST_SUBJECTS}.`);
  }
  const documents = root.consolidated_metadata?.metadata;
  if (typeof documents !== "object" || documents === null) {
    throw new PageError(`${url} has no consolidated metadata, which every store of gz3d-zarr has: another program wrote it.`);
  }
  return { subjects, documents, attributes };
}

/**
 * Check the document of an array, and return it.
 * @param {string} name
 * @param {any} document
 * @param {number} subjects
 */
export function checkArray(name, document, subjects) {
  const rule = ARRAYS[name];
  /** @type {(what: string, found: unknown, expected: unknown) => never} */
  const refuse = (what, found, expected) => {
    throw new PageError(
      `The array ${name} of the store has the ${what} ${shorten(JSON.stringify(found))}, expected ${expected}: another program wrote it.`,
    );
  };
  if (document?.node_type !== "array" || document.zarr_format !== 3) {
    throw new PageError(`The store has no array ${name}: another program or version wrote it.`);
  }
  if (document.data_type !== rule.type) refuse("type", document.data_type, rule.type);
  if (!same(document.dimension_names, rule.dims)) {
    refuse("dimensions", document.dimension_names, rule.dims.join(", "));
  }
  const rows = rule.dims[0] === "subject" ? subjects : document.shape?.[0];
  if (!same(document.shape, [rows, ...rule.shape]) || !isCount(rows, MOST_ROWS, 0)) {
    refuse("shape", document.shape, [rule.dims[0], ...rule.shape].join(" x "));
  }
  const outer = document.chunk_grid?.configuration?.chunk_shape;
  if (document.chunk_grid?.name !== "regular" || !isChunk(outer, rule, MOST_ROWS)) {
    refuse("chunks", outer, ["n", ...rule.shape].join(" x "));
  }
  // Marks are read of one subject only.
  if (!rule.sharded && name !== "marks/annotations" && rows / outer[0] > MOST_PARTS) {
    refuse("chunks", outer, `at most ${MOST_PARTS} of ${rows} rows`);
  }
  const keys = document.chunk_key_encoding;
  if (keys?.name !== "default" || (keys.configuration?.separator ?? "/") !== "/") {
    refuse("chunk keys", keys, "default");
  }
  if (document.storage_transformers?.length) {
    refuse("storage transformers", document.storage_transformers, "none");
  }
  let codecs = document.codecs;
  let inner = outer;
  if (rule.sharded) {
    const shard = codecs?.length === 1 ? codecs[0] : undefined;
    const options = shard?.configuration ?? {};
    inner = options.chunk_shape;
    const number = isChunk(inner, rule, MOST_ROWS) ? outer[0] / inner[0] : NaN;
    if (
      shard?.name !== "sharding_indexed" ||
      (options.index_location ?? "end") !== "end" ||
      !names(options.index_codecs, ["bytes", "crc32c"]) ||
      options.index_codecs[0].configuration?.endian !== "little" ||
      !isCount(number, MOST_INNER)
    ) {
      refuse("codecs", codecs, "shards with an index at their end");
    }
    codecs = options.codecs;
  }
  if (!isKnown(name, rule, codecs)) refuse("codecs", codecs, "those of gz3d-zarr");
  const size = ITEM_BYTES[rule.type];
  const limit = size ? MOST_CHUNK : MOST_TEXT;
  if (inner.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, size ?? 4) > limit) {
    refuse("chunks", inner, `at most ${limit} bytes in each`);
  }
  return document;
}

/** @param {unknown} found @param {unknown[]} expected */
function same(found, expected) {
  return Array.isArray(found) && found.length === expected.length && expected.every((v, i) => found[i] === v);
}

/** @param {unknown} value @param {number} most @param {number} [least] */
function isCount(value, most, least = 1) {
  return Number.isInteger(value) && Number(value) >= least && Number(value) <= most;
}

/** @param {unknown} chunk @param {ArrayRule} rule @param {number} most */
function isChunk(chunk, rule, most) {
  return Array.isArray(chunk) && isCount(chunk[0], most) && same(chunk.slice(1), rule.shape);
}

/** @param {any} codecs @param {string[]} expected */
function names(codecs, expected) {
  return Array.isArray(codecs) && same(codecs.map((codec) => codec?.name), expected);
}

/** Whether these are codecs that gz3d-zarr writes. @param {string} name @param {ArrayRule} rule @param {any} codecs */
function isKnown(name, rule, codecs) {
  if (rule.type === "string") return names(codecs, ["vlen-utf8", "zstd"]);
  if (names(codecs, ["bytes", "zstd"])) {
    return ITEM_BYTES[rule.type] === 1 || codecs[0].configuration?.endian === "little";
  }
  return (
    name === "image" &&
    names(codecs, ["transpose", "numcodecs.delta", "bytes", "zstd"]) &&
    same(codecs[0].configuration?.order, [0, 1, 3, 2]) &&
    codecs[1].configuration?.dtype === "|u1"
  );
}
