// Reads a continuation, which arrives as server-sent events.

import { RequestError } from "./client.js";

/**
 * Returns the whole continuation.
 * @param {Response} response The answer of `/generate`.
 * @param {function(string): void} onText Called with the text so far.
 */
export async function streamed(response, onText) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let [pending, text] = ["", ""];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text;
    const events = (pending + value).split("\n\n");
    pending = events.pop();
    for (const event of events) {
      const content = JSON.parse(event.replace(/^data:/, ""));
      if (content.error) throw new RequestError(content.error);
      text = content.generated_text ?? text + (content.token.special ? "" : content.token.text);
      onText(text);
    }
  }
}
