// What is asked of the server, and how.

export class Refused extends Error {
  constructor(status, why) {
    super(why);
    this.status = status;
  }
}

const PATIENCE = 15000;
const PLACE = "otrain-label/token"; // in what the browser keeps for this server alone; a cookie would go to others on this machine

let token = "";

// Take the token out of the address, where it need not be seen, or what opens the page once and is exchanged for it.
export async function enter() {
  const given = new URLSearchParams(location.search);
  try { token = localStorage.getItem(PLACE) ?? ""; } catch { /* a browser that keeps nothing */ }
  if (given.has("token")) token = given.get("token");
  else if (given.has("once")) token = await exchange(given.get("once")) ?? token;
  try { localStorage.setItem(PLACE, token); } catch { /* as above */ }
  history.replaceState(null, "", "/");
}

async function exchange(once) {
  try {
    return await (await ask(query("/api/token", { once }))).text();
  } catch (error) {
    if (!(error instanceof Refused)) throw error; // else it was used before, by this browser perhaps
  }
}

export async function ask(path, { body, signal, patience = PATIENCE } = {}) {
  const late = AbortSignal.timeout(patience);
  const options = { signal: signal ? AbortSignal.any([signal, late]) : late, cache: "no-store", headers: { Authorization: `Bearer ${token}` } };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  if (answer.ok) return answer;
  let why = `the server answers ${answer.status}`;
  try {
    const said = await answer.text();
    why = said.startsWith("{") ? JSON.parse(said).error : said.trim() || why;
  } catch { /* the status has to do */ }
  throw new Refused(answer.status, why);
}

export async function askJson(path, options) {
  return (await ask(path, options)).json();
}

export async function askBytes(path, options) {
  return (await ask(path, options)).arrayBuffer();
}

export function query(path, parameters) {
  return `${path}?${new URLSearchParams(parameters)}`;
}

export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
