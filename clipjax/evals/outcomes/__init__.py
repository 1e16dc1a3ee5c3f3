"""What a model did on each sample of a task, and the scores that follow from it."""

from collections.abc import Callable, Mapping

from clipjax.evals.metric import Metric
from clipjax.evals.outcomes import (
    association,
    attributes,
    classification,
    multilabel,
    retrieval,
    selection,
)
from clipjax.evals.outcomes.outcome import Outcome as Outcome

METRICS: Mapping[str, Callable[[Outcome], dict[str, Metric]]] = {
    "classification": classification.metrics,
    "multilabel": multilabel.metrics,
    "retrieval": retrieval.metrics,
    "selection": selection.metrics,
    "association": association.metrics,
    "attributes": attributes.metrics,
}


def metrics_of(outcome: Outcome) -> dict[str, Metric]:
    """Returns the scores by name, the ones that others report first.

    Raises:
        ValueError: if nothing is known of the kind of `outcome`.
    """
    if outcome.kind not in METRICS:
        raise ValueError(f"outcome of kind {outcome.kind!r}; kinds are {', '.join(METRICS)}")
    return METRICS[outcome.kind](outcome)
