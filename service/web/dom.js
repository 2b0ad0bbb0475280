/** The few things the page needs to build and change elements. Text is only ever set as text. */

/** @template {HTMLElement} [T=HTMLElement] @param {string} id @returns {T} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no element #${id}`);
  return /** @type {T} */ (found);
}

/**
 * An element: h("p.note", {hidden: true}, "text", child). Properties, not attributes, but for aria-* and data-*.
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

/** One of the symbols at the top of index.html; says nothing to a screen reader. @param {string} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Sets text where it differs, so that an unchanged page costs nothing. @param {Node} node @param {string} text */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Builds a part anew only when what it shows has changed.
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
