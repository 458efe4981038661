"""Who takes which role of a scaffold: the evaluated model, and the helpers that the spec names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path

from qednano.api import EvalRunSpec
from qednano.api.language import ChatSampling
from qednano.api.scaffold import ScaffoldModel
from qednano.artifacts import digest_of
from qednano.errors import ConfigError
from qednano.evals.run import Contender
from qednano.evals.tree import JUDGE, SOLVER, SUMMARISER, VERIFIER, Asked
from qednano.llm.chat import ChatModel, ChatParams
from qednano.llm.served import Conversations, ServedModel

Cast = Callable[[Contender, Conversations], Mapping[str, Asked]]


def cast_of(spec: EvalRunSpec, models: Mapping[str, ChatModel]) -> Cast:
    """Roles for each contender. `models`: helpers and evaluated endpoints by their field (see language_models)."""
    _check_prices(spec)
    fields = {name: field for field, name, _ in spec.contenders}
    helpers = {VERIFIER: spec.scaffold.verifier, SUMMARISER: spec.scaffold.summariser, JUDGE: spec.scaffold.judge}

    def cast(contender: Contender, served: Conversations) -> dict[str, Asked]:
        if contender.uri:
            model: ChatModel = ServedModel(served, contender.name, spec.server.max_model_length)
            identity = identity_of(contender.uri)
        else:
            model = models[fields[contender.name]]
            identity = model.name
        own = Asked(model, identity, _params(spec.sampling))
        roles = {SOLVER: own}
        for role, helper in helpers.items():
            roles[role] = _helper(role, helper, own, models)
        return roles

    return cast


def _helper(role: str, helper: ScaffoldModel | None, own: Asked, models: Mapping[str, ChatModel]) -> Asked:
    if helper is None:
        return own
    params = own.params if helper.sampling is None else _params(helper.sampling)
    if helper.model is None:
        return Asked(own.model, own.identity, params)
    model = models[f"scaffold/{role}/model"]
    return Asked(model, model.name, params)


def _params(sampling: ChatSampling) -> ChatParams:
    return ChatParams.of(sampling)


def identity_of(uri: str) -> str:
    """What identifies a model's weights: the digest of its artifact where it has one, else where it lies.

    So calls of a run that was moved are found again, and those of other weights at the same place are not.
    """
    return digest_of(Path(uri.removeprefix("file://"))) or uri


def _check_prices(spec: EvalRunSpec) -> None:
    """A budget of money needs the price of everything that is paid for."""
    budget = spec.scaffold.budget
    if not (budget.money > Decimal(0) or budget.total_money > Decimal(0)):
        return
    asked = {field: model.endpoint for field, _, model in spec.contenders}
    for role in (VERIFIER, SUMMARISER, JUDGE):
        helper: ScaffoldModel | None = getattr(spec.scaffold, role)
        if helper is not None and helper.model is not None:
            asked[f"scaffold.{role}.model"] = helper.model.endpoint
    for field, endpoint in asked.items():
        if endpoint is not None and endpoint.price is None:
            raise ConfigError(
                f"spec.scaffold.budget limits money, but spec.{field.replace('/', '.')}.endpoint has no price; "
                "say what it costs, or limit tokens"
            )
