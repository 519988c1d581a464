"""Networks, anchors, box coding, matching and losses: tensors in, tensors out."""
