"""Two classifiers to compare the model with: the most frequent class, and TF-IDF of the words."""

from collections import Counter
from collections.abc import Sequence

from flax_bigbird.examples.state_of_the_union.speeches import Speech


def majority_class(training: Sequence[Speech]) -> int:
    """Returns the most frequent class of the training speeches, the first of several."""
    counts = Counter(speech.label for speech in training)
    return max(sorted(counts), key=counts.__getitem__)


def tfidf_predictions(training: Sequence[Speech], held_out: Sequence[Speech]) -> list[int]:
    """Returns the classes that logistic regression predicts from TF-IDF of the whole texts.

    Args:
      training: The speeches that the classifier is fitted to.
      held_out: The speeches to classify.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, min_df=2),
        LogisticRegression(C=100.0, max_iter=1000),
    )
    classifier.fit([speech.text for speech in training], [speech.label for speech in training])
    return [int(label) for label in classifier.predict([speech.text for speech in held_out])]
