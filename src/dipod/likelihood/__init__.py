"""What stands in for log π(a|o): evidence, bounds, and exact likelihoods where they can be had."""
