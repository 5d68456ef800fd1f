// The page: what it knows, what a person can do, and when it is drawn anew. The views only read this object.

import { html, render } from "./lit-html.js";
import { call, keepKey, Trouble, unique } from "./api.js";
import { bored } from "./boredom.js";
import { Combobox } from "./combobox.js";
import { experimentView } from "./experiment.js";
import { listsView } from "./lists.js";
import { Loaded, retry } from "./loaded.js";
import { loopView } from "./loop.js";
import { modelView, panelView } from "./panel.js";
import { count, named, POLICIES, SAYINGS } from "./words.js";

const FOUND = 20; // search results
const TOLD = 20; // events of the history
const PREFIX = "page-"; // of users that only a page knows
const LOOK = 5000; // milliseconds between two looks at what others do

class Page {
  user = PREFIX + unique();
  own = true; // whether the user is one that this page made
  chosen = new Set(Object.keys(POLICIES));
  length = matchMedia("(min-width: 58rem)").matches ? 5 : 3;
  blocked = [];
  said = new Map(); // by recommendation and item: what was said of it

  constructor(root) {
    this.root = root;
    this.model = this.#loaded(() => call("GET", "/v1/model"));
    this.loop = this.#loaded(() => call("GET", "/v1/loop"));
    this.experiment = this.#loaded(() => call("GET", "/v1/experiment"));
    this.history = this.#loaded(() => call("GET", `${this.#path()}/history?limit=${TOLD}`));
    const list = (policy) => this.#loaded(() => this.#ask(policy));
    this.lists = Object.fromEntries(Object.keys(POLICIES).map((policy) => [policy, list(policy)]));
    this.adding = this.#loaded((item, user, event) => this.#add(item, user, event));
    this.forgetting = this.#loaded(() => this.#forget());
    this.people = this.#people();
    this.titles = this.#titles();
  }

  saidOf(item, answer) {
    return this.said.get(`${answer.recommendation_id}/${item.item_id}`);
  }

  // What a person does.

  /** Says play, skip or never of a recommended item. It has a name, so that another try writes nothing twice. */
  say(kind, item, answer) {
    const before = this.saidOf(item, answer);
    if (before && !before.trouble) return null;
    if (before?.kind === kind) return before.again();
    const name = unique();
    const said = this.#loaded(() => this.#write(kind, item, answer, name));
    Object.assign(said, { kind, item });
    this.said.set(`${answer.recommendation_id}/${item.item_id}`, said);
    return said.renew();
  }

  /** Takes another person; null: somebody new. */
  become(user) {
    this.user = user ?? PREFIX + unique();
    this.own = user === null;
    this.blocked = [];
    for (const loaded of [this.history, this.forgetting, ...Object.values(this.lists)]) loaded.clear();
    return this.refresh(this.own ? "A new history." : `User ${this.user}.`);
  }

  allow(item) {
    this.blocked = this.blocked.filter(({ item_id: id }) => id !== item.item_id);
    return this.refresh(`Allowed again: ${named(item)}.`);
  }

  choose(policy, on) {
    if (on) this.chosen.add(policy);
    else this.chosen.delete(policy);
    if (on) this.lists[policy].renew();
    this.draw();
  }

  lengthen(length) {
    this.length = length;
    this.refresh(`${count(length, "item")} in each list.`);
  }

  enter(key) {
    keepKey(key);
    return retry();
  }

  /** Asks for everything anew, and says so to those who do not see it. */
  async refresh(what) {
    const lists = [...this.chosen].map((policy) => this.lists[policy]);
    const shown = [this.model, this.loop, this.experiment, this.history, ...lists];
    const fresh = await Promise.all(shown.map((loaded) => loaded.renew()));
    if (fresh.every(Boolean) && what) this.#tell(what);
  }

