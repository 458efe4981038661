"""What a run needs: a pure function from its spec to roles, references and restart decisions.

The operator turns roles into pods, the local runner into processes; both take them from here.
"""

from qednano.plan.language_models import ModelUse, language_models, secrets, served_roles
from qednano.plan.lifecycle import REASONS, Action, Verdict, backoff_seconds, classify, told_exit_code
from qednano.plan.placement import misplaced, placement_of
from qednano.plan.profiles import load_profiles, merged, unknown_profile
from qednano.plan.references import (
    Reference,
    evaluated_models,
    export_path,
    literal_inputs,
    locate,
    references,
    served_input,
)
from qednano.plan.roles import Lifecycle, Role, roles

__all__ = [
    "REASONS",
    "Action",
    "Lifecycle",
    "ModelUse",
    "Reference",
    "Role",
    "Verdict",
    "backoff_seconds",
    "classify",
    "evaluated_models",
    "export_path",
    "language_models",
    "literal_inputs",
    "load_profiles",
    "locate",
    "merged",
    "misplaced",
    "placement_of",
    "references",
    "roles",
    "secrets",
    "served_input",
    "served_roles",
    "told_exit_code",
    "unknown_profile",
]
