/**
 * An incremental decoder for server-sent events (WHATWG HTML, section 9.2).
 *
 *     feed("data: a\r") -> []   feed("\n\r\nda") -> [{event: "message", data: "a"}]   feed("ta: b\n\n") -> ...
 *
 * Pure: no network, no clock. An event cut off by the end of the stream is dropped, as the standard requires.
 * TextDecoder removes a byte order mark.
 */

/** @typedef {{event: string, data: string}} ServerEvent */

export class SseReader {
  constructor() {
    this.line = ""; // the incomplete last line
    this.afterCr = false; // the last piece ended in CR: a LF that follows belongs to that line break
    this.event = "";
    /** @type {string[]} */
    this.data = [];
  }

  /**
   * Return the events that `piece` completes.
   * @param {string} piece
   * @returns {ServerEvent[]}
   */
  feed(piece) {
    if (piece === "") return [];
    if (this.afterCr && piece.startsWith("\n")) piece = piece.slice(1);
    this.afterCr = piece.endsWith("\r");
    const lines = (this.line + piece).split(/\r\n|\r|\n/);
    this.line = lines.pop() ?? "";
    return lines.flatMap((line) => this.#take(line));
  }

  /** @param {string} line @returns {ServerEvent[]} */
  #take(line) {
    if (line === "") return this.#dispatch();
    if (line.startsWith(":")) return []; // a comment: keep-alive
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.data.push(value);
    if (field === "event") this.event = value;
    return [];
  }

  /** @returns {ServerEvent[]} */
  #dispatch() {
    const { event, data } = this;
    this.event = "";
    this.data = [];
    return data.length === 0 ? [] : [{ event: event || "message", data: data.join("\n") }];
  }
}
