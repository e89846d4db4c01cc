"""Flow policies under rsl_rl's OnPolicyRunner, named by ``class_name`` in its configuration; see docs/rsl_rl.md.

rsl_rl brings the loop, the rollout storage, the critic's network, logs and files; policy, estimators, tightenings,
advantages and gradient steps are this library's own.
"""

from dipod.extras import load_extra

load_extra("rsl_rl", "rsl_rl")
load_extra("tensordict", "rsl_rl")

from dipod.integrations.rsl_rl.actor import FlowActor  # noqa: E402
from dipod.integrations.rsl_rl.algorithm import FlowAlgorithm  # noqa: E402
from dipod.integrations.rsl_rl.config import FlowActorConfig, FlowAlgorithmConfig  # noqa: E402
from dipod.integrations.rsl_rl.environment import VectorEnvironment  # noqa: E402
from dipod.integrations.rsl_rl.runner import DipodRunner, StageLogging  # noqa: E402

__all__ = [
    "DipodRunner",
    "FlowActor",
    "FlowActorConfig",
    "FlowAlgorithm",
    "FlowAlgorithmConfig",
    "StageLogging",
    "VectorEnvironment",
]
