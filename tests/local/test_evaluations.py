"""Checkpoints of a training run are evaluated after it, as spec.evaluations asks."""

from __future__ import annotations

from tests.local.runs import DATASET, SFT

TEMPLATE = """
apiVersion: qednano.dev/v1alpha1
kind: EvalRun
metadata: {name: template}
spec:
  suspend: true
  model: {sftRun: {name: tiny-sft}}
  benchmark: {proofDataset: {name: tiny}}
  grader: {checker: {name: tiny-divisibility}}
"""


def test_chosen_checkpoints_are_evaluated_once(workshop):
    evaluations = "evaluations: [{name: quick, evalRun: template, everySteps: 4}]\n  restart:"
    manifest = workshop.write(DATASET, SFT.replace("restart:", evaluations), TEMPLATE)
    script = {"trainer": {"exports": [4, 5, 10]}}
    code, output = workshop.run(manifest, script=script)
    assert code == 0, output
    assert not workshop.folders("evalrun", "template")
    for step in (4, 10):
        (folder,) = workshop.folders("evalrun", f"tiny-sft-quick-{step}")
        assert (folder / "artifact" / "manifest.json").exists()
    assert not workshop.folders("evalrun", "tiny-sft-quick-5")
    code, output = workshop.run(manifest, script=script)
    assert code == 0 and "tiny-sft-quick-4  Succeeded  (as before)" in output, output
