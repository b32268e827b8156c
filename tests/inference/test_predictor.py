"""Predictions of every task: the answers are what the model's outputs say, row by row."""

import jax
import numpy as np
import pytest
from tiny_checkpoints import LABELS, sentence, write_jsonl

from flax_bigbird.data.batching import stack
from flax_bigbird.inference import DataError, OptionError, load_predictor
from flax_bigbird.inference.options import saved_option_names


def test_classes_of_several_rows_equal_those_of_each_alone(classify):
    texts = [sentence(n, length) for n, length in enumerate((1, 30, 4, 200))]
    together = classify(texts)
    for text, answer in zip(texts, together, strict=True):
        alone = classify(text)
        assert alone["label"] == answer["label"] == max(answer["scores"], key=answer["scores"].get)
        assert answer["score"] == answer["scores"][answer["label"]]
        assert sum(answer["scores"].values()) == pytest.approx(1)
        assert list(answer["scores"]) == list(LABELS.values())
        assert alone["scores"] == pytest.approx(answer["scores"], abs=1e-5)
    assert len({round(answer["score"], 4) for answer in together}) > 1


def test_multi_label_classification_and_regression(make_checkpoint):
    head = "FlaxBigBirdForSequenceClassification"
    multi_label = make_checkpoint(head, problem_type="multi_label_classification")
    answer = load_predictor(multi_label)(sentence(0, 9))
    assert answer["labels"] == [name for name, s in answer["scores"].items() if s >= 0.5]
    regression = make_checkpoint(head, problem_type="regression", id2label={0: "value"})
    assert isinstance(load_predictor(regression)("the cow")["value"], float)


def test_every_word_gets_a_tag_from_its_own_window(predictor):
    """The tags of a document of several windows are those of each window read alone."""
    tag = predictor("FlaxBigBirdForTokenClassification")
    words = sentence(3, 150).split()
    answer = tag({"tokens": words})
    assert len(answer["tags"]) == len(answer["scores"]) == 150
    assert set(answer["tags"]) <= set(LABELS.values())
    windows = tag.task.encode({"tokens": words})
    assert len(windows) > 2
    start = 0
    for window in windows:
        count = len(window.info)
        alone = tag({"tokens": words[start : start + count]})
        assert alone["tags"] == answer["tags"][start : start + count]
        start += count
    assert start == 150


def test_the_tag_of_a_word_is_the_likeliest_at_its_first_token(predictor):
    tag = predictor("FlaxBigBirdForTokenClassification")
    words = sentence(3, 150).split()[:9]
    answer = tag({"tokens": words})
    (window,) = tag.task.encode({"tokens": words})
    logits = jax.jit(tag.model)(np.array([window.input_ids])).logits[0]
    label_ids = [int(logits[position].argmax()) for _, position in window.info]
    assert answer["tags"] == [LABELS[label_id] for label_id in label_ids]
    assert len(set(label_ids)) > 1


def test_a_text_is_split_into_words_at_white_space(predictor):
    tag = predictor("FlaxBigBirdForTokenClassification")
    assert tag("the cow  grazes\n")["words"] == ["the", "cow", "grazes"]
    assert tag({"tokens": []})["tags"] == []


def test_an_answer_is_the_likeliest_span_of_all_windows(predictor):
    find = predictor("FlaxBigBirdForQuestionAnswering", stride=8)
    context = sentence(5, 200)
    answer = find({"question": "the cow", "context": context})
    if answer["no_answer_score"] <= answer["score"]:
        assert context[answer["start"] : answer["end"]] == answer["answer"] != ""
    else:
        assert answer["answer"] == ""
        assert answer["start"] is None
    windows = find.task.encode({"question": "the cow", "context": context})
    assert len(windows) > 3
    batch = stack([find.task.collate_window(window, 64) for window in windows])
    out = jax.jit(find.model)(batch["input_ids"], batch["attention_mask"])
    start_logits, end_logits = np.array(out.start_logits), np.array(out.end_logits)
    scores = []
    for window, start, end in zip(windows, start_logits, end_logits, strict=True):
        first = window.info.context_start
        last = first + len(window.info.offsets)
        best = max(
            start[a] + end[b] for a in range(first, last) for b in range(a, min(a + 30, last))
        )
        scores.append(float(best))
    assert answer["score"] == pytest.approx(max(scores), abs=1e-4)


@pytest.mark.parametrize("head", ["FlaxBigBirdForMaskedLM", "FlaxBigBirdForPreTraining"])
def test_masks_are_filled_with_tokens(predictor, head):
    fill = predictor(head)
    answer = fill("the [MASK] grazes in a [MASK]")
    assert len(answer["masks"]) == 2
    for mask in answer["masks"]:
        scores = [entry["score"] for entry in mask]
        assert scores == sorted(scores, reverse=True)
        assert 0 < sum(scores) <= 1
        assert all(isinstance(entry["token"], str) for entry in mask)
    for text in ("no mask", ""):
        with pytest.raises(DataError, match=r"row 1: a text must hold \[MASK\]"):
            fill(text)


