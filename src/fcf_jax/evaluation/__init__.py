"""Evaluation: how well item factors rank unseen items, user by user, and how sure one can be of it."""

from fcf_jax.evaluation.alignment import ModelDifference, model_difference
from fcf_jax.evaluation.metrics import RankingMetrics, UserMetrics, best_ranking_metrics, ranking_metrics
from fcf_jax.evaluation.ranking import (
    EvaluationData,
    evaluate,
    evaluate_data,
    evaluation_data,
    per_user,
    summarize,
    user_metrics,
)
from fcf_jax.evaluation.recommend import Recommendations, recommend
from fcf_jax.evaluation.statistics import PairedDifference, equivalence_test, paired_difference

__all__ = [
    "EvaluationData",
    "ModelDifference",
    "PairedDifference",
    "RankingMetrics",
    "Recommendations",
    "UserMetrics",
    "best_ranking_metrics",
    "equivalence_test",
    "evaluate",
    "evaluate_data",
    "evaluation_data",
    "model_difference",
    "paired_difference",
    "per_user",
    "ranking_metrics",
    "recommend",
    "summarize",
    "user_metrics",
]
