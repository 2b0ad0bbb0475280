// Ask a question over HTTP, and read the answer to its end, although the network is lost meanwhile.
//
//   DUB5_URL=https://chat.example.com DUB5_KEY=... node chat_events.mjs "Why is the sky blue?"
//
// In a page: import `ask`. The answer is written as it comes; Ctrl-C stops it. Exit code 0: it is whole.

const FIRST_WAIT_MS = 250, WAIT_MS_MAX = 10_000;
const RETRY_AFTER_S_MAX = 60; // who is told to wait longer gives up
const NOT_ASKED = ["rate_limited", "shutting_down", "storage_unavailable"]; // may be sent again with the same `id`
const TRIES_MAX = 30; // without a word of the answer
const SILENCE_MS = 60_000; // while a turn is read on, a comment comes each 10 s
const WHOLE = ["complete", "degraded"]; // "degraded" is labelled: an answer that no provider gave
const encoder = new TextEncoder(), decoder = new TextDecoder();

/** A question, and as much of its answer as has come. `seq`: its bytes in UTF-8. `over`: how it ended. */
class Turn {
  conversation = null;
  turn = null;
  isLost = false; // the service does not know the turn any more
  answer = "";
  seq = 0;
  over = null;
  tries = 0;
  retryAfterMs = 0;

  constructor(text, { write, note }) {
    // With the same `id` the question may be sent again: it is asked once.
    this.question = { id: crypto.randomUUID(), text, stream: true };
    this.write = write;
    this.note = note;
  }

  /** Take in a message. Return whether to go on with this connection. */
  take(message) {
    switch (message.type) {
      case "accepted":
        if (message.turn !== this.turn && this.seq > 0) {
          this.note("the answer begins again"); // another turn has another answer
          [this.answer, this.seq] = ["", 0];
        }
        [this.turn, this.isLost] = [message.turn, false];
        break;
      case "begin":
        return message.seq <= this.seq; // else there is a gap: read on, from where we are
      case "delta":
        return this.add(message.text, message.seq);
      case "end": // what is "cut", "cancelled" or "failed" is not a whole answer
        this.over = message.outcome;
        this.note(`${this.over}, kept: ${message.kept}`);
        break;
      case "error":
        return this.fail(message);
    }
    return this.over === null; // messages of other types are of a newer service
  }

  /** Add text that ends at byte `seq`. */
  add(text, seq) {
    const start = seq - encoder.encode(text).length;
    if (start > this.seq) return false; // a gap
    if (start < this.seq) {
      this.note(start === 0 ? "the answer begins again" : `the answer goes on from byte ${start}`);
      this.answer = decoder.decode(encoder.encode(this.answer).slice(0, start));
      this.write(this.answer, "");
    }
    this.write(text, this.answer);
    [this.answer, this.seq, this.tries] = [this.answer + text, seq, 0];
    return true;
  }

  /** Take in an error: of the turn, which is then over; or a refusal, after which one may wait. */
  fail({ error }) {
    if (error.code === "conversation_not_found" && !this.isLost) {
      this.isLost = true; // ask again
    } else if (error.code === "conversation_not_found" && this.conversation !== null) {
      this.conversation = null; // that is lost, too
    } else if (NOT_ASKED.includes(error.code) && (error.retry_after ?? Infinity) <= RETRY_AFTER_S_MAX) {
      this.retryAfterMs = error.retry_after * 1000;
    } else {
      this.over = error.code;
    }
    this.note(error.message);
    return false;
  }
}

/** Yield the messages of a stream. `heard` is called with each piece of it, comments among them. */
async function* messages(body, heard) {
  let rest = "";
  const reader = body.pipeThrough(new TextDecoderStream()).getReader(); // not every browser iterates a stream
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    heard();
    const events = (rest + read.value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}

/** Ask or read on over one connection, to the end of the turn or of the connection. */
async function read(turn, url, key, stop) {
  const connection = new AbortController();
  let watch;
  const heard = () => {
    clearTimeout(watch);
    watch = setTimeout(() => connection.abort(), SILENCE_MS);
  };
  const call = (method, path, body, more = {}) => {
    const headers = { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }), ...more };
    return fetch(url + path, { method, headers, body: body && JSON.stringify(body), signal: connection.signal });
  };
  const sendStop = () => turn.turn && call("POST", `/v1/turns/${turn.turn}/stop`).catch(() => {});
  stop.addEventListener("abort", sendStop);
  try {
    heard();
    if (turn.conversation === null) {
      const begun = await call("POST", "/v1/conversations", {});
      const body = await begun.json();
      if (!begun.ok) return turn.fail(body);
      turn.conversation = body.id;
    }
    if (stop.aborted) await sendStop();
    const reply = turn.turn && !turn.isLost
      ? await call("GET", `/v1/turns/${turn.turn}/events`, null, { "last-event-id": `${turn.seq}` })
      : await call("POST", `/v1/conversations/${turn.conversation}/turns`, turn.question);
    if (!reply.ok) return turn.fail(await reply.json());
    for await (const message of messages(reply.body, heard)) {
      if (!turn.take(message)) return;
      if (message.type === "accepted" && stop.aborted) sendStop();
    }
  } finally {
    clearTimeout(watch);
    stop.removeEventListener("abort", sendStop);
    connection.abort();
  }
}

/**
 * Ask, and read to the end. Return whether the answer is whole.
 * `write` gets each piece of the answer, and what is before it; `note` all else that is to be told. `stop` is an
 * AbortSignal.
 */
export async function ask(text, { url, key = "", write, note, stop }) {
  const turn = new Turn(text, { write, note });
  while (turn.over === null && turn.tries < TRIES_MAX) {
    turn.retryAfterMs = 0;
    await read(turn, url, key, stop).catch(() => {}); // what fails here is the network
    if (turn.over !== null) break;
    const waitMs = Math.min(FIRST_WAIT_MS * 2 ** turn.tries, WAIT_MS_MAX) * (0.5 + Math.random() / 2);
    note(turn.turn === null ? "asking again" : `reading on from byte ${turn.seq}`);
    turn.tries += 1;
    await new Promise((done) => setTimeout(done, Math.max(waitMs, turn.retryAfterMs)));
  }
  return WHOLE.includes(turn.over);
}

if (globalThis.process) {
  const { DUB5_URL: url = "http://127.0.0.1:8080", DUB5_KEY: key = "" } = process.env;
  const stopping = new AbortController();
  process.on("SIGINT", () => stopping.abort());
  const isWhole = await ask(process.argv.slice(2).join(" ") || "Why is the sky blue?", {
    url,
    key,
    write: (piece) => process.stdout.write(piece),
    note: (line) => console.error(`\n[${line}]`),
    stop: stopping.signal,
  });
  console.log();
  process.exit(isWhole ? 0 : 1);
}
