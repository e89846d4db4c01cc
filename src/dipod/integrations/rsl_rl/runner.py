"""The runner, with stages of self-distillation in its log."""

from __future__ import annotations

from typing import Any

from rsl_rl.runners import OnPolicyRunner

from dipod.integrations.rsl_rl.actor import FlowActor
from dipod.tasks.control.units import ActionUnits


class StageLogging:
    """Put before any of rsl_rl's runners, it gives a `FlowAlgorithm` the runner's logger.

    Then warm-up and stages, which run under any runner, appear in the log as a phase of their own
    (``SelfDistillation/...`` by round), their steps in the runner's count, and their episodes in its account.

    Where the environment's wrapper clips actions (``clip_actions``, as mjlab's and Isaac Lab's do), exported policies
    clip them too: a file gives what the environment inside the wrapper receives.
    """

    alg: Any
    env: Any
    logger: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alg.logger = self.logger
        limit, actor = getattr(self.env, "clip_actions", None), getattr(self.alg, "actor", None)
        if limit is not None and isinstance(actor, FlowActor):
            actor.units = ActionUnits.plain(actor.policy.action_size, float(limit))


class DipodRunner(StageLogging, OnPolicyRunner):  # type: ignore[misc]
    """``OnPolicyRunner`` with `StageLogging`."""
