// What bores, in a demonstration: the plays of each topic that are remembered, up to the one that is too many.

import { html, nothing } from "./lit-html.js";
import { count } from "./words.js";

/** What somebody is bored of, in words; empty where nothing bores. */
export function bored(boredom) {
  const resting = (boredom?.topics ?? []).filter(({ rest }) => rest);
  return resting.map(({ topic, rest }) => `Bored of ${topic}, for ${count(rest, "more song")}.`).join(" ");
}

function topic({ topic: name, plays, rest }, threshold) {
  const dots = Array.from({ length: threshold }, (_, place) => html`<i class=${place < plays ? "on" : nothing}></i>`);
  const told = rest ? `bored, ${rest} more` : `${plays} of ${count(threshold, "play")}`;
  return html`<li class=${rest ? "bored" : nothing}><b>${name}</b>
    <span class="dots" aria-hidden="true">${dots}</span><small>${told}</small></li>`;
}

/** The topics that were played of late, the fullest first; nothing where users are people. */
export function boredomView(boredom) {
  if (!boredom) return nothing;
  const { threshold } = boredom;
  const heard = boredom.topics.filter(({ plays, rest }) => plays || rest);
  heard.sort((one, other) => other.rest - one.rest || other.plays - one.plays);
  return html`<section aria-labelledby="boredom">
    <h2 id="boredom">Boredom</h2>
    ${heard.length
      ? html`<ul class="topics">${heard.map((one) => topic(one, threshold))}</ul>`
      : html`<p class="soft">Nothing was played of late.</p>`}
    <p class="soft">Simulated listeners tire: after ${count(threshold, "play")} of one kind in a short time they want
      nothing for a while. Would you?</p>
  </section>`;
}
