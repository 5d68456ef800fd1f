// Two policies that share the users: what each earned, and whether one is better.

import { html, nothing, svg } from "./lit-html.js";
import { count } from "./words.js";

const WIDTH = 320;
const HEIGHT = 56;
const EDGE = 14;
const LINE = 18; // how far down the interval stands

function number(value) {
  return value === null ? "–" : value.toPrecision(3).replace("-", "−");
}

function arm({ name, users, answers, reward }, most) {
  return html`<li><b><bdi>${name}</bdi></b>
    <svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">
      <rect width="100" height="4"></rect><rect class="value" width=${Math.max(100 * (reward ?? 0) / most, 0)} height="4"></rect></svg>
    <span>${reward === null ? html`has earned nothing yet` : html`earned ${number(reward)} an answer`}</span>
    <small>${count(answers, "answer")} to ${count(users, "user")}</small></li>`;
}

/** The interval of the difference beside 0. */
function interval({ mean, low, high }, told) {
  const reach = Math.max(Math.abs(low), Math.abs(high)) * 1.1 || 1;
  const across = (value) => (EDGE + ((value + reach) / (2 * reach)) * (WIDTH - 2 * EDGE)).toFixed(1);
  const mark = (value, text) => svg`<text x=${across(value)} y=${HEIGHT - 6} text-anchor="middle">${text}</text>`;
  return html`<svg class="interval" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label=${told}>
    ${svg`<line class="zero" x1=${across(0)} x2=${across(0)} y1="2" y2=${HEIGHT - 20}></line>
    <line class="between" x1=${across(low)} x2=${across(high)} y1=${LINE} y2=${LINE}></line>
    <circle cx=${across(mean)} cy=${LINE} r="5"></circle>`}
    ${mark(0, "no difference")}
  </svg>`;
}

/** The experiment, or the canary; nothing where there is none. */
export function experimentView(loaded) {
  const found = loaded.value?.experiment;
  if (!found) return nothing;
  const { arms, difference, level, verdict, since } = found;
  const { mean, low, high } = difference;
  const known = low !== null && high !== null;
  const bounds = known
    ? `Difference ${number(mean)}, ${level} % between ${number(low)} and ${number(high)} at any number of looks.`
    : "Too few users to say more.";
  const most = Math.max(...arms.map(({ reward }) => reward ?? 0), 0) || 1;
  return html`<section aria-labelledby="experiment">
    <h2 id="experiment" tabindex="-1">The experiment</h2>
    <p class="soft">Two policies share the users, each user always with the same one.
      ${since
        ? html`Counted since <time datetime=${since}>${since.slice(0, 16).replace("T", " ")} UTC</time>,
          the first answer at this share of the users.`
        : nothing}</p>
    <ul class="arms">${arms.map((one) => arm(one, most))}</ul>
    ${known ? interval(difference, bounds) : nothing}
    <p class="soft">${bounds}
      ${verdict ? html`<b><bdi>${verdict}</bdi> is better.</b>` : "Nothing is decided."}</p>
  </section>`;
}
