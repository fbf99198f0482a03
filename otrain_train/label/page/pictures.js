// Pictures of candidates: fetched many at a time, kept for a while, drawn on a canvas.

import { askBytes, query } from "./server.js";

const AT_ONCE = 48, IN_FLIGHT = 2, KEPT = 6000;
export const GAP = 2;

// Shade -> colour as a canvas has it in memory (ABGR): 0 is a pixel that is missing.
const COLOURS = new Uint32Array(256);
for (let shade = 1; shade < 256; shade++) COLOURS[shade] = 0xff000000 | ((shade - 1) * 255 / 254 + .5 | 0) * 0x010101;
COLOURS[0] = 0xff009fe6;

export class Pictures {
  constructor(listing, arrived, away) {
    this.listing = listing;
    this.arrived = arrived;
    this.away = away;
    this.kept = new Map();
    this.stale = new Set(); // shown until they are here anew
    this.asked = new Set();
    this.flying = 0;
    this.wanted = () => [];
    this.rest = 0;
  }

  key(index, stretch, small) {
    return `${stretch}/${small ? 1 : 0}/${index}`;
  }

  get(index, stretch, small) {
    const key = this.key(index, stretch, small);
    const found = this.kept.get(key);
    if (found) { // the latest last
      this.kept.delete(key);
      this.kept.set(key, found);
    }
    return found;
  }

  refetch() {
    this.stale = new Set(this.kept.keys());
    this.arrived();
  }

  // Ask for what is wanted now and not there: `wanted` gives indices, the most urgent first.
  fetch(stretch, small) {
    if (Date.now() < this.rest) return;
    while (this.flying < IN_FLIGHT) {
      const some = [];
      for (const index of this.wanted()) {
        const key = this.key(index, stretch, small);
        if ((!this.kept.has(key) || this.stale.has(key)) && !this.asked.has(key)) {
          this.asked.add(key);
          some.push(index);
          if (some.length === AT_ONCE) break;
        }
      }
      if (!some.length) return;
      this.load(some, stretch, small);
    }
  }

  async load(indices, stretch, small) {
    this.flying++;
    try {
      const parameters = { listing: this.listing, i: indices.join(","), stretch, small: small ? 1 : 0 };
      const content = await askBytes(query("/api/tiles", parameters));
      const length = new DataView(content).getUint32(0, true);
      const { shape, items } = JSON.parse(new TextDecoder().decode(new Uint8Array(content, 4, length)));
      const [, planes, ny, nx] = shape, each = planes * ny * nx;
      items.forEach((header, k) => {
        const shades = new Uint8Array(content, 4 + length + k * each, each);
        const key = this.key(indices[k], stretch, small);
        this.kept.set(key, { header, shades, planes, ny, nx });
        this.stale.delete(key);
      });
      while (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
      this.away("");
    } catch (error) {
      this.rest = Date.now() + 700;
      setTimeout(() => this.arrived(), 750);
      this.away(error);
    } finally {
      for (const index of indices) this.asked.delete(this.key(index, stretch, small));
      this.flying--;
    }
    this.arrived();
  }
}

// Draw the planes of a picture side by side.
export function drawStrip(canvas, picture) {
  const { planes, ny, nx, shades } = picture;
  const width = planes * nx + (planes - 1) * GAP;
  if (canvas.width !== width || canvas.height !== ny) Object.assign(canvas, { width, height: ny });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, ny), pixels = new Uint32Array(image.data.buffer);
  for (let plane = 0; plane < planes; plane++) {
    for (let y = 0; y < ny; y++) {
      let from = (plane * ny + y) * nx, to = y * width + plane * (nx + GAP);
      for (const end = from + nx; from < end;) pixels[to++] = COLOURS[shades[from++]];
    }
  }
  context.putImageData(image, 0, 0);
}

// Draw one plane, a map laid over it where there is one: blue speaks for real, vermilion for bogus.
export function drawPlane(canvas, picture, plane, map) {
  const { ny, nx, shades } = picture;
  Object.assign(canvas, { width: nx, height: ny });
  const context = canvas.getContext("2d");
  const image = context.createImageData(nx, ny), pixels = new Uint32Array(image.data.buffer);
  for (let k = 0; k < nx * ny; k++) pixels[k] = COLOURS[shades[plane * ny * nx + k]];
  if (map) lay(image.data, nx, ny, map);
  context.putImageData(image, 0, 0);
}

const REAL = [0x00, 0x72, 0xb2], BOGUS = [0xd5, 0x5e, 0x00], STRENGTH = .8;

function lay(pixels, nx, ny, map) {
  // Both are centred on the object, pixel n // 2 of n from the low end, which is the left and the bottom.
  const left = (nx >> 1) - (map.nx >> 1), top = ny - 1 - (ny >> 1) - (map.ny - 1 - (map.ny >> 1));
  for (let y = 0; y < map.ny; y++) {
    for (let x = 0; x < map.nx; x++) {
      const v = y + top, u = x + left, value = map.values[y * map.nx + x];
      if (!value || v < 0 || v >= ny || u < 0 || u >= nx) continue;
      const cover = STRENGTH * Math.abs(value) / 127, colour = value > 0 ? REAL : BOGUS, at = 4 * (v * nx + u);
      for (let c = 0; c < 3; c++) pixels[at + c] = (1 - cover) * pixels[at + c] + cover * colour[c];
    }
  }
}
