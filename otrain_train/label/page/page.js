// The page: what is shown, where the cursor is, and what can be done.

import { Dialogs } from "./dialogs.js";
import { Grid } from "./grid.js";
import { Keys } from "./keys.js";
import { Pictures } from "./pictures.js";
import { Queue } from "./queue.js";
import { Refused, askBytes, askJson, enter, pause, query } from "./server.js";
import { Single } from "./single.js";
import { Votes, WORDS } from "./votes.js";

const ORDER_NAMES = { name: "by name", random: "at random", uncertainty: "uncertain first", disagreement: "disputed first" };
const STRETCH_NAMES = { zscale: "ZScale", asinh: "asinh", linear: "linear" };
const SOONEST = 6; // so many places ahead a second look comes, at least
const SETTLING = 600; // ms in which keys may still be meant for what was there before

const find = (name) => document.getElementById(name);
const remembered = {
  get(name) { try { return localStorage.getItem(`otrain-label/${name}`); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(`otrain-label/${name}`, value); } catch { /* then not */ } },
};

class Page {
  async begin() {
    await this.untilThere(enter);
    this.labeller = sessionStorage.getItem("labeller") || ""; // of this tab: the next one begins with --labeller
    this.start = await this.untilThere(() => askJson(query("/api/start", this.labeller ? { labeller: this.labeller } : {})));
    this.labeller = this.start.labeller;
    this.queue = new Queue(this.start.desk, (count, why) => this.showUnsent(count, why), (answer) => this.answered(answer));
    this.votes = new Votes(this.start, this.queue.waiting);
    this.veil();
    this.scores = new Float32Array(this.start.models.length * this.start.keys.length).fill(NaN);
    this.scored = -1;
    this.done = [];
    this.settled = 0;
    this.cursor = 0;
    this.sequence = [];
    this.stretch = remembered.get("stretch") in STRETCH_NAMES ? remembered.get("stretch") : "zscale";
    this.order = this.start.order;
    this.withScores = true;
    this.isSingle = false;
    this.onlyNew = false;
    this.pictures = new Pictures(this.start.listing, () => this.arrived(), (error) => this.away(error));
    this.pictures.wanted = () => (this.isSingle ? this.single : this.grid).wanted();
    this.grid = new Grid(this);
    this.single = new Single(this);
    this.dialogs = new Dialogs(this);
    this.makeTools();
    await this.reorder(this.firstNew);
    this.showCounts();
    this.showUnsent(this.queue.waiting.length, "");
    this.keys = new Keys(this);
    addEventListener("beforeunload", (event) => { if (this.queue.waiting.length) event.preventDefault(); });
    this.grid.view.focus({ preventScroll: true });
    this.queue.send();
    this.poll();
  }

