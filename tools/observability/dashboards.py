"""The six pages: fleet, dataset, SFT, RL, evaluation, operator."""

from __future__ import annotations

from qednano_operator import metrics as op

from qednano import metrics as m
from tools.observability.model import Dashboard, Panel, Query, Row
from tools.observability.promql import (
    RUN,
    WINDOW,
    exported,
    gained,
    mean,
    only,
    progress,
    quantile,
    rate,
    series,
    total,
)

_TRAINER = f'{RUN},role="trainer"'
_DATASET = f'{RUN},role="dataset"'
_FLEET = 'namespace=~"$namespace"'
_ALL = ""
_BY_RUN = "namespace, run"
_RUNNING = 'phase="Running"'
_WAITING = 'phase=~"Pending|Waiting|Queued|Starting"'
_FAILED = 'phase="Failed"'
_KEPT = f'{RUN},outcome="ok"'
_DROPPED = f'{RUN},outcome!="ok"'
_ERRORS = 'result="error"'
_REFUSED = 'code=~"[45].."'


_PAGES = {"ProofDataset": "data", "SFTRun": "sft", "RLRun": "rl", "EvalRun": "evaluation"}
_NAMED = "{{namespace}}/{{run}}"
_TO_PAGE = (
    "Page of ${__field.labels.run}",
    "/d/qednano-${__field.labels.page}?var-namespace=${__field.labels.namespace}&var-run=${__field.labels.run}"
    "&${datasource:queryparam}&${__url_time_range}",
)
"""Title and address of a link from a run's line to the page of its kind."""


def _with_page(expression: str) -> str:
    """The series with a label that names the page of their kind."""
    for kind, page in _PAGES.items():
        expression = f'label_replace({expression}, "page", "{page}", "run_kind", "{kind}")'
    return expression


_NO_MODEL = "a run that asks a language model"
_LONG = "a dataset that takes longer than two scrapes"


def _page_of(kind: str, uid: str, title: str, about: str, rows: tuple[Row, ...]) -> Dashboard:
    """A page about runs of one kind: panels that pages share show only its own."""
    chosen = tuple(
        Row(row.title, tuple(panel.where(lambda expression: only(kind, expression)) for panel in row.panels))
        for row in rows
    )
    return Dashboard(uid, title, about, chosen, kind=kind)


def _lines(title: str, unit: str, about: str, *queries: tuple[str, str], **more: object) -> Panel:
    return Panel(title, unit, about, tuple(Query(*query) for query in queries), **more)  # type: ignore[arg-type]


def _stat(title: str, unit: str, about: str, expression: str, needs: str = "") -> Panel:
    return Panel(title, unit, about, (Query(expression),), draw="stat", width=4, height=4, needs=needs)


def _checkpoints() -> tuple[Panel, ...]:
    return (
        _stat(
            "Checkpoint age",
            "s",
            "Seconds since the last complete checkpoint: what a failure now would cost.",
            f"time() - max({series(m.CHECKPOINT_TIME, _TRAINER)})",
        ),
        _lines(
            "Checkpoint writing",
            "s",
            "Seconds to write one checkpoint, median and 95th percentile.",
            (quantile(0.5, m.CHECKPOINT_SECONDS, where=_TRAINER), "median"),
            (quantile(0.95, m.CHECKPOINT_SECONDS, where=_TRAINER), "95 %"),
            needs="a checkpoint within the interval",
        ),
    )


