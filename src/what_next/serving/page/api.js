// Asks the service. Whatever goes wrong becomes a Trouble, told in words.

const KEY = "what-next.key";
const PATIENCE = 15_000; // milliseconds

/** What went wrong, in words; `status` is the answer's, 0 where there was none. */
export class Trouble extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Keeps the API key until the tab is closed: never in the address, where logs would show it. */
export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** A name that nobody else takes. Unlike crypto.randomUUID it is there without HTTPS too. */
export function unique() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The service's own words as a sentence. */
function sentence(error) {
  const said = error?.message;
  return said && `${said[0].toUpperCase()}${said.slice(1)}${/[.!?]$/.test(said) ? "" : "."}`;
}

function told(answer, content) {
  const wait = answer.headers.get("Retry-After");
  const lead = {
    401: sessionStorage.getItem(KEY) ? "The service does not know this key." : "The service asks for an API key.",
    403: "This key may not do that.",
    429: `That was too much at once${wait ? `; wait ${wait} s` : ""}.`,
    503: "The service cannot do that just now.",
    504: "The service took too long.",
  }[answer.status];
  if (answer.status === 401) return lead; // its own words are for programs
  return [lead ?? `The service refused (${answer.status}).`, sentence(content?.error)].filter(Boolean).join(" ");
}

/** The answer's content; throws a Trouble where the service refuses, is silent, or is away. */
export async function call(method, path, body) {
  const headers = { Accept: "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    const signal = AbortSignal.timeout(PATIENCE);
    // From where the page is: a proxy may put a prefix before all paths.
    answer = await fetch(`.${path}`, { method, headers, body: body && JSON.stringify(body), cache: "no-store", signal });
  } catch {
    throw new Trouble("The service does not answer.", 0);
  }
  const content = await answer.json().catch(() => null);
  if (!answer.ok) throw new Trouble(told(answer, content), answer.status);
  if (content === null) throw new Trouble("The service answered nothing that this page can read.", answer.status);
  return content;
}
