"""An example of a new task in one file: does a title belong to an article?

`register_task("title-matching", TitleMatching, "Predict whether a title belongs to an article.")`
is the one line that makes it known to training, evaluation, prediction, and the command line.
"""

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.encoded_rows import map_cached, tokenizer_fingerprint
from flax_bigbird.data.loading import require_columns, require_texts
from flax_bigbird.data.tokenization import add_special_tokens, tokenize
from flax_bigbird.nn.losses import classification_losses
from flax_bigbird.tasks.base import EncodedDataset, Loss, Task, Window, get_text
from flax_bigbird.tasks.options import DATA, TaskOptions, option


class TitleMatchingOptions(TaskOptions):
    """The options of title-matching."""

    title_column: str = option("title", help="The column of the title.", panel=DATA)
    text_column: str = option("text", help="The column of the article.", panel=DATA)


class TitleMatching(Task):
    """Predicts `{"probability"}` that the title belongs to the article; `matches` is the label."""

    name = "title-matching"
    title = "Title matcher"
    pipeline_tag = "text-classification"
    model_class = "FlaxBigBirdForSequenceClassification"
    options_class = TitleMatchingOptions

    @classmethod
    def columns(cls, options) -> dict[str, ColumnKind]:
        return {options.title_column: "text", options.text_column: "text", "matches": "label"}

    @classmethod
    def check_rows(cls, options, rows, split):
        columns = [options.title_column, options.text_column]
        require_columns(rows, [*columns, "matches"], split)
        return require_texts(rows, columns, split)

    @classmethod
    def infer_config(cls, options, rows):
        cls.check_rows(options, rows, "train")
        return {"id2label": {0: "other", 1: "matches"}, "label2id": {"other": 0, "matches": 1}}

    @classmethod
    def iterate_texts(cls, options, rows):
        for column in (options.title_column, options.text_column):
            yield from rows[column]

    @classmethod
    def evaluation_metrics(cls, options, config=None, rows=None):
        return {"accuracy": True, "loss": False}

    def encode_dataset(self, rows, split):
        messages = self.check_rows(self.options, rows, split)

        def encode_batch(batch):
            pairs = zip(
                batch[self.options.title_column], batch[self.options.text_column], strict=True
            )
            ids = [self._encode(title, text) for title, text in pairs]
            return {"input_ids": ids, "length": list(map(len, ids)), "label": batch["matches"]}

        key = (self.name, self.options.as_dict(), tokenizer_fingerprint(self.tokenizer))
        return EncodedDataset(map_cached(rows, encode_batch, *key), messages)

    def collate(self, example, length, generator):
        labels = np.array(example["label"], np.int32)
        return self.pad(example["input_ids"], length) | {"labels": labels}

    def loss(self, model, params, batch, **call):
        losses = classification_losses(self._logits(model, params, batch, **call), batch["labels"])
        return Loss(losses.mean(), len(losses))

    def eval_step(self, model, params, batch):
        logits = self._logits(model, params, batch)
        correct = logits.argmax(-1) == batch["labels"]
        return {"losses": classification_losses(logits, batch["labels"]), "correct": correct}

    def compute_metrics(self, outputs, encoded):
        loss, accuracy = outputs["losses"].mean(), outputs["correct"].mean()
        return {"loss": float(loss), "accuracy": float(accuracy)}

    def encode(self, row):
        title, text = (
            get_text(row, column)
            for column in (self.options.title_column, self.options.text_column)
        )
        return [Window(self._encode(title, text))]

    def predict_step(self, model, params, batch):
        return {"probability": jax.nn.softmax(self._logits(model, params, batch))[:, 1]}

    def decode(self, row, windows, outputs):
        return {"probability": float(outputs[0]["probability"])}

    def _encode(self, title, text):
        parts = tokenize(self.tokenizer, [title, text])
        return add_special_tokens(parts, self.tokenizer, self.options.length)[0]

    def _logits(self, model, params, batch, **call):
        out = model(batch["input_ids"], batch["attention_mask"], params=params, **call)
        return out.logits.astype(jnp.float32)
