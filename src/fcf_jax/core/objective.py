r"""The objective of one user: its weighting, scores, residuals, loss and item gradient.

    J = \sum_u \sum_i c_ui (p_ui - x_u.y_i)^2 + lambda (\sum_u |x_u|^2 + \sum_i |y_i|^2)

The inner sum runs over ALL items: an item outside the history has p = 0 and confidence w0. Histories are
short, so the functions visit observed items only; the Gram matrix G = Y^T Y accounts for all others.
"""

from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Shaped

from fcf_jax.core.biases import Biases, without_constant
from fcf_jax.core.checks import require
from fcf_jax.core.precision import cast, in_one_precision, precision_of
from fcf_jax.core.records import ClientData, Model, Observations, Scalar, Weighting


def confidence(strengths: Float[Array, "*batch"], *, alpha: Scalar) -> Float[Array, "*batch"]:
    """Compute c = 1 + alpha r, the confidence in an interaction of strength r.

    References:
        Hu, Koren & Volinsky, ICDM 2008, section 4.
    """
    precision = precision_of(strengths)
    return 1.0 + jnp.asarray(alpha, precision) * jnp.asarray(strengths, precision)


def implicit_feedback(*, alpha: Scalar) -> Weighting:
    """Build the weighting of implicit feedback: c = 1 + alpha r and p = 1.

    Items outside the history have p = 0 and the confidence `Model.unobserved_weight`, 1 in the paper.

    Args:
        alpha: confidence added by one unit of strength, at least 0; may be traced.

    Raises:
        ValueError: for a negative alpha.
    """
    require(alpha=alpha)
    return Partial(_weigh_implicit, alpha=alpha)


def explicit_ratings(*, mean: Scalar = 0.0) -> Weighting:
    """Build the weighting of explicit ratings: c = 1 and p = r - mean.

    Use it with `Model(..., unobserved_weight=0.0)`: an item without a rating carries no information.

    Args:
        mean: number subtracted from every rating, usually the mean training rating; may be traced.
    """
    return Partial(_weigh_explicit, mean=mean)


def _weigh_implicit(data: ClientData, *, alpha: Scalar) -> Observations:
    return Observations(
        item_ids=data.item_ids,
        confidence=confidence(data.strengths, alpha=alpha),
        preference=jnp.ones_like(data.strengths),
        mask=data.mask,
    )


def _weigh_explicit(data: ClientData, *, mean: Scalar) -> Observations:
    return Observations(
        item_ids=data.item_ids,
        confidence=jnp.ones_like(data.strengths),
        preference=data.strengths - jnp.asarray(mean, data.strengths.dtype),
        mask=data.mask,
    )


def observe(model: Model, data: ClientData) -> Observations:
    """Weigh the histories; confidence and preference have the type of the strengths."""
    observations = cast(model.weighting(data), data.strengths.dtype)
    return observations._replace(negative_ids=data.negative_ids)


def gram(factors: Float[Array, "rows factors"]) -> Float[Array, "factors factors"]:
    """Compute G = Y^T Y."""
    return jnp.matmul(factors.T, factors, precision="highest")


def extra_confidence(model: Model, observations: Observations) -> Float[Array, "*rows slots"]:
    """Compute c_i - w0, 0 in empty slots: the Gram matrix already counts every item with confidence w0."""
    return jnp.where(observations.mask, observations.confidence - model.unobserved_weight, 0.0)


def scores(
    item_factors: Float[Array, "items factors"],
    user_factor: Float[Array, "factors"],
    observations: Observations,
) -> Float[Array, "slots"]:
    """Predict s_i = x.y_i for the observed items, x.(y_i - y_j) for pairs."""
    observed = of_slots(item_factors, observations.item_ids, observations.negative_ids)
    return jnp.matmul(observed, user_factor, precision="highest")


