"""Recipes: every choice of one training run, typed and checked before a GPU hour is spent. Imports no torch."""
