"""CustomResourceDefinitions from the models: structural schemas, defaults, bounds and CEL rules.

A structural schema has no references, no ``anyOf`` with null and no titles, so pydantic's JSON schema is
inlined and simplified. An object without required fields gets a default with every nested default written
out: what is stored is what the models would say, and the API server can check the object's rules on it.
"""

from __future__ import annotations

from typing import Any

from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from qednano.api.common import GROUP, VERSION, rule
from qednano.api.kinds import Run
from qednano.api.status import TERMINAL, RunStatus

_KEPT = (
    "type",
    "description",
    "format",
    "pattern",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "default",
    "x-kubernetes-validations",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)


class _FactoryDefaults(GenerateJsonSchema):
    """Writes down what default factories make too: pydantic leaves those out."""

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        factory = schema.get("default_factory")
        if factory is None or schema.get("default_factory_takes_data"):
            return super().get_default_value(schema)
        return factory()  # type: ignore[call-arg]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def structural(schema: dict[str, Any]) -> dict[str, Any]:
    """Turn a pydantic JSON schema (with ``$defs``) into a structural one."""
    return _node(schema, schema.get("$defs", {}))


def _resolve(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """Follow ``$ref`` and drop the null branch of optional fields; what stands beside them wins."""
    while True:
        if "$ref" in node:
            target = defs[node["$ref"].rsplit("/", 1)[1]]
            node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
        elif "anyOf" in node or "allOf" in node:
            key = "anyOf" if "anyOf" in node else "allOf"
            branches = [branch for branch in node[key] if branch.get("type") != "null"]
            if len(branches) != 1:
                raise ValueError(f"a structural schema can't hold a union of {len(branches)} types: {node}")
            node = {**branches[0], **{name: value for name, value in node.items() if name != key}}
        else:
            return node


def _node(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    node = _resolve(node, defs)
    found = {key: node[key] for key in _KEPT if key in node}
    if found.get("default", 0) is None:
        del found["default"]
    elif "default" in found:
        found["default"] = _without_none(found["default"])
    if "const" in node:
        found.update({"type": "string", "enum": [node["const"]]})
    if node.get("type") == "integer":
        found["format"] = "int64"
    if node.get("type") == "array":
        found["items"] = _node(node["items"], defs)
    if node.get("type") == "object":
        _object(node, defs, found)
    return found


def _object(node: dict[str, Any], defs: dict[str, Any], found: dict[str, Any]) -> None:
    extra = node.get("additionalProperties")
    if isinstance(extra, dict):
        found["additionalProperties"] = _node(extra, defs)
        return
    required = node.get("required", [])
    found["properties"] = {}
    for name, child in node.get("properties", {}).items():
        item = _node(child, defs)
        optional = any(branch.get("type") == "null" for branch in child.get("anyOf", []))
        if name not in required and not optional and "default" not in item:
            if item.get("type") == "object":
                parts = item.get("properties", {})
                item["default"] = {key: part["default"] for key, part in parts.items() if "default" in part}
            elif item.get("type") == "array":
                item["default"] = []
        found["properties"][name] = item
    if required:
        found["required"] = sorted(required)


def _immutable(kind: type[Run]) -> list[JsonDict]:
    """Transition rules: once a run has started, only its mutable fields may change.

    A root rule may read ``oldSelf.status``. A field of which only a part may change (``rollout.replicas``)
    is compared property by property.
    """
    spec = kind.spec_type()
    nested: dict[str, set[str]] = {}
    for path in spec.mutable:
        head, _, tail = path.partition(".")
        nested.setdefault(head, set()).add(tail)
    rules = []
    for attribute, field in spec.model_fields.items():
        name = field.alias or to_camel(attribute)
        if name in nested and "" in nested[name]:
            continue
        paths = [name]
        if name in nested:
            inner: Any = field.annotation
            paths = [
                f"{name}.{child.alias or to_camel(key)}"
                for key, child in inner.model_fields.items()
                if (child.alias or to_camel(key)) not in nested[name]
            ]
        rules += [_unchanged(kind, path) for path in paths]
    return rules


def _unchanged(kind: type[Run], path: str) -> JsonDict:
    started = "!has(oldSelf.status) || !has(oldSelf.status.startTime) || oldSelf.status.startTime == ''"
    same = (
        f"(has(self.spec.{path}) == has(oldSelf.spec.{path}) && "
        f"(!has(self.spec.{path}) || self.spec.{path} == oldSelf.spec.{path}))"
    )
    mutable = ", ".join(f"spec.{name}" for name in kind.spec_type().mutable)
    reason = kind.spec_type().correctable.get(path)
    if reason is not None:
        waits = f"oldSelf.status.conditions.exists(c, c.type == 'Running' && c.reason == '{reason}')"
        return rule(
            f"{started} || {same} || (has(oldSelf.status.conditions) && {waits})",
            f"spec.{path} can't change once the run has started, but while its condition Running says {reason}",
        )
    return rule(
        f"{started} || {same}",
        f"spec.{path} can't change once the run has started (only {mutable} can); make a run with another name",
    )


def _status() -> dict[str, Any]:
    schema = structural(RunStatus.model_json_schema(by_alias=True))
    schema.pop("default", None)
    _without_defaults(schema)
    terminal = ", ".join(f"'{phase}'" for phase in TERMINAL)
    schema["x-kubernetes-validations"] = [
        rule(
            f"!has(oldSelf.phase) || !(oldSelf.phase in [{terminal}])"
            " || (has(self.phase) && self.phase == oldSelf.phase)",
            "a run that has ended stays as it ended",
        ),
        rule("!has(oldSelf.attempt) || (has(self.attempt) && self.attempt >= oldSelf.attempt)", "attempt never falls"),
    ]
    return schema


def _without_defaults(schema: dict[str, Any]) -> None:
    """Status says only what was observed, so the API server must not fill anything in."""
    schema.pop("default", None)
    schema.pop("required", None)
    for child in schema.get("properties", {}).values():
        _without_defaults(child)
    if "items" in schema:
        keys = schema.get("x-kubernetes-list-map-keys", [])
        _without_defaults(schema["items"])
        if keys:
            schema["items"]["required"] = list(keys)


def spec_schema(kind: type[Run]) -> dict[str, Any]:
    """The structural schema of a kind's spec, with every default."""
    return structural(kind.spec_type().model_json_schema(by_alias=True, schema_generator=_FactoryDefaults))


def crd(kind: type[Run]) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind, as plain data."""
    spec = spec_schema(kind)
    name_rule = rule(
        "size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be at most 40 characters of a-z, 0-9 and '-', and start with a letter",
    )
    subresources: dict[str, Any] = {"status": {}}
    if kind.scale:
        subresources["scale"] = dict(kind.scale)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.__name__,
                "listKind": f"{kind.__name__}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": list(kind.short_names),
                "categories": ["qed"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": subresources,
                    "additionalPrinterColumns": [
                        {"name": name, "type": type_, "jsonPath": path, **({"priority": 1} if priority else {})}
                        for name, type_, path, priority in kind.columns
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": (kind.__doc__ or "").strip(),
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": _status(),
                            },
                            "x-kubernetes-validations": [name_rule, *_immutable(kind)],
                        }
                    },
                }
            ],
        },
    }
