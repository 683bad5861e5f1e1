"""Pixels to regions: Faster R-CNN with class and attribute heads on detectron2."""
