"""Reference values with provenance: read, proposed, edited and checked."""
