"""Codes of large signals: which samples decide a part of a code, and codes stored by their non-zeros."""
