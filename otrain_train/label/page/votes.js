// What the labeller has voted, as far as this page knows: a letter for each candidate, and how many of each there are.

export const WORDS = { t: "true", f: "false", u: "unsure", ".": "none" };

export class Votes {
  constructor(start, waiting) {
    this.places = new Map(start.keys.map((key, i) => [key, i]));
    this.take(start, waiting);
  }

  of(index) { return this.letters[index]; }

  set(index, letter) {
    this.counts[this.letters[index]]--;
    this.counts[this.letters[index] = letter]++;
  }

  // What the page has, for the server to tell whether there is more.
  get known() { return { journal: this.journal, votes: this.have }; }

  // Others' votes are none of one's own: all is asked for again.
  forget() { this.journal = ""; }

  // So many votes are on the server's disk, of this page too: what it said before that is out of date.
  written(answer) {
    if (answer.journal === this.journal) this.least = Math.max(this.least, answer.votes);
  }

  // Take over what the server says, and what is still on its way there; tell whether anything has changed.
  take(state, waiting) {
    const isSame = state.journal === this.journal;
    if (state.mine === undefined || (isSame && state.votes < this.least)) return false;
    const before = this.letters;
    this.letters = state.mine.split("");
    for (const vote of waiting) {
      const index = this.places.get(vote.key);
      if (index !== undefined && vote.labeller === state.labeller && vote.look !== "again") this.letters[index] = letterOf(vote.vote);
    }
    [this.journal, this.have, this.least] = [state.journal, state.votes, isSame ? this.least : 0];
    this.counts = { t: 0, f: 0, u: 0, ".": 0 };
    for (const letter of this.letters) this.counts[letter]++;
    return !before || before.some((letter, index) => letter !== this.letters[index]);
  }
}

function letterOf(word) {
  return word === "none" ? "." : word[0];
}
