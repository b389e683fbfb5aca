/**
 * Build the page into gz3d_zarr/viewer/static: `npm ci && npm run build`. The same sources give the
 * same bytes.
 */

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

for (const name of ["index.html", "style.css", "icon.svg"]) {
  await copyFile(new URL(`src/${name}`, import.meta.url), new URL(name, OUT));
}
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
