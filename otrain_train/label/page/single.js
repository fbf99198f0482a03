// One candidate: its planes as large as there is room for, its header, its score, and maps of what decided.

import { part } from "./grid.js";
import { drawPlane, drawStrip } from "./pictures.js";
import { Refused, askBytes, askJson, query } from "./server.js";
import { WORDS } from "./votes.js";

const MAP_NAMES = { occlusion: "Occlusion", "grad-cam": "Grad-CAM" };
const TRAIL = 12, KEPT_MAPS = 100, GAP = 10, CAPTION = 32;
const FACTS = [
  ["CANDID", "CANDID"], ["OBJECTID", "Object"], ["MAG", "Magnitude"], ["FILTER", "Filter"], ["FWHM", "FWHM"], ["FWHMPSF", "FWHM of PSF"],
  ["RA", "RA"], ["DEC", "Dec"], ["XPOS", "x"], ["YPOS", "y"], ["MJD", "MJD"], ["FILE", "Image"],
];
const NAMES = ["CANDID", "OBJECTID"];
const DIGITS = { MAG: 2, FWHM: 2, FWHMPSF: 2, RA: 5, DEC: 5, XPOS: 1, YPOS: 1, MJD: 5 };

export class Single {
  constructor(page) {
    this.page = page;
    const find = (name) => document.getElementById(name);
    [this.view, this.pictures, this.trail] = [find("single"), find("pictures"), find("trail")];
    [this.name, this.place, this.score, this.others] = [find("name"), find("place"), find("score"), find("others")];
    this.stage = this.view.querySelector(".stage");
    this.facts = find("facts").tBodies[0];
    this.buttons = [...this.view.querySelectorAll("[data-vote]")];
    this.scale = 1;
    this.maps = new Map();
    this.withMaps = false;
    for (const button of this.buttons) button.addEventListener("click", () => { page.vote(button.dataset.vote); page.focus(); });
    new ResizeObserver(() => page.isSingle && this.fit()).observe(this.view);
  }

  zoom(step) {
    this.scale = step === 0 ? 1 : Math.min(6, Math.max(.25, this.scale * (step > 0 ? 1.3 : 1 / 1.3)));
    this.fit();
  }

  *wanted() {
    const { sequence, cursor } = this.page;
    yield sequence[cursor].i;
    for (let p = cursor + 1; p < Math.min(sequence.length, cursor + 48); p++) yield sequence[p].i;
    for (let p = cursor - 1; p >= Math.max(0, cursor - 6); p--) yield sequence[p].i;
  }

  update() {
    const { page } = this, item = page.item, picture = page.picture(item.i, false);
    const header = picture?.header;
    this.name.textContent = page.shownName(item, header);
    const key = page.isVeiled(item) ? "" : ` · ${page.start.keys[item.i]}`;
    this.place.textContent = `${(page.cursor + 1).toLocaleString("en")} of ${page.sequence.length.toLocaleString("en")}${key}`;
    this.showScore(item);
    this.showFacts(item, header);
    this.mark();
    this.showPictures(item, picture);
    this.showOthers(item);
    page.fetch();
  }

  mark() {
    const vote = this.page.voteOn(this.page.item);
    for (const button of this.buttons) {
      const chosen = button.dataset.vote === vote;
      button.classList.toggle("chosen", chosen);
      button.setAttribute("aria-pressed", chosen);
    }
  }

  showScore(item) {
    const { page } = this, models = page.start.models;
    this.score.replaceChildren();
    if (!page.withScores || !models.length || page.isVeiled(item)) return;
    models.forEach((model, k) => {
      const score = page.scoreOf(item.i, k);
      const line = part(this.score, "div");
      part(line, "div", "soft", model.replace(/@.*/, ""));
      part(line, "div", "value", score === null ? (page.isScored ? "no score" : "…") : score.toFixed(3));
      if (score === null) return;
      const gauge = part(line, "div", "gauge");
      part(gauge, "i").style.width = `${100 * score}%`;
      const limit = part(gauge, "b");
      limit.style.left = `${100 * page.start.thresholds[k]}%`;
      limit.title = `threshold ${page.start.thresholds[k]}`;
    });
  }

  showFacts(item, header) {
    const rows = [], isVeiled = this.page.isVeiled(item);
    for (const [key, name] of header ? FACTS : []) {
      if (header[key] === undefined || (isVeiled && NAMES.includes(key))) continue;
      let text = typeof header[key] === "number" ? header[key].toFixed(DIGITS[key]) : header[key];
      if (key === "MAG" && header.MAGERR !== undefined) text += ` ± ${header.MAGERR.toFixed(2)}`;
      rows.push([name, text]);
    }
    if (header?.flags.length) rows.push(["Flags", header.flags.join(", ")]);
    if (header?.reason) rows.push(["Why", header.reason]);
    if (header?.sorted && !isVeiled) rows.push(["Lies in", `${header.sorted}/`]);
    this.facts.replaceChildren(...rows.map(([name, text]) => {
      const row = document.createElement("tr");
      part(row, "th", "", name).scope = "row";
      part(row, "td", "", text);
      return row;
    }));
  }

