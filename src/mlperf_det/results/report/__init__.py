"""The report: one HTML page, its charts and the files beside it."""
