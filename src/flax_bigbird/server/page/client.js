// Sends requests to the server, and turns every failure into one readable sentence.

/** A failure, whose message is for the user. */
export class RequestError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Sends requests to the server that the page comes from. */
export class Client {
  constructor() {
    this.key = "";
  }

  /** Returns the JSON of a path. */
  async get(path, signal) {
    return (await this._answer(path, { signal })).json();
  }

  /**
   * Returns the answer to a request, and how many tokens and windows were read.
   * @param {string} path The path of the endpoint.
   * @param {Object} body The request.
   * @param {AbortSignal} signal Cancels the request.
   */
  async post(path, body, signal) {
    const response = await this.open(path, body, signal);
    return {
      value: await response.json(),
      tokens: Number(response.headers.get("x-compute-tokens") ?? 0),
      windows: Number(response.headers.get("x-compute-windows") ?? 0),
    };
  }

  /** Sends a request, and returns the answer of the server while it arrives. */
  open(path, body, signal) {
    const headers = { "Content-Type": "application/json" };
    return this._answer(path, { method: "POST", headers, body: encoded(body), signal });
  }

  async _answer(path, options) {
    const headers = { ...options.headers };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers, credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new RequestError("The server does not answer. Check that it still runs.");
    }
    if (!response.ok) throw new RequestError(await failure(response), response.status);
    return response;
  }
}

/** Returns a request as JSON, in which a half of a surrogate pair becomes a replacement mark. */
function encoded(body) {
  const clean = (_, value) => {
    if (typeof value !== "string" || value.toWellFormed === undefined) return value;
    return value.toWellFormed();
  };
  return JSON.stringify(body, clean);
}

async function failure(response) {
  let message = "";
  try {
    const { error } = await response.json();
    message = typeof error === "string" ? error : error.message;
  } catch {
    message = `the answer has the status ${response.status}`;
  }
  const seconds = Number(response.headers.get("retry-after"));
  const remedy = seconds > 0 ? ` Try again in ${seconds} s.` : "";
  return `${message.charAt(0).toUpperCase()}${message.slice(1)}.${remedy}`;
}
