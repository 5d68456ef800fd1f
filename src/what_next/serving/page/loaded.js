// One thing that is asked for: what is known of it, whether more is on its way, and what went wrong.

import { html, nothing } from "./lit-html.js";
import { Trouble } from "./api.js";

const failed = new Set();

/** Why a key is needed; null where none is. */
export function locked() {
  return [...failed].find(({ trouble }) => trouble.status === 401)?.trouble.message ?? null;
}

/** Asks for everything once more that failed: what one answer lacked, its neighbours mostly lack too. */
export function retry() {
  return Promise.all([...failed].map((loaded) => loaded.again()));
}

export class Loaded {
  #latest = 0;
  #asked = [];
  value = null;
  loading = false;
  trouble = null;

  /** `load` asks for the value; `changed` is called whenever there is something new to draw. */
  constructor(load, changed) {
    this.load = load;
    this.changed = changed;
  }

  /** Asks anew. An answer that comes after a later question was put is dropped. Tells whether this one counted. */
  async renew(...asked) {
    const mine = ++this.#latest;
    this.#asked = asked;
    this.loading = true;
    this.changed();
    let value = this.value;
    let trouble = null;
    try {
      value = await this.load(...asked);
    } catch (error) {
      if (!(error instanceof Trouble)) throw error;
      trouble = error;
    }
    if (mine !== this.#latest) return false;
    Object.assign(this, { value, trouble, loading: false });
    if (trouble) failed.add(this);
    else failed.delete(this);
    this.changed();
    return trouble === null;
  }

  /** Puts the same question once more. */
  again() {
    return this.renew(...this.#asked);
  }

  /** Knows nothing, and takes no answer that is still on its way. */
  clear() {
    this.#latest += 1;
    Object.assign(this, { value: null, trouble: null, loading: false });
    failed.delete(this);
  }
}

/** Does the work; focus that an element held goes to its section's heading where the work made that element vanish. */
export async function keepFocus(element, work) {
  const home = element.closest("section")?.querySelector("[tabindex='-1']");
  await work();
  if (document.activeElement !== document.body) return;
  (home?.isConnected ? home : document.getElementById("lists-title")).focus();
}

/** What went wrong, beside what failed, with another try. That a key is needed is told once, where it is asked for. */
export function trouble(loaded) {
  if (!loaded.trouble || loaded.trouble.status === 401) return nothing;
  const again = (event) => keepFocus(event.currentTarget, retry);
  return html`<div class="trouble" role="alert"><p>${loaded.trouble.message}</p>
    <button ?disabled=${loaded.loading} @click=${again}>Try again</button></div>`;
}