_MODELS = Row(
    "Language models asked",
    (
        _lines(
            "Requests",
            "reqps",
            "A second, by how they ended.",
            (rate(m.LLM_REQUESTS, "role, outcome"), "{{role}} {{outcome}}"),
            needs=_NO_MODEL,
        ),
        _lines(
            "Answer time",
            "s",
            "From request to answer, retries included.",
            (quantile(0.5, m.LLM_SECONDS, "role"), "{{role}} median"),
            (quantile(0.95, m.LLM_SECONDS, "role"), "{{role}} 95 %"),
            log=True,
            needs=_NO_MODEL,
        ),
        _lines(
            "Requests under way",
            "none",
            "And how many may be: the limit falls when the server is overloaded.",
            (f"sum by (role) ({series(m.LLM_IN_FLIGHT)})", "{{role}}"),
            (f"sum by (role) ({series(m.LLM_LIMIT)})", "{{role}} limit"),
            needs=_NO_MODEL,
        ),
        _lines(
            "Tokens of models asked",
            "short",
            "A second, given to and taken from them.",
            (rate(m.LLM_PROMPT_TOKENS, "role"), "{{role}} in"),
            (rate(m.LLM_COMPLETION_TOKENS, "role"), "{{role}} out"),
            needs=_NO_MODEL,
        ),
        _lines(
            "Sent again",
            "reqps",
            "Requests sent again, a second, by why.",
            (f"{rate(m.LLM_RETRIES, 'role, cause')} > 0", "{{role}} {{cause}}"),
            needs="a server that failed",
        ),
        _lines(
            "Cost of models asked",
            "none",
            "Money so far, in the currency of the prices.",
            (f"sum by (role) ({series(m.LLM_COST)})", "{{role}}"),
            needs="an endpoint with a price",
        ),
        _lines(
            "Budget spent",
            "percentunit",
            "Share of the budget of tokens or money.",
            (f"max by (role) ({series(m.LLM_BUDGET_SPENT)})", "{{role}}"),
            needs="a budget",
        ),
    ),
)

_PROGRESS = (
    _stat("Step", "none", "Optimizer steps done.", f"max({series(m.STEP, _TRAINER)})"),
    _stat(
        "Progress",
        "percentunit",
        "Share of the steps that are done.",
        f"max({progress(_TRAINER)})",
    ),
    _stat(
        "Steps a minute",
        "none",
        "Optimizer steps a minute over the last interval.",
        f"60 * max(deriv({series(m.STEP, _TRAINER)}[{WINDOW}]))",
    ),
)

_OPTIMIZER = Row(
    "Optimizer",
    (
        _lines("Loss", "none", "Loss of each step, per trained token.", (series(m.LOSS, _TRAINER), "{{run}}")),
        _lines(
            "Gradient norm",
            "none",
            "Global norm before clipping. A rising floor comes before a divergence.",
            (series(m.GRAD_NORM, _TRAINER), "{{run}}"),
            log=True,
        ),
        _lines("Learning rate", "sci", "Of the last step.", (series(m.LEARNING_RATE, _TRAINER), "{{run}}")),
        _lines(
            "Tokens trained",
            "short",
            "Tokens a second through the trainer.",
            (rate(m.TOKENS_TRAINED, _BY_RUN, _TRAINER), "{{run}}"),
        ),
        _lines(
            "Steps skipped",
            "short",
            "Steps whose loss or gradient was not finite; none is the healthy number.",
            (f"sum by (namespace, run) ({series(m.SKIPPED_STEPS, _TRAINER)})", "{{run}}"),
        ),
        _lines(
            "Evaluation loss",
            "short",
            "Loss per token on the held-out rows of SFT runs.",
            (f"max by (namespace, run) ({series(m.EVALUATION_LOSS, _TRAINER)})", "{{run}}"),
            needs="spec.validation of an SFTRun",
        ),
        _lines(
            "Tokens a second in a step",
            "short",
            "Tokens over the seconds of the last optimizer step, without waits between steps.",
            (f"max by (namespace, run) ({series(m.TOKEN_RATE, _TRAINER)})", "{{run}}"),
        ),
        _lines(
            "Model FLOPs utilisation",
            "percentunit",
            "Share of the GPUs' bf16 peak that the model's own operations take.",
            (f"max by (namespace, run) ({series(m.MFU, _TRAINER)})", "{{run}}"),
            needs="GPUs",
        ),
        _lines(
            "Trainer memory",
            "bytes",
            "Most memory held so far: of rank 0's GPU, or of the machine.",
            (f"max by (namespace, run) ({series(m.TRAINER_MEMORY, _TRAINER)})", "{{run}}"),
        ),
        _lines(
            "GPUs that train",
            "none",
            "GPU-seconds a second.",
            (rate(m.GPU_SECONDS, _BY_RUN, _TRAINER), "{{run}}"),
            needs="GPUs",
        ),
    ),
)

