// Creates elements. Texts always become text nodes, so that no text of a user is read as HTML.

/**
 * Returns a new element.
 * @param {string} tag The name of the element.
 * @param {Object<string, any>} attributes Attributes; functions listen to events of their names.
 * @param {...(Node|string|number)} children Its content.
 */
export function element(tag, attributes = {}, ...children) {
  const result = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") result.addEventListener(name, value);
    else if (value === true) result.setAttribute(name, "");
    else if (value !== false && value !== null) result.setAttribute(name, String(value));
  }
  result.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return result;
}

/** Returns the element of the page with an id. */
export function byId(id) {
  const result = document.getElementById(id);
  if (result === null) throw new Error(`the page has no element ${id}`);
  return result;
}

/** Returns a number as people read it: 12,345, or a score of three digits. */
export function formatted(value) {
  if (value === null) return "not a number";
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e6) ? value.toExponential(2) : value.toPrecision(3);
}

/** Returns a count with its noun in the singular or the plural. */
export function counted(count, noun, plural = `${noun}s`) {
  return `${formatted(count)} ${count === 1 ? noun : plural}`;
}

/** Returns the first characters of a text on one line. */
export function shortened(text, length = 80) {
  const characters = Array.from(text.slice(0, 2 * length + 2).replace(/\s+/g, " ").trim());
  const isCut = characters.length > length || text.length > 2 * length + 2;
  return characters.slice(0, length).join("") + (isCut ? " ..." : "");
}

/** Scrolls to an element, without an animation for people who prefer none. */
export function scrollTo(target) {
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  target.scrollIntoView({ block: "center", behavior: isCalm ? "auto" : "smooth" });
}
