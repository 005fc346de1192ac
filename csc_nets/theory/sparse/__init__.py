"""Sparse codes of a dictionary: coherence, local sparsity, the theorems about pursuits, and signals to test them on."""
