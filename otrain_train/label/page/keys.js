// What each key does.

export class Keys {
  constructor(page) {
    this.page = page;
    document.addEventListener("keydown", (event) => this.pressed(event));
  }

  pressed(event) {
    const { page } = this, { target } = event;
    if (event.ctrlKey || event.altKey || event.metaKey || page.dialogs.isOpen) return;
    if (target.closest("input, textarea")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const act = this.actions(key);
    if (!act) return;
    if (target.closest("select") && (key === " " || key === "Enter" || key.length > 1 && key !== "Escape")) return; // it has a use for these
    if (target.closest("button") && (key === " " || key === "Enter")) return;
    event.preventDefault();
    if (target.closest("select")) page.focus();
    if (!event.repeat || key.startsWith("Arrow") || key.startsWith("Page")) act();
  }

  actions(key) {
    const { page } = this, { cursor, isSingle, grid } = page, { stretches, orders } = page.start;
    const down = isSingle ? 1 : grid.columns, screen = isSingle ? 10 : grid.columns * grid.page_rows;
    return {
      t: () => page.vote("t"), f: () => page.vote("f"), u: () => page.vote("u"), x: () => page.vote("."), Delete: () => page.vote("."),
      z: () => page.undo(), Backspace: () => page.undo(),
      ArrowLeft: () => page.go(cursor - 1), ArrowRight: () => page.go(cursor + 1), ArrowUp: () => page.go(cursor - down), ArrowDown: () => page.go(cursor + down),
      PageUp: () => page.go(cursor - screen), PageDown: () => page.go(cursor + screen), Home: () => page.go(0), End: () => page.go(page.sequence.length - 1),
      " ": () => page.go(page.nextNew()), Enter: () => isSingle || page.open(), Escape: () => isSingle && page.close(),
      1: () => page.setStretch(stretches[0]), 2: () => page.setStretch(stretches[1]), 3: () => page.setStretch(stretches[2]),
      "+": () => page.zoom(1), "=": () => page.zoom(1), "-": () => page.zoom(-1), 0: () => page.zoom(0),
      g: () => page.toggleMaps(), s: () => page.toggleScores(), n: () => page.toggleNew(), r: () => page.reorder(),
      o: () => page.setOrder(orders[(orders.indexOf(page.order) + 1) % orders.length]),
      l: () => document.getElementById("labeller").select(), a: () => page.dialogs.agreement(), m: () => page.dialogs.move(), "?": () => page.dialogs.help(),
    }[key];
  }
}
