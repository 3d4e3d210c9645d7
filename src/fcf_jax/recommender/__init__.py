"""The federation as one object, in the habits of the library `implicit`."""

from fcf_jax.recommender.model import FederatedCollaborativeFilter

__all__ = ["FederatedCollaborativeFilter"]
