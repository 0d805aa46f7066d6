"""Other people's files: which bitstreams and weights are public, and how they are fetched and verified."""
