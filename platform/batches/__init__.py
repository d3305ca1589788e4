"""Batch generation: validate, shard, take results segment by segment, assemble."""