  async untilThere(ask) {
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        this.notice(error instanceof Refused ? error.message : "the server does not answer; trying again");
        await pause(1000);
      }
    }
  }

  makeTools() {
    find("folder").textContent = this.start.folder;
    document.title = `${this.start.folder} · otrain-label`;
    find("labeller").value = this.labeller;
    for (const order of this.start.orders) find("order").add(new Option(ORDER_NAMES[order], order));
    find("order").value = this.order;
    find("order").addEventListener("change", () => { this.setOrder(find("order").value); this.focus(); });
    this.start.stretches.forEach((stretch, k) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.stretch = stretch;
      button.append(STRETCH_NAMES[stretch], " ", Object.assign(document.createElement("kbd"), { textContent: k + 1 }));
      button.addEventListener("click", () => { this.setStretch(stretch); this.focus(); });
      find("stretches").append(button);
    });
    this.setStretch(this.stretch);
    find("scores").hidden = find("maps").hidden = !this.start.models.length;
    for (const [name, act] of Object.entries({
      anew: () => this.reorder(), only: () => this.toggleNew(), in: () => this.zoom(1), out: () => this.zoom(-1), scores: () => this.toggleScores(),
      maps: () => this.toggleMaps(), back: () => this.close(), undo: () => this.undo(), "help-button": () => this.dialogs.help(),
      "agreement-button": () => this.dialogs.agreement(), "move-button": () => this.dialogs.move(),
    })) find(name).addEventListener("click", () => { act(); this.focus(); }); // else the next key would be for the button
    find("labeller").addEventListener("change", () => this.setLabeller(find("labeller").value));
    find("labeller").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === "Escape") this.focus(); });
  }

  // ---- what there is to know of a candidate

  get item() { return this.sequence[this.cursor]; }
  get firstNew() { return () => Math.max(0, this.sequence.findIndex((item) => this.voteOn(item) === ".")); }
  get isScored() { return this.scored >= this.start.keys.length; }

  nameOf(index) { return this.start.keys[index].replace(/^.*\//, ""); }
  voteOn(item) { return item.again ? item.vote : this.votes.of(item.i); }
  isVeiled(item) { return item.blind || this.veiled[item.i]; }
  // What is veiled has no name either: one that is out of order would say that it is a second look.
  shownName(item, header) { return this.isVeiled(item) ? "blind look" : header?.CANDID ?? this.nameOf(item.i); }
  positionOf(item) { return this.sequence.findIndex((each) => each === item || (!item.again && !each.again && each.i === item.i)); }
  picture(index, small) { return this.pictures.get(index, this.stretch, small && this.start.step > 1); }
  fetch() { this.pictures.fetch(this.stretch, !this.isSingle && this.start.step > 1); }

  scoreOf(index, model) {
    const score = this.scores[model * this.start.keys.length + index];
    return Number.isNaN(score) ? null : score;
  }

  // [model, score] of each model, as far as it may be seen and there is one.
  scoresShown(item) {
    if (!this.withScores || this.isVeiled(item)) return [];
    return this.start.models.map((name, model) => [name, this.scoreOf(item.i, model)]).filter(([, score]) => score !== null);
  }

  veil() { this.veiled = [...this.start.blind].map((blind, i) => blind === "1" && this.votes.of(i) === "."); }

  // ---- where we are

  go(position) {
    const before = this.cursor;
    this.cursor = Math.max(0, Math.min(this.sequence.length - 1, position));
    if (this.isSingle) this.single.update();
    else {
      this.grid.show(this.cursor);
      this.grid.mark(before);
      this.grid.mark(this.cursor);
    }
  }

  nextNew() {
    for (let p = this.cursor + 1; p < this.sequence.length; p++) if (this.voteOn(this.sequence[p]) === ".") return p;
    return Math.min(this.cursor + 1, this.sequence.length - 1);
  }

  open() {
    if (!this.sequence.length) return;
    this.isSingle = true;
    this.grid.view.hidden = true;
    this.single.view.hidden = false;
    this.single.view.focus({ preventScroll: true });
    this.single.view.scrollTop = 0;
    this.single.update();
    this.single.remember(this.done);
  }

  close() {
    this.isSingle = false;
    this.single.view.hidden = true;
    this.grid.view.hidden = false;
    this.grid.layout();
    this.grid.show(this.cursor);
    this.grid.markAll();
    this.focus();
  }

  focus() { (this.isSingle ? this.single : this.grid).view.focus({ preventScroll: true }); }

  // ---- votes

  vote(letter) {
    const item = this.item;
    if (!item) return;
    if (!this.picture(item.i, !this.isSingle)) return this.hint("its picture is not here yet: no vote was taken");
    if (performance.now() < this.settled) return this.hint("the order has just changed: no vote was taken");
    if (letter === "." && this.voteOn(item) === ".") return this.hint("there is no vote of yours on it");
    this.done.push({ item, before: this.voteOn(item) });
    this.cast(item, letter);
    const to = letter === "." ? this.cursor : this.nextNew();
    if (to === this.cursor) this.refresh();
    this.go(to);
  }

  undo() {
    const last = this.done.pop();
    if (!last) return this.hint("nothing to take back since the page was opened: X takes back the vote under the cursor");
    this.cast(last.item, last.before);
    const position = this.positionOf(last.item);
    if (position >= 0) this.go(position);
    this.refresh();
  }

  cast(item, letter) {
    const place = this.positionOf(item);
    if (item.again) item.vote = letter;
    else this.votes.set(item.i, letter);
    this.queue.put({
      labeller: this.labeller, key: this.start.keys[item.i], vote: WORDS[letter], place: place < 0 ? null : place, order: this.order,
      look: item.again ? "again" : this.isVeiled(item) ? "blind" : "open", scores: this.scoresShown(item),
    });
    this.showCounts();
    this.say(`${WORDS[letter]}: ${this.shownName(item)}`);
    this.grid.mark(place);
    if (this.isSingle) this.single.remember(this.done);
  }

  answered(answer) {
    this.votes.written(answer);
    for (const why of Object.values(answer.refused)) this.notice(`a vote was refused: ${why}`);
    if (answer.listing !== this.start.listing) return this.reload();
    for (const index of answer.again) this.showAgain(index);
  }

  // Put a candidate that was voted on ahead of us, without a word: where nobody looks yet, as far behind the one before
  // as such looks are from each other on average.
  showAgain(index) {
    const { sequence } = this, gap = Math.floor(Math.random() * 2 / this.start.blind_fraction);
    const unseen = this.isSingle ? this.cursor + SOONEST : Math.max(this.cursor + SOONEST, this.grid.range(.5)[1]);
    const ahead = Math.max(unseen, sequence.findLastIndex((item) => item.blind) + 1) + gap;
    if (ahead > sequence.length || sequence.some((item, p) => item.i === index && p > this.cursor && p < ahead)) return;
    sequence.splice(ahead, 0, { i: index, blind: true, again: this.votes.of(index) !== ".", vote: "." });
    this.grid.rows = Math.ceil(sequence.length / this.grid.columns);
    this.grid.layout();
  }

  // ---- what is shown, and how

  async setOrder(order) {
    this.order = order;
    find("order").value = order;
    await this.reorder(this.firstNew);
  }

  // Ask for the order; the cursor stays with its candidate unless `place` says where it goes.
  async reorder(place) {
    const here = this.item?.i;
    for (;;) {
      try {
        const asked = query("/api/order", { listing: this.start.listing, order: this.order });
        this.indices = new Uint32Array(await askBytes(asked));
        break;
      } catch (error) {
        if (error instanceof Refused && error.status === 409) return this.reload();
        this.away(error);
        await pause(700);
      }
    }
    this.orderedAt = Math.max(this.scored, this.start.scored);
    this.arrange(place ?? (() => this.sequence.findIndex((item) => item.i === here)));
  }

  arrange(place) {
    const all = Array.from(this.indices, (i) => ({ i }));
    this.sequence = this.onlyNew ? all.filter((item) => this.votes.of(item.i) === ".") : all;
    if (!this.sequence.length) {
      this.onlyNew = false;
      this.sequence = all;
      this.notice("all candidates have your vote");
    }
    find("only").setAttribute("aria-pressed", this.onlyNew);
    this.cursor = Math.max(0, place());
    this.grid.view.scrollTop = 0;
    this.grid.layout();
    this.grid.show(this.cursor);
    this.refresh();
    this.showScoring();
  }

  toggleNew() {
    const here = this.item.i;
    this.onlyNew = !this.onlyNew;
    this.arrange(() => this.sequence.findIndex((item) => item.i === here));
  }

  setStretch(stretch) {
    this.stretch = stretch;
    remembered.set("stretch", stretch);
    for (const button of find("stretches").children) button.setAttribute("aria-pressed", button.dataset.stretch === stretch);
    if (this.sequence.length) {
      this.grid.redraw();
      this.refresh();
    }
  }

  zoom(step) { (this.isSingle ? this.single : this.grid).zoom(step); }

  toggleScores() {
    this.withScores = !this.withScores;
    find("scores").setAttribute("aria-pressed", this.withScores);
    this.refresh();
  }

  toggleMaps() {
    if (!this.start.models.length) return this.notice("maps of what decided need a model: start otrain-label with --model");
    this.single.toggleMaps();
    find("maps").setAttribute("aria-pressed", this.single.withMaps);
    if (this.single.withMaps && !this.isSingle) this.open();
    else if (this.single.withMaps && this.isVeiled(this.item)) this.say("no maps of this candidate");
  }

  async setLabeller(name) {
    try {
      const state = await askJson(query("/api/state", { labeller: name }));
      this.labeller = state.labeller;
      sessionStorage.setItem("labeller", this.labeller);
      this.done = [];
      this.votes.forget();
      this.take(state);
      this.veil();
      this.arrange(this.firstNew);
      this.notice("");
    } catch (error) {
      this.notice(error instanceof Refused ? error.message : "the server does not answer");
    }
    find("labeller").value = this.labeller;
  }

  refresh() {
    this.grid.markAll();
    if (this.isSingle) this.single.update();
  }

  arrived() {
    if (!this.isSingle) this.grid.update();
    else {
      this.single.update();
      this.single.remember(this.done);
    }
  }

  // ---- what the server says

  async poll() {
    for (;;) {
      try {
        const state = await askJson(query("/api/state", { labeller: this.labeller, ...this.votes.known }));
        if (state.listing !== this.start.listing) return this.reload();
        if (state.labeller === this.labeller) this.take(state); // it may have changed meanwhile
        if (state.scored !== this.scored && this.start.models.length) {
          this.scores = new Float32Array(await askBytes(query("/api/scores", { listing: this.start.listing })));
          this.scored = state.scored;
          await this.haveScores();
        }
        if (state.problem) this.notice(`no more is scored: ${state.problem}`);
        this.away("");
      } catch (error) {
        if (error instanceof Refused && error.status === 409) return this.reload();
        this.away(error);
      }
      await pause(this.isScored || !this.start.models.length ? 3000 : 1000);
    }
  }

  // Take over what the labeller has voted elsewhere; what is still on its way from here counts more.
  take(state) {
    if (!this.votes.take(state, this.queue.waiting)) return;
    this.showCounts();
    this.grid.markAll();
    if (this.isSingle) this.single.mark();
  }

  async haveScores() {
    this.showScoring();
    // Before the first vote nobody minds another order; afterwards it is asked for.
    if (this.needsScores && !this.done.length && !this.isSingle && this.cursor === 0) {
      await this.reorder(() => 0);
      this.settled = performance.now() + SETTLING;
    }
    this.refresh();
  }

  get needsScores() { return this.order === "uncertainty" || this.order === "disagreement"; }

  showScoring() {
    const all = this.start.keys.length, models = this.start.models.length;
    find("anew").hidden = !(this.needsScores && this.orderedAt < this.scored);
    let words = "";
    if (models && !this.isScored) {
      words = `scored so far: ${Math.max(0, this.scored).toLocaleString("en")} of ${all.toLocaleString("en")}`;
      if (this.needsScores) words += "; the others come last in this order";
    } else if (!find("anew").hidden) words = "all are scored: R orders them again";
    if (words !== (this.scoring ?? "")) this.notice(words, true);
    this.scoring = words;
  }

  away(error) {
    const gone = error && !(error instanceof Refused && error.status < 500 && error.status !== 403);
    if (error instanceof Refused && error.status === 409) return this.reload();
    if (gone && !this.queue?.why) this.notice(error instanceof Refused ? error.message : "the server does not answer; your votes are kept here");
    else if (this.isAway) this.notice("");
    this.isAway = !!gone;
    this.showUnsent(this.queue?.waiting.length ?? 0, this.queue?.why ?? "");
  }

  // Votes that wait name their candidates, and lose nothing; where the browser cannot keep them, they go first.
  async reload() {
    if (this.reloading) return;
    this.reloading = true;
    while (this.queue.waiting.length && !this.queue.isKept) await pause(200);
    this.queue.waiting = [];
    location.reload();
  }

  // ---- words

  showCounts() {
    const { t, f, u } = this.votes.counts, all = this.start.keys.length, done = t + f + u;
    const counts = find("counts");
    counts.replaceChildren(`${done.toLocaleString("en")} of ${all.toLocaleString("en")} · `);
    for (const [letter, count] of [["t", t], ["f", f], ["u", u]]) {
      const shown = document.createElement("b");
      shown.className = letter;
      shown.textContent = `${count.toLocaleString("en")} ${WORDS[letter]}`;
      counts.append(shown, letter === "u" ? "" : ", ");
      find("progress").querySelector(`.${letter}`).style.width = `${100 * (letter === "t" ? t : letter === "f" ? f : u) / all}%`;
    }
    find("progress").setAttribute("aria-label", `${done} of ${all} voted on: ${t} true, ${f} false, ${u} unsure`);
  }

  showUnsent(count, why) {
    const sign = find("unsent");
    sign.hidden = count === 0;
    sign.classList.toggle("quiet", !why);
    sign.textContent = why ? `${count} unsent: ${why}; trying again` : `${count} unsent`;
    sign.dataset.count = count;
  }

  say(words) { find("live").textContent = words; }

  // Said for a moment, to eyes and to screen readers.
  hint(words) {
    this.say(words);
    this.notice(words, true);
    clearTimeout(this.hinting);
    this.hinting = setTimeout(() => {
      if (find("notice").textContent === words) this.notice("");
      this.scoring = "";
      this.showScoring();
    }, 3000);
  }

  notice(words, quiet = false) {
    const sign = find("notice");
    sign.textContent = words;
    sign.classList.toggle("soft", quiet);
    sign.hidden = !words;
  }
}

const page = window.otrain = new Page();
page.begin();
