/** The page of an open store: what a person does, and what is shown. */

import { find, grouped, input, pause } from "./dom.js";
import { PageError, sentence } from "./errors.js";
import { bindFilters, neededBy, showFilters } from "./filters.js";
import { GalaxyView } from "./galaxy.js";
import { Grid, PAGE } from "./grid.js";
import { bindLayers, bindPointer, showFacts, showLayers, titleOf } from "./panel.js";
import { formatState, parseState } from "./permalink.js";
import { noFilters, Sample } from "./sample.js";
import { isPlateIfu, parseQuery } from "./search.js";
import { SkyMap } from "./skymap.js";

const ROOT = document.documentElement;
/** Milliseconds without a change of the filters until thumbnails are read. */
const GRID_DELAY = 120;
/** Milliseconds for which the rest of the list waits for the first picture. */
const FIRST_PICTURE = 2000;
/** Milliseconds until it is asked again whether the store is still the same. */
const TRUST = 60_000;

export class Browser {
  /** @type {Int32Array} */
  #rows = new Int32Array();
  #isDue = false;
  #checked = 0;
  /** @type {number | undefined} */
  #timer = undefined;
  /** What stays wrong until the page is reloaded: said where there is nothing else to say. */
  #standing = "";

  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
    this.source = store.address.name; // what Python opens
    this.state = parseState(location.hash);
    this.sample = new Sample(store);
    this.view = new GalaxyView(store, this.sample, this.state, () => this.#describe());
    this.grid = new Grid(store, this.sample, (row) => {
      this.choose(row);
      // On a phone the picture is above the list.
      if (find("stage").getBoundingClientRect().bottom < 0) find("galaxy").scrollIntoView();
    });
    this.map = new SkyMap(this.sample, this.state, {
      choose: (ra, dec) => this.#chooseNear(ra, dec, this.#rows),
      select: (cone) => this.#filterBy(cone ? { cone, manga: "" } : { cone }),
      rows: () => this.#rows,
      row: () => this.view.row,
    });
    bindLayers(this.state, (what) => this.#layersChanged(what));
    bindFilters(this.state.filters, () => this.#filtersChanged());
    bindPointer(() => this.view);
    this.#listen();
  }

  /** Show the first galaxy as soon as it can be; then the list, the thumbnails and the filters. */
  async start() {
    const { state, sample } = this;
    find("count").textContent = `${grouped(sample.length)} galaxies`;
    find("address").textContent = this.source;
    showFilters(state.filters);
    showLayers(state, this.view);
    const needed = neededBy(state.filters);
    const { manga, status } = state.filters;
    const isFree = !needed.length && !manga && !status && state.page === 0 && state.id === null;
    const guess = state.row ?? (isFree ? 0 : null);
    // The picture is read beside the names; whether the row is the right one is known later.
    const first = guess !== null && guess < sample.length ? this.view.show(guess) : null;
    await this.#load("names", "The list of galaxies");
    if (state.row === null && state.id !== null) needed.push("places");
    for (const step of needed) await this.#load(step, "The list of galaxies");
    this.#select();
    if (first) this.view.refresh();
    else await this.#settle();
    this.#describe();
    // The picture comes first, unless it takes long.
    await Promise.race([this.view.drawn, pause(FIRST_PICTURE)]);
    await this.#load("places", "The list of galaxies");
    await this.#settle();
    this.#refresh();
    await this.#load("details", "The votes");
    /** @type {HTMLFieldSetElement} */ (find("filters")).disabled = false;
    this.view.update();
    this.view.drawLines();
    this.#describe();
    await this.#checkStore(); // while it was read
    ROOT.dataset.ready = "yes";
    performance.mark("ready");
  }

  /** @param {"names" | "places" | "details"} step @param {string} what */
  async #load(step, what) {
    try {
      await this.sample.load(step);
    } catch (error) {
      this.#standing = sentence(error, what);
      this.#fail(error, what);
      throw error;
    }
  }

  /** Find the rows that pass. */
  #select() {
    this.#rows = this.sample.select(this.state.filters);
    ROOT.dataset.listed = String(this.#rows.length);
  }

  /** Show the row of the state, which may be known by its Zooniverse id only. */
  async #settle() {
    const { state, sample, view } = this;
    const ids = sample.zooniverse_subject_id;
    let row = state.row;
    if (state.id !== null && sample.has.places && (row === null || ids[row] !== state.id)) {
      row = sample.rowOfZooniverse(state.id);
      if (row < 0) this.#say(`The store has no subject with the Zooniverse id ${state.id}, which this link names.`);
    }
    if (row === null || row < 0 || row >= sample.length) {
      if (row !== null && row >= sample.length) this.#say(`The store has no row ${row}, which this link names: it has ${sample.length}.`);
      row = this.#rows[state.page * PAGE] ?? this.#rows[0] ?? 0;
    }
    state.row = row;
    if (sample.has.places) state.id = ids[row];
    if (view.row !== row) await view.show(row);
  }

