/** A store that is open: its columns, pictures, masks and marks, each checked and read once. */

import * as zarr from "zarrita";

import { registerCodecs } from "./codecs.js";
import { ChunkError, findCause, PageError } from "./errors.js";
import { RecentBytes, Recent } from "./recent.js";
import { RemoteStore } from "./remote.js";
import { ARRAYS, checkArray, checkRoot, CLASSES, SIDE, THUMBNAIL_SIDE } from "./schema.js";

const MASK_BYTES = CLASSES.length * SIDE * SIDE;
/** The ellipse of a cluster. @typedef {{cls: string, x: number, y: number, varX: number, varY: number, varXY: number}} Cluster */
/** Of one subject; real ones have tens. */
const MOST_CLUSTERS = 5000;
/** Class to the array with the number of its clusters. @type {Record<string, string>} */
const CLUSTER_COUNTS = {
  center: "clusters/number_galaxy_centers",
  star: "clusters/number_foreground_stars",
};

registerCodecs();

export class Store {
  /** @type {Map<string, Promise<any>>} */
  #columns = new Map();
  /** @type {Map<string, zarr.Array<any, any>>} */
  #arrays = new Map();
  /** Decoded chunks with the masks, or the marks, of several subjects. */
  #chunks = new Recent(3);

  /**
   * @param {import("./address.js").Address} address
   * @param {ReturnType<typeof checkRoot>} root
   * @param {RemoteStore} remote
   */
  constructor(address, root, remote) {
    this.address = address;
    this.remote = remote;
    this.subjects = root.subjects;
    this.attributes = root.attributes;
    this.documents = root.documents;
    this.readable = zarr.withByteCaching(zarr.withRangeCoalescing(/** @type {any} */ (remote)), {
      cache: new RecentBytes(48 * 2 ** 20),
      // Columns are kept decoded, and zarrita keeps the indices of shards.
      keyFor: (path, range) => (range && "offset" in range ? `${path} ${range.offset}` : undefined),
    });
  }

  /**
   * Open a store: one request.
   * @param {import("./address.js").Address} address
   */
  static async open(address) {
    const remote = new RemoteStore(address);
    const bytes = await remote.get("/zarr.json");
    let root;
    try {
      root = JSON.parse(new TextDecoder().decode(bytes));
    } catch (cause) {
      throw new PageError(`zarr.json at ${address.name} is not JSON: this is not a Zarr 3 store.`, { cause });
    }
    return new Store(address, checkRoot(address.name, root), remote);
  }

