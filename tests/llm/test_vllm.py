from __future__ import annotations

import pytest

from qednano.llm.vllm import VllmOptions, VllmProcess, command, environment

CPU = VllmOptions(model="/models/m", port=8123, max_model_length=256, max_concurrent=64)
GPU = VllmOptions(model="/models/m", port=8123, max_model_length=256, max_concurrent=64, gpus=2, tensor_parallel=2)


def value(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


@pytest.mark.parametrize("options", [CPU, GPU])
def test_the_engine_listens_on_the_loopback_interface_only(options):
    assert value(command(options), "--host") == "127.0.0.1"


@pytest.mark.parametrize("options", [CPU, GPU])
def test_what_is_sampled_is_the_plain_policy(options):
    arguments = command(options)
    assert value(arguments, "--logprobs-mode") == "processed_logprobs"
    assert value(arguments, "--generation-config") == "vllm"
    assert "--no-enable-prefix-caching" in arguments


def test_gpus_use_vllms_own_entry_and_cpus_the_faster_one():
    assert value(command(GPU), "-m") == "vllm.entrypoints.openai.api_server"
    assert value(command(GPU), "--tensor-parallel-size") == "2" and "--enforce-eager" not in command(GPU)
    assert value(command(CPU), "-m") == "qednano.llm.vllm_entry"
    assert "--scheduler-cls" in command(CPU) and "--scheduler-cls" not in command(GPU), "GPUs schedule ahead of time"


def test_the_engine_inherits_nothing_of_the_runs_own_settings():
    env = environment(CPU, {"QED_CONFIG": "/secret", "PATH": "/bin", "OMP_NUM_THREADS": "8"})
    assert env["PATH"] == "/bin" and not any(name.startswith("QED_") for name in env)
    assert env["OMP_NUM_THREADS"] == "1" and env["GOMP_SPINCOUNT"] == "0"


def test_the_reason_is_the_error_and_neither_advice_nor_its_consequence():
    process = VllmProcess(CPU)
    process._hear("(APIServer) WARNING you may see OSError: too many files. Consider more")
    process._hear("(EngineCore) ERROR RuntimeError: Unsupported head_dim=16")
    process._hear("(APIServer) ERROR vllm.EngineDeadError: EngineCore encountered an issue.")
    assert process.last_words() == "RuntimeError: Unsupported head_dim=16"