FLEET = Dashboard(
    "qednano-fleet",
    "qednano / Fleet",
    "All runs of the cluster: phases, GPUs, queue and cost. Start here.",
    (
        Row(
            "Now",
            (
                _stat(
                    "Running",
                    "none",
                    "Runs in phase Running.",
                    f"sum({series(op.RUNS, _RUNNING)}) or vector(0)",
                ),
                _stat(
                    "Waiting",
                    "none",
                    "Runs that wait: for another run, for quota, for pods.",
                    f"sum({series(op.RUNS, _WAITING)}) or vector(0)",
                ),
                _stat(
                    "Failed",
                    "none",
                    "Failed runs that still exist.",
                    f"sum({series(op.RUNS, _FAILED)}) or vector(0)",
                ),
                _stat(
                    "Stand still",
                    "none",
                    "Running runs that make no progress, or wait by their own decision.",
                    f"sum({exported(op.NOT_PROGRESSING)}) or vector(0)",
                ),
                _stat(
                    "GPUs held",
                    "none",
                    "GPUs of bound pods, averaged over five minutes.",
                    f"sum(rate({series(op.GPU_SECONDS, _FLEET)}[5m])) or vector(0)",
                ),
                _stat(
                    "GPU-hours today",
                    "none",
                    "GPU-hours of the last 24 hours.",
                    f"sum(increase({series(op.GPU_SECONDS, _FLEET)}[24h])) / 3600 or vector(0)",
                ),
            ),
        ),
        Row(
            "Runs",
            (
                _lines(
                    "Runs by phase",
                    "none",
                    "All kinds.",
                    (f"sum by (phase) ({exported(op.RUNS)}) > 0", "{{phase}}"),
                    draw="stacked",
                    width=12,
                ),
                _lines(
                    "Runs by kind",
                    "none",
                    "Running ones.",
                    (f"sum by (kind) ({series(op.RUNS, _RUNNING)})", "{{kind}}"),
                    draw="stacked",
                    width=12,
                ),
                _lines(
                    "GPUs by namespace",
                    "none",
                    "GPUs held, averaged over five minutes: the ten largest namespaces.",
                    (f"topk(10, sum by (namespace) (rate({series(op.GPU_SECONDS, _FLEET)}[5m])))", "{{namespace}}"),
                    draw="stacked",
                    width=12,
                    needs="a run with GPUs",
                ),
                _lines(
                    "Cost of GPUs by namespace",
                    "short",
                    "GPU time of the last 24 hours at the price that held when each run started: the ten dearest.",
                    (
                        f"topk(10, sum by (namespace) (increase({series(op.GPU_COST, _FLEET)}[24h])))",
                        "{{namespace}}",
                    ),
                    draw="stacked",
                    width=12,
                    needs="a run with GPUs and a price",
                ),
                _lines(
                    "Goodput by namespace",
                    "percentunit",
                    "Part of the last hour's GPU time that was neither lost to restarts nor spent on starting: the ten "
                    "lowest.",
                    (
                        f"bottomk(10, 1 - (sum by (namespace) (increase({series(op.LOST_GPU_SECONDS, _FLEET)}[1h])) "
                        f"+ sum by (namespace) (increase({series(op.STARTING_GPU_SECONDS, _FLEET)}[1h]))) "
                        f"/ (sum by (namespace) (increase({series(op.GPU_SECONDS, _FLEET)}[1h])) > 0))",
                        "{{namespace}}",
                    ),
                    width=12,
                    needs="a run with GPUs",
                ),
                _lines(
                    "Restarts",
                    "short",
                    "Attempts after the first, by why the last one ended, in an hour.",
                    (gained(op.RESTARTS, "reason", "1h"), "{{reason}}"),
                    width=12,
                    needs="a restart within the hour",
                ),
                _lines(
                    "Alerts",
                    "none",
                    "Those of this project that are pending or fire; each has a section in the runbooks.",
                    (
                        f'count by (alertname, alertstate) (ALERTS{{alertname=~"Qed.+",{_FLEET}}})',
                        "{{alertname}} {{alertstate}}",
                    ),
                    draw="stacked",
                    width=12,
                    needs="an alert",
                ),
                _lines(
                    "Progress of runs",
                    "percentunit",
                    "The twenty least advanced of the runs that report; a click on one leads to its page.",
                    (_with_page(f"bottomk(20, max by ({_BY_RUN}, run_kind) ({progress(_FLEET)}))"), _NAMED),
                    width=12,
                    links=(_TO_PAGE,),
                ),
                _lines(
                    "Time to start",
                    "s",
                    "From a run's start until all of its pods ran.",
                    (quantile(0.5, op.STARTUP_SECONDS, "kind", _ALL), "{{kind}} median"),
                    (quantile(0.95, op.STARTUP_SECONDS, "kind", _ALL), "{{kind}} 95 %"),
                    width=12,
                    needs="a run that started within the interval",
                ),
            ),
        ),
        Row(
            "Language models",
            (
                _lines(
                    "Tokens",
                    "short",
                    "Completion tokens a second from endpoints and own servers: the ten busiest namespaces.",
                    (f"topk(10, {rate(m.LLM_COMPLETION_TOKENS, 'namespace', _FLEET)})", "{{namespace}}"),
                    draw="stacked",
                    width=12,
                    needs="a run that asks a language model",
                ),
                _lines(
                    "Money",
                    "none",
                    "Spent on endpoints with a known price, an hour: the ten namespaces that spend most.",
                    (f"topk(10, 3600 * {rate(m.LLM_COST, 'namespace', _FLEET)})", "{{namespace}}"),
                    draw="stacked",
                    width=12,
                    needs="an endpoint with a price",
                ),
            ),
        ),
    ),
)

