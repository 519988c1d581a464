"""The Open Images subset of MLPerf: downloading, preparing in COCO form, verifying, and generating its like."""
