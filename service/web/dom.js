/** DOM helpers. Text is only ever set as text, never as markup. */

/** @template {HTMLElement} [T=HTMLElement] @param {string} id @returns {T} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no element #${id}`);
  return /** @type {T} */ (found);
}

/**
 * Create an element: h("p.note", {hidden: true}, "text", child). Names with "-" are attributes, else properties.
 * @param {string} what tag and classes
 * @param {Record<string, any>} [props]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {HTMLElement}
 */
export function h(what, props = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [name, value] of Object.entries(props)) {
    if (name.includes("-")) made.setAttribute(name, value);
    else Object.assign(made, { [name]: value });
  }
  made.append(...children.filter((c) => c !== null && c !== undefined && c !== false).map((c) => c || ""));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

/** Create an icon from a symbol of index.html, hidden from screen readers. @param {string} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Set text if it differs: an unchanged page costs nothing. @param {Node} node @param {string} text */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Return a function that rebuilds a part of the page only when its data has changed.
 * @template T
 * @param {(value: T) => void} build
 * @returns {(value: T) => void}
 */
export function onChange(build) {
  let shown = "";
  return (value) => {
    const next = JSON.stringify(value) ?? "";
    if (next === shown) return;
    shown = next;
    build(value);
  };
}
