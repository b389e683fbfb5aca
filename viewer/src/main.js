/** Finds out which store to show, asks where a person should decide, and opens it. */

import { readAddress } from "./address.js";
import { Browser } from "./browser.js";
import { find, input } from "./dom.js";
import { PageError, sentence, shorten } from "./errors.js";
import { Store } from "./store.js";

/** @typedef {import("./address.js").Address} Address */

/** @param {string} name */
const meta = (name) => document.querySelector(`meta[name="${name}"]`)?.getAttribute("content")?.trim() ?? "";

async function main() {
  const own = meta("gz3d-store");
  const asked = new URLSearchParams(location.search).get("store") ?? "";
  bindStart();
  try {
    if (own) {
      const address = readAddress(own, location.href);
      address.name = meta("gz3d-source") || address.url;
      if (asked && !names(asked, address)) {
        find("message").textContent = "This copy of the page shows its own store, not the one that the link names.";
      }
      await show(address);
    } else if (asked) {
      const address = readAddress(asked, location.href);
      if (address.isForeign && !(await isWanted(address))) return offer("No store is open.");
      await show(address);
    } else {
      offer("This page shows a store of Galaxy Zoo: 3D that the web can reach. Nothing is sent anywhere but to the server of the store.");
    }
  } catch (error) {
    fail(error);
  }
}

/** Whether a link names the store of this page. @param {string} asked @param {Address} address */
function names(asked, address) {
  try {
    return readAddress(asked, location.href).url === address.url;
  } catch {
    return false;
  }
}

/** A store of another host is opened only if the person wants it. @param {Address} address @returns {Promise<boolean>} */
function isWanted(address) {
  offer(`The link asks to open a store of another host, ${address.host}: ${shorten(address.url)}. What it shows would be from there, not from ${location.host || "this file"}. Open it?`);
  find("open").hidden = true;
  find("question").hidden = false;
  document.documentElement.dataset.question = "yes";
  return new Promise((resolve) => {
    /** @type {(answer: boolean) => void} */
    const decide = (answer) => {
      find("question").hidden = true;
      find("open").hidden = false;
      delete document.documentElement.dataset.question;
      resolve(answer);
    };
    find("accept").addEventListener("click", () => decide(true));
    find("decline").addEventListener("click", () => decide(false));
  });
}

/** @param {Address} address */
async function show(address) {
  const store = await Store.open(address);
  find("start").hidden = true;
  find("page").hidden = find("search").hidden = false;
  // What fails from here on is told where it is shown.
  await new Browser(store).start().catch(console.warn);
}

/** Show the form for an address. @param {string} text */
function offer(text) {
  find("start").hidden = false;
  find("start-text").textContent = text;
  document.documentElement.dataset.start = "yes";
}

/** @param {unknown} error */
function fail(error) {
  if (!(error instanceof PageError)) console.error(error);
  find("page").hidden = find("search").hidden = true;
  offer("");
  find("trouble").textContent = sentence(error, "The store");
  document.documentElement.dataset.failed = "yes";
}

function bindStart() {
  find("open").addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      const { url } = readAddress(input("store-address").value, location.href);
      location.search = `?store=${encodeURIComponent(url)}`;
    } catch (error) {
      fail(error);
    }
  });
}

main();
