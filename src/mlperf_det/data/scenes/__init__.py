"""Generated datasets: scenes drawn from a seed, the same bytes everywhere."""
