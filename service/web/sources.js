/**
 * The sources of an answer about a document: [n] in its text becomes a button that shows the passage. What the
 * document does not say, and what was left out of the answer for that, is labelled.
 */

import { h, icon } from "./dom.js";

/** @typedef {import("./turn.js").TurnView} TurnView */
/** @typedef {import("./conversations.js").Grounding} Grounding */

const MARKS = /\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]/g;
let made = 0; // answers with sources, for the ids of their passages

/** Show the sources of an answer that is whole. @param {TurnView} view */
export function showSources(view) {
  const { turn } = view;
  if (!turn.grounding || view.more.dataset.of === turn.answer) return;
  view.more.dataset.of = turn.answer;
  made += 1;
  const passages = new Map(turn.grounding.sources.map((source) => [source.number, passage(source, `source-${made}-${source.number}`)]));
  const list = h("div.sources", { hidden: passages.size === 0 }, h("p.small", {}, "From the document:"), ...passages.values());
  view.more.replaceChildren(...notesOf(turn.grounding), list);
  view.text.parentElement?.replaceChildren(...piecesOf(turn.answer, passages));
}

/** Return the words about what an answer does not say. @param {Grounding} grounding */
function notesOf({ grounded, withheld }) {
  const notes = [];
  if (!grounded) notes.push("The document does not say this.");
  if (withheld > 0) notes.push(`${withheld} statement${withheld === 1 ? "" : "s"} left out: not found in the document.`);
  return notes.map((text) => h("p.flag", {}, icon("degraded"), text));
}

/** @param {{number: number, text: string, page: number | null}} source @param {string} id */
function passage({ number, text, page }, id) {
  const where = page ? `page ${page}` : "passage";
  return h("details.source", { id }, h("summary", {}, `[${number}] ${where}`), h("blockquote", {}, text));
}

/** Return an answer in pieces, with a button for each mark that has a passage.
 * @param {string} answer @param {Map<number, HTMLElement>} passages */
function piecesOf(answer, passages) {
  /** @type {(string | Node)[]} */
  const pieces = [];
  let end = 0;
  for (const mark of answer.matchAll(MARKS)) {
    const numbers = mark[1].split(",").map(Number);
    if (!numbers.some((number) => passages.has(number))) continue;
    pieces.push(answer.slice(end, mark.index));
    pieces.push(...numbers.map((number) => markOf(number, passages.get(number))));
    end = mark.index + mark[0].length;
  }
  pieces.push(answer.slice(end));
  return pieces;
}

/** @param {number} number @param {HTMLElement | undefined} passage */
function markOf(number, passage) {
  if (!passage) return `[${number}]`;
  const show = () => {
    const details = /** @type {HTMLDetailsElement} */ (passage);
    details.open = true;
    details.scrollIntoView({ block: "nearest" });
    details.querySelector("summary")?.focus();
  };
  const label = `Source ${number}: show the passage`;
  return h("button.mark", { type: "button", "aria-label": label, title: label, onclick: show }, `[${number}]`);
}
