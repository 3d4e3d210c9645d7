"""An estimator class around the federation, with the interface of the package `implicit`."""

from fcf_jax.recommender.estimator import FederatedCollaborativeFilter

__all__ = ["FederatedCollaborativeFilter"]
