/**
 * Reads the objects of a store over HTTP, for zarrita. Nothing is read that was not asked for: a
 * server that sends a whole shard instead of a range is refused, and so is an object that is too long.
 */

import { PageError, shorten } from "./errors.js";
import { MOST_DOCUMENT, MOST_OBJECT } from "./schema.js";

const PATIENCE = 60_000; // ms
const MOST_SENTENCE = 4000; // bytes

export class RemoteStore {
  /** @param {import("./address.js").Address} address */
  constructor(address) {
    this.address = address;
  }

  /**
   * A whole object.
   * @param {string} key Begins with a slash.
   * @returns {Promise<Uint8Array>}
   */
  async get(key) {
    // Browsers keep objects for hours where a server does not forbid it, also those of a replaced
    // store: ask whether they are still the same, which costs nothing if they are.
    const response = await this.#ask(key, { cache: "no-cache" });
    if (response.status !== 200) throw await this.#refusal(key, response);
    return this.#body(key, response, key === "/zarr.json" ? MOST_DOCUMENT : MOST_OBJECT);
  }

  /**
   * A part of an object.
   * @param {string} key
   * @param {{offset: number, length: number} | {suffixLength: number}} range
   * @returns {Promise<Uint8Array>}
   */
  async getRange(key, range) {
    const isSuffix = "suffixLength" in range;
    const length = isSuffix ? range.suffixLength : range.length;
    if (!(length > 0 && length <= MOST_OBJECT)) {
      throw new PageError(`The index of ${key.slice(1)} asks for ${length} bytes, expected 1 to ${MOST_OBJECT}: the store is damaged.`);
    }
    const bytes = isSuffix ? `-${length}` : `${range.offset}-${range.offset + length - 1}`;
    // Chromium's cache serves ranges of one object one after another: leave it out.
    const response = await this.#ask(key, { headers: { Range: `bytes=${bytes}` }, cache: "no-store" });
    if (response.status === 200) {
      response.body?.cancel();
      throw new PageError(
        `${this.address.host} knows no Range requests, so that each picture would be a download of about 22 MB: use gz3d-zarr view STORE, or a server such as nginx or S3.`,
      );
    }
    if (response.status !== 206) throw await this.#refusal(key, response);
    const data = await this.#body(key, response, length);
    if (data.length !== length) throw await this.#refusal(key, { status: 416 });
    return data;
  }

  /**
   * @param {string} key
   * @param {RequestInit} options
   */
  async #ask(key, options) {
    const url = new URL(key.slice(1), this.address.url).href;
    let response;
    try {
      response = await fetch(url, {
        ...options,
        credentials: "omit",
        referrerPolicy: "no-referrer",
        signal: AbortSignal.timeout(PATIENCE),
      });
    } catch (error) {
      throw new PageError(await this.#whyNot(url, error), { cause: error });
    }
    if (response.redirected && new URL(response.url).origin !== new URL(url).origin) {
      response.body?.cancel();
      throw new PageError(`${this.address.host} redirects to ${new URL(response.url).host}: open the store at that address, if you trust it.`);
    }
    return response;
  }

  /**
   * Why a request failed: the browser does not say, so a second one, of which nothing can be read, tells.
   * @param {string} url
   * @param {unknown} error
   */
  async #whyNot(url, error) {
    const { host, isForeign } = this.address;
    if (error instanceof DOMException && error.name === "TimeoutError") {
      return `${host} did not answer within ${PATIENCE / 1000} seconds: try again later.`;
    }
    if (!navigator.onLine) return `This computer is offline, and the store is at ${host}: connect, then reload the page.`;
    if (isForeign) {
      const options = /** @type {RequestInit} */ ({ mode: "no-cors", credentials: "omit", method: "HEAD", referrerPolicy: "no-referrer", signal: AbortSignal.timeout(5000) });
      const answers = await fetch(url, options).then(() => true, () => false);
      if (answers) {
        return `${host} answers, but does not allow this page to read it (CORS): its owner can allow it, or use gz3d-zarr view with the address of the store.`;
      }
    }
    return `${host} does not answer: the address may be wrong, or the server down.`;
  }

  /**
   * @param {string} key
   * @param {Response | {status: 416}} response
   */
  async #refusal(key, response) {
    const { name: store, host, isForeign } = this.address;
    const { status } = response;
    const name = key.slice(1);
    if (status === 502 && !isForeign && "headers" in response && response.headers.get("X-GZ3D-Error")) {
      // gz3d-zarr view says what it could not read.
      const text = new TextDecoder().decode(await this.#body(key, response, MOST_SENTENCE));
      return new PageError(`${shorten(text, MOST_SENTENCE)}.`);
    }
    if (name === "zarr.json" && (status === 404 || status === 403)) {
      return new PageError(`There is no Zarr store at ${store} (${host} answered ${status} for zarr.json).`);
    }
    if (status === 404) {
      return new PageError(`${name} is missing in the store: it is damaged, or was replaced; reload the page, or run gz3d-zarr verify.`);
    }
    if (status === 403) {
      // So do buckets that may not be listed, for an object that is missing.
      return new PageError(`${host} refuses ${name} (403): it is not public, or missing in the store; ask its owner.`);
    }
    if (status === 416) {
      return new PageError(`${name} is shorter than it must be: the store is damaged, or was replaced; reload the page, or run gz3d-zarr verify.`);
    }
    return new PageError(`${host} answered ${status} for ${name}, expected 200 or 206: try again later.`);
  }

  /**
   * Bytes of an answer, at most so many.
   * @param {string} key
   * @param {Response} response
   * @param {number} limit
   */
  async #body(key, response, limit) {
    const parts = [];
    let length = 0;
    const reader = response.body?.getReader();
    try {
      for (;;) {
        const step = await reader?.read();
        if (!step || step.done) break;
        length += step.value.length;
        if (length > limit) {
          await reader?.cancel();
          throw new PageError(`${key.slice(1)} has more than ${limit} bytes: no store of Galaxy Zoo: 3D has such an object.`);
        }
        parts.push(step.value);
      }
    } catch (error) {
      if (error instanceof PageError) throw error;
      throw new PageError(`The connection to ${this.address.host} broke off: reload the page.`, { cause: error });
    }
    const data = new Uint8Array(length);
    let at = 0;
    for (const part of parts) {
      data.set(part, at);
      at += part.length;
    }
    return data;
  }
}