RL = _page_of(
    "RLRun",
    "qednano-rl",
    "qednano / RL run",
    "One RLRun: is it learning, is it healthy, is it fast?",
    (
        Row(
            "Now",
            (
                *_PROGRESS,
                _stat("Reward", "percentunit", "Mean reward of the last groups.", f"avg({series(m.REWARD_MEAN)})"),
                _stat("Rollout servers", "none", "With a live heartbeat.", f"max({series(m.POOL_SERVERS)})"),
                _checkpoints()[0],
            ),
        ),
        Row(
            "Learning",
            (
                _lines(
                    "Reward",
                    "percentunit",
                    "Mean reward (0 to 1) of the groups drawn, and its standard deviation within groups: at zero there "
                    "is nothing to learn from.",
                    (series(m.REWARD_MEAN), "{{run}} mean"),
                    (series(m.REWARD_STD), "{{run}} std within groups"),
                ),
                _lines(
                    "Trained reward",
                    "percentunit",
                    "Mean reward of the samples of the last step, and of groups by the cycles of the reasoning cache "
                    "behind them.",
                    (series(m.TRAINED_REWARD), "{{run}} trained"),
                    (f"max by (namespace, run, cycles) ({series(m.TURN_REWARD)})", "{{run}} after {{cycles}} cycles"),
                ),
                _lines(
                    "Reward quantiles",
                    "percentunit",
                    "Of graded samples: a gap between the two is what groups can learn from.",
                    (quantile(0.25, m.REWARDS, _BY_RUN), "{{run}} 25 %"),
                    (quantile(0.75, m.REWARDS, _BY_RUN), "{{run}} 75 %"),
                ),
                _lines(
                    "Groups without variance",
                    "percentunit",
                    "Share of the last groups whose samples were all rewarded alike. Much: too easy or too hard.",
                    (series(m.ZERO_VARIANCE), "{{run}}"),
                ),
                _lines(
                    "Entropy",
                    "none",
                    "Mean token entropy of the policy, in nats. A fall to zero is a collapse; a rise means noise.",
                    (series(m.ENTROPY), "{{run}}"),
                ),
                _lines(
                    "KL",
                    "none",
                    "Of the behaviour policy to the policy, per token, in nats (k3): how far samples are off-policy.",
                    (series(m.KL), "{{run}} behaviour"),
                    (series(m.REFERENCE_KL), "{{run}} policy to reference"),
                ),
                _lines(
                    "Response length",
                    "none",
                    "Completion tokens.",
                    (quantile(0.5, m.RESPONSE_TOKENS, _BY_RUN), "{{run}} median"),
                    (quantile(0.95, m.RESPONSE_TOKENS, _BY_RUN), "{{run}} 95 %"),
                    log=True,
                ),
                _lines(
                    "Cut off",
                    "percentunit",
                    "Share of completions that the token limit ended.",
                    (
                        f"{rate(m.TRUNCATED, _BY_RUN)} / {rate(m.RESPONSE_TOKENS, _BY_RUN, part='count')}",
                        "{{run}}",
                    ),
                ),
                _lines(
                    "Groups",
                    "short",
                    "Groups a second by what became of them.",
                    (rate(m.GROUPS, "outcome"), "{{outcome}}"),
                    draw="stacked",
                ),
            ),
        ),
        Row(
            "Off-policy",
            (
                _lines(
                    "Staleness",
                    "none",
                    "Optimizer steps between the weights that made a sample and those that learn from it.",
                    (mean(m.STALENESS, _BY_RUN), "{{run}} mean"),
                    (quantile(0.95, m.STALENESS, _BY_RUN), "{{run}} 95 %"),
                ),
                _lines(
                    "Importance ratio",
                    "none",
                    "Quantiles of new over old probability, per token.",
                    (series(m.IMPORTANCE_RATIO, _TRAINER), "{{run}} {{quantile}}"),
                    log=True,
                ),
                _lines(
                    "Effective sample size",
                    "percentunit",
                    "Share of the batch that its importance weights leave, and share of tokens truncated or clipped.",
                    (series(m.EFFECTIVE_SAMPLE_SIZE), "{{run}} effective sample size"),
                    (series(m.CLIPPED_SHARE), "{{run}} clipped"),
                ),
            ),
        ),
        Row(
            "Throughput",
            (
                _lines(
                    "Tokens",
                    "short",
                    "Tokens a second: generated by the pool, and through the trainer.",
                    (rate(m.TOKENS_GENERATED, _BY_RUN), "{{run}} generated"),
                    (rate(m.TOKENS_TRAINED, _BY_RUN, _TRAINER), "{{run}} trained"),
                ),
                _lines(
                    "Trainer waits",
                    "percentunit",
                    "Share of the time that the trainer waits for groups, or is busy with steps. Much waiting: the "
                    "pool is too small.",
                    (rate(m.TRAINER_WAIT, _BY_RUN), "{{run}} waiting"),
                    (rate(m.TRAINER_BUSY, _BY_RUN), "{{run}} busy"),
                ),
                _lines(
                    "Queue",
                    "none",
                    "Groups published and not yet consumed. Always full: the trainer is the bottleneck.",
                    (series(m.QUEUE_DEPTH), "{{run}} queued"),
                    (series(m.GROUPS_IN_FLIGHT), "{{run}} in flight"),
                ),
                _lines("Pool", "none", "Servers with a live heartbeat.", (series(m.POOL_SERVERS), "{{run}}")),
                _lines(
                    "Moved samples",
                    "short",
                    "Samples a second that went on at another server, and the tokens that they had by then.",
                    (rate(m.MOVED_SAMPLES), "samples"),
                    (rate(m.KEPT_TOKENS), "tokens kept"),
                ),
                _lines(
                    "Age of states",
                    "none",
                    "Reasoning cache: age in optimizer steps of the states that groups start from.",
                    (quantile(0.5, m.STATE_AGE, _BY_RUN), "{{run}} median"),
                    (quantile(0.95, m.STATE_AGE, _BY_RUN), "{{run}} 95 %"),
                    needs="a reasoning cache",
                ),
                _lines(
                    "States made",
                    "short",
                    "Reasoning cache, a second: tokens for states, and states made anew for their age.",
                    (rate(m.STATE_TOKENS), "tokens"),
                    (rate(m.STATES_TOO_OLD), "too old"),
                ),
                _lines(
                    "Weights",
                    "none",
                    "Version (optimizer step) in use by trainer and servers; a widening gap is a sync that fails.",
                    (f"max by (namespace, run, role) ({series(m.WEIGHT_VERSION)})", "{{run}} {{role}}"),
                ),
                _lines(
                    "Weight sync",
                    "s",
                    "From publishing weights to serving them.",
                    (quantile(0.5, m.WEIGHT_SYNC_SECONDS), "median"),
                    (quantile(0.95, m.WEIGHT_SYNC_SECONDS), "95 %"),
                    (quantile(0.95, m.WEIGHT_PUBLISH_SECONDS), "publishing, 95 %"),
                    (quantile(0.95, m.WEIGHT_PAUSE_SECONDS), "generation stands still, 95 %"),
                ),
                _lines(
                    "Weight sync failures",
                    "short",
                    "Times a second that a server could not load new weights; none is the healthy number.",
                    (rate(m.WEIGHT_SYNC_FAILURES, _BY_RUN), "{{run}}"),
                ),
            ),
        ),
        Row(
            "Grader",
            (
                _lines(
                    "Grading time",
                    "s",
                    "Seconds for one grade.",
                    (quantile(0.5, m.GRADER_SECONDS), "median"),
                    (quantile(0.95, m.GRADER_SECONDS), "95 %"),
                    log=True,
                ),
                _lines(
                    "Grading failures",
                    "short",
                    "Grades that could not be had, a second, by reason. Their samples are dropped, not zeroed.",
                    (f"{rate(m.GRADER_FAILURES, 'reason')} > 0", "{{reason}}"),
                    needs="a grader that failed",
                ),
                _lines(
                    "Grader health",
                    "percentunit",
                    "Share of the last grades that failed, and of canary attacks that earned a point.",
                    (series(m.GRADER_FAILURE_RATIO), "{{run}} failed"),
                    (series(m.GRADER_CANARY_SUCCESS), "{{run}} canaries that succeeded"),
                    needs="a grader that asks a model",
                ),
                _lines(
                    "Agreement of votes",
                    "none",
                    "Points between the highest and the lowest vote on one proof.",
                    (quantile(0.5, m.GRADER_SPREAD), "median"),
                    (quantile(0.95, m.GRADER_SPREAD), "95 %"),
                    needs="a grader that votes",
                ),
                _lines(
                    "Canaries",
                    "short",
                    "Attacks on the grader that were mixed in on purpose, a second, by what came of them.",
                    (rate(m.GRADER_CANARIES, "outcome"), "{{outcome}}"),
                    needs="a grader with canaries",
                ),
                _checkpoints()[1],
            ),
        ),
        _MODELS,
        _OPTIMIZER,
    ),
)

