// Shows the attention that an HTML file holds; `bigbird attention` makes such files.

import { AttentionView } from "./attention_view.js";
import { byId } from "./dom.js";

async function showStored() {
  const stored = JSON.parse(byId("data").textContent);
  const source = {
    text: stored.text,
    hasOneWindow: true,
    blocks: async () => stored.map,
    links: async ({ position, layer, head }) => {
      const isSame = (own) => own.position === position && own.layer === layer && own.head === head;
      return stored.links.find(isSame) ?? null;
    },
  };
  const view = new AttentionView(byId("attention-view"), source, showFailure);
  await view.open();
  await view.choose(stored.layer, stored.head, stored.positions);
}

function showFailure(error) {
  console.error(error);
  byId("error").textContent = "The file cannot be shown; make it again.";
  byId("error").hidden = false;
}

showStored().catch(showFailure);
