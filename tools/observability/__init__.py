"""Dashboards, alerts and the metrics' reference page, generated from the metrics that the code defines.

`python -m tools.observability` writes them; `--check` says which are stale. `python -m tools.observability.render`
draws every panel from a Prometheus with the panel's own expressions.
"""
