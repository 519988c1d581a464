"""The one training loop and its parts: distribution, precision, optimisers, schedules, checkpoints."""
