/** Dialogs that are made when they are needed, and gone after them. */

import { h } from "./dom.js";

/**
 * Ask before something is deleted; return whether it shall be.
 * @param {string} question @param {string} what @param {string} lost what is gone with it
 */
export async function confirmDelete(question, what, lost) {
  const keep = h("button.quiet", { value: "no", autofocus: true }, "Keep it");
  const buttons = h("p.buttons", {}, h("button.danger", { value: "yes" }, "Delete"), keep);
  return (await shown(question, h("p", {}, what), h("p.hint", {}, lost), buttons)) === "yes";
}

/**
 * Ask for a number; return it, or null if nobody wants to give one.
 * @param {string} question @param {string} label @param {{usual: number, max: number, yes: string, hint: string}} of
 */
export async function askNumber(question, label, { usual, max, yes, hint }) {
  const field = /** @type {HTMLInputElement} */ (
    h("input", { type: "number", min: "1", max: String(max), step: "1", value: String(usual), required: true, inputMode: "numeric" })
  );
  const buttons = h(
    "p.buttons", {},
    h("button", { value: "yes" }, yes), " ", h("button.quiet", { value: "no", formNoValidate: true }, "Cancel"),
  );
  const answer = await shown(question, h("label", {}, label, field), h("p.hint", {}, hint), buttons);
  return answer === "yes" ? Number(field.value) : null;
}

/** Show a dialog, and return the value of the button that closed it; "" for Escape.
 * @param {string} title @param {...Node} parts @returns {Promise<string>} */
function shown(title, ...parts) {
  const heading = h("h2", { id: "dialog-title", tabIndex: -1 }, title);
  const form = /** @type {HTMLFormElement} */ (h("form", {}, heading, ...parts));
  form.method = "dialog";
  const dialog = /** @type {HTMLDialogElement} */ (h("dialog.asked", { "aria-labelledby": "dialog-title" }, form));
  document.body.append(dialog);
  return new Promise((resolve) => {
    dialog.onclose = () => {
      dialog.remove();
      resolve(dialog.returnValue);
    };
    dialog.showModal();
    form.querySelector("input")?.select();
  });
}
