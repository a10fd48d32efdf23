// Bundles src/ and three.js into the one file that posecore.export.html puts into its pages, or into the file named.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { build } from "esbuild";

const read = (name) => readFileSync(new URL(name, import.meta.url), "utf8");
const version = JSON.parse(read("node_modules/three/package.json")).version;

const result = await build({
  absWorkingDir: import.meta.dirname,
  entryPoints: ["src/viewer.js"],
  outfile: process.argv[2] ? resolve(process.argv[2]) : "../../packages/core/posecore/export/assets/viewer.js",
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "ascii",
  loader: { ".css": "text", ".html": "text" },
  // Every page is a copy of three.js, whose licence asks to be in every copy.
  banner: { js: `/*! Built by tools/viewer; do not edit. Holds three.js ${version}:\n\n${read("node_modules/three/LICENSE").trim()}\n*/` },
  legalComments: "none",
  metafile: true,
});
for (const [name, { bytes }] of Object.entries(result.metafile.outputs)) console.log(`${name}: ${bytes} bytes`);
