"""The runner, with stages of self-distillation in its log."""

from __future__ import annotations

from typing import Any

from rsl_rl.runners import OnPolicyRunner


class StageLogging:
    """Put before any of rsl_rl's runners, it gives a `FlowAlgorithm` the runner's logger.

    Then warm-up and stages, which run under any runner, appear in the log as a phase of their own
    (``SelfDistillation/...`` by round), their steps in the runner's count, and their episodes in its account.
    """

    alg: Any
    logger: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alg.logger = self.logger


class DipodRunner(StageLogging, OnPolicyRunner):  # type: ignore[misc]
    """``OnPolicyRunner`` with `StageLogging`."""
