"""A model server: rollouts of an RLRun (follows its weights), the model of an EvalRun (loads what it is asked to), or
a language model that the run asks, such as a teacher or a grader (stays as it is)."""

from __future__ import annotations

import asyncio
import sys

from qednano.api.rlrun import WeightTransfer
from qednano.errors import Stopped
from qednano.job import JobContext, Outcome, job
from qednano.llm.hub_model import model_folder
from qednano.llm.serving import ModelServer, Serving
from qednano.llm.vllm import VllmOptions, free_port
from qednano.plan import evaluated_models, served_input, served_roles


def server_of(ctx: JobContext) -> ModelServer:
    """The server that the run's spec asks for."""
    asked = served_roles(ctx.spec).get(ctx.role)
    if asked is not None:
        server, source, follow, loadable = asked.model.server, served_input(ctx.role), False, False
    elif ctx.config.kind == "RLRun":
        server, source, follow, loadable = ctx.spec.rollout, "model", True, False
    else:
        server, source, follow, loadable = ctx.spec.server, next(iter(evaluated_models(ctx.spec))), False, True
    model = str(model_folder(ctx.config.inputs[source].uri, ctx.run_dir))
    options = VllmOptions(
        model=model,
        port=free_port(),
        max_model_length=server.max_model_length,
        max_concurrent=server.max_concurrent,
        threads=server.threads,
        gpus=server.resources.gpus,
        tensor_parallel=server.tensor_parallel,
        pipeline_parallel=server.pipeline_parallel,
        data_parallel=server.data_parallel,
        seed=ctx.spec.seed + ctx.index,
        receive_weights=follow and ctx.spec.weight_transfer is WeightTransfer.NCCL,
    )
    return ModelServer(
        Serving(f"{ctx.role}-{ctx.index}", ctx.role, f"http://{ctx.host}:{ctx.port}", model),
        options,
        ctx.run_dir,
        follow=follow,
        loadable=loadable,
        reporter=ctx.reporter,
    )


@job
def main(ctx: JobContext) -> Outcome:
    asyncio.run(server_of(ctx).run("0.0.0.0" if ctx.host != "127.0.0.1" else ctx.host, ctx.port, ctx.stopping.is_set))
    raise Stopped(f"{ctx.role}-{ctx.index} was asked to stop; servers keep no state")


if __name__ == "__main__":
    sys.exit(main())
