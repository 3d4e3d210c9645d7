"""Evaluation of how well item factors rank unseen items, user by user, with uncertainty."""

from fcf_jax.evaluation.chance import chance_metrics, evaluate_chance
from fcf_jax.evaluation.compare import (
    ModelDifference,
    PairedDifference,
    equivalence_test,
    model_difference,
    paired_difference,
)
from fcf_jax.evaluation.exposure import Exposure, count_exposed, exposure, exposure_data, exposure_ratios
from fcf_jax.evaluation.metrics import (
    RankingMetrics,
    SampledMetrics,
    UserMetrics,
    best_ranking_metrics,
    ranking_metrics,
    sampled_metrics,
)
from fcf_jax.evaluation.packed import EvaluationData, evaluation_data
from fcf_jax.evaluation.popularity import evaluate_popularity, popularity
from fcf_jax.evaluation.ranking import (
    evaluate,
    evaluate_data,
    user_metrics,
    user_metrics_of_factors,
    user_metrics_of_scores,
)
from fcf_jax.evaluation.recommend import (
    Explanation,
    Recommendations,
    explain_score,
    recommend,
    recommend_many,
    solve_new_users,
)
from fcf_jax.evaluation.summary import per_user, summarize

__all__ = [
    "EvaluationData",
    "Explanation",
    "Exposure",
    "ModelDifference",
    "PairedDifference",
    "RankingMetrics",
    "Recommendations",
    "SampledMetrics",
    "UserMetrics",
    "best_ranking_metrics",
    "chance_metrics",
    "count_exposed",
    "equivalence_test",
    "evaluate",
    "evaluate_chance",
    "evaluate_data",
    "evaluate_popularity",
    "evaluation_data",
    "explain_score",
    "exposure",
    "exposure_data",
    "exposure_ratios",
    "model_difference",
    "paired_difference",
    "per_user",
    "popularity",
    "ranking_metrics",
    "recommend",
    "recommend_many",
    "sampled_metrics",
    "solve_new_users",
    "summarize",
    "user_metrics",
    "user_metrics_of_factors",
    "user_metrics_of_scores",
]
