/**
 * Build the page into gz3d_zarr/viewer/static: `npm ci && npm run build`. The same sources give the
 * same bytes.
 */

import { createHash } from "node:crypto";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";

import { build } from "esbuild";

const OUT = new URL("../gz3d_zarr/viewer/static/", import.meta.url);
const MOST_BYTES = 80_000;
const BUNDLED = ["fzstd", "zarrita", "@zarrita/storage", "numcodecs"];

await mkdir(OUT, { recursive: true });
const UNUSED = /^numcodecs\/|^\.\/codecs\/(bitround|cast_value|crc32c|gzip|json2|scale_offset|shuffle|vlen-utf8|zlib)\.js$|^\.\.?\/typedarray\.js$/;
/** The wasm codecs of numcodecs need a CSP with unsafe-eval; the rest would be dead weight. */
const withoutUnused = {
  name: "without-unused",
  setup(/** @type {import("esbuild").PluginBuild} */ { onResolve }) {
    const path = new URL("src/unused.js", import.meta.url).pathname;
    onResolve({ filter: UNUSED }, ({ importer }) =>
      importer.includes("zarrita/dist/src/") ? { path } : undefined,
    );
  },
};
const { metafile } = await build({
  absWorkingDir: new URL(".", import.meta.url).pathname,
  entryPoints: ["src/main.js"],
  outfile: new URL("app.js", OUT).pathname,
  bundle: true,
  format: "iife", // a module is not loaded from file://
  minify: true,
  target: "es2022",
  charset: "utf8",
  metafile: true,
  plugins: [withoutUnused],
});
const size = Object.values(metafile.outputs)[0].bytes;
if (size > MOST_BYTES) throw new Error(`app.js has ${size} bytes, expected at most ${MOST_BYTES}`);

let html = await readFile(new URL("src/index.html", import.meta.url), "utf8");
for (const name of ["style.css", "icon.svg"]) {
  await copyFile(new URL(`src/${name}`, import.meta.url), new URL(name, OUT));
}
// So that no browser puts an old script, which it keeps, into a new page.
for (const name of ["app.js", "style.css"]) {
  const hash = createHash("sha256").update(await readFile(new URL(name, OUT)));
  html = html.replace(`"${name}"`, `"${name}?${hash.digest("hex").slice(0, 12)}"`);
}
await writeFile(new URL("index.html", OUT), html);
const texts = await Promise.all(
  BUNDLED.map(async (name) => {
    const folder = new URL(`node_modules/${name}/`, import.meta.url);
    const { version } = JSON.parse(await readFile(new URL("package.json", folder), "utf8"));
    const text = await readFile(new URL("LICENSE", folder), "utf8");
    return `${name} ${version}\n\n${text.trim()}\n`;
  }),
);
const head = "app.js contains code of these packages:\n\n";
await writeFile(new URL("LICENSES.txt", OUT), head + texts.join("\n----\n\n"));
console.log(`app.js: ${size} bytes`);
