// A search that completes: the combobox of the ARIA Authoring Practices Guide, with a list of options.

import { html, nothing } from "./lit-html.js";
import { Loaded, trouble } from "./loaded.js";

const PAUSE = 120; // milliseconds between the last key and the question

export class Combobox {
  #timer = 0;
  text = "";
  open = false;
  active = -1;

  /** `find(text)` gives options {value, text}; `choose(option)` takes one; `none(text)` says that there is none. */
  constructor({ id, label, hint, find, choose, none, changed }) {
    Object.assign(this, { id, label, hint, choose, none, changed });
    this.found = new Loaded(find, () => this.#drawn());
  }

  get options() {
    return this.found.value ?? [];
  }

  #drawn() {
    this.active = Math.min(this.active, this.options.length - 1);
    this.changed();
  }

  #show() {
    this.open = true;
    this.found.renew(this.text.trim());
  }

  #hide() {
    clearTimeout(this.#timer);
    Object.assign(this, { open: false, active: -1 });
    this.changed();
  }

  #take(option) {
    this.text = "";
    this.found.clear();
    this.#hide();
    this.choose(option);
  }

  #typed = (event) => {
    this.text = event.target.value;
    Object.assign(this, { open: true, active: -1 });
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#show(), PAUSE);
    this.changed();
  };

  #move(by) {
    if (!this.open) return this.#show();
    const many = this.options.length;
    // One place stands for the text itself: from the last option, down leads back to it.
    this.active = ((this.active + 1 + by + many + 1) % (many + 1)) - 1;
    this.changed();
    document.getElementById(`${this.id}-${this.active}`)?.scrollIntoView({ block: "nearest" });
  }

  #pressed = (event) => {
    const option = this.options[this.active];
    const does = {
      ArrowDown: () => this.#move(1),
      ArrowUp: () => this.#move(-1),
      Enter: () => this.open && option && this.#take(option),
      Escape: () => {
        if (!this.open) this.text = "";
        this.#hide();
      },
    }[event.key];
    if (!does || event.isComposing) return;
    event.preventDefault();
    does();
  };

  #option(option, place) {
    const hold = (event) => event.preventDefault(); // the text keeps the focus
    return html`<li role="option" id="${this.id}-${place}" dir="auto" aria-selected=${place === this.active}
      @mousedown=${hold} @click=${() => this.#take(option)}>${option.text}</li>`;
  }

  view() {
    const { id, found, options } = this;
    const listed = this.open && options.length > 0;
    const empty = this.open && found.value && !found.loading && !options.length && !found.trouble;
    return html`<div class="combobox">
      <label for=${id}>${this.label}</label>
      <input id=${id} role="combobox" type="text" autocomplete="off" spellcheck="false" placeholder=${this.hint}
        aria-autocomplete="list" aria-expanded=${listed} aria-controls="${id}-options"
        aria-activedescendant=${listed && this.active >= 0 ? `${id}-${this.active}` : nothing}
        .value=${this.text} @input=${this.#typed} @keydown=${this.#pressed} @blur=${() => this.#hide()}
        @click=${() => this.open || this.#show()}>
      <ul id="${id}-options" role="listbox" aria-label=${this.label} ?hidden=${!listed}>
        ${listed ? options.map((option, place) => this.#option(option, place)) : nothing}
      </ul>
      <p class="none" role="status">${empty ? this.none(this.text.trim()) : nothing}</p>
      ${trouble(found)}
    </div>`;
  }
}
