// Votes on their way: each is kept in this browser until the server says that it is on its disk.

import { Refused, askJson, pause } from "./server.js";

const AT_ONCE = 50;
const SHORTEST = 300, LONGEST = 3000;

export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Queue {
  // `told` is called whenever something has changed: with how many wait, and why they do if there is a reason.
  constructor(desk, told, answered) {
    this.prefix = `otrain-vote/${desk}/`;
    this.told = told;
    this.answered = answered;
    this.waiting = this.left();
    this.why = "";
    this.isKept = true; // whether they outlive this page
    this.sending = false;
  }

  // What an earlier page, or another one, has not got rid of. The server takes each vote once, whoever sends it.
  left() {
    const found = [];
    try {
      for (let i = 0; i < localStorage.length; i++) {
        const name = localStorage.key(i);
        if (name.startsWith(this.prefix)) {
          try { found.push(JSON.parse(localStorage.getItem(name))); } catch { /* no vote of ours */ }
        }
      }
    } catch { /* a browser that keeps nothing: votes wait in memory */ }
    return found.filter((vote) => vote && vote.id).sort((a, b) => a.at - b.at || a.nth - b.nth);
  }

  put(vote) {
    this.nth = (this.nth ?? 0) + 1;
    Object.assign(vote, { id: newId(), at: Date.now(), nth: this.nth });
    try { localStorage.setItem(this.prefix + vote.id, JSON.stringify(vote)); } catch { this.isKept = false; }
    this.waiting.push(vote);
    this.told(this.waiting.length, this.why);
    this.send();
  }

  forget(ids) {
    const gone = new Set(ids);
    this.waiting = this.waiting.filter((vote) => !gone.has(vote.id));
    for (const id of gone) {
      try { localStorage.removeItem(this.prefix + id); } catch { /* see above */ }
    }
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    let wait = SHORTEST;
    while (this.waiting.length) {
      const labeller = this.waiting[0].labeller;
      const until = this.waiting.findIndex((vote) => vote.labeller !== labeller);
      const votes = this.waiting.slice(0, Math.min(AT_ONCE, until < 0 ? Infinity : until));
      try {
        const answer = await askJson("/api/votes", { body: { labeller, votes }, patience: 10000 });
        this.forget([...answer.kept, ...Object.keys(answer.refused)]);
        wait = SHORTEST;
        this.why = "";
        this.answered(answer);
      } catch (error) {
        this.why = error instanceof Refused ? error.message : "the server does not answer";
        this.told(this.waiting.length, this.why);
        await pause(wait);
        wait = Math.min(LONGEST, 1.6 * wait);
      }
    }
    this.sending = false;
    this.told(0, "");
  }
}
