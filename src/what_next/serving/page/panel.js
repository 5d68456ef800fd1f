// Who is asked for: the person, the history, its spread, what was blocked, and the key where one is needed.

import { html, nothing } from "./lit-html.js";
import { boredomView } from "./boredom.js";
import { keepFocus, locked, trouble } from "./loaded.js";
import { MEANING, spreadView } from "./spread.js";
import { cited, count, happened, named } from "./words.js";

const SHORT = 6; // events that stand open

/** What answers, in one line. */
export function modelView(model) {
  const { algorithm, encoder, items, metrics, trained_on: histories } = model.value ?? {};
  const networks = [algorithm, encoder].filter(Boolean).join(" on ");
  const numbers = model.value && [`trained on ${count(histories, "history", "histories")}`, count(items, "item")];
  const facts = ["What Next?", metrics?.data, networks, ...(numbers ?? [])].filter(Boolean);
  return html`<p class="eyebrow">${facts.join(" · ")}</p>`;
}

function keyForm(page, why) {
  const keep = (event) => {
    event.preventDefault();
    const key = new FormData(event.target).get("key").trim();
    keepFocus(event.target, () => page.enter(key));
  };
  return html`<form class="key" @submit=${keep}>
    <label for="key">API key</label>
    <p class="trouble" role="alert">${why}</p>
    <div class="line"><input id="key" name="key" type="password" autocomplete="off" spellcheck="false" required
      placeholder="wn_…"><button class="play">Use it</button></div>
    <p class="soft">It is kept in this tab alone, until you close it.</p>
  </form>`;
}

function person(page) {
  const anew = (event) => keepFocus(event.currentTarget, () => page.become(null));
  const why = locked();
  const forget = (event) => keepFocus(event.currentTarget, () => page.forgetting.renew());
  return html`<section aria-labelledby="who">
    <h2 id="who" tabindex="-1">Who</h2>
    ${why ? keyForm(page, why) : nothing}
    ${page.people.view()}
    ${page.titles.view()}
    ${trouble(page.adding)}
    <p class="soft">${page.own
      ? html`You are <b>somebody new</b>; the log knows you by a name made up for this tab.`
      : html`You speak for <b>user <bdi>${page.user}</bdi></b>; it is written to their log.`}</p>
    <div class="buttons">
      ${page.own ? nothing : html`<button @click=${anew}>Begin my own history</button>`}
      ${page.own && page.history.value?.total ? html`<button @click=${forget}>Forget me</button>` : nothing}
    </div>
    ${trouble(page.forgetting)}
  </section>`;
}

function events(some) {
  return some.map((one) => html`<li>${cited(one)} <small>${happened(one.event)}</small></li>`);
}

function history(page) {
  const { value, loading } = page.history;
  const told = value?.events ?? [];
  const rest = told.slice(SHORT);
  const older = value ? value.total - told.length : 0;
  return html`<section aria-labelledby="history" aria-busy=${loading}>
    <h2 id="history" tabindex="-1">History ${value ? html`<small>${count(value.total, "event")}</small>` : nothing}</h2>
    ${trouble(page.history)}
    ${!value && loading ? html`<p class="soft">Loading…</p>` : nothing}
    ${value && !told.length ? html`<p class="soft">Nothing yet. Search a title, or play something.</p>` : nothing}
    ${told.length ? html`<ol class="events" aria-label="Newest first">${events(told.slice(0, SHORT))}</ol>` : nothing}
    ${rest.length
      ? html`<details><summary>${count(rest.length + older, "event")} before</summary>
          <ol class="events">${events(rest)}</ol>
          ${older ? html`<p class="soft">${count(older, "older one")} not shown.</p>` : nothing}</details>`
      : nothing}
  </section>`;
}

function blocked(page) {
  if (!page.blocked.length) return nothing;
  const allow = (item) => (event) => keepFocus(event.currentTarget, () => page.allow(item));
  return html`<section aria-labelledby="blocked">
    <h2 id="blocked" tabindex="-1">Not for me</h2>
    <ul class="events">${page.blocked.map((item) => html`<li>${cited(item)}
      <button aria-label="Allow again: ${named(item)}" @click=${allow(item)}>Allow again</button></li>`)}</ul>
  </section>`;
}

/** Everything beside the lists. */
export function panelView(page) {
  return html`<div class="panel">
    ${person(page)}
    <section class="live" aria-labelledby="spread">
      <h2 id="spread">Spread of the session</h2>
      ${spreadView(page.history.value)}
    </section>
    <p class="soft">${MEANING}</p>
    ${boredomView(page.history.value?.boredom)}
    ${history(page)}
    ${blocked(page)}
  </div>`;
}
