// What is shown over the page: the keys, the agreement of labellers, and moving files.

import { part } from "./grid.js";
import { Refused, askJson } from "./server.js";

const find = (name) => document.getElementById(name);

export class Dialogs {
  constructor(page) {
    this.page = page;
    for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("close", () => page.focus());
    find("move-do").addEventListener("click", () => this.act({}));
    find("move-undo").addEventListener("click", () => this.act({ undo: true }));
  }

  get isOpen() { return document.querySelector("dialog[open]") !== null; }

  help() { find("help").showModal(); }

  async agreement() {
    const place = find("kappas");
    place.textContent = "…";
    find("agreement").showModal();
    try {
      const found = await askJson("/api/agreement");
      place.replaceChildren(found.length ? table(found) : words("No candidate has been voted on twice yet, by two labellers or by one in a second look."));
    } catch (error) {
      place.textContent = error instanceof Refused ? error.message : "the server does not answer";
    }
  }

  async move() {
    find("move").showModal();
    await this.plan("");
  }

  async plan(before) {
    const said = find("plan"), button = find("move-do");
    button.disabled = true;
    try {
      const waiting = this.page.queue.waiting.length;
      const plan = await askJson("/api/plan");
      said.textContent = `${before}Votes say: ${plan.said}.${waiting ? ` ${waiting} votes are still unsent.` : ""}`;
      button.textContent = plan.moves ? `Move ${plan.moves.toLocaleString("en")} files` : "Nothing to move";
      button.disabled = !plan.moves;
    } catch (error) {
      said.textContent = `${before}${error instanceof Refused ? error.message : "The server does not answer"}.`;
    }
  }

  async act(body) {
    find("move-do").disabled = true;
    try {
      const { moved } = await askJson("/api/moves", { body, patience: 600000 });
      await this.plan(body.undo ? `Moved back: ${moved}. ` : `Moved: ${moved}. `);
      this.page.pictures.refetch(); // they say where their files lie
    } catch (error) {
      await this.plan(`${error instanceof Refused ? error.message : "The server does not answer"}. `);
    }
  }
}

function words(text) {
  return Object.assign(document.createElement("p"), { textContent: text });
}

function table(found) {
  const made = document.createElement("table"), head = part(made, "thead"), body = part(made, "tbody"), line = part(head, "tr");
  for (const name of ["Labellers", "Candidates", "Alike", "Cohen's kappa"]) part(line, "th", name === "Labellers" ? "" : "number", name).scope = "col";
  for (const { one, other, n, same, kappa } of found) {
    const row = part(body, "tr");
    part(row, "th", "", one === other ? `${one}, second looks` : `${one} and ${other}`).scope = "row";
    part(row, "td", "number", n.toLocaleString("en"));
    part(row, "td", "number", `${(100 * same / n).toFixed(1)} %`);
    part(row, "td", "number", kappa === null ? "not defined" : kappa.toFixed(3));
  }
  return made;
}
