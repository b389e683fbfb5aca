/** The address of the store: which are accepted, and which need a question first. */

import { PageError, shorten } from "./errors.js";

const LOOPBACK = ["127.0.0.1", "localhost"];

/**
 * @typedef {object} Address
 * @property {string} url Ends with a slash.
 * @property {string} name What people know the store by.
 * @property {string} host Of the server, with its port.
 * @property {boolean} isForeign Whether another server has it than the one of the page.
 */

/**
 * Check the address of a store.
 * @param {string} text As in a link, or relative to the page.
 * @param {string} page Address of the page.
 * @returns {Address}
 */
export function readAddress(text, page) {
  let url;
  const own = new URL(page);
  // A password or a signature is not repeated.
  const shown = shorten(text.replace(/\/\/[^/]*@/, "//…@").replace(/\?.+/s, "?…"));
  try {
    url = new URL(text.trim(), page);
  } catch {
    throw new PageError(`${shown} is not an address, expected one such as https://host/gz3d.zarr.`);
  }
  if (url.protocol === "s3:" || url.protocol === "gs:") {
    throw new PageError(`A browser cannot read ${shown}: give the https:// address of the bucket, or run gz3d-zarr view.`);
  }
  if (url.protocol === "file:") {
    throw new PageError("A browser does not let a page read a store on a disk: run gz3d-zarr view with the path of the store.");
  }
  if (url.username || url.password) {
    throw new PageError("The address of the store has a user name or password in it, and a page must not send one: use an address without.");
  }
  const isNear = LOOPBACK.includes(url.hostname) || (url.host === own.host && own.host !== "");
  if (!(url.protocol === "https:" || (url.protocol === "http:" && isNear))) {
    throw new PageError(`${shown} is not an https:// address, which a store of another computer must have.`);
  }
  if (url.search) {
    throw new PageError(`${shown} has a query, which cannot be part of the address of a store.`);
  }
  url.hash = "";
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return { url: url.href, name: url.href, host: url.host, isForeign: url.origin !== own.origin };
}
