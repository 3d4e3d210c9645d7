"""Evaluation: how well item factors rank unseen items, user by user."""

from fcf_jax.evaluation.metrics import RankingMetrics, UserMetrics
from fcf_jax.evaluation.ranking import (
    EvaluationData,
    evaluate,
    evaluate_data,
    evaluation_data,
    per_user,
    summarize,
    user_metrics,
)

__all__ = [
    "EvaluationData",
    "RankingMetrics",
    "UserMetrics",
    "evaluate",
    "evaluate_data",
    "evaluation_data",
    "per_user",
    "summarize",
    "user_metrics",
]
