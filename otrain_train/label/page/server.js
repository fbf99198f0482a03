// What is asked of the server, and how.

export class Refused extends Error {
  constructor(status, why) {
    super(why);
    this.status = status;
  }
}

const PATIENCE = 15000;

export async function ask(path, { body, signal, patience = PATIENCE } = {}) {
  const late = AbortSignal.timeout(patience);
  const options = { signal: signal ? AbortSignal.any([signal, late]) : late, cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers = { "Content-Type": "application/json" };
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
