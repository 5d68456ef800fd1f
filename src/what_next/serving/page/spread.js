// The spread of the session as a small line, and the same in words.

import { html, nothing, svg } from "./lit-html.js";
import { count, figure } from "./words.js";

const WIDTH = 300;
const HEIGHT = 80;
const EDGE = { left: 34, right: 8, top: 10, bottom: 10 };
const EVENTS = 20; // that one answer tells of

/** The least and the largest value, apart by some tenths at least: noise is no mountain. */
function range(values) {
  const least = Math.min(...values);
  const largest = Math.max(...values);
  const room = Math.max(0, 0.3 - (largest - least)) / 2;
  return [Math.max(0, least - room), largest + room];
}

/** Where each known value stands: [{x, y, value}], oldest first. */
export function places(spread) {
  const values = spread.filter((value) => value !== null);
  const [least, largest] = range(values);
  const across = (WIDTH - EDGE.left - EDGE.right) / (EVENTS - 1);
  const up = (HEIGHT - EDGE.top - EDGE.bottom) / (largest - least);
  return spread
    .map((value, place) => ({ value, x: EDGE.left + place * across, y: HEIGHT - EDGE.bottom - (value - least) * up }))
    .filter(({ value }) => value !== null);
}

function drawing(spread, told) {
  const points = places(spread);
  const marks = range(points.map(({ value }) => value));
  const heights = [HEIGHT - EDGE.bottom, EDGE.top];
  const line = points.map(({ x, y }) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
  return html`<svg class="spread" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label=${told}>
    ${marks.map((mark, place) => svg`<g class="axis">
      <line x1=${EDGE.left} x2=${WIDTH - EDGE.right} y1=${heights[place]} y2=${heights[place]}></line>
      <text x=${EDGE.left - 6} y=${heights[place] + 4} text-anchor="end">${figure(mark)}</text></g>`)}
    <polyline points=${line}></polyline>
    ${points.map(({ x, y }, place) => {
      const last = place === points.length - 1;
      return svg`<circle class=${last ? "last" : nothing} cx=${x.toFixed(1)} cy=${y.toFixed(1)}
        r=${last ? 4.5 : 2}></circle>`;
    })}
  </svg>`;
}

/** How the last event moved the spread. */
function change(values) {
  if (values.length < 2) return "";
  const [before, now] = values.slice(-2).map(figure);
  if (before === now) return ", as before";
  return `, ${Number(now) > Number(before) ? "widened" : "narrowed"} from ${before}`;
}

/** What the line is of. */
export const MEANING = `How unlike each other the last ${EVENTS} items are, in standard deviations of the catalogue.`;

/** The line and its caption; `history` as the service tells it. */
export function spreadView(history) {
  const values = (history?.spread ?? []).filter((value) => value !== null);
  if (!values.length) {
    const known = history?.total ?? 0;
    const why = known < 3 ? "It can be told after three events." : "These items have no attributes to tell it by.";
    return html`<p class="soft">${history ? why : nothing}</p>`;
  }
  const told = `Spread after each of the last ${count(values.length, "event")}: ${values.map(figure).join(", ")}`;
  return html`<figure>
    ${drawing(history.spread, told)}
    <figcaption><b>${figure(values.at(-1))}</b> now${change(values)}</figcaption></figure>`;
}