  /**
   * Whether another store has taken the place of this one. A build writes the generation first, so
   * that a few bytes of the root are enough.
   */
  async isReplaced() {
    const bytes = await this.remote.getRange("/zarr.json", { offset: 0, length: 128 });
    const found = /"generation": *"([^"]*)"/.exec(new TextDecoder().decode(bytes));
    return found?.[1] !== this.attributes.generation;
  }

  /** @param {string} name @returns {zarr.Array<any, any>} */
  #array(name) {
    let array = this.#arrays.get(name);
    if (!array) {
      const document = Object.hasOwn(this.documents, name) ? this.documents[name] : undefined;
      array = new zarr.Array(this.readable, `/${name}`, checkArray(name, document, this.subjects));
      this.#arrays.set(name, array);
    }
    return array;
  }

  /**
   * One chunk, decoded.
   * @param {string} name
   * @param {number[]} place
   * @returns {Promise<{data: any, stride: number[]}>}
   */
  async #chunk(name, place) {
    try {
      return await this.#array(name).getChunk(place);
    } catch (error) {
      const wrong = findCause(error, ChunkError);
      if (!wrong) throw error;
      throw new PageError(
        `Chunk ${place.join("/")} of ${name} ${wrong.message}: the store is damaged, or was replaced; reload the page, or run gz3d-zarr verify on the store.`,
        { cause: error },
      );
    }
  }

  /**
   * A small array, whole.
   * @param {string} name
   * @returns {Promise<any>} A typed array, of numbers also for int64; or an array of strings.
   */
  column(name) {
    return once(this.#columns, name, async () => {
      const array = this.#array(name);
      const width = ARRAYS[name].shape[0] ?? 1;
      const [rows, step] = [array.shape[0], array.chunks[0]];
      const number = Math.ceil(rows / step);
      /** @type {any[]} */
      const parts = await Promise.all(
        Array.from({ length: number }, async (_, i) => {
          const { data } = await this.#chunk(name, width > 1 ? [i, 0] : [i]);
          return data.slice(0, Math.min(step, rows - i * step) * width);
        }),
      );
      if (parts.length && parts[0] instanceof BigInt64Array) {
        return Float64Array.from(parts.flatMap((part) => Array.from(part, Number)));
      }
      if (parts.length === 1) return parts[0];
      return ARRAYS[name].type === "string" ? parts.flat() : join(parts);
    });
  }

  /**
   * The picture of a subject, or its thumbnail.
   * @param {number} row
   * @param {"image" | "thumbnail/image"} [name]
   * @returns {Promise<ImageData>}
   */
  async picture(row, name = "image") {
    const array = this.#array(name);
    const inner = array.chunks[0];
    const chunk = await this.#chunk(name, [Math.floor(row / inner), 0, 0, 0]);
    const side = name === "image" ? SIDE : THUMBNAIL_SIDE;
    return toImage(chunk, row % inner, side);
  }

  /**
   * Counts of a subject, class by class.
   * @param {number} row
   * @returns {Promise<Uint8Array[]>} Of each class 525 x 525, row 0 at the top.
   */
  async masks(row) {
    const array = this.#array("segmentation");
    const inner = array.chunks[0];
    const chunk = Math.floor(row / inner);
    const data = await this.#chunks.get(`segmentation ${chunk}`, async () => {
      return (await this.#chunk("segmentation", [chunk, 0, 0, 0])).data;
    });
    const start = (row % inner) * MASK_BYTES;
    return CLASSES.map((_, i) => data.subarray(start + i * SIDE * SIDE, start + (i + 1) * SIDE * SIDE));
  }

  /**
   * The raw marks of a subject, as JSON text.
   * @param {number} row
   * @returns {Promise<string>}
   */
  async marks(row) {
    const array = this.#array("marks/annotations");
    const chunk = Math.floor(row / array.chunks[0]);
    const data = await this.#chunks.get(`marks ${chunk}`, async () => (await this.#chunk("marks/annotations", [chunk])).data);
    return data[row % array.chunks[0]];
  }

  /**
   * Clusters of center and star marks of a subject.
   * @param {number} row
   * @returns {Promise<Cluster[]>}
   */
  async clusters(row) {
    const found = await Promise.all(Object.keys(CLUSTER_COUNTS).map((cls) => this.#clustersOf(cls, row)));
    return found.flat();
  }

  /** @param {string} cls @param {number} row @returns {Promise<Cluster[]>} */
  async #clustersOf(cls, row) {
    const counts = await this.column(CLUSTER_COUNTS[cls]);
    let start = 0;
    for (let i = 0; i < row; i++) start += Math.max(counts[i], 0);
    const number = Math.max(counts[row], 0);
    if (!number) return [];
    if (number > MOST_CLUSTERS) throw new PageError(`Row ${row} has ${number} clusters of ${cls}, expected at most ${MOST_CLUSTERS}: the store is damaged.`);
    const names = ["x", "y", "var_x", "var_y", "var_x_y"];
    const [x, y, varX, varY, varXY] = await Promise.all(
      names.map((name) => this.#values(`clusters/${cls}_${name}`, start, number)),
    );
    return Array.from(x, (_, i) => ({ cls, x: x[i], y: y[i], varX: varX[i], varY: varY[i], varXY: varXY[i] }));
  }

  /** Some values of a long column. @param {string} name @param {number} start @param {number} number */
  async #values(name, start, number) {
    const array = this.#array(name);
    if (start + number > array.shape[0]) {
      throw new PageError(`The array ${name} has ${array.shape[0]} rows, and ${start + number} are needed: the store is damaged.`);
    }
    const step = array.chunks[0];
    const first = Math.floor(start / step);
    const last = Math.floor((start + number - 1) / step);
    const parts = await Promise.all(
      Array.from({ length: last - first + 1 }, (_, i) =>
        once(this.#columns, `${name} ${first + i}`, async () => (await this.#chunk(name, [first + i])).data),
      ),
    );
    return Array.from({ length: number }, (_, i) => {
      const at = start + i;
      return /** @type {number} */ (parts[Math.floor(at / step) - first][at % step]);
    });
  }
}

/**
 * The value of a key, computed once; a failure is not kept.
 * @template T
 * @param {Map<string, Promise<T>>} map
 * @param {string} key
 * @param {() => Promise<T>} compute
 * @returns {Promise<T>}
 */
function once(map, key, compute) {
  let value = map.get(key);
  if (!value) {
    value = compute();
    map.set(key, value);
    value.catch(() => map.delete(key));
  }
  return value;
}

/** @param {any[]} parts Typed arrays of one type. */
function join(parts) {
  const whole = new parts[0].constructor(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * Pixels of one subject of a chunk, which is in any order of axes.
 * @param {{data: Uint8Array, stride: number[]}} chunk
 * @param {number} index
 * @param {number} side
 */
function toImage({ data, stride }, index, side) {
  const image = new ImageData(side, side);
  const [perRow, perLine, perColumn, perChannel] = stride;
  let out = 0;
  for (let y = 0; y < side; y++) {
    let at = index * perRow + y * perLine;
    for (let x = 0; x < side; x++, at += perColumn) {
      image.data[out++] = data[at];
      image.data[out++] = data[at + perChannel];
      image.data[out++] = data[at + 2 * perChannel];
      image.data[out++] = 255;
    }
  }
  return image;
}
