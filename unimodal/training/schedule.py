"""How much of a run's budget is spent, and the learning rate that follows from it."""

import math
from dataclasses import dataclass

from unimodal.training.config import ScheduleConfig, TrainingConfig

DEFAULT_STEPS = 1000
"""Budget of a run that is given none."""


@dataclass
class Progress:
    """How far a run has come. JSON-ready by `asdict`.

    Attributes:
        step: Optimizer steps, skipped ones included.
        tokens: Positions that were not padding.
        seconds: Time in the loop, over all resumptions.
        skipped: Steps skipped for a gradient that was not finite.
        skipped_in_row: How many of them in a row, up to now.
        lowest: Lowest held-out loss, where `patience` asks for it.
        since_lowest: Held-out losses since then.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_row: int = 0
    lowest: float | None = None
    since_lowest: int = 0


def spent(config: TrainingConfig, progress: Progress) -> float:
    """Share of the budget that is spent: the largest over the budgets in force; 1 ends the run."""
    shares = []
    if config.max_steps is not None:
        shares.append(progress.step / config.max_steps)
    if config.max_tokens is not None:
        shares.append(progress.tokens / config.max_tokens)
    if config.max_minutes is not None:
        shares.append(progress.seconds / 60 / config.max_minutes)
    # Not a default of the field: Hydra would keep it beside the budget that an experiment gives.
    return max(shares) if shares else progress.step / DEFAULT_STEPS


def rate_factor(config: ScheduleConfig, step: int, share: float) -> float:
    """Learning rate over its peak.

    Args:
        config: Warm-up and kind of decay.
        step: Steps done so far.
        share: Spent share of the budget; above 1 counts as 1.
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    share = min(share, 1.0)
    low = config.final_ratio
    if config.kind == "cosine":
        decay = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))
    elif config.kind == "wsd":
        left = (1 - share) / config.decay_share
        decay = low + (1 - low) * min(1.0, left)
    else:
        decay = 1.0
    return warm * decay