def of_slots(
    values: Shaped[Array, "items *rest"],
    item_ids: Int[Array, "..."],
    negative_ids: Int[Array, "..."] | None,
) -> Shaped[Array, "..."]:
    """Look up the values of the observed items; of pairs, what they differ by from those of the negatives."""
    return values[item_ids] if negative_ids is None else values[item_ids] - values[negative_ids]


def add_to_items(
    total: Shaped[Array, "items *rest"], observations: Observations, values: Shaped[Array, "..."]
) -> Shaped[Array, "items *rest"]:
    """Add gradients to those of the observed items, with the opposite sign to those of negatives in pairs."""
    total = total.at[observations.item_ids].add(values)
    return total if observations.negative_ids is None else total.at[observations.negative_ids].add(-values)


def regularization_of(
    model: Model, counts: Scalar | Int[Array, "*rows"] | Float[Array, "*rows"], num_others: Scalar
) -> Scalar | Float[Array, "*rows"]:
    """Compute lambda of users or items: lambda (n + w0 N)^nu, the same for all without an exponent.

    Args:
        model: gives lambda, nu and w0.
        counts: n, the interactions of each user or item.
        num_others: N, the number of items for users, and of users for items.

    References:
        Rendle et al., RecSys 2022, equation 7.
    """
    if model.regularization_exponent is None:
        return model.regularization
    # a sum of 0 belongs to a factor of 0
    frequency = jnp.maximum(counts + model.unobserved_weight * num_others, 1.0)
    return model.regularization * frequency**model.regularization_exponent


def of_items(model: Model) -> Model:
    """Return the model by which items are solved with user factors given."""
    return model if model.biases is None else model._replace(biases=Biases(is_of_items=True))


def for_items(model: Model, item_counts: Int[Array, "items"], num_users: int) -> Model:
    """Return the model of items for the server's step, with lambda of each, [items, 1] if it differs."""
    model = of_items(model)
    if model.regularization_exponent is None:
        return model
    of_each = jnp.asarray(regularization_of(model, item_counts, num_users))[:, None]
    return model._replace(regularization=of_each, regularization_exponent=None)


def residuals(
    model: Model, scores: Float[Array, "*rows slots"], observations: Observations
) -> Float[Array, "*rows slots"]:
    """Compute e_i = c_i (p_i - s_i) on the observed items, 0 in empty slots.

    With another objective, e_i is -1/2 c_i dd/ds.
    """
    if model.objective is None:
        missed = observations.preference - scores
    else:
        missed = model.objective.residual(observations.preference, scores)
    return jnp.where(observations.mask, observations.confidence * missed, 0.0)


def sparse_residuals(
    model: Model, scores: Float[Array, "*rows slots"], observations: Observations
) -> Float[Array, "*rows slots"]:
    """Compute e_i + w0 s_i = c_i p_i - (c_i - w0) s_i, 0 in empty slots.

    This is the residual of an observed item minus -w0 s_i, the residual of an unobserved item.
    """
    if model.objective is not None:
        of_unobserved = jnp.where(observations.mask, -model.unobserved_weight * scores, 0.0)
        return residuals(model, scores, observations) - of_unobserved
    extra = observations.confidence - model.unobserved_weight
    return jnp.where(
        observations.mask, observations.confidence * observations.preference - extra * scores, 0.0
    )


def history_loss(model: Model, scores: Float[Array, "slots"], observations: Observations) -> Float[Array, ""]:
    """Sum c_i (p_i - s_i)^2 - w0 s_i^2 over the observed items: their loss minus their part of w0 x^T G x.

    With another objective, c_i d(p_i, s_i) takes the place of the first term.
    """
    if model.objective is None:
        observed = observations.confidence * (observations.preference - scores) ** 2
    else:
        observed = observations.confidence * model.objective.loss(observations.preference, scores)
    return jnp.sum(jnp.where(observations.mask, observed - model.unobserved_weight * scores**2, 0.0))


