// What the page does for each task: the request, and how its answer is shown.

import { counted } from "./dom.js";
import { passages } from "./passages.js";
import { streamed } from "./streaming.js";

const NUM_ANSWERS = 5;

/**
 * The result of a request.
 * @typedef {Object} Result
 * @property {number} tokens The number of tokens that were read.
 * @property {number} windows The number of windows that were read.
 * @property {string} headline One sentence.
 * @property {Array<Object>} [spans] What to mark in the document, the best first.
 * @property {Array<{caption: string, rows: Array<Object>}>} [bars] Tables of scores.
 * @property {string} [text] A text to show instead of the document.
 */

async function answer(client, { model, text, query, signal }) {
  const parameters = { top_k: NUM_ANSWERS };
  const body = { model, question: query, context: text, parameters };
  const { value, tokens, windows } = await client.post("/answer", body, signal);
  const spans = value.answers.map(({ start, end, score }, rank) => {
    return { start, end, score, kind: rank ? 1 : 0, label: `Answer ${rank + 1}` };
  });
  const found = counted(spans.length, "possible answer");
  const headline = value.has_answer
    ? `The best answer is: ${value.answers[0].answer}`
    : `The model prefers no answer to the ${found} that it found.`;
  return { tokens, windows, headline, spans };
}

async function tag(client, { model, text, signal }) {
  const { value, tokens, windows } = await client.post("/tag", { model, inputs: text }, signal);
  const names = [...new Set(value.map((entity) => entity.entity_group))].sort();
  const spans = value.map(({ start, end, score, entity_group: label }) => {
    return { start, end, score, label, kind: names.indexOf(label) };
  });
  return { tokens, windows, headline: `${counted(spans.length, "entity", "entities")} found.`, spans };
}

async function classify(client, { model, text, signal }) {
  const body = { model, inputs: text, truncate: false };
  const { value, tokens, windows } = await client.post("/predict", body, signal);
  const headline = `The most likely class is: ${value[0].label}`;
  return { tokens, windows, headline, bars: [{ caption: "Classes", rows: value }] };
}

async function fillMask(client, { model, text, signal }) {
  const { value, tokens, windows } = await client.post("/fill-mask", { model, inputs: text }, signal);
  const masks = Array.isArray(value[0]) ? value : [value];
  const tables = masks.map((candidates, index) => {
    const rows = candidates.map(({ token_str: label, score }) => ({ label, score }));
    return { caption: `Mask ${index + 1}`, rows };
  });
  return { tokens, windows, headline: counted(masks.length, "mask"), bars: tables };
}

/** Ranks the passages of the text, by a function from passages to their scores. */
async function rank(text, query, score) {
  const parts = passages(text);
  const { scores, tokens, windows } = await score(parts.map((part) => part.text));
  const spans = parts.map(({ start, end }, index) => {
    return { start, end, score: scores[index], label: "Score", kind: 0 };
  });
  spans.sort((a, b) => b.score - a.score);
  const headline = `${counted(spans.length, "passage")}${spans.length > 1 ? ", the best first" : ""}.`;
  return { tokens, windows, headline, spans };
}

function rerank(client, { model, text, query, signal }) {
  return rank(text, query, async (texts) => {
    const answered = await client.post("/rerank", { model, query, texts, truncate: true }, signal);
    const scores = new Array(texts.length);
    for (const { index, score } of answered.value) scores[index] = score;
    return { ...answered, scores };
  });
}

function compare(client, { model, text, query, signal }) {
  return rank(text, query, async (sentences) => {
    const inputs = { source_sentence: query, sentences };
    const answered = await client.post("/similarity", { model, inputs }, signal);
    return { ...answered, scores: answered.value };
  });
}

async function continueText(client, { model, text, signal, onText }) {
  const response = await client.open("/generate", { model, inputs: text, stream: true }, signal);
  const result = await streamed(response, onText);
  return { tokens: 0, windows: 0, headline: "The text goes on like this:", text: result };
}

/**
 * The tasks of the page, by their names in `/info`. Those with `readsQuery` put the query and the
 * text into one input.
 */
export const TASKS = {
  "question-answering": { title: "Answer a question", query: "Question", readsQuery: true, run: answer },
  "token-classification": { title: "Find entities", run: tag },
  "sequence-classification": { title: "Classify", run: classify },
  reranking: { title: "Rank passages", query: "Query", readsQuery: true, run: rerank },
  embedding: { title: "Find similar passages", query: "Query", run: compare },
  "masked-lm": { title: "Fill [MASK]", run: fillMask },
  "causal-lm": { title: "Continue the text", run: continueText },
};
