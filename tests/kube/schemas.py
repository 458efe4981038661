"""Objects against Kubernetes' own OpenAPI, as the package kubernetes-validate ships it; each version is read once."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from referencing import Registry, Resource

_FOLDER = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"


@functools.cache
def _definitions(version: str) -> Registry:
    found = json.loads((_FOLDER / f"v{version}.0-local-strict" / "_definitions.json").read_text())
    return (Resource.from_contents(found) @ Registry()).crawl()


@functools.cache
def _validator(version: str, kind: str, api: str) -> jsonschema.protocols.Validator:
    schema = json.loads((_FOLDER / f"v{version}.0-local-strict" / f"{kind}-{api}.json").read_text())
    return jsonschema.Draft202012Validator(schema, registry=Resource.from_contents(schema) @ _definitions(version))


def fits(item: dict[str, Any], version: str) -> None:
    """Raise ValidationError for a field that Kubernetes of this version (such as "1.37") does not know or refuses."""
    api = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", item["apiVersion"])  # rbac.authorization.k8s.io/v1 is rbac-v1
    _validator(version, item["kind"].lower(), api).validate(item)
