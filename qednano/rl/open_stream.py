"""The sample stream that a spec asks for."""

from __future__ import annotations

import os

from qednano.api import RLRunSpec
from qednano.job import JobContext
from qednano.llm.connect import secret
from qednano.rl.own_redis import wait_for_address
from qednano.rl.stream import FileStream, SampleStream


def open_stream(spec: RLRunSpec, context: JobContext) -> SampleStream:
    """Files in the run's folder, or Redis, the run's own or another; ConfigError when its password is missing."""
    asked = spec.stream.redis
    if asked is None:
        return FileStream(context.run_dir)
    from qednano.rl.redis_stream import RedisStream  # an extra

    config = context.config
    name = f"{config.namespace}/{config.name}/{config.uid}"
    if not asked.url:
        own = wait_for_address(context.run_dir, context.stopping)
        return RedisStream(own.url, name, password=own.password, stop=context.stopping)
    password = secret(asked.password, "spec.stream.redis.password", os.environ) if asked.password else ""
    return RedisStream(asked.url, name, username=asked.username, password=password, stop=context.stopping)
