/** The list of questions and answers on the page, and how far it is scrolled. */

import { byId } from "./dom.js";
import { TurnView } from "./turn.js";

/** @typedef {import("./turn.js").Turn} Turn */

const NEAR_END_PX = 48;

export class TurnList {
  /** @param {import("./turn.js").TurnActions} on */
  constructor(on) {
    this.on = on;
    this.scroll = byId("scroll");
    /** @type {Map<Turn, TurnView>} in their order */
    this.views = new Map();
  }

  get turns() {
    return [...this.views.keys()];
  }

  get last() {
    return this.turns.at(-1);
  }

  /** @param {Turn} turn */
  has(turn) {
    return this.views.has(turn);
  }

  /** @param {Turn} turn */
  add(turn) {
    const view = new TurnView(turn, this.on);
    this.views.set(turn, view);
    byId("turns").append(view.node);
    byId("empty").hidden = true;
  }

  /** @param {Turn} turn */
  remove(turn) {
    this.views.get(turn)?.node.remove();
    this.views.delete(turn);
    byId("empty").hidden = this.views.size > 0;
  }

  /** Replace all turns. @param {Turn[]} turns */
  reset(turns) {
    this.views.clear();
    byId("turns").replaceChildren();
    byId("empty").hidden = turns.length > 0;
    for (const turn of turns) this.add(turn);
  }

  /** Show earlier turns above those that are there, which stay where they are. @param {Turn[]} turns */
  addBefore(turns) {
    const fromEnd = this.scroll.scrollHeight - this.scroll.scrollTop;
    const later = [...this.views];
    this.reset(turns);
    for (const [turn, view] of later) {
      this.views.set(turn, view);
      byId("turns").append(view.node);
    }
    byId("empty").hidden = this.views.size > 0;
    this.scroll.scrollTop = this.scroll.scrollHeight - fromEnd;
  }

  /** Append to an answer. @param {Turn} turn @param {string} text */
  addText(turn, text) {
    this.views.get(turn)?.add(text);
  }

  /** @param {Turn} turn */
  update(turn) {
    this.views.get(turn)?.update(false);
  }

  /** Update all. @param {boolean} isRunning whether a question is; else the last one may be asked again */
  updateAll(isRunning) {
    const { last } = this;
    for (const [turn, view] of this.views) view.update(turn === last && !isRunning);
  }

  /** Change the page and keep it at its end, unless the reader has scrolled up. @param {() => void} change */
  keepingScroll(change) {
    const { scrollHeight, scrollTop, clientHeight } = this.scroll;
    const follows = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    change();
    if (follows) this.toEnd();
  }

  toEnd() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }
}