  /** Looks at what goes on without this page, where something does: experiment, loop, somebody else's history. */
  look() {
    const running = this.experiment.value?.experiment || this.loop.value?.lines.length;
    if (!running || document.hidden) return;
    const others = this.own ? [] : [this.history];
    for (const loaded of [this.experiment, this.loop, ...others]) if (!loaded.trouble && !loaded.loading) loaded.renew();
  }

  // What the service is asked.

  #loaded(load) {
    return new Loaded(load, () => this.draw());
  }

  #path() {
    return `/v1/users/${encodeURIComponent(this.user)}`;
  }

  #ask(policy) {
    const blocked = this.blocked.map(({ item_id: id }) => id);
    const asked = { user_id: this.user, k: this.length, policy, blocked, explain: true, experiment: false };
    // What most people play is not drawn, whatever the service's setup says of exploring.
    if (policy === "popular") asked.explore = { temperature: 0 };
    return call("POST", "/v1/recommendations", asked);
  }

  async #write(kind, item, answer, name) {
    const { event, reward, done, worth } = SAYINGS[kind];
    const { recommendation_id, user_id } = answer;
    const shown = { recommendation_id, item_id: item.item_id };
    // An event that names its recommendation is feedback, too.
    const unit = this.history.value?.boredom ? { reward: worth } : {};
    if (event) await call("POST", "/v1/events", { event_id: name, user_id, event, ...unit, ...shown });
    else await call("POST", "/v1/feedback", { feedback_id: name, reward, ...shown });
    if (user_id !== this.user) return kind;
    if (kind === "never") this.blocked = [...this.blocked, item];
    await this.refresh(`${done}: ${named(item)}.`);
    return kind;
  }

  async #add(item, user, event) {
    await call("POST", "/v1/events", { event_id: event, user_id: user, item_id: item.item_id, event: "play" });
    if (user === this.user) this.refresh(`Played: ${named(item)}.`);
    return item;
  }

  async #forget() {
    try {
      await call("DELETE", this.#path());
    } catch (error) {
      if (error.status !== 403) throw error;
      throw new Trouble("Only a key of the role admin may erase a person; ask whoever runs this service.", 403);
    }
    for (const unwritten of [this.adding, ...this.said.values()]) unwritten.clear(); // it would bring the person back
    this.said.clear();
    await this.become(null);
  }

  #people() {
    const find = async (text) => {
      const { users } = await call("GET", `/v1/users?${new URLSearchParams({ query: text, limit: FOUND })}`);
      return users.map((user) => ({ value: user, text: user }));
    };
    return new Combobox({
      id: "people", label: "Pick a person", hint: "a user's id", find,
      none: (text) => `No user whose id begins with “${text}”.`,
      choose: ({ value }) => this.become(value),
      changed: () => this.draw(),
    });
  }

  #titles() {
    const find = async (text) => {
      const { items } = await call("GET", `/v1/items?${new URLSearchParams({ query: text, limit: FOUND })}`);
      return items.map((item) => ({ value: item, text: named(item) }));
    };
    return new Combobox({
      id: "titles", label: "Add to the history", hint: "a title", find,
      none: (text) => `No title with “${text}”.`,
      choose: ({ value }) => this.adding.renew(value, this.user, unique()),
      changed: () => this.draw(),
    });
  }

  // What is seen and heard.

  #tell(what) {
    const first = ({ value }) => (value?.items.length ? named(value.items[0]) : "nothing");
    const next = [...this.chosen].map((policy) => `${POLICIES[policy].name}: ${first(this.lists[policy])}`).join("; ");
    const told = [what, bored(this.history.value?.boredom), next && `First now, ${next}.`];
    document.getElementById("said").textContent = told.filter(Boolean).join(" ");
  }

  draw() {
    render(modelView(this.model), document.getElementById("model"));
    const below = html`<div class="below">${experimentView(this.experiment)}${loopView(this.loop)}</div>`;
    render(html`${panelView(this)}${listsView(this)}${below}`, this.root);
  }
}

const root = document.getElementById("page");
root.textContent = "";
const page = new Page(root);
page.refresh("");
setInterval(() => page.look(), LOOK);
