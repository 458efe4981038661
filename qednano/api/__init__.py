"""The four kinds as typed models: the one source of CRDs, reference docs and validation."""

from qednano.api.common import API_VERSION, GROUP, VERSION
from qednano.api.evalrun import EvalRunSpec
from qednano.api.kinds import KINDS, EvalRun, ProofDataset, RLRun, Run, SFTRun
from qednano.api.proofdataset import ProofDatasetSpec
from qednano.api.rlrun import RLRunSpec
from qednano.api.sftrun import SFTRunSpec
from qednano.api.status import TERMINAL, ConditionType, Phase, RunStatus

__all__ = [
    "API_VERSION",
    "GROUP",
    "KINDS",
    "TERMINAL",
    "VERSION",
    "ConditionType",
    "EvalRun",
    "EvalRunSpec",
    "Phase",
    "ProofDataset",
    "ProofDatasetSpec",
    "RLRun",
    "RLRunSpec",
    "Run",
    "RunStatus",
    "SFTRun",
    "SFTRunSpec",
]
