"""What a batch would cost, before anybody commits to it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from batches.requests import LineError, LineRequest
from batches.scan import line_rules, scan
from billing.selectors import balance
from catalog.models import Price
from common.errors import HoneError
from files.lines import FileError
from files.models import StoredFile
from files.selectors import get_file
from metering.services import Quantities, cost_of
from tenants.models import ApiKey, Project
from tenants.scope import tenant_scope

MAX_QUOTED_ERRORS = 100


@dataclass
class ModelQuote:
    """The part of one model; tokens are estimates, the bound (nano-USD) is none."""

    price: Price
    quantities: Quantities = field(default_factory=Quantities)
    bound_nanos: int = 0

    @property
    def cost_nanos(self) -> int:
        """Expected cost in nano-USD."""
        return cost_of(quantities=self.quantities, price=self.price)


@dataclass
class Quote:
    """What one reading of the input has found."""

    available_nanos: int
    total: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    """Bad lines by code."""
    errors: list[dict[str, Any]] = field(default_factory=list)
    """The first of them, each named."""
    models: dict[str, ModelQuote] = field(default_factory=dict)

    @property
    def cost_nanos(self) -> int:
        """Expected cost in nano-USD."""
        return sum(model.cost_nanos for model in self.models.values())

    @property
    def bound_nanos(self) -> int:
        """What is held when the batch starts, in nano-USD: it cannot cost more."""
        return sum(model.bound_nanos for model in self.models.values())


def quote_batch(*, project: Project, key: ApiKey, input_file_id: str, endpoint: str, completion_window: str) -> Quote:
    """Read the whole input as validation would; nothing is stored, held or queued."""
    with tenant_scope(project.organization_id):
        file = get_file(project=project, wire_id=input_file_id, param="input_file_id")
        if file.purpose != StoredFile.Purpose.BATCH:
            raise HoneError("invalid_purpose", f"The file has the purpose '{file.purpose}'", param="input_file_id")
        rules = line_rules(key=key, endpoint=endpoint, completion_window=completion_window)
        quote = Quote(balance(organization_id=project.organization_id).available_nanos)
    try:
        for found in scan(storage_key=file.storage_key, rules=rules):
            quote.total += 1
            match found.outcome:
                case LineRequest() as request:
                    offer = request.offer
                    model = quote.models.setdefault(offer.served.name, ModelQuote(offer.price))
                    model.quantities += Quantities(
                        requests=1, input_tokens=request.input_tokens, output_tokens=request.output_tokens
                    )
                    model.bound_nanos += request.bound_nanos
                case LineError() as error:
                    quote.codes[error.code] += 1
                    if len(quote.errors) < MAX_QUOTED_ERRORS:
                        complaint = {"code": error.code, "message": error.message, "param": error.param}
                        quote.errors.append({**complaint, "line": found.line.number})
    except FileError as error:
        raise HoneError(error.code, error.message, param="input_file_id") from error
    return quote