def catalogue_loss(
    model: Model,
    item_gram: Float[Array, "factors factors"],
    user_factor: Float[Array, "factors"],
    prior: Float[Array, "factors"] | None = None,
) -> Float[Array, ""]:
    """Compute w0 x^T G x + lambda |x - m|^2: a user's loss if all items were unobserved; lambda as given.

    The constant coordinate of biases does not count in |x - m|.
    """
    unobserved = jnp.dot(
        user_factor, jnp.matmul(item_gram, user_factor, precision="highest"), precision="highest"
    )
    shrunk = without_constant(user_factor if prior is None else user_factor - prior, model.biases)
    return model.unobserved_weight * unobserved + model.regularization * jnp.sum(shrunk**2)


@in_one_precision
def loss(
    model: Model,
    item_factors: Float[Array, "items factors"],
    user_factor: Float[Array, "factors"],
    observations: Observations,
    prior: Float[Array, "factors"] | None = None,
) -> Float[Array, ""]:
    """Compute one user's share of J over all items, lambda |x|^2 included, lambda |Y|^2 not.

    Args:
        model: gives lambda and w0; its weighting is in `observations` already.
        item_factors: Y.
        user_factor: x, not necessarily the solution.
        observations: the user's weighted history.
        prior: m = A^T f, for lambda |x - m|^2 in place of lambda |x|^2; None: 0.

    References:
        arXiv:1901.09888, the cost function; Hu et al. 2008, equation 3.
    """
    user_scores = scores(item_factors, user_factor, observations)
    own = regularization_of(model, jnp.sum(observations.mask), item_factors.shape[0])
    return history_loss(model, user_scores, observations) + catalogue_loss(
        model._replace(regularization=own), gram(item_factors), user_factor, prior
    )


@in_one_precision
def all_residuals(
    model: Model,
    item_factors: Float[Array, "items factors"],
    user_factor: Float[Array, "factors"],
    observations: Observations,
) -> Float[Array, "items"]:
    """Compute c_i (p_i - x.y_i) for every item, observed or not.

    Args:
        model: gives w0; its weighting is in `observations` already.
        item_factors: Y.
        user_factor: x.
        observations: the user's weighted history.
    """
    catalogue_scores = jnp.matmul(item_factors, user_factor, precision="highest")
    observed = of_slots(catalogue_scores, observations.item_ids, observations.negative_ids)
    seen = sparse_residuals(model, observed, observations)
    return add_to_items(-model.unobserved_weight * catalogue_scores, observations, seen)


@in_one_precision
def total_loss(
    model: Model, item_factors: Float[Array, "items factors"], of_clients: Float[Array, ""]
) -> Float[Array, ""]:
    """Compute J from the sum of the clients' shares, by adding lambda |Y|^2.

    Args:
        model: gives lambda; with an exponent or biases, the result of `for_items`.
        item_factors: Y.
        of_clients: sum over the users of `loss`.
    """
    return of_clients + jnp.sum(model.regularization * without_constant(item_factors, model.biases) ** 2)


@in_one_precision
def item_gradient(
    model: Model,
    item_factors: Float[Array, "items factors"],
    user_factor: Float[Array, "factors"],
    observations: Observations,
) -> Float[Array, "items factors"]:
    """Compute one user's share of dJ/dY: -2 c_i (p_i - x.y_i) x for every item, without lambda.

    Summed over all users, with 2 lambda Y added once, this is the full gradient. The column of a constant
    coordinate is to be left out.

    Args:
        model: gives w0; its weighting is in `observations` already.
        item_factors: Y.
        user_factor: x; if it minimizes J, the result is also the gradient of min_X J (envelope theorem).
        observations: the user's weighted history.

    References:
        arXiv:1901.09888, the item gradient f(i, j) of Algorithm 1, times -2.
    """
    residual = all_residuals(model, item_factors, user_factor, observations)
    return -2.0 * residual[:, None] * user_factor[None, :]
