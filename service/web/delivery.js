/**
 * Brings questions to the service, and keeps them in the browser until it has them: each is asked once, under its id.
 *
 *     add -> ask -- accepted --> removed          what is not on the page is brought in the background, in order
 */

import { follow, pause, LEFT } from "./follow.js";
import { Outbox } from "./outbox.js";

/** @typedef {import("./ask.js").Step} Step */
/** @typedef {import("./follow.js").Followed} Followed */
/** @typedef {import("./outbox.js").Waiting} Waiting */

const PATIENT = new Set([429, 503]); // with a time after which it can be asked again

export class Delivery {
  /** @param {import("./follow.js").Carriers} carriers @param {(waiting: Waiting) => boolean} isShown whether the page
   * asks it @param {(waiting: Waiting) => void} onRefused */
  constructor(carriers, isShown, onRefused) {
    this.carriers = carriers;
    this.isShown = isShown;
    this.onRefused = onRefused;
    this.outbox = new Outbox();
    /** @type {{waiting: Waiting, leaving: AbortController} | null} */
    this.others = null; // what is brought in the background
  }

  /**
   * Ask a question, and yield its steps. One that had to wait for the network waits for a rate limit, too: then
   * `held`, for others are behind it.
   * @param {Followed} asked @param {string} chat see Waiting @param {boolean} hasWaited @param {AbortSignal} signal
   * @returns {AsyncGenerator<Step, void>}
   */
  async *ask(asked, chat, hasWaited, signal) {
    for (;;) {
      let heldS = 0;
      for await (const step of follow(this.carriers, asked, signal)) {
        if (step.kind === "lost") hasWaited ||= !asked.turn;
        if (step.kind === "accepted") {
          if (chat) this.outbox.begun(chat, step.conversation);
          if (step.turn) this.outbox.remove(asked.id);
        }
        if (step.kind === "failed" && hasWaited && !asked.turn && PATIENT.has(step.status) && step.problem.retryAfterS) {
          heldS = step.problem.retryAfterS;
          break;
        }
        if (isEnd(step)) this.outbox.remove(asked.id);
        yield step;
      }
      if (!heldS) return;
      yield { kind: "held", untilS: Date.now() / 1000 + heldS };
      await pause(heldS, signal);
    }
  }

  /** Bring what is not on the page, one after the other. Return whether there was any. */
  async bringOthers() {
    for (let hasBrought = false; !this.others; hasBrought = true) {
      const waiting = this.outbox.all().find((one) => !this.isShown(one));
      if (!waiting) return hasBrought;
      const leaving = new AbortController();
      this.others = { waiting, leaving };
      const asked = { ...waiting, turn: "" };
      for await (const step of this.ask(asked, waiting.chat, true, leaving.signal)) {
        if (step.kind === "failed" && step.status === 401) leaving.abort(LEFT); // until there is a key
        else if (step.kind === "failed") this.onRefused(waiting);
      }
      this.others = null;
      if (leaving.signal.aborted) return true;
    }
    return false;
  }

  /** Leave to the page what it shows now. */
  leaveShown() {
    if (this.others && this.isShown(this.others.waiting)) this.others.leaving.abort(LEFT);
  }

  stop() {
    this.others?.leaving.abort(LEFT);
  }
}

/** @param {Step} step */
function isEnd(step) {
  if (step.kind === "failed") return step.status !== 401; // asked with the right key
  return step.kind === "whole" || step.kind === "cut" || step.kind === "stopped";
}
