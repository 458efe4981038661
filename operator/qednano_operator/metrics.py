"""Prometheus metrics of the operator itself, defined once. Every counter moves only after its write succeeded."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RECONCILES = Counter("qednano_operator_reconciles", "Reconcile passes.", ["kind", "result"])
ERRORS = Counter("qednano_operator_errors", "Passes that failed or were refused, by why.", ["kind", "reason"])
RECONCILE_SECONDS = Histogram(
    "qednano_operator_reconcile_seconds",
    "Seconds for one reconcile pass, API calls included.",
    ["kind"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
QUEUE_DEPTH = Gauge("qednano_operator_queue_depth", "Keys that wait for a worker.")
QUEUE_SECONDS = Histogram("qednano_operator_queue_seconds", "Seconds a key waited for a worker.")
API_REQUESTS = Counter(
    "qednano_operator_api_requests", "Requests to the API server, but for watches.", ["verb", "kind", "code"]
)
API_SECONDS = Histogram("qednano_operator_api_request_seconds", "Seconds for one request.", ["verb"])
WATCH_EVENTS = Counter("qednano_operator_watch_events", "Watch events received.", ["kind"])
CORRECTIONS = Counter(
    "qednano_operator_resync_corrections", "Runs whose objects a full list showed otherwise than the watches had."
)
LEADER = Gauge("qednano_operator_leader", "1 when this process holds the lease.")
LOOP_LAG = Gauge("qednano_operator_loop_lag_seconds", "How late the event loop woke up last time.")
RUNS = Gauge("qednano_runs", "Runs by kind and phase.", ["kind", "phase"])
NOT_PROGRESSING = Gauge(
    "qednano_runs_not_progressing", "Running runs that stand still or wait by their own decision.", ["kind", "reason"]
)
TRANSITIONS = Counter("qednano_run_phase_transitions", "Phases that runs entered.", ["kind", "phase"])
PHASE_SECONDS = Histogram(
    "qednano_run_phase_seconds",
    "Seconds that a run was in a phase, when it leaves it.",
    ["kind", "phase"],
    buckets=(1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600, 168 * 3600, 720 * 3600),
)
RESTARTS = Counter("qednano_run_restarts", "Attempts after the first, by why the last one ended.", ["kind", "reason"])
GPU_SECONDS = Counter("qednano_run_gpu_seconds", "GPU-seconds held by runs.", ["namespace", "kind"])
STARTING_GPU_SECONDS = Counter(
    "qednano_run_starting_gpu_seconds", "GPU-seconds held while not all pods of the run ran.", ["namespace", "kind"]
)
LOST_GPU_SECONDS = Counter(
    "qednano_run_lost_gpu_seconds",
    "GPU-seconds since the last checkpoint, at each failure of a trainer.",
    ["namespace", "kind"],
)
GPU_COST = Counter(
    "qednano_run_gpu_cost", "GPU time of runs at the price that held when each started.", ["namespace", "kind"]
)
STARTUP_SECONDS = Histogram(
    "qednano_run_startup_seconds",
    "Seconds from a run's start until all of its pods ran.",
    ["kind"],
    buckets=(1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560),
)
