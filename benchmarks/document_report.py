"""The page of `documents.py`: a table for each data set, and what would be fine-tuned instead."""

from typing import Any

from report import mean_and_deviation

TITLES = {
    "hyperpartisan": "Hyperpartisan news",
    "movie_reviews": "Movie reviews",
    "litbank": "LitBank entities",
    "covid_qa": "COVID-QA",
}
MEASURES = {
    "hyperpartisan": ("f1", "accuracy"),
    "movie_reviews": ("accuracy", "f1"),
    "litbank": ("f1", "precision", "recall"),
    "covid_qa": ("f1", "exact"),
}
METHODS = {
    "tfidf": "TF-IDF of words and pairs of words, logistic regression",
    "words": "logistic regression on a word, two neighbors on each side, and their forms",
    "bm25": "the sentence with the highest BM25 score",
    "model, whole": "**model, up to 4,096 tokens at once**",
    "model, windows": "model, windows of 512 tokens",
    "model, cut": "model, the first 512 tokens",
}
PUBLISHED = {
    "hyperpartisan": [
        ("BigBird-ITC base, fine-tuned (Zaheer et al., 2020)", {"f1": "92.2 ± 1.7"}),
        ("RoBERTa base, first 512 tokens, fine-tuned (Zaheer et al., 2020)", {"f1": "87.8 ± 0.8"}),
    ],
    "movie_reviews": [("SVM, unigrams, ten folds (Pang and Lee, 2004)", {"accuracy": "87.2"})],
    "litbank": [("BERT and BiLSTM, nested entities (Bamman et al., 2019)", {"f1": "68.3"})],
    "covid_qa": [
        (
            "RoBERTa base, fine-tuned on SQuAD 2.0 and then on COVID-QA, five folds "
            "(model card of `deepset/roberta-base-squad2-covid`)",
            {"f1": "49.9", "exact": "17.9"},
        )
    ],
}
PROTOCOLS = {
    "hyperpartisan": """\
All 645 articles of SemEval-2019 task 4 by article ([Zenodo](https://zenodo.org/records/1489920),
CC BY 4.0) in five stratified folds; a text that occurs twice is in one fold. F1 is that of the
class hyperpartisan. The model is frozen: the classifier is a logistic regression on the mean of its
last hidden states, the linear probe from which `bigbird train` starts. Fine-tuning in every fold
takes more time than this benchmark may. The published figures are of fine-tuned models, and of
other splits.""",
    "movie_reviews": """\
All 2,000 reviews of the polarity data set 2.0 (`nltk_data`), five folds of two published folds
each. The classes have the same size. A linear probe of the frozen model, as above.""",
    "litbank": """\
Outermost entities of the 100 books of [LitBank](https://github.com/dbamman/litbank) (CC BY 4.0),
about 2,100 words each; 83 books to train on and 17 to test on, five seeds. An entity is right if
its words and its type are. The model is fine-tuned on windows of 512 tokens in {tagging_steps}
steps of 4,096 tokens, and then reads the test books in three ways; a word that it does not read is
in no entity. The published figure counts nested entities too, and is of another split.""",
    "covid_qa": """\
[COVID-QA](https://github.com/deepset-ai/COVID-QA) of April 23, 2020 (Apache-2.0): five folds of
papers, at most {training_questions} random questions of each training paper and {questions} of each
test paper. The model is fine-tuned at 4,096 tokens in {qa_steps} steps of one window, which is far
from enough to learn the task from nothing, and then reads the test papers in three ways. Its answer
is the best span of all windows. F1 and exact match are those of SQuAD.""",
}
COMMANDS = {
    "hyperpartisan": """\
bigbird train sequence-classification --model google/bigbird-roberta-base \\
    --train-files hyperpartisan/articles.parquet --max-length 4096 --tokens-per-batch 131072 \\
    --num-train-epochs 10 --learning-rate 3e-5 --output-dir hyperpartisan-base""",
    "movie_reviews": """\
bigbird train sequence-classification --model google/bigbird-roberta-base \\
    --train-files movie_reviews/train.parquet \\
    --validation-files movie_reviews/validation.parquet --max-length 4096 \\
    --tokens-per-batch 131072 --num-train-epochs 5 --learning-rate 3e-5 \\
    --output-dir movie-reviews-base
bigbird evaluate movie-reviews-base movie_reviews/test.parquet""",
    "litbank": """\
bigbird train token-classification --model google/bigbird-roberta-base \\
    --train-files litbank_entities/train.parquet \\
    --validation-files litbank_entities/validation.parquet --max-length 4096 \\
    --tokens-per-batch 32768 --num-train-epochs 20 --learning-rate 5e-5 --output-dir litbank-base
bigbird evaluate litbank-base litbank_entities/test.parquet""",
    "covid_qa": """\
bigbird train question-answering --model google/bigbird-roberta-base \\
    --train-files covid_qa/train.parquet --validation-files covid_qa/validation.parquet \\
    --max-length 4096 --max-answer-length 60 --tokens-per-batch 131072 --num-train-epochs 3 \\
    --learning-rate 3e-5 --output-dir covid-qa-base
bigbird evaluate covid-qa-base covid_qa/test.parquet""",
}
FACTS = """\
`{model}` is a small model that was pretrained on CPUs. It cannot reach the figures of fine-tuned
models of base size, which are in the tables with their sources. Under each table is the command
that fine-tunes the published BigBird instead; it needs a GPU, and was not run here."""


def table(results: dict[str, Any]) -> str:
    """Returns the page of results."""
    settings = results["settings"]
    seconds = sum(cell["processor_seconds"] for cell in results["cells"].values())
    only = f", {settings['documents']} documents of each" if settings["documents"] else ""
    lines = [
        "# Scores on real documents",
        "",
        f"`python benchmarks/documents.py --data DATA --model {settings['model']}` on "
        f"{results['machine']}, {seconds / 60:.0f} minutes of processor time{only}. The data are "
        "public, and not part of the project; `benchmarks/document_sets.py` says which files DATA "
        "holds. Means and standard deviations over five folds or seeds, in percent.",
        "",
        FACTS.format(**settings),
    ]
    missing = [
        title
        for name, title in TITLES.items()
        if not any(key.startswith(f"{name}/model") for key in results["cells"])
    ]
    if missing:
        lines += ["", f"Not run with this model: {', '.join(missing)}. The command runs the rest."]
    for name, title in TITLES.items():
        if any(key.startswith(f"{name}/") for key in results["cells"]):
            lines += ["", f"## {title}", "", PROTOCOLS[name].format(**settings), ""]
            lines += _table(name, results["cells"])
            lines += ["", "```sh", COMMANDS[name], "```"]
    return "\n".join(lines) + "\n"


def _table(name: str, cells: dict[str, dict[str, float]]) -> list[str]:
    measures = MEASURES[name]
    lines = [f"| | {' | '.join(m.replace('f1', 'F1') for m in measures)} |"]
    lines.append("|---|" + "---|" * len(measures))
    for method, title in METHODS.items():
        prefix = f"{name}/{method}/"
        rows = [cell for key, cell in cells.items() if key.startswith(prefix)]
        if rows:
            partial = f" ({len(rows)} of 5)" if len(rows) < 5 else ""
            values = [mean_and_deviation([row[measure] for row in rows], 1) for measure in measures]
            lines.append(f"| {title}{partial} | {' | '.join(values)} |")
    for title, figures in PUBLISHED[name]:
        values = [figures.get(measure, "") for measure in measures]
        lines.append(f"| published: {title} | {' | '.join(values)} |")
    return lines
