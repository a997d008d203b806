"""Linear classifiers on fixed vectors: standardised, classes balanced, one strength to choose."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.scores import Ints

Floats = NDArray[np.floating]


def _logistic_regression(strength: float, vectors: Floats) -> Any:
    from sklearn.linear_model import LogisticRegression

    # Balanced, because the score weighs classes alike; the tolerance is far below what moves it.
    return LogisticRegression(C=strength, class_weight="balanced", tol=1e-3, max_iter=500)


def _support_vector_machine(strength: float, vectors: Floats) -> Any:
    from sklearn.svm import LinearSVC

    # The dual has a variable per clip, the primal one per feature: as scikit-learn's "auto", but
    # also for the square that `prepared` makes of wider vectors. There the dual, which this
    # tolerance ends sooner, takes two fifths of the time; of 320 clips none was named otherwise.
    dual = vectors.shape[1] >= len(vectors)
    return LinearSVC(
        C=strength,
        class_weight="balanced",
        dual=dual,
        tol=1e-2 if dual else 1e-4,
        max_iter=20_000,
        random_state=0,
    )


@dataclass(frozen=True)
class LinearClassifier:
    """A kind of classifier of scikit-learn, and its values of C."""

    name: str
    make: Callable[[float, Floats], Any]
    """Given C and the vectors [n, width] to be fitted to."""
    strengths: tuple[float, ...]
    """scikit-learn's C, to choose from."""
    default_strength: float
    """Where nothing may be chosen."""


LOGISTIC_REGRESSION = LinearClassifier(
    "logistic regression", _logistic_regression, (1e-3, 1e-2, 1e-1, 1.0), 1.0
)
LINEAR_SVM = LinearClassifier(
    "linear SVM", _support_vector_machine, (1e-5, 1e-4, 1e-3, 1e-2, 1e-1), 1e-2
)


def prepared(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Vectors as a linear classifier wants them.

    They are standardised by the training part, and NaNs replaced by its means. Where there are more
    features than training clips, only the span of these is kept, rotated onto as many axes: a
    classifier with an L2 penalty is the same there, and many times faster.

    Args:
        train: [n, width].
        test: [m, width].

    Returns:
        [n, min(n, width)] and [m, min(n, width)].
    """
    from scipy.linalg import qr
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scale = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    train = scale.fit_transform(np.asarray(train, np.float64))
    test = scale.transform(np.asarray(test, np.float64))
    if train.shape[1] > len(train):
        axes, _ = qr(train.T, mode="economic")  # [width, n]
        train, test = train @ axes, test @ axes
    return train, test


def fit_predict(
    kind: LinearClassifier, train: Floats, labels: Ints, test: Floats, strength: float, classes: int
) -> Floats:
    """Fits on one part and scores another.

    Args:
        kind: Of classifier.
        train: [n, width], as `prepared` returns them.
        labels: [n].
        test: [m, width].
        strength: C.
        classes: How many there are; those that `labels` lacks get 0.

    Returns:
        [m, classes] that sum to 1: probabilities, or for an SVM the softmax of its margins, which
        orders classes as it does but is not calibrated.

    Raises:
        ValueError: Only one class to train on.
    """
    from scipy.special import softmax

    model = kind.make(strength, train)
    model.fit(train, labels)
    if hasattr(model, "predict_proba"):
        found = model.predict_proba(test)
    else:
        margins = model.decision_function(test)
        if margins.ndim == 1:  # two classes have one margin
            margins = np.stack([-margins / 2, margins / 2], axis=1)
        found = softmax(margins, axis=1)
    scores = np.zeros((len(test), classes))
    scores[:, model.classes_] = found
    return scores


def best_strength(
    kind: LinearClassifier,
    train: tuple[Floats, Ints],
    validation: tuple[Floats, Ints],
    classes: int,
    uar: Callable[[Ints, Ints], float],
) -> tuple[float, float]:
    """The C with the best UAR on a validation part, the smallest of equals; and that UAR.

    Args:
        kind: Of classifier.
        train: Vectors [n, width], not yet prepared, and labels [n].
        validation: The same of the clips to choose by.
        classes: How many there are.
        uar: Of labels and predictions.
    """
    vectors, held = prepared(train[0], validation[0])
    uars = [
        uar(
            validation[1],
            fit_predict(kind, vectors, train[1], held, strength, classes).argmax(axis=1),
        )
        for strength in kind.strengths
    ]
    best = int(np.argmax(uars))
    return kind.strengths[best], uars[best]
