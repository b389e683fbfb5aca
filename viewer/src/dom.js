/** Elements of the page. Text is only ever set as text, never as HTML. */

/**
 * The element with an id.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export function find(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return /** @type {T} */ (element);
}

/** @type {(id: string) => HTMLInputElement} */
export const input = (id) => find(id);
/** @type {(id: string) => HTMLCanvasElement} */
export const canvas = (id) => find(id);

/**
 * A new element.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string>} [attributes]
 * @param {...(string | Node)} children
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Match the pixels of a canvas to those of the screen. @param {HTMLCanvasElement} element @returns {number} Of its pixels for one of CSS. */
export function fitCanvas(element) {
  const ratio = Math.min(window.devicePixelRatio || 1, 3);
  const { width, height } = element.getBoundingClientRect();
  const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (element.width !== across || element.height !== down) [element.width, element.height] = [across, down];
  return ratio;
}

/** @param {number} number */
export const grouped = (number) => number.toLocaleString("en-US");
/** @param {number} number @param {string} noun @param {string} [nouns] */
export const plural = (number, noun, nouns = `${noun}s`) => `${grouped(number)} ${number === 1 ? noun : nouns}`;

/** @param {number} milliseconds @returns {Promise<void>} */
export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
