"""Parts that several towers share."""
