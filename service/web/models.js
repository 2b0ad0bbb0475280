/** The choice of a model, and the order in which its targets are called. */

import { byId, h, put } from "./dom.js";
import { modelLabel } from "./labels.js";

/** @typedef {{name: string, targets: string[]}} Route */
/** @typedef {import("./labels.js").Model} Model */

export class ModelPicker {
  constructor() {
    this.select = /** @type {HTMLSelectElement} */ (byId("model"));
    /** @type {Route[]} */
    this.routes = [];
    this.wanted = ""; // the model chosen before the list was loaded
    this.select.addEventListener("change", () => this.#showOrder());
  }

  /** Whether there is a model to ask. */
  get isReady() {
    return !this.select.disabled;
  }

  /** The chosen model. */
  get value() {
    return this.select.value || this.wanted;
  }

  /** @param {string} model */
  choose(model) {
    if ([...this.select.options].some((option) => option.value === model)) this.select.value = model;
    else this.wanted = model; // the list comes later
    this.#showOrder();
  }

  /** @param {Model[]} models */
  show(models) {
    const chosen = this.wanted || this.select.value;
    this.select.replaceChildren(...models.map((model) => h("option", { value: model.id }, modelLabel(model))));
    this.select.disabled = models.length === 0;
    if (models.some((model) => model.id === chosen)) this.select.value = chosen;
    this.#showOrder();
  }

  /** Say why there is none. @param {string} why */
  showNone(why) {
    put(this.select.options[0], why);
  }

  /** @param {Route[]} routes */
  updateRoutes(routes) {
    this.routes = routes;
    this.#showOrder();
  }

  #showOrder() {
    const route = this.routes.find((r) => r.name === this.select.value);
    put(byId("order"), route ? `${route.name} calls ${route.targets.join(", then ")}.` : "");
  }
}
