/** What was used last, for as long as there is room. */

/** Bytes by key, at most so many in all; the container of zarrita's cache. */
export class RecentBytes {
  /** @type {Map<string, Uint8Array | undefined>} */
  #held = new Map();
  #bytes = 0;

  /** @param {number} most */
  constructor(most) {
    this.most = most;
  }

  /** @param {string} key */
  has(key) {
    return this.#held.has(key);
  }

  /** @param {string} key */
  get(key) {
    const value = this.#held.get(key);
    this.#held.delete(key);
    this.#held.set(key, value); // now the most recent one
    return value;
  }

  /** @param {string} key @param {Uint8Array | undefined} value */
  set(key, value) {
    this.#bytes += (value?.length ?? 0) - (this.#held.get(key)?.length ?? 0);
    this.#held.delete(key);
    this.#held.set(key, value);
    for (const [oldest, bytes] of this.#held) {
      if (this.#bytes <= this.most) break;
      this.#held.delete(oldest);
      this.#bytes -= bytes?.length ?? 0;
    }
    return this;
  }
}

/** A few values that are computed when they are first asked for. */
export class Recent {
  /** @type {Map<string, Promise<any>>} */
  #held = new Map();

  /** @param {number} most */
  constructor(most) {
    this.most = most;
  }

  /** @param {string} key @param {() => Promise<any>} compute */
  get(key, compute) {
    const value = this.#held.get(key) ?? compute();
    this.#held.delete(key);
    this.#held.set(key, value);
    value.catch(() => this.#held.delete(key));
    for (const oldest of this.#held.keys()) {
      if (this.#held.size <= this.most) break;
      this.#held.delete(oldest);
    }
    return value;
  }
}
