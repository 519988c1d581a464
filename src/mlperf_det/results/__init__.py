"""From run folders to runs, scores, verdicts and reports. Imports no torch."""
