// The page: reads the form, runs the task, and shows the result or what went wrong.

import { AttentionView } from "./attention_view.js";
import { Client, RequestError } from "./client.js";
import { byId, counted, element, formatted } from "./dom.js";
import { Highlights, withoutOverlaps } from "./highlights.js";
import { Offsets } from "./offsets.js";
import { bars, jumps } from "./summaries.js";
import { TASKS } from "./tasks.js";

const MAX_WORDS = 100_000;
const MAX_LINKS = 1024; // of a word, as many as the server returns
const MAX_LISTED = 200; // results in the list beside the document; all are marked in it

const client = new Client();
const highlights = new Highlights(byId("document-view"));
let models = [];
let running = null;

/** Returns the number of words of a text. */
function countWords(text) {
  return text.match(/\S+/g)?.length ?? 0;
}

function selected() {
  return models[byId("model").selectedIndex];
}

function showStatus(message) {
  byId("status").textContent = message;
}

function showError(message) {
  byId("error").textContent = message;
  byId("error").hidden = !message;
}

/** Asks what is served, and waits while the server is getting ready. */
async function loadModels() {
  showError("");
  for (;;) {
    try {
      const info = await client.get("/info");
      models = info.models.filter((model) => model.task in TASKS);
      break;
    } catch (error) {
      byId("key-field").hidden = error.status !== 401 && !client.key;
      if (error.status !== 503) throw error;
      showStatus(error.message);
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
  const options = models.map((m) => element("option", {}, `${TASKS[m.task].title} (${m.name})`));
  byId("model").replaceChildren(...options);
  byId("model").disabled = byId("run").disabled = false;
  showStatus("");
  showTask();
}

/** Shows the fields that the selected task has. */
function showTask() {
  const { query } = TASKS[selected().task];
  byId("query-field").hidden = query === undefined;
  byId("query-label").textContent = query ?? "";
  byId("show-attention").hidden = !selected().can_show_attention;
}

/** Reads a file into the text field. */
async function openFile(file) {
  showError("");
  try {
    const content = await file.arrayBuffer();
    const text = new TextDecoder("utf-8", { fatal: true }).decode(content);
    if (text.includes("\0")) throw new TypeError("it has null characters");
    byId("text").value = text;
    countText();
    showStatus(`Opened ${file.name}.`);
  } catch {
    showError(`The file must be a text in UTF-8; ${file.name} is not: save it as one.`);
  }
}

function countText() {
  byId("word-count").textContent = counted(countWords(byId("text").value), "word");
}

/** Returns what is wrong with the form, and the field to correct; null if it can be sent. */
function problem(text, task) {
  const words = countWords(text);
  if (!words) return ["Enter a text, or open a file.", "text"];
  if (words > MAX_WORDS) {
    const message = `A text may have at most ${formatted(MAX_WORDS)} words; this one has `;
    return [`${message}${formatted(words)}: shorten it.`, "text"];
  }
  const name = TASKS[task].query;
  if (name !== undefined && !byId("query").value.trim()) {
    return [`Enter a ${name.toLowerCase()}.`, "query"];
  }
  return null;
}

/** Returns the selected model and the text; null if they cannot be sent, after showing why. */
function checkedForm() {
  const [model, text] = [selected(), byId("text").value];
  showError("");
  const wrong = problem(text, model.task);
  if (wrong === null) return { model, text };
  const [message, id] = wrong;
  showError(message);
  byId(id).focus();
  return null;
}

/** Says what was done with a document that is longer than the model. */
function describeReading({ tokens, windows }, model) {
  if (!tokens) return "";
  const size = formatted(model.max_input_length);
  if (windows > 1 && !("query" in TASKS[model.task] && model.task !== "question-answering")) {
    return (
      `The document is longer than the ${size} tokens that the model reads at once. It was read ` +
      `in ${formatted(windows)} windows, ${formatted(tokens)} tokens in all.`
    );
  }
  return `${counted(tokens, "token")} read, of at most ${size} at once.`;
}

/** Shows a result. */
function showResult(result, text, model) {
  const spans = withoutOverlaps(result.spans ?? []);
  const ranked = (result.spans ?? []).filter((span) => spans.includes(span));
  const offsets = new Offsets(text);
  const textOf = ({ start, end }) => text.slice(offsets.toUnits(start), offsets.toUnits(end));
  byId("reading").textContent = describeReading(result, model);
  byId("summary").replaceChildren(
    element("p", { class: "headline" }, result.headline),
    ...(result.bars ?? []).map(({ caption, rows }) => bars(caption, rows)),
    ...(ranked.length ? jumps(highlights, ranked.slice(0, MAX_LISTED), textOf) : []),
    ...(ranked.length > MAX_LISTED
      ? [element("p", { class: "help" }, `The first ${MAX_LISTED} of ${formatted(ranked.length)}.`)]
      : []),
  );
  highlights.show(result.text ?? text, spans);
  byId("result").hidden = false;
  showStatus(`Done. ${result.headline}`);
}

function showPartialText(text) {
  byId("result").hidden = false;
  byId("summary").replaceChildren();
  highlights.show(text, []);
}

/** Runs the selected task. */
async function run() {
  const form = checkedForm();
  if (form === null) return;
  const { model, text } = form;
  running = new AbortController();
  byId("run").disabled = true;
  byId("cancel").hidden = false;
  byId("result").setAttribute("aria-busy", "true");
  showStatus("The model reads the document ...");
  try {
    const request = { model: model.name, text, query: byId("query").value.trim() };
    const { signal } = running;
    const details = { ...request, signal, onText: showPartialText };
    showResult(await TASKS[model.task].run(client, details), text, model);
    byId("result-title").focus();
  } catch (error) {
    report(error);
  } finally {
    running = null;
    byId("run").disabled = false;
    byId("cancel").hidden = true;
    byId("result").removeAttribute("aria-busy");
  }
}

/** Returns where the viewer of attention gets its data from. */
function attentionSource(text, body, model) {
  const ask = async (more) => (await client.post("/attention", { ...body, ...more })).value;
  return {
    text,
    blocks: (window) => ask({ window, layers: [...Array(model.num_layers).keys()], include_tokens: true }),
    links: async ({ window, position, layer, head }) => {
      const heads = head === null ? { average_heads: true } : { heads: [head] };
      const answer = await ask({ window, position, layers: [layer], top_k: MAX_LINKS, ...heads });
      return answer.layers[0].heads[0];
    },
  };
}

/** Shows the attention of the selected model over the text. */
async function showAttention() {
  const form = checkedForm();
  if (form === null) return;
  const { model, text } = form;
  const body = { model: model.name, inputs: text };
  if (TASKS[model.task].readsQuery) body.query = byId("query").value.trim();
  const source = attentionSource(text, body, model);
  const view = new AttentionView(byId("attention-view"), source, report);
  byId("attention").hidden = false;
  byId("attention-title").focus();
  await view.open();
}

/** Shows an error, unless the user cancelled. */
function report(error) {
  if (error.name === "AbortError") {
    showStatus("Cancelled.");
    return;
  }
  showStatus("");
  byId("key-field").hidden = error.status !== 401 && !client.key;
  if (!(error instanceof RequestError)) console.error(error);
  showError(error instanceof RequestError ? error.message : "The page failed; reload it.");
}

function listen() {
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running === null && models.length) run();
  });
  byId("cancel").addEventListener("click", () => running?.abort());
  byId("show-attention").addEventListener("click", () => showAttention().catch(report));
  byId("model").addEventListener("change", showTask);
  byId("text").addEventListener("input", countText);
  byId("use-key").addEventListener("click", () => {
    client.key = byId("key").value.trim();
    loadModels().catch(report);
  });
  byId("file").addEventListener("change", (event) => {
    if (event.target.files.length) openFile(event.target.files[0]);
    event.target.value = "";
  });
  // A file that is dropped beside the field would replace the page.
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer.files;
    if (file === undefined) return;
    event.preventDefault();
    openFile(file);
  });
}

listen();
countText();
loadModels().catch(report);
