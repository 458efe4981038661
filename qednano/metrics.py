"""Every Prometheus metric of the jobs, named once. Exporters, dashboards and alerts take names from here.

Labels never hold a sample, problem or pod: a run's series are bounded by its roles. Which run a series
belongs to is added by the scrape (pod labels), not by the process.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

STEP = Gauge("qednano_step", "Optimizer steps done (trainers) or items done (other jobs).", ["role"])
STEPS_TOTAL = Gauge("qednano_step_target", "Steps or items this job will do in all.", ["role"])
PAUSED = Gauge("qednano_paused", "1 while the job waits by its own decision (graders failing, budget spent).", ["role"])
LOSS = Gauge("qednano_train_loss", "Loss of the last optimizer step, per token.", ["role"])
LEARNING_RATE = Gauge("qednano_train_learning_rate", "Learning rate of the last optimizer step.", ["role"])
GRAD_NORM = Gauge("qednano_train_grad_norm", "Global gradient norm before clipping.", ["role"])
TOKENS_TRAINED = Counter("qednano_train_tokens", "Tokens that went through the trainer.", ["role"])
SKIPPED_STEPS = Counter("qednano_train_skipped_steps", "Steps skipped since loss or gradient was not finite.", ["role"])
TOKEN_RATE = Gauge(
    "qednano_train_tokens_per_second", "Tokens a second of the last optimizer step, all ranks.", ["role"]
)
MFU = Gauge(
    "qednano_train_mfu_ratio", "Model FLOPs of the last step over what its GPUs could do at their peak.", ["role"]
)
TRAINER_MEMORY = Gauge(
    "qednano_train_memory_bytes", "Most memory rank 0 has held: of its GPU, else of the machine.", ["role"]
)
GPU_SECONDS = Counter("qednano_train_gpu_seconds", "Seconds since this attempt started, times its GPUs.", ["role"])
EVALUATION_LOSS = Gauge(
    "qednano_train_evaluation_loss", "Loss per token on the held-out rows, last measured.", ["role"]
)
CHECKPOINT_SECONDS = Histogram("qednano_checkpoint_seconds", "Seconds to write one checkpoint.", ["role"])
CHECKPOINT_TIME = Gauge("qednano_checkpoint_timestamp_seconds", "When the last checkpoint was complete.", ["role"])

REWARD_MEAN = Gauge(
    "qednano_rl_reward_mean", "Mean reward (0 to 1) of all graded samples of the last groups, published or not."
)
REWARD_STD = Gauge(
    "qednano_rl_reward_std", "Standard deviation of the reward within the last groups, published or not."
)
REWARDS = Histogram(
    "qednano_rl_reward",
    "Rewards of graded samples; a proof of k of 7 points has k/7.",
    buckets=(0.0, 1 / 7, 2 / 7, 3 / 7, 4 / 7, 5 / 7, 6 / 7, 1.0),
)
ZERO_VARIANCE = Gauge(
    "qednano_rl_zero_variance_ratio", "Share of the last groups whose rewards were all equal, and so dropped."
)
GROUPS_IN_FLIGHT = Gauge("qednano_rl_groups_in_flight", "Groups that are being drawn or graded.")
GROUPS = Counter("qednano_rl_groups", "Groups by what became of them.", ["outcome"])
STALENESS = Histogram(
    "qednano_rl_staleness_steps",
    "Optimizer steps between the weights that made a sample and those that learn from it.",
    buckets=(0, 1, 2, 3, 4, 6, 8, 12, 16, 32),
)
MOVED_SAMPLES = Counter("qednano_rl_moved_samples", "Samples that went on at another server since theirs failed.")
KEPT_TOKENS = Counter("qednano_rl_kept_tokens", "Tokens that samples had when they moved to another server.")
TOKENS_GENERATED = Counter("qednano_rl_generated_tokens", "Completion tokens from the rollout pool.")
RESPONSE_TOKENS = Histogram(
    "qednano_rl_response_tokens",
    "Completion length in tokens.",
    buckets=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536),
)
TRUNCATED = Counter("qednano_rl_truncated_samples", "Samples cut off by the token limit.")
STATE_TOKENS = Counter("qednano_rl_state_tokens", "Tokens of the turns that made states of the reasoning cache.")
STATE_AGE = Histogram(
    "qednano_rl_state_age_steps",
    "Optimizer steps between the oldest weights of a state and the trainer when a group starts from it.",
    buckets=(0, 1, 2, 3, 4, 6, 8, 12, 16, 32),
)
STATES_TOO_OLD = Counter("qednano_rl_states_too_old", "Times that a problem's states were made anew for their age.")
TURN_REWARD = Gauge(
    "qednano_rl_turn_reward_mean", "Mean reward of the last groups by how many cycles were behind them.", ["cycles"]
)
GRADER_SECONDS = Histogram("qednano_grader_seconds", "Seconds for one grade.")
GRADER_FAILURES = Counter(
    "qednano_grader_failures", "Grades that could not be obtained; the sample is dropped.", ["reason"]
)
GRADER_FAILURE_RATIO = Gauge("qednano_grader_failure_ratio", "Share of the last grades that could not be obtained.")
GRADER_SPREAD = Histogram(
    "qednano_grader_vote_spread_points",
    "Highest minus lowest vote on one proof, in points, where several were cast.",
    buckets=(0, 1, 2, 3, 4, 5, 6, 7),
)
GRADER_CANARIES = Counter(
    "qednano_grader_canaries", "Attacks on the grader that were mixed in on purpose, by what came of them.", ["outcome"]
)
GRADER_CANARY_SUCCESS = Gauge(
    "qednano_grader_canary_success_ratio", "Share of the graded canary attacks that earned any point."
)
QUEUE_DEPTH = Gauge("qednano_rl_queue_groups", "Groups published and not yet consumed.")
POOL_SERVERS = Gauge("qednano_rl_pool_servers", "Rollout servers with a live heartbeat.")
TRAINER_WAIT = Counter("qednano_rl_trainer_wait_seconds", "Seconds the trainer waited for groups.")
TRAINER_BUSY = Counter(
    "qednano_rl_trainer_busy_seconds",
    "Seconds the trainer spent in optimizer steps; busy over busy and waiting is its use.",
)
TRAINED_REWARD = Gauge("qednano_rl_trained_reward_mean", "Mean reward of the samples of the last optimizer step.")
IMPORTANCE_RATIO = Gauge("qednano_rl_importance_ratio", "Importance ratio of the last step.", ["quantile"])
CLIPPED_SHARE = Gauge("qednano_rl_clipped_share", "Share of tokens whose ratio was truncated or clipped.")
EFFECTIVE_SAMPLE_SIZE = Gauge(
    "qednano_rl_effective_sample_ratio", "Effective sample size over sample size, by weights."
)
ENTROPY = Gauge("qednano_rl_entropy_nats", "Mean token entropy of the policy, in nats.")
REFERENCE_KL = Gauge(
    "qednano_rl_reference_kl_nats", "k3 estimate of KL(policy || reference policy) per token, in nats."
)
KL = Gauge("qednano_rl_behaviour_kl_nats", "k3 estimate of KL(behaviour policy || policy) per token, in nats.")
WEIGHT_PAUSE_SECONDS = Histogram("qednano_weight_pause_seconds", "Seconds that generation stood still to load weights.")
WEIGHT_PUBLISH_SECONDS = Histogram("qednano_weight_publish_seconds", "Seconds the trainer takes to publish weights.")
WEIGHT_SYNC_FAILURES = Counter("qednano_weight_sync_failures", "Times that a server could not load new weights.")
WEIGHT_SYNC_SECONDS = Histogram("qednano_weight_sync_seconds", "Seconds from publishing weights to serving them.")
WEIGHT_VERSION = Gauge("qednano_weight_version", "Version (optimizer step) of the weights in use.", ["role"])

LLM_REQUESTS = Counter("qednano_llm_requests", "Requests to a language model by how they ended.", ["role", "outcome"])
LLM_SECONDS = Histogram(
    "qednano_llm_request_seconds",
    "Seconds from request to answer, retries included.",
    ["role"],
    buckets=(0.05, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600),
)
LLM_PROMPT_TOKENS = Counter("qednano_llm_prompt_tokens", "Tokens that a language model was given.", ["role"])
LLM_COMPLETION_TOKENS = Counter("qednano_llm_completion_tokens", "Tokens that a language model gave.", ["role"])
LLM_COST = Counter("qednano_llm_cost", "Money spent on endpoints with a known price.", ["role"])
LLM_IN_FLIGHT = Gauge("qednano_llm_in_flight", "Requests under way.", ["role"])
LLM_LIMIT = Gauge(
    "qednano_llm_concurrency_limit", "Requests that may be under way now; adapts to the server.", ["role"]
)
LLM_RETRIES = Counter("qednano_llm_retries", "Requests sent again, by why.", ["role", "cause"])
LLM_BUDGET_SPENT = Gauge("qednano_llm_budget_spent_ratio", "Share of the budget that is spent.", ["role"])

ROWS = Counter("qednano_data_rows", "Dataset rows by stage and outcome.", ["stage", "outcome"])
EVAL_SCORE = Gauge("qednano_eval_score", "Mean score (0 to 1) of an evaluated model.", ["model"])
CHECKPOINT_SCORE = Gauge(
    "qednano_eval_checkpoint_score",
    "Mean score (0 to 1) of a training run's checkpoint, by the evaluation of spec.evaluations that measures it.",
    ["training", "evaluation", "step"],
)
EVAL_SAMPLES = Counter("qednano_eval_samples", "Samples graded by an evaluation.", ["model"])
