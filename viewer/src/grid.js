/** Thumbnails of the rows that pass, a page at a time. */

import { find, grouped, make, plural } from "./dom.js";
import { sentence, shorten } from "./errors.js";
import { context2d } from "./layers.js";
import { STATUS } from "./sample.js";
import { THUMBNAIL_SIDE } from "./schema.js";

/** Of a page: it divides a shard of 64, so that a page in the order of the store is in one shard. */
export const PAGE = 32;

export class Grid {
  /** @type {Int32Array} */
  rows = new Int32Array();
  #turn = 0;

  /**
   * @param {import("./store.js").Store} store
   * @param {import("./sample.js").Sample} sample
   * @param {(row: number) => void} choose
   */
  constructor(store, sample, choose) {
    this.store = store;
    this.sample = sample;
    this.choose = choose;
  }

  /** @param {number} number Of rows. */
  static pages(number) {
    return Math.max(Math.ceil(number / PAGE), 1);
  }

  /**
   * Say how many rows pass, before their thumbnails are shown.
   * @param {Int32Array} rows
   * @param {number} page
   */
  announce(rows, page) {
    delete document.documentElement.dataset.grid;
    const pages = Grid.pages(rows.length);
    find("pager").textContent = rows.length
      ? `${plural(rows.length, "galaxy", "galaxies")}, page ${grouped(page + 1)} of ${grouped(pages)}`
      : "No galaxy passes these filters.";
    /** @type {HTMLButtonElement} */ (find("page-back")).disabled = page === 0;
    /** @type {HTMLButtonElement} */ (find("page-on")).disabled = page >= pages - 1;
  }

  /**
   * Show a page.
   * @param {Int32Array} rows That pass.
   * @param {number} page
   * @param {number} current The shown row.
   */
  async show(rows, page, current) {
    const turn = ++this.#turn;
    this.announce(rows, page);
    this.rows = rows.subarray(page * PAGE, (page + 1) * PAGE);
    find("grid-note").textContent = "";
    const pictures = [...this.rows].map((row) => this.#add(row));
    find("grid").replaceChildren(...pictures.map(({ item }) => item));
    this.mark(current);
    const results = await Promise.allSettled(
      pictures.map(async ({ row, canvas }) => {
        if (this.sample.status[row] !== 0) return;
        const image = await this.store.picture(row, "thumbnail/image");
        context2d(canvas).putImageData(image, 0, 0);
      }),
    );
    if (turn !== this.#turn) return;
    const failed = results.find((result) => result.status === "rejected");
    if (failed) find("grid-note").textContent = sentence(failed.reason, "A thumbnail");
    document.documentElement.dataset.grid = String(page);
  }

  /** @param {number} row */
  #add(row) {
    const { sample } = this;
    const canvas = make("canvas", { width: String(THUMBNAIL_SIDE), height: String(THUMBNAIL_SIDE), "aria-hidden": "true" });
    const status = sample.status[row] === 0 ? "" : (STATUS[sample.status[row]] ?? "unknown");
    const name = shorten(sample.subject[row]);
    const button = make("button", { "aria-label": status ? `${name}, ${status}` : name, "data-row": String(row), title: describe(sample, row) }, canvas);
    button.append(make("span", {}, status || name));
    button.addEventListener("click", () => this.choose(row));
    return { row, canvas, item: make("li", {}, button) };
  }

  /** Mark the shown row. @param {number} current */
  mark(current) {
    for (const button of find("grid").querySelectorAll("button")) {
      if (Number(button.dataset.row) === current) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }
}

/** @param {import("./sample.js").Sample} sample @param {number} row */
function describe(sample, row) {
  const words = [`MaNGA ${shorten(sample.subject[row])}`];
  if (sample.has.places) words.push(`Zooniverse ${sample.zooniverse_subject_id[row]}`);
  if (sample.has.details) {
    for (const cls of /** @type {("spiral" | "bar")[]} */ (["spiral", "bar"])) {
      const part = sample.fraction(cls, row);
      if (part >= 0) words.push(`${cls} ${Math.round(100 * part)} %`);
    }
  }
  return words.join(", ");
}
