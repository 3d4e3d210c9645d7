"""Records of what clients with features send, and of what the server keeps of it."""

from typing import NamedTuple

from jaxtyping import Array, Float


class FeatureUploads(NamedTuple):
    """What clients with features send for A, in factored form: lambda_u f f^T and lambda_u f x^T.

    Attributes:
        features: f of each client.
        regularization: lambda_u.
    """

    features: Float[Array, "clients features"]
    regularization: Float[Array, "clients"]


class FeatureSums(NamedTuple):
    r"""Sums for A over clients, each times its a_u.

    Attributes:
        gram: \sum_u a_u lambda_u f_u f_u^T.
        cross: \sum_u a_u lambda_u f_u x_u^T.
    """

    gram: Float[Array, "features features"]
    cross: Float[Array, "features factors"]


class FeatureState(NamedTuple):
    """What the server keeps of the users' features.

    Attributes:
        user_map: A, the map from features to prior means.
        sums: averages over rounds of the scaled sums.
    """

    user_map: Float[Array, "features factors"]
    sums: FeatureSums