  /** Show another galaxy. @param {number} row */
  choose(row) {
    this.#say("");
    if (row < 0 || row === this.view.row) return;
    this.state.row = row;
    this.state.id = this.sample.has.places ? this.sample.zooniverse_subject_id[row] : null;
    const index = this.#rows.indexOf(row);
    const page = index < 0 ? this.state.page : Math.floor(index / PAGE);
    const isOther = page !== this.state.page;
    this.state.page = page;
    this.#save(true);
    this.#showGalaxy(row);
    if (isOther) this.#showGrid();
    this.grid.mark(row);
  }

  /** Say it if the store was replaced, so that its pictures are not those of this list. */
  async #checkStore() {
    if (Date.now() - this.#checked < TRUST) return;
    this.#checked = Date.now();
    // Where the answer is an error, that of the picture is told.
    if (await this.store.isReplaced().catch(() => false)) {
      this.#standing = "The store was replaced since this page was opened: reload the page.";
      this.#say("");
      ROOT.dataset.failed = "yes";
    }
  }

  /** @param {number} row */
  #showGalaxy(row) {
    this.#checkStore();
    const done = this.view.show(row);
    this.view.update();
    showFacts(this.view, this.source);
    this.map.drawCursor();
    return done;
  }

  /** The next row that passes, or the one before. @param {1 | -1} step */
  #step(step) {
    const rows = this.#rows;
    if (!rows.length) return;
    const index = rows.indexOf(this.view.row);
    if (index >= 0) {
      const next = rows[index + step];
      if (next !== undefined) this.choose(next);
      return;
    }
    // A row that does not pass: its neighbor that does.
    const after = rows.findIndex((row) => row > this.view.row);
    const at = step > 0 ? after : (after < 0 ? rows.length : after) - 1;
    if (at >= 0 && at < rows.length) this.choose(rows[at]);
  }

  /** @param {number} step */
  #turnPage(step) {
    const page = this.state.page + step;
    if (page < 0 || page >= Grid.pages(this.#rows.length)) return;
    this.state.page = page;
    this.#save(false);
    this.#showGrid();
  }

  #showGrid() {
    this.state.page = Math.min(this.state.page, Grid.pages(this.#rows.length) - 1);
    this.grid.show(this.#rows, this.state.page, this.view.row);
  }

  /** Show map, filters and thumbnails of the rows that pass. */
  #refresh() {
    showFilters(this.state.filters);
    this.map.draw();
    this.#showGrid();
    this.#describe();
  }

  #filtersChanged() {
    this.#say("");
    showFilters(this.state.filters);
    delete ROOT.dataset.grid;
    // A slider moves faster than the screen.
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#select();
      const index = this.#rows.indexOf(this.view.row);
      this.state.page = Math.max(Math.floor(index / PAGE), 0);
      this.#save(false);
      this.map.draw();
      this.grid.announce(this.#rows, this.state.page);
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#showGrid(), GRID_DELAY);
    });
  }

  /** @param {Partial<import("./sample.js").Filters>} filters */
  #filterBy(filters) {
    Object.assign(this.state.filters, filters);
    this.#filtersChanged();
  }

  /** @param {"masks" | "marks"} what */
  #layersChanged(what) {
    this.#save(false);
    showLayers(this.state, this.view);
    if (what === "masks") this.view.drawMasks();
    else this.view.drawLines();
    this.view.loadMarks();
    showFacts(this.view, this.source);
  }

  #describe() {
    showLayers(this.state, this.view);
    showFacts(this.view, this.source);
    this.map.drawCursor();
  }

  /** @param {boolean} isStep Whether the browser's back button comes back here. */
  #save(isStep) {
    const url = `#${formatState(this.state)}`;
    if (isStep) history.pushState(null, "", url);
    else history.replaceState(null, "", url);
  }

  /** The address was changed: by the back button, or by hand. */
  async #restore() {
    this.#say("");
    const { filters, ...rest } = parseState(location.hash);
    Object.assign(this.state, rest);
    Object.assign(this.state.filters, filters);
    if (!this.sample.has.names) return;
    this.#select();
    this.view.drawMasks();
    this.#refresh();
    await this.#settle();
    this.grid.mark(this.view.row);
    this.map.drawCursor();
    await this.view.loadMarks();
  }

  /** @param {string} text */
  search(text) {
    this.#say("");
    if (!text.trim() || !this.sample.has.places) return;
    try {
      this.#search(text);
    } catch (error) {
      this.#fail(error, "The search");
    }
  }

  /** @param {string} text */
  #search(text) {
    const query = parseQuery(text);
    const { sample } = this;
    if (query.kind === "manga") {
      const rows = sample.select({ ...noFilters(), manga: query.id });
      if (!rows.length && isPlateIfu(query.id)) {
        throw new PageError(`The store has no MaNGA id ${query.id}, and does not hold plates and IFUs: search for the MaNGA id of ${query.id}.`);
      }
      if (!rows.length) throw new PageError(`The store has no subject with the MaNGA id ${query.id}.`);
      if (rows.length > 1) this.#filterBy({ ...noFilters(), manga: query.id });
      else this.#leaveSearch();
      this.choose(rows[0]);
      if (rows.length > 1) this.#say(`${rows.length} subjects have the MaNGA id ${query.id}: all are in the list.`);
    } else if (query.kind === "zooniverse") {
      const row = sample.rowOfZooniverse(query.id);
      if (row < 0) throw new PageError(`The store has no subject with the Zooniverse id ${query.id}.`);
      this.#leaveSearch();
      this.choose(row);
    } else if (query.radius === null) {
      this.#leaveSearch();
      this.#chooseNear(query.ra, query.dec);
    } else {
      this.#filterBy({ cone: [query.ra, query.dec, query.radius], manga: "" });
      this.#say("The list has the galaxies within this circle.");
    }
  }

  /** An id of several subjects is no longer searched for. */
  #leaveSearch() {
    if (this.state.filters.manga) this.#filterBy({ manga: "" });
  }

  /** @param {number} ra @param {number} dec @param {Int32Array} [rows] */
  #chooseNear(ra, dec, rows) {
    try {
      const { row, degrees } = this.sample.nearest(ra, dec, rows);
      this.choose(row);
      const away = degrees < 0.1 ? `${(degrees * 3600).toFixed(1)} arcsec` : `${degrees.toFixed(2)}°`;
      this.#say(`The nearest galaxy is ${away} away.`);
    } catch (error) {
      this.#fail(error, "The nearest galaxy");
    }
  }

  /** @param {string} text @param {boolean} [isTrouble] */
  #say(text, isTrouble = false) {
    const shown = text || this.#standing;
    if (find("message").textContent !== shown) find("message").textContent = shown; // it is read out
    find("message").classList.toggle("trouble", isTrouble || !text);
  }

  /** @param {unknown} error @param {string} what */
  #fail(error, what) {
    this.#say(sentence(error, what), true);
    ROOT.dataset.failed = "yes";
  }

  #listen() {
    find("previous").addEventListener("click", () => this.#step(-1));
    find("next").addEventListener("click", () => this.#step(1));
    find("page-back").addEventListener("click", () => this.#turnPage(-1));
    find("page-on").addEventListener("click", () => this.#turnPage(1));
    find("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.search(input("query").value);
    });
    find("png").addEventListener("click", () => this.#download());
    find("copy-link").addEventListener("click", () => {
      this.#save(false);
      this.#copy(location.href, "The link");
    });
    find("copy-python").addEventListener("click", () => this.#copy(input("python").value, "The Python line"));
    input("python").addEventListener("focus", () => input("python").select());
    addEventListener("popstate", () => this.#restore());
    document.addEventListener("keydown", (event) => this.#press(event));
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.altKey || event.metaKey || target.closest("input, select, textarea")) return;
    /** @type {Record<string, () => void>} */
    const actions = {
      ArrowLeft: () => this.#step(-1),
      ArrowRight: () => this.#step(1),
      PageUp: () => this.#turnPage(-1),
      PageDown: () => this.#turnPage(1),
      "/": () => input("query").focus(),
    };
    if (!Object.hasOwn(actions, event.key) || !this.sample.has.names) return;
    event.preventDefault();
    actions[event.key]();
  }

  async #download() {
    const { view, sample, state } = this;
    if (!view.image) return this.#say("There is no picture to download.");
    const classes = state.classes.join(", ");
    const masks = classes ? `; ${classes}: more than ${state.threshold}` : "";
    const id = sample.has.places ? sample.zooniverse_subject_id[view.row] : view.row;
    const blob = await view.toPNG(`${titleOf(sample, view.row)} (${id})${masks}`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `gz3d_${id}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  /** @param {string} text @param {string} what */
  async #copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
      this.#say(`${what} is copied.`);
    } catch {
      this.#say(`${what} cannot be copied, since this browser does not allow it: ${text}`);
    }
  }
}
