// Ask a question over a WebSocket, and read the answer to its end, although the network is lost meanwhile.
//
//   DUB5_URL=https://chat.example.com DUB5_KEY=... node chat_websocket.mjs "Why is the sky blue?"
//
// Node 22 or newer; Node 20 with --experimental-websocket. In a page: import `ask`. The answer is written as it
// comes; Ctrl-C stops it. Exit code 0: the answer is whole.

const FIRST_WAIT_MS = 250, WAIT_MS_MAX = 10_000;
const RETRY_AFTER_S_MAX = 60; // who is told to wait longer gives up
const TRIES_MAX = 30; // without a word of the answer
const PING_MS = 20_000; // a page cannot send the pings of WebSockets: it sends messages
const WHOLE = ["complete", "degraded"]; // "degraded" is labelled: an answer that no provider gave
const encoder = new TextEncoder(), decoder = new TextDecoder();

/** A question, and as much of its answer as has come. `seq`: its bytes in UTF-8. `over`: how it ended. */
class Turn {
  turn = null;
  isLost = false; // the service does not know the turn any more
  answer = "";
  seq = 0;
  over = null;
  tries = 0;
  retryAfterMs = 0;

  constructor(text, { write, note }) {
    // With the same `id` the question may be sent again: it is asked once.
    this.question = { type: "ask", id: crypto.randomUUID(), text };
    this.write = write;
    this.note = note;
  }

  /** Return the message that asks; once the turn is known, the one that reads on. */
  request() {
    return this.turn === null || this.isLost ? this.question : { type: "resume", turn: this.turn, after: this.seq };
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
      case "bye": // the connection ends when the turn has
        this.retryAfterMs = message.retry_after_s * 1000;
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
  fail({ error, seq }) {
    const isRefusal = seq === undefined;
    if (isRefusal && error.code === "conversation_not_found" && !this.isLost) {
      this.isLost = true; // ask again
    } else if (isRefusal && (error.retry_after ?? Infinity) <= RETRY_AFTER_S_MAX) {
      this.retryAfterMs = error.retry_after * 1000; // such as a rate limit
    } else {
      this.over = error.code;
    }
    this.note(error.message);
    return false;
  }
}

/** Return the subprotocols. A page can set no header of a WebSocket: a ticket stands for the key. */
async function subprotocols(url, key, turn) {
  if (!key) return ["dub5.v1"]; // a page of the service: its cookie says whose the turn is
  const headers = { authorization: `Bearer ${key}` };
  const signal = AbortSignal.timeout(PING_MS);
  const reply = await fetch(`${url}/v1/session/ticket`, { method: "POST", headers, signal });
  const body = await reply.json();
  if (reply.ok) return ["dub5.v1", `ticket.${body.ticket}`];
  turn.fail(body);
  return null;
}

/** Ask or read on over one connection, to the end of the turn or of the connection. */
async function read(turn, url, key, stop) {
  const protocols = await subprotocols(url, key, turn);
  if (protocols === null) return;
  const socket = new WebSocket(`${url.replace("http", "ws")}/v1/ws`, protocols);
  const send = (message) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(message));
  const sendStop = () => stop.aborted && turn.turn && send({ type: "stop", turn: turn.turn });
  let watch, heard = Date.now();
  await new Promise((done) => {
    watch = setInterval(() => (Date.now() - heard > 2 * PING_MS ? done() : send({ type: "ping" })), PING_MS);
    stop.addEventListener("abort", sendStop);
    socket.onopen = () => (send(turn.request()), sendStop());
    socket.onmessage = ({ data }) => {
      heard = Date.now();
      const message = JSON.parse(data);
      if (!turn.take(message)) done();
      else if (message.type === "accepted") sendStop();
    };
    socket.onerror = socket.onclose = done;
  });
  clearInterval(watch);
  stop.removeEventListener("abort", sendStop);
  socket.onmessage = null;
  socket.close();
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
