"""Fixtures that the RL trainer's tests share with those of training."""

from tests.training.conftest import last_words, model_folder, split, start_job  # noqa: F401
