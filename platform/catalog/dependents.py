"""Who still needs a fine-tuned model. The catalogue knows none of them: each registers in ``AppConfig.ready``."""

from collections.abc import Callable

from catalog.models import FineTunedModel, ModelAlias

Dependent = Callable[[FineTunedModel], str | None]
"""What stands in the way of a deletion, in words that say whose id it is, or None. Called inside the scope."""

_dependents: list[Dependent] = []


def register_dependent(dependent: Dependent) -> None:
    """Have ``dependent`` asked before a fine-tuned model is deleted."""
    _dependents.append(dependent)


def what_needs(model: FineTunedModel) -> str | None:
    """The first thing that would break without the model. Call inside the scope, with the model locked."""
    alias = ModelAlias.objects.filter(target_id=model.id).order_by("name").first()
    if alias is not None:
        return f"the alias '{alias.name}' stands for it; move or delete the alias first"
    return next((reason for dependent in _dependents if (reason := dependent(model))), None)