def test_texts_are_continued_as_generate_does_it(predictor):
    """Row by row; only the end of a long text is read."""
    complete = predictor("FlaxBigBirdForCausalLM", max_new_tokens=6)
    texts = [sentence(1, 5), sentence(3, 200), ""]
    answers = complete(texts)
    tokenizer = complete.tokenizer
    for text, answer in zip(texts, answers, strict=True):
        tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        prompt = np.array([[tokenizer.cls_token_id, *tokens[-(64 - 6 - 1) :]]])
        generated = complete.model.generate(
            prompt, max_new_tokens=6, do_sample=False, eos_token_id=tokenizer.sep_token_id
        )
        new = generated.sequences[0, prompt.shape[1] :].tolist()
        assert answer["text"] == tokenizer.decode(new, skip_special_tokens=True)
    assert len({answer["text"] for answer in answers}) > 1


def test_sampled_continuations_depend_on_the_seed_only(make_checkpoint):
    folder = make_checkpoint("FlaxBigBirdForCausalLM", is_decoder=True)
    texts = [sentence(1, 5), sentence(2, 12), ""]
    sample, sample_with_other_seed = (
        load_predictor(folder, max_new_tokens=6, temperature=2.0, seed=seed) for seed in (0, 1)
    )
    assert sample(texts) == sample(texts) != sample_with_other_seed(texts)


def test_models_that_cannot_continue_texts_are_refused(make_checkpoint):
    folder = make_checkpoint("FlaxBigBirdForCausalLM", is_decoder=True)
    message = "max_new_tokens must leave room for a text in max_length=64"
    with pytest.raises(OptionError, match=message):
        load_predictor(folder, max_new_tokens=63)
    with pytest.raises(OptionError, match="must be a decoder to continue texts"):
        load_predictor(make_checkpoint("FlaxBigBirdForMaskedLM"), task="causal-lm")


def test_a_choice_has_the_highest_score(predictor):
    choose = predictor("FlaxBigBirdForMultipleChoice", text_pair_column="question")
    row = {"text": sentence(1, 30), "question": "where", "choices": ["meadow", "harbour", "noon"]}
    answer = choose(row)
    assert answer["choice"] == row["choices"][answer["label"]]
    assert sum(answer["scores"]) == pytest.approx(1)
    reversed_answer = choose(row | {"choices": row["choices"][::-1]})
    assert reversed_answer["scores"][::-1] == pytest.approx(answer["scores"], abs=1e-5)
    with pytest.raises(DataError, match="row 1: column 'choices' must hold lists of two texts"):
        choose(row | {"choices": ["one"]})


def test_checkpoints_that_cannot_be_loaded(make_checkpoint, classifier, tmp_path):
    with pytest.raises(OptionError, match=r"must have all parameters of .*QuestionAnswering"):
        load_predictor(classifier, task="question-answering")
    with pytest.raises(OptionError, match="task must be given for"):
        load_predictor(make_checkpoint("FlaxBigBirdModel"))
    with pytest.raises(OptionError, match="model must be a BigBird checkpoint"):
        load_predictor(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "classification"}, "got 'classification': did you mean"),
        ({"max_lenght": 8}, "got 'max_lenght': did you mean max_length"),
        ({"max_length": 65}, "at most the model's max_position_embeddings, 64; got 65"),
        (
            {"stride": 8},
            "stride is an option of question-answering; got it for sequence-classification: leave",
        ),
        ({"label_column": "y"}, "label_column is an option of .*train.*; got it for .*predict"),
        ({"smallest_bucket": 8}, "smallest_bucket is now min_bucket_length: rename it"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16; got 'float16'"),
    ],
)
def test_options_that_cannot_be_used(classifier, options, message):
    with pytest.raises(OptionError, match=message):
        load_predictor(classifier, **options)


def test_options_default_to_those_of_the_training_run(make_checkpoint, tmp_path):
    """Options of former names too; but not the dtype, the batches and the seed of the run."""
    folder = make_checkpoint("FlaxBigBirdForSequenceClassification", layer_norm_eps=1e-11)
    saved = "task: sequence-classification\ntext_column: body\nsmallest_bucket: 16\n"
    saved += "max_length: 32\ntokens_per_batch: 32\ndtype: bfloat16\nseed: 3\n"
    with open(f"{folder}/options.yaml", "w") as stream:
        stream.write(saved)
    options = load_predictor(folder).options
    assert (options.text_column, options.min_bucket_length) == ("body", 16)
    assert (options.max_length, options.tokens_per_batch) == (32, 16_384)
    assert options.dtype == "float32"
    changed = load_predictor(folder, max_length=64, text_column="text").options
    assert (changed.text_column, changed.max_length) == ("text", 64)
    assert "tokens_per_batch" not in saved_option_names("sequence-classification", "evaluate")
    rows = [{"body": "the cow"}]
    write_jsonl(tmp_path / "in.jsonl", rows)
    assert load_predictor(folder)(rows)[0]["label"] in LABELS.values()


def test_a_batch_holds_a_text_of_max_length(make_checkpoint):
    head = "FlaxBigBirdForSequenceClassification"
    long = make_checkpoint(head, max_position_embeddings=20_000)
    assert load_predictor(long, max_length=17_000).options.tokens_per_batch == 17_000
    assert load_predictor(long).options.tokens_per_batch == 20_000
    with pytest.raises(OptionError, match="tokens_per_batch must hold one document"):
        load_predictor(long, max_length=17_000, tokens_per_batch=4096)
