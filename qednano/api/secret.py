"""References to Secrets: a run names keys, its pods get the values, and no manifest or status ever has one."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, StringConstraints

from qednano.api.base import ApiModel


class SecretKey(ApiModel):
    """One key of a Secret of the run's namespace."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)] = Field(
        description="Name of the Secret."
    )
    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)] = Field(
        description="Which of its keys."
    )

    @property
    def variable(self) -> str:
        """Name of the environment variable with its value on a laptop: Secret openai, key api-key: OPENAI_API_KEY."""
        return re.sub(r"[^A-Z0-9]", "_", f"{self.name}_{self.key}".upper())

    @property
    def pod_variable(self) -> str:
        """The same in a pod; the prefix keeps a Secret from replacing a variable that the system knows."""
        return f"QED_SECRET_{self.variable}"
