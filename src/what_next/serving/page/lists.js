// Three policies side by side, each with its list.

import { html, nothing } from "./lit-html.js";
import { keepFocus, trouble } from "./loaded.js";
import { attributes, cited, count, fallback, figure, named, POLICIES, SAYINGS, score, signed } from "./words.js";

const LENGTHS = [3, 5, 10, 20];

/** What speaks for an item: the nearest of the history, its attributes, the critic. */
function reason({ reason }, answer) {
  const { nearest, critic = null } = reason ?? {};
  const chips = attributes(reason?.attributes ?? {}, answer.items.map((item) => item.reason?.attributes ?? {}));
  const policy = answer.fallback ? "popular" : answer.policy;
  const why = { popular: "Among the most played.", random: "Drawn by chance." }[policy] ?? "";
  const likeness = nearest
    && html`Nearest to ${cited(nearest)} in the history, cosine ${figure(nearest.similarity)}.`;
  return html`
    ${why || likeness ? html`<p class="reason">${why} ${likeness}</p>` : nothing}
    ${critic === null ? nothing : html`<p class="reason">The critic expects a reward of ${signed(critic)}.</p>`}
    ${chips.length
      ? html`<ul class="chips" aria-label="Attributes">
          ${chips.map((chip) => html`<li>${chip}</li>`)}</ul>`
      : nothing}`;
}

function button(kind, item, answer, said, page) {
  const { button: text } = SAYINGS[kind];
  const say = (event) => keepFocus(event.currentTarget, () => page.say(kind, item, answer));
  return html`<button class=${kind} aria-disabled=${Boolean(said && !said.trouble)}
    aria-label="${text}: ${named(item)}" @click=${say}>${text}</button>`;
}

/** One item, with what may be said of it. The buttons stay where they are, so that focus stays on them. */
function row(item, answer, page) {
  const said = page.saidOf(item, answer);
  const done = said && !said.trouble;
  return html`<li class=${done ? "item done" : "item"}>
    <h4>${cited(item)}${done ? html` <span class="word">${SAYINGS[said.kind].done}</span>` : nothing}</h4>
    ${reason(item, answer)}
    <div class="buttons">${Object.keys(SAYINGS).map((kind) => button(kind, item, answer, said, page))}</div>
    ${said ? trouble(said) : nothing}
    <p class="fine">propensity ${figure(item.propensity)}
      ${item.score === null ? nothing : html`· score ${score(item.score)}`}</p>
  </li>`;
}

function content(answer, page) {
  return html`
    ${answer.fallback ? html`<p class="fallback">${fallback(answer.fallback)}</p>` : nothing}
    ${answer.items.length
      ? html`<ol class="items">${answer.items.map((item) => row(item, answer, page))}</ol>`
      : html`<p class="soft">Nothing is left to recommend.</p>`}`;
}

function list(policy, page) {
  const loaded = page.lists[policy];
  const { name, about } = POLICIES[policy];
  return html`<section class="list ${policy}" aria-labelledby="list-${policy}" aria-busy=${loaded.loading}>
    <h3 id="list-${policy}" tabindex="-1">${name} <small>${about}</small></h3>
    ${trouble(loaded)}
    ${loaded.value ? content(loaded.value, page) : loaded.loading ? html`<p class="soft">Loading…</p>` : nothing}
  </section>`;
}

/** Which model made the trained list, and of how much. */
function origin(page) {
  const { model, known_events: known } = page.lists.trained.value ?? {};
  if (!model || !page.chosen.has("trained")) return nothing;
  return html`<p class="fine">${model.role === "canary" ? "Canary model" : "Model"} ${model.version},
    which knows ${count(known, "event")}.</p>`;
}

function choices(page) {
  return html`<div class="choices">
    <fieldset><legend>Lists</legend>${Object.entries(POLICIES).map(([policy, { name }]) => html`
      <label><input type="checkbox" .checked=${page.chosen.has(policy)}
        @change=${(event) => page.choose(policy, event.target.checked)}>${name}</label>`)}
    </fieldset>
    <label>Items <select @change=${(event) => page.lengthen(Number(event.target.value))}>
      ${LENGTHS.map((length) => html`<option value=${length} ?selected=${length === page.length}>${length}</option>`)}
    </select></label>
  </div>`;
}

/** What was said of items that stand in no list any more, and is not written yet: nothing that was said gets lost. */
function unwritten(page) {
  const standing = Object.values(page.lists).flatMap(({ value }) =>
    value ? value.items.map((item) => page.saidOf(item, value)) : []);
  const failed = [...page.said.values()].filter((said) => said.trouble && !standing.includes(said));
  return failed.map((said) => html`<div class="unwritten">
    <p>Not written yet: ${SAYINGS[said.kind].done}, ${cited(said.item)}.</p>${trouble(said)}</div>`);
}

/** The lists of the chosen policies, and the choice. */
export function listsView(page) {
  const policies = Object.keys(POLICIES).filter((policy) => page.chosen.has(policy));
  return html`<section id="lists" tabindex="-1" aria-labelledby="lists-title">
    <div class="title">
      <h2 id="lists-title" tabindex="-1">Next for ${page.own ? "you" : html`user <bdi>${page.user}</bdi>`}</h2>
      ${choices(page)}
      ${origin(page)}
    </div>
    ${unwritten(page)}
    ${policies.length
      ? html`<div class="lists">${policies.map((policy) => list(policy, page))}</div>`
      : html`<p class="soft">Choose a list.</p>`}
  </section>`;
}
