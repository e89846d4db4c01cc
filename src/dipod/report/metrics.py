"""What the report knows of metrics: titles, units, notes, and where each is shown."""

from __future__ import annotations

TITLES = {
    "gap": ("Gap, log π − ELBO", "nats"),
    "monitor_gap": ("Gap in the loop, log π − ELBO", "nats"),
    "cosine": ("Estimator against policy gradient", "cosine, at evaluations"),
    "monitor_cosine": ("Estimator against policy gradient, in the loop", "cosine, at the monitor's looks"),
    "monitor_update_cosine": ("Update as made against policy gradient, in the loop", "cosine, at the monitor's looks"),
    "update_cosine": ("Update as made against policy gradient", "cosine, at evaluations"),
    "monitor_drift_share": ("Gap part of the estimator's gradient", "its norm over the likelihood part's"),
    "entropy": ("Entropy, mean −log π", "nats"),
    "monitor_entropy": ("Entropy in the loop, mean −log π", "nats"),
    "unique_share": ("Unique actions in a group", "share of its size"),
    "solved_sampled": ("Solved, sampled", "share of held-out problems"),
    "solved_greedy": ("Solved, greedy", "share of held-out problems"),
    "reward": ("Reward", "mean reward of the rollouts"),
    "reward_sampled": ("Return, sampled actions", "of whole episodes, held out"),
    "reward_greedy": ("Return, zero-noise actions", "of whole episodes, held out"),
    "success": ("Success", "share of the last finished episodes"),
    "success_sampled": ("Success, sampled actions", "share of episodes, held out"),
    "success_greedy": ("Success, zero-noise actions", "share of episodes, held out"),
    "environment_errors": ("Environment errors", "episodes cut by one, an iteration"),
    "episode_length": ("Episode length", "steps, mean of the last finished ones"),
    "elbo": ("ELBO of the policy's samples", "nats"),
    "log_prob": ("Log-density of the policy's samples", "nats"),
    "cfm_loss": ("Flow-matching loss", "mean over dimensions"),
    "beta": ("β in force", "advantage units"),
    "clip_fraction_positive": ("Clipped, A > 0", "share of rollouts"),
    "clip_fraction_negative": ("Clipped, A < 0", "share of rollouts"),
    "grad_norm": ("Gradient norm", "before clipping"),
    "monitor_share": ("The monitor's share of the time", "so far"),
}
LANGUAGE_TITLES = {
    "reward_sampled": ("Reward, sampled", "mean over held-out problems"),
    "reward_greedy": ("Reward, greedy", "mean over held-out problems"),
}
CONTROL_TITLES = {
    "reward": ("Return in training", "mean of the last finished episodes"),
    "clip_fraction_positive": ("Clipped, A > 0", "share of transitions"),
    "clip_fraction_negative": ("Clipped, A < 0", "share of transitions"),
}
NOTES = {
    "cosine": "Without the β term; 1 means no drift.",
    "monitor_cosine": "Without the β term; 1 means no drift.",
    "update_cosine": "With the β in force.",
    "monitor_update_cosine": "With the β in force.",
    "monitor_drift_share": "The estimator's gradient is a likelihood part and a gap part; 0 means no drift.",
    "entropy": "Of the policy's own actions. A policy that has collapsed to one action has none, and a tight bound.",
    "monitor_entropy": "The same on rollouts.",
    "unique_share": "1 if all actions of a group differ; 1 over its size if they are all alike.",
    "elbo": "The bound on the log-likelihood of what the policy itself generates.",
    "beta": "How strongly the bound is tightened beside each update.",
}
SECTIONS = {
    "Drift": (
        "gap",
        "cosine",
        "update_cosine",
        "entropy",
        "unique_share",
        "monitor_gap",
        "monitor_cosine",
        "monitor_update_cosine",
        "monitor_drift_share",
        "monitor_entropy",
    ),
    "What is learned": (
        "solved_sampled",
        "solved_greedy",
        "reward",
        "reward_sampled",
        "reward_greedy",
        "success",
        "success_sampled",
        "success_greedy",
        "episode_length",
    ),
    "At equal cost": ("solved_sampled_over_cost", "reward_greedy_over_cost", "reward_over_cost", "gap_over_cost"),
    "Bound and updates": (
        "elbo",
        "log_prob",
        "beta",
        "grad_norm",
        "clip_fraction_positive",
        "clip_fraction_negative",
        "cfm_loss",
        "environment_errors",
        "monitor_share",
    ),
}
OVERVIEW = (
    "solved_sampled",
    "solved_greedy",
    "reward",
    "reward_greedy",
    "episode_length",
    "gap",
    "cosine",
    "entropy",
    "unique_share",
)
SWEEP = ("solved_sampled", "reward_greedy", "reward", "gap", "cosine", "entropy")
COSTED = ("solved_sampled", "reward_greedy", "reward", "gap")
RETURNS = ("reward_greedy", "reward")
"""Of these a sweep and what is drawn over its cost show the first, where no share solved says more."""
GAPS = ("gap", "monitor_gap")
ENTROPIES = ("entropy", "monitor_entropy")
EVALUATED = ("cosine", "update_cosine")
LOOPED = ("monitor_cosine", "monitor_update_cosine")
COSINES = (*EVALUATED, *LOOPED)
NOISY = ("reward", "grad_norm", "clip_fraction_positive", "clip_fraction_negative", "cfm_loss", "unique_share")
IDLE = ("clip_fraction_positive", "clip_fraction_negative", "beta", "environment_errors")
"""Metrics that many algorithms leave at zero, which needs no figure."""
ROWS = "A row is one completion under one mask; a backward pass counts for two."
