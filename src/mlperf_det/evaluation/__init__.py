"""From detections to COCO average precision."""
