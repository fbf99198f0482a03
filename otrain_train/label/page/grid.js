// All candidates: a sheet as high as all of them, of which only the part in view is made of anything.

import { GAP, drawStrip } from "./pictures.js";
import { WORDS } from "./votes.js";

const MARGIN = 10, PADDING = 16, TEXT = 19;
const DRAWING = 7; // ms of a frame
const SIZES = [40, 56, 76, 104, 144, 200];

export class Grid {
  constructor(page) {
    this.page = page;
    this.view = document.getElementById("grid");
    this.sheet = document.getElementById("sheet");
    this.tiles = new Map(); // position -> tile
    this.spare = [];
    this.size = 2;
    this.view.addEventListener("scroll", () => this.soon(), { passive: true });
    new ResizeObserver(() => this.layout()).observe(this.view);
    this.sheet.addEventListener("click", (event) => this.clicked(event));
  }

  zoom(step) {
    this.size = step === 0 ? 2 : Math.min(SIZES.length - 1, Math.max(0, this.size + step));
    this.layout();
    this.show(this.page.cursor);
  }

  layout() {
    const { planes, size } = this.page.start;
    const width = this.view.clientWidth - 2 * MARGIN, gaps = PADDING + GAP * (planes.length - 1);
    if (width <= 0) return;
    const wanted = Math.min(planes.length * SIZES[this.size] + gaps, width);
    this.columns = Math.max(1, Math.floor((width + MARGIN) / (wanted + MARGIN)));
    this.width = Math.floor((width - MARGIN * (this.columns - 1)) / this.columns);
    this.height = Math.ceil((this.width - gaps) / planes.length * size[0] / size[1]) + PADDING + TEXT;
    this.rows = Math.ceil(this.page.sequence.length / this.columns);
    this.sheet.style.height = `${this.rows * (this.height + MARGIN) + MARGIN}px`;
    for (const position of [...this.tiles.keys()]) this.free(position);
    this.update();
  }

