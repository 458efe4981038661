"""Profiles: what the administrator says once for a kind of machine, so that runs need not."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from qednano.api.common import ApiModel, DecimalString, Images, Scheduling


class Profile(ApiModel):
    """What a run that names the profile gets where it leaves a field out."""

    description: Annotated[str, StringConstraints(max_length=1024)] = Field(
        default="", description="For people: which machines these are, and for what."
    )
    images: Images = Field(default_factory=Images, description="Images built for these machines.")
    scheduling: Scheduling = Field(
        default_factory=Scheduling, description="Node labels, taints, network, devices and queue of these machines."
    )
    gpu_hour_price: DecimalString | None = Field(
        default=None, description="Price of one GPU for an hour, in the currency of your reports."
    )

    @model_validator(mode="after")
    def _price(self) -> Profile:
        if self.gpu_hour_price is not None and self.gpu_hour_price < 0:
            raise ValueError(f"gpuHourPrice is {self.gpu_hour_price}; it can't be negative")
        return self
