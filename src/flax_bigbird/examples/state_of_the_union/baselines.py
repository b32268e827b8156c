"""What the model is measured against: the largest class, and words counted."""

from collections import Counter
from collections.abc import Sequence

from flax_bigbird.cli.demo.data import Speech


def majority_class(training: Sequence[Speech]) -> int:
    """The class that most training speeches have."""
    counts = Counter(speech.label for speech in training)
    return max(sorted(counts), key=counts.__getitem__)


def tfidf_predictions(training: Sequence[Speech], held_out: Sequence[Speech]) -> list[int]:
    """TF-IDF of the whole texts with logistic regression, fitted on the training speeches."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, min_df=2),
        LogisticRegression(C=100.0, max_iter=1000),
    )
    classifier.fit([speech.text for speech in training], [speech.label for speech in training])
    return [int(label) for label in classifier.predict([speech.text for speech in held_out])]