  showPictures(item, picture) {
    const { page } = this, { planes } = page.start;
    const kinds = this.withMaps && !page.isVeiled(item) ? page.start.maps : [];
    const below = Math.max(0, planes.indexOf("DIFF"));
    const shown = [...planes.map((name, k) => ({ name, plane: k })), ...kinds.map((kind) => ({ name: MAP_NAMES[kind], plane: below, kind }))];
    while (this.pictures.children.length > shown.length) this.pictures.lastChild.remove();
    while (this.pictures.children.length < shown.length) {
      const figure = part(this.pictures, "figure");
      figure.append(document.createElement("canvas"));
      part(figure, "div", "wait").hidden = true;
      part(figure, "figcaption");
    }
    shown.forEach(({ name, plane, kind }, k) => {
      const [canvas, wait, caption] = this.pictures.children[k].children;
      const map = kind && this.mapOf(item.i, kind);
      caption.textContent = name;
      const words = kind && (map.why || (map.values ? "" : "computing…"));
      wait.textContent = words || (picture?.header.reason ? "" : "");
      wait.hidden = !words;
      canvas.hidden = !!words;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${name} of ${this.name.textContent}`);
      if (picture) drawPlane(canvas, picture, plane, map?.values ? map : null);
      else canvas.width = canvas.width;
    });
    this.shown = shown.length;
    this.fit();
  }

  // The largest size at which all pictures are in view; on a narrow screen two stand side by side, and it is scrolled.
  fit() {
    const [ny, nx] = this.page.start.size, count = this.shown ?? 1, room = this.stage.clientWidth;
    const narrow = room < 560, high = narrow ? Infinity : Math.max(200, this.view.clientHeight - 230);
    let best = 0, across = 1;
    for (let columns = narrow ? Math.min(2, count) : 1; columns <= (narrow ? 2 : count); columns++) {
      const scale = Math.min((room - GAP * (columns - 1)) / columns / nx, (high / Math.ceil(count / columns) - CAPTION) / ny);
      if (scale > best) [best, across] = [scale, columns];
    }
    const even = best >= 3 ? Math.floor(best * 2) / 2 : best; // pixels of nearly one size
    const width = Math.floor(nx * Math.max(.2, even * this.scale)), height = Math.round(ny * Math.max(.2, even * this.scale));
    this.pictures.style.maxWidth = this.scale > 1 ? "" : `${across * (width + GAP)}px`;
    for (const figure of this.pictures.children) {
      for (const box of [figure.children[0], figure.children[1]]) Object.assign(box.style, { width: `${width}px`, height: `${height}px` });
    }
  }

  toggleMaps() {
    this.withMaps = !this.withMaps;
    if (this.page.isSingle) this.update();
  }

  mapOf(index, kind) {
    const key = `${kind}/${index}`;
    let map = this.maps.get(key);
    if (!map) {
      this.maps.set(key, map = {});
      this.loadMap(map, key, index, kind);
      if (this.maps.size > KEPT_MAPS) this.maps.delete(this.maps.keys().next().value);
    }
    return map;
  }

  async loadMap(map, key, index, kind) {
    try {
      const asked = query("/api/explain", { listing: this.page.start.listing, i: index, kind });
      const content = await askBytes(asked, { patience: 120000 });
      const shape = new DataView(content);
      Object.assign(map, { ny: shape.getUint32(0, true), nx: shape.getUint32(4, true), values: new Int8Array(content, 8) });
    } catch (error) {
      map.why = error instanceof Refused ? error.message : "the server does not answer";
      setTimeout(() => this.maps.delete(key), 5000);
    }
    if (this.page.isSingle && this.page.item.i === index) this.update();
  }

  async showOthers(item) {
    const { page } = this;
    this.others.replaceChildren();
    if (page.voteOn(item) === "." || page.isVeiled(item)) return;
    try {
      const asked = query("/api/others", { listing: page.start.listing, i: item.i, labeller: page.labeller });
      const votes = await askJson(asked);
      if (page.item !== item) return;
      this.others.replaceChildren();
      for (const [name, vote] of Object.entries(votes)) part(this.others, "div", "", `${name}: ${vote}`);
    } catch { /* they are no more than nice to know */ }
  }

  // The latest votes as small pictures: what was just pressed is seen although the page has moved on.
  remember(entries) {
    this.trail.replaceChildren(...entries.slice(-TRAIL).reverse().map((entry) => {
      const line = document.createElement("li"), picture = this.page.picture(entry.item.i, false) ?? this.page.picture(entry.item.i, true);
      const vote = this.page.voteOn(entry.item);
      line.className = vote === "." ? "" : vote;
      line.title = WORDS[vote] ?? "";
      const canvas = line.appendChild(document.createElement("canvas"));
      if (picture) drawStrip(canvas, { ...picture, planes: 1, shades: picture.shades.subarray((picture.planes - 1) * picture.ny * picture.nx) });
      part(line, "span", "badge", vote === "." ? "" : vote.toUpperCase());
      line.addEventListener("click", () => {
        const position = this.page.positionOf(entry.item);
        if (position >= 0) this.page.go(position);
      });
      return line;
    }));
  }
}
