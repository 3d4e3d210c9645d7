"""Evaluation: how well item factors rank unseen items, user by user, and how sure one can be of it."""

from fcf_jax.evaluation.alignment import ModelDifference, model_difference
from fcf_jax.evaluation.compare import PairedDifference, equivalence_test, paired_difference
from fcf_jax.evaluation.explain import Explanation, explain_score
from fcf_jax.evaluation.metrics import RankingMetrics, UserMetrics, best_ranking_metrics, ranking_metrics
from fcf_jax.evaluation.new_users import solve_new_users
from fcf_jax.evaluation.ranking import (
    EvaluationData,
    evaluate,
    evaluate_data,
    evaluation_data,
    per_user,
    summarize,
    user_metrics,
)
from fcf_jax.evaluation.recommend import Recommendations, recommend, recommend_many

__all__ = [
    "EvaluationData",
    "Explanation",
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
    "explain_score",
    "model_difference",
    "paired_difference",
    "per_user",
    "ranking_metrics",
    "recommend",
    "recommend_many",
    "solve_new_users",
    "summarize",
    "user_metrics",
]
