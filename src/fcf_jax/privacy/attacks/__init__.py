"""Attacks of a curious server on what it receives, and estimates of how well they succeed.

public = knowledge.Public(item_factors, regularization=1.0, alpha=4.0)
uploads = knowledge.uploads_of(...)                     # what clients send
single_upload.attack_dense(public, uploads.dense)       # histories from plain uploads
summed_uploads.link_parallel(residuals, is_touched)     # histories from their sum
noised_uploads.scores_by_expectation(noised, expected)  # items from uploads with noise
figures.auc_across_users(scores, is_held)             # with confidence intervals
"""