SFT = _page_of(
    "SFTRun",
    "qednano-sft",
    "qednano / SFT run",
    "One SFTRun: loss, speed and checkpoints.",
    (
        Row("Now", (*_PROGRESS, _checkpoints()[0])),
        Row(_OPTIMIZER.title, (*_OPTIMIZER.panels, _checkpoints()[1])),
    ),
)

DATA = _page_of(
    "ProofDataset",
    "qednano-data",
    "qednano / Dataset",
    "One ProofDataset: the funnel of rows, what language models did and cost.",
    (
        Row(
            "Now",
            (
                _stat(
                    "Rows of this stage",
                    "none",
                    "Rows that the stage has taken in.",
                    f"max({series(m.STEP, _DATASET)})",
                    _LONG,
                ),
                _stat(
                    "Progress of this stage",
                    "percentunit",
                    "Share of its rows.",
                    f"max({progress(_DATASET)})",
                    _LONG,
                ),
            ),
        ),
        Row(
            "Funnel",
            (
                _lines(
                    "Rows let through",
                    "none",
                    "Rows that each stage let through so far.",
                    (
                        f"sum by (stage) ({series(m.ROWS, _KEPT)})",
                        "{{stage}}",
                    ),
                    draw="bars",
                    width=12,
                    needs="a dataset with stages",
                ),
                _lines(
                    "Rows dropped",
                    "none",
                    "By stage and cause, so far.",
                    (
                        f"sum by (stage, outcome) ({series(m.ROWS, _DROPPED)})",
                        "{{stage}}: {{outcome}}",
                    ),
                    draw="bars",
                    width=12,
                    needs="a stage that drops rows",
                ),
                _lines(
                    "Rows a second",
                    "short",
                    "By stage.",
                    (rate(m.ROWS, "stage"), "{{stage}}"),
                    width=12,
                    needs=_LONG,
                ),
            ),
        ),
        _MODELS,
    ),
)

