"""Reading, augmenting and batching images; downloading, preparing, verifying and generating datasets."""
