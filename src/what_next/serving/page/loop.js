// What the loop did, and why: a time line, where there is one.

import { html, nothing } from "./lit-html.js";
import { count } from "./words.js";

const SHORT = 5; // lines that stand open

function moment(microseconds) {
  return new Date(microseconds / 1000).toISOString().slice(0, 16).replace("T", " ");
}

function lines(some) {
  return some.map((one) => html`<li><small><time datetime=${new Date(one.time / 1000).toISOString()}>${moment(one.time)}
    </time> ${one.round ? `round ${one.round}, ` : ""}${one.step}</small> ${one.told}</li>`);
}

/** The latest of what `what-next loop` has done; nothing where no loop works on the store. */
export function loopView(loop) {
  const told = loop.value?.lines ?? [];
  if (!told.length) return nothing;
  const rest = told.slice(SHORT);
  return html`<section aria-labelledby="loop">
    <h2 id="loop" tabindex="-1">The loop <small>UTC</small></h2>
    <ol class="events" aria-label="Newest first">${lines(told.slice(0, SHORT))}</ol>
    ${rest.length
      ? html`<details><summary>${count(rest.length, "line")} before</summary><ol class="events">${lines(rest)}</ol></details>`
      : nothing}
  </section>`;
}