EVALUATION = _page_of(
    "EvalRun",
    "qednano-evaluation",
    "qednano / Evaluation",
    "Scores of evaluated models, over time and over checkpoints.",
    (
        Row(
            "Now",
            (
                _stat("Samples graded", "none", "Of all models.", total(m.EVAL_SAMPLES)),
                _stat(
                    "Progress",
                    "percentunit",
                    "Share of the samples.",
                    f"max({progress()})",
                ),
            ),
        ),
        Row(
            "Scores",
            (
                _lines(
                    "Score",
                    "percentunit",
                    "Mean score (0 to 1) of each model, as its samples are graded: the thirty best.",
                    (f"topk(30, max by ({_BY_RUN}, model) ({series(m.EVAL_SCORE)}))", "{{run}} {{model}}"),
                    width=12,
                ),
                _lines(
                    "Checkpoints",
                    "percentunit",
                    "Mean score (0 to 1) of the checkpoints of training runs, while their EvalRuns go on: the steps of "
                    "one evaluation are its curve. The thirty best.",
                    (
                        f"topk(30, max by ({_BY_RUN}, training, evaluation, step) ({series(m.CHECKPOINT_SCORE)}))",
                        "{{run}}: {{training}} {{evaluation}} step {{step}}",
                    ),
                    width=12,
                    needs="a training run with evaluations",
                ),
                _lines(
                    "Samples",
                    "short",
                    "Graded a second, by model: the thirty fastest.",
                    (f"topk(30, {rate(m.EVAL_SAMPLES, 'model')})", "{{model}}"),
                    width=12,
                ),
                _lines(
                    "Grading failures",
                    "short",
                    "Grades that could not be had, a second, by reason.",
                    (f"{rate(m.GRADER_FAILURES, 'reason')} > 0", "{{reason}}"),
                    width=12,
                    needs="a grader that failed",
                ),
            ),
        ),
        _MODELS,
    ),
)