  soon() {
    if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.update(); });
  }

  // The positions in view, and so many screens around it.
  range(around) {
    const high = this.view.clientHeight, top = this.view.scrollTop, row = this.height + MARGIN;
    const first = Math.max(0, Math.floor((top - around * high - MARGIN) / row)) * this.columns;
    const last = Math.min(this.page.sequence.length, (Math.floor((top + (1 + around) * high) / row) + 1) * this.columns);
    return [first, last];
  }

  *wanted() {
    const [first, last] = this.range(0), [before, behind] = this.range(1.5);
    for (let p = first; p < last; p++) yield this.page.sequence[p].i;
    for (let p = last; p < behind; p++) yield this.page.sequence[p].i;
    for (let p = first - 1; p >= before; p--) yield this.page.sequence[p].i;
  }

  update() {
    if (this.page.isSingle || !this.columns) return;
    const [first, last] = this.range(.5), enough = performance.now() + DRAWING;
    for (const position of [...this.tiles.keys()]) if (position < first || position >= last) this.free(position);
    for (const position of this.inViewFirst(first, last)) {
      let tile = this.tiles.get(position);
      if (!tile) this.tiles.set(position, tile = this.place(position));
      if (tile.drawn) continue;
      // What does not fit into this frame is drawn in the next, what is in view first.
      if (performance.now() < enough || !this.page.picture(this.page.sequence[position].i, true)) this.draw(tile, position);
      else this.soon();
    }
    for (const { element } of this.spare) element.hidden = true;
    this.page.fetch();
  }

  *inViewFirst(first, last) {
    const [from, to] = this.range(0);
    for (let p = from; p < to; p++) yield p;
    for (let p = to; p < last; p++) yield p;
    for (let p = first; p < from; p++) yield p;
  }

  free(position) {
    const tile = this.tiles.get(position);
    this.tiles.delete(position);
    tile.drawn = false;
    tile.element.className = "spare";
    tile.element.removeAttribute("id");
    this.spare.push(tile);
  }

  place(position) {
    const tile = this.spare.pop() ?? makeTile(this.sheet);
    const { element } = tile, column = position % this.columns, row = (position - column) / this.columns;
    element.hidden = false;
    element.id = `tile-${position}`;
    element.style.width = `${this.width}px`;
    element.style.height = `${this.height}px`;
    element.style.transform = `translate(${MARGIN + column * (this.width + MARGIN)}px, ${MARGIN + row * (this.height + MARGIN)}px)`;
    element.setAttribute("aria-posinset", position + 1);
    element.setAttribute("aria-setsize", this.page.sequence.length);
    tile.canvas.style.height = `${this.height - PADDING - TEXT}px`;
    this.mark(position, tile);
    return tile;
  }

  draw(tile, position) {
    const item = this.page.sequence[position], picture = this.page.picture(item.i, true);
    tile.why.textContent = "";
    tile.element.setAttribute("aria-busy", !picture);
    if (!picture) {
      tile.canvas.width = tile.canvas.width; // empties it
      tile.id.textContent = this.page.shownName(item);
      tile.number.textContent = "";
      return;
    }
    tile.drawn = true;
    drawStrip(tile.canvas, picture);
    tile.canvas.style.imageRendering = this.width >= 2 * tile.canvas.width ? "pixelated" : "auto";
    tile.why.textContent = picture.header.reason ?? "";
    this.describe(tile, position, picture);
  }

  describe(tile, position, picture) {
    const item = this.page.sequence[position], { header } = picture;
    const scores = this.page.scoresShown(item).map(([, score]) => score.toFixed(3)).join(" / ");
    tile.id.textContent = this.page.shownName(item, header);
    tile.number.textContent = [
      header.MAG === undefined ? "" : `${header.MAG.toFixed(1)} mag`, scores,
    ].filter(Boolean).join(" · ");
    const vote = this.page.voteOn(item), said = [tile.id.textContent, tile.number.textContent, header.reason, vote === "." ? "" : WORDS[vote]];
    tile.element.setAttribute("aria-label", said.filter(Boolean).join(", "));
  }

  // Show anew what is known of a candidate: its vote, its score, whether the cursor is on it.
  mark(position, tile = this.tiles.get(position)) {
    if (!tile) return;
    const vote = this.page.voteOn(this.page.sequence[position]), here = position === this.page.cursor;
    const name = `tile${vote === "." ? "" : ` ${vote}`}${here ? " cursor" : ""}`;
    if (tile.element.className !== name) tile.element.className = name;
    tile.badge.textContent = vote === "." ? "" : vote.toUpperCase();
    tile.badge.hidden = vote === ".";
    tile.element.setAttribute("aria-selected", here);
    if (here) this.view.setAttribute("aria-activedescendant", tile.element.id);
    const picture = tile.drawn && this.page.picture(this.page.sequence[position].i, true);
    if (picture) this.describe(tile, position, picture);
  }

  markAll() {
    for (const [position, tile] of this.tiles) this.mark(position, tile);
  }

  redraw() {
    for (const tile of this.tiles.values()) tile.drawn = false;
    this.update();
  }

  // Scroll so that a position is in view, with something of what comes next.
  show(position) {
    if (!this.columns) return;
    const row = this.height + MARGIN, top = Math.floor(position / this.columns) * row, high = this.view.clientHeight;
    const least = top + row + MARGIN + Math.min(row, high - row) - high, most = top - Math.min(row / 2, (high - row) / 2);
    if (this.view.scrollTop > most) this.view.scrollTop = most;
    else if (this.view.scrollTop < least) this.view.scrollTop = Math.min(least, top);
  }

  get page_rows() {
    return Math.max(1, Math.floor(this.view.clientHeight / (this.height + MARGIN)));
  }

  clicked(event) {
    const element = event.target.closest(".tile");
    if (!element) return;
    const position = Number(element.id.slice(5)), again = position === this.page.cursor;
    this.page.go(position);
    this.view.focus({ preventScroll: true });
    if (again || event.detail > 1) this.page.open();
  }
}

function makeTile(sheet) {
  const element = document.createElement("div");
  element.setAttribute("role", "option");
  const canvas = element.appendChild(document.createElement("canvas"));
  canvas.setAttribute("aria-hidden", "true");
  const why = part(element, "div", "why"), badge = part(element, "span", "badge"), said = part(element, "div", "said");
  const tile = { element, canvas, why, badge, id: part(said, "span", "id"), number: part(said, "span", "number"), drawn: false };
  sheet.append(element);
  return tile;
}

export function part(parent, kind, name, text = "") {
  const made = document.createElement(kind);
  if (name) made.className = name;
  made.textContent = text;
  return parent.appendChild(made);
}
