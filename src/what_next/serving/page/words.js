// Every word and number that stands for something of the service.

import { html } from "./lit-html.js";

const LONGEST = 200; // letters of a title that are told

/** What an item is called: its title, cut where it is no title any more; its id where it has none. */
export function named({ title, item_id: id }) {
  const letters = Array.from(title?.trim() || id);
  return letters.length > LONGEST ? `${letters.slice(0, LONGEST - 1).join("")}…` : letters.join("");
}

/** The same as the title of a work, in a direction of its own. */
export function cited(item) {
  return html`<cite dir="auto">${named(item)}</cite>`;
}

export const POLICIES = {
  trained: { name: "Trained", about: "the agent's choice" },
  popular: { name: "Popular", about: "what most people play" },
  random: { name: "Random", about: "any item, by chance" },
};

const FALLBACKS = {
  deadline: "the model took too long, so these are popular items.",
  error: "the model failed, so these are popular items.",
  alarm: "the model raised an alarm and rests, so these are popular items.",
  unknown_user: "nothing is known of this person yet, so these are popular items.",
};

/** Why an answer is not the policy's own. */
export function fallback(kind) {
  return `Fallback: ${FALLBACKS[kind] ?? `${kind}, so these are popular items.`}`;
}

/**
 * What a person may say of an item: the event that is written, or the reward where nothing happened; and its name.
 * `worth`: to the listeners of a demonstration, whose unit is known.
 */
export const SAYINGS = {
  play: { button: "Play", event: "play", done: "Played", worth: 1 },
  skip: { button: "Skip", event: "skip", done: "Skipped", worth: 0 },
  never: { button: "Not for me", reward: -1, done: "Not for me" },
};

const KINDS = { play: "played", skip: "skipped" };

/** An event's kind as a past tense where it has one. */
export function happened(kind) {
  return KINDS[kind] ?? kind;
}

/** Two decimals; two digits where those would be noughts alone. */
export function figure(value) {
  const rounded = value.toFixed(2);
  const told = Number(rounded) === 0 && value !== 0 ? value.toPrecision(2) : rounded;
  return told.replace("-", "−");
}

/** A score: of popular items a whole number, of how often they were played. */
export function score(value) {
  return Number.isInteger(value) ? value.toLocaleString("en") : figure(value);
}

/** A figure with its sign. */
export function signed(value) {
  return value < 0 ? figure(value) : `+${figure(value)}`;
}

const MOST = 8; // attributes that are told

/** An attribute in its own unit: whole numbers as they are, so that a year stays a year. */
function attribute(name, value) {
  return `${name} ${Number.isInteger(value) ? value : Number(value.toPrecision(3))}`;
}

/**
 * What an item is, in words. What is 0 or 1 for all of `beside` is a flag: told by its name, where it holds. Where most
 * values are 0, a 0 says that there is nothing of it, and is not told either.
 */
export function attributes(item, beside) {
  const isFlag = (name) => beside.every((other) => [0, 1].includes(other[name]));
  const values = beside.flatMap((other) => Object.values(other));
  const sparse = 2 * values.filter((value) => value === 0).length > values.length;
  const told = Object.entries(item)
    .filter(([name, value]) => (sparse ? Number(value.toFixed(2)) : value) !== 0 || !(sparse || isFlag(name)))
    .map(([name, value]) => (isFlag(name) ? name : attribute(name, value)));
  return told.length > MOST ? [...told.slice(0, MOST), `${told.length - MOST} more`] : told;
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}