OPERATOR = Dashboard(
    "qednano-operator",
    "qednano / Operator",
    "The operator itself: is it well, is it fast, does it miss anything?",
    (
        Row(
            "Now",
            (
                _stat("Leaders", "none", "One is right.", f"sum({exported(op.LEADER)})"),
                _stat("Queue", "none", "Runs that wait for a worker.", f"sum({exported(op.QUEUE_DEPTH)})"),
                _stat(
                    "Errors",
                    "short",
                    "Reconcile passes that failed, a second.",
                    f"sum(rate({series(op.RECONCILES, _ERRORS)}[{WINDOW}])) or vector(0)",
                ),
                _stat(
                    "Missed by watches",
                    "short",
                    "Runs that a full list showed otherwise than the watches had, in an hour.",
                    f"sum(increase({exported(op.CORRECTIONS)}[1h]))",
                ),
            ),
        ),
        Row(
            "Reconcile",
            (
                _lines(
                    "Passes",
                    "short",
                    "A second, by result.",
                    (rate(op.RECONCILES, "result", _ALL), "{{result}}"),
                    draw="stacked",
                ),
                _lines(
                    "Pass time",
                    "s",
                    "One pass, API calls included.",
                    (quantile(0.5, op.RECONCILE_SECONDS, where=_ALL), "median"),
                    (quantile(0.99, op.RECONCILE_SECONDS, where=_ALL), "99 %"),
                    log=True,
                ),
                _lines(
                    "Queue time",
                    "s",
                    "How long a run waited for a worker.",
                    (quantile(0.5, op.QUEUE_SECONDS, where=_ALL), "median"),
                    (quantile(0.99, op.QUEUE_SECONDS, where=_ALL), "99 %"),
                    log=True,
                ),
                _lines(
                    "Errors by reason",
                    "short",
                    "Passes that failed or were refused, a second, by why. A Conflict is a run that changed meanwhile.",
                    (f"{rate(op.ERRORS, 'reason', _ALL)} > 0", "{{reason}}"),
                    needs="a pass that failed",
                ),
                _lines(
                    "Phases entered",
                    "short",
                    "Transitions in an hour.",
                    (f"sum by (phase) (increase({exported(op.TRANSITIONS)}[1h])) > 0", "{{phase}}"),
                    draw="stacked",
                ),
            ),
        ),
        Row(
            "Runs",
            (
                _lines(
                    "Runs by kind and phase",
                    "none",
                    "Runs that exist.",
                    (f"sum by (kind, phase) ({exported(op.RUNS)}) > 0", "{{kind}} {{phase}}"),
                    draw="stacked",
                ),
                _lines(
                    "Time in a phase",
                    "s",
                    "How long runs were in each phase that they left within the interval, median.",
                    (quantile(0.5, op.PHASE_SECONDS, "phase", _ALL), "{{phase}}"),
                    log=True,
                    needs="a run that left a phase within the interval",
                ),
                _lines(
                    "Time in a phase, slowest",
                    "s",
                    "The same by kind, 95 %.",
                    (quantile(0.95, op.PHASE_SECONDS, "kind, phase", _ALL), "{{kind}} {{phase}}"),
                    log=True,
                    needs="a run that left a phase within the interval",
                ),
                _lines(
                    "GPUs by namespace",
                    "none",
                    "GPU-seconds a second: how many GPUs the runs of a namespace hold. The ten largest.",
                    (f"topk(10, {rate(op.GPU_SECONDS, 'namespace', _ALL)})", "{{namespace}}"),
                    draw="stacked",
                    needs="a run with GPUs",
                ),
            ),
        ),
        Row(
            "API server",
            (
                _lines(
                    "Requests",
                    "reqps",
                    "A second, by verb; watches stay open and are not among them.",
                    (rate(op.API_REQUESTS, "verb", _ALL), "{{verb}}"),
                    draw="stacked",
                ),
                _lines(
                    "Refusals",
                    "reqps",
                    "Answers of 400 and more, a second.",
                    (f"sum by (code) (rate({series(op.API_REQUESTS, _REFUSED)}[{WINDOW}])) > 0", "{{code}}"),
                    needs="a request that was refused",
                ),
                _lines(
                    "Request time",
                    "s",
                    "By verb, 99 %.",
                    (quantile(0.99, op.API_SECONDS, "verb", _ALL), "{{verb}}"),
                    log=True,
                ),
                _lines(
                    "Watch events",
                    "short",
                    "A second, by kind of object.",
                    (rate(op.WATCH_EVENTS, "kind", _ALL), "{{kind}}"),
                    draw="stacked",
                ),
                _lines(
                    "Event loop lag",
                    "s",
                    "How late the loop woke up; above a second something blocks it.",
                    (exported(op.LOOP_LAG), "{{pod}}"),
                ),
            ),
        ),
    ),
)

DASHBOARDS = (FLEET, DATA, SFT, RL, EVALUATION, OPERATOR)
