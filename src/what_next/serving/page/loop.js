// What the loop did, and why: the steps of its round, and a time line, where there is one.

import { html, nothing } from "./lit-html.js";
import { count } from "./words.js";

const SHORT = 5; // lines that stand open
const STEPS = ["export", "train", "judge", "shadow", "canary", "promote", "watch"];

function moment(microseconds) {
  return new Date(microseconds / 1000).toISOString().slice(0, 16).replace("T", " ");
}

function lines(some) {
  return some.map((one) => html`<li><p class="fine"><b>${one.step}</b>${one.round ? ` · round ${one.round}` : ""} ·
    <time datetime=${new Date(one.time / 1000).toISOString()}>${moment(one.time)}</time></p> ${one.told}</li>`);
}

/** The steps of a round, and which one is under way. */
function round({ number, step, outcome }) {
  return html`<p class="soft">Round ${number} ${step ? "is under way:" : `is over: ${outcome}.`}</p>
    <ol class="steps" aria-label="Steps of a round">${STEPS.map((one) => html`<li
      aria-current=${one === step ? "step" : nothing}>${one}</li>`)}</ol>`;
}

/** The latest of what `what-next loop` has done; nothing where no loop works on the store. */
export function loopView(loop) {
  const told = loop.value?.lines ?? [];
  if (!told.length) return nothing;
  const rest = told.slice(SHORT);
  const [latest] = loop.value.rounds ?? [];
  return html`<section aria-labelledby="loop">
    <h2 id="loop" tabindex="-1">The loop <small>UTC</small></h2>
    ${latest ? round(latest) : nothing}
    <ol class="timeline" aria-label="Newest first">${lines(told.slice(0, SHORT))}</ol>
    ${rest.length
      ? html`<details><summary>${count(rest.length, "line")} before</summary><ol class="timeline">${lines(rest)}</ol></details>`
      : nothing}
  </section>`;
}
