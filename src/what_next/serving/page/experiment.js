// Two policies that share the users: what each earned, and whether one is better.

import { html, nothing } from "./lit-html.js";
import { count } from "./words.js";

function number(value) {
  return value === null ? "–" : value.toPrecision(3);
}

function arm({ name, users, answers, reward }) {
  return html`<li><b><bdi>${name}</bdi></b> ${reward === null ? "has earned nothing yet" : html`earned ${number(reward)} an answer`}
    <small>${count(answers, "answer")} to ${count(users, "user")}</small></li>`;
}

/** The experiment, or the canary; nothing where there is none. */
export function experimentView(loaded) {
  const found = loaded.value?.experiment;
  if (!found) return nothing;
  const { arms, difference: { mean, low, high }, level, verdict } = found;
  const bounds = low === null
    ? "Too few users to say more."
    : html`Difference ${number(mean)}, ${level} % between ${number(low)} and ${number(high)} at any number of looks.`;
  return html`<section aria-labelledby="experiment">
    <h2 id="experiment" tabindex="-1">The experiment</h2>
    <ul class="events">${arms.map(arm)}</ul>
    <p class="soft">${bounds}
      ${verdict ? html`<b><bdi>${verdict}</bdi> is better.</b>` : "Nothing is decided."}</p>
  </section>`;
}
