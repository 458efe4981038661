"""The sample stream that a spec asks for."""

from __future__ import annotations

import os

from qednano.api import RLRunSpec
from qednano.job import JobContext
from qednano.llm.connect import secret
from qednano.rl.stream import FileStream, SampleStream


def open_stream(spec: RLRunSpec, context: JobContext) -> SampleStream:
    """Files in the run's folder, or Redis; ConfigError when its password is missing."""
    asked = spec.stream.redis
    if asked is None:
        return FileStream(context.run_dir)
    from qednano.rl.redis_stream import RedisStream  # an extra

    config = context.config
    password = secret(asked.password, "spec.stream.redis.password", os.environ) if asked.password else ""
    return RedisStream(
        asked.url, f"{config.namespace}/{config.name}/{config.uid}", username=asked.username, password=password
    )
